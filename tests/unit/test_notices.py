"""What is reported of a trouble that comes again and again: it once, or ever more rarely, and its end."""

from support.recorded_events import RecordedEvents

from rotator.core.events import Event, EventType
from rotator.daemon.notices import Notices, is_to_report

STUCK, UNSTUCK = Event(EventType.STUCK), Event(EventType.UNSTUCK)


def test_each_trouble_of_a_subject_is_reported_once_until_the_subject_recovers() -> None:
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


def test_what_is_kept_is_not_new_and_the_rest_is() -> None:
    notices = Notices(RecordedEvents().append)
    assert [notices.count("x", trouble) for trouble in ("a", "a", "b")] == [1, 2, 1]
    assert notices.keep("x", {"a", "c"}) == {"b"}
    assert [notices.count("x", trouble) for trouble in ("a", "b", "c")] == [3, 1, 1]
    notices.keep("x", ())
    notices.count("y")
    assert "x" not in notices
    notices.keep_only({"z"})
    assert "y" not in notices


def test_what_comes_again_and_again_is_reported_ever_more_rarely() -> None:
    assert [times for times in range(1, 40) if is_to_report(times)] == [1, 2, 4, 8, 16, 32]
