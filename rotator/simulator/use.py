"""What has been used, as the gateway counts it and as an answer may show it: later, and from zero in each period."""

from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Count:
    """Calls and money, and when the last call was."""

    calls: int = 0
    usd: float = 0.0
    last_at: datetime | None = None


@dataclass(slots=True)
class Counter:
    """Counts calls. Periods follow each other from `since`; without a period it never starts again."""

    since: datetime
    period: timedelta = timedelta()
    memory: timedelta = timedelta()  # how far back `seen` looks
    _totals: deque[Count] | None = None  # after each call; None before the first

    def add(self, at: datetime, calls: int, usd: float) -> None:
        """Count calls."""
        if self._totals is None:
            self._totals = deque([Count()])
        last = self._totals[-1]
        self._totals.append(Count(last.calls + calls, round(last.usd + usd, 9), at))
        needed = at - self.memory - self.period
        while len(self._totals) > 1 and (second := self._totals[1].last_at) and second <= needed:
            self._totals.popleft()

    def seen(self, at: datetime) -> Count:
        """Return what was counted by then, since the beginning of the period."""
        total = self._total(at)
        if not self.period:
            return total
        before = self._total(self.begun(at) - timedelta.resolution)
        return Count(total.calls - before.calls, round(total.usd - before.usd, 9), total.last_at)

    def begun(self, at: datetime) -> datetime:
        """Return when the period began."""
        return at - (at - self.since) % self.period if self.period else self.since

    def _total(self, at: datetime) -> Count:
        known = reversed(self._totals or ())
        return next((count for count in known if count.last_at is None or count.last_at <= at), Count())
