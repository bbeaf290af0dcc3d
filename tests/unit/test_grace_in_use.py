"""Passes over a target whose superseded key is still used: what is sent to the provider, and when the key ends."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import inf

import pytest
from support.world import HOUR, START, IssuedKey, World, make_target, refuse

from rotator.core.errors import ProviderUnavailable
from rotator.core.events import EventType, Level
from rotator.core.reasons import Reason
from rotator.core.request import RotationRequest
from rotator.core.target import Target
from rotator.core.times import timestamp
from rotator.core.use import CapUse, KeyUse
from rotator.protocol.observer import Observer
from rotator.protocol.reconciler import Reconciler
from rotator.protocol.sweeper import Sweeper

MINUTE = timedelta(minutes=1)
TARGET = make_target(grace_extension=6 * HOUR, idle_after=HOUR)
FORCED = RotationRequest(rotate=True, by="tester")
RESYNC = 10 * MINUTE
COUNTS, TIMES, BOTH = "count", "last_used_at", "both"


@dataclass
class Life:
    """A target whose first key was replaced at once: it is 00:00, and that key's grace ends at 04:00."""

    target: Target = TARGET
    shows: str = BOTH
    where: frozenset[str] = frozenset({"list", "retrieve"})
    world: World = field(init=False)
    reconciler: Reconciler = field(init=False)
    calls: int = 0

    def __post_init__(self) -> None:
        self.world = World(self.target)
        self.world.vendor.shows_use = self.where
        self.restart()
        assert self.reconciler.reconcile(self.target).rotated
        served = self.world.served()
        assert served is not None
        self.old: IssuedKey = served
        self.show()
        assert self.reconciler.reconcile(self.target, FORCED).rotated

    def restart(self) -> None:
        """Begin a process that knows nothing."""
        self.reconciler = self.world.reconciler(f"process {len(self.world.strays)}")

    @property
    def observer(self) -> Observer:
        return self.reconciler.observer

    def show(self, at: datetime | None = None) -> None:
        caps = () if self.shows == TIMES else (CapUse("max_usage", self.calls),)
        self.world.vendor.use[self.old.id] = KeyUse(caps, None if self.shows == COUNTS else at)

    def call(self) -> None:
        """Use the old key, if it works."""
        if self.world.vendor.alive(self.old):
            self.calls += 1
            self.show(self.world.clock.now())

    def run(self, hours: float, every: timedelta | None = None, *, sweeps: bool = False) -> None:
        """Let the daemon run until that hour; the old key is called `every` so often."""
        clock, until = self.world.clock, START + hours * HOUR
        next_call = clock.now() if every else until
        next_sweep = clock.now() if sweeps else until
        wake = clock.now()
        while clock.now() < until:
            if every and clock.now() >= next_call:
                self.call()
                next_call = clock.now() + every
            if sweeps and clock.now() >= next_sweep:
                self.sweep()
                next_sweep = clock.now() + 15 * MINUTE
            if clock.now() >= wake:
                report = self.reconciler.reconcile(self.target)
                wake = clock.now() + RESYNC
                if report.error:
                    wake = clock.now() + MINUTE
                elif report.plan and report.plan.wake_at:
                    wake = min(wake, report.plan.wake_at)
            clock.advance(max(timedelta(seconds=1), min(until, next_call, next_sweep, wake) - clock.now()))

    def sweep(self) -> None:
        budget = self.observer.ports.budget
        Sweeper("respan", [(self.observer, [self.target])], budget, timedelta(0), 10).sweep()

    @property
    def ends(self) -> float:
        """The hour at which the old key ends, by its expiry at the provider."""
        assert self.old.expires_at is not None
        return (self.old.expires_at - START) / HOUR

    def changes(self) -> list[float]:
        """The hours that the old key's expiry was set to."""
        calls = [call for call in self.world.wire.journal if call.operation == "provider.set_expiry"]
        return [(call.arguments[1] - START) / HOUR for call in calls if call.subject == self.old.id]

    def look_ups(self) -> int:
        journal = self.world.wire.journal
        return sum(call.operation == "provider.retrieve" and call.subject == self.old.id for call in journal)


@pytest.mark.parametrize("shows", [COUNTS, TIMES, BOTH])
def test_a_used_key_lives_on_after_its_grace_and_not_past_the_bound(shows: str) -> None:
    life = Life(shows=shows)
    life.run(3.7, 20 * MINUTE)
    assert life.changes() == [4], "at first it ends with its grace, so that it ends if no replica runs"
    life.run(9.9, 20 * MINUTE)
    assert life.world.vendor.alive(life.old)
    assert life.ends == 10
    life.run(10.1, 20 * MINUTE)
    assert not life.world.vendor.alive(life.old)
    assert life.old.revoked, "and it was removed"
    assert life.world.broken == []
    assert len(life.changes()) <= 1 + 6 / 0.4, "its expiry was not set at each look"


@pytest.mark.parametrize("shows", [COUNTS, TIMES, BOTH])
def test_a_key_that_falls_idle_ends_within_idle_after_of_its_last_use(shows: str) -> None:
    life = Life(shows=shows)
    life.run(5, 10 * MINUTE)
    assert life.world.vendor.alive(life.old)
    last_call = life.world.clock.now() - 10 * MINUTE
    life.run(9)
    assert life.old.revoked
    ended = START + life.ends * HOUR
    late = 45 * MINUTE if shows == COUNTS else 0 * MINUTE  # between two counts it may have been used at any time
    assert last_call + HOUR - 15 * MINUTE <= ended <= last_call + HOUR + late


@pytest.mark.parametrize("shows", [COUNTS, TIMES])
def test_a_key_that_nobody_uses_costs_three_look_ups_and_ends_with_its_grace(shows: str) -> None:
    life = Life(shows=shows)
    life.run(5)
    assert life.changes() == [4]
    assert life.old.revoked
    assert life.look_ups() <= 3


def test_use_that_the_provider_never_shows_extends_nothing() -> None:
    life = Life(where=frozenset())
    life.run(5, MINUTE, sweeps=True)
    assert life.changes() == [4]
    assert life.old.revoked
    assert life.look_ups() <= 3


def test_use_that_only_the_list_shows_extends_a_grace_without_a_look_up() -> None:
    life = Life(where=frozenset({"list"}))
    life.run(7, 10 * MINUTE, sweeps=True)
    assert life.world.vendor.alive(life.old)
    life.run(10.1, 10 * MINUTE, sweeps=True)
    assert life.old.revoked


@pytest.mark.parametrize("shows", [COUNTS, TIMES, BOTH])
@pytest.mark.parametrize("hour", [3.8, 4.5, 5.3, 9.8])
def test_a_restart_neither_cuts_a_used_key_nor_lets_it_live_on(hour: float, shows: str) -> None:
    life = Life(shows=shows)
    life.run(hour, 4 * MINUTE)
    life.restart()
    life.run(9.95, 4 * MINUTE)
    assert life.world.vendor.alive(life.old)
    life.run(10.1, 4 * MINUTE)
    assert life.old.revoked
    assert life.world.broken == []


@pytest.mark.parametrize("shows", [COUNTS, TIMES, BOTH])
def test_after_a_restart_a_key_that_fell_idle_ends_no_later_than_was_set(shows: str) -> None:
    life = Life(shows=shows)
    life.run(5.2, 10 * MINUTE)
    set_before = life.ends
    assert set_before > 5.2
    life.restart()
    life.run(9)
    assert life.old.revoked
    assert life.ends <= max(set_before, 5 + 1 / 6 + 1), "an hour after its last use, where that is shown"


def test_without_a_replica_a_used_key_ends_at_the_last_value_that_was_set() -> None:
    life = Life()
    life.run(5.2, 10 * MINUTE)
    set_before = life.ends
    life.world.clock.advance(4 * HOUR)
    assert not life.world.vendor.alive(life.old)
    life.restart()
    life.run(9.5, 10 * MINUTE)
    assert (life.ends, life.old.revoked) == (set_before, True), "it is not revived"


def test_a_process_that_starts_after_the_grace_looks_at_the_use_before_it_ends_a_key() -> None:
    life = Life(shows=TIMES)
    life.old.expires_at = life.old.granted  # it was never shortened
    life.world.clock.advance(5.5 * HOUR)
    life.call()
    life.restart()
    life.run(5.6)
    assert life.ends == pytest.approx(6.5, abs=0.02)
    life.run(7)
    assert life.old.revoked


def test_while_the_provider_is_down_a_key_past_its_grace_is_not_cut_unlooked() -> None:
    life = Life(shows=TIMES)
    life.old.expires_at = life.old.granted
    life.restart()
    outage = [True]
    life.world.at(
        lambda call: call.operation == "provider.set_expiry" and outage[0],
        refuse(ProviderUnavailable("down")),
        times=inf,
    )
    life.world.at(
        lambda call: call.operation == "provider.retrieve" and outage[0], refuse(ProviderUnavailable("down")), times=inf
    )
    life.run(5, 10 * MINUTE)
    assert life.world.vendor.alive(life.old)
    assert 1 in {version.number for version in life.world.store.versions(TARGET.path).values() if not version.destroyed}
    outage[0] = False
    life.run(5.3, 10 * MINUTE)
    assert life.changes()[-1] == pytest.approx(life.ends)
    assert 5.9 < life.ends < 6.4


def test_a_revoked_key_ends_at_once_and_without_a_warning_of_its_use() -> None:
    life = Life()
    life.run(4.5, 10 * MINUTE)
    life.reconciler.reconcile(TARGET, RotationRequest(rotate=True, revoke_now=True, by="tester"))
    assert life.old.revoked
    assert life.world.events.of(EventType.KEY_RETIRED_IN_USE) == []


@pytest.mark.parametrize(
    "keeps",
    [
        lambda asked: asked.replace(second=0, microsecond=0) + MINUTE,
        lambda asked: asked.replace(second=0, microsecond=0),
        lambda asked: asked.replace(minute=0, second=0, microsecond=0) + HOUR,
    ],
)
def test_where_the_provider_rounds_a_used_key_lives_on_and_ends(keeps: Callable[[datetime], datetime]) -> None:
    life = Life(shows=TIMES)
    life.world.vendor.keeps = keeps
    life.run(9.5, 10 * MINUTE)
    assert life.world.vendor.alive(life.old)
    life.run(10.2, 10 * MINUTE)
    assert life.old.revoked
    assert life.world.broken == []


def test_a_look_that_decides_whether_a_key_ends_is_as_urgent_as_that_end() -> None:
    life = Life(shows=TIMES)
    life.run(4.1, 10 * MINUTE)
    journal = life.world.wire.journal
    numbers = [call.number for call in journal if call.operation in ("provider.retrieve", "provider.set_expiry")]
    assert {journal[number - 1].arguments[0] for number in numbers[1:]} == {START + 4 * HOUR}


# --- what is reported ------------------------------------------------------------------------------------------------


def test_an_extension_is_reported_when_it_begins_and_not_again() -> None:
    life = Life(shows=TIMES)
    life.run(8, 10 * MINUTE)
    (event,) = life.world.events.of(EventType.KEY_EXTENDED)
    assert (event.fields["key_id"], event.fields["reason"]) == (life.old.id, Reason.IN_USE)
    assert event.fields["last_used_at"] == timestamp(START + 3 * HOUR + 40 * MINUTE)


def test_a_key_that_ends_in_use_is_reported_once_with_and_without_an_extension() -> None:
    for target, hour in ((TARGET, 10.1), (make_target(idle_after=HOUR), 4.1)):
        life = Life(target=target, shows=TIMES)
        life.run(hour, 10 * MINUTE, sweeps=True)
        (event,) = life.world.events.of(EventType.KEY_RETIRED_IN_USE)
        assert (event.level, event.fields["key_id"]) == (Level.WARNING, life.old.id)
        assert target.path in str(event.fields["advice"])


def test_a_key_that_ends_unused_is_not_reported() -> None:
    life = Life(shows=TIMES)
    life.run(1, 10 * MINUTE, sweeps=True)
    life.run(5, sweeps=True)
    assert life.old.revoked
    assert life.world.events.of(EventType.KEY_RETIRED_IN_USE, EventType.KEY_EXTENDED) == []
