"""The real time, as a `ports.Clock`."""

import threading
import time
from datetime import UTC, datetime


class SystemClock:
    """The machine's clocks. `stop` ends every sleep at once, so that no thread holds up the end of the program."""

    def __init__(self) -> None:
        self._stopped = threading.Event()

    def now(self) -> datetime:
        """The wall clock, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds that only grow."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait that long, or until `stop`."""
        self._stopped.wait(seconds)

    def stop(self) -> None:
        """End every sleep, now and from now on."""
        self._stopped.set()
