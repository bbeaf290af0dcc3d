"""Clocks that a test moves."""

import threading
from datetime import UTC, datetime, timedelta

from rotator.runtime.clock import SystemClock

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class FakeClock:
    """Time that passes only when a test advances it."""

    def __init__(self, start: datetime = START) -> None:
        self._lock = threading.Lock()
        self.start = start
        self.passed = 0.0
        self.wall_jump = timedelta(0)  # how far the wall clock is off the time that passed
        self.is_trusted = True
        self.is_ahead = timedelta(0)
        self.is_disputed_by = timedelta(0)

    def now(self) -> datetime:
        return self.start + timedelta(seconds=self.passed) + self.wall_jump

    def monotonic(self) -> float:
        return self.passed

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.passed += seconds

    def record_date(self, upstream: str, date: str | None, sent_at: float) -> None: ...

    def may_be_ahead(self) -> timedelta:
        return self.is_ahead

    def trusted(self) -> bool:
        return self.is_trusted

    def disputed_by(self) -> timedelta:
        return self.is_disputed_by

    def advance(self, time: timedelta) -> None:
        self.sleep(time.total_seconds())


class ForwardedClock(SystemClock):
    """The machine's clocks, `ahead` by so many seconds."""

    ahead = 0.0

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self.ahead)

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead
