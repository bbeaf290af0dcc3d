"""What a provider shows of a key's use, and what follows from several looks at it. Pure.

Use that is not shown is unknown: it never counts as none.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from math import inf

LOOKS = 6
"""How many looks at one key are kept."""

APART = timedelta(seconds=10)
"""Two looks that are closer show no rate: one call between them would count as a burst."""


LATE = timedelta(hours=1)
"""How late a list may be. A look that is earlier by more shows that this clock was ahead, and is right now."""


@dataclass(frozen=True, slots=True)
class CapUse:
    """How much of one cap a key has used, in the cap's own unit."""

    cap: str  # as the options of a target's `key` call it
    used: float
    limit: float | None = None  # None: not shown


@dataclass(frozen=True, slots=True)
class KeyUse:
    """What one answer showed of a key's use."""

    caps: tuple[CapUse, ...] = ()
    last_used_at: datetime | None = None  # None: never used, or not shown
    as_of: datetime | None = None  # when the answer arrived; `ProviderKey.seen_at` sets it

    def used(self, cap: str) -> float | None:
        """Return how much of a cap is used; None where that is unknown."""
        return next((use.used for use in self.caps if use.cap == cap), None)

    def shows_all_of(self, other: "KeyUse") -> bool:
        """Return whether each cap whose use another answer showed is shown here, too."""
        return {use.cap for use in other.caps} <= {use.cap for use in self.caps}

    def limit(self, cap: str) -> float | None:
        """Return the limit of a cap, if it is shown."""
        return next((use.limit for use in self.caps if use.cap == cap), None)


@dataclass(frozen=True, slots=True)
class UseSeries:
    """The last looks at one key's use, oldest first; at least one, each with its time."""

    looks: tuple[KeyUse, ...]
    is_shown_alone: bool | None = None  # whether a look-up of the key alone shows its use; None: not tried
    used_at: datetime | None = None  # the latest use that any look showed; of a count that grew, the end of that time
    replaced: KeyUse | None = None  # the first look since another key replaced this one; `marked` sets it
    unchanged: KeyUse | None = None  # the first look with the same numbers as the newest; None: that is the newest

    @property
    def latest(self) -> KeyUse:
        """The newest look."""
        return self.looks[-1]

    @property
    def begun_at(self) -> datetime:
        """When the oldest look was that is kept."""
        return _time(self.looks[0])

    @property
    def as_of(self) -> datetime:
        """When the newest look was."""
        return _time(self.latest)

    def add(self, use: KeyUse) -> "UseSeries":
        """Return the series with one more look. One that is not newer is ignored: a list may be late.

        A number that shrinks, a cap that is no longer shown, or a clock that was set back, starts a new series.
        """
        if self.as_of - _time(use) > LATE:
            return UseSeries((use,), self.is_shown_alone, _last_use(use, None))
        if _time(use) <= self.as_of:
            return self
        used_at = max(filter(None, (self.used_at, _last_use(use, self.latest))), default=None)
        if any((now := use.used(cap.cap)) is None or now < cap.used for cap in self.latest.caps):
            return UseSeries((use,), self.is_shown_alone, used_at)
        kept = self.looks
        if len(kept) > 1 and _time(kept[-1]) - _time(kept[-2]) < APART:
            kept = kept[:-1]
        unchanged = (self.unchanged or self.latest) if use.caps == self.latest.caps else None
        return replace(self, looks=(*kept, use)[-LOOKS:], used_at=used_at, unchanged=unchanged)

    def marked(self, since: datetime) -> "UseSeries":
        """Return the series with the first look since another key replaced this one."""
        if self.replaced is not None and _time(self.replaced) >= since:
            return self
        return replace(self, replaced=next((look for look in self.looks if _time(look) >= since), None))

    @property
    def used_since(self) -> tuple[CapUse, ...]:
        """How much of each cap was used since another key replaced this one: between the first look after that and the
        newest. Empty while there is only one.
        """
        if self.replaced is None or _time(self.replaced) == self.as_of:
            return ()
        before = {use.cap: use.used for use in self.replaced.caps}
        return tuple(
            replace(use, used=use.used - before[use.cap])
            for use in self.latest.caps
            if use.used >= before.get(use.cap, inf)
        )

    def rate(self, cap: str, since: datetime) -> float:
        """Return the use a second, for a key that exists `since`: the highest that these looks show.

        The share of its whole life counts too, so that the first look after a restart shows a rate.
        """
        return max((self.mean_rate(cap, since), *self._slopes(cap)))

    def mean_rate(self, cap: str, since: datetime, until: datetime | None = None) -> float:
        """Return the use a second over the life of a key that exists `since`, up to `until` or the last look."""
        return (self.latest.used(cap) or 0.0) / max(APART, (until or self.as_of) - since).total_seconds()

    def _slopes(self, cap: str) -> Iterator[float]:
        for before, after in pairwise(self.looks):
            time, first, last = _time(after) - _time(before), before.used(cap), after.used(cap)
            if time >= APART and first is not None and last is not None:
                yield (last - first) / time.total_seconds()


def _time(use: KeyUse) -> datetime:
    assert use.as_of is not None  # noqa: S101 - for the type checker: only looks with a time are added
    return use.as_of


def _last_use(use: KeyUse, before: KeyUse | None) -> datetime | None:
    """Return the last use that a look shows, after the look `before`.

    A count that grew was used at any time between the two looks, so the later one counts: a key that is used is not
    taken for one that is not. So does a count that began anew and is above 0.
    """
    shown = use.last_used_at if use.last_used_at and use.last_used_at <= _time(use) else None
    if before is None:
        return shown
    grew = any((now := use.used(cap.cap)) is not None and now not in (0, cap.used) for cap in before.caps)
    return _time(use) if grew and (shown is None or shown <= _time(before)) else shown


def series_with(series: UseSeries | None, use: KeyUse) -> UseSeries:
    """Return the series with this look, or a new one."""
    return UseSeries((use,), used_at=_last_use(use, None)) if series is None else series.add(use)
