"""The queue of a channel: what fails is sent again, and nothing waits for it, whatever the channel does."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.process import wait_until
from support.recorded_events import RecordedEvents
from support.starved import no_new_threads

from rotator.core.errors import NotificationFailed, NotificationRefused, NotificationUnwanted
from rotator.core.events import EventType, Level
from rotator.notify import outbox as outboxes
from rotator.notify import webhooks
from rotator.notify.notification import Notification, notification
from rotator.notify.outbox import Outbox
from rotator.runtime.clock import SystemClock
from rotator.telemetry.metrics import Metrics

AT = datetime(2026, 3, 1, tzinfo=UTC)


def numbered(number: int, kind: str = "key.published") -> Notification:
    return notification(kind, AT, "o", "t", {"number": number}, number)


class Channel:
    """A sender that does what a test wants of it."""

    types = ("key.published",)

    def __init__(self) -> None:
        self.answer: Callable[[int], object] = lambda _: None
        self.tried: list[int] = []
        self.sent: list[int] = []

    def send(self, notification: Notification) -> None:
        number = int(notification.facts["number"])
        self.tried.append(number)
        self.answer(number)
        self.sent.append(number)


class Box:
    def __init__(self) -> None:
        self.channel, self.events, self.metrics = Channel(), RecordedEvents(), Metrics("0")
        self.clock = SystemClock()
        self.metrics.notifications.start(["chat"])
        self.outbox = Outbox("chat", self.clock, self.metrics.notifications, self.events.append)
        self.outbox.use(self.channel)

    def put(self, *numbers: int) -> None:
        for number in numbers:
            self.outbox.put(numbered(number))

    def counted(self) -> dict[str, int]:
        lines = [line for line in self.metrics.render().decode().splitlines() if "notifications_total{" in line]
        return {line.split('outcome="')[1].split('"')[0]: int(float(line.split(" ")[1])) for line in lines}

    def end(self, within: float = 0.0) -> int:
        """End the outbox, and return how many notifications it reports as left."""
        reported = len(self.events)
        self.outbox.end(self.clock.monotonic() + within)
        self.outbox.join()
        return sum(int(event.fields["waiting"]) for event in self.events[reported:] if "end" in str(event.fields))


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    monkeypatch.setattr(outboxes, "FIRST_WAIT", 0.02)
    monkeypatch.setattr(outboxes, "LONGEST_WAIT", 0.1)
    box = Box()
    yield box
    box.end()


def fails(_number: int) -> None:
    raise NotificationFailed("no answer", "Look.")


def fails_for(*numbers: int) -> Callable[[int], None]:
    return lambda number: fails(number) if number in numbers else None


def test_what_is_put_is_sent_in_order_and_counted(box: Box) -> None:
    box.put(1, 2, 3)
    wait_until(lambda: box.channel.sent == [1, 2, 3], "all to be sent")
    assert box.end(5) == 0
    assert box.counted() == {"success": 3, "failure": 0, "dropped": 0}
    assert box.events == []


def test_a_type_that_the_channel_does_not_want_is_not_queued(box: Box) -> None:
    box.outbox.put(numbered(1, "key.ending"))
    box.put(2)
    wait_until(lambda: box.channel.sent == [2], "the other")


def test_a_failure_is_tried_again_and_reported_once_and_so_is_the_recovery(box: Box) -> None:
    box.channel.answer = fails
    box.put(1)
    wait_until(lambda: len(box.channel.tried) >= 4, "some tries")
    box.channel.answer = lambda _: None
    wait_until(lambda: box.channel.sent == [1], "the success")
    assert box.end(5) == 0
    failed, recovered = box.events
    assert failed.what is EventType.NOTIFICATIONS_FAILED
    assert (failed.level, failed.fields["error"], failed.fields["waiting"]) == (Level.WARNING, "no answer", 1)
    assert recovered.what is EventType.NOTIFICATIONS_RECOVERED
    assert box.counted()["failure"] == len(box.channel.tried) - 1


def test_the_waits_grow_to_the_longest(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    at: list[float] = []

    def note(number: int) -> None:
        at.append(time.monotonic())
        fails(number)

    box.channel.answer = note
    box.put(1)
    wait_until(lambda: len(at) >= 6, "six tries")
    waits = [after - before for before, after in itertools.pairwise(at)]
    for wait, least in zip(waits, (0.02, 0.04, 0.08, 0.1, 0.1), strict=False):
        assert wait >= least


def test_one_bad_notification_does_not_stop_the_others(box: Box) -> None:
    box.channel.answer = fails_for(1)
    box.put(1, 2, 3)
    wait_until(lambda: box.channel.sent == [2, 3], "the others")
    box.channel.answer = lambda _: None
    wait_until(lambda: box.channel.sent == [2, 3, 1], "the first, too")


def test_one_that_the_channel_refuses_at_each_try_delays_nothing_new(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of many ExternalSecrets, which a policy refuses: the others are annotated within seconds."""
    box.channel.answer = fails_for(1)
    box.put(1)
    wait_until(lambda: len(box.channel.tried) >= 2, "a further try")
    monkeypatch.setattr(outboxes, "FIRST_WAIT", 60.0)
    monkeypatch.setattr(outboxes, "LONGEST_WAIT", 60.0)
    tried = len(box.channel.tried)
    wait_until(lambda: len(box.channel.tried) > tried, "the last try for a while")
    box.put(2, 3)
    wait_until(lambda: box.channel.sent == [2, 3], "the new ones", seconds=20)


def test_a_receiver_that_is_down_gets_a_new_one_once_in_each_wait(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outboxes, "FIRST_WAIT", 60.0)
    monkeypatch.setattr(outboxes, "LONGEST_WAIT", 60.0)
    box.channel.answer = fails
    box.put(1)
    wait_until(lambda: box.counted()["failure"] == 1, "the first try")
    box.put(*range(2, 100))
    assert box.end(1) == 99
    assert box.channel.tried == [1]


def test_a_full_queue_drops_the_oldest_and_putting_never_waits(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outboxes, "MOST", 10)
    let_go = threading.Event()
    box.channel.answer = lambda _: let_go.wait(30)
    box.put(0)
    wait_until(lambda: box.channel.tried == [0], "the first to be under way")
    began = time.monotonic()
    box.put(*range(1, 1001))
    assert time.monotonic() - began < 2
    assert box.counted()["dropped"] == 990
    let_go.set()
    wait_until(lambda: box.channel.sent == [0, *range(991, 1001)], "the latest")


def test_after_a_day_a_notification_is_dropped(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outboxes, "GIVE_UP_AFTER", 0.2)
    box.channel.answer = fails_for(1)
    box.put(1)
    wait_until(lambda: box.counted()["dropped"] == 1, "it to be dropped")
    tried = len(box.channel.tried)
    assert tried > 1
    box.put(2)
    wait_until(lambda: box.channel.sent == [2], "the next")
    assert len(box.channel.tried) == tried + 1


def test_what_is_older_than_a_day_is_dropped_although_it_waits_behind_others(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outboxes, "GIVE_UP_AFTER", 0.2)
    monkeypatch.setattr(outboxes, "LONGEST_WAIT", 1.5)
    monkeypatch.setattr(outboxes, "FIRST_WAIT", 1.5)
    box.channel.answer = fails
    box.put(1, 2, 3, 4)
    wait_until(lambda: box.counted()["dropped"] == 4, "all to be dropped")
    assert len(box.channel.tried) <= 2


def test_a_failure_that_only_a_person_can_help_is_reported_after_another_one(box: Box) -> None:
    """A receiver that was down comes back with another secret: the log must show the 401."""

    def refuses(_number: int) -> None:
        raise NotificationRefused("answered 401", "Compare the secrets.")

    def try_thrice(answer: Callable[[int], None]) -> None:
        box.channel.answer = answer
        enough = len(box.channel.tried) + 3  # the first may have begun before, and the last has not ended
        wait_until(lambda: len(box.channel.tried) >= enough, "three tries")

    box.channel.answer = fails
    box.put(1)
    wait_until(lambda: len(box.events) == 1, "the first report")
    for answer in (refuses, fails, refuses):
        try_thrice(answer)
    assert [(event.level, event.fields["error"]) for event in box.events] == [
        (Level.WARNING, "no answer"),
        (Level.ERROR, "answered 401"),
    ]


def test_a_receiver_that_wants_no_more_gets_none_until_a_reload(box: Box) -> None:
    def gone(_number: int) -> None:
        raise NotificationUnwanted("answered 410", "Remove it.")

    box.channel.answer = gone
    box.put(1)
    wait_until(lambda: len(box.events) == 1, "the report")
    assert box.events[0].level is Level.ERROR
    box.put(2, 3)
    assert box.counted()["dropped"] == 3
    box.outbox.use(box.channel)
    box.put(4)
    wait_until(lambda: len(box.events) == 2, "the report after a reload that changed nothing")
    box.channel.answer = lambda _: None
    box.outbox.use(box.channel)
    box.put(5)
    wait_until(lambda: box.channel.sent == [5], "the one after the reload")
    assert box.channel.tried == [1, 4, 5]


def test_a_reload_sends_what_waits_with_the_new_sender_at_once(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outboxes, "FIRST_WAIT", 60.0)
    monkeypatch.setattr(outboxes, "LONGEST_WAIT", 60.0)
    box.channel.answer = fails
    box.put(1)
    wait_until(lambda: len(box.events) == 1, "the failure")
    corrected = Channel()
    box.outbox.use(corrected)
    wait_until(lambda: corrected.sent == [1], "the corrected one to send")


def test_a_failure_of_a_sender_that_was_replaced_meanwhile_is_not_one_of_the_new_one(box: Box) -> None:
    let_go, corrected = threading.Event(), Channel()

    def closed(number: int) -> None:
        let_go.wait(30)
        fails(number)

    box.channel.answer = closed
    box.put(1)
    wait_until(lambda: box.channel.tried == [1], "it to be under way")
    box.outbox.use(corrected)
    let_go.set()
    wait_until(lambda: corrected.sent == [1], "the corrected one to send")
    assert box.events == []


def test_a_fault_is_reported_and_does_not_end_the_thread(box: Box) -> None:
    def fault(_number: int) -> None:
        raise KeyError("a fault")

    box.channel.answer = fault
    box.put(1)
    wait_until(lambda: len(box.events) == 2, "the report")
    assert [event.what for event in box.events] == [EventType.UNEXPECTED_ERROR, EventType.NOTIFICATIONS_FAILED]
    box.channel.answer = lambda _: None
    wait_until(lambda: box.channel.sent == [1], "it to be sent")


def test_without_a_thread_left_it_is_sent_with_the_next_one(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    with no_new_threads(monkeypatch):
        box.put(1)
    assert box.events[0].what is EventType.NOTIFICATIONS_FAILED
    box.put(2)
    wait_until(lambda: box.channel.sent == [1, 2], "both")


def test_the_times_and_the_bound_are_those_of_the_documentation() -> None:
    document = (Path(__file__).parents[2] / "docs/consumers.md").read_text()
    first, longest = f"{outboxes.FIRST_WAIT:.0f} second", f"{outboxes.LONGEST_WAIT / 60:.0f} minutes"
    assert f"tries again for a day, after {first} to {longest}" in document
    assert timedelta(seconds=outboxes.GIVE_UP_AFTER) == timedelta(days=1)
    assert f"Up to {outboxes.MOST:,} notifications wait for each channel" in document
    assert f"Any 2xx within {webhooks.TIMEOUT:.0f} seconds" in document


# --- the end ---------------------------------------------------------------------------------------------------------


def test_the_end_sends_what_is_queued(box: Box) -> None:
    box.channel.answer = lambda _: time.sleep(0.01)
    box.put(*range(20))
    assert box.end(30) == 0
    assert box.channel.sent == [*range(20)]


def test_the_end_does_not_wait_for_another_try(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outboxes, "FIRST_WAIT", 60.0)
    box.channel.answer = fails
    box.put(1, 2)
    wait_until(lambda: len(box.events) == 1, "the failure")
    began = time.monotonic()
    assert box.end(30) == 2
    assert time.monotonic() - began < 5


def test_the_end_is_in_time_with_a_full_queue_and_a_slow_receiver(box: Box) -> None:
    let_go = threading.Event()
    box.channel.answer = lambda _: let_go.wait(30)
    box.put(*range(1000))
    wait_until(lambda: box.channel.tried == [0], "the first to be under way")
    began = time.monotonic()
    assert box.end(0.3) == 1000
    assert time.monotonic() - began < 5
    let_go.set()


def test_an_outbox_that_was_never_used_ends_at_once(box: Box) -> None:
    assert box.end(30) == 0
