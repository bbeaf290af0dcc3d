"""What the chart gives prometheus-operator and Grafana, judged by the real custom resources, Helm and promtool."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.chart import CHART, ROOT, Manifest, accepted, helm, rendered
from support.kube import KubeServer
from support.prometheus import NO_PROMETHEUS, RULES, is_installed, promtool

MINIMAL, EVERYTHING = (ROOT / f"tests/data/values-{name}.yaml" for name in ("minimal", "everything"))
SERVICE_MONITOR = ROOT / "tests/data/values-service-monitor.yaml"
DASHBOARD = ROOT / "deploy/grafana/rotator.json"
ALERTS = ("podMonitor.enabled=true", "prometheusRule.enabled=true")
SCHEMA = json.loads((CHART / "values.schema.json").read_text())["properties"]["prometheusRule"]["properties"]
Rules = dict[str, dict[str, Any]]

needs_promtool = pytest.mark.skipif(not is_installed(), reason=NO_PROMETHEUS)


def made(cluster: KubeServer, values: Path, *settings: str, namespace: str | None = None) -> dict[str, Manifest]:
    """Return the chart's monitoring as the API server understands it, by kind."""
    namespace = namespace or cluster.namespace()
    texts = [
        text for text in rendered(namespace, values, *settings) if re.search(r"^kind: \w+(Monitor|Rule)$", text, re.M)
    ]
    found = [accepted(cluster, namespace, text) for text in texts]
    return {manifest["kind"]: manifest for manifest in found}


def rules_of(rule: Manifest) -> Rules:
    """Return the rules of a PrometheusRule by their alerts."""
    return {one["alert"]: one for group in rule["spec"]["groups"] for one in group["rules"]}


@pytest.fixture(scope="module")
def shipped(cluster: KubeServer) -> Rules:
    """Return the rules of deploy/prometheus as JSON, by their alerts; the API server reads the YAML."""
    text = "".join(f"  {line}" for line in RULES.read_text().splitlines(keepends=True))
    head = "apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: shipped\nspec:\n"
    namespace = cluster.namespace()
    path = f"/apis/monitoring.coreos.com/v1/namespaces/{namespace}/prometheusrules"
    answer = cluster.request("POST", path, yaml=head + text, params={"dryRun": "All", "fieldValidation": "Strict"})
    return rules_of(answer.raise_for_status().json())


def checked(rule: Manifest, folder: Path, name: str = "rules.json") -> Path:
    """Write the groups of a PrometheusRule, which promtool accepts, to a file."""
    file = folder / name
    file.write_text(json.dumps({"groups": rule["spec"]["groups"]}))  # which YAML is, too
    result = promtool("check", "rules", file.name, folder=folder)
    assert result.returncode == 0, result.stdout + result.stderr
    return file


# --- the alerts ------------------------------------------------------------------------------------------------------


def test_the_chart_has_the_rules_and_the_dashboard_of_the_project() -> None:
    # If this fails: cp deploy/prometheus/rules.yaml deploy/helm/rotator/files/
    #                cp deploy/grafana/rotator.json deploy/helm/rotator/files/dashboard.json
    assert (CHART / "files/rules.yaml").read_text() == RULES.read_text()
    assert (CHART / "files/dashboard.json").read_text() == DASHBOARD.read_text()


@needs_promtool
def test_a_release_loads_every_alert_for_its_own_series(cluster: KubeServer, shipped: Rules, tmp_path: Path) -> None:
    namespace = cluster.namespace()
    manifest = made(cluster, MINIMAL, *ALERTS, namespace=namespace)["PrometheusRule"]
    checked(manifest, tmp_path)
    rules = rules_of(manifest)
    assert list(rules) == list(shipped)
    own = f'{{job="rotator", namespace="{namespace}"'
    for name, rule in rules.items():
        series = re.findall(r"rotator_[a-z_]+(.?\S*)", rule["expr"])
        assert series, name
        assert [one for one in series if not one.startswith(own.split()[0])] == [], name
        bare = rule["expr"].replace(f"{own}}}", "").replace(f"{own}, ", "{")
        assert {**rule, "expr": bare, "annotations": {}} == {**shipped[name], "annotations": {}}
        summary = shipped[name]["annotations"]["summary"].replace("{{ end -}} ", "{{ end }}")
        assert rule["annotations"] == {**shipped[name]["annotations"], "summary": summary}


SERIES = """
      - {{series: 'rotator_leader{0}', values: '{1}'}}
      - {{series: 'rotator_targets{0}', values: '{1}'}}
      - {{series: 'rotator_clock_skew_seconds{0}', values: '-20+0x99'}}"""
FIRING = 'count by (alertname, namespace) (ALERTS{alertstate="firing"})'
GONE = 'count by (alertname, namespace) (ALERTS{alertstate="firing", alertname="RotatorGone"})'


@needs_promtool
def test_each_alert_of_two_releases_fires_once_and_an_uninstalled_one_leaves_none(
    cluster: KubeServer, tmp_path: Path
) -> None:
    """The third release is gone with its rules, an hour after its last sample; the second died and has them still."""
    for name, settings in {"first": ["prometheusRule.thresholds.RotatorClockSkew=15"], "second": []}.items():
        manifest = made(cluster, MINIMAL, *ALERTS, *settings, namespace=cluster.namespace(name))["PrometheusRule"]
        checked(manifest, tmp_path, f"{name}.json")
    test = "rule_files: [first.json, second.json]\nevaluation_interval: 5m\ntests:\n  - interval: 1m\n    input_series:"
    for name, values in {"first": "1+0x1600", "second": "1+0x20 _x1600", "third": "1+0x20 _x1600"}.items():
        labels = f'{{namespace="{name}", job="rotator", instance="1", state="missing", upstream="v"}}'
        test += SERIES.format(labels, values)
    test += "\n    promql_expr_test:\n"
    dead = [("RotatorGone", "second")]
    fires = [("RotatorTargetWithoutKey", "first"), ("RotatorTargetWithoutKey", "second"), ("RotatorClockSkew", "first")]
    for at, asked, expected in (("15m", FIRING, fires), ("80m", GONE, dead), ("26h", GONE, dead)):
        samples = [{"labels": f'{{alertname="{one}", namespace="{where}"}}', "value": 1} for one, where in expected]
        test += f"      - {json.dumps({'eval_time': at, 'expr': asked, 'exp_samples': samples})}\n"
    (tmp_path / "test.yaml").write_text(test)
    result = promtool("test", "rules", "test.yaml", folder=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


@needs_promtool
def test_the_values_change_labels_and_groups(cluster: KubeServer, shipped: Rules, tmp_path: Path) -> None:
    settings = [
        "prometheusRule.installationLabels={k8s_cluster,job}",
        "prometheusRule.selector.k8s_cluster=rotator_eu's",
        "prometheusRule.extraLabels.team=platform",
        "prometheusRule.groups.caps=false",
        "prometheusRule.groups.notifications=false",
    ]
    rule = made(cluster, MINIMAL, "prometheusRule.enabled=true", *settings)["PrometheusRule"]
    checked(rule, tmp_path)
    groups = [group["name"] for group in rule["spec"]["groups"]]
    assert groups == ["rotator-survival", "rotator-replicas", "rotator-upstreams", "rotator-tidying"]
    rules = rules_of(rule)
    assert "namespace" not in "".join(one["expr"] for one in rules.values())
    no_leader = rules["RotatorNoLeader"]
    assert no_leader["expr"] == 'max by (k8s_cluster, job) (rotator_leader{k8s_cluster="rotator_eu\'s"}) == 0'
    summary = "{{ with $labels.k8s_cluster }}{{ . }}: {{ end }}No replica of {{ $labels.job }} is the leader"
    assert no_leader["annotations"]["summary"] == summary
    for name, one in rules.items():
        assert one["labels"] == {**shipped[name]["labels"], "team": "platform"}


@needs_promtool
def test_each_threshold_changes_its_alert_alone(cluster: KubeServer, shipped: Rules, tmp_path: Path) -> None:
    namespace, thresholds = cluster.namespace(), SCHEMA["thresholds"]["properties"]
    usual = rules_of(made(cluster, MINIMAL, *ALERTS, namespace=namespace)["PrometheusRule"])
    values = {
        "image": {"repository": "registry.test/rotator"},
        "owner": "prod-eu",
        "vault": {"address": "https://vault.test"},
        "prometheusRule": {"thresholds": {name: 0.125 if "maximum" in of else 77 for name, of in thresholds.items()}},
    }
    (file := tmp_path / "values.json").write_text(json.dumps(values))
    rule = made(cluster, file, *ALERTS, namespace=namespace)["PrometheusRule"]
    checked(rule, tmp_path)
    changed = {name: one["expr"] for name, one in rules_of(rule).items() if one != usual[name]}
    assert changed.keys() == thresholds.keys()
    for name, expression in changed.items():
        [default] = re.findall(r"Default: ([0-9.]+)\.$", thresholds[name]["description"])
        new = "0.125" if "maximum" in thresholds[name] else "77"
        assert usual[name]["expr"] == re.sub(rf"([<>]=?) {new}\b", rf"\1 {default}", expression), name
        assert new in expression


def test_the_groups_of_the_values_are_those_of_the_rules() -> None:
    names = re.findall(r"(?m)^  - name: rotator-(\w+)$", RULES.read_text())
    assert list(SCHEMA["groups"]["properties"]) == names
    [values] = re.findall(r"(?m)^  groups: \{(.*)\}$", (CHART / "values.yaml").read_text())
    assert values == ", ".join(f"{name}: true" for name in names)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["prometheusRule.groups.cap=false"], "additional properties 'cap' not allowed"),
        (["prometheusRule.thresholds.RotatorGone=5"], "additional properties 'RotatorGone' not allowed"),
        (["prometheusRule.thresholds.RotatorKeyNearlySpent=80"], "maximum: got 80, want 1"),
        (["prometheusRule.extraLabels.severity=page"], "at '/prometheusRule/extraLabels/severity'"),
        (["prometheusRule.extraLabels.a-b=x"], "at '/prometheusRule/extraLabels': additional properties 'a-b' not"),
        (["prometheusRule.selector.a-b=x"], "at '/prometheusRule/selector': additional properties 'a-b' not allowed"),
        (["prometheusRule.installationLabels={cluster,namespace}"], "no items match contains schema"),
        (["prometheusRule.runbookUrl=docs.test"], "at '/prometheusRule/runbookUrl'"),
        (["prometheusRule.enabled=true"], "prometheusRule.selector: neither podMonitor nor serviceMonitor is enabled"),
        (["podMonitor.enabled=true", "serviceMonitor.enabled=true"], "Prometheus would scrape each pod twice"),
        (["serviceMonitor.enabled=true", "service.enabled=false"], "serviceMonitor.enabled needs service.enabled"),
    ],
)
def test_values_that_cannot_work_are_refused(settings: list[str], message: str) -> None:
    changed = [f"--set={setting}" for setting in settings]
    assert message in helm("template", "rotator", CHART, f"--values={MINIMAL}", *changed, status=1)


# --- the monitors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("values", "kind"), [(EVERYTHING, "PodMonitor"), (SERVICE_MONITOR, "ServiceMonitor")])
def test_a_monitor_selects_the_release_names_its_job_and_relabels(cluster: KubeServer, values: Path, kind: str) -> None:
    namespace = cluster.namespace()
    monitors = made(cluster, values, namespace=namespace)
    assert [name for name in monitors if name.endswith("Monitor")] == [kind]
    monitor, spec = monitors[kind], monitors[kind]["spec"]
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    [endpoint] = spec["endpoints" if kind == "ServiceMonitor" else "podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["path"], endpoint["interval"]) == ("metrics", "/metrics", "15s")
    assert endpoint["relabelings"] == [{"action": "replace", "targetLabel": "cluster", "replacement": "eu"}]
    assert endpoint["metricRelabelings"] == [{"action": "drop", "sourceLabels": ["__name__"], "regex": "process_.*"}]
    [text] = [
        text
        for text in rendered(namespace, values)
        if f"\nkind: {'Service' if kind == 'ServiceMonitor' else 'Deployment'}\n" in text
    ]
    selected = accepted(cluster, namespace, text)
    labels: Mapping[str, str] = selected["metadata"]["labels"]
    if kind == "PodMonitor":
        labels = selected["spec"]["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"].items() <= labels.items()
    assert labels[spec["jobLabel"]] == "rotator", "the alerts' `job`"


# --- the dashboard ---------------------------------------------------------------------------------------------------


def test_the_dashboard_comes_as_a_config_map_for_the_sidecar(cluster: KubeServer) -> None:
    namespace = cluster.namespace()
    [text] = [text for text in rendered(namespace, EVERYTHING) if "-dashboard\n" in text]
    config_map = accepted(cluster, namespace, text)
    assert (
        config_map["metadata"]["labels"].items() >= {"grafana_dashboard": "1", "example.org/team": "platform"}.items()
    )
    assert config_map["metadata"]["annotations"] == {"grafana_folder": "Keys"}
    assert config_map["data"].keys() == {"rotator.json"}
    assert json.loads(config_map["data"]["rotator.json"]) == json.loads(DASHBOARD.read_text())
    assert not [text for text in rendered(namespace, MINIMAL) if "-dashboard\n" in text]
