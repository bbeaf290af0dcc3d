"""A repeated problem is reported once, or ever more rarely, and its end once."""

from support.recorded_events import RecordedEvents
from support.world import HOUR, START, make_target

from rotator.core.caps import CapState
from rotator.core.events import Event, EventType, Level
from rotator.core.plan import Plan
from rotator.core.reasons import Reason, State
from rotator.core.target import Cap
from rotator.core.versions import Record
from rotator.daemon.notices import Notices, Reports, is_to_report
from rotator.protocol.reconciler import Report

STUCK, UNSTUCK = Event(EventType.STUCK), Event(EventType.UNSTUCK)


def test_each_problem_of_a_subject_is_reported_once_until_the_subject_recovers() -> None:
    events: list[Event] = []
    notices = Notices(events.append)
    for trouble in ("a", "a", "b", "a"):
        notices.report(STUCK, "x", trouble)
    assert events == [STUCK, STUCK]
    assert "x" in notices
    assert notices.resolve(UNSTUCK, "x")
    assert not notices.resolve(UNSTUCK, "x")
    assert events[2:] == [UNSTUCK]
    notices.report(STUCK, "x", "a")
    assert events[3:] == [STUCK]


def test_a_kept_finding_is_not_new() -> None:
    notices = Notices(RecordedEvents().append)
    assert [notices.count("x", trouble) for trouble in ("a", "a", "b")] == [1, 2, 1]
    assert notices.keep("x", {"a", "c"}) == {"b"}
    assert [notices.count("x", trouble) for trouble in ("a", "b", "c")] == [3, 1, 1]
    notices.keep("x", ())
    notices.count("y")
    assert "x" not in notices
    notices.keep_only({"z"})
    assert "y" not in notices


def test_a_repeated_failure_is_reported_ever_more_rarely() -> None:
    assert [times for times in range(1, 40) if is_to_report(times)] == [1, 2, 4, 8, 16, 32]


def test_use_that_a_provider_does_not_show_is_reported_once_until_it_does() -> None:
    events = RecordedEvents()
    reports = Reports(events.append)
    for targets in (0, 3, 2, 3, 0, 1):
        reports.unknown_use("respan", targets)
    reports.unknown_use("other", 7)
    found = [(event.what, event.level, event.fields["provider"], event.fields["targets"]) for event in events]
    unknown = (EventType.USE_UNKNOWN, Level.WARNING)
    assert found == [(*unknown, "respan", 3), (*unknown, "respan", 1), (*unknown, "other", 7)]


def test_an_early_rotation_that_is_held_for_another_reason_is_reported_again() -> None:
    events, target, record = (
        RecordedEvents(),
        make_target(),
        Record("o", "t", "tk_1", "n", START, START + HOUR, "p", "k"),
    )
    use = CapState(Cap("max_usage", 100), 90, 1.0, 1.0, START)
    reports = Reports(events.append)
    for held in (Reason.CAP_TOO_SMALL, Reason.CAP_TOO_SMALL, Reason.EARLY_EXHAUSTED, Reason.EARLY_EXHAUSTED):
        plan = Plan(State.DUE, held, record, use=use, is_nearly_spent=True)
        reports.passed(Report(target, plan), 0, None, {})
    held_for = [event.fields["reason"] for event in events.of(EventType.EARLY_ROTATION_HELD)]
    assert held_for == ["cap-too-small", "early-exhausted"]
    assert len(events.of(EventType.KEY_NEARLY_SPENT)) == 1
