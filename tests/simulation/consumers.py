"""Consumers that use the keys of a schedule, and the vendor's counters of that use.

What a counter shows may lag, start again at 0, or be missing for a while. A consumer uses a new key some time after it
was published; a stuck one never looks again while its key is alive.
"""

from bisect import bisect_right
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING

from support.world import START, IssuedKey

from rotator.core.target import Target
from rotator.core.use import CapUse, KeyUse
from simulation.scheduler import Happening
from simulation.settings import CAP, LIMIT, PICKUP, Settings

if TYPE_CHECKING:
    from simulation.clients import DaemonInfo

TICK = 5.0
"""Seconds between two moments at which all calls since the last one are made."""

BURST = 10
"""By so much a burst is more than the rate."""


@dataclass(slots=True)
class Meter:
    """Counts the calls with each key; refuses a key that has had `LIMIT` of them."""

    settings: Settings
    is_hidden: bool = False  # for a while no use is shown
    resets: list[float] = field(default_factory=list)  # when all counters were set to 0
    counts: dict[str, list[tuple[float, float]]] = field(default_factory=dict)  # by key: when it changed, and to what
    last_used: dict[str, float] = field(default_factory=dict)  # of each key, by a call that was answered

    def used(self, key_id: str) -> float:
        return self.counts.get(key_id, [(0.0, 0.0)])[-1][1]

    def call(self, key_id: str, calls: float, at: float) -> bool:
        """Count calls. Return whether all of them were answered."""
        used = self.used(key_id)
        if used < LIMIT:
            self.counts.setdefault(key_id, [(0.0, 0.0)]).append((at, min(LIMIT, used + calls)))
            self.last_used[key_id] = at
        return used + calls <= LIMIT

    def reset(self, at: float) -> None:
        self.resets.append(at)
        for changes in self.counts.values():
            changes.append((at, 0.0))

    def shown(self, key_id: str, now: float) -> KeyUse | None:
        """Return what an answer shows of a key's use; None when it shows nothing."""
        if self.is_hidden:
            return None
        then = now - self.settings.use_lag
        changes = self.counts.get(key_id, [(0.0, 0.0)])
        at, used = changes[max(0, bisect_right(changes, then, key=lambda change: change[0]) - 1)]
        last_used_at = START + timedelta(seconds=at) if self.settings.last_used and used else None
        limit = LIMIT if self.settings.shows_limit else None
        return KeyUse((CapUse(CAP, used, limit),), last_used_at)


@dataclass(slots=True)
class Consumer:
    """Uses the key of one path, or an earlier one."""

    target: Target
    rate: float  # calls a second
    begins: float
    picks_up_after: float
    is_stuck: bool
    key: IssuedKey | None = None
    burst_until: float = 0.0


class Consumers(Happening):
    """All consumers of a schedule. They go on when nothing goes wrong any longer."""

    def __init__(self, around: "DaemonInfo", meter: Meter, rng: Random) -> None:
        super().__init__("consumers", self._act)
        self._around, self._meter, self._rng = around, meter, rng
        settings = around.settings
        self._consumers = [
            Consumer(
                target,
                settings.rate,
                begins=settings.begins * rng.random(),
                picks_up_after=PICKUP * rng.random(),
                is_stuck=bool(settings.stuck) and number == 1,
            )
            for target in around.configuration.targets
            for number in range(2 if settings.stuck else 1)
        ]
        self._changes_at = 100 + 300 * rng.random()  # when what the counters show changes next

    def _act(self) -> float:
        around, now = self._around, self._around.scheduler.now
        if around.settings.vanishes and now >= self._changes_at:
            self._change(now)
        for consumer in self._consumers:
            self._look_at_the_end(consumer, now)
            self._pick_up(consumer, now)
            if consumer.key is None or now < consumer.begins or not around.vendor.alive(consumer.key):
                continue
            calls = consumer.rate * TICK * (BURST if now < consumer.burst_until else 1)
            if not self._meter.call(consumer.key.id, calls, now):
                self._refused(consumer)
            if around.settings.bursts and not around.quiet and self._rng.random() < 0.01:
                consumer.burst_until = now + 30
        return now + TICK

    def _look_at_the_end(self, consumer: Consumer, now: float) -> None:
        key, truth = consumer.key, self._around.truth
        place = truth.places[consumer.target.path]
        if key is None or truth.caps is None or self._around.vendor.alive(key) or now < consumer.begins:
            return
        if since := place.superseded.get(key.id):
            truth.caps.ended_in_use(place.target, key, since)

    def _refused(self, consumer: Consumer) -> None:
        truth = self._around.truth
        place = truth.places[consumer.target.path]
        if truth.caps and consumer.key is not None and place.served is consumer.key:
            truth.caps.refused(place.target, consumer.key)

    def _pick_up(self, consumer: Consumer, now: float) -> None:
        place, key = self._around.truth.places[consumer.target.path], consumer.key
        if consumer.is_stuck and key is not None and self._around.vendor.alive(key):
            return
        is_late = (
            key is not None and self._around.vendor.alive(key) and now < place.served_since + consumer.picks_up_after
        )
        if place.served is not None and not is_late:
            consumer.key = place.served

    def _change(self, now: float) -> None:
        around, wait = self._around, self._rng.random()
        self._changes_at = now + 20 + 200 * wait
        self._meter.is_hidden = False
        if not around.happens(f"use at {now:.0f}", "use changes"):
            return
        if wait < 0.3:
            self._meter.reset(now)
            around.scheduler.note("(vendor)", "counters", "", "start again at 0")
        elif wait < 0.8:
            self._meter.is_hidden = True
            around.scheduler.note("(vendor)", "counters", "", "are not shown")
