"""The circuit breaker: it admits one caller now and then, rejects the others with the reason, and detects outages."""

import threading

import pytest
from support.clocks import FakeClock

from rotator.core.errors import StoreSealed
from rotator.runtime.breaker import FIRST_WAIT, LASTING, LONGEST_WAIT, Circuit, Outage


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def circuit(clock: FakeClock) -> Circuit[StoreSealed]:
    return Circuit(clock)


def is_open(circuit: Circuit[StoreSealed]) -> bool:
    try:
        circuit.enter()
    except StoreSealed:
        return True
    return False


def test_all_callers_are_admitted_while_the_upstream_answers(circuit: Circuit[StoreSealed]) -> None:
    assert not any(is_open(circuit) for _ in range(3))


def test_one_at_a_time_tries_after_waits_that_double_up_to_a_bound(
    circuit: Circuit[StoreSealed], clock: FakeClock
) -> None:
    circuit.failed(StoreSealed("sealed"))
    waits = []
    for _ in range(8):
        began = clock.monotonic()
        while is_open(circuit):
            clock.sleep(0.25)
        waits.append(clock.monotonic() - began)
        assert is_open(circuit), "one only"
        circuit.failed(StoreSealed("sealed"))
    assert waits[:4] == [FIRST_WAIT, 2 * FIRST_WAIT, 4 * FIRST_WAIT, 8 * FIRST_WAIT]
    assert waits[-1] == LONGEST_WAIT


def test_many_that_fail_at_once_count_as_one(circuit: Circuit[StoreSealed], clock: FakeClock) -> None:
    for _ in range(8):
        circuit.failed(StoreSealed("sealed"))
    clock.sleep(FIRST_WAIT)
    assert not is_open(circuit)


def test_a_trial_without_a_result_does_not_keep_it_open(circuit: Circuit[StoreSealed], clock: FakeClock) -> None:
    circuit.failed(StoreSealed("sealed"))
    clock.sleep(FIRST_WAIT)
    assert not is_open(circuit)
    assert is_open(circuit), "the others wait for that one"
    clock.sleep(FIRST_WAIT)
    assert not is_open(circuit)


def test_a_success_admits_all_callers_and_resets_the_waits(circuit: Circuit[StoreSealed], clock: FakeClock) -> None:
    for _ in range(5):
        circuit.failed(StoreSealed("sealed"))
        clock.sleep(LONGEST_WAIT)
        assert not is_open(circuit)
    circuit.worked()
    assert not any(is_open(circuit) for _ in range(3))
    circuit.failed(StoreSealed("sealed"))
    clock.sleep(FIRST_WAIT)
    assert not is_open(circuit)


def test_the_error_does_not_grow_with_each_caller_that_gets_it(circuit: Circuit[StoreSealed]) -> None:
    circuit.failed(StoreSealed("sealed"))
    depths = set()
    for _ in range(5):
        with pytest.raises(StoreSealed) as caught:
            circuit.enter()
        depths.add(len(caught.traceback))
    assert len(depths) == 1


def test_one_of_many_threads_is_admitted(circuit: Circuit[StoreSealed], clock: FakeClock) -> None:
    circuit.failed(StoreSealed("sealed"))
    clock.sleep(FIRST_WAIT)
    gone = []
    threads = [threading.Thread(target=lambda: gone.append(not is_open(circuit))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(gone) == 1


def test_a_reset_admits_the_next_caller_at_once(circuit: Circuit[StoreSealed]) -> None:
    circuit.failed(StoreSealed("sealed"))
    circuit.try_now()
    assert circuit.error is not None, "it is down until it answers"
    assert [is_open(circuit), is_open(circuit)] == [False, True]
    circuit.worked()
    circuit.try_now()
    assert not is_open(circuit)


def test_a_look_at_the_circuit_does_not_take_the_turn(circuit: Circuit[StoreSealed], clock: FakeClock) -> None:
    circuit.look()
    circuit.failed(StoreSealed("sealed"))
    with pytest.raises(StoreSealed):
        circuit.look()
    clock.sleep(60)
    circuit.look()
    assert not is_open(circuit), "the turn is still there"


def test_an_outage_is_a_failure_a_while_after_another_with_no_answer_in_between(clock: FakeClock) -> None:
    outage: Outage[StoreSealed] = Outage(clock)

    def error() -> StoreSealed | None:
        return outage.error

    outage.failed(StoreSealed("first"))
    clock.sleep(LASTING - 1)
    outage.failed(StoreSealed("second"))
    assert error() is None
    outage.answered()
    clock.sleep(1)
    outage.failed(StoreSealed("third"))
    clock.sleep(10 * LASTING)
    assert error() is None, "nothing was asked meanwhile"
    outage.failed(last := StoreSealed("fourth"))
    assert error() is last
    outage.answered()
    assert error() is None


def test_an_upstream_without_an_answer_is_tried_a_while_after_the_last_try(clock: FakeClock) -> None:
    outage: Outage[StoreSealed] = Outage(clock)
    outage.failed(StoreSealed("first"))
    clock.sleep(LASTING)
    assert not outage.is_to_be_asked(), "it is no outage yet"
    outage.failed(StoreSealed("second"))
    assert not outage.is_to_be_asked()
    clock.sleep(LONGEST_WAIT)
    assert outage.is_to_be_asked()
    outage.answered()
    assert not outage.is_to_be_asked()
