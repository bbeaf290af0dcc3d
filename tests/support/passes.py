"""A process that works on the only target of a world, as its schedule would: whenever time changes its plan."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from rotator.core.events import Event, EventType
from rotator.core.plan import Plan
from rotator.core.request import ACT, SCHEDULED, PassOptions, RotationRequest
from rotator.core.target import Target
from support.world import START, World


class Working:
    """A process that has made the target's first key."""

    def __init__(self, target: Target, start: datetime = START) -> None:
        self.world = World(target)
        self.world.clock.start = start
        self.reconciler = self.world.reconciler()
        self.rotated_at: list[datetime] = []
        self.retry = timedelta(minutes=10)
        self.plan: Plan
        self.step()

    def restart(self) -> None:
        """Go on as a new process, which remembers nothing."""
        self.reconciler = self.world.reconciler(f"{len(self.world.strays)}")

    def look_up(self) -> None:
        """Look up the served key at the provider, as a sweep does whose list lacks it."""
        observer = self.reconciler.observer
        seen = observer.observe(self.world.target)
        assert seen.current is not None
        assert seen.current.record is not None
        observer.look_up(seen, seen.current.record, observer.ports.budget)

    def step(self, request: RotationRequest = SCHEDULED, options: PassOptions = ACT) -> datetime:
        """Make a pass, and return when the next is due."""
        now = self.world.clock.now()
        report = self.reconciler.reconcile(self.world.target, request, options)
        assert report.plan is not None
        self.plan = report.plan
        if report.rotated:
            self.rotated_at.append(now)
        if report.error is not None:
            return now + self.retry
        return self.plan.wake_at or now + timedelta(days=1)

    def run(self, until: datetime, options: PassOptions = ACT) -> Iterator[datetime]:
        """Make passes until then; yield the time before each."""
        clock = self.world.clock
        while (at := self.step(options=options)) < until:
            clock.advance(at - clock.now())
            yield at
        clock.advance(until - clock.now())
        self.step(options=options)

    def work(self, until: datetime, options: PassOptions = ACT) -> None:
        """Make passes until then."""
        for _ in self.run(until, options):
            pass

    def events(self, what: EventType) -> list[Event]:
        """Return the events of one type."""
        return [event for event in self.world.events if event.what is what]

    @property
    def outside(self) -> list[str]:
        """The reasons of the rotations that were reported to be outside a window, or in a pause."""
        return [str(event.fields["reason"]) for event in self.events(EventType.ROTATED_OUTSIDE_WINDOW)]
