"""How targets stand: the daemon's board and its latest events, the promised JSON, and what `status` prints of it."""

import json
import threading
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError
from rich.text import Text
from support.known import CAP, used, used_since
from support.world import HOUR, START, make_target

from rotator.cli.status_table import print_status
from rotator.config.windows import CronWindow
from rotator.core.caps import CapState
from rotator.core.errors import ProviderCredentialRefused, ProviderUnavailable, RotatorError
from rotator.core.events import Event, EventType, Level
from rotator.core.pickup import MEASURED, measured
from rotator.core.plan import Plan
from rotator.core.reasons import Reason, State
from rotator.core.renewal import Renewal
from rotator.core.secrets import Secret
from rotator.core.superseded import Superseded
from rotator.core.target import CapPolicy
from rotator.core.use import CapUse, KeyUse, series_with
from rotator.core.versions import Entry, Ownership, Record
from rotator.runtime import redact
from rotator.runtime.redact import register
from rotator.telemetry.status import (
    KEPT,
    DaemonInfo,
    DaemonStatus,
    RecentEvents,
    StatusRegistry,
    TargetStatus,
    status_model,
)
from rotator.telemetry.status_json import StatusJson, SupersededJson

SECRET = "hvs.CAESIJlWh2vPq0nA4"
RECORD = Record("prod-eu", "t", "tk_1", "name", START, START + 24 * HOUR, "p", "f")
WELL = Plan(State.OK, Reason.FRESH, current=RECORD, renewal=Renewal(START + 16 * HOUR))
OVERDUE, ROLLED_OUT = Renewal(START - HOUR), Renewal(START + 16 * HOUR, START + HOUR)
SURROUNDINGS = DaemonInfo(
    "1.2.3",
    "rotator-1",
    False,
    "rotator-0",
    {"respan": 0.37},
    {"vault": START, "other": None},
    {"provider respan": ProviderCredentialRefused(f"refused: {SECRET}")},
    logins_failing=["vault"],
    refused=f"bad: {SECRET}",
)


@pytest.fixture(autouse=True)
def _no_secret_of_another_test_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets and patterns of other tests stay in the scrubber of the process, and may hide more than these texts."""
    monkeypatch.setattr(redact, "_scrubber", redact.Scrubber())


class Emitting:
    """A clock that ticks once an event, and the consumers of events."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.ticks = 0
        self.recent = RecentEvents(self.events.append, self.now)

    def now(self) -> datetime:
        self.ticks += 1
        return START + timedelta(seconds=self.ticks)

    def emit(self, what: EventType, level: Level = Level.INFO, **fields: str) -> None:
        self.recent(Event(what, "a", level, fields))


# --- recent events ---------------------------------------------------------------------------------------------------


def test_every_event_is_passed_on_and_the_newest_comes_first() -> None:
    log = Emitting()
    for what in (EventType.KEY_CREATED, EventType.KEY_PUBLISHED):
        log.emit(what)
    assert [event.what for event in log.events] == [EventType.KEY_CREATED, EventType.KEY_PUBLISHED]
    assert [each.event.what for each in log.recent.latest()] == [EventType.KEY_PUBLISHED, EventType.KEY_CREATED]


def test_a_busy_hour_does_not_push_out_failures() -> None:
    log = Emitting()
    log.emit(EventType.TARGET_FAILED, Level.WARNING)
    log.emit(EventType.TARGET_FOREIGN, Level.ERROR)
    for _ in range(10 * KEPT):
        log.emit(EventType.KEY_PUBLISHED)
    latest = log.recent.latest()
    assert len(latest) == KEPT + 2
    assert [each.event.what for each in latest[-2:]] == [EventType.TARGET_FOREIGN, EventType.TARGET_FAILED]
    for _ in range(10 * KEPT):
        log.emit(EventType.TARGET_FAILED, Level.WARNING)
    assert len(log.recent.latest()) == 2 * KEPT


def test_sweeps_do_not_push_out_rotations_and_an_unchanged_result_is_not_kept() -> None:
    log = Emitting()
    log.emit(EventType.KEY_PUBLISHED)
    for _ in range(2 * KEPT):
        log.emit(EventType.SWEEP_COMPLETED, provider="one")
        log.emit(EventType.SWEEP_COMPLETED, provider="two")
        log.emit(EventType.SWEEP_COMPLETED, Level.DEBUG, provider="one")
    latest = [(each.event.what, each.event.fields.get("provider")) for each in log.recent.latest()]
    assert latest == [
        (EventType.SWEEP_COMPLETED, "two"),
        (EventType.SWEEP_COMPLETED, "one"),
        (EventType.KEY_PUBLISHED, None),
    ]
    assert len(log.events) == 6 * KEPT + 1, "all are passed on"


def test_many_threads_may_record_and_read() -> None:
    log = Emitting()

    def use() -> None:
        for _ in range(200):
            log.emit(EventType.KEY_PUBLISHED)
            log.recent.latest()

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(log.events) == 800
    assert len(log.recent.latest()) == KEPT


def test_an_event_has_no_secret_and_no_traceback_in_the_json() -> None:
    log = Emitting()
    log.emit(EventType.UNEXPECTED_ERROR, Level.ERROR, where="x", error=f"no {SECRET}\u202e", traceback="File")
    [event] = log.recent.latest()
    assert event.to_model().to_json() == {
        "at": "2026-03-01T12:00:01Z",
        "level": "error",
        "event": "unexpected_error",
        "target": "a",
        "fields": {"where": "x", "error": "no [hidden]\\u202e"},
    }


# --- the board -------------------------------------------------------------------------------------------------------


def test_the_board_is_in_order_and_keeps_the_last_plan() -> None:
    board, error = StatusRegistry(), ProviderUnavailable("no")
    targets = {name: make_target(name) for name in ("b", "c", "a")}
    board.keep_only(targets)
    board.update(targets["c"], WELL, None, START)
    board.update(targets["c"], None, error, START + HOUR)
    assert [status.target.name for status in board.snapshot()] == ["a", "b", "c"]
    last = board.snapshot()[2]
    assert (last.plan, last.error, last.next_attempt_at, last.state) == (WELL, error, START + HOUR, State.FAILING)
    board.keep_only({name: targets[name] for name in ("c", "b")})
    assert board.snapshot() == (TargetStatus(targets["b"], None, None), last)


def test_a_requested_rotation_is_due_until_a_new_key_is_served_or_the_pass_has_done_it() -> None:
    board, target = StatusRegistry(), make_target("a")
    board.keep_only({"a": target})
    board.update(target, WELL, None)
    other = replace(WELL, current=replace(RECORD, key_id="tk_2"))

    def standing() -> tuple[str, str]:
        [status] = board.snapshot()
        shown = status.to_json()
        return shown["state"], shown["reason"]

    assert standing() == ("ok", "fresh")
    board.request(["a", "gone"])
    assert standing() == ("due", "requested")
    board.update(target, WELL, None)
    board.observe(target, WELL, START)
    assert standing() == ("due", "requested"), "that pass had begun before"
    board.observe(target, other, START)
    assert standing() == ("ok", "fresh"), "the rest of the work delays no application"
    board.request(["a"])
    board.update(target, None, ProviderUnavailable("no"))
    assert standing() == ("failing", "requested")
    board.update(target, WELL, None, fulfilled=True)
    assert standing() == ("ok", "fresh")


def test_a_pass_that_ends_after_its_target_was_removed_does_not_bring_it_back() -> None:
    board, target = StatusRegistry(), make_target("a")
    board.keep_only({"a": target})
    board.keep_only({})
    board.update(target, WELL, None)
    assert board.snapshot() == ()


# --- the JSON --------------------------------------------------------------------------------------------------------


def statuses() -> tuple[TargetStatus, ...]:
    return (
        TargetStatus(make_target("a"), WELL, None),
        TargetStatus(make_target("b"), WELL, RotatorError(f"it answered [/red] {SECRET} \x1b[31m")),
        TargetStatus(make_target("c"), None, None),
    )


def test_the_promised_keys_are_there_and_a_daemon_adds_its_own_beside_them() -> None:
    plain = status_model("prod-eu", START, statuses()).to_json()
    assert list(plain) == ["owner", "at", "targets"]
    assert [target["state"] for target in plain["targets"]] == ["ok", "failing", "unknown"]
    assert plain["targets"][1]["last_error"] == "it answered [/red] [hidden] \\x1b[31m"
    shown = DaemonStatus("prod-eu", START, statuses(), (), SURROUNDINGS).to_model().to_json()
    assert {name: shown[name] for name in plain} == plain
    assert shown.keys() - plain.keys() == {"daemon", "events"}
    assert shown["daemon"] == {
        "version": "1.2.3",
        "replica": "rotator-1",
        "leads": False,
        "holder": "rotator-0",
        "budgets_used": {"respan": 0.37},
        "logins_end": {"vault": "2026-03-01T12:00:00Z", "other": None},
        "down": {"provider respan": "refused: [hidden]"},
        "clock_trusted": True,
        "logins_failing": ["vault"],
        "configuration_refused": "bad: [hidden]",
    }
    assert SECRET not in json.dumps(shown)


def test_a_foreign_record_is_searched_for_secrets() -> None:
    known = register(Secret(SECRET))  # only what this process knows: an id may look like a token
    planted = replace(RECORD, key_id=f"x\x1b[2J {known.reveal()}")
    entry = Entry(1, START, Ownership.OURS, planted, True, frozenset())
    plan = replace(WELL, current=planted, superseded=(Superseded(planted, (entry,), START, START + HOUR),))
    shown_status = TargetStatus(make_target("a"), plan, None).to_json()
    assert shown_status["key_id"] == "x\\x1b[2J [hidden]"
    assert [key["key_id"] for key in shown_status["superseded"]] == ["x\\x1b[2J [hidden]"]


STALE = replace(
    Superseded(replace(RECORD, key_id="tk_0"), (), START, START + 4 * HOUR),
    use=used_since(START, 40, START + 3 * HOUR),
)


def test_the_use_of_superseded_keys_is_promised_in_the_json() -> None:
    target = replace(make_target("a"), caps=CapPolicy((CAP,)))
    (shown,) = TargetStatus(target, replace(WELL, superseded=(STALE,)), None).to_json()["superseded"]
    assert shown == {
        "key_id": "tk_0",
        "until": "2026-03-01T16:00:00Z",
        "last_used_at": "2026-03-01T15:00:00Z",
        "used_since": [{"cap": "max_usage", "unit": "calls", "used": 40.0}],
    }
    (unknown,) = TargetStatus(target, replace(WELL, superseded=(replace(STALE, use=None),)), None).to_json()[
        "superseded"
    ]
    assert (unknown["last_used_at"], unknown["used_since"]) == (None, [])


def test_how_long_consumers_take_to_pick_up_a_key_is_kept_for_the_last_rotations() -> None:
    registry, target = StatusRegistry(), make_target("a")
    registry.keep_only({"a": target})
    for number in range(MEASURED + 2):
        since = START + number * HOUR
        record = replace(RECORD, key_id=f"tk_{number}")
        key = Superseded(record, (), since, since + 4 * HOUR, use=used_since(since, 1, since + number * HOUR / 60))
        registry.observe(target, replace(WELL, superseded=(key,)), START)
    registry.update(target, WELL, None)
    registry.keep_only({"a": replace(target, path="moved")})
    (status,) = registry.snapshot()
    pickups = status.to_json()["pickups"]
    assert [(one["key_id"], one["seconds"]) for one in pickups] == [
        (f"tk_{n}", n * 60.0) for n in range(2, MEASURED + 2)
    ]
    assert pickups[0]["replaced_at"] == "2026-03-01T14:00:00Z"
    assert pickups[0]["last_used_at"] == "2026-03-01T14:02:00Z"


def test_a_pickup_is_measured_only_where_use_is_shown() -> None:
    assert measured((), [replace(STALE, use=None)]) == ()
    before = replace(STALE, use=series_with(None, KeyUse((CapUse("max_usage", 7),), as_of=START - HOUR)))
    assert measured((), [before]) == (), "it was not looked at since it was replaced"
    unused = replace(STALE, use=series_with(None, KeyUse((CapUse("max_usage", 7),), as_of=START + HOUR)))
    assert [pickup.took for pickup in measured((), [unused])] == [timedelta(0)]
    spent = replace(STALE, use=series_with(None, KeyUse((CapUse("max_usage", 7, 7),), as_of=START + HOUR)))
    assert measured((), [spent]) == (), "consumers could not use it, however late they are"


# --- what is printed of it -------------------------------------------------------------------------------------------


def shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], known: Any, *, terminal: bool, width: int = 200
) -> str:
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    monkeypatch.setenv("COLUMNS", str(width))
    print_status(known, as_json=False)
    return Text.from_ansi(capsys.readouterr().out).plain


def test_worst_first_on_a_terminal_and_in_a_pipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = status_model("prod-eu", START, statuses())
    piped = shown(monkeypatch, capsys, known, terminal=False).splitlines()
    assert [line.split("\t")[0] for line in piped] == ["b", "c", "a"]
    assert all(len(line.split("\t")) == 9 for line in piped)
    heading, *lines = shown(monkeypatch, capsys, known, terminal=True).splitlines()
    assert heading.startswith("target")
    assert [line.split()[0] for line in lines[:3]] == ["b", "c", "a"]
    assert lines[3:] == ["", "b: failing: it answered [/red] [hidden] \\x1b[31m"]  # text in brackets is no markup


@pytest.mark.parametrize("width", [80, 100, 120, 140])
def test_a_table_fits_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    long = "chat-frontend-with-a-name-that-is-rather-long"
    key_id = "9e5535e8-6139-42cb-92bf-576ca0f3fceb"
    [target] = status_model("prod-eu", START, statuses()[:1]).targets
    superseded = tuple(SupersededJson(key_id="k", until=START + HOUR * more) for more in (2, 1))
    changes = {
        "name": long,
        "key_id": key_id,
        "issued_at": START - HOUR * 3,
        "expires_at": START + HOUR * 50,
        "next_rotation_at": START - HOUR / 15,
        "superseded": superseded,
        "looked_at": START - HOUR / 60,
    }
    known = StatusJson(owner="prod-eu", at=START, targets=(target.model_copy(update=changes),))
    heading, *lines = shown(monkeypatch, capsys, known, terminal=True, width=width).splitlines()
    assert max(map(len, lines)) <= width
    assert heading.split("  ")[0] == "target"
    age = "age " if width >= 100 else ""
    look = "looked at " if width >= 140 else ""
    assert heading.split() == f"target key {age}expires next rotation superseded {look}state".split()
    cells = {
        80: "9e5535e8-6… in 2 d 2 h 4 min ago 2 ok",
        100: "9e5535e8-6… 3 h in 2 d 2 h 4 min ago 2, last in 2 h ok",
        120: "9e5535e8-6… 3 h in 2 d 2 h 4 min ago (expiring) 2, last in 2 h ok",
        140: f"{key_id} 3 h in 2 d 2 h 4 min ago (expiring) 2, last in 2 h 1 min ago ok",
    }
    assert lines[0].split()[1:] == cells[width].split()
    assert "".join(line.split()[0] for line in lines) == long


def test_the_use_of_superseded_keys_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = replace(make_target("a"), caps=CapPolicy((CAP,)))
    known = status_model(
        "prod-eu", START + 3.5 * HOUR, [TargetStatus(target, replace(WELL, superseded=(STALE,)), None)]
    )
    cell = shown(monkeypatch, capsys, known, terminal=False).split("\t")[6]
    until, last = "2026-03-01T16:00:00Z", "2026-03-01T15:00:00Z"
    assert cell == f"tk_0 until {until} (last used {last}, 40 calls since it was replaced)"
    lines = shown(monkeypatch, capsys, known, terminal=True).splitlines()
    words = "last used 30 min ago, 40 calls since it was replaced"
    assert f"a: superseded tk_0 until {until} ({words})" in lines


HALF_USED = used(25.0, START)
BURNING = used(49.9, START, rate=0.1 / (2 * 60 * 60))
BURNING_SLOWLY = used(25.0, START, rate=25.0 / (20 * 60 * 60))
SPENT = used(50.0, START + HOUR, rate=1.0, reached_at=START)
CAPPED = replace(make_target("a"), caps=CapPolicy((CAP,)))


def use_shown(use: CapState | None, **more: Any) -> TargetStatus:
    return TargetStatus(CAPPED, replace(WELL, use=use, **more), None)


def test_the_use_of_the_served_key_is_promised_in_the_json() -> None:
    spent = use_shown(SPENT, state=State.SPENT, reason=Reason.SPENT).to_json()
    assert (spent["state"], spent["reason"], spent["caps"]) == ("spent", "spent", ["max_usage"])
    at = {"as_of": "2026-03-01T13:00:00Z", "spent_at": "2026-03-01T12:00:00Z"}
    assert spent["use"] == {"ratio": 1.0, "cap": "max_usage", **at}
    assert use_shown(HALF_USED).to_json()["use"] == {"ratio": 0.5, "cap": "max_usage", "as_of": at["spent_at"]} | {
        "spent_at": None
    }
    assert use_shown(BURNING).to_json()["use"]["spent_at"] == "2026-03-01T14:00:00Z", "at the present rate"


@pytest.mark.parametrize("ratio", ["NaN", "Infinity", "-1", "1e308", '"all"'])
def test_a_ratio_of_another_daemon_that_cannot_be_printed_is_refused(ratio: str) -> None:
    answer = json.dumps(status_model("prod-eu", START, [use_shown(HALF_USED)]).to_json())
    assert StatusJson.model_validate_json(answer).targets[0].use
    with pytest.raises(ValidationError):
        StatusJson.model_validate_json(answer.replace("0.5", ratio))


@pytest.mark.parametrize("limit", [5e-324, 0.0, 1e-9])
def test_a_limit_close_to_zero_can_be_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], limit: float
) -> None:
    use = replace(used(1e15, START), cap=replace(CAP, limit=limit))
    known = status_model("prod-eu", START, [use_shown(use, state=State.SPENT)])
    assert shown(monkeypatch, capsys, known, terminal=True).count("%") == 1
    json.loads(json.dumps(known.to_json(), allow_nan=False))


def test_use_that_is_not_shown_is_unknown_and_not_zero(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    no_key = TargetStatus(CAPPED, Plan(State.MISSING, Reason.FIRST), None)
    no_caps = TargetStatus(make_target("a"), WELL, None)
    for status, cell in ((use_shown(None), "unknown"), (no_key, "-"), (no_caps, "-")):
        assert status.to_json()["use"] is None
        known = status_model("prod-eu", START, [status])
        assert shown(monkeypatch, capsys, known, terminal=False).split("\t")[7] == cell
        heading, line, *_ = shown(monkeypatch, capsys, known, terminal=True).splitlines()
        assert ("use" in heading.split(), "unknown" in line) == (bool(status.target.caps.caps), cell == "unknown")


@pytest.mark.parametrize(
    ("status", "share", "words"),
    [
        (use_shown(HALF_USED), "50%", None),
        (use_shown(BURNING_SLOWLY), "50%", None),
        (use_shown(BURNING), "99%", "99% of max_usage used, spent at 2026-03-01T14:00:00Z at the present rate"),
        (use_shown(SPENT, state=State.SPENT), "100%", "max_usage spent, seen at 2026-03-01T12:00:00Z"),
    ],
    ids=["no rate in sight", "replaced before", "spent before it is replaced", "spent"],
)
@pytest.mark.parametrize("width", [80, 140])
def test_use_is_shown_and_when_the_cap_is_spent(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    status: TargetStatus,
    share: str,
    words: str | None,
    width: int,
) -> None:
    known = status_model("prod-eu", START, [status])
    heading, line, *below = shown(monkeypatch, capsys, known, terminal=True, width=width).splitlines()
    assert line[heading.index("use") : heading.index("state")].strip() == share
    assert len(line) <= width
    assert (f"a: {words}" in below) == (words is not None)
    assert bool(below) == (words is not None)
    assert shown(monkeypatch, capsys, known, terminal=False).split("\t")[7].startswith(words or "50% of max_usage used")


@pytest.mark.parametrize(
    ("plan", "error", "shown_reason"),
    [
        (WELL, None, "in 16 h (expiring)"),
        (replace(WELL, state=State.DUE, reason=Reason.EXPIRING, renewal=OVERDUE), None, "1 h ago (expiring)"),
        (replace(WELL, state=State.DUE, reason=Reason.DRIFTED), None, "now (drifted)"),
        (replace(WELL, reason=Reason.DRIFTED, renewal=ROLLED_OUT), None, "in 1 h (drifted)"),
        (replace(WELL, state=State.DUE, reason=Reason.EXPIRING), ProviderUnavailable("no"), "in 16 h"),
        (Plan(State.MISSING, Reason.FIRST), None, "-"),
        (None, None, "-"),
    ],
    ids=["ok", "late", "before its time", "at its turn", "failing", "missing", "unknown"],
)
def test_the_next_step_is_shown_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    plan: Plan | None,
    error: RotatorError | None,
    shown_reason: str,
) -> None:
    known = status_model("prod-eu", START, [TargetStatus(make_target("a"), plan, error)])
    heading, line, *_ = shown(monkeypatch, capsys, known, terminal=True, width=140).splitlines()
    begin, end = heading.index("next rotation"), heading.index("superseded")
    assert line[begin:end].strip() == shown_reason


def test_a_foreign_key_id_breaks_no_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    [target] = status_model("prod-eu", START, statuses()[:1]).targets
    target = target.model_copy(update={"key_id": "tk\nb\tok\x1b[2J"})
    known = StatusJson(owner="prod-eu", at=START, targets=(target,))
    assert shown(monkeypatch, capsys, known, terminal=False).split("\t")[2] == "tk\\nb\\tok\\x1b[2J"


def test_the_daemons_own_state_is_shown_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = Emitting()
    for what in EventType:
        log.emit(what, note="", reason="expiring")
    known = DaemonStatus("prod-eu", START, statuses(), log.recent.latest(), SURROUNDINGS).to_model()
    assert len(shown(monkeypatch, capsys, known, terminal=False).splitlines()) == 3
    lines = shown(monkeypatch, capsys, known, terminal=True).splitlines()[6:]
    assert lines[1:9] == [
        "rotator 1.2.3: rotator-1 stands by; the leader is rotator-0",
        "a standby makes no provider requests, so it shows neither use nor spent keys: ask the leader",
        "provider respan: 37% of the rate limit used",
        "store vault: the login expires in 0 s, unless renewed",
        "store other: the login does not expire",
        "provider respan is down: refused: [hidden]",
        "store vault: login failed",
        "a changed configuration was refused, and the old one is in use: bad: [hidden]",
    ]
    events = lines[10:]
    assert len(events) == 20
    newest = list(EventType)[-1].replace("_", " ")
    assert events[-1].endswith(f"a: {newest} (expiring)")  # it is the last
    log.emit(EventType.TARGET_FAILED, error="Vault is sealed.", advice="Unseal it.", failures="3")
    known = DaemonStatus("prod-eu", START, statuses(), log.recent.latest(), SURROUNDINGS).to_model()
    *_, failure, error, advice = shown(monkeypatch, capsys, known, terminal=True).splitlines()
    assert "a: target failed, failures 3" in failure
    assert (error.strip(), advice.strip()) == ("Vault is sealed.", "Unseal it.")


# --- windows ---------------------------------------------------------------------------------------------------------


def test_a_terminal_shows_when_windows_open_in_their_zones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def of(name: str, hours: float, reason: Reason, zone: str) -> TargetStatus:
        plan = replace(WELL, reason=reason, renewal=Renewal(START + hours * HOUR))
        return TargetStatus(make_target(name, windows=(CronWindow("0 9 * * *", HOUR, zone),)), plan, None)

    def lines(*targets: TargetStatus) -> list[str]:
        printed = shown(monkeypatch, capsys, status_model("prod-eu", START, targets), terminal=True)
        return [line for line in printed.splitlines() if line.startswith(("window: ", "pause: "))]

    waiting = [of(name, 21, Reason.WINDOW, "UTC") for name in "ab"]
    kolkata = of("c", 15.5, Reason.WINDOW, "Asia/Kolkata")
    coming = of("d", 45, Reason.FRESH, "UTC"), of("e", 22, Reason.FRESH, "Europe/Berlin")
    paused = of("g", 22, Reason.PAUSED, "Europe/Berlin")
    anytime = TargetStatus(make_target("h"), paused.plan, None)
    assert lines(*waiting, *coming, kolkata, paused, anytime) == [
        "pause: 1 due key waits until 2026-03-02T10:00:00Z",
        "pause: 1 due key waits until Mon 2026-03-02 11:00 (Europe/Berlin)",
        "window: 1 due key waits until Mon 2026-03-02 09:00 (Asia/Kolkata)",
        "window: 2 due keys wait until Mon 2026-03-02 09:00 (UTC)",
        "window: the next rotation is e at Mon 2026-03-02 11:00 (Europe/Berlin)",
    ]
    assert lines(coming[0]) == ["window: the next rotation is d at Tue 2026-03-03 09:00 (UTC)"]
    assert lines(TargetStatus(make_target("f"), WELL, None)) == []


def test_a_pipe_shows_when_windows_open_in_their_zones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = replace(WELL, reason=Reason.WINDOW, renewal=Renewal(START + 21 * HOUR))
    target = make_target("a", windows=(CronWindow("0 9 * * *", HOUR, "Asia/Kolkata"),))
    model = status_model("prod-eu", START, [TargetStatus(target, plan, None)])
    cells = shown(monkeypatch, capsys, model, terminal=False).rstrip().split("\t")
    assert (cells[5], cells[8]) == ("2026-03-02T09:00:00Z", "window, Mon 2026-03-02 14:30 (Asia/Kolkata)")


# --- looks -----------------------------------------------------------------------------------------------------------


def test_a_terminal_shows_how_old_the_looks_of_a_daemon_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lines(*ages: float | None) -> list[str]:
        looks = [None if age is None else START - HOUR * age for age in ages]
        targets = [replace(one, looked_at=look) for one, look in zip(statuses(), looks, strict=True)]
        known = DaemonStatus("prod-eu", START, targets, (), SURROUNDINGS).to_model()
        printed = shown(monkeypatch, capsys, known, terminal=True, width=80)
        return [line for line in printed.splitlines() if line.startswith("the paths")]

    assert lines(0.5, 0.1, 0) == ["the paths were read within the last 30 min"]
    assert lines(0.5, None, 0) == ["the paths were read within the last 30 min; 1 path not read yet"]
    assert lines(None, None, None) == []


def test_the_board_keeps_when_a_path_was_last_read() -> None:
    board, target = StatusRegistry(), make_target("a")
    board.keep_only({"a": target})
    board.observe(target, WELL, START)
    board.update(target, None, ProviderUnavailable("no"))
    board.request(["a"])
    board.keep_only({"a": target})
    [status] = board.snapshot()
    assert status.looked_at == START
    assert status.to_json()["looked_at"] == "2026-03-01T12:00:00Z"
