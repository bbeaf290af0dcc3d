"""The status page: what it shows of every target, in which order, and that nothing in it acts, loads or leaks."""

import base64
import hashlib
import math
import re
import time
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from support.known import CAP, used, used_since
from support.pages import Element, read_page, rows
from support.world import HOUR, START, make_target

from rotator.cli.status_table import print_status
from rotator.config.windows import CronWindow
from rotator.core.caps import CapState
from rotator.core.errors import (
    ProviderCredentialRefused,
    ProviderUnavailable,
    RotatorError,
    StoreSealed,
)
from rotator.core.events import Event, EventType, Level
from rotator.core.pickup import Pickup
from rotator.core.plan import Plan, Rotate
from rotator.core.reasons import Reason, State
from rotator.core.renewal import Renewal
from rotator.core.superseded import Superseded
from rotator.core.target import Cap, CapPolicy
from rotator.core.versions import Entry, Ownership, Record
from rotator.telemetry.metrics import Metrics
from rotator.telemetry.status import DaemonInfo, DaemonStatus, RecordedEvent, TargetStatus, status_model
from rotator.web.page import LONGEST_TEXT, POLICY, ROWS, View, read_query, render

NOW = START + 10 * HOUR
ALONE = DaemonInfo("1.2.3", "", True, "")
ALL = View()
NASTY = "\"><script>alert(1)</script>'&\u202e\u2028\x1b[31m\x00\ud800"


def record(key_id: str = "tk_1", issued: float = 0, expires: float = 24) -> Record:
    """A key's record, in hours from the start. Now is ten hours later."""
    return Record("prod-eu", "t", key_id, "name", START + issued * HOUR, START + expires * HOUR, "p", "f")


def superseded(key_id: str, until: float) -> Superseded:
    entry = Entry(1, START, Ownership.OURS, record(key_id), True, frozenset())
    return Superseded(record(key_id), (entry,), START, START + until * HOUR)


def well(key_id: str = "tk_1", **more: Any) -> Plan:
    return replace(Plan(State.OK, Reason.FRESH, current=record(key_id), renewal=Renewal(START + 16 * HOUR)), **more)


def due(**more: Any) -> Plan:
    actions = (Rotate(Reason.EXPIRING, 7),)
    return well(state=State.DUE, reason=Reason.EXPIRING, actions=actions, renewal=Renewal(START + 9 * HOUR), **more)


FOREIGN = Plan(State.FOREIGN, Reason.NO_RECORD)
FIRST = Plan(State.MISSING, Reason.FIRST, actions=(Rotate(Reason.FIRST, 0),))


def status(name: str, plan: Plan | None, error: RotatorError | None = None, **more: Any) -> TargetStatus:
    return TargetStatus(make_target(name), plan, error, **more)


def known(*targets: TargetStatus, events: tuple[RecordedEvent, ...] = (), around: DaemonInfo = ALONE) -> DaemonStatus:
    return DaemonStatus("prod-eu", NOW, targets, events, around)


def page(*targets: TargetStatus, view: View = ALL, **more: Any) -> Element:
    return read_page(render(known(*targets, **more), view))


def cells(plan: Plan | None, error: RotatorError | None = None, **more: Any) -> dict[str, str]:
    return rows(page(status("a", plan, error, **more)))["a"]


def event(
    what: EventType, target: str = "", level: Level = Level.INFO, ago: float = 0, **fields: str | int
) -> RecordedEvent:
    return RecordedEvent(NOW - timedelta(seconds=ago), Event(what, target, level, fields))


def everything() -> tuple[DaemonStatus, View]:
    """Return a status with everything that can be shown, most of it hostile."""
    error = RotatorError(f"it answered {NASTY}", f"do {NASTY}")
    nasty = replace(make_target("b"), path=f"apps/{NASTY}")
    targets = (
        status("a", well(superseded=(superseded(NASTY, 11), superseded("tk_0", 9)))),
        TargetStatus(nasty, due(current=record(NASTY)), error, NOW + HOUR),
        status("c", FOREIGN),
        status("d", FIRST),
        status("e", None),
        status("u", well(state=State.SPENT, use=replace(used(45.0, NOW, rate=1.0), cap=Cap(NASTY, 50.0)))),
        status("f", None, error),
        *(status(f"g-{number}", well()) for number in range(ROWS)),
    )
    events = (event(EventType.TARGET_FAILED, "b", Level.ERROR, error=NASTY, advice=NASTY, key_id=NASTY, failures=3),)
    around = DaemonInfo(
        NASTY,
        NASTY,
        False,
        f"x{NASTY}",
        {NASTY: 0.5},
        {NASTY: NOW, "b": None},
        {NASTY: error},
        clock_trusted=False,
    )
    return DaemonStatus(NASTY, NOW, targets, events, around), View(text="", state=None)


# --- it only shows ---------------------------------------------------------------------------------------------------


def test_a_foreign_text_is_text_and_plays_no_tricks() -> None:
    html = render(*everything())
    read_page(html)
    assert "<script" not in html
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]", html)
    assert (
        html.count("&#34;&gt;&lt;script&gt;alert(1)&lt;/script&gt;&#39;&amp;\\u202e\\u2028\\x1b[31m\\x00\\ud800") > 10
    )
    assert html.encode()


@pytest.mark.parametrize("text", [NASTY.encode(errors="replace").decode(), '" autofocus onfocus="alert(1)', "</input>"])
def test_the_text_of_a_filter_is_text_as_well(text: str) -> None:
    shown = page(status("a", well()), view=View(text=text, state=State.OK, refresh=False))
    field = shown.one("input", type="search")
    assert set(field.attributes) == {"type", "name", "maxlength", "value", "autocomplete"}
    assert not shown.all("script")


def test_nothing_is_loaded_and_nothing_acts() -> None:
    shown = read_page(render(*everything()))
    assert not {element.tag for element in shown.all()} & {"script", "iframe", "img", "link", "object", "embed", "base"}
    for element in shown.all():
        assert not [name for name in element.attributes if name.startswith("on") or name in ("style", "src", "target")]
    for link in shown.all("a"):
        assert re.match(r"\?|#(targets|events)$|status\.json$", link.attributes["href"] or ""), link.attributes
    for form in shown.all("form"):
        assert (form.attributes["method"], form.attributes["action"]) == ("get", "?")
    assert [button.text for button in shown.all("button")] == ["Show"]


def test_the_policy_allows_this_style_and_nothing_else() -> None:
    style = read_page(render(*everything())).one("style")
    [css] = style.children
    assert isinstance(css, str)
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    assert POLICY.split("; ") == [
        "default-src 'none'",
        f"style-src 'sha256-{digest}'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ]
    assert "url(" not in css
    assert "@import" not in css


def test_a_secret_in_a_text_is_hidden() -> None:
    key, error = (
        "hvs.CAESIJlWh2vPq0nA4",
        RotatorError("refused: hvs.CAESIJlWh2vPq0nA4", "not hvs.CAESIJlWh2vPq0nA4"),
    )
    html = render(
        known(
            status("a", due(), error),
            events=(event(EventType.TARGET_FAILED, "a", error=error.message, note=key),),
            around=replace(ALONE, down={"provider x": error}),
        ),
        View(text=key),
    )
    assert key not in html.replace(f"q={key}", "")
    assert "[hidden]" in html


# --- for everybody ---------------------------------------------------------------------------------------------------


def test_it_can_be_read_aloud() -> None:
    shown = read_page(render(*everything()))
    assert shown.one("html").attributes["lang"] == "en"
    assert shown.one("title").text.startswith("6 unhealthy, 2 problems · ")
    assert [heading.tag for heading in shown.all() if re.fullmatch("h[1-6]", heading.tag)] == [
        "h1",
        "h2",
        "h2",
        "h2",
        "h2",
    ]
    ids = [element.attributes["id"] for element in shown.all() if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    for svg in shown.all("svg"):
        assert svg.attributes.get("aria-hidden") == "true" or (
            svg.attributes["role"],
            bool(svg.attributes["aria-label"]),
        )
    assert all(meter.attributes["aria-label"] for meter in shown.all("meter"))
    labelled = [control for label in shown.all("label") for control in (*label.all("input"), *label.all("select"))]
    assert [control.attributes["name"] for control in labelled] == ["q", "state"]
    table = shown.one("table")
    assert table.one("caption").text == "1 to 100 of 107 targets, worst first"
    assert all(head.attributes["scope"] == "col" for head in table.one("thead").all("th"))
    assert all(head.attributes["scope"] == "row" for head in table.one("tbody").all("th"))
    # A phone's layout takes the table's own meaning away: the roles keep it.
    for tag, role in (("table", "table"), ("tr", "row"), ("td", "cell"), ("tbody", "rowgroup")):
        assert {element.attributes.get("role") for element in shown.all(tag)} == {role}


def contrast(one: str, other: str) -> float:
    """As the Web Content Accessibility Guidelines define it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def style() -> tuple[str, list[dict[str, str]]]:
    """The page's, and the colours of its two schemes by their names."""
    [css] = read_page(render(*everything())).one("style").children
    assert isinstance(css, str)
    blocks = re.findall(r":root {(.*?)}", css, re.S)
    assert len(blocks) == 2
    return css, [dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", block)) for block in blocks]


def test_light_and_dark_can_be_read() -> None:
    for colours in style()[1]:
        for back in ("back", "raised"):
            for front in ("text", "quiet", "link", "good", "soon", "bad", "unsure"):
                assert contrast(colours[front], colours[back]) >= 4.5, (front, back, colours)


def test_the_zones_of_a_bar_differ_without_their_colours() -> None:
    """Each stands out from the background, of which a line lies between two of them, and from the renewal's line."""
    css, schemes = style()
    line = re.search(r"\.bar rect:not\(\.point\) {(.*?)}", css)
    assert line
    assert "stroke: var(--back); stroke-width: 2px; vector-effect: non-scaling-stroke;" in line[1]
    for colours in schemes:
        for zone in ("gone", "ahead", "grace", "reserve"):
            for other in ("back", "raised", "point"):
                assert contrast(colours[zone], colours[other]) >= 3, (zone, other, colours)
        for zone in ("used", "reserve"):
            for other in ("back", "raised", "line"):
                assert contrast(colours[zone], colours[other]) >= (2.5 if other == "line" else 3), (
                    zone,
                    other,
                    colours,
                )


def test_the_page_reloads_unless_the_view_does_not() -> None:
    moving, still = page(status("a", well())), page(status("a", well()), view=View(refresh=False))
    assert [meta.attributes["content"] for meta in moving.all("meta", **{"http-equiv": "refresh"})] == ["30"]
    assert still.all("meta", **{"http-equiv": "refresh"}) == []
    # No link from there starts it.
    for link in still.all("a", class_="state"):
        assert "refresh=off" in (link.attributes["href"] or "")
    assert still.one("input", type="hidden").attributes == {"type": "hidden", "name": "refresh", "value": "off"}


# --- what it shows of a target ----------------------------------------------------------------------------------------


def test_a_target_that_is_well() -> None:
    assert cells(well()) == {
        "path": make_target("a").path,
        "State": "ok",
        "Served key": "tk_1 10 h old",
        "Lifetime": "14 h of 1 d left, until 2 Mar 12:00:00",
        "Next": "rotate (expiring) in 6 h, 2 Mar 04:00:00",
        "Superseded keys": "none",
    }


@pytest.mark.parametrize(
    ("plan", "error", "state", "key", "following"),
    [
        (due(), None, "due", "tk_1 10 h old", "now: rotate (expiring): create a key, publish it as version 8"),
        (FIRST, None, "missing", "none", "now: rotate (first): create a key, publish it as version 1"),
        (FOREIGN, None, "foreign", "foreign data", "left alone (no-record) If rotator is meant to keep"),
        (
            replace(FOREIGN, actions=(Rotate(Reason.ADOPTED, 1),)),
            None,
            "foreign",
            "foreign data",
            "now: rotate",
        ),
        (None, None, "unknown", "unknown", "read the path"),
        (None, ProviderUnavailable("no"), "unknown", "unknown", "read the path again Failed: no"),
        (
            well(),
            ProviderUnavailable("no", "wait"),
            "failing",
            "tk_1 10 h old",
            "rotate (expiring) in 6 h, 2 Mar 04:00:00 F",
        ),
        (well(renewal=None), None, "ok", "tk_1 10 h old", "nothing"),
        (
            well(reason=Reason.DRIFTED, renewal=Renewal(START + 16 * HOUR, NOW + HOUR)),
            None,
            "ok",
            "tk_1 10 h old",
            "rotate (drifted) in 1 h, 1 Mar 23:00:00",
        ),
    ],
)
def test_what_comes_next_and_why(
    plan: Plan | None, error: RotatorError | None, state: str, key: str, following: str
) -> None:
    shown = cells(plan, error)
    assert (shown["State"], shown["Served key"]) == (state, key)
    assert shown["Next"].startswith(following)


def test_a_requested_rotation_comes_next_while_it_waits() -> None:
    shown = cells(well(), requested=True)
    assert (shown["State"], shown["Next"]) == ("due", "now: rotate (requested)")
    assert cells(due(), requested=True)["Next"] == cells(due())["Next"], "a pass has seen that it is due"
    assert cells(FOREIGN, requested=True)["State"] == "foreign"


def test_an_error_has_its_advice_and_the_next_attempt() -> None:
    shown = cells(
        due(), ProviderUnavailable("Respan does not answer", "Wait."), next_attempt_at=NOW + timedelta(seconds=42)
    )
    assert shown["State"] == "failing"
    assert shown["Next"].endswith("next attempt in 42 s, 1 Mar 22:00:42 Failed: Respan does not answer Wait.")


def test_superseded_keys_and_when_they_expire() -> None:
    other = replace(superseded("tk_other", 10.5), other_name="made-by-hand", shown=START + 24 * HOUR)
    keys = (superseded("tk_gone", 9.5), superseded("tk_soon", 11), other)
    shown = cells(well(superseded=keys, untrusted=(keys[2].record,)))
    assert shown["Superseded keys"] == (
        "tk_gone was due to expire 30 min ago, 1 Mar 21:30:00 tk_soon expires in 1 h, 1 Mar 23:00:00 "
        "tk_other not revoked after its grace, because its name belongs to another path; "
        "expires in 14 h, 2 Mar 12:00:00"
    )
    assert shown["Next"] == "remove tk_soon (grace-over) in 1 h, 1 Mar 23:00:00"


@pytest.mark.parametrize(
    ("plan", "following"),
    [
        (well(), "rotate (expiring, Mon 2026-03-02 05:00 (Europe/Berlin)) in 6 h, 2 Mar 04:00:00"),
        (well(reason=Reason.WINDOW), "rotate (window, Mon 2026-03-02 05:00 (Europe/Berlin)) in 6 h, 2 Mar 04:00:00"),
        (well(reason=Reason.PAUSED), "rotate (paused, Mon 2026-03-02 05:00 (Europe/Berlin)) in 6 h, 2 Mar 04:00:00"),
    ],
    ids=lambda plan: str(plan.reason) if isinstance(plan, Plan) else "",
)
def test_the_next_rotation_stands_in_the_zone_of_its_window(plan: Plan, following: str) -> None:
    windows = (CronWindow("0 5 * * *", 7 * HOUR, "Europe/Berlin"),)
    shown = rows(page(TargetStatus(make_target("a", windows=windows), plan, None)))["a"]
    assert (shown["State"], shown["Next"]) == ("ok", following)


def test_the_use_of_superseded_keys_and_how_long_consumers_took() -> None:
    key = replace(superseded("tk_stale", 11), use=used_since(START, 40, NOW - HOUR))
    pickups = (Pickup("tk_0", START, START + HOUR / 2), Pickup("tk_1", START + HOUR, None))
    shown = cells(well(superseded=(key,)), pickups=pickups)
    assert shown["Superseded keys"] == (
        "tk_stale expires in 1 h, 1 Mar 23:00:00 last used 1 h ago, 1 Mar 21:00:00 "
        "40 of max_usage since it was replaced pickup: 30 min at most, in 2 rotations"
    )
    assert cells(well(), pickups=pickups[1:])["Superseded keys"] == "pickup: 0 s at most, in 1 rotation"
    idle = replace(key, use=used_since(START, 0, NOW - HOUR))
    assert "since it was replaced" not in cells(well(superseded=(idle,)))["Superseded keys"], "or shortly, unseen"


@pytest.mark.parametrize(
    ("use", "plan", "words", "share", "colour"),
    [
        (used(20.0, NOW - HOUR), well(), "40% of max_usage used, 1 h ago", 40.0, "used"),
        (
            used(48.0, NOW, rate=2 / 7200),
            well(),
            "96% of max_usage used, 0 s ago at the present rate, spent in 2 h, 2 Mar 00:00:00",
            96.0,
            "used",
        ),
        (
            used(70.0, NOW, reached_at=NOW - HOUR),
            well(state=State.SPENT, reason=Reason.EARLY_EXHAUSTED),
            "max_usage is spent: seen 1 h ago, 1 Mar 21:00:00 not replaced early (early-exhausted)",
            100.0,
            "spent",
        ),
    ],
)
def test_a_thin_bar_shows_the_use_of_a_cap(use: CapState, plan: Plan, words: str, share: float, colour: str) -> None:
    shown = page(status("a", replace(plan, use=use)))
    bar = shown.one("svg", class_="use")
    assert [rect.attributes["class"] for rect in bar.all("rect")] == [colour, "unused"]
    widths = [float(rect.attributes["width"] or "") for rect in bar.all("rect")]
    assert widths == [share, round(100 - share, 1)]
    assert bar.attributes["aria-label"] == f"{math.floor(use.ratio * 100)}% of max_usage used"
    row = rows(shown)["a"]
    assert row["Lifetime"].endswith(words)
    assert row["State"] == plan.state
    assert row["Next"].startswith("rotate (expiring) in 6 h")
    assert "Thin bars" in shown.one("section", id="targets").text


def test_use_that_is_not_shown_is_unknown() -> None:
    capped = replace(make_target("a"), caps=CapPolicy((CAP,)))
    shown = page(TargetStatus(capped, well(), None))
    assert rows(shown)["a"]["Lifetime"].endswith("use unknown")
    assert shown.all("svg", class_="use") == []
    assert "use" not in cells(well())["Lifetime"], "a key without caps has none"


def bar(plan: Plan) -> tuple[dict[str, tuple[float, float]], str]:
    """Where each part of the bar begins and ends, and its words for a screen reader."""
    shown = page(status("a", plan)).one("svg", class_="bar")
    parts = {}
    for rect in shown.all("rect"):
        x, width = (float(rect.attributes[name] or "") for name in ("x", "width"))
        parts[str(rect.attributes["class"])] = (x, round(x + width, 1))
    return parts, str(shown.attributes["aria-label"])


@pytest.mark.parametrize(
    ("plan", "parts"),
    [
        (
            well(renewal=Renewal(START + 18 * HOUR)),
            {
                "gone": (0, 41.7),
                "ahead": (41.7, 75),
                "grace": (75, 91.7),
                "reserve": (91.7, 100),
                "point": (74.6, 75.4),
            },
        ),
        (
            well(current=record(issued=10, expires=34), renewal=Renewal(START + 28 * HOUR)),
            {"ahead": (0, 75), "grace": (75, 91.7), "reserve": (91.7, 100), "point": (74.6, 75.4)},
        ),
        (
            due(current=record(issued=-10, expires=14)),
            {"gone": (0, 83.3), "grace": (83.3, 95.8), "reserve": (95.8, 100), "point": (78.8, 79.6)},
        ),
        (due(current=record(issued=-15, expires=9)), {"gone": (0, 100), "point": (99.6, 100.4)}),
        (due(current=record(issued=10, expires=10)), {"ahead": (0, 0)}),
    ],
    ids=["half-way", "new", "late", "ended", "no life at all"],
)
def test_the_bar_shows_elapsed_time_renewal_grace_and_reserve(
    plan: Plan, parts: dict[str, tuple[float, float]]
) -> None:
    drawn, _ = bar(plan)
    if parts == {"ahead": (0, 0)}:
        assert drawn  # and nothing is divided by zero
        return
    assert drawn == parts
    zones = [drawn[name] for name in ("gone", "ahead", "grace", "reserve") if name in drawn]
    assert [begin for begin, _ in zones[1:]] == [end for _, end in zones[:-1]], "they leave a gap or overlap"
    assert (zones[0][0], zones[-1][1]) == (0, 100)


def test_the_bar_has_words_for_a_screen_reader() -> None:
    assert bar(well(renewal=Renewal(START + 18 * HOUR)))[1] == (
        "14 h of 1 d left; renewal at 75% of the lifetime, grace of the old key until 92%"
    )
    assert bar(due(current=record(issued=-15, expires=9)))[1].startswith("expired 1 h ago;")
    endless = due(current=record(issued=-15, expires=9), is_endless=True)
    assert bar(endless)[1].startswith("was to be replaced 1 h ago;")


# --- which targets ---------------------------------------------------------------------------------------------------


def test_the_worst_come_first_then_those_with_the_least_time() -> None:
    def ending(hours: float, **more: Any) -> Plan:
        return replace(due(**more), current=record(expires=hours))

    shown = page(
        status("ok-long", replace(well(), current=record(expires=30))),
        status("ok-short", replace(well(), current=record(expires=20))),
        status("due", ending(19)),
        status("failing-long", ending(18), ProviderUnavailable("no")),
        status("failing-short", ending(12), ProviderUnavailable("no")),
        status("foreign", FOREIGN),
        status("unknown", None),
        status("missing", FIRST),
        status("also-missing", FIRST),
    )
    assert list(rows(shown)) == [
        *(
            "also-missing",
            "missing",
            "foreign",
            "failing-short",
            "failing-long",
            "unknown",
            "due",
            "ok-short",
            "ok-long",
        )
    ]
    counts = [link.text for link in shown.all("a", class_="state")]
    assert counts == ["2 missing", "1 foreign", "2 failing", "1 unknown", "1 due", "2 ok"]
    assert "failing-short in 2 h" in shown.one("dl").text


FLEET = (
    status("billing-api", well("tk_AAA", superseded=(superseded("tk_old", 11),))),
    status("billing-web", due(current=record(expires=20))),
    status("chat", FIRST),
)


@pytest.mark.parametrize(
    ("view", "names"),
    [
        (View(), ["chat", "billing-web", "billing-api"]),
        (View(text="billing"), ["billing-web", "billing-api"]),
        (View(text="BILLING-A"), ["billing-api"]),
        (View(text=make_target("chat").path), ["chat"]),
        (View(text="tk_aaa"), ["billing-api"]),
        (View(text="tk_old"), ["billing-api"]),
        (View(state=State.MISSING), ["chat"]),
        (View(text="billing", state=State.OK), ["billing-api"]),
        (View(text="billing", state=State.MISSING), []),
        (View(page=7), ["chat", "billing-web", "billing-api"]),
    ],
)
def test_the_filter(view: View, names: list[str]) -> None:
    shown = page(*FLEET, view=view)
    assert list(rows(shown)) == names
    assert shown.one("input", type="search").attributes["value"] == view.text
    selected = [option.text for option in shown.all("option") if "selected" in option.attributes]
    assert selected == ([view.state.value] if view.state else [])
    assert len(shown.all("a", class_="state")) == 3  # the counts are of all
    if not names:
        assert "No target matches." in shown.one("section", id="targets").text


def test_without_targets_the_page_shows_that() -> None:
    shown = page()
    assert "No target is configured." in shown.text
    assert "no served key" in shown.text


@pytest.mark.parametrize(
    ("query", "view"),
    [
        ("", View()),
        ("q=a&state=failing&page=3&refresh=off", View("a", State.FAILING, 3, False)),
        ("q=&state=&page=", View()),
        ("q=+two%20%20words+%0a", View("two words")),
        ("q=%F0%9F%94%91%ff", View("🔑\ufffd")),
        ("q=" + "x" * 5000, View("x" * LONGEST_TEXT)),
        ("state=OK&state=nonsense", View()),
        ("state=%3Cscript%3E", View()),
        ("page=0", View()),
        ("page=-1", View()),
        ("page=1e9", View()),
        ("page=9999999", View()),
        ("page=٣", View()),
        ("page=999999", View(page=999999)),
        ("refresh=on", View()),
        ("q", View()),
        ("&&&=&;", View()),
        ("unknown=1&q=a", View("a")),
        ("&".join(f"x{number}=1" for number in range(50)) + "&q=a", View()),
        ("%", View()),
    ],
)
def test_a_query_that_makes_no_sense_is_ignored(query: str, view: View) -> None:
    assert read_query(query) == view
    page(*FLEET, view=view)


@pytest.mark.parametrize(
    "view", [View(), View("a & b=<c>", State.OK, 12, False), View("%25+#é"), View(page=2), View(refresh=False)]
)
def test_a_link_leads_to_what_it_was_made_for(view: View) -> None:
    assert read_query(view.query.removeprefix("?")) == view


def many(number: int, error: RotatorError | None = None) -> tuple[TargetStatus, ...]:
    plans = (replace(due() if error else well(), current=record(f"tk_{n:05}")) for n in range(number))
    return tuple(status(f"target-{n:05}", made, error) for n, made in enumerate(plans))


def steps(shown: Element) -> dict[str, str]:
    """Where one can go from a page of many."""
    return {link.text: str(link.attributes["href"]) for link in shown.one("nav", class_="paging").all("a")}


def test_from_page_to_page_each_target_is_there_once() -> None:
    fleet, view, seen = known(*many(950)), View(text="TARGET", state=State.OK, refresh=False), list[str]()
    while True:
        shown = read_page(render(fleet, view))
        seen += rows(shown)
        if "next" not in steps(shown):
            break
        view = read_query(steps(shown)["next"].removeprefix("?"))
    assert seen == sorted(seen)
    assert len(set(seen)) == len(seen) == 950
    assert view == View("TARGET", State.OK, 10, False)
    assert shown.one("caption").text == "901 to 950 of 950 targets, out of 950, worst first"
    assert steps(shown).keys() == {"first", "previous"}


def test_ten_thousand_targets_a_hundred_a_page() -> None:
    fleet = known(*many(10_000))
    shown = read_page(render(fleet, View(page=50)))
    assert list(rows(shown)) == [f"target-{n:05}" for n in range(4900, 5000)]
    assert shown.one("caption").text == "4,901 to 5,000 of 10,000 targets, worst first"
    assert steps(shown) == {"first": "?", "previous": "?page=49", "next": "?page=51", "last": "?page=100"}
    last, beyond = (read_page(render(fleet, View(page=number))) for number in (100, 100_000))
    assert rows(beyond) == rows(last)
    here = last.one("nav", class_="paging").one(**{"aria-current": "page"})
    assert here.text == "page 100 of 100"
    assert not last.all(**{"aria-disabled": "true"}), "a text that is no link is no control that could be disabled"
    assert list(rows(read_page(render(fleet, View(text="target-04711"))))) == ["target-04711"]


@pytest.mark.parametrize("error", [None, ProviderUnavailable("Respan does not answer" * 10)], ids=["well", "failing"])
def test_ten_thousand_targets_cost_little(error: RotatorError | None) -> None:
    fleet = known(*many(10_000, error))
    took = []
    for _ in range(3):
        began = time.process_time()
        html = render(fleet, View(page=50))
        took.append(time.process_time() - began)
    assert min(took) < 0.5  # about 0.03 s where nothing else runs
    assert len(html) < 400_000


# --- what it shows of the whole ---------------------------------------------------------------------------------------


def around(**more: Any) -> str:
    shown = page(status("a", well()), around=replace(ALONE, **more))
    return " | ".join(
        element.text
        for element in (*shown.all("section", class_="problems"), *shown.all(class_="notice"), shown.one("dl"))
    )


def test_who_leads() -> None:
    assert "Leader this replica there is no Lease" in around()
    leading = around(replica="rotator-0", holder="rotator-0")
    assert "Leader rotator-0 this replica" in leading
    standby = around(replica="rotator-1", holder="rotator-0", leads=False)
    assert standby.startswith("This replica is a standby. rotator-0 leads")
    assert "a standby makes no provider requests, so a spent key looks ok here" in standby
    assert "Leader rotator-0 this replica, rotator-1, is a standby" in standby
    leaderless = around(replica="rotator-1", holder="", leads=False)
    assert leaderless.startswith("Problems This replica knows of no leader")
    assert "Leader unknown this replica, rotator-1, is a standby" in leaderless


def test_budgets_logins_and_what_is_down() -> None:
    assert "respan 37% used" in around(budgets={"respan": 0.37})
    shown = around(logins={"vault": NOW + timedelta(minutes=23), "other": None})
    assert "vault: expires in 23 min, 1 Mar 22:23:00 , unless renewed other: no known expiry" in shown
    down = around(down={"provider respan": ProviderCredentialRefused("the organisation key is refused", "Replace it.")})
    assert down.startswith("Problems provider respan is down: the organisation key is refused Replace it.")
    assert around(clock_trusted=False).startswith("Problems This machine's clock")


def test_the_title_counts_unhealthy_targets() -> None:
    assert page(*FLEET).one("title").text == "1 unhealthy · prod-eu · rotator"
    assert page(*FLEET[:2]).one("title").text == "all healthy · prod-eu · rotator"


@pytest.mark.parametrize(
    "around",
    [
        replace(ALONE, replica="rotator-1", leads=False),
        replace(ALONE, down={"store vault": StoreSealed("sealed")}),
        replace(ALONE, clock_trusted=False),
        replace(ALONE, logins_failing=["vault"]),
        replace(ALONE, refused="rotator.toml: targets.a.ttl: is no duration"),
    ],
    ids=["no leader", "an upstream is down", "the clock is off", "no login", "a refused configuration"],
)
def test_the_title_counts_problems(around: DaemonInfo) -> None:
    assert page(*FLEET[:2], around=around).one("title").text == "1 problem · prod-eu · rotator"
    assert page(*FLEET, around=around).one("title").text == "1 unhealthy, 1 problem · prod-eu · rotator"


def test_a_late_rotation_is_a_problem_and_comes_before_keys_with_short_lives() -> None:
    """One that is due for hours, and one that lives for an hour and is well."""
    late = replace(
        due(), current=replace(record("tk_late"), expires_at=NOW + 2 * HOUR), renewal=Renewal(NOW - 6 * HOUR)
    )
    short = well(current=replace(record("tk_short"), expires_at=NOW + HOUR), renewal=Renewal(NOW + HOUR / 2))
    shown = page(status("short", short), status("late", late))
    assert shown.one("title").text == "1 problem · prod-eu · rotator"
    assert "Rotation is late for 1 target" in shown.one("section", class_="problems").text
    assert list(rows(shown)) == ["late", "short"]


def test_the_page_the_command_and_the_metrics_have_one_next_rotation_and_one_rank(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By the plan that was made before changed parameters came due: they come before the key's own renewal."""
    turn = NOW - 2 * HOUR + timedelta(microseconds=1)
    drifted = well(reason=Reason.DRIFTED, renewal=Renewal(START + 16 * HOUR, turn))
    short = well(current=record("tk_short", expires=20))
    targets = status("drifted", drifted), status("short", short)
    print_status(status_model("prod-eu", NOW, targets), as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines] == [*rows(page(*targets))] == ["drifted", "short"]
    metrics = Metrics("0")
    metrics.watch(lambda: DaemonStatus("prod-eu", NOW, targets, (), ALONE), each=True)
    shown = datetime.fromisoformat(targets[0].to_json()["next_rotation_at"])
    metric = re.search(r'rotator_next_rotation_timestamp_seconds{target="drifted"} (\S+)', metrics.render().decode())
    assert metric is not None
    assert float(metric[1]) == shown.timestamp()


def test_a_standby_is_no_problem() -> None:
    around = replace(ALONE, replica="rotator-1", holder="rotator-0", leads=False)
    assert page(*FLEET[:2], around=around).one("title").text == "all healthy · prod-eu · rotator"


# --- events ----------------------------------------------------------------------------------------------------------

EVENTS = (
    event(EventType.TARGET_FAILED, "chat", Level.WARNING, 5, error="no answer", advice="Wait.", failures=4, note=""),
    event(EventType.KEY_PUBLISHED, "billing-api", ago=60, key_id="tk_1", reason="expiring", version=7),
    event(
        EventType.UNEXPECTED_ERROR, "", Level.ERROR, 3600 * 20, where="a sweep", error="ValueError", traceback="File x"
    ),
)


def test_events_are_shown_as_in_the_log_without_tracebacks() -> None:
    items = [item.text for item in page(*FLEET, events=EVENTS).one("section", id="events").all("li")]
    assert items == [
        "21:59:55 warning target_failed chat no answer Wait. failures=4",
        "21:59:00 key_published billing-api key_id=tk_1 reason=expiring version=7",
        "1 Mar 02:00:00 error unexpected_error ValueError where=a sweep",
    ]


def test_the_filter_holds_for_events_too() -> None:
    shown = page(*FLEET, events=EVENTS, view=View(text="Billing")).one("section", id="events")
    assert [item.text.split()[1] for item in shown.all("li")] == ["key_published"]
    assert "No events yet with “absent” in target, path or key id." in page(*FLEET, view=View(text="absent")).text


@pytest.mark.parametrize("text", ["tk_0007", "LING-AP.ABC", "apps/billing", "billing-api/respan"])
def test_the_filter_finds_events_by_path_key_id_and_key_name(text: str) -> None:
    events = (
        event(EventType.KEY_PUBLISHED, "billing-api", key_id="tk_0007", key_name="prod-eu.billing-ap.abc", version=7),
        event(EventType.KEY_WITHOUT_TARGET, "", Level.WARNING, key_id="tk_0008", key_name="prod-eu.other.def"),
    )
    targets = (status("billing-api", well()), status("chat", well()))
    shown = page(*targets, events=events, view=View(text=text)).one("section", id="events")
    assert [item.text.split()[1] for item in shown.all("li")] == ["key_published"]


# --- for a screen reader -------------------------------------------------------------------------------------------


def test_headings_name_every_part_and_a_list_is_one_though_it_has_no_bullets() -> None:
    shown = read_page(render(*everything()))
    assert shown.one("h1").text.startswith("rotator ")
    assert [heading.text for heading in shown.all("h2")] == ["Problems", "Summary", "Targets", "Events"]
    named = {heading.attributes["id"] for heading in shown.all("h2")}
    assert [section.attributes["aria-labelledby"] in named for section in shown.all("section")] == [True] * 4
    assert {each.attributes.get("role") for tag in ("ul", "ol") for each in shown.all(tag)} == {"list"}
    assert not {element.tag for element in shown.all()} & {"h3", "h4"}


# --- words -----------------------------------------------------------------------------------------------------------


def test_commands_in_advice_stand_out_and_are_not_broken() -> None:
    advice = "Look first, then `rotator sweep --max-orphans 3` or `<b>`."
    shown = page(status("a", well(), RotatorError("too many", advice)))
    assert [code.text for code in shown.all("code", class_="command")] == ["rotator sweep --max-orphans 3", "<b>"]
    assert "`" not in shown.text
    foreign = page(status("c", FOREIGN))
    assert foreign.one("code", class_="command").text == "rotator rotate c --adopt"


# --- looks -----------------------------------------------------------------------------------------------------------


def test_when_a_path_was_last_read_stands_beside_the_state() -> None:
    shown = cells(well(), looked_at=NOW - timedelta(seconds=70))
    assert "path read 1 min 10 s ago" in shown["State"]
    assert "read" not in cells(well())["State"]
