"""The status page: from what the daemon knows at one moment to one HTML text.

Pure, and without a script, an outside asset or a button that does anything but look. Whatever comes from elsewhere
(errors, key ids, what stands in the query) is searched for secrets, made printable and escaped by `_text`.
"""

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from html import escape
from typing import Final
from urllib.parse import parse_qsl, urlencode

from rotator.app.passes import adoption_advice
from rotator.core.events import Event, Level
from rotator.core.plan import Plan, Reason, State
from rotator.core.times import timestamp
from rotator.runtime.redact import scrub
from rotator.telemetry.status import NOT_WELL, WORST_FIRST, DaemonInfo, DaemonStatus, TargetStatus, Told, rank
from rotator.telemetry.wording import count, in_words

ROWS = 100
"""Targets on one page."""

LONGEST_TEXT = 100
"""Characters of a filter that count."""

REFRESH = 30
"""Seconds after which a browser asks again, unless it was told not to."""

_COMMAND = re.compile("`([^`]+)`")
_STATES = {state.value: state for state in State}


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody wants to see: a page of the targets with this text in name, path or key id, in this state."""

    text: str = ""
    state: State | None = None
    page: int = 1
    refresh: bool = True

    @property
    def query(self) -> str:
        """As it stands in an address."""
        fields = {
            "q": self.text,
            "state": self.state.value if self.state else "",
            "page": str(self.page) if self.page > 1 else "",
            "refresh": "" if self.refresh else "off",
        }
        return "?" + urlencode({name: value for name, value in fields.items() if value})


def read_query(query: str) -> Asked:
    """What an address asks for. What cannot be understood is as if it were not there."""
    try:
        fields = dict(parse_qsl(query, max_num_fields=10))
    except ValueError:
        fields = {}
    page = fields.get("page", "")
    return Asked(
        text=" ".join(fields.get("q", "").split())[:LONGEST_TEXT],
        state=_STATES.get(fields.get("state", "")),
        page=int(page) if re.fullmatch("[1-9][0-9]{0,5}", page) else 1,
        refresh=fields.get("refresh") != "off",
    )


def render(known: DaemonStatus, asked: Asked) -> str:
    """The whole page."""
    states = Counter(status.state for status in known.targets)
    not_well = sum(states[state] for state in NOT_WELL)
    troubles = _troubles(known)
    bad = ([f"{not_well} not well"] if not_well else []) + ([count(len(troubles), "trouble")] if troubles else [])
    title = ", ".join(bad) or "all well"
    again = f'<meta http-equiv="refresh" content="{REFRESH}">' if asked.refresh else ""
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark">{again}'
        f"<title>{_text(title)} · {_text(known.owner)} · rotator</title><style>{_STYLE}</style></head><body>"
        f"<header>{_heading(known, asked)}</header>"
        f"<main>{_of_all(known, troubles)}{_summary(known, asked, states)}{_targets(known, asked)}"
        f"{_events(known, asked)}</main>"
        f"<footer>rotator {_text(known.surroundings.version)} · "
        '<a href="status.json">the same as JSON</a></footer></body></html>\n'
    )


# --- the whole -------------------------------------------------------------------------------------------------------


def _heading(known: DaemonStatus, asked: Asked) -> str:
    if asked.refresh:
        again = f'asks again every {REFRESH} s, <a href="{_link(replace(asked, refresh=False))}">stop that</a>'
    else:
        again = f'stands still, <a href="{_link(replace(asked, refresh=True))}">refresh by itself</a>'
    return (
        f"<h1>rotator <span>{_text(known.owner)}</span></h1>"
        f'<p>As of <time datetime="{timestamp(known.at)}">{known.at.astimezone(UTC):%Y-%m-%d %H:%M:%S}</time> UTC, '
        f'as are all times; this page {again}.</p><nav aria-label="On this page">'
        '<a href="#targets">Targets</a> <a href="#events">Events</a></nav>'
    )


def _troubles(known: DaemonStatus) -> list[str]:
    """What is wrong for more than one target."""
    around = known.surroundings
    found = [
        f"<b>{_text(upstream)}</b> is down: {_sentences(error.message, error.advice)}"
        for upstream, error in around.down.items()
    ]
    failing = [store for store in around.logins_failing if f"store {store}" not in around.down]
    found += [f"<b>The login to {_text(store)}</b> fails: the events say why." for store in failing]
    if around.refused:
        found.append(f"<b>A changed configuration was refused</b>, and the old one is in use: {_text(around.refused)}")
    if near := sum(status.is_near_its_end(known.at) for status in known.targets):
        keys = "1 served key is" if near == 1 else f"{near:,} served keys are"
        found.append(f"<b>{keys} near the end</b>: more than half of the time between due and dead is over.")
    if not around.clock_trusted:
        found.append("<b>This machine's clock</b> and the others' differ: keys are renewed, none is ended by it.")
    if not around.leads and not around.holder:
        found.append("<b>No replica leads</b>, as far as this one knows: nothing is rotated.")
    return found


def _of_all(known: DaemonStatus, troubles: Sequence[str]) -> str:
    """The troubles, and whether this replica only looks."""
    around, shown = known.surroundings, ""
    if troubles:
        heading = '<h2 id="troubles-heading">Troubles</h2>'
        items = "".join(f"<li>{item}</li>" for item in troubles)
        listed = f'{heading}<ul role="list">{items}</ul>'
        shown = f'<section class="troubles" aria-labelledby="troubles-heading">{listed}</section>'
    if around.holder and not around.leads:
        shown += (
            f'<p class="notice"><b>This replica stands by</b> and only looks: {_text(around.holder)} acts, '
            "and knows the errors and events of what it does.</p>"
        )
    return shown


def _summary(known: DaemonStatus, asked: Asked, states: Counter[State]) -> str:
    around = known.surroundings
    by_state = " ".join(
        f'<a href="{_link(Asked(state=state, refresh=asked.refresh))}" class="state {state.value}">'
        f"{states[state]:,} {state.value}</a>"
        for state in WORST_FIRST
        if states[state]
    )
    served = [(status.expires_at, status.target.name) for status in known.targets if status.expires_at]
    first = "no key is served"
    if served:
        end, name = min(served)
        first = f"{_target_link(name, asked)} {_moment(end, known.at)}"
    budgets = "<br>".join(
        f'{_text(name)} <meter min="0" max="1" high="0.9" optimum="0" value="{used:.3f}" '
        f'aria-label="budget of {_text(name)}"></meter> {used:.0%} used'
        for name, used in around.budgets.items()
    )
    logins = "<br>".join(
        f"{_text(name)} {_moment(end, known.at) if end else 'no end known'}" for name, end in around.logins.items()
    )
    tiles = {
        "Targets": by_state or "none",
        "First key to end": first,
        "Leader and replicas": _replicas(around),
        "Provider budget of a minute": budgets,
        "Store login, unless renewed": logins,
    }
    shown = "".join(f"<div><dt>{name}</dt><dd>{what}</dd></div>" for name, what in tiles.items() if what)
    heading = '<h2 id="summary-heading" class="unseen">Summary</h2>'
    return f'<section aria-labelledby="summary-heading">{heading}<dl class="tiles">{shown}</dl></section>'


def _replicas(around: DaemonInfo) -> str:
    """Return who leads, and what this replica does where it does not lead."""
    if not around.replica:
        return "this replica acts<small>it has no Lease, and knows of no others</small>"
    leader = f"{_text(around.holder)} leads" if around.holder else "nobody leads"
    if around.holder == around.replica:
        return f"{leader}: this replica"
    return f"{leader}<small>{_text(around.replica)} stands by: this replica</small>"


# --- the targets -----------------------------------------------------------------------------------------------------


def _targets(known: DaemonStatus, asked: Asked) -> str:
    chosen = _chosen(known.targets, asked, known.at)
    pages = max(1, -(-len(chosen) // ROWS))
    page = min(asked.page, pages)
    begin = (page - 1) * ROWS
    rows = "".join(_row(status, known.at) for status in chosen[begin : begin + ROWS])
    which = f"{begin + 1:,} to {min(begin + ROWS, len(chosen)):,} of " if pages > 1 else ""
    filtered = f", out of {len(known.targets):,}" if asked.text or asked.state else ""
    caption = f"{which}{len(chosen):,} target{'' if len(chosen) == 1 else 's'}{filtered}, worst first"
    if not rows:
        table = f"<p>{'No target is like that.' if known.targets else 'No target is configured.'}</p>"
    else:
        heads = "".join(f'<th scope="col" role="columnheader">{column}</th>' for column in _COLUMNS)
        table = (
            f'<table role="table"><caption>{caption}</caption>'
            f'<thead role="rowgroup"><tr role="row">{heads}</tr></thead>'
            f'<tbody role="rowgroup">{rows}</tbody></table>{_LEGEND}'
        )
    return (
        f'<section id="targets" aria-labelledby="targets-heading"><h2 id="targets-heading">Targets</h2>'
        f"{_filter(asked)}{table}{_paging(asked, page, pages)}</section>"
    )


def _chosen(statuses: Iterable[TargetStatus], asked: Asked, now: datetime) -> list[TargetStatus]:
    """Those that were asked for, worst first."""
    text = asked.text.lower()
    ranked = [
        (
            rank(state, status.expires_at, status.plan.next_rotation_at if status.plan else None, now),
            status.target.name,
            status,
        )
        for status in statuses
        if (state := status.state) is asked.state or asked.state is None
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


def _filter(asked: Asked) -> str:
    options = "".join(
        f'<option value="{state.value}"{" selected" if state is asked.state else ""}>{state.value}</option>'
        for state in WORST_FIRST
    )
    keep = "" if asked.refresh else '<input type="hidden" name="refresh" value="off">'
    clear = f' <a href="{_link(Asked(refresh=asked.refresh))}">show all</a>' if asked.text or asked.state else ""
    return (
        '<form role="search" method="get" action="?"><label>Name, path or key id '
        f'<input type="search" name="q" maxlength="{LONGEST_TEXT}" value="{_text(asked.text)}" autocomplete="off">'
        "</label>"
        f' <label>State <select name="state"><option value="">any</option>{options}</select></label>{keep}'
        f' <button type="submit">Show</button>{clear}</form>'
    )


def _paging(asked: Asked, page: int, pages: int) -> str:
    if pages == 1:
        return ""

    def to(number: int, word: str, rel: str = "") -> str:
        if not 1 <= number <= pages or number == page:
            return f"<span>{word}</span>"
        return f'<a href="{_link(replace(asked, page=number))}"{rel}>{word}</a>'

    steps = (
        to(1, "first"),
        to(page - 1, "previous", ' rel="prev"'),
        f'<b aria-current="page">page {page} of {pages}</b>',
        to(page + 1, "next", ' rel="next"'),
        to(pages, "last"),
    )
    return f'<nav class="paging" aria-label="Pages of targets">{" ".join(steps)}</nav>'


_EMPTY = '<td role="cell" class="empty">none</td>'
_COLUMNS = ("Target", "State", "Served key", "Its life", "Next", "Superseded keys")


def _row(status: TargetStatus, now: datetime) -> str:
    target, plan = status.target, status.plan
    cells = (
        f'<span class="state {status.state.value}">{status.state.value}</span>',
        _served(status, now),
        _life(status, now),
        _next(status, now) + _error(status),
        _superseded(plan, now),
    )
    rest = "".join(
        f'<td role="cell" data-label="{label}"><div>{cell}</div></td>' if cell else _EMPTY
        for label, cell in zip(_COLUMNS[1:], cells, strict=True)
    )
    name = f"{_text(target.name)}<small>{_text(target.path)}</small>"
    return f'<tr role="row"><th scope="row" role="rowheader">{name}</th>{rest}</tr>'


def _served(status: TargetStatus, now: datetime) -> str:
    if status.plan is None:
        return "not known"
    current = status.plan.current
    if current is None:
        return "somebody else's data" if status.state is State.FOREIGN else "none"
    age = _length(now - current.issued_at)
    return f"<code>{_text(current.key_id)}</code><small>{age} old</small>"


def _life(status: TargetStatus, now: datetime) -> str:
    """A bar of what is gone, what is left until the renewal, and what there is beyond it."""
    plan = status.plan
    if plan is None or plan.current is None:
        return ""
    record = plan.current
    life = max(record.expires_at - record.issued_at, timedelta(seconds=1))

    def place(moment: datetime) -> float:
        return round(100 * min(1.0, max(0.0, (moment - record.issued_at) / life)), 1)

    left = record.expires_at - now
    due = place(plan.next_rotation_at or record.expires_at)
    graced = place((plan.next_rotation_at or record.expires_at) + status.target.grace_period)
    at = place(now)
    zones = (
        ("gone", 0.0, at),
        ("ahead", at, due),
        ("grace", max(at, due), graced),
        ("reserve", max(at, graced), 100.0),
    )
    drawn = "".join(
        f'<rect class="{name}" x="{begin}" y="3" width="{round(end - begin, 1)}" height="10"/>'
        for name, begin, end in zones
        if end > begin
    )
    over = left <= timedelta(0)
    said = f"ended {_length(-left)} ago" if over else f"{_length(left)} of {_length(life)} left"
    label = f"{said}; renewal after {due:.0f}% of its life, grace of the old key until {graced:.0f}%"
    return (
        f'<svg class="bar" viewBox="0 0 100 16" preserveAspectRatio="none" role="img" aria-label="{label}">{drawn}'
        f'<rect class="point" x="{max(0.0, due - 0.4)}" y="0" width="0.8" height="16"/></svg>'
        f"<small>{said}, {'' if over else 'until '}{_date(record.expires_at)}</small>"
    )


_LEGEND = '<p class="legend">In the bars: ' + ", ".join(
    f'<svg class="swatch {name}" viewBox="0 0 12 12" aria-hidden="true">'
    f'<rect x="{x}" width="{12 - 2 * x}" height="12"/></svg> {words}'
    for name, x, words in (
        ("gone", 0, "gone"),
        ("ahead", 0, "left until the renewal"),
        ("point", 5, "the renewal"),
        ("grace", 0, "grace of the old key from then on"),
        ("reserve", 0, "in reserve.</p>"),
    )
)


def _next(status: TargetStatus, now: datetime) -> str:
    plan, again = status.plan, ""
    if status.error is not None and status.next_look is not None:
        again = f"<small>next try {_moment(status.next_look, now)}</small>"
    if plan is None:
        return f"{'read the path again' if status.error else 'read the path'}{again}"
    now_due = [in_words(action) for action in plan.actions]
    if status.reason is Reason.REQUESTED and plan.state is State.OK:  # no pass has begun with it yet
        now_due.insert(0, f"rotate ({Reason.REQUESTED})")
    if now_due:
        return "<br>".join(f"now: {_text(words)}" for words in now_due) + again
    if plan.state is State.FOREIGN:
        return f"left alone ({plan.reason})<small>{_advice(adoption_advice(status.target))}</small>"
    return _coming(plan, now) + again


def _coming(plan: Plan, now: datetime) -> str:
    """What time alone will bring first."""
    coming = [
        (key.until, f"remove {key.key_id}", Reason.GRACE_OVER)
        for key in plan.superseded
        if key.other_name is None and key.until > now
    ]
    if plan.next_rotation_at is not None:
        why = Reason.EXPIRING if plan.reason is Reason.FRESH else plan.reason
        coming.append((plan.next_rotation_at, "rotate", why))
    if not coming:
        return "nothing"
    at, what, reason = min(coming)
    return f"{_text(what)} ({reason}) {_moment(at, now)}"


def _error(status: TargetStatus) -> str:
    error = status.error
    if error is None:
        return ""
    return f'<p class="error"><b>Failed:</b> {_sentences(error.message, error.advice)}</p>'


def _superseded(plan: Plan | None, now: datetime) -> str:
    if plan is None or not plan.superseded:
        return ""
    lines = []
    for key in plan.superseded:
        ends = key.works_until
        goes = f"{'ends' if ends > now else 'was to end'} {_moment(ends, now)}" if ends else "never ends"
        if key.other_name is not None:
            goes = f"left alone, its grace is not enforced: its name is not this path's; {goes}"
        lines.append(f"<li><code>{_text(key.key_id)}</code><small>{goes}</small></li>")
    return f'<ul role="list">{"".join(lines)}</ul>'


# --- the events ------------------------------------------------------------------------------------------------------


def _events(known: DaemonStatus, asked: Asked) -> str:
    text = asked.text.lower()
    paths = {status.target.name: status.target.path for status in known.targets} if text else {}
    chosen = [told for told in known.events if not text or text in _searched_of(told.event, paths)]
    shown = "".join(_event(told, known, asked) for told in chosen)
    about = f" with “{_text(asked.text)}” in target, path or key id" if text else ""
    items = f'<ol role="list">{shown}</ol>' if shown else f"<p>None yet{about}.</p>"
    told = f"<p>The latest{about} that this replica told of, the newest first; the log has all.</p>" if shown else ""
    heading = '<h2 id="events-heading">Events</h2>'
    return f'<section id="events" aria-labelledby="events-heading">{heading}{told}{items}</section>'


def _searched_of(event: Event, paths: Mapping[str, str]) -> str:
    """What of an event is searched; the name of a key ties together what happened to it."""
    fields = (str(event.fields.get(name, "")) for name in ("path", "key_id", "key_name"))
    return "\n".join((event.target, paths.get(event.target, ""), *fields)).lower()


def _event(told: Told, known: DaemonStatus, asked: Asked) -> str:
    event, fields = told.event, told.fields
    level = "" if event.level is Level.INFO else f'<span class="level {event.level.value}">{event.level.value}</span> '
    target = f" {_target_link(event.target, asked)}" if event.target else ""
    said = _sentences(str(fields.pop("error", "")), str(fields.pop("advice", "")))
    rest = " ".join(f"{name}={value}" for name, value in fields.items() if value != "")
    return (
        f"<li>{_ago(told.at, known.at)} {level}<b>{event.what.value}</b>{target} "
        f"{said}<small>{_text(rest)}</small></li>"
    )


def _ago(moment: datetime, now: datetime) -> str:
    clock = f"{moment.astimezone(UTC):%H:%M:%S}"
    day = "" if now - moment < timedelta(hours=12) else f"{_day(moment)} "
    return f'<time datetime="{timestamp(moment)}">{day}{clock}</time>'


# --- small parts -----------------------------------------------------------------------------------------------------


def _text(text: str) -> str:
    """Anything, as text of the page: no secret, no character that plays tricks, no markup."""
    return escape(scrub(text))


def _sentences(error: str, advice: str) -> str:
    return _text(error) + (f"<small>{_advice(advice)}</small>" if advice else "")


def _advice(advice: str) -> str:
    """With its commands, which stand in backticks, as such: where there is no room for one, broken at blanks only."""
    return _COMMAND.sub(_command, _text(advice))


def _command(found: re.Match[str]) -> str:
    words = " ".join(f"<span>{word}</span>" for word in found[1].split())
    return f'<code class="command">{words}</code>'


def _link(asked: Asked) -> str:
    return escape(asked.query)


def _target_link(name: str, asked: Asked) -> str:
    return f'<a href="{_link(Asked(text=name, refresh=asked.refresh))}">{_text(name)}</a>'


def _moment(moment: datetime, now: datetime) -> str:
    """How far away it is, and when that is."""
    away = moment - now
    said = f"in {_length(away)}" if away >= timedelta(0) else f"{_length(-away)} ago"
    return f"{said}, {_date(moment)}"


def _date(moment: datetime) -> str:
    return f'<time datetime="{timestamp(moment)}">{_day(moment)} {moment.astimezone(UTC):%H:%M:%S}</time>'


def _day(moment: datetime) -> str:
    """Month and day; the year as well where it is far away is in the element's `datetime`."""
    moment = moment.astimezone(UTC)
    return f"{moment.day} {_MONTHS[moment.month - 1]}"


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def _length(duration: timedelta) -> str:
    """In its two largest units, as "3 h 20 min"."""
    return " ".join(_parts(max(0, int(duration.total_seconds()))))


def _parts(seconds: int) -> Iterator[str]:
    first = next((index for index, (_, unit) in enumerate(_UNITS) if seconds >= unit), len(_UNITS) - 1)
    for index, (word, unit) in enumerate(_UNITS[first : first + 2]):
        number, seconds = divmod(seconds, unit)
        if number or not index:
            yield f"{number} {word}"


# --- how it looks ----------------------------------------------------------------------------------------------------

_STYLE: Final = """
:root {
  --back: #ffffff; --raised: #f6f8fa; --line: #d1d9e0; --text: #1f2328; --quiet: #59636e; --link: #0550ae;
  --good: #116329; --soon: #7d4e00; --bad: #b31d28; --unsure: #6639ba;
  --gone: #818b98; --ahead: #2e964c; --grace: #b87f00; --reserve: #d9534a; --point: #1f2328;
}
@media (prefers-color-scheme: dark) {
  :root {
    --back: #0d1117; --raised: #161b22; --line: #30363d; --text: #e6edf3; --quiet: #9aa4af; --link: #79b8ff;
    --good: #56d364; --soon: #e3b341; --bad: #ff8f88; --unsure: #c8a6ff;
    --gone: #6e7681; --ahead: #2f9a4c; --grace: #b98217; --reserve: #cf5b52; --point: #ffffff;
  }
}
* { box-sizing: border-box; }
html { color-scheme: light dark; }
body {
  margin: 0 auto; max-width: 90rem; padding: 1rem 1.25rem 3rem; background: var(--back); color: var(--text);
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
}
a { color: var(--link); }
a:focus-visible, input:focus-visible, select:focus-visible, button:focus-visible {
  outline: 3px solid var(--link); outline-offset: 2px;
}
h1 { margin: 0; font-size: 1.5rem; }
h1 span { font-weight: normal; color: var(--quiet); }
h2 { margin: 2rem 0 .5rem; font-size: 1.2rem; }
p { margin: .25rem 0; }
header p, footer, caption, .legend, #events > p { color: var(--quiet); }
header nav a { display: inline-block; padding: .3rem .6rem .3rem 0; }
small { display: block; font-size: .85em; color: var(--quiet); }
code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: .9em; }
code, small, th, td, li { overflow-wrap: anywhere; }
.command { display: inline-block; max-width: 100%; overflow-x: auto; vertical-align: bottom; }
.command span { white-space: nowrap; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.troubles h2 { margin: 0 0 .3rem; }
ul, ol { margin: 0; padding: 0; list-style: none; }
.troubles, .notice {
  margin: 1rem 0; padding: .6rem .9rem; border: 1px solid var(--bad); border-left-width: 6px; border-radius: 6px;
}
.notice { border-color: var(--quiet); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(14rem, 1fr)); gap: .75rem; margin: 1rem 0; }
.tiles div { padding: .6rem .9rem; background: var(--raised); border: 1px solid var(--line); border-radius: 6px; }
.tiles dt { color: var(--quiet); font-size: .85em; }
.tiles dd { margin: .15rem 0 0; }
meter { width: 5rem; height: .8rem; vertical-align: middle; }
.state, .level {
  display: inline-block; padding: .05rem .55rem; border: 1px solid; border-radius: 1rem; font-weight: 600;
  white-space: nowrap; text-decoration: none;
}
a.state { margin: .15rem .15rem .15rem 0; }
a.state:hover { text-decoration: underline; }
.ok { color: var(--good); }
.due, .warning { color: var(--soon); }
.missing, .foreign, .failing, .level.error { color: var(--bad); }
.unknown { color: var(--unsure); }
form { display: flex; flex-wrap: wrap; gap: .5rem 1rem; align-items: center; margin: .75rem 0; }
input, select, button {
  font: inherit; color: inherit; padding: .35rem .6rem; min-height: 2.4rem;
  background: var(--raised); border: 1px solid var(--quiet); border-radius: 6px;
}
input { width: 16rem; max-width: 100%; }
table { width: 100%; border-collapse: collapse; }
caption { text-align: left; padding: .3rem 0; }
th, td { padding: .55rem .9rem .55rem 0; text-align: left; vertical-align: top; border-top: 1px solid var(--line); }
thead th { color: var(--quiet); font-weight: 600; font-size: .85em; border-top: 0; }
tbody th { width: 18%; }
tbody th small { font-weight: normal; }
td:nth-of-type(3) { width: 18%; min-width: 10rem; }
td:nth-of-type(4) { width: 28%; }
td:nth-of-type(5) { width: 13%; min-width: 9rem; }
td li + li { margin-top: .35rem; }
.bar { display: block; width: 100%; height: 16px; margin: .2rem 0; }
/* Between two zones a line of the background, for whom their colours look alike: 2px, so that one is wholly its own. */
.bar rect:not(.point) { stroke: var(--back); stroke-width: 2px; vector-effect: non-scaling-stroke; }
.swatch { width: 12px; height: 12px; vertical-align: -1px; }
.gone { fill: var(--gone); }
.ahead { fill: var(--ahead); }
.grace { fill: var(--grace); }
.reserve { fill: var(--reserve); }
.point { fill: var(--point); }
p.error { margin-top: .4rem; padding-left: .6rem; border-left: 3px solid var(--bad); }
p.error b { color: var(--bad); }
.paging { display: flex; flex-wrap: wrap; gap: .4rem 1.2rem; margin: 1rem 0; }
.paging span { color: var(--quiet); }
#events li { padding: .4rem 0; border-top: 1px solid var(--line); }
time { color: var(--quiet); font-size: .85em; white-space: nowrap; font-variant-numeric: tabular-nums; }
small time, header time { font-size: 1em; }
.empty { color: var(--quiet); }
footer { margin-top: 2rem; }
@media (max-width: 62rem) {
  table, tbody, tr, td, tbody th, caption { display: block; width: auto !important; }
  thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  tr {
    margin: .75rem 0; padding: .6rem .9rem;
    background: var(--raised); border: 1px solid var(--line); border-radius: 6px;
  }
  th, td { padding: .3rem 0; border: 0; }
  td { display: grid; grid-template-columns: 7.5rem minmax(0, 1fr); }
  td.empty { display: none; }
  td::before { content: attr(data-label); color: var(--quiet); font-size: .85em; }
  input { width: 100%; }
}
@media (max-width: 40rem) { form label { width: 100%; } }
"""

_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
"""The content security policy of the page: this very style, and nothing else at all."""
