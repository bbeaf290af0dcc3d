"""How `status` is printed: for a person a table with times as one says them, for a pipe every value as it is.

The shape that is printed is that of `status.status_json`, which a daemon elsewhere may have told.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rotator.cli.progress import in_units
from rotator.cli.streams import is_terminal, print_json, print_line, print_row
from rotator.core.plan import Reason, State
from rotator.runtime.redact import printable
from rotator.telemetry.status import NOT_WELL, rank

STYLES = {
    State.OK: "green",
    State.DUE: "yellow",
    State.FAILING: "bold red",
    State.FOREIGN: "bold red",
    State.MISSING: "bold red",
    State.UNKNOWN: "magenta",
}


EVENTS_SHOWN = 20
"""Of a daemon's events, on a terminal."""

NARROW = 120
"""Columns of a terminal below which a key's id is shown by its beginning."""

NARROWEST = 100
"""Columns below which there is no room for why a key is rotated next: the target's name comes first."""

_BEGINNING = 10


def print_status(shown: dict[str, Any], *, as_json: bool) -> None:
    """For `status`: from the store and from a daemon alike, in the one shape of `status.status_json`.

    Worst first. In a pipe one line a target, its cells separated by tabs, with all values as they are. On a terminal
    a table with times as a person says them, errors below it, and what a daemon knows beside its targets.
    """
    if as_json:
        print_json(shown)
        return
    now = _moment(shown["at"]) or datetime.now(UTC)
    targets = sorted(shown["targets"], key=partial(_rank, now))
    if not is_terminal():
        for target in targets:
            print_row(_cells(target))
        return
    _print_table(targets, now)
    lines = list(_troubles(targets))
    if "daemon" in shown:
        lines += ["", *_daemon_lines(shown["daemon"], now), *_event_lines(shown["events"], now)]
    for line in lines:
        print_line(printable(line))


def _troubles(targets: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What is wrong with those that are not well, on lines that have the whole width."""
    found = [(target, target["last_error"] or target["reason"]) for target in targets]
    told = [(t, why) for t, why in found if t["last_error"] or (why and State(t["state"]) in NOT_WELL)]
    if told:
        yield ""
    for target, why in told:
        yield f"{target['name']}: {target['state']}: {why}"


def _rank(now: datetime, target: dict[str, Any]) -> tuple[object, str]:
    expires_at, next_rotation_at = _moment(target["expires_at"]), _moment(target["next_rotation_at"])
    return rank(State(target["state"]), expires_at, next_rotation_at, now), target["name"]


def _cells(target: dict[str, Any]) -> Iterator[str]:
    for name in ("name", "state", "key_id", "issued_at", "expires_at", "next_rotation_at"):
        yield target[name] or "-"
    yield ", ".join(f"{key['key_id']} {_until(key)}" for key in target["superseded"]) or "-"
    yield target["last_error"] or target["reason"] or "-"


def _until(key: dict[str, Any]) -> str:
    return f"until {key['until']}" if key["until"] else "never expires"


def _print_table(targets: Sequence[dict[str, Any]], now: datetime) -> None:
    console = Console()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("target", overflow="fold")
    for column in ("key", "age", "expires", "next rotation", "superseded", "state"):
        table.add_column(column, no_wrap=True)
    for target in targets:
        # A key id is what the path's record says, and a daemon elsewhere may be anything.
        key_id, state = printable(target["key_id"] or "-"), State(target["state"])
        if console.width < NARROW and len(key_id) > _BEGINNING + 1:
            key_id = f"{key_id[:_BEGINNING]}…"
        issued = _moment(target["issued_at"])
        ends = [key["until"] for key in target["superseded"]]
        last = "never" if None in ends else _when(max(ends, default=None), now)
        cells = (
            printable(target["name"]),
            key_id,
            in_units((now - issued).total_seconds(), 1) if issued else "-",
            _when(target["expires_at"], now),
            _next_rotation(target, now, told_why=console.width >= NARROWEST),
            f"{len(ends)}, last {last}" if ends else "-",
            state.value,
        )
        # As texts: what stands in brackets is no markup.
        table.add_row(*map(Text, cells), style=STYLES[state] if state is not State.OK else None)
    console.print(table)


def _moment(text: str | None) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _when(text: str | None, now: datetime) -> str:
    """ "in 3 h", "4 min ago"; what is no time stays as it is."""
    moment = _moment(text)
    if moment is None:
        return printable(text or "-")
    seconds = (moment - now).total_seconds()
    return f"in {in_units(seconds, 1)}" if seconds >= 0 else f"{in_units(-seconds, 1)} ago"


def _next_rotation(target: dict[str, Any], now: datetime, *, told_why: bool) -> str:
    """When, and why. One that is due before its time, as after a change, is rotated now.

    What is wrong with a target that is not well stands below the table.
    """
    state, moment = State(target["state"]), _moment(target["next_rotation_at"])
    when, why = _when(target["next_rotation_at"], now), None
    if state is State.OK and moment is not None:
        why = Reason.EXPIRING if target["reason"] == Reason.FRESH else target["reason"]
    elif state is State.DUE:
        why = target["reason"]
        when = when if moment is not None and moment <= now else "now"
    return f"{when} ({printable(why)})" if why and told_why else when


def _daemon_lines(daemon: dict[str, Any], now: datetime) -> Iterator[str]:
    replica, holder = daemon["replica"], daemon["holder"]
    acts = "acts" if daemon["leads"] else f"stands by; {holder or 'nobody'} leads"
    yield f"rotator {daemon['version']}: {replica or 'this replica'} {acts}"
    for provider, used in daemon["budgets_used"].items():
        yield f"provider {provider}: {used:.0%} of a minute's requests used"
    for store, end in daemon["logins_end"].items():
        when = f"{_when(end, now)}, unless it is renewed" if end else "at no known time"
        yield f"store {store}: the login ends {when}"
    for upstream, error in daemon["down"].items():
        yield f"{upstream} is down: {error}"
    for store in daemon.get("logins_failing", ()):
        yield f"store {store}: logging in fails"
    if refused := daemon.get("configuration_refused"):
        yield f"a changed configuration was refused, and the old one is in use: {refused}"
    if not daemon["clock_trusted"]:
        yield "the clocks differ: keys are renewed, none is ended"


def _event_lines(events: list[dict[str, Any]], now: datetime) -> Iterator[str]:
    """The latest, the newest last: there the prompt comes. Errors and advice are sentences on lines of their own."""
    if events:
        yield ""
    for event in reversed(events[:EVENTS_SHOWN]):
        fields = {name: value for name, value in event["fields"].items() if value != "" and name != "key_name"}
        sentences = [str(fields.pop(name)) for name in ("error", "message", "advice") if name in fields]
        reason = f" ({fields.pop('reason')})" if "reason" in fields else ""
        rest = "".join(f", {name.replace('_', ' ')} {value}" for name, value in fields.items())
        level = "" if event["level"] == "info" else f"{event['level']}: "
        target = f"{event['target']}: " if event["target"] else ""
        yield f"{_when(event['at'], now):>10}  {level}{target}{event['event'].replace('_', ' ')}{reason}{rest}"
        for sentence in sentences:
            yield f"{'':12}{sentence}"
