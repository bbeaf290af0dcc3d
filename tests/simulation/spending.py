"""One application that spends its keys, for days, in simulated time: the real planner, reconciler, sweeper and watch.

The provider counts calls and refuses a key whose `max_usage` is reached, and its answers show the count. The
application uses each new key as late as `pickup` allows, which is the worst that it may do.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random

from support.world import ALL, OWNER, IssuedKey, World, make_target

from rotator.core.caps import HOT_EVERY
from rotator.core.reasons import Reason, State
from rotator.core.target import Cap, CapPolicy, Target
from rotator.core.use import CapUse, KeyUse
from rotator.core.versions import RECORD_FIELD, Record
from rotator.protocol.memory import Memory
from rotator.protocol.observer import Observer
from rotator.protocol.reconciler import Reconciler
from rotator.protocol.sweeper import Sweeper
from rotator.protocol.use_watch import UseWatch

STEP = timedelta(seconds=10)
DAY = timedelta(days=1)
LIST_EVERY, RESYNC = timedelta(minutes=15), timedelta(minutes=10)
CAP = Cap("max_usage", 100_000, "calls")

Rate = Callable[[timedelta], float]
"""Calls a second, so long after the beginning."""


def steady(lasts: timedelta) -> Rate:
    """Return a rate at which a key lasts so long."""
    return lambda _: CAP.limit / lasts.total_seconds()


def with_bursts(lasts: timedelta, times: float, burst: timedelta, rng: Random) -> Rate:
    """Return the same, but for one burst a day, at a time of its own, which has so many times that rate."""
    usual = CAP.limit / lasts.total_seconds()
    begins = [DAY * day + (DAY - burst) * rng.random() for day in range(1000)]
    return lambda passed: usual * (times if timedelta(0) <= passed - begins[passed // DAY] < burst else 1)


def _use(calls: float) -> KeyUse:
    return KeyUse((CapUse(CAP.option, calls),))


class Spending:
    """One target, and an application that uses its keys at some rate."""

    def __init__(
        self,
        rate: Rate,
        policy: CapPolicy,
        *,
        shown_in: tuple[str, ...] = ("list", "retrieve"),
        looks_alone: bool = True,
        restart_every: timedelta | None = None,
    ) -> None:
        """`looks_alone`: at hot keys, once a minute; else at the list alone."""
        policy = replace(policy, caps=(CAP,))
        self._rate, self._pickup, self._restart_every = rate, policy.pickup, restart_every
        self._hot_every = HOT_EVERY if looks_alone else None
        self.world = World(make_target(caps=policy, parameters={CAP.option: int(CAP.limit)}))
        self.world.vendor.traits = replace(ALL, reports_use="list")
        self.world.vendor.shows_use = frozenset(shown_in)
        self._target = self.world.target
        self.refused = timedelta(0)
        """For so long the application's calls were refused."""
        self.spent = timedelta(0)
        """For so long the target's state was `spent`."""
        self.requests: Counter[str] = Counter()
        """To the provider; a list has one page."""
        self._start()

    def run(self, lasts: timedelta) -> "Spending":
        """Let so much time pass."""
        clock, began = self.world.clock, self.world.clock.now()
        keys = [(began, self._served)]  # those that the application has not left yet, and from when it uses them
        while (passed := clock.now() - began) < lasts:
            if self._restart_every and passed and not passed % self._restart_every:
                self._start()
            self._work(passed)
            if self._served is not keys[-1][1]:
                keys.append((clock.now() + self._pickup, self._served))
            while len(keys) > 1 and keys[1][0] <= clock.now():
                del keys[0]
            if not self._call(keys[0][1], self._rate(passed) * STEP.total_seconds()):
                self.refused += STEP
            if self._state is State.SPENT:
                self.spent += STEP
            clock.advance(STEP)
        self.requests += Counter(call.partition(".")[2] for call in self.world.calls("provider."))
        return self

    def early(self) -> list[datetime]:
        """Return when keys were made because of a cap, by the records that were ever written."""
        records = [Record.parse(str(put.data[RECORD_FIELD])) for put in self.world.store.puts]
        return sorted({record.issued_at for record in records if record and record.why == Reason.NEARLY_SPENT})

    def _call(self, key: IssuedKey, calls: float) -> bool:
        """Count calls with a key, and return True, if the provider accepts it."""
        vendor = self.world.vendor
        used = vendor.use[key.id].used(CAP.option) or 0
        if not vendor.alive(key) or used >= CAP.limit:
            return False
        vendor.use[key.id] = _use(used + calls)
        return True

    # --- the daemon --------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Begin a process that knows nothing."""
        ports, names = self.world.ports("rotator"), frozenset({self._target.name})
        memory = Memory(is_swept=True)
        observer = Observer(OWNER, frozenset(), names, ports, memory, list_every=LIST_EVERY, hot_every=self._hot_every)
        groups = [(observer, [self._target])]
        self._reconciler = Reconciler(observer)
        self._sweeper = Sweeper("respan", groups, ports.budget, timedelta(minutes=5), 10)
        self._watch = UseWatch(groups, ports.budget, 6)
        self._pass()

    def _pass(self) -> None:
        report = self._reconciler.reconcile(self._target)
        served = self.world.served()
        assert report.error is None
        assert report.plan is not None
        assert served is not None
        self.world.vendor.use.setdefault(served.id, _use(0))
        self._state, self._served = report.plan.state, served
        self._wake_at = min(report.plan.wake_at or datetime.max.replace(tzinfo=UTC), self.world.clock.now() + RESYNC)

    def _work(self, passed: timedelta) -> None:
        """Do what is due now."""
        to_work: tuple[Target, ...] = ()
        if not passed % LIST_EVERY:
            swept = self._sweeper.sweep()
            assert swept.complete
            to_work = swept.to_work
        elif self._hot_every and not passed % self._hot_every:
            to_work = self._watch.look(lambda: False)
        if to_work or self._wake_at <= self.world.clock.now():
            self._pass()
