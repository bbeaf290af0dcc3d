"""What the commands print, without any command: progress, times, and tables of every width."""

import json
import re
import threading
from dataclasses import replace

import pytest
from support.known import used
from support.world import HOUR, START, make_target

from rotator.cli import progress as progressing
from rotator.cli.output import plan_json, plan_lines, report_json, report_lines, sweep_json
from rotator.cli.progress import progress
from rotator.cli.status_table import print_status
from rotator.cli.streams import print_json, print_line
from rotator.config.windows import CronWindow
from rotator.core.errors import StoreUnavailable
from rotator.core.keys import ProviderKey
from rotator.core.orphans import Orphan, OrphanState
from rotator.core.plan import Plan, Retire, SetExpiry
from rotator.core.reasons import Reason, State
from rotator.core.renewal import Renewal
from rotator.core.superseded import Superseded
from rotator.core.versions import Entry, Ownership, Record
from rotator.protocol.reconciler import Report
from rotator.protocol.sweeper import SweepReport
from rotator.telemetry.status import TargetStatus, status_model


def test_foreign_text_sends_no_terminal_sequence(capsys: pytest.CaptureFixture[str]) -> None:
    print_line("a: rotated\tkey tk\x1b[2J\u202e")
    assert capsys.readouterr().out == "a: rotated\tkey tk\\x1b[2J\\u202e\n"


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        (Reason.OTHER_OWNER, "If `owner` was changed, add the former one to `former_owners`. If rotator is meant"),
        (Reason.NO_RECORD, "If rotator is meant"),
    ],
)
def test_a_foreign_path_comes_with_what_to_do(reason: Reason, advice: str) -> None:
    report = Report(make_target(), Plan(State.FOREIGN, reason), None)
    first, second = report_lines(report)
    assert first.endswith(f"holds data that is not ours ({reason})")
    assert second.strip().startswith(advice)


def test_a_failure_names_what_the_applications_have() -> None:
    report = Report(make_target(), None, StoreUnavailable("Vault is away", "Start it."))
    assert [line.strip() for line in report_lines(report)] == [
        f"{report.target.name}: failed: Vault is away",
        "the applications have an unknown key, because the path could not be read: most likely the same as before",
        "Start it.",
    ]


# --- progress --------------------------------------------------------------------------------------------------------


def test_a_line_of_progress_estimates_the_end_once_it_can(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = threading.Semaphore(0)

    def waits() -> str:
        asked.release()
        return ""

    monkeypatch.setattr(progressing, "LINE_EVERY", 0.01)
    with progress("rotating", 100_000, waits) as advance:
        assert asked.acquire(timeout=10)
        for _ in range(20):
            advance()
        for _ in range(2):
            assert asked.acquire(timeout=10)
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first == "rotating: 0 of 100000 done"
    assert re.fullmatch(r"rotating: 20 of 100000 done, about .+ left", last)


def test_a_stall_is_not_silent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = threading.Semaphore(0)

    def waits() -> str:
        asked.release()
        return "waiting"

    monkeypatch.setattr(progressing, "LINE_EVERY", 0.01)
    with progress("rotating", 3, waits) as advance:
        for _ in range(2):
            assert asked.acquire(timeout=10)
        advance()
    lines = capsys.readouterr().err.splitlines()
    assert lines[:1] == ["rotating: 0 of 3 done; waiting"]


# --- what a program reads --------------------------------------------------------------------------------------------

ODD = "b2c3d4e5.An-Id-Of-This-Test_That-No-Other-Registers", "sk_live_Id_0f_this_test", 'token: "tk_Id_0f_this_test"'


@pytest.mark.parametrize("key_id", ODD)
def test_an_id_that_looks_like_a_token_reaches_a_program_whole(capsys: pytest.CaptureFixture[str], key_id: str) -> None:
    target, end = make_target("a"), START + HOUR
    record = Record("prod-eu", "a", key_id, "n", START, end, "p", "f")
    key = ProviderKey(key_id, key_id, end)
    plan = Plan(
        State.OK, Reason.FRESH, record, actions=(SetExpiry(Reason.SUPERSEDED, record, end),), renewal=Renewal(end)
    )
    status = TargetStatus(target, plan, None)
    orphan = Orphan(target, key, OrphanState.OVER, ahead=False)
    swept = SweepReport("respan", 1, (orphan,), (key,))
    print_json([plan_json(status), report_json(Report(target, plan, None), [key_id]), sweep_json(swept)])
    planned, reported, tidied = json.loads(capsys.readouterr().out)
    assert {planned["key_id"], planned["actions"][0]["key_id"], reported["key_id"], *reported["revoked"]} == {key_id}
    assert {tidied["orphans"][0]["key_id"], tidied["unclaimed"][0]["key_name"]} == {key_id}
    print_status(status_model("prod-eu", START, [status]), as_json=False)
    assert key_id in capsys.readouterr().out.split("\t")


# --- what a plan would do ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "verb"),
    [
        (Reason.SUPERSEDED, "shorten"),
        (Reason.RESTORED, "restore"),
        (Reason.IN_USE, "extend"),
        (Reason.PAUSED, "extend"),
    ],
)
def test_a_plan_names_what_happens_to_the_life_of_a_key(reason: Reason, verb: str) -> None:
    """Lines and JSON alike: the key of a paused target is extended, not shortened."""
    record = Record("prod-eu", "a", "tk_1", "n", START, START + HOUR, "p", "f")
    action = SetExpiry(reason, record, START + 2 * HOUR)
    status = TargetStatus(make_target("a"), Plan(State.OK, reason, record, actions=(action,)), None)
    assert list(plan_lines(status)) == [f"a: {verb} tk_1 to 2026-03-01T14:00:00Z ({reason})"]
    assert [action["action"] for action in plan_json(status)["actions"]] == [verb]


def test_a_plan_names_only_the_versions_that_it_destroys() -> None:
    """One that carries a field of another writer is kept."""
    record = Record("prod-eu", "a", "tk_1", "n", START, START + HOUR, "p", "f")
    ours = Entry(1, START, Ownership.OURS, record, as_configured=True, foreign_fields=frozenset())
    shared = replace(ours, number=2, foreign_fields=frozenset({"password"}))
    both, kept = (Superseded(record, versions, START, START) for versions in ((ours, shared), (shared,)))
    actions = tuple(Retire(Reason.GRACE_OVER, key) for key in (both, kept))
    status = TargetStatus(make_target("a"), Plan(State.OK, Reason.FRESH, record, actions=actions), None)
    assert list(plan_lines(status)) == [
        "a: remove tk_1 (grace-over): destroy version 1, delete it at the provider",
        "a: remove tk_1 (grace-over): delete it at the provider",
    ]


# --- a cap -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "reason", "calls", "lines"),
    [
        (State.OK, Reason.FRESH, 10.0, []),
        (State.OK, Reason.FRESH, 45.0, ["a: 90% of max_usage used"]),
        (State.SPENT, Reason.SPENT, 50.0, ["a: max_usage spent, seen at 2026-03-01T12:00:00Z"]),
        (
            State.DUE,
            Reason.EARLY_EXHAUSTED,
            45.0,
            ["a: 90% of max_usage used", "a: not replaced early (early-exhausted)"],
        ),
    ],
)
def test_a_plan_names_a_cap_that_is_nearly_spent(state: State, reason: Reason, calls: float, lines: list[str]) -> None:
    record = Record("prod-eu", "a", "tk_1", "n", START, START + 24 * HOUR, "p", "f")
    renewal = Renewal(START + HOUR)
    plan = Plan(state, reason, record, renewal=renewal, use=used(calls, START), is_nearly_spent=calls >= 40)
    shown = plan_lines(TargetStatus(make_target("a"), plan, None))
    assert list(shown) == [*lines, "a: nothing to do; next rotation at 2026-03-01T13:00:00Z"]


@pytest.mark.parametrize(
    ("reason", "what"),
    [
        (Reason.FRESH, "nothing to do"),
        (Reason.WINDOW, "due, but waits for its window"),
        (Reason.PAUSED, "due, but paused"),
    ],
)
def test_a_plan_names_why_a_due_key_waits(reason: Reason, what: str) -> None:
    record = Record("prod-eu", "a", "tk_1", "n", START, START + 24 * HOUR, "p", "f")
    plan = Plan(State.OK, reason, record, renewal=Renewal(START + HOUR))
    windows = (CronWindow("0 9 * * *", HOUR, "Europe/Berlin"),)
    [line] = plan_lines(TargetStatus(make_target("a", windows=windows), plan, None))
    assert line == f"a: {what}; next rotation at 2026-03-01T13:00:00Z, Sun 2026-03-01 14:00 (Europe/Berlin)"
