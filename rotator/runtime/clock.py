"""The real time, as a `ports.Clock`."""

import threading
import time
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache

_SECOND = timedelta(seconds=1)

_NOISE = timedelta(seconds=2)
"""How far apart two readings of one clock may be, since dates are exact to the second."""

TOO_LATE = 3000
"""No clock shows this year: adding the difference to a time could leave the calendar, and end all work."""


class SystemClock:
    """The machine's clocks. `stop` ends every sleep at once, so that no thread delays the end of the program."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self.max_clock_skew = timedelta(minutes=1)
        self.skews: Mapping[str, timedelta] = {}  # by upstream: how far this machine's clock is ahead of that one
        self._wrong_by = timedelta(0)
        self._upstreams: Collection[str] | None = None  # those whose dates count; None: all
        self._lock = threading.Lock()

    def now(self) -> datetime:
        """Return the wall clock's time in UTC; where all upstreams agree that it is wrong, theirs."""
        return self._wall() - self._wrong_by

    def _wall(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds that only grow."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait that long, or until `stop`."""
        self._stopped.wait(seconds)

    def record_date(self, upstream: str, date: str | None, sent_at: float) -> None:
        """Compare the clocks. They agree if the date lies between sending and now, give or take its one second.

        A single upstream that disagrees may be wrong itself. If several agree with each other, this clock is wrong.
        """
        theirs = http_date(date or "")
        if theirs is None:
            return
        now = self._wall()
        sent = now - timedelta(seconds=self.monotonic() - sent_at)
        early, late = sent - theirs - _SECOND, theirs - now - _SECOND
        skew = early if early > timedelta(0) else -late if late > timedelta(0) else timedelta(0)
        with self._lock:
            if self._upstreams is None or upstream in self._upstreams:
                before = self.skews.get(upstream)
                if before is not None and abs(skew - before) <= _NOISE:
                    return  # else a clock that is off by just `max_clock_skew` would be trusted now and then
                self.skews = {**self.skews, upstream: skew}
                self._wrong_by = self._agreed_error()

    def listen_to(self, upstreams: Collection[str]) -> None:
        """Ignore all other upstreams, now and later."""
        with self._lock:
            self._upstreams = frozenset(upstreams)
            self.skews = {upstream: skew for upstream, skew in self.skews.items() if upstream in self._upstreams}
            self._wrong_by = self._agreed_error()

    def _agreed_error(self) -> timedelta:
        skews = sorted(self.skews.values())
        agree = len(skews) > 1 and skews[-1] - skews[0] <= self.max_clock_skew
        wrong = agree and min(map(abs, skews)) > self.max_clock_skew
        return skews[len(skews) // 2] if wrong else timedelta(0)

    def trusted(self) -> bool:
        """Return whether no upstream's clock differs by more than `max_clock_skew`; true before any has answered."""
        return all(abs(skew) <= self.max_clock_skew for skew in self.skews.values())

    def may_be_ahead(self) -> timedelta:
        """Return how far `now` is ahead of the upstream that is furthest behind; at least 0."""
        return max([timedelta(0), *(skew - self._wrong_by for skew in self.skews.values())])

    def disputed_by(self) -> timedelta:
        """Return how far `now` is ahead of all upstreams that have answered, if it agrees with none; negative: behind.

        The upstream with the latest time counts. 0 while one agrees, or none has answered.
        """
        skews = [skew - self._wrong_by for skew in self.skews.values()]
        return min(skews) if skews and min(map(abs, skews)) > self.max_clock_skew else timedelta(0)

    def skews_in_words(self) -> str:
        """Return how far this machine's clock is ahead of each upstream's, in seconds."""
        return ", ".join(f"{skew.total_seconds():+.0f} s to {upstream}" for upstream, skew in self.skews.items())

    def stop(self) -> None:
        """End every sleep, now and from now on."""
        self._stopped.set()


@lru_cache(maxsize=16)
def http_date(date: str) -> datetime | None:
    """Return the time of an answer's `Date`, or None. All answers of one second share it."""
    try:
        moment = parsedate_to_datetime(date).replace(tzinfo=UTC)
    except (ValueError, OverflowError):  # the latter for an absurd year or zone
        return None
    return moment if moment.year < TOO_LATE else None
