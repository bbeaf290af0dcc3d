"""The shared budget: never over the limit in any minute, earliest deadline first, and every wait ends."""

import threading
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clocks import FakeClock
from support.world import HOUR, START

from rotator.core.errors import ProviderUnavailable
from rotator.runtime.rate_limit import WINDOW, SlidingWindow


class SteppedClock(FakeClock):
    """A sleeping thread waits until the test advances the time past the end of that sleep."""

    def __init__(self) -> None:
        super().__init__()
        self.changed = threading.Condition()
        self.sleeping = 0

    def sleep(self, seconds: float) -> None:
        with self.changed:
            end = self.monotonic() + seconds
            self.sleeping += 1
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.monotonic() >= end, timeout=10)
            self.sleeping -= 1

    def advance(self, time: timedelta) -> None:
        with self.changed:
            super().sleep(time.total_seconds())
            self.changed.notify_all()

    def wait_for_sleepers(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.sleeping == count, timeout=10)


def start(take: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    return thread


@given(st.integers(1, 5), st.lists(st.floats(0, 200), max_size=40))
def test_no_minute_sees_more_than_the_limit(limit: int, pauses: list[float]) -> None:
    clock = FakeClock()
    budget = SlidingWindow(limit, clock)
    sent: list[float] = []
    for pause in pauses:
        clock.sleep(pause)
        budget.take(START)
        sent.append(clock.monotonic())
    for moment in sent:
        assert sum(moment <= other < moment + 60 for other in sent) <= limit


def test_no_caller_waits_while_there_is_room() -> None:
    clock = FakeClock()
    budget = SlidingWindow(3, clock)
    for _ in range(3):
        budget.take(START)
    assert clock.monotonic() == 0
    budget.take(START)
    assert clock.monotonic() == WINDOW
    clock.sleep(WINDOW)
    budget.take(START)
    assert clock.monotonic() == 2 * WINDOW


def test_a_pause_holds_for_all_callers_and_a_shorter_one_does_not_end_it() -> None:
    clock = FakeClock()
    budget = SlidingWindow(3, clock)
    budget.pause(30)
    budget.pause(10)
    budget.take(START)
    assert clock.monotonic() == 30


def test_a_closed_budget_admits_while_there_is_room_and_refuses_to_wait() -> None:
    clock = FakeClock()
    budget = SlidingWindow(1, clock)
    budget.close()
    budget.take(START)
    with pytest.raises(ProviderUnavailable):
        budget.take(START)
    assert clock.monotonic() == 0
    clock.sleep(WINDOW)
    budget.take(START)  # the refused caller takes no room


def test_how_much_was_used() -> None:
    clock = FakeClock()
    budget = SlidingWindow(4, clock)
    assert budget.used() == 0
    budget.take(START)
    assert budget.used() == 0.25
    clock.sleep(WINDOW)
    assert budget.used() == 0


def test_waiters_are_released_in_deadline_order() -> None:
    clock = SteppedClock()
    budget = SlidingWindow(1, clock)
    budget.take(START)
    order: list[datetime] = []

    def take(deadline: datetime) -> None:
        budget.take(deadline)
        order.append(deadline)

    needs = [START + hours * HOUR for hours in (5, 1, 9, 3, 7)]
    threads = []
    for count, need in enumerate(needs, 1):
        threads.append(start(lambda need=need: take(need)))  # type: ignore[misc]
        clock.wait_for_sleepers(count)
    while len(order) < len(needs):
        clock.advance(timedelta(seconds=1))
        threading.Event().wait(0.0001)
    for thread in threads:
        thread.join(10)
    assert order == sorted(needs)


def test_closing_ends_every_wait_with_an_error() -> None:
    clock = SteppedClock()
    budget = SlidingWindow(1, clock)
    budget.take(START)
    refused: list[ProviderUnavailable] = []

    def take() -> None:
        try:
            budget.take(START)
        except ProviderUnavailable as error:
            refused.append(error)

    threads = [start(take) for _ in range(3)]
    clock.wait_for_sleepers(3)
    budget.close()
    clock.advance(timedelta(seconds=WINDOW / 2))
    clock.advance(timedelta(seconds=WINDOW / 2 - 0.5))
    assert not refused  # they notice at the end of their sleep
    clock.advance(timedelta(seconds=1))
    for thread in threads:
        thread.join(10)
    assert len(refused) >= 2  # one may have found room by then


def test_many_threads_together_stay_within_the_limit() -> None:
    clock = FakeClock()
    budget = SlidingWindow(20, clock)
    sent: list[float] = []
    lock = threading.Lock()

    def take() -> None:
        for _ in range(25):
            budget.take(START)
            with lock:
                sent.append(clock.monotonic())

    threads = [start(take) for _ in range(8)]
    for thread in threads:
        thread.join(20)
    assert len(sent) == 200
    # A thread may record its time a little after its release, but never before.
    assert clock.monotonic() >= WINDOW * 9
    assert budget.used() <= 1


# --- a part of it ----------------------------------------------------------------------------------------------------


def test_a_part_takes_from_the_whole_and_never_more_than_its_own_limit() -> None:
    clock = FakeClock()
    whole = SlidingWindow(60, clock)
    part = SlidingWindow(12, clock, whole)
    for _ in range(12):
        part.take(START)
    assert clock.monotonic() == 0
    assert whole.used() == 12 / 60
    part.take(START)
    assert clock.monotonic() >= WINDOW, "although the whole has room"


def test_a_part_waits_for_the_whole_and_its_pauses() -> None:
    clock = FakeClock()
    whole = SlidingWindow(3, clock)
    part = SlidingWindow(2, clock, whole)
    for _ in range(3):
        whole.take(START)
    part.take(START)
    assert clock.monotonic() >= WINDOW
    whole.pause(100)
    before = clock.monotonic()
    part.take(START)
    assert clock.monotonic() - before >= 100


def test_closing_the_whole_ends_the_waits_for_a_part() -> None:
    clock = FakeClock()
    whole = SlidingWindow(60, clock)
    part = SlidingWindow(1, clock, whole)
    part.take(START)
    whole.close()
    with pytest.raises(ProviderUnavailable, match="stopping"):
        part.take(START)
    assert clock.monotonic() < WINDOW


def test_a_budget_knows_its_queue_including_that_of_a_part() -> None:
    clock = SteppedClock()
    whole = SlidingWindow(5, clock)
    part = SlidingWindow(1, clock, whole)
    part.take(START)
    assert not whole.awaited()
    waiting = threading.Thread(target=part.take, args=(START,))
    waiting.start()
    clock.wait_for_sleepers(1)
    assert whole.awaited()
    while waiting.is_alive():
        clock.advance(timedelta(seconds=WINDOW))
        waiting.join(0.01)
    assert not whole.awaited()
