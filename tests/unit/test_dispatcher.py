"""The dispatcher: which replica acts, what it reports of upstreams, clocks and failures, and when it sweeps."""

import itertools
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.assembly import assemble, respan
from support.process import wait_until
from support.recorded_events import RecordedEvents
from support.starved import no_new_threads

from rotator.app.wiring import Installation
from rotator.core.errors import ProviderRequestRefused, StoreUnavailable
from rotator.core.events import Event, EventType, Level
from rotator.core.keys import ListedKey
from rotator.core.ports import Ports
from rotator.core.reasons import Reason, State
from rotator.core.request import RotationRequest
from rotator.core.target import Target
from rotator.core.times import next_turn
from rotator.daemon.dispatcher import Dispatcher
from rotator.daemon.notices import Reports
from rotator.daemon.schedule import Schedule, Task
from rotator.protocol import observer
from rotator.protocol.reconciler import Report
from rotator.protocol.sweeper import SweepReport
from rotator.runtime import breaker as circuits
from rotator.runtime.clock import SystemClock
from rotator.runtime.rate_limit import SlidingWindow
from rotator.runtime.threads import Workers
from rotator.simulator import Fault, Options, Simulator
from rotator.telemetry.metrics import Metrics


class Replica:
    """One process's dispatcher, on a provider and a file that several processes share."""

    def __init__(self, folder: Path, simulator: Simulator, *, leads: bool, **changes: Any) -> None:
        self.simulator = simulator
        self.leads = leads
        self.events = RecordedEvents()
        self.metrics = metrics = Metrics("0")
        settings = {
            "providers": {"respan": respan(simulator.url, requests_per_minute=6000)},  # else many sweeps wait
            "sweep": {"min_age": "1s"},
            "targets": {name: {"path": f"apps/{name}"} for name in ("a", "b")},
            **changes,
        }
        (folder / "key").write_text(simulator.organisation_key)
        self.clock = SystemClock()
        self.installation = assemble(
            folder, settings, self.clock, metrics, self.events.append, leads=lambda: self.leads
        )
        self.dispatcher = Dispatcher(self.installation, metrics, self.events.append, lambda: self.leads)

    def work(self) -> None:
        """Do all that is due now."""
        looked = self.dispatcher.statuses.snapshot
        for _ in range(2):  # between a pass and the one that follows from it nothing is under way for a moment
            self.dispatcher.tick()
            wait_until(
                lambda: all(s.plan or s.error for s in looked()) and not self.dispatcher.under_way, "the passes to end"
            )

    def work_until(self, condition: Callable[[], bool], what: str) -> None:
        """Do what comes due until `condition` holds: what waited for an upstream comes one after the other."""

        def met() -> bool:
            self.work()
            return condition()

        wait_until(met, what)

    def states(self) -> dict[str, State]:
        return {status.target.name: status.state for status in self.dispatcher.statuses.snapshot()}

    def calls(self) -> list[str]:
        return [call.operation for call in self.simulator.journal]


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(options=Options(requests_per_minute=None)) as simulator:
        yield simulator


@pytest.fixture
def replica(tmp_path: Path, simulator: Simulator) -> Iterator[Replica]:
    made = Replica(tmp_path, simulator, leads=True)
    yield made
    made.dispatcher.end()
    made.installation.close()


@pytest.fixture
def standby(tmp_path: Path, simulator: Simulator) -> Iterator[Replica]:
    made = Replica(tmp_path, simulator, leads=False)
    yield made
    made.dispatcher.end()
    made.installation.close()


# --- keys that were made in vain -------------------------------------------------------------------------------------


def test_lost_creates_occupy_no_worker_and_one_list_looks_for_all(replica: Replica) -> None:
    """A list of a hundred pages takes a minute, and ten minutes within the usual budget."""
    replica.simulator.faults.add(Fault("drop_after", "create", times=2))
    replica.work()
    assert replica.calls() == ["create", "create"], "and both passes have ended"
    replica.dispatcher.remove_strays()
    assert replica.calls()[2:] == ["list", "delete", "delete"]
    assert [key for key in replica.simulator.vendor.keys.values() if key.revoked_at is None] == []
    replica.dispatcher.remove_strays()
    assert len(replica.calls()) == 5


def test_keys_made_in_vain_are_removed_before_the_end(replica: Replica) -> None:
    replica.simulator.faults.add(Fault("drop_after", "create", times=2))
    replica.work()
    assert replica.dispatcher.end()
    assert [key for key in replica.simulator.vendor.keys.values() if key.revoked_at is None] == []


def test_keys_made_in_vain_that_cannot_be_removed_at_the_end_are_reported(replica: Replica) -> None:
    replica.simulator.faults.add(Fault("drop_after", "create", times=2))
    replica.work()
    replica.simulator.faults.add(Fault("refuse", "list", status=500, times=None))
    assert replica.dispatcher.end()
    assert len(replica.events.of(EventType.KEY_NOT_REMOVED)) == 2


# --- standing by -----------------------------------------------------------------------------------------------------


def test_a_standby_reads_and_changes_nothing(standby: Replica) -> None:
    standby.work()
    standby.dispatcher.sweep()
    standby.dispatcher.ask_providers()
    assert standby.states() == {"a": State.MISSING, "b": State.MISSING}
    assert standby.calls() == []
    assert standby.dispatcher.has_read, "it is ready to take over"


def test_a_new_leader_does_what_is_due(standby: Replica) -> None:
    standby.work()
    standby.leads = True
    standby.dispatcher.lead()
    standby.work()
    assert standby.states() == {"a": State.OK, "b": State.OK}
    assert standby.calls() == ["create", "create"]


def test_a_standby_does_what_a_person_requests(replica: Replica, standby: Replica) -> None:
    replica.work()
    standby.work()
    standby.dispatcher.request(RotationRequest(rotate=True, by="signal"))
    standby.work()
    assert standby.calls().count("create") == 4
    assert standby.calls().count("update") == 2, "a replica shortens the keys that it replaced"


def test_the_status_shows_what_a_pass_has_done_while_it_waits(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica.work()
    target = replica.installation.targets["a"]
    before = replica.dispatcher.statuses.snapshot()[0].expires_at
    seen = []

    def take(deadline: datetime) -> None:
        status = replica.dispatcher.statuses.snapshot()[0]
        seen.append((status.state, status.reason, status.expires_at == before, len(replica.calls())))

    monkeypatch.setattr(replica.installation.budgets[target.provider], "take", take)
    replica.dispatcher.statuses.request(["a"])
    replica.clock.sleep(1.1)  # else the new key ends in the same second
    replica.dispatcher._schedule.request(["a"], RotationRequest(rotate=True, by="signal"))
    replica.work()
    calls = replica.calls().count("create")
    assert calls == 3
    assert seen[0] == (State.DUE, Reason.REQUESTED, True, 2)
    assert seen[-1][:3] == (State.OK, Reason.FRESH, False), "the new key is served, and the old one not shortened yet"
    assert replica.states()["a"] is State.OK


def test_a_replica_that_loses_the_lease_begins_nothing_more(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pass waits for the budget, and finds afterwards that another replica leads."""
    target = replica.installation.targets["a"]

    def take(deadline: datetime) -> None:
        replica.leads = False

    monkeypatch.setattr(replica.installation.budgets[target.provider], "take", take)
    report = replica.installation.reconciler(target).reconcile(target)
    assert report.error is None
    assert report.plan is not None
    assert report.plan.state is State.MISSING
    assert replica.calls() == []


def test_who_loses_the_lease_in_the_preflight_makes_no_key(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    target = replica.installation.targets["a"]
    reconciler, store = replica.installation.reconciler(target), replica.installation.stores[target.store]
    preflight = store.preflight

    def slowly(path: str, data: Mapping[str, Any]) -> None:
        preflight(path, data)
        replica.leads = False

    with monkeypatch.context() as slow:
        slow.setattr(store, "preflight", slowly)
        report = reconciler.reconcile(target)
    assert report.error is None
    assert not report.rotated
    assert replica.calls() == []
    replica.leads = True
    assert reconciler.reconcile(target).rotated


# --- events ----------------------------------------------------------------------------------------------------------


def test_a_refused_organisation_key_is_reported_once_and_its_recovery_too(replica: Replica) -> None:
    replica.simulator.faults.add(Fault("refuse", "list", status=401, times=None))
    for _ in range(3):
        replica.dispatcher.ask_providers()
        replica.dispatcher.watch()
    [down] = replica.events.of(EventType.UPSTREAM_DOWN)
    assert down.fields["upstream"] == "provider respan"
    assert "management credential" in str(down.fields["error"])
    assert down.level is Level.ERROR, "only a person can replace the key"
    assert replica.events.of(EventType.UPSTREAM_UP) == []
    replica.simulator.faults.clear()
    replica.clock.sleep(1)
    replica.dispatcher.ask_providers()
    replica.dispatcher.watch()
    [up] = replica.events.of(EventType.UPSTREAM_UP)
    assert up.fields == {"upstream": "provider respan"}


def test_a_provider_that_does_not_answer_is_reported_once_and_not_by_each_target(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica.simulator.faults.add(Fault("refuse", status=503, times=None))
    replica.work()
    assert len(replica.events.of(EventType.TARGET_FAILED)) == 2, "two lost answers are no outage"
    monkeypatch.setattr(circuits, "LASTING", 0.0)
    for _ in range(3):
        replica.dispatcher.request(RotationRequest(rotate=True, by="signal"))
        replica.work()
        replica.dispatcher.watch()
    assert len(replica.events.of(EventType.TARGET_FAILED)) == 2
    [down] = replica.events.of(EventType.UPSTREAM_DOWN)
    assert (down.fields["upstream"], down.level) == ("provider respan", Level.WARNING)
    replica.simulator.faults.clear()
    replica.simulator.faults.add(Fault("refuse", status=401, times=None))
    replica.dispatcher.ask_providers()
    replica.dispatcher.watch()
    assert [event.level for event in replica.events.of(EventType.UPSTREAM_DOWN)] == [Level.WARNING, Level.ERROR]
    replica.simulator.faults.clear()
    replica.clock.sleep(1)
    replica.dispatcher.ask_providers()
    replica.dispatcher.watch()
    assert len(replica.events.of(EventType.UPSTREAM_UP)) == 1
    replica.work_until(lambda: set(replica.states().values()) == {State.OK}, "what was held up to be taken up")
    assert len(replica.events.of(EventType.TARGET_RECOVERED)) == 2


def test_a_foreign_path_is_reported_once_until_it_is_ours_again(replica: Replica) -> None:
    replica.work()
    store = replica.installation.stores["file"]
    target = replica.installation.targets["a"]
    for times in (1, 2):
        store.write(target.path, {"theirs": "x"}, cas=store.newest(target.path).current_version)
        for _ in range(3):
            replica.dispatcher._schedule.wake(["a"])
            replica.work()
        assert len(replica.events.of(EventType.TARGET_FOREIGN)) == times
        replica.dispatcher._schedule.request(["a"], RotationRequest(adopt=True, by="command"))
        replica.work()
        assert replica.states()["a"] is State.OK
        assert len(replica.events.of(EventType.TARGET_RECOVERED)) == times


def test_an_emptied_path_is_reported_once_until_it_has_a_key(replica: Replica, tmp_path: Path) -> None:
    replica.work()
    with closing(sqlite3.connect(tmp_path / "store.db")) as database, database:
        database.execute("DELETE FROM versions WHERE path = 'apps/a'")
    replica.simulator.faults.add(Fault("refuse", "create", status=503, times=None))
    for _ in range(3):
        replica.dispatcher._schedule.wake(["a"])
        replica.work()
    [status] = [status for status in replica.dispatcher.statuses.snapshot() if status.target.name == "a"]
    shown = status.to_json()
    assert (shown["state"], shown["reason"]) == ("missing", "emptied")
    [event] = replica.events.of(EventType.PATH_EMPTIED)
    assert event.target == "a"
    replica.simulator.faults.clear()
    replica.dispatcher._schedule.wake(["a"])
    replica.work()
    assert replica.states()["a"] is State.OK
    assert len(replica.events.of(EventType.PATH_EMPTIED)) == 1


def test_a_failure_of_another_kind_is_reported_at_once(replica: Replica) -> None:
    """After five failures that may pass, one that needs a person is reported at once, not at the eighth failure."""
    faults = replica.simulator.faults
    faults.add(Fault("refuse", "create", status=503, times=None))
    for number in range(8):
        if number == 5:
            faults.clear()
            faults.add(Fault("refuse", "create", status=422, times=None))
        replica.dispatcher._schedule.wake(["a"])
        replica.work()
    events = [
        (event.level, str(event.fields["error"]))
        for event in replica.events.of(EventType.TARGET_FAILED)
        if event.target == "a"
    ]
    assert [(level, "422" in error) for level, error in events] == [
        *[(Level.WARNING, False)] * 3,  # the 1st, 2nd and 4th time
        *[(Level.ERROR, True)] * 2,
    ]


def test_a_failure_that_needs_a_person_is_reported_although_an_outage_came_before(replica: Replica) -> None:
    replica.work()
    faults = replica.simulator.faults
    faults.add(Fault("refuse", status=503, times=None))
    for _ in range(6):
        replica.dispatcher.request(RotationRequest(rotate=True, by="signal"))
        replica.work()
        replica.dispatcher.watch()
    before = len(replica.events.of(EventType.TARGET_FAILED))
    faults.clear()
    faults.add(Fault("refuse", "create", status=422, times=None))
    replica.dispatcher._schedule.wake(["a", "b"])
    replica.work()
    assert {event.target for event in replica.events.of(EventType.TARGET_FAILED)[before:]} == {"a", "b"}
    assert {event.level for event in replica.events.of(EventType.TARGET_FAILED)[before:]} == {Level.ERROR}


def test_a_key_that_is_not_trusted_is_reported_once_until_the_path_is_ours_again(replica: Replica) -> None:
    replica.work()
    store, vendor = replica.installation.stores["file"], replica.simulator.vendor
    target = replica.installation.targets["a"]
    ours = store.newest(target.path).current
    assert ours is not None
    assert ours.data is not None
    [key] = [key for key in vendor.keys.values() if key.name.split(".")[1] == "a"]
    planted = vendor.create({"name": "of another team", "expiry_date": None})
    record = str(ours.data["rotator"]).replace(key.id, planted.id)
    store.write(target.path, {**ours.data, "rotator": record}, cas=1)
    store.write(target.path, ours.data, cas=2)
    for _ in range(3):
        replica.installation.observer(target).memory.require_whole(target)
        replica.dispatcher._schedule.wake(["a"])
        replica.work()
    [event] = replica.events.of(EventType.KEY_OWNERSHIP_MISMATCH)
    assert (event.target, event.level, event.fields["key_id"]) == ("a", Level.ERROR, planted.id)
    assert planted.revoked_at is None


def test_a_wrong_clock_is_reported_once_and_its_correction_too(replica: Replica) -> None:
    replica.clock.skews = {"vault:8200": timedelta(seconds=-90), "api.respan.ai": timedelta(0)}
    for _ in range(3):
        replica.dispatcher.watch()
    [event] = replica.events.of(EventType.CLOCK_SKEW_DETECTED)
    assert event.fields["skews"] == "-90 s to vault:8200, +0 s to api.respan.ai"
    replica.clock.skews = {"vault:8200": timedelta(seconds=1)}
    for _ in range(3):
        replica.dispatcher.watch()
    assert len(replica.events.of(EventType.CLOCK_SKEW_RESOLVED)) == 1


def test_a_sweep_has_what_it_finds_worked_on(replica: Replica) -> None:
    replica.work()
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began > 1, "the keys to be as old as [sweep].min_age")
    replica.simulator.vendor.delete(next(iter(replica.simulator.vendor.keys)))
    replica.dispatcher.sweep()
    replica.work()
    wait_until(lambda: len(replica.events.of(EventType.KEY_PUBLISHED)) == 3, "another key")
    assert {event.fields["reason"] for event in replica.events.of(EventType.KEY_PUBLISHED)[2:]} == {"missing"}
    assert [event.fields["to_work"] for event in replica.events.of(EventType.SWEEP_COMPLETED)] == [1]


def test_most_served_keys_that_are_gone_are_left_to_a_person(replica: Replica) -> None:
    replica.work()
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began > 1, "the keys to be as old as [sweep].min_age")
    for key in replica.simulator.vendor.keys.values():
        replica.simulator.vendor.delete(key.id)
    replica.dispatcher.sweep()
    [failed] = replica.events.of(EventType.SWEEP_FAILED)
    assert failed.level is Level.ERROR
    assert "does not know 2 of 2" in str(failed.fields["error"])
    assert [event.fields["unknown"] for event in replica.events.of(EventType.SWEEP_COMPLETED)] == [2]
    assert 'rotator_served_keys_unknown{provider="respan"} 2.0' in replica.metrics.render().decode()
    replica.dispatcher.request(RotationRequest(rotate=True, by="signal"))
    replica.dispatcher.tick()
    wait_until(lambda: len(replica.events.of(EventType.KEY_PUBLISHED)) == 4, "two more keys, as a person asked for")
    replica.dispatcher.sweep()
    assert 'rotator_served_keys_unknown{provider="respan"} 0.0' in replica.metrics.render().decode()


def test_a_sweep_ends_when_its_replica_ceases_to_lead(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    replica.work()
    for key in replica.simulator.vendor.keys.values():
        replica.simulator.vendor.delete(key.id)

    def list_keys(ports: Ports, deadline: datetime) -> tuple[ListedKey, ...]:
        keys = observer.list_keys(ports, deadline)
        replica.leads = False
        return keys

    monkeypatch.setattr("rotator.protocol.sweeper.list_keys", list_keys)
    replica.dispatcher.sweep()
    assert "list" in replica.calls()
    assert "retrieve" not in replica.calls()


def test_a_sweep_with_the_same_findings_as_the_last_is_logged_at_debug(replica: Replica) -> None:
    replica.work()
    for _ in range(3):
        replica.dispatcher.sweep()
    replica.simulator.vendor.create({"name": "of another team", "expiry_date": None})
    for _ in range(2):
        replica.dispatcher.sweep()
    events = [(event.level.value, event.fields["others"]) for event in replica.events.of(EventType.SWEEP_COMPLETED)]
    assert events == [("info", 0), ("debug", 0), ("debug", 0), ("info", 1), ("debug", 1)]


def test_a_sweep_that_keeps_failing_is_reported_ever_more_rarely_and_its_recovery_once(replica: Replica) -> None:
    replica.work()
    replica.simulator.faults.add(Fault("refuse", "list", status=422, times=None))
    for _ in range(9):
        replica.dispatcher.sweep()
    assert [event.fields["failures"] for event in replica.events.of(EventType.SWEEP_FAILED)] == [1, 2, 4, 8]
    first = replica.events.of(EventType.SWEEP_FAILED)[0]
    assert (first.level, first.fields["provider"], first.fields["targets"]) == (Level.ERROR, "respan", 0)
    assert "422" in str(first.fields["error"])
    assert replica.events.of(EventType.SWEEP_RECOVERED) == []
    assert replica.events.of(EventType.SWEEP_COMPLETED) == [], "no list was read, so there is nothing to count"
    replica.simulator.faults.clear()
    for _ in range(2):
        replica.dispatcher.sweep()
    assert [event.fields for event in replica.events.of(EventType.SWEEP_RECOVERED)] == [{"provider": "respan"}]


def test_another_failure_of_a_sweep_is_reported_at_once(replica: Replica) -> None:
    replica.work()
    for status in (422, 422, 409):
        replica.simulator.faults.clear()
        replica.simulator.faults.add(Fault("refuse", "list", status=status, times=None))
        replica.dispatcher.sweep()
        replica.dispatcher.sweep()
    events = [
        (str(event.fields["error"]).split("(")[1][:3], event.fields["failures"])
        for event in replica.events.of(EventType.SWEEP_FAILED)
    ]
    assert events == [("422", 1), ("422", 2), ("422", 4), ("409", 1), ("409", 2)]


def test_a_failure_of_a_sweep_that_needs_a_person_hides_behind_no_other() -> None:
    known, other = StoreUnavailable("a's store is down"), ProviderRequestRefused("a PATCH is refused")
    swept = SweepReport("respan", failed={"a": known, "b": StoreUnavailable("slow"), "c": other})
    events: list[Event] = []
    Reports(events.append).swept(swept, {"store b": known})
    [_, failed] = events
    assert (failed.what, failed.target, failed.level) == (EventType.SWEEP_FAILED, "c", Level.ERROR)
    assert failed.fields["error"] == other.message


def test_a_key_without_a_target_is_reported_once_and_forgotten_with_the_key(replica: Replica) -> None:
    replica.work()
    vendor = replica.simulator.vendor
    ours = next(iter(vendor.keys.values())).name
    place = "a" * len(ours.split(".")[2])
    strays = []
    for number in range(3):
        parts = ours.split(".")
        name = ".".join([*parts[:2], place, parts[3], f"strayaa{'abc'[number]}"])
        strays.append(vendor.create({"name": name, "expiry_date": None}))
        replica.dispatcher.sweep()
        replica.dispatcher.sweep()
        assert len(replica.events.of(EventType.KEY_WITHOUT_TARGET)) == number + 1
        vendor.delete(strays[-1].id)
    replica.dispatcher.sweep()
    assert "respan" not in replica.dispatcher._reports._unclaimed


# --- threads ---------------------------------------------------------------------------------------------------------


class Crowd:
    """A dispatcher whose passes last until the test releases them."""

    def __init__(
        self, folder: Path, simulator: Simulator, targets: Mapping[str, tuple[str, str]], workers: int
    ) -> None:
        """`targets`: the provider and the store of each."""
        self.folder, self.simulator, self.workers = folder, simulator, workers
        (folder / "key").write_text(simulator.organisation_key)
        self.clock, self.metrics = SystemClock(), Metrics("0")
        self.dispatcher = Dispatcher(self.installation(targets), self.metrics, lambda event: None)
        self.gate = threading.Event()
        self.inside: list[str] = []

    def installation(self, targets: Mapping[str, tuple[str, str]]) -> Installation:
        settings = {
            "providers": {provider: respan(self.simulator.url) for provider, _ in targets.values()},
            "stores": {store: {"type": "sqlite", "file": f"{store}.db"} for _, store in targets.values()},
            "daemon": {"workers": self.workers},
            "targets": {
                name: {"path": f"apps/{name}", "provider": provider, "store": store}
                for name, (provider, store) in targets.items()
            },
        }
        made = assemble(self.folder, settings, self.clock, self.metrics, lambda _: None)
        for reconciler in {made.reconciler(target) for target in made.targets.values()}:
            reconciler.reconcile = self.wait  # type: ignore[method-assign, assignment]
        return made

    def wait(self, target: Target, *_: object) -> Report:
        self.inside.append(target.name)
        self.gate.wait(30)
        return Report(target, None)

    def end(self) -> None:
        self.gate.set()
        self.dispatcher.end()


@pytest.fixture
def crowd(tmp_path: Path, simulator: Simulator) -> Iterator[Callable[..., Crowd]]:
    made: list[Crowd] = []

    def make(targets: Mapping[str, tuple[str, str]], workers: int) -> Crowd:
        made.append(Crowd(tmp_path, simulator, targets, workers))
        return made[-1]

    yield make
    for one in made:
        one.end()
        one.dispatcher.installation.close()


def test_one_provider_that_hangs_does_not_take_all_threads_whatever_stores_it_has(crowd: Callable[..., Crowd]) -> None:
    sick = {f"sick-{number}": ("a", f"store-{number % 2}") for number in range(20)}
    hanging = crowd({**sick, "well": ("b", "store-0")}, 4)
    hanging.dispatcher.tick()
    wait_until(lambda: len(hanging.inside) == 4, "as many passes as there are threads")
    assert "well" in hanging.inside


def test_what_hangs_in_one_lane_leaves_a_thread_for_each_store_of_the_other_provider(
    crowd: Callable[..., Crowd],
) -> None:
    sick = {f"sick-{number}": ("a", "store-0") for number in range(20)}
    hanging = crowd({**sick, "elsewhere": ("b", "store-1"), "well": ("b", "store-0")}, 4)
    hanging.dispatcher.tick()
    wait_until(lambda: len(hanging.inside) == 4, "as many passes as there are threads")
    assert {"well", "elsewhere"} < set(hanging.inside)


def test_a_reload_that_moves_targets_keeps_the_count_of_threads(
    crowd: Callable[..., Crowd],
) -> None:
    names = [f"t{number}" for number in range(6)]
    moving = crowd({**dict.fromkeys(names, ("a", "store")), "other": ("b", "store")}, 3)
    moving.dispatcher.tick()
    wait_until(lambda: len(moving.inside) == 3, "the threads to be taken")
    moving.dispatcher.take_up(moving.installation({**dict.fromkeys(names, ("b", "store")), "other": ("a", "store")}))
    moving.gate.set()
    wait_until(lambda: set(moving.inside) >= {*names, "other"} and not moving.dispatcher.under_way, "all passes")
    assert not +moving.dispatcher._busy
    assert not -moving.dispatcher._busy


def test_a_reload_does_not_put_off_the_roll_out_of_what_did_not_change(crowd: Callable[..., Crowd]) -> None:
    places = {"kept": ("a", "store"), "moved": ("a", "store"), "other": ("b", "store")}
    dispatcher = crowd(places, 2).dispatcher
    before = dict(dispatcher._configured_at)
    dispatcher.take_up(dispatcher.installation)
    assert dispatcher._configured_at == before


def test_a_restart_does_not_put_off_the_roll_out_of_a_change(
    tmp_path: Path, simulator: Simulator, replica: Replica
) -> None:
    replica.work()
    stretches = [timedelta(minutes=number) for number in range(60, 860)]  # shorter than what the keys have left
    now = replica.clock.now()
    soon = now + timedelta(minutes=1)

    def comes_later(name: str, every: timedelta) -> bool:  # whenever within the minute a replica starts
        return next_turn(name, now, every) == next_turn(name, soon, every) > soon

    spread = next(each for each in stretches if all(comes_later(name, each) for name in ("a", "b")))
    changed = {"defaults": {"key": {"rate_limit": 7}}, "daemon": {"rollout": f"{spread // timedelta(minutes=1)}m"}}
    moments = []
    for _ in range(2):
        restarted = Replica(tmp_path, simulator, leads=True, **changed)
        restarted.work()
        moments.append(
            [
                plan.renewal and plan.renewal.roll_out_at
                for status in restarted.dispatcher.statuses.snapshot()
                if (plan := status.plan)
            ]
        )
        restarted.dispatcher.end()
        restarted.installation.close()
    assert moments[0] == moments[1] == [next_turn(name, soon, spread) for name in ("a", "b")]


def test_what_a_change_rolls_out_over_begins_when_a_window_opens(tmp_path: Path, simulator: Simulator) -> None:
    now = datetime.now(UTC)
    opens_at = (now + timedelta(hours=3)).replace(minute=0, second=0, microsecond=0)
    window = {"cron": f"0 {opens_at.hour} * * *", "duration": "2h"}
    defaults = {"ttl": "9d", "renew_before": "3d", "windows": [window]}
    before = Replica(tmp_path, simulator, leads=True, defaults=defaults)
    before.work()
    changed = {"defaults": {**defaults, "key": {"rate_limit": 7}}, "daemon": {"rollout": "1h"}}
    after = Replica(tmp_path, simulator, leads=True, **changed)
    after.work()
    for status in after.dispatcher.statuses.snapshot():
        assert status.plan is not None
        assert status.plan.renewal is not None
        assert status.plan.renewal.roll_out_at is not None
        assert opens_at <= status.plan.renewal.roll_out_at < opens_at + timedelta(hours=1)
    for replica in (before, after):
        replica.dispatcher.end()
        replica.installation.close()


def test_a_replica_that_stops_leading_forgets_what_another_will_change(replica: Replica) -> None:
    replica.work()
    memory = replica.installation.observer(replica.installation.targets["a"]).memory
    assert memory.seen
    replica.dispatcher.stand_by()
    assert not memory.seen


def test_a_sweep_of_one_provider_does_not_wait_for_that_of_another(crowd: Callable[..., Crowd]) -> None:
    dispatcher = crowd({"sick": ("a", "store"), "well": ("b", "store")}, 2).dispatcher
    gate = threading.Event()
    swept: list[str] = []
    for name, sweeper in dispatcher.installation.sweepers.items():

        def sweep(name: str = name, **_: object) -> SweepReport:
            if name == "a":
                assert gate.wait(30)
            return SweepReport(name)

        sweeper.sweep = sweep  # type: ignore[method-assign]
    dispatcher._reports.swept = lambda one, _: swept.append(one.provider)  # type: ignore[method-assign, assignment]
    thread = threading.Thread(target=dispatcher.sweep)
    thread.start()
    wait_until(lambda: swept == ["b"], "the sweep that nothing holds up")
    gate.set()
    thread.join()
    assert swept == ["b", "a"]


def test_a_fault_while_choosing_the_next_target_loses_no_thread_and_is_noticed(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = replica.dispatcher.last_tick
    with monkeypatch.context() as patch:
        patch.setattr(Schedule, "_level", lambda *_: 1 / 0)
        for _ in range(2 * replica.installation.configuration.daemon.workers):
            with pytest.raises(ZeroDivisionError):
                replica.dispatcher.tick()
        assert replica.dispatcher.last_tick == before, "/healthz reports that the loop is stuck"
    replica.work()
    replica.work()
    assert replica.states() == {"a": State.OK, "b": State.OK}


def test_without_new_threads_everything_goes_on(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    with no_new_threads(monkeypatch):
        replica.dispatcher.sweep()
        replica.work()
        replica.work()
        assert replica.states() == {"a": State.OK, "b": State.OK}
        replica.dispatcher.sweep()
    assert "list" in replica.calls()
    assert not any(budget.closing for budget in replica.installation.budgets.values())
    assert replica.events.of(EventType.SWEEP_FAILED) == []
    assert replica.events.of(EventType.UNEXPECTED_ERROR) == []


def test_a_sweep_that_cannot_be_begun_leaves_the_budgets_open(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("rotator.app.passes.threading.Event", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            replica.dispatcher.sweep()
    assert not any(budget.closing for budget in replica.installation.budgets.values())
    replica.dispatcher.sweep()
    assert replica.calls() == ["list"]


def test_a_target_that_no_worker_can_take_is_given_back(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Workers, "submit", full)
        for _ in range(2 * replica.installation.configuration.daemon.workers):
            replica.dispatcher.request(RotationRequest(rotate=True, by="signal"))
            with pytest.raises(MemoryError):
                replica.dispatcher.tick()
    assert replica.dispatcher.under_way == 0
    replica.dispatcher.request(RotationRequest(rotate=True, by="signal"))
    replica.work()
    assert replica.states() == {"a": State.OK, "b": State.OK}


def test_a_log_that_fails_takes_no_target_off_the_schedule(
    crowd: Callable[..., "Crowd"], monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatcher = crowd({"a": ("a", "store")}, 1).dispatcher
    passes: list[str] = []

    def fails(_installation: Installation, _metrics: Metrics, target: Target, *_: object) -> Report:
        passes.append(target.name)
        raise OSError("the log is full")

    monkeypatch.setattr("rotator.daemon.dispatcher.work_on", fails)
    monkeypatch.setattr(dispatcher, "_emit", fails)
    for count in (1, 2):
        dispatcher.request(RotationRequest(rotate=True, by="signal"))
        dispatcher.tick()
        wait_until(lambda count=count: len(passes) == count and dispatcher.under_way == 0, "a pass")  # type: ignore[misc]


def test_the_end_waits_for_a_pass_that_begins_meanwhile(
    crowd: Callable[..., "Crowd"], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = crowd({"a": ("a", "store")}, 1)
    looks, goes_on, ended = threading.Event(), threading.Event(), threading.Event()
    take = Schedule.take

    def taken(schedule: Schedule, is_open: Callable[[tuple[str, str]], bool]) -> tuple[str, Task] | None:
        looks.set()
        goes_on.wait(0.5)
        return take(schedule, is_open)

    monkeypatch.setattr(Schedule, "take", taken)
    tick = threading.Thread(target=slow.dispatcher.tick)
    tick.start()
    assert looks.wait(10)
    drained: list[bool] = []

    def end() -> None:
        drained.append(slow.dispatcher.end())
        ended.set()

    ending = threading.Thread(target=end)
    ending.start()
    tick.join()
    wait_until(lambda: bool(slow.inside) or ended.is_set(), "the pass or the end: what had not begun never does")
    assert ended.is_set() is not bool(slow.inside)
    slow.gate.set()
    ending.join()
    assert drained == [True]


def test_a_fault_in_a_sweep_is_reported_and_leaves_the_budgets_open(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(*_: object, **__: object) -> None:
        raise TypeError("a fault")

    with monkeypatch.context() as patch:
        patch.setattr("rotator.protocol.sweeper.Sweeper.sweep", faulty)
        replica.dispatcher.sweep()
    [event] = replica.events.of(EventType.UNEXPECTED_ERROR)
    assert "respan" in str(event.fields["where"])
    [failed] = replica.events.of(EventType.SWEEP_FAILED)
    assert "a fault in rotator" in str(failed.fields["error"])
    with monkeypatch.context() as patch:
        patch.setattr(replica.dispatcher._reports, "swept", faulty)
        replica.dispatcher.sweep()
    assert len(replica.events.of(EventType.UNEXPECTED_ERROR)) == 2
    assert not any(budget.closing for budget in replica.installation.budgets.values())


def test_a_fault_at_the_end_of_a_pass_is_reported(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica.dispatcher.statuses, "update", lambda *_: 1 / 0)
    replica.dispatcher.tick()
    wait_until(lambda: len(replica.events.of(EventType.UNEXPECTED_ERROR)) >= 2, "both events")
    assert {event.target for event in replica.events.of(EventType.UNEXPECTED_ERROR)} == {"a", "b"}


def test_a_sweep_gets_a_fifth_of_the_budget(replica: Replica) -> None:
    [sweeper] = replica.installation.sweepers.values()
    budget = sweeper._ports.budget
    assert isinstance(budget, SlidingWindow)
    assert budget.limit == replica.installation.budgets["respan"].limit / 5


def test_a_failed_sweep_names_the_target_that_failed(replica: Replica) -> None:
    replica.work()
    replica.work()
    for key in replica.simulator.vendor.keys.values():
        replica.simulator.vendor.delete(key.id)
    replica.simulator.faults.add(Fault("refuse", "retrieve", status=422, times=None))
    replica.dispatcher.sweep()
    [failed] = replica.events.of(EventType.SWEEP_FAILED)
    assert (failed.target, failed.fields["targets"]) == ("a", 2)


def test_what_a_refused_organisation_key_held_up_is_taken_up_when_it_works_again(replica: Replica) -> None:
    replica.simulator.faults.add(Fault("refuse", "*", status=401, times=None))
    replica.work()
    wait_until(lambda: set(replica.states().values()) == {State.MISSING}, "the refusal")
    replica.dispatcher.watch()
    replica.simulator.faults.clear()
    replica.installation.look_again()
    replica.dispatcher.ask_providers()
    replica.dispatcher.watch()
    replica.work_until(lambda: replica.states() == {"a": State.OK, "b": State.OK}, "both keys")


# --- a look on demand ------------------------------------------------------------------------------------------------


def looked_at(replica: Replica) -> dict[str, datetime | None]:
    return {status.target.name: status.looked_at for status in replica.dispatcher.statuses.snapshot()}


def test_a_look_reads_every_path_and_asks_the_provider_nothing(replica: Replica) -> None:
    replica.work()
    before, calls = looked_at(replica), replica.calls()
    assert None not in before.values()
    replica.dispatcher.look()
    replica.work()
    after = looked_at(replica)
    assert all(then and now and then < now for then, now in zip(before.values(), after.values(), strict=True))
    assert replica.calls() == calls


def test_looks_are_bounded_and_none_is_lost(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a hundred paths a second are not read on demand, however often that is requested."""
    monkeypatch.setattr("rotator.daemon.dispatcher.LOOK_EVERY", 0.5)
    replica.work()
    looks: list[float] = []
    monkeypatch.setattr(Schedule, "look", lambda _: looks.append(replica.clock.monotonic()))
    end = time.monotonic() + 1.2
    while time.monotonic() < end:
        replica.dispatcher.look()
        replica.dispatcher.tick()
        time.sleep(0.01)
    assert 2 <= len(looks) <= 3
    assert all(later - earlier >= 0.5 for earlier, later in itertools.pairwise(looks))
    time.sleep(0.5)
    replica.dispatcher.tick()
    replica.dispatcher.tick()
    assert 3 <= len(looks) <= 4, "the last request is obeyed, once"


def test_a_look_does_not_report_a_failing_target_as_recovered(replica: Replica) -> None:
    replica.work()
    replica.simulator.faults.add(Fault("refuse", "create", status=422, times=None))
    replica.dispatcher.request(RotationRequest(rotate=True, by="signal"))
    replica.work()
    assert set(replica.states().values()) == {State.FAILING}
    creates = replica.calls().count("create")
    replica.dispatcher.look()
    replica.work()
    assert set(replica.states().values()) == {State.FAILING}
    assert replica.events.of(EventType.TARGET_RECOVERED) == []
    assert replica.calls().count("create") == creates
