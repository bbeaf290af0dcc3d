"""The real time, as a `ports.Clock`."""

import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

_SECOND = timedelta(seconds=1)


class SystemClock:
    """The machine's clocks. `stop` ends every sleep at once, so that no thread holds up the end of the program."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self.max_skew = timedelta(minutes=1)
        self.skews: Mapping[str, timedelta] = {}  # by peer: how far this clock is ahead of that one

    def now(self) -> datetime:
        """The wall clock, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds that only grow."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait that long, or until `stop`."""
        self._stopped.wait(seconds)

    def heard(self, peer: str, said: str | None, sent_at: datetime) -> None:
        """The clocks agree if the date lies between the two; it is to the second, so one is allowed on either side."""
        try:
            date = parsedate_to_datetime(said or "").replace(tzinfo=UTC)
        except ValueError:
            return
        early, late = sent_at - date - _SECOND, date - self.now() - _SECOND
        skew = early if early > timedelta(0) else -late if late > timedelta(0) else timedelta(0)
        self.skews = {**self.skews, peer: skew}

    def trusted(self) -> bool:
        """Whether no peer's clock differs by more than `max_skew`; what nobody contradicts is trusted."""
        return all(abs(skew) <= self.max_skew for skew in self.skews.values())

    def stop(self) -> None:
        """End every sleep, now and from now on."""
        self._stopped.set()
