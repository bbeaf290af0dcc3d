"""The daemon's jobs: in their turn whatever the wall clock does, and whatever goes wrong in one of them."""

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from support.clocks import ForwardedClock
from support.process import wait_until
from support.starved import no_new_threads
from support.wall import Wall

from rotator.core.errors import RotatorError
from rotator.core.events import Event, EventType, Level
from rotator.daemon.health import Health
from rotator.daemon.jobs import Every, Jobs


class Counted:
    """A job that counts its runs."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self) -> None:
        self.runs += 1


class Rig:
    """Jobs that can be started, and what they event."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.clock = ForwardedClock()
        self.jobs = Jobs(self.clock, self.events.append, Health(self.clock))

    def count(self, seconds: float, name: str, *, at_once: bool = False) -> Counted:
        counted = Counted()
        self.jobs.every(seconds, name, counted, at_once=at_once)
        return counted

    def goes_on(self, counted: Counted) -> None:
        """Return when it has run twice more."""
        before = counted.runs
        wait_until(lambda: counted.runs >= before + 2, "the job to run again", 10)


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    wall = Wall()
    for place, clock in wall.install():
        monkeypatch.setattr(place, clock)
    return wall


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    if rig.jobs.running:
        rig.jobs.shutdown(wait=False)


@pytest.mark.parametrize("jump", [timedelta(hours=-1), timedelta(days=365), timedelta(days=-365)])
def test_a_wall_clock_that_is_set_changes_nothing(
    rig: Rig, wall: Wall, monkeypatch: pytest.MonkeyPatch, jump: timedelta
) -> None:
    asked = Counted()
    next_time = Every.get_next_fire_time

    def counted(trigger: Every, previous: datetime | None, now: datetime) -> datetime:
        asked()
        return next_time(trigger, previous, now)

    monkeypatch.setattr(Every, "get_next_fire_time", counted)
    often, seldom = rig.count(0.05, "often"), rig.count(3600, "seldom")
    rig.jobs.start()
    rig.goes_on(often)
    for _ in range(2):
        wall.ahead += jump
        rig.goes_on(often)
    assert seldom.runs == 0
    assert asked.runs <= 10 + 3 * often.runs, "not for each run that a year would have"


def test_a_machine_that_slept_skips_no_job_and_runs_none_twice(rig: Rig) -> None:
    """A skipped sweep would come a quarter of an hour later."""
    jobs = {name: rig.count(seconds, name) for name, seconds in (("tick", 60), ("sweep", 3600))}
    rig.jobs.start()
    rig.clock.ahead = 90_000.0
    wait_until(lambda: all(job.runs for job in jobs.values()), "both to run", 10)
    rig.jobs.wakeup()
    assert {name: job.runs for name, job in jobs.items()} == {"tick": 1, "sweep": 1}


def test_a_job_can_be_run_at_once_and_keeps_its_turn(rig: Rig) -> None:
    first, second = rig.count(3600, "first"), rig.count(3600, "second")
    third = rig.count(3600, "third", at_once=True)
    rig.jobs.run_now("first")
    rig.jobs.start()
    rig.jobs.run_now("second")
    wait_until(lambda: first.runs == second.runs == third.runs == 1, "all three to run", 10)
    rig.clock.ahead = 3599.0
    rig.jobs.wakeup()
    assert first.runs == 1
    rig.clock.ahead = 3602.0
    wait_until(lambda: first.runs == second.runs == third.runs == 2, "all three to run again", 10)


def test_a_job_gets_another_interval(rig: Rig) -> None:
    counted = rig.count(3600, "job")
    rig.jobs.start()
    rig.jobs.change("job", 0.05)
    rig.goes_on(counted)


def test_a_fault_in_a_job_is_reported_and_ends_nothing(rig: Rig) -> None:
    def fails() -> None:
        raise ZeroDivisionError("oh")

    rig.jobs.every(0.05, "sweep", fails)
    rig.jobs.start()
    wait_until(lambda: len(rig.events) >= 2, "it to run again", 10)
    event = rig.events[0]
    assert (event.what, event.level) == (EventType.UNEXPECTED_ERROR, Level.ERROR)
    assert (event.fields["where"], event.fields["error"]) == ("the job sweep", "ZeroDivisionError: oh")
    assert "in fails" in str(event.fields["traceback"])


def test_a_fault_in_running_the_jobs_is_reported_and_they_go_on(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = rig.count(0.05, "job")
    rig.jobs.start()
    with monkeypatch.context() as patch:
        patch.setattr(Jobs, "get_jobs", lambda _: 1 / 0)
        wait_until(lambda: bool(rig.events), "the fault", 10)
    rig.goes_on(counted)
    assert rig.events[0].fields["where"] == "running the jobs"


def test_jobs_run_though_no_thread_can_be_started(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = rig.count(0.05, "job")
    rig.jobs.start()
    with no_new_threads(monkeypatch):
        rig.goes_on(counted)


def test_a_job_that_is_under_way_is_not_run_beside_itself(rig: Rig) -> None:
    inside, most, gate = Counted(), Counted(), threading.Event()

    def slow() -> None:
        inside.runs += 1
        most.runs = max(most.runs, inside.runs)
        gate.wait(0.3)
        inside.runs -= 1

    rig.jobs.every(0.05, "slow", slow, at_once=True)
    other = rig.count(0.05, "other")
    rig.jobs.start()
    rig.goes_on(other)
    gate.set()
    assert most.runs == 1


def test_jobs_without_threads_are_an_error_of_the_start(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.count(0.05, "job")
    with no_new_threads(monkeypatch), pytest.raises(RotatorError, match="no thread could be started"):
        rig.jobs.start()


def test_jobs_that_all_wait_hold_up_no_other(rig: Rig) -> None:
    gate, waiting = threading.Event(), Counted()

    def waits() -> None:
        waiting()
        gate.wait(30)

    for number in range(20):
        rig.jobs.every(3600, f"waits-{number}", waits, at_once=True)
    tick = rig.count(0.05, "tick")
    rig.jobs.start()
    wait_until(lambda: waiting.runs == 20, "all to wait", 10)
    rig.goes_on(tick)
    gate.set()


def test_a_run_is_counted_from_the_one_before() -> None:
    clock, now = ForwardedClock(), datetime(2026, 1, 1, tzinfo=UTC)
    every = Every(10.0, clock)
    assert round((every.get_next_fire_time(None, now) - now).total_seconds()) == 10
    clock.ahead = 25.0
    assert round((every.due_at(now) - now).total_seconds()) == -15
    assert round((every.get_next_fire_time(now, now) - now).total_seconds()) == 10


def test_a_job_that_is_wanted_while_it_runs_runs_again(rig: Rig) -> None:
    runs, gate = Counted(), threading.Event()

    def waits() -> None:
        runs()
        gate.wait(30)

    rig.jobs.every(3600.0, "files", waits, at_once=True)
    rig.jobs.start()
    wait_until(lambda: runs.runs == 1, "the first run", 10)
    rig.jobs.run_now("files")
    time.sleep(0.2)
    gate.set()
    wait_until(lambda: runs.runs == 2, "the second run", 10)


def test_a_job_may_be_wanted_after_the_end(rig: Rig) -> None:
    """By a signal, or by a job that ends later than the scheduler."""
    runs = rig.count(3600, "files")
    rig.jobs.start()
    rig.jobs.shutdown()
    rig.jobs.run_now("files")
    rig.jobs.has_run("files")
    assert runs.runs == 0
