"""`events`: what happened to the keys of the targets, from the version histories and the providers' lists."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rotator.app.passes import in_threads
from rotator.cli.command import Common
from rotator.cli.context import Session
from rotator.cli.exit_status import status_of_all, usage_error
from rotator.cli.streams import is_terminal, print_error, print_json, print_line, print_row
from rotator.config.values import parse_duration
from rotator.core.errors import ProviderError, RotatorError, StoreError
from rotator.core.past_events import KeyList, PastEvent, is_cut_off, past_events
from rotator.core.target import Target
from rotator.core.times import timestamp
from rotator.protocol.observer import list_keys
from rotator.runtime.redact import printable, scrub_lines, scrub_name

Missing = list[tuple[str, str]]
"""What the events lack: where, and why."""

COLUMNS = ("time", "target", "event", "version", "key", "reason")


def show_events(common: Common, targets: Sequence[str] | None, since: str, *, as_json: bool) -> None:
    """Print what happened to the chosen targets since then, oldest first."""
    try:
        duration = parse_duration(since)
    except ValueError as error:
        usage_error(f"--since: {error}")
    with Session(common, "warning") as session:
        session.leave_half_of_the_budgets()
        chosen = session.chosen(targets, not targets)
        begin = session.clock.now() - duration
        missing: Missing = []
        lists = _lists(session, chosen, missing)
        events, errors = _read(session, chosen, lists, begin, missing)
        if as_json:
            shown = [_json(event) for event in events]
            lacking = [{"where": where, "message": scrub_lines(why)} for where, why in missing]
            owner, at = session.configuration.owner, timestamp(session.clock.now())
            print_json({"owner": owner, "at": at, "since": timestamp(begin), "events": shown, "missing": lacking})
        else:
            _print(events, begin)
            for where, why in missing:
                print_error(f"{where}: {why}")
        raise typer.Exit(status_of_all(errors, changed=False))


def _lists(session: Session, chosen: Sequence[Target], missing: Missing) -> Mapping[str, KeyList]:
    """Read each provider's list once. The lists come first: a key that a version holds later is in neither."""
    lists: dict[str, KeyList] = {}
    asked: set[str] = set()
    for observer, group in session.installation.groups(chosen):
        provider = group[0].provider
        if provider in asked:
            continue
        asked.add(provider)
        known_by = session.clock.now() - session.configuration.sweep.min_age
        try:
            lists[provider] = KeyList.of(list_keys(observer.ports), known_by)
        except ProviderError as error:
            missing.append((f"provider {provider}", f"removed and orphaned keys are not shown: {error.message}"))
    return lists


def _read(
    session: Session, chosen: Sequence[Target], lists: Mapping[str, KeyList], begin: datetime, missing: Missing
) -> tuple[list[PastEvent], list[RotatorError | None]]:
    """Return the events of all targets, and each target's error."""

    def one(target: Target) -> tuple[Target, Sequence[PastEvent], datetime | None, StoreError | None]:
        try:
            reading = session.installation.observer(target).observe(target).reading
        except StoreError as error:
            return target, (), None, error
        found = past_events(reading, lists.get(target.provider), session.clock.now())
        kept = [event for event in found if event.is_since(begin)]
        return target, kept, reading.history.versions[0].created_at if is_cut_off(reading, begin) else None, None

    events: list[PastEvent] = []
    errors: dict[str, RotatorError | None] = {}
    with session.progress("looking", len(chosen)) as advance:
        for target, found, cut_off, error in in_threads(
            session.configuration.daemon.workers, chosen, one, session.stop_waiting
        ):
            events += found
            errors[target.name] = error
            if error is not None:
                missing.append((target.name, f"not read: {error.message}"))
            if cut_off is not None:
                kept_from = timestamp(cut_off)
                missing.append((target.name, f"the store keeps no version from before {kept_from}"))
            advance()
    missing.sort()
    events.sort(key=lambda event: event.at)
    return events, list(errors.values())


# --- what is printed -------------------------------------------------------------------------------------------------


def _print(events: Sequence[PastEvent], begin: datetime) -> None:
    if not is_terminal():
        for event in events:
            print_row(_cells(event))
        return
    if not events:
        print_line(f"no events since {timestamp(begin)}")
        return
    table = Table(*COLUMNS, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for event in events:
        table.add_row(*(Text(printable(cell)) for cell in _cells(event)))  # texts: brackets are no markup
    Console().print(table)


def _cells(event: PastEvent) -> Iterator[str]:
    yield f"{'' if event.is_exact else '>= '}{timestamp(event.at)}"
    yield event.target
    yield event.what.value
    yield str(event.version or "-")
    yield scrub_name(event.key_id) if event.key_id else "-"
    yield scrub_lines(event.reason) or "-"


def _json(event: PastEvent) -> dict[str, Any]:
    return {
        "at": timestamp(event.at),
        "exact": event.is_exact,
        "target": event.target,
        "event": event.what.value,
        "version": event.version,
        "key_id": scrub_name(event.key_id) if event.key_id else None,
        "reason": scrub_lines(event.reason) or None,
    }
