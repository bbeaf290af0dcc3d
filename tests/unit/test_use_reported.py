"""What a replica reports of caps: a spent key, an early rotation that is held, and use that the provider hides."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.assembly import assemble, respan
from support.known import known
from support.process import wait_until
from support.recorded_events import RecordedEvents

from rotator.app.wiring import Installation
from rotator.core.events import EventType, Level
from rotator.core.reasons import Reason, State
from rotator.daemon.dispatcher import Dispatcher
from rotator.runtime.clock import SystemClock
from rotator.simulator import Options, Simulator
from rotator.telemetry.metrics import Metrics
from rotator.telemetry.status import TargetStatus

LIMIT = 10
CAPPED = {"path": "apps/a", "key": {"max_usage": LIMIT}}
REPLACED = {**CAPPED, "on_cap": "replace", "pickup": "1s", "max_early_rotations": 1}


class Replica:
    """The dispatcher of a process with one target, at a provider whose answers show use where `options` has it."""

    def __init__(self, folder: Path, simulator: Simulator, target: dict[str, Any]) -> None:
        self.simulator, self.events, self.metrics = simulator, RecordedEvents(), Metrics("0")
        (folder / "key").write_text(simulator.organisation_key)
        self.folder, self.clock = folder, SystemClock()
        self.settings = {
            "providers": {"respan": respan(simulator.url, requests_per_minute=6000)},
            "sweep": {"min_age": "1s"},
            "targets": {"a": target},
        }
        self.installation = self.assembled(None)
        self.dispatcher = Dispatcher(self.installation, self.metrics, self.events.append)
        self.metrics.watch(lambda: known(*self.dispatcher.statuses.snapshot(), at=datetime.now(UTC)), each=True)

    def assembled(self, predecessor: Installation | None) -> Installation:
        return assemble(
            self.folder, self.settings, self.clock, self.metrics, self.events.append, predecessor=predecessor
        )

    def reload(self) -> None:
        """Use the same configuration, read again."""
        self.installation = self.assembled(self.installation)
        self.dispatcher.take_up(self.installation)

    @property
    def status(self) -> TargetStatus:
        return self.dispatcher.statuses.snapshot()[0]

    @property
    def key_id(self) -> str:
        plan = self.status.plan
        assert plan is not None
        assert plan.current is not None
        return plan.current.key_id

    def work(self) -> None:
        """Do all that is due now."""
        for _ in range(2):
            self.dispatcher.tick()
            wait_until(lambda: bool(self.status.plan) and not self.dispatcher.under_way, "the passes to end")

    def sweep(self) -> None:
        """Sweep, and do what the sweep found."""
        self.dispatcher.sweep()
        self.work()

    def spend(self) -> None:
        """Use up the served key."""
        self.simulator.vendor.use(self.simulator.vendor.text_of(self.key_id), calls=LIMIT)

    def metric(self, series: str) -> float | None:
        lines = self.metrics.render().decode().splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{series} ")), None)


@contextmanager
def running(folder: Path, target: dict[str, Any], **options: Any) -> Iterator[Replica]:
    with Simulator(options=Options(requests_per_minute=None, **options)) as simulator:
        replica = Replica(folder, simulator, target)
        try:
            replica.work()
            yield replica
        finally:
            replica.dispatcher.end()
            replica.installation.close()


def test_a_spent_key_is_reported_once_and_the_target_is_spent(tmp_path: Path) -> None:
    with running(tmp_path, CAPPED, use_shown="list") as replica:
        replica.sweep()
        assert replica.status.state is State.OK
        replica.spend()
        for _ in range(3):
            replica.sweep()
        assert (replica.status.state, replica.status.reason) == (State.SPENT, Reason.SPENT)
        [event] = replica.events.of(EventType.KEY_SPENT)
        assert (event.target, event.level, event.fields["key_id"]) == ("a", Level.ERROR, replica.key_id)
        assert replica.metric('rotator_targets{state="spent"}') == 1
        assert replica.metric('rotator_key_use_ratio{target="a"}') == 1
        assert replica.metric('rotator_provider_reports_use{provider="respan"}') == 1
        assert replica.events.of(EventType.USE_UNKNOWN) == []


def test_an_early_rotation_that_is_refused_counts_once_for_each_key(tmp_path: Path) -> None:
    with running(tmp_path, REPLACED, use_shown="list") as replica:
        first = replica.key_id

        def is_replaced() -> bool:
            replica.sweep()
            return replica.key_id != first

        replica.spend()
        wait_until(is_replaced, "the key to be replaced early")
        assert replica.metric("rotator_early_rotations_refused_total") == 0
        replica.spend()
        for _ in range(3):
            replica.sweep()
        assert (replica.status.state, replica.status.reason) == (State.SPENT, Reason.EARLY_EXHAUSTED)
        assert len(replica.events.of(EventType.EARLY_ROTATION_HELD)) == 1
        assert replica.metric("rotator_early_rotations_refused_total") == 1


@pytest.mark.parametrize("shown", ["none", "retrieve"])
def test_use_that_no_answer_shows_is_reported_once_and_never_zero(tmp_path: Path, shown: str) -> None:
    with running(tmp_path, CAPPED, use_shown=shown) as replica:
        replica.sweep()
        assert replica.events.of(EventType.USE_UNKNOWN) == [], "a look-up may show it"
        replica.dispatcher.watch_use()
        for _ in range(2):
            replica.sweep()
        found = [event.fields["provider"] for event in replica.events.of(EventType.USE_UNKNOWN)]
        assert found == (["respan"] if shown == "none" else [])
        assert replica.metric('rotator_provider_reports_use{provider="respan"}') == (shown == "retrieve")
        assert replica.metric('rotator_key_use_ratio{target="a"}') == (None if shown == "none" else 0)


def test_a_reload_does_not_report_unknown_use_again(tmp_path: Path) -> None:
    with running(tmp_path, CAPPED, use_shown="none") as replica:
        for _ in range(2):
            replica.dispatcher.watch_use()
            replica.sweep()
            replica.reload()
            replica.sweep()
        assert len(replica.events.of(EventType.USE_UNKNOWN)) == 1


def test_without_a_cap_unknown_use_is_no_news(tmp_path: Path) -> None:
    with running(tmp_path, {"path": "apps/a"}, use_shown="none") as replica:
        for _ in range(2):
            replica.sweep()
            replica.dispatcher.watch_use()
        assert replica.events.of(EventType.USE_UNKNOWN) == []
        assert replica.status.to_json()["use"] is None
