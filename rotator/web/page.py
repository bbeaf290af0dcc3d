"""Makes the status page from the daemon's status.

This module decides what the page shows, and `page.html` how. The page has no script and no outside asset, and changes
nothing. Errors, key ids and the query come from others: the environment of the template redacts and escapes them.
"""

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from rotator.app.passes import adoption_advice
from rotator.core.events import Event
from rotator.core.plan import Plan
from rotator.core.reasons import NOT_EARLY, Reason, State
from rotator.core.superseded import Superseded
from rotator.core.target import Target
from rotator.core.times import timestamp
from rotator.runtime.redact import scrub
from rotator.telemetry.status import UNHEALTHY, WORST_FIRST, DaemonStatus, RecordedEvent, TargetStatus, rank
from rotator.telemetry.wording import count, distance, in_units, in_words, percent, used_in_words

ROWS = 100
"""Targets on one page."""

LONGEST_TEXT = 100
"""Characters of a filter; the rest is ignored."""

REFRESH = 30
"""Seconds after which a browser reloads the page."""

_STATES = {state.value: state for state in State}


@dataclass(frozen=True, slots=True)
class View:
    """The part that a request wants: a page of the targets in this state, with this text in name, path or key id."""

    text: str = ""
    state: State | None = None
    page: int = 1
    refresh: bool = True

    @property
    def query(self) -> str:
        """Return the query of this view's address."""
        fields = {
            "q": self.text,
            "state": self.state.value if self.state else "",
            "page": str(self.page) if self.page > 1 else "",
            "refresh": "" if self.refresh else "off",
        }
        return "?" + urlencode({name: value for name, value in fields.items() if value})

    def address(self, **changes: Any) -> Markup:
        """Return the address of this view with these changes, escaped for a link."""
        return escape(replace(self, **changes).query)


def read_query(query: str) -> View:
    """Return the view of an address's query. Invalid values are ignored."""
    try:
        fields = dict(parse_qsl(query, max_num_fields=10))
    except ValueError:
        fields = {}
    page = fields.get("page", "")
    return View(
        text=" ".join(fields.get("q", "").split())[:LONGEST_TEXT],
        state=_STATES.get(fields.get("state", "")),
        page=int(page) if re.fullmatch("[1-9][0-9]{0,5}", page) else 1,
        refresh=fields.get("refresh") != "off",
    )


def render(known: DaemonStatus, view: View) -> str:
    """Return the whole page."""
    states = Counter(status.state for status in known.targets)
    problems = list(_problems(known))
    chosen = _chosen(known.targets, view, known.at)
    pages = max(1, -(-len(chosen) // ROWS))
    page = min(view.page, pages)
    begin = (page - 1) * ROWS
    shown = chosen[begin : begin + ROWS]
    return _TEMPLATE.render(
        known=known,
        around=known.daemon,
        view=view,
        title=_title(sum(states[state] for state in UNHEALTHY), len(problems)),
        problems=problems,
        states=[(state, states[state]) for state in WORST_FIRST if states[state]],
        first=min(
            (status for status in known.targets if status.expires_at),
            key=lambda status: (status.expires_at, status.target.name),
            default=None,
        ),
        rows=[Row(status, _life(status, known.at), _next(status, known.at)) for status in shown],
        caption=_caption(begin, len(shown), len(chosen), len(known.targets) if view.text or view.state else None),
        shows_use=any(status.plan and status.plan.use for status in shown),
        page=page,
        pages=pages,
        events=list(_events(known, view.text.lower())),
    )


# --- the whole -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem of more than one target. The sentence is `subject`, in bold, and `rest`."""

    subject: str
    rest: str
    advice: str = ""


def _title(unhealthy: int, problems: int) -> str:
    bad = ([f"{unhealthy} unhealthy"] if unhealthy else []) + ([count(problems, "problem")] if problems else [])
    return ", ".join(bad) or "all healthy"


def _problems(known: DaemonStatus) -> Iterator[Problem]:
    around = known.daemon
    for upstream, error in around.down.items():
        yield Problem(upstream, f" is down: {error.message}", error.advice)
    for store in around.logins_failing:
        if f"store {store}" not in around.down:
            yield Problem(f"The login to {store}", " fails. The events show why.")
    if around.refused:
        yield Problem("A changed configuration was refused.", f" The previous one stays in use: {around.refused}")
    if near := sum(status.is_late(known.at) for status in known.targets):
        yield Problem(
            f"Rotation is late for {count(near, 'target')}",
            ": more than half of the time between the renewal and the key's expiry is over.",
        )
    if not around.clock_trusted:
        yield Problem(
            "This machine's clock differs from the upstreams'.", " Keys are renewed, but none is shortened or deleted."
        )
    if not around.leads and not around.holder:
        yield Problem("This replica knows of no leader", ", and rotates nothing.")


# --- the targets -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """A target in the table."""

    status: TargetStatus
    life: "Life | None"
    next: "Next"


@dataclass(frozen=True, slots=True)
class Zone:
    """A part of a bar. Numbers are hundredths of the bar."""

    name: Markup
    begin: float
    width: float


@dataclass(frozen=True, slots=True)
class Life:
    """A served key's lifetime as a bar: elapsed, left until the renewal, the old key's grace after it, and reserve."""

    zones: Sequence[Zone]
    point: float  # where the renewal's line begins
    label: Markup  # the bar for a screen reader
    left: Markup
    end: datetime


@dataclass(frozen=True, slots=True)
class Next:
    """A target's steps that are due now, or its first step that will be due."""

    steps: Sequence[str]
    at: datetime | None = None
    advice: str = ""


def _chosen(statuses: Iterable[TargetStatus], view: View, now: datetime) -> list[TargetStatus]:
    """Return the targets of the view, worst first."""
    text = view.text.lower()
    ranked = [
        (
            rank(state, status.expires_at, status.plan.next_rotation_at if status.plan else None, now),
            status.target.name,
            status,
        )
        for status in statuses
        if (state := status.state) is view.state or view.state is None
        if not text or text in _searched(status)
    ]
    ranked.sort(key=lambda found: found[:2])
    return [found[2] for found in ranked]


def _searched(status: TargetStatus) -> str:
    keys: list[str] = []
    if status.plan is not None:
        keys = [key.key_id for key in status.plan.superseded]
        keys += [status.plan.current.key_id] if status.plan.current else []
    return "\n".join((status.target.name, status.target.path, *keys)).lower()


def _caption(begin: int, shown: int, chosen: int, out_of: int | None) -> str:
    which = f"{begin + 1:,} to {begin + shown:,} of " if chosen > ROWS else ""
    filtered = "" if out_of is None else f", out of {out_of:,}"
    return f"{which}{chosen:,} target{'' if chosen == 1 else 's'}{filtered}, worst first"


def _life(status: TargetStatus, now: datetime) -> Life | None:
    plan = status.plan
    if plan is None or plan.current is None:
        return None
    record = plan.current
    life = max(record.expires_at - record.issued_at, timedelta(seconds=1))

    def place(moment: datetime) -> float:
        return round(100 * min(1.0, max(0.0, (moment - record.issued_at) / life)), 1)

    left = record.expires_at - now
    renewal = plan.next_rotation_at or record.expires_at
    at, due, graced = place(now), place(renewal), place(renewal + status.target.grace_period)
    zones = (
        ("gone", 0.0, at),
        ("ahead", at, due),
        ("grace", max(at, due), graced),
        ("reserve", max(at, graced), 100.0),
    )
    over = left <= timedelta(0)
    ended = "was to be replaced" if plan.is_endless else "expired"
    words = f"{ended} {in_units(-left)} ago" if over else f"{in_units(left)} of {in_units(life)} left"
    return Life(
        zones=[Zone(escape(name), begin, round(end - begin, 1)) for name, begin, end in zones if end > begin],
        point=max(0.0, due - 0.4),
        label=escape(f"{words}; renewal at {due:.0f}% of the lifetime, grace of the old key until {graced:.0f}%"),
        left=escape(f"{words}," if over else f"{words}, until"),
        end=record.expires_at,
    )


def _next(status: TargetStatus, now: datetime) -> Next:
    plan = status.plan
    if plan is None:
        return Next(["read the path again" if status.error else "read the path"])
    now_due = [in_words(action) for action in plan.actions]
    if status.reason is Reason.REQUESTED and plan.state is State.OK:  # no pass has started it yet
        now_due.insert(0, f"rotate ({Reason.REQUESTED})")
    if now_due:
        return Next([f"now: {words}" for words in now_due])
    if plan.state is State.FOREIGN:
        return Next([f"left alone ({plan.reason})"], advice=adoption_advice(status.target, plan.reason))
    return _coming(status, plan, now)


def _coming(status: TargetStatus, plan: Plan, now: datetime) -> Next:
    """Return the first step that will be due without a change."""
    coming = [
        (key.until, f"remove {key.key_id} ({Reason.GRACE_OVER})")
        for key in plan.superseded
        if key.other_name is None and key.until > now
    ]
    if plan.next_rotation_at is not None:
        why = Reason.EXPIRING if plan.reason in (Reason.FRESH, Reason.SPENT, *NOT_EARLY) else plan.reason
        coming.append((plan.next_rotation_at, f"rotate ({', '.join(filter(None, (why, status.window)))})"))
    if not coming:
        return Next(["nothing"])
    at, step = min(coming)
    return Next([step], at)


# --- the events ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ShownEvent:
    """An event in the list. `is_old`: show the day too."""

    at: datetime
    is_old: bool
    level: str
    what: str
    target: str
    error: str
    advice: str
    rest: str


def _events(known: DaemonStatus, text: str) -> Iterator[ShownEvent]:
    """Yield the events with this text in target, path or key."""
    paths = {status.target.name: status.target.path for status in known.targets} if text else {}
    for recorded in known.events:
        if not text or text in _searched_of(recorded.event, paths):
            yield _event(recorded, known.at)


def _searched_of(event: Event, paths: Mapping[str, str]) -> str:
    """Return what a filter searches. The name of a key connects the events of that key."""
    fields = (str(event.fields.get(name, "")) for name in ("path", "key_id", "key_name"))
    return "\n".join((event.target, paths.get(event.target, ""), *fields)).lower()


def _event(recorded: RecordedEvent, now: datetime) -> ShownEvent:
    event, fields = recorded.event, recorded.fields
    return ShownEvent(
        at=recorded.at,
        is_old=now - recorded.at >= timedelta(hours=12),
        level=event.level,
        what=event.what,
        target=event.target,
        error=str(fields.pop("error", "")),
        advice=str(fields.pop("advice", "")),
        rest=" ".join(f"{name}={value}" for name, value in fields.items() if value != ""),
    )


# --- the template ----------------------------------------------------------------------------------------------------


def _shown(value: object) -> object:
    """Return a text redacted and printable. Markup, numbers and the enumerations of `core` need neither."""
    return scrub(value) if type(value) is str else value


def _parts(text: str) -> list[str]:
    """Redact a text and split it at the commands in backticks. Every second part is a command."""
    return re.split("`([^`]+)`", scrub(text))


def _used_since(key: Superseded, target: Target) -> str:
    units = {cap.option: cap.unit for cap in target.caps.caps}
    return used_in_words((use.used, units.get(use.cap, ""), use.cap) for use in key.used_since)


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "parts": _parts,
        "percent": lambda ratio: escape(percent(ratio)),
        "duration": lambda duration: escape(in_units(duration)),
        "count": count,
        "distance": lambda moment, now: escape(distance(moment, now)),
        "stamp": lambda moment: escape(timestamp(moment)),
        "clock": lambda moment: escape(f"{moment.astimezone(UTC):%H:%M:%S}"),
        "day": lambda moment: escape(f"{moment.astimezone(UTC).day} {moment.astimezone(UTC):%b}"),
    }
    made.globals |= {
        "style": _STYLE,
        "refresh_seconds": REFRESH,
        "longest_text": LONGEST_TEXT,
        "all_states": WORST_FIRST,
        "not_early": NOT_EARLY,
        "used_since": _used_since,
    }
    return made


_STYLE = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
_TEMPLATE = _environment().get_template("page.html")
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
"""The content security policy of the page: this style and nothing else."""
