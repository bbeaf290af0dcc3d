"""When the daemon counts as stuck and when it does not; and what systemd receives."""

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.assembly import assemble, respan
from support.clocks import FakeClock, ForwardedClock
from support.handover import Left
from support.process import wait_until

from rotator.config.values import Address
from rotator.core.errors import ProviderUnavailable
from rotator.core.renewal import TIDYING
from rotator.core.target import Target
from rotator.daemon import systemd
from rotator.daemon.dispatcher import NO_PASS, STUCK, Dispatcher
from rotator.daemon.health import LONGEST_WORK, Health
from rotator.daemon.jobs import Jobs
from rotator.daemon.leader import STUCK as LEASE_STUCK
from rotator.daemon.leader import Lease
from rotator.daemon.systemd import Systemd
from rotator.protocol.reconciler import Report
from rotator.runtime.clock import SystemClock
from rotator.runtime.kubernetes import Access, LeaseSettings
from rotator.runtime.rate_limit import SlidingWindow
from rotator.runtime.threads import Workers
from rotator.telemetry.metrics import Metrics
from rotator.web.server import Server

_dies = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


class Rig:
    """A dispatcher whose passes last until the test releases them."""

    def __init__(self, folder: Path) -> None:
        (folder / "key").write_text("organisation-key")
        settings = {
            "providers": {"respan": respan(requests_per_minute=1)},
            "daemon": {"workers": 2, "drain": "1s", "resync": "30d"},
            "targets": {name: {"path": f"apps/{name}"} for name in ("a", "b", "c")},
        }
        self.clock, self.gate = ForwardedClock(), threading.Event()
        metrics = Metrics("0")
        self.installation = assemble(folder, settings, self.clock, metrics, lambda _: None)
        self.work: Callable[[], Any] = lambda: self.gate.wait(30)
        for reconciler in {self.installation.reconciler(target) for target in self.installation.targets.values()}:
            reconciler.reconcile = self.reconcile  # type: ignore[method-assign, assignment]
        self.dispatcher = Dispatcher(self.installation, metrics, lambda _: None)
        self.under_way = {"a", "b", "c"}

    def reconcile(self, target: Target, *_: object) -> Report:
        self.work()
        self.under_way.discard(target.name)
        return Report(target, None)

    def problems(self, after: float) -> list[str]:
        """Return the problems after so many seconds in which the schedule was read as usual."""
        self.clock.ahead += after
        self.dispatcher.tick()
        return list(self.dispatcher.problems())


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.gate.set()
    made.dispatcher.end()
    made.installation.close()


# --- the dispatcher ---------------------------------------------------------------------------------------------------


def test_a_schedule_that_is_not_read_is_a_problem(rig: Rig) -> None:
    rig.clock.ahead += STUCK
    [problem] = rig.dispatcher.problems()
    assert problem.startswith("the schedule was last looked at 30")
    assert rig.problems(0) == []


def test_targets_that_are_due_while_no_pass_ends_are_a_problem(rig: Rig) -> None:
    rig.dispatcher.tick()
    assert rig.problems(NO_PASS - 5) == []
    [problem] = rig.problems(10)
    assert problem.startswith("1 targets are due, and no pass has ended for 60")
    rig.gate.set()
    wait_until(lambda: not rig.dispatcher.under_way, "the passes to end")
    assert rig.problems(0) == []


def test_nothing_due_is_no_problem_however_long(rig: Rig) -> None:
    rig.gate.set()
    rig.dispatcher.tick()
    wait_until(lambda: not rig.dispatcher.under_way, "the passes to end")
    assert rig.problems(10 * NO_PASS) == []


def test_a_pass_that_does_not_end_is_named(rig: Rig) -> None:
    first = threading.Event()

    def only_the_first_waits() -> None:
        if not first.is_set():
            first.set()
            rig.gate.wait(30)

    rig.work = only_the_first_waits
    rig.dispatcher.tick()
    wait_until(lambda: rig.dispatcher.under_way == 1, "the other passes to end")
    assert rig.problems(LONGEST_WORK - 5) == []
    wait_until(lambda: rig.dispatcher.under_way == 1, "the other passes to end")
    [problem], [waiting] = rig.problems(10), rig.under_way
    assert problem.startswith(f"the pass over {waiting} has made no progress for 180")


def test_a_wait_for_the_budget_is_no_problem_however_long(rig: Rig) -> None:
    budget = rig.installation.budgets["respan"]
    budget.pause(1e6)  # as a 429 that asks for it
    rig.work = lambda: budget.take(TIDYING)
    rig.dispatcher.tick()
    wait_until(budget.has_queue, "a pass to wait")
    for _ in range(5):
        assert rig.problems(NO_PASS - 5) == []
    budget.close()


def test_a_part_of_a_budget_that_is_waited_for_counts(rig: Rig) -> None:
    whole = rig.installation.budgets["respan"]
    part = SlidingWindow(1, rig.clock, whole=whole)
    part.take(TIDYING)

    def wait() -> None:
        with pytest.raises(ProviderUnavailable):
            part.take(TIDYING)

    waiting = threading.Thread(target=wait)
    waiting.start()
    wait_until(whole.has_queue, "the part to be waited for")
    whole.close()
    waiting.join()
    assert not whole.has_queue()


def test_a_sweep_that_goes_on_is_no_problem_and_one_that_does_not_is(rig: Rig) -> None:
    health = rig.dispatcher.health
    with health.doing("sweep"):
        for _ in range(5):
            rig.clock.ahead += LONGEST_WORK - 5
            health.moved("sweep")
            assert list(health.problems()) == []
        rig.clock.ahead += LONGEST_WORK + 5
        assert [problem.split(" for ")[0] for problem in health.problems()] == ["sweep has made no progress"]
    assert list(health.problems()) == []
    health.moved("sweep")
    assert list(health.problems()) == [], "it is not under way"


def test_a_sweep_moves_with_each_target(rig: Rig) -> None:
    [sweeper] = rig.installation.sweepers.values()
    found: list[list[str]] = []

    def sweep(*, stopping: Callable[[], bool], **_: object) -> Any:
        for _step in range(3):
            rig.clock.ahead += LONGEST_WORK - 5
            stopping()
            found.append(list(rig.dispatcher.health.problems()))
        raise ZeroDivisionError

    sweeper.sweep = sweep  # type: ignore[method-assign, assignment]
    with rig.dispatcher.health.doing("sweep"):
        rig.dispatcher.sweep()
    assert found == [[], [], []]


# --- threads ---------------------------------------------------------------------------------------------------------


@_dies
def test_a_worker_that_has_ended_is_named() -> None:
    workers = Workers(2, "worker")
    assert list(workers.problems()) == []

    def ends() -> None:
        raise SystemExit

    workers.submit(ends)
    wait_until(lambda: bool(list(workers.problems())), "a thread to end")
    [problem] = workers.problems()
    assert problem in ("the thread worker-0 has ended", "the thread worker-1 has ended")
    workers.end()
    assert list(workers.problems()) == [], "it is meant to"


@_dies
def test_jobs_without_a_thread_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SystemClock()
    jobs = Jobs(clock, lambda _: None, Health(clock))
    assert list(jobs.problems()) == []

    def ends(_: Jobs) -> float:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(Jobs, "_process_jobs", ends)
        jobs.start()
        wait_until(lambda: list(jobs.problems()) == ["the thread that runs the jobs has ended"], "it to be noticed")
    jobs.shutdown(wait=False)


def test_a_job_that_does_not_end_is_named() -> None:
    clock, gate = ForwardedClock(), threading.Event()
    health = Health(clock)
    jobs = Jobs(clock, lambda _: None, health)

    def hangs() -> None:
        gate.wait(30)

    jobs.every(3600, "files", hangs, at_once=True)
    jobs.start()
    wait_until(lambda: later(clock, health) == ["files has made no progress"], "it to be noticed")
    gate.set()
    wait_until(lambda: later(clock, health) == [], "it to end")
    jobs.shutdown(wait=False)


def later(clock: ForwardedClock, health: Health) -> list[str]:
    clock.ahead = LONGEST_WORK + 5
    found = [problem.split(" for ")[0] for problem in health.problems()]
    clock.ahead = 0.0
    return found


@_dies
def test_a_lease_without_attempts_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, gate = FakeClock(), threading.Event()
    access = Access("https://127.0.0.1:9", "rotator", tmp_path / "token", tmp_path / "ca")
    lease = Lease(LeaseSettings(access, "rotator", "me", 15.0), clock, lambda _: None, Left())
    assert list(lease.problems()) == []
    monkeypatch.setattr(lease, "attempt", lambda: gate.wait(30))
    lease.start()
    clock.sleep(LEASE_STUCK - 5)
    assert list(lease.problems()) == []
    clock.sleep(10)
    [problem] = lease.problems()
    assert problem == "the last attempt at the Lease was 125 s ago"

    def ends() -> None:
        raise SystemExit

    monkeypatch.setattr(lease, "attempt", ends)
    gate.set()
    wait_until(lambda: list(lease.problems()) == ["the thread that keeps the Lease has ended"], "it to end")


@_dies
def test_a_port_without_a_listener_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(Address("127.0.0.1", 0), {}, option="", loopback_only_hosts=True, emit=lambda _: None)
    assert list(server.problems()) == []

    def ends(_: object, connection: socket.socket) -> None:
        connection.close()
        raise SystemExit

    monkeypatch.setattr("rotator.web.server.Server._start", ends)
    with socket.create_connection((server.address.host, server.address.port), timeout=5):
        wait_until(lambda: bool(list(server.problems())), "its thread to end")
    assert list(server.problems()) == [f"the thread that listens on {server.address} has ended"]
    server.close()
    assert list(server.problems()) == [], "it is meant to"


# --- systemd ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["file", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """What systemd listens on, and its address as the environment has it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        if request.param == "file":
            address = str(tmp_path / "notify")
            listener.bind(address)
        else:
            listener.bind("")
            address = "@" + listener.getsockname()[1:].decode()
        listener.setblocking(False)
        yield address, listener


def is_silent(listener: socket.socket) -> bool:
    with pytest.raises(BlockingIOError):
        listener.recv(100)
    return True


def test_systemd_is_sent_what_it_waits_for(manager: tuple[str, socket.socket]) -> None:
    address, listener = manager
    clock = FakeClock()
    sender = Systemd({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "60000000"}, clock)
    sender.send(systemd.READY)
    assert listener.recv(100) == b"READY=1"
    sender.keep_alive()
    assert listener.recv(100) == b"WATCHDOG=1"
    sender.keep_alive()
    clock.sleep(14)
    sender.keep_alive()
    assert is_silent(listener)
    clock.sleep(1)
    sender.keep_alive()
    assert listener.recv(100) == b"WATCHDOG=1", "four times within its time"


def test_a_watchdog_of_another_process_is_left_alone(manager: tuple[str, socket.socket]) -> None:
    address, listener = manager
    environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}
    Systemd(environment, FakeClock()).keep_alive()
    assert is_silent(listener)


def test_without_systemd_nothing_is_sent_and_nothing_fails(tmp_path: Path) -> None:
    for environment in ({}, {"NOTIFY_SOCKET": str(tmp_path / "absent")}):
        Systemd(environment, FakeClock()).send(systemd.READY)
    Systemd({"WATCHDOG_USEC": "60000000"}, FakeClock()).keep_alive()


def test_a_systemd_that_reads_nothing_delays_nothing(manager: tuple[str, socket.socket]) -> None:
    sender = Systemd({"NOTIFY_SOCKET": manager[0]}, FakeClock())
    for _ in range(2000):
        sender.send(systemd.STOPPING)
