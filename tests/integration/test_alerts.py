"""The rules and the dashboard query existing series; each alert is tested and explained."""

import json
import re
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.known import known, used, used_since
from support.prometheus import (
    DASHBOARD,
    NO_PROMETHEUS,
    RULES,
    dashboard_panels,
    dashboard_variables,
    is_installed,
    promtool,
)
from support.world import HOUR, START, make_target

from rotator.core.orphans import Outcome
from rotator.core.plan import Plan
from rotator.core.reasons import Reason, State
from rotator.core.renewal import Renewal
from rotator.core.superseded import Superseded
from rotator.core.versions import Record
from rotator.telemetry.metrics import DROPPED, FAILURE, LOST, ROTATION_REASONS, SUCCESS, Metrics
from rotator.telemetry.status import TargetStatus

PROJECT = Path(__file__).parents[2]
RULES_TEST = RULES.with_name("rules_test.yaml")
RUNBOOK = PROJECT / "docs" / "runbook.md"
SITE = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["urls"]["Documentation"]
INSTALLATION = "cluster, namespace, job"
SERIES = re.compile(r"(rotator_[a-z_]+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'([a-z_]+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
VALUES = {
    "state": {state.value for state in State},
    "outcome": {SUCCESS, FAILURE, LOST, DROPPED, *(outcome.value for outcome in Outcome)},
    "reason": {reason.value for reason in ROTATION_REASONS},
}
needs_promtool = pytest.mark.skipif(not is_installed(), reason=NO_PROMETHEUS)


def alerts() -> dict[str, str]:
    """Return each alert's part of the file, by name."""
    parts = re.split(r"(?m)^      - alert: ", RULES.read_text())[1:]
    return {part.split("\n", 1)[0].strip(): part for part in parts}


def expressions() -> list[str]:
    """Return all queries to Prometheus; of the rules, without the texts."""
    asked = [target["expr"] for panel in dashboard_panels() for target in panel.get("targets", [])]
    asked += dashboard_variables().values()
    asked += [part.partition("expr:")[2].partition("labels:")[0] for part in alerts().values()]
    return asked


def all_metrics() -> dict[str, set[str]]:
    """Return the labels of each possible series, by the name that a query uses."""
    metrics = Metrics("1")
    record = Record("prod-eu", "a", "id", "name", START, START + 24 * HOUR, "p", "f")
    plan = Plan(
        State.OK,
        Reason.FRESH,
        current=record,
        renewal=Renewal(START + 16 * HOUR),
        use=used(50.0, START, reached_at=START),
        superseded=(Superseded(record, (), START, START + HOUR, use=used_since(START, 1, START + HOUR / 2)),),
    )
    all_of_it = known(
        TargetStatus(make_target("a"), plan, None),
        at=START,
        budgets={"respan": 0.5},
        logins={"vault": START},
        skews={"vault": timedelta(0)},
        log_lines_dropped={"audit": 1, "other": 2},
    )
    metrics.watch(lambda: all_of_it, each=True)
    metrics.provider_meter("respan")("list", "200", 0.1)
    metrics.unknown_served_keys("respan", 3)
    metrics.reports_use("respan", shown=True)
    metrics.store_meter("vault")("read", "200", 0.1)
    metrics.keep_only({"respan"}, {"vault"})
    metrics.notifications.start(["webhooks.chat"])
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.mark.parametrize("expression", expressions())
def test_every_query_names_existing_series_and_labels(expression: str) -> None:
    known = all_metrics()
    series = SERIES.findall(expression)
    assert series
    for name, matchers in series:
        assert name in known, name
        for label, operator, value in MATCHER.findall(matchers):
            assert label in known[name] | {*INSTALLATION.split(", ")}, f"{name} has no label {label}"
            if label in VALUES and operator in ("=", "=~") and not name.endswith("_requests_total"):
                assert set(value.split("|")) <= VALUES[label], value


def test_every_metric_is_documented_with_its_labels() -> None:
    rows = re.findall(r"(?m)^\| `(\w+)` \| \w+ \| ([^|]*)\|", (PROJECT / "docs" / "metrics.md").read_text())
    documented = {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}
    there: dict[str, set[str]] = {}
    for series, labels in all_metrics().items():
        name = re.sub("_(bucket|sum|count)$", "", series)
        there.setdefault(name, set()).update(labels - {"le"})
    assert documented == there


@pytest.mark.parametrize("name", alerts())
def test_each_alert_has_a_meaning_and_a_link_to_the_runbook(name: str) -> None:
    part, runbook = alerts()[name], RUNBOOK.read_text()
    assert re.search(r"severity: (critical|warning|info)\n", part)
    assert "summary:" in part
    assert "application" in part.partition("description:")[2].lower()
    assert f"runbook_url: {SITE}runbook/#{name.lower()}\n" in part
    section = re.search(rf"(?ms)^### {name}\n(.+?)(?=^##|\Z)", runbook)
    assert section, f"docs/runbook.md has no part for {name}"
    for word in ("**Means.**", "**Look.**", "**Do.**"):
        assert word in section[1]
    assert f'alertname="{name}"' in RULES_TEST.read_text(), f"{name} is not tried in {RULES_TEST.name}"


@pytest.mark.parametrize("name", alerts())
def test_each_alert_keeps_installations_apart_and_names_its_own(name: str) -> None:
    """The chart replaces these texts by its values."""
    part = alerts()[name]
    expression = part.partition("expr:")[2].partition("labels:")[0]
    assert {labels[: len(INSTALLATION)] for labels in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression)} <= {
        INSTALLATION
    }
    assert not re.search(r"\b(without|ignoring|group_left|group_right|SELECTOR)\b", expression)
    assert re.findall("{{.*{{ end -}}(?=\n)", part) == [
        "{{ with $labels.cluster }}{{ . }}: {{ end }}{{ with $labels.namespace }}{{ . }}: {{ end -}}"
    ]
    assert "summary: >-\n            {{ with $labels.cluster }}" in part


def test_the_runbook_has_no_part_for_an_unknown_alert() -> None:
    assert re.findall(r"(?m)^### (Rotator\w+)$", RUNBOOK.read_text()) == list(alerts())


def test_the_dashboard_needs_nothing_but_grafana() -> None:
    panels = dashboard_panels()
    assert {panel["type"] for panel in panels} <= {"row", "stat", "bargauge", "timeseries", "state-timeline", "table"}
    asked = [target for panel in panels for target in panel.get("targets", [])]
    assert {json.dumps(target["datasource"]) for target in asked} == {
        json.dumps({"type": "prometheus", "uid": "${datasource}"})
    }
    assert next(panel["title"] for panel in panels if panel["type"] == "row").startswith("Survival")
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_the_first_screen_shows_survival_and_every_other_row_is_collapsed() -> None:
    shown = json.loads(DASHBOARD.read_text())["panels"]
    first, *rows = [panel for panel in shown if panel["type"] == "row"]
    assert (first["collapsed"], first["panels"]) == (False, [])
    assert max(panel["gridPos"]["y"] for panel in shown if panel["type"] != "row") < rows[0]["gridPos"]["y"] <= 25
    for row in rows:
        assert row["collapsed"], row["title"]
        assert row["panels"], row["title"]
    for panels in (shown, *([row, *row["panels"]] for row in rows)):  # as Grafana shows them, with one row open
        places = [panel["gridPos"] for panel in panels]
        assert all(place["x"] + place["w"] <= 24 for place in places)
        taken = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
        assert len(taken) == len(set(taken)), "two panels in one place"


SELECTION = 'cluster=~"$cluster", namespace=~"$namespace", job=~"$job"'


@pytest.mark.parametrize("panel", dashboard_panels(), ids=lambda panel: panel["title"])
def test_every_series_of_the_dashboard_is_of_the_selected_installations(panel: dict[str, Any]) -> None:
    for target in panel.get("targets", []):
        asked = re.findall(r"rotator_[a-z_]+(?:\{([^}]*))?", target["expr"])
        assert asked
        for matchers in asked:
            assert matchers.startswith(SELECTION), target["expr"]
        joined = re.findall(r"\bon \(([^)]*)\)", target["expr"])
        assert {*joined} <= {f"{INSTALLATION}, instance"}


def test_each_variable_of_the_dashboard_offers_what_those_before_it_leave() -> None:
    variables = json.loads(DASHBOARD.read_text())["templating"]["list"]
    assert [one["name"] for one in variables] == ["datasource", "cluster", "namespace", "job"]
    assert dashboard_variables() == {
        "cluster": "label_values(rotator_build_info, cluster)",
        "namespace": 'label_values(rotator_build_info{cluster=~"$cluster"}, namespace)',
        "job": 'label_values(rotator_build_info{cluster=~"$cluster", namespace=~"$namespace"}, job)',
    }
    for one in variables[1:]:
        assert one["query"] == {"query": one["definition"], "refId": one["name"]}
        assert (one["allValue"], one["current"]["value"]) == (".*", "$__all"), "a label may be missing"


@needs_promtool
def test_the_first_screen_is_right_for_several_installations(tmp_path: Path) -> None:
    """Of three, one has no leader and one has two; what the standby replicas know counts where none leads."""
    rows: list[tuple[str, str, dict[str, float]]] = [
        ("eu", "rotator_leader", {"a": 0, "b": 0}),
        ("us", "rotator_leader", {"a": 1, "b": 0}),
        ("ap", "rotator_leader", {"a": 1, "b": 1}),
        ("eu", "rotator_earliest_key_expiry_timestamp_seconds", {"a": 960, "b": 900}),
        ("us", "rotator_earliest_key_expiry_timestamp_seconds", {"a": 9000, "b": 1}),
        ("eu", "rotator_min_renewal_margin_ratio", {"a": 0.5, "b": 0.25}),
        ("us", "rotator_min_renewal_margin_ratio", {"a": 2, "b": 0.125}),
        ("eu", "rotator_earliest_rotation_timestamp_seconds", {"a": 300, "b": 240}),
        ("us", "rotator_earliest_rotation_timestamp_seconds", {"a": 8000, "b": 1}),
    ]
    series = [
        {
            "series": f'{name}{{cluster="{cluster}", namespace="n", job="j", instance="{one}"}}',
            "values": f"{value}+0x20",
        }
        for cluster, name, values in rows
        for one, value in values.items()
    ]

    def asked(title: str, selected: str) -> str:
        [target] = [target for panel in dashboard_panels() if panel["title"] == title for target in panel["targets"]]
        text: str = target["expr"]
        return text.replace("$cluster", selected).replace("$namespace", ".*").replace("$job", ".*")

    expected = [
        ("Without one leader", ".*", 2),
        ("Without one leader", "us", 0),
        ("First key expires in", ".*", 300),
        ("First key expires in", "us", 8400),
        ("Least margin left", ".*", 0.25),
        ("Overdue by", ".*", 360),
    ]
    tests = [
        {"eval_time": "10m", "expr": asked(title, selected), "exp_samples": [{"labels": "{}", "value": value}]}
        for title, selected, value in expected
    ]
    file = tmp_path / "test.json"  # which YAML is, too
    file.write_text(json.dumps({"tests": [{"interval": "1m", "input_series": series, "promql_expr_test": tests}]}))
    result = promtool("test", "rules", file.name, folder=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


@needs_promtool
@pytest.mark.parametrize("check", [("check", RULES.name), ("test", RULES_TEST.name)])
def test_promtool_finds_nothing_wrong(check: tuple[str, str]) -> None:
    result = promtool(check[0], "rules", check[1], folder=RULES.parent)
    assert result.returncode == 0, result.stdout + result.stderr
