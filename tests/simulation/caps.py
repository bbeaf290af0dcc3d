"""What must hold of keys with caps, whatever is shown of their use.

As `invariants`, it asks none of rotator's own code: the use is the vendor's true count.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from support.world import START, IssuedKey

from rotator.core.reasons import State
from rotator.core.target import Target
from rotator.core.versions import RECORD_FIELD
from simulation.consumers import TICK, Meter
from simulation.settings import ALONE, LIMIT, LIST_EVERY, PICKUP
from simulation.world import LaggingVendor

EARLY = "more keys were made early than may be made in a day"
HASTY = "a key was replaced early before its consumers had it"
EAGER = "a key was replaced early that was far from spent"
SPENT = "a spent key is served that could have been replaced"
CALLED_OK = "a spent key is called ok"
EXTENDED = "a superseded key was extended past its bound"
IN_USE = "a superseded key has ended that was used, and could have been extended"
UNUSED = "a superseded key was extended that no consumer used"

DAY, MINUTE = timedelta(hours=24), timedelta(minutes=1)

MOST_APART = 310
"""Seconds between two sweeps, at most."""

EARLY_WHY = "why=nearly-spent"


class Caps:
    """Follows what becomes of keys because of their use."""

    def __init__(
        self,
        meter: Meter,
        vendor: LaggingVendor,
        now: Callable[[], datetime],
        leeway: timedelta,
        break_: Callable[[str, str], None],
    ) -> None:
        """`break_` is called with a promise that did not hold, and how. `leeway`: by which two clocks may differ."""
        self._meter, self._vendor, self._now, self._leeway, self._break = meter, vendor, now, leeway, break_
        self._early: dict[str, dict[str, datetime]] = defaultdict(dict)  # by path: keys, and when they were published

    def published(
        self,
        target: Target,
        data: Mapping[str, Any],
        key: IssuedKey,
        before: IssuedKey | None,
        since: float,
        *,
        is_clock_trusted: bool,
    ) -> None:
        """A new key is served, instead of `before`, which was served `since` then."""
        if EARLY_WHY not in str(data.get(RECORD_FIELD)):
            return
        self.made_early(target, key)
        now = self._now()
        if before is None or (
            is_clock_trusted and now + self._leeway < START + timedelta(seconds=since) + target.caps.pickup
        ):
            self._break(HASTY, f"{key.id} of {target.path}, {(now - START).total_seconds() - since:.0f} s later")
        settings = self._meter.settings
        if before is None or not settings.is_calm or settings.use_lag:
            return
        used = self._meter.used(before.id)
        far = (
            LIMIT - used > 3 * settings.rate * (1 + settings.stuck) * (PICKUP + LIST_EVERY)
            and used < target.caps.replace_at * LIMIT
        )
        if far and not self._meter.resets:
            self._break(EAGER, f"{before.id} of {target.path} had used {used:.0f} of {LIMIT:.0f}")

    def made_early(self, target: Target, key: IssuedKey) -> None:
        """A key was made because the one before it was nearly spent."""
        early, now = self._early[target.path], self._now()
        early.setdefault(key.id, now)
        lately = [at for at in early.values() if now - at < DAY]
        if len(lately) > target.caps.max_early_rotations:
            self._break(EARLY, f"{key.id} is number {len(lately)} in {target.path}")

    def refused(self, target: Target, key: IssuedKey) -> None:
        """A consumer's call was refused, with the key that is served."""
        settings, policy = self._meter.settings, target.caps
        is_shown = settings.shows and not (settings.use_lag or settings.vanishes)
        if not (settings.is_calm and policy.replaces and is_shown):
            return
        is_too_fast = 2 * settings.rate * (1 + settings.stuck) * (PICKUP + LIST_EVERY) > LIMIT
        is_exhausted = len(self._early[target.path]) >= policy.max_early_rotations
        if not (is_too_fast or is_exhausted):
            self._break(SPENT, f"{key.id} of {target.path}, after {self._vendor.age(key):.0f} s")

    def judged(self, target: Target, key: IssuedKey, state: State) -> None:
        """A pass has ended, and calls the target this."""
        settings = self._meter.settings
        if self._meter.used(key.id) < LIMIT or not settings.shows or settings.vanishes or not settings.is_calm:
            return
        seconds = (self._now() - START).total_seconds() - self._meter.last_used[key.id] - settings.use_lag
        if state is State.OK and seconds > MOST_APART:
            self._break(CALLED_OK, f"{key.id} of {target.path}, spent for {seconds:.0f} s")

    def extended(self, target: Target, key: IssuedKey, superseded_at: datetime, ends: datetime) -> None:
        """A superseded key is given another expiry, later than the end of its grace."""
        grace_over_at = superseded_at + target.grace_period
        # To a provider that seems to round, the end of a grace is requested as a whole minute.
        if ends <= grace_over_at + self._leeway or ends == grace_over_at + (START - grace_over_at) % MINUTE:
            return
        latest = min(key.granted, grace_over_at + target.grace_extension)
        if ends > latest + self._leeway:
            self._break(EXTENDED, f"{key.id} of {target.path}, to {_clock(ends)} and not {_clock(latest)}")
        if not self._meter.settings.is_calm:
            return
        # Two looks may be so far apart, and a key that was used between them may have been used just now.
        used_at = START + timedelta(seconds=self._meter.last_used.get(key.id, 0.0) + MOST_APART)
        if ends > used_at + target.idle_after + self._leeway:
            self._break(UNUSED, f"{key.id} of {target.path}, to {_clock(ends)}")

    def ended_in_use(self, target: Target, key: IssuedKey, superseded_at: datetime) -> None:
        """A consumer used a superseded key until it ended."""
        settings, now = self._meter.settings, self._now()
        is_shown = settings.shows & ALONE and not (settings.use_lag or settings.vanishes)
        if not (settings.is_calm and is_shown and target.grace_extension) or self._meter.used(key.id) >= LIMIT:
            return
        latest = min(key.granted, superseded_at + target.grace_period + target.grace_extension)
        used_lately = now - START - timedelta(seconds=self._meter.last_used.get(key.id, 0.0)) < timedelta(
            seconds=2 * TICK
        )
        if used_lately and now < latest - self._leeway - timedelta(seconds=TICK):
            self._break(IN_USE, f"{key.id} of {target.path}, superseded at {_clock(superseded_at)}")


def _clock(moment: datetime) -> str:
    return f"{(moment - START).total_seconds():.1f}"
