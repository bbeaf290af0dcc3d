"""An hour without the vendor or the store ends without a stampede: schedule, budgets, sweeper and reconciler together.

In simulated time, as `fleet` has it, with a sweep on its fifth of the budget that begins when all is well again.
"""

from bisect import bisect_left
from collections.abc import Callable
from datetime import datetime, timedelta
from random import Random
from typing import TypeVar

import pytest
from support.world import OWNER, START, MemoryStore, MemoryVendor, StoreClient, VendorClient, Wire, make_target

from rotator.core.errors import ProviderUnavailable, StoreUnavailable
from rotator.core.events import Event, EventType
from rotator.core.ports import Ports
from rotator.core.times import hash_fraction
from rotator.daemon.schedule import Schedule
from rotator.protocol.memory import Memory
from rotator.protocol.observer import Observer
from rotator.protocol.reconciler import Reconciler
from rotator.protocol.strays import StrayKeys
from rotator.protocol.sweeper import Sweeper
from rotator.runtime.rate_limit import SlidingWindow
from simulation.fleet import ANSWERS_AFTER, FleetClock, next_due
from simulation.scheduler import Freezable, Scheduler

T = TypeVar("T")
HOUR = timedelta(hours=1)
LIMIT = 12
TARGETS = 150
DOWN, UP = 4 * 3600.0, 5 * 3600.0
ENDS = 9 * 3600.0
TTL, RENEW_BEFORE, GRACE = 6 * HOUR, 2 * HOUR, HOUR / 2


class Line(Wire):
    """Notes when what was asked of whom, and answers nothing while the upstream is away."""

    def __init__(self, clock: FleetClock, away: str) -> None:
        super().__init__()
        self._clock, self._away = clock, away
        self.sent: list[tuple[float, str]] = []

    def call(self, actor: str, operation: str, effect: Callable[[], T], *arguments: object) -> T:
        upstream = operation.partition(".")[0]
        self.sent.append((self._clock.monotonic(), operation))
        self._clock.sleep(ANSWERS_AFTER)
        if upstream == self._away and DOWN <= self._clock.monotonic() < UP:
            raise (ProviderUnavailable if upstream == "provider" else StoreUnavailable)("away")
        return effect()


class Story:
    """What happened in one run."""

    def __init__(self, away: str) -> None:
        scheduler = Scheduler("stampede", stuck=3600.0)
        clock = FleetClock(scheduler)
        self.line = Line(clock, away)
        self.published: list[tuple[float, str, datetime | None]] = []  # when, which, and when the key before was to end
        self.swept: list[float] = []
        store, self.vendor = MemoryStore(scheduler.clock, 4), MemoryVendor(scheduler.clock)
        targets = {
            name: make_target(
                name,
                path=name,
                ttl=TTL,
                renew_before=RENEW_BEFORE,
                grace_period=GRACE,
                jitter=RENEW_BEFORE * 0.05 * hash_fraction(name),
            )
            for name in (f"t{number:03}" for number in range(TARGETS))
        }
        budget = SlidingWindow(LIMIT, clock)
        ends: dict[str, datetime] = {}

        def emit(event: Event) -> None:
            if event.what is EventType.KEY_PUBLISHED:
                self.published.append((scheduler.now, event.target, ends.get(event.target)))
                ends[event.target] = datetime.fromisoformat(str(event.fields["expires_at"]))

        provider = VendorClient(self.vendor, self.line, "fleet")
        strays = StrayKeys(provider, budget, clock, emit, {})
        ports = Ports(
            provider, StoreClient(store, scheduler.clock, self.line, "fleet"), budget, clock, Random(0), emit, strays
        )
        reconciler = Reconciler(Observer(OWNER, frozenset(), frozenset(targets), ports, Memory(is_swept=True)))
        share = SlidingWindow(max(1, LIMIT // 5), clock, budget)
        sweeper = Sweeper("respan", [(reconciler.observer, [*targets.values()])], share, 5 * HOUR / 60, 10)
        schedule = Schedule(clock, Random(1), HOUR)
        schedule.configure(targets, (), HOUR, {"respan": budget.pace})

        def work() -> None:
            while True:
                name, task = next_due(schedule, scheduler)
                schedule.done(reconciler.reconcile(targets[name], task.request, task.options), task)

        def sweep() -> None:
            while True:
                swept = sweeper.sweep()
                if swept.complete:
                    self.swept.append(scheduler.now)
                schedule.wake([target.name for target in swept.to_work])
                # The next one comes just when the upstream is back, at the worst moment.
                clock.sleep(UP - scheduler.now if DOWN <= scheduler.now < UP else 900.0)

        def watch() -> None:
            """The daemon notices within 30 seconds that an upstream is up, and takes up what waited: here all."""
            clock.sleep(UP + 30 - scheduler.now)
            schedule.wake_in_turn(targets)
            clock.sleep(ENDS)

        process = Freezable("fleet")
        for number in range(4):
            scheduler.add(process, f"worker {number}", Random(number), work)
        scheduler.add(process, "sweep", Random(9), sweep)
        scheduler.add(process, "watch", Random(10), watch)
        scheduler.ends = lambda: scheduler.now >= ENDS
        scheduler.run()

    def most_in_a_minute(self, upstream: str, since: float = 0.0) -> int:
        """Requests to it in any sixty seconds."""
        moments = [at for at, operation in self.line.sent if operation.startswith(upstream) and at >= since]
        return max(bisect_left(moments, at + 60) - i for i, at in enumerate(moments))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("away", ["provider", "store"])
def test_an_hour_of_outage_ends_without_a_stampede(away: str) -> None:
    story = Story(away)
    late = [at for at, _, before in story.published if before and at >= UP]
    assert late, "keys were due meanwhile"
    assert not [at for at, _, _ in story.published if DOWN + 60 <= at < UP], "it was an outage"

    assert story.most_in_a_minute("provider") <= LIMIT
    assert story.most_in_a_minute("store", DOWN) <= 2 * TARGETS, "backoff holds the store, too"
    if away == "store":
        looked = [at for at, operation in story.line.sent if operation == "store.history" and UP + 30 <= at < UP + 31]
        assert len(looked) < TARGETS / 4, "what waited does not come all at once"
    replaced = [before for _, _, before in story.published if before is not None]
    assert len(story.published) <= 3 * TARGETS, "none is made but in its time"
    creates = sum(operation == "provider.create" for at, operation in story.line.sent if not DOWN <= at < UP)
    assert abs(creates - len(story.published)) <= 1, "and none in vain, but for one under way when it begins or ends"
    assert len(replaced) == len(story.published) - TARGETS
    expired = [name for at, name, before in story.published if before and before.timestamp() <= _at(at)]
    assert expired == []
    assert [at for at in story.swept if at > UP], "sweeps come to their end, on their share"


def _at(seconds: float) -> float:
    return START.timestamp() + seconds
