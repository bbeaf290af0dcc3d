"""What is under way in this process, and since when each of it stands still: for /healthz and systemd's watchdog.

A restart helps against a fault of this process and against nothing else. So the bounds are longer than what anything
may rightly take: requests end by their own time-outs, and a wait for the right to send one (a budget that is used up,
or that a 429 has paused) never counts.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rotator.core.ports import Clock

LONGEST_WORK = 1800.0
"""Seconds without a step after which a pass or a job stands still. A hundred requests that time out take less."""


class Health:
    """Safe for many threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._moved: dict[str, float] = {}  # by what is under way: its last step (monotonic)
        self._excused = float("-inf")

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Take note that this is under way; it is the first step."""
        with self._lock:
            self._moved[what] = self._clock.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._moved.pop(what, None)

    def moved(self, what: str) -> None:
        """Take note of another step of what may take long, if it is under way."""
        with self._lock:
            if what in self._moved:
                self._moved[what] = self._clock.monotonic()

    def excuse(self) -> None:
        """What is under way may just now be waiting for its turn: count from here."""
        with self._lock:
            self._excused = self._clock.monotonic()

    def problems(self) -> Iterator[str]:
        """What stands still."""
        now = self._clock.monotonic()
        with self._lock:
            moved = {what: max(at, self._excused) for what, at in self._moved.items()}
        for what, at in moved.items():
            if now - at > LONGEST_WORK:
                yield f"{what} has stood still for {now - at:.0f} s"
