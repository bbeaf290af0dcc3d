"""Thousands of targets on one budget, in simulated time: the real schedule, budget, planner and reconciler, for days.

Workers are threads that hand over a baton, as everywhere here, but nothing kills or freezes them: the question is
whether every key is replaced in time. A real dispatcher adds a pool and lanes, which do not decide when.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from random import Random
from typing import TypeVar

from support.world import OWNER, START, MemoryStore, MemoryVendor, StoreClient, VendorClient, Wire, make_target

from rotator.core.errors import ProviderUnavailable
from rotator.core.events import Event, EventType
from rotator.core.ports import Ports
from rotator.core.target import Target
from rotator.core.times import hash_fraction, next_turn
from rotator.core.windows import Windows
from rotator.daemon.schedule import Schedule, Task
from rotator.protocol.observer import Observer
from rotator.protocol.reconciler import Reconciler
from rotator.protocol.strays import StrayKeys
from rotator.runtime.rate_limit import WINDOW, SlidingWindow
from simulation.scheduler import Freezable, Scheduler

T = TypeVar("T")

ANSWERS_AFTER = 0.2
"""Seconds that the vendor takes for an answer."""

JITTER = 0.05
"""Of `renew_before`: the default."""

LOOKS_EVERY = 2.0
"""Seconds after which a worker without work looks at the schedule again."""


class FleetClock:
    """A `ports.Clock` on which the workers' sleep lets the others run."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def now(self) -> datetime:
        return self._scheduler.clock.now()

    def monotonic(self) -> float:
        return self._scheduler.now

    def sleep(self, seconds: float) -> None:
        self._scheduler.pause(seconds)

    def record_date(self, upstream: str, date: str | None, sent_at: float) -> None: ...

    def may_be_ahead(self) -> timedelta:
        return timedelta(0)

    def disputed_by(self) -> timedelta:
        return timedelta(0)

    def trusted(self) -> bool:
        return True


class Line(Wire):
    """Between the programs and the vendor, who may be down."""

    def __init__(self, clock: FleetClock) -> None:
        super().__init__()
        self._clock = clock
        self.down = False
        self.counted: Counter[str] = Counter()

    def call(self, actor: str, operation: str, effect: Callable[[], T], *arguments: object) -> T:
        self.counted[operation] += 1
        if operation.startswith("provider."):
            self._clock.sleep(ANSWERS_AFTER)
            if self.down:
                raise ProviderUnavailable("down")
        return effect()


def next_due(schedule: Schedule, scheduler: Scheduler) -> tuple[str, Task]:
    """Take what is due, or what is due next as soon as it is."""
    entry = schedule.take()

    def look() -> float:
        nonlocal entry
        entry = schedule.take()
        return 0.0 if entry else LOOKS_EVERY

    if entry is None:
        scheduler.rest(LOOKS_EVERY, look)
    assert entry
    return entry


@dataclass(slots=True)
class Replaced:
    """One key, when it was replaced."""

    target: str
    at: datetime
    expires_at: datetime  # of the key that was replaced
    due_at: datetime  # when it had to be, at the latest: the configured margin before its end

    @property
    def late(self) -> float:
        """Seconds; less than 0 when it was in time."""
        return (self.at - self.due_at).total_seconds()


@dataclass(slots=True)
class Fleet:
    """As many targets as use this share of a limit on requests a minute; all are new when it begins."""

    limit: int
    used: float
    ttl: timedelta = timedelta(hours=24)
    renew_before: timedelta = timedelta(hours=8)
    grace_period: timedelta = timedelta(hours=4)
    resync: timedelta = timedelta(hours=4)
    changed_at: timedelta | None = None  # when a reload changes what every key may do; it is rolled out over `spread`
    spread: timedelta = timedelta(hours=1)
    restarted: timedelta | None = None  # how often, after that reload; what changed when is forgotten each time
    windows: Windows = ()
    workers: int = 4
    replaced: list[Replaced] = field(default_factory=list)
    first: int = 0  # keys made for targets that had none
    began: datetime = START

    @property
    def targets(self) -> int:
        """How many there are."""
        period = self.ttl - self.renew_before * (1 + JITTER / 2)
        return int(self.used * self.limit * (period / timedelta(seconds=WINDOW)) / 3)

    def run(self, lasts: timedelta, outages: tuple[tuple[timedelta, timedelta], ...] = ()) -> "Counter[str]":
        """Let so much time pass; in each outage (from, to) the vendor does not answer. Returns the calls, counted."""
        scheduler = Scheduler("fleet", stuck=3600.0)
        clock = FleetClock(scheduler)
        line = Line(clock)
        store, vendor = MemoryStore(scheduler.clock, 4), MemoryVendor(scheduler.clock)
        jitter = self.renew_before * JITTER
        made: list[Target] = [
            make_target(
                name,
                path=name,
                ttl=self.ttl,
                renew_before=self.renew_before,
                grace_period=self.grace_period,
                jitter=jitter * hash_fraction(name),
                windows=self.windows,
            )
            for name in (f"t{number:05}" for number in range(self.targets))
        ]
        targets = {target.name: target for target in made}
        budget = SlidingWindow(self.limit, clock)
        served: dict[str, datetime] = {}

        def emit(event: Event) -> None:
            if event.what is not EventType.KEY_PUBLISHED:
                return
            now, before = clock.now(), served.get(event.target)
            served[event.target] = datetime.fromisoformat(str(event.fields["expires_at"]))
            if before is None:
                self.first += 1
            else:
                self.replaced.append(Replaced(event.target, now, before, before - self.renew_before))

        provider = VendorClient(vendor, line, "fleet")
        reconciler = Reconciler(
            Observer(
                OWNER,
                frozenset(),
                frozenset(targets),
                Ports(
                    provider,
                    StoreClient(store, scheduler.clock, line, "fleet"),
                    budget,
                    clock,
                    Random(0),
                    emit,
                    StrayKeys(provider, budget, clock, emit, {}),
                ),
            )
        )
        schedule = Schedule(clock, Random(1), self.resync)
        schedule.configure(targets, (), self.resync, {"respan": budget.pace})

        def work() -> None:
            while True:
                name, task = next_due(schedule, scheduler)
                options = replace(task.options, roll_out_at=roll_out_at.get(name))
                schedule.done(reconciler.reconcile(targets[name], task.request, options), task)

        roll_out_at: dict[str, datetime] = {}
        since: list[float] = []  # when the configuration of now was read

        def reload(now: datetime) -> None:
            for name, target in targets.items():
                targets[name] = replace(target, parameters={"rate_limit": 7})
                roll_out_at[name] = next_turn(name, now, self.spread)
            schedule.configure(targets, set(targets), self.resync, {"respan": budget.pace})

        process = Freezable("fleet")
        for number in range(self.workers):
            scheduler.add(process, f"worker {number}", Random(number), work)
        moments = [(down.total_seconds(), up.total_seconds()) for down, up in outages]

        def ends() -> bool:
            line.down = any(down <= scheduler.now < up for down, up in moments)
            if self.changed_at and not roll_out_at and scheduler.now >= self.changed_at.total_seconds():
                reload(clock.now())
                since.append(scheduler.now)
            if self.restarted and since and scheduler.now >= since[-1] + self.restarted.total_seconds():
                reload(clock.now())
                since.append(scheduler.now)
            return scheduler.now >= lasts.total_seconds()

        scheduler.ends = ends
        scheduler.run()
        assert all(target.name in served for target in made), "each has got a key"
        return line.counted
