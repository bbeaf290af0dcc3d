"""Threads that run from the start, and what is done where the machine has no more of them."""

import queue
import threading

import pytest
from support.process import wait_until
from support.starved import no_new_threads

from rotator.app.passes import in_threads
from rotator.core.errors import RotatorError
from rotator.runtime.threads import Workers


@pytest.mark.parametrize("left", [0, 1, 3])
def test_workers_that_cannot_all_be_started_are_an_error_and_leave_none_behind(
    monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    before = threading.active_count()
    with no_new_threads(monkeypatch, left), pytest.raises(RotatorError, match="no thread could be started") as caught:
        Workers(4, "worker")
    assert "TasksMax" in caught.value.advice
    wait_until(lambda: threading.active_count() == before, "the threads to end")


def test_work_is_done_by_the_threads_of_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    before = threading.active_count()
    workers, done = Workers(2, "worker"), queue.SimpleQueue[str]()
    with no_new_threads(monkeypatch):
        for _ in range(5):
            workers.submit(lambda: done.put(threading.current_thread().name))
        assert {done.get(timeout=10) for _ in range(5)} <= {"worker-0", "worker-1"}
    workers.end()
    wait_until(lambda: threading.active_count() == before, "the threads to end")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_fault_in_the_work_is_reported_and_costs_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    workers, reported, done = Workers(1, "worker"), queue.SimpleQueue[threading.ExceptHookArgs](), threading.Event()
    monkeypatch.setattr(threading, "excepthook", reported.put)
    workers.submit(lambda: 1 / 0)
    workers.submit(done.set)
    assert done.wait(10)
    assert reported.get(timeout=10).exc_type is ZeroDivisionError
    assert not list(workers.problems())
    workers.end()


@pytest.mark.parametrize("left", [0, 1, 8])
def test_many_things_are_done_with_as_many_threads_as_there_are(monkeypatch: pytest.MonkeyPatch, left: int) -> None:
    with no_new_threads(monkeypatch, left):
        assert sorted(in_threads(8, range(20), lambda number: 2 * number)) == list(range(0, 40, 2))


def test_who_leaves_before_the_end_has_what_waits_interrupted_and_nothing_more_begun() -> None:
    gate, begun = threading.Event(), queue.SimpleQueue[int]()

    def work(number: int) -> None:
        begun.put(number)
        if number == 0:
            raise ZeroDivisionError
        assert gate.wait(10)

    with pytest.raises(ZeroDivisionError):
        list(in_threads(2, range(100), work, gate.set))
    assert begun.qsize() <= 3
