"""Writes the tables of options, events, metrics and commands into docs/, so that each is described once: in the code.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`. After a change of config.schema.json,
tools/event_catalogue.py, telemetry/metrics.py, a command's help or the README's promises run
`python -m tools.docs_tables`. With --check it writes nothing, and exits with 1 if a table is stale.
"""

import json
import re
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import typer
from prometheus_client.parser import text_string_to_metric_families
from typer.core import TyperGroup
from typer.testing import CliRunner

from rotator.cli.main import app
from rotator.core.caps import CapState
from rotator.core.plan import Plan
from rotator.core.reasons import Reason, State
from rotator.core.renewal import Renewal
from rotator.core.superseded import Superseded
from rotator.core.target import Cap, Target
from rotator.core.use import KeyUse, UseSeries
from rotator.core.versions import Record
from rotator.telemetry.metrics import Metrics
from rotator.telemetry.status import DaemonInfo, DaemonStatus, TargetStatus
from tools.event_catalogue import EVENTS

DAY = timedelta(days=1)
ROOT = Path(__file__).parent.parent
TABLE = re.compile(r"(?ms)^<!-- table: (?P<name>[^>]+) -->\n.*?^<!-- end -->$")


def table(head: str, rows: Iterable[str]) -> str:
    """Return a Markdown table; `head` and `rows` have " | " between their cells."""
    return "\n".join(f"| {row} |" for row in (head, " | ".join("---" for _ in head.split(" | ")), *rows))


# --- options ---------------------------------------------------------------------------------------------------------


def options(schema: Mapping[str, Any], names: str) -> str:
    """Return the table of the options of one definition, or of "NAME but OTHER": without those that OTHER has."""
    name, _, other = names.partition(" but ")
    shown = schema["$defs"][name] if name else schema
    left_out = schema["$defs"][other]["properties"] if other else {}
    rows = [
        f"`{option}` | {_default(values, option in shown.get('required', ()))} | {_description(schema, values)}"
        for option, values in shown["properties"].items()
        if option not in left_out and (name or not _is_table(values))
    ]
    return table("Option | Default | Description", rows)


def _is_table(values: Mapping[str, Any]) -> bool:
    return "$ref" in values or "patternProperties" in values


def _default(values: Mapping[str, Any], required: bool) -> str:
    if "const" in values:
        return f'required: `"{values["const"]}"`'
    if required:
        return "required"
    return _toml(values["default"]) if values.get("default") not in (None, "") else ""


def _toml(value: Any) -> str:
    match value:
        case bool():
            return f"`{str(value).lower()}`"
        case dict():
            inner = ", ".join(f"{name} = {_toml(one).strip('`')}" for name, one in value.items())
            return f"`{{ {inner} }}`" if inner else "`{}`"
        case list():
            return f"`[{', '.join(_toml(one).strip('`') for one in value)}]`"
        case str():
            return f'`"{value}"`'
        case _:
            return f"`{value}`"


def _description(schema: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    reference = values.get("$ref", "").rpartition("/")[2]
    return str(values.get("description") or schema["$defs"][reference]["description"]).replace("|", "\\|")


def paging(schema: Mapping[str, Any]) -> str:
    """Return the table of the values of `paging`, each with its options."""
    rows = []
    for by, reference in schema["$defs"]["ListSettings"]["properties"]["paging"]["discriminator"]["mapping"].items():
        shown = schema["$defs"][reference.rpartition("/")[2]]
        options = []
        for option, values in shown["properties"].items():
            default = f" ({values['default']})" if values.get("default") else ""
            options.append(f"`{option}`{default}: {values['description']}")
        rows.append(f'`"{by}"` | {shown["description"]} | {" ".join(options[1:])}')
    return table("`by` | Meaning | Its options", rows)


# --- events ----------------------------------------------------------------------------------------------------------


def events() -> str:
    """Return the table of all events."""
    rows = [described.markdown(event).strip("| ") for event, described in EVENTS.items()]
    return table("Event | Level | Fields | Meaning", rows)


# --- metrics ---------------------------------------------------------------------------------------------------------


def metrics() -> str:
    """Return the table of all metrics, in the order in which they are exported."""
    rows = []
    for family in text_string_to_metric_families(_exported()):
        labels = {label: None for sample in family.samples for label in sample.labels if label != "le"}
        name = f"{family.name}_total" if family.type == "counter" else family.name
        rows.append(
            f"`{name}` | {family.type} | {', '.join(f'`{label}`' for label in labels)} | {family.documentation}"
        )
    return table("Metric | Type | Labels | Meaning", rows)


def _exported() -> str:
    """Return what a daemon with one target, one provider and one store exports."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    target = Target("a", "a", "p", "s", "f", {}, {}, DAY, DAY / 3, DAY / 6, timedelta(0))
    record = Record("owner", "a", "id", "name", start, start + DAY, "params", "key")
    use = CapState(Cap("c", 1.0), 1.0, 0.0, 0.0, start)
    looks = UseSeries((KeyUse(as_of=start),), used_at=start)
    superseded = (Superseded(record, (), start - DAY, start, use=looks),)
    renewal = Renewal(start + DAY / 2)
    plan = Plan(State.OK, Reason.FRESH, current=record, renewal=renewal, use=use, superseded=superseded)
    exported = Metrics("1")
    info = DaemonInfo(
        "1",
        "",
        leads=True,
        holder="",
        budgets={"p": 0.5},
        logins={"s": start},
        skews={"s": timedelta(0)},
        log_lines_dropped={"audit": 1, "other": 2},
    )
    status = DaemonStatus("owner", start, (TargetStatus(target, plan, None),), (), info)
    exported.watch(lambda: status, each=True)
    exported.provider_meter("p")("list", "200", 0.1)
    exported.store_meter("s")("read", "200", 0.1)
    exported.unknown_served_keys("p", 3)
    exported.reports_use("p", shown=True)
    exported.keep_only({"p"}, {"s"})
    exported.notifications.start({"external_secrets"})
    return exported.render().decode()


# --- commands and promises -------------------------------------------------------------------------------------------


def commands() -> str:
    """Return the table of all commands, each with a link to its help."""
    group = cast("TyperGroup", typer.main.get_command(app))
    rows = [f"[`{name}`](#{name}) | {command.get_short_help_str(200)}" for name, command in group.commands.items()]
    return table("Command | What it does", rows)


def command_help() -> str:
    """Return the help of each command, under its name."""
    runner = CliRunner()
    shown = []
    for name in cast("TyperGroup", typer.main.get_command(app)).commands:
        ended = runner.invoke(app, [name, "--help"], prog_name="rotator", terminal_width=80)
        shown.append(f"## {name}\n\n```text\n{ended.output.strip()}\n```")
    return "\n\n".join(shown)


def promises() -> str:
    """Return the promises as the README has them."""
    [made] = re.findall(r"(?ms)^1\. .*?\n(?=\n)", (ROOT / "README.md").read_text())
    return str(made).strip()


def written(text: str, schema: Mapping[str, Any]) -> str:
    """Return the page with every table of today."""

    def replaced(found: re.Match[str]) -> str:
        match found["name"].partition(" ")[::2]:
            case "events", _:
                made = events()
            case "metrics", _:
                made = metrics()
            case "commands", _:
                made = commands()
            case "help", _:
                made = command_help()
            case "promises", _:
                made = promises()
            case "paging", _:
                made = paging(schema)
            case "options", names:
                made = options(schema, names)
            case name, _:
                raise ValueError(f"no table is named {name}")
        return f"<!-- table: {found['name']} -->\n{made}\n<!-- end -->"

    return TABLE.sub(replaced, text)


def stale_pages() -> dict[Path, str]:
    """Return the text that each page should have, of the pages whose tables are not current."""
    schema = json.loads((ROOT / "config.schema.json").read_text())
    pages = {page: page.read_text() for page in sorted((ROOT / "docs").glob("*.md"))}
    return {page: made for page, text in pages.items() if (made := written(text, schema)) != text}


def main() -> int:
    """Write all tables, or with --check name the pages whose tables are stale."""
    stale = stale_pages()
    if "--check" in sys.argv:
        for page in stale:
            print(f"{page}: a table is stale, run python -m tools.docs_tables")
        return 1 if stale else 0
    for page, text in stale.items():
        page.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
