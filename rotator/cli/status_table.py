"""Prints the status of the targets: a table on a terminal, otherwise lines of cells separated by tabs."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rotator.cli.streams import is_terminal, print_json, print_line, print_row
from rotator.core.reasons import NOT_EARLY, Reason, State
from rotator.core.times import timestamp
from rotator.runtime.redact import printable
from rotator.telemetry.status import UNHEALTHY, rank
from rotator.telemetry.status_json import (
    DaemonJson,
    DaemonStatusJson,
    EventJson,
    StatusJson,
    SupersededJson,
    TargetJson,
)
from rotator.telemetry.wording import count, distance, in_units, percent, use_in_words, used_in_words

STYLES = {
    State.DUE: "yellow",
    State.FAILING: "bold red",
    State.FOREIGN: "bold red",
    State.MISSING: "bold red",
    State.SPENT: "bold red",
    State.UNKNOWN: "magenta",
}

EVENTS_SHOWN = 20
"""How many of a daemon's events a terminal shows."""

FOR_DATES, FOR_REASONS, FOR_KEY_IDS = 100, 120, 140
"""How wide a terminal must be to also show: a key's age, when the last superseded key expires; the reason of the next
rotation; complete key ids, and when a daemon last read the path."""

_ID_START = 10


def print_status(shown: StatusJson, *, as_json: bool) -> None:
    """Print the targets, worst first; on a terminal also errors and what only a daemon knows."""
    if as_json:
        print_json(shown.to_json())
        return
    targets = _worst_first(shown)
    if not is_terminal():
        for target in targets:
            print_row(_cells(target))
        return
    console = Console()
    console.print(status_table(shown, console.width))
    lines = [*_problem_lines(targets), *_spending_lines(targets), *_stale_lines(shown), *_waiting_lines(targets)]
    if isinstance(shown, DaemonStatusJson):
        lines += ["", *_daemon_lines(shown.daemon, shown.at), *_look_lines(targets, shown.at)]
        lines += _event_lines(shown.events, shown.at)
    for line in lines:
        print_line(printable(line))


def _worst_first(shown: StatusJson) -> Sequence[TargetJson]:
    def key(target: TargetJson) -> tuple[object, str]:
        return rank(target.state, target.expires_at, target.next_rotation_at, shown.at), target.name

    return sorted(shown.targets, key=key)


def _problem_lines(targets: Iterable[TargetJson]) -> Iterator[str]:
    """Yield the problem of each target, on a line of its own."""
    problems = [
        f"{target.name}: {target.state}: {problem}"
        for target in targets
        if (problem := target.last_error or (target.state in UNHEALTHY and target.reason))
    ]
    if problems:
        yield ""
    yield from problems


def _spending_lines(targets: Iterable[TargetJson]) -> Iterator[str]:
    """Yield each key that is spent, or will be before it is replaced."""
    spending = [
        f"{target.name}: {use_in_words(use.ratio, use.cap, use.spent_at)}"
        for target in targets
        if (use := target.use) and use.spent_at
        if not target.next_rotation_at or use.spent_at < target.next_rotation_at
    ]
    if spending:
        yield ""
    yield from spending


def _use(target: TargetJson) -> str:
    """Return the share of a cap that the served key has used; "unknown" if the provider does not show it."""
    if target.use is None:
        return "unknown" if target.caps and target.key_id else "-"
    return percent(target.use.ratio)


def _cells(target: TargetJson) -> Iterator[str]:
    for text in (target.name, target.state, target.key_id):
        yield text or "-"
    for moment in (target.issued_at, target.expires_at, target.next_rotation_at):
        yield timestamp(moment) if moment else "-"
    yield ", ".join(" ".join(filter(None, (key.key_id, _until(key), _used(key)))) for key in target.superseded) or "-"
    yield use_in_words(use.ratio, use.cap, use.spent_at) if (use := target.use) else _use(target)
    yield target.last_error or ", ".join(filter(None, (target.reason, target.window))) or "-"


def _until(key: SupersededJson) -> str:
    return f"until {timestamp(key.until)}" if key.until else "never expires"


def _used(key: SupersededJson, now: datetime | None = None) -> str:
    """Return when a superseded key was last used, and what since it was replaced; "" if that is not known."""
    last = (
        ""
        if key.last_used_at is None
        else f"last used {distance(key.last_used_at, now) if now else timestamp(key.last_used_at)}"
    )
    used = used_in_words((one.used, one.unit, one.cap) for one in key.used_since)
    words = ", ".join(filter(None, (last, used and f"{used} since it was replaced")))
    return f"({words})" if words else ""


def _stale_lines(shown: StatusJson) -> Iterator[str]:
    """Yield when each superseded key was last used, where the provider shows it."""
    lines = [
        f"{target.name}: superseded {key.key_id} {_until(key)} {used}"
        for target in shown.targets
        for key in target.superseded
        if (used := _used(key, shown.at))
    ]
    if lines:
        yield ""
    yield from lines


def status_table(shown: StatusJson, width: int) -> Table:
    """Return the targets as a table for a terminal of this many columns, worst first."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("target", overflow="fold")
    age = ["age"] if width >= FOR_DATES else []
    use = ["use"] if any(target.use or target.caps for target in shown.targets) else []
    looked = ["looked at"] if width >= FOR_KEY_IDS and any(target.looked_at for target in shown.targets) else []
    for column in ("key", *age, "expires", "next rotation", "superseded", *use, *looked, "state"):
        table.add_column(column, no_wrap=True)
    for target in _worst_first(shown):
        key_id = printable(target.key_id or "-")  # anything may be in a record, or in the answer of a daemon
        if width < FOR_KEY_IDS and len(key_id) > _ID_START + 1:
            key_id = f"{key_id[:_ID_START]}…"
        cells = (
            printable(target.name),
            key_id,
            *([in_units(shown.at - target.issued_at) if target.issued_at else "-"] if age else []),
            _when(target.expires_at, shown.at),
            _next_rotation(target, shown.at, with_reason=width >= FOR_REASONS),
            _superseded(target, shown.at, with_end=width >= FOR_DATES),
            *([_use(target)] if use else []),
            *([_ago(target.looked_at, shown.at)] if looked else []),
            target.state,
        )
        table.add_row(*map(Text, cells), style=STYLES.get(target.state))  # texts: brackets are no markup
    return table


def _superseded(target: TargetJson, now: datetime, *, with_end: bool) -> str:
    ends = [key.until for key in target.superseded]
    if not ends or not with_end:
        return str(len(ends) or "-")
    last = "never" if None in ends else _when(max(end for end in ends if end), now)
    return f"{len(ends)}, last {last}"


def _when(moment: datetime | None, now: datetime) -> str:
    return distance(moment, now) if moment else "-"


def _ago(moment: datetime | None, now: datetime) -> str:
    return f"{in_units(now - moment)} ago" if moment else "-"


def _next_rotation(target: TargetJson, now: datetime, *, with_reason: bool) -> str:
    """Return when the next rotation is due, and why. A target that is due before its time is rotated now."""
    when, reason = _when(target.next_rotation_at, now), None
    if target.state is State.OK and target.next_rotation_at is not None:
        reason = Reason.EXPIRING if target.reason == Reason.FRESH else target.reason
    elif target.state is State.DUE:
        reason = target.reason
        is_early = target.next_rotation_at is None or target.next_rotation_at > now
        when = "now" if is_early and reason not in NOT_EARLY else when
    return f"{when} ({printable(reason)})" if reason and with_reason else when


_HELD_BY = {Reason.WINDOW: "window", Reason.PAUSED: "pause"}
"""Why a due key waits, and how its line begins."""


def _waiting_lines(targets: Sequence[TargetJson]) -> Iterator[str]:
    """Yield how many due keys wait until when, and the next of the other rotations, in the zones of the windows."""
    waiting = Counter(
        (_HELD_BY[Reason(target.reason)], target.window or timestamp(target.next_rotation_at))
        for target in targets
        if target.reason in _HELD_BY and target.next_rotation_at
    )
    for (why, until), number in sorted(waiting.items()):
        yield f"{why}: {count(number, 'due key')} wait{'s' if number == 1 else ''} until {until}"
    coming = [
        (target.next_rotation_at, target.name, target.window)
        for target in targets
        if target.reason not in _HELD_BY and target.window and target.next_rotation_at
    ]
    if coming:
        _, name, window = min(coming)
        yield f"window: the next rotation is {name} at {window}"


def _daemon_lines(daemon: DaemonJson, now: datetime) -> Iterator[str]:
    role = "is the leader" if daemon.leads else f"stands by; the leader is {daemon.holder or 'unknown'}"
    yield f"rotator {daemon.version}: {daemon.replica or 'this replica'} {role}"
    if not daemon.leads:
        yield "a standby makes no provider requests, so it shows neither use nor spent keys: ask the leader"
    for provider, used in daemon.budgets_used.items():
        yield f"provider {provider}: {used:.0%} of the rate limit used"
    for store, end in daemon.logins_end.items():
        yield f"store {store}: the login {f'expires {_when(end, now)}, unless renewed' if end else 'does not expire'}"
    for upstream, error in daemon.down.items():
        yield f"{upstream} is down: {error}"
    for store in daemon.logins_failing:
        yield f"store {store}: login failed"
    if daemon.configuration_refused:
        yield f"a changed configuration was refused, and the old one is in use: {daemon.configuration_refused}"
    if not daemon.clock_trusted:
        yield "the clocks differ: keys are renewed, but none is shortened or deleted"


def _look_lines(targets: Iterable[TargetJson], now: datetime) -> Iterator[str]:
    """Yield how old the oldest of the daemon's looks at the paths is."""
    looks = [target.looked_at for target in targets]
    known = [look for look in looks if look is not None]
    if known:
        unread = f"; {count(len(looks) - len(known), 'path')} not read yet" if len(known) < len(looks) else ""
        yield f"the paths were read within the last {in_units(now - min(known))}{unread}"


def _event_lines(events: Sequence[EventJson], now: datetime) -> Iterator[str]:
    """Yield the latest events, the newest last, next to the prompt. Errors and advice have lines of their own."""
    if events:
        yield ""
    for event in reversed(events[:EVENTS_SHOWN]):
        fields = {name: value for name, value in event.fields.items() if value != "" and name != "key_name"}
        sentences = [str(fields.pop(name)) for name in ("error", "message", "advice") if name in fields]
        reason = f" ({fields.pop('reason')})" if "reason" in fields else ""
        rest = "".join(f", {name.replace('_', ' ')} {value}" for name, value in fields.items())
        level = "" if event.level == "info" else f"{event.level}: "
        target = f"{event.target}: " if event.target else ""
        yield f"{_when(event.at, now):>16}  {level}{target}{event.event.replace('_', ' ')}{reason}{rest}"
        for sentence in sentences:
            yield f"{'':18}{sentence}"
