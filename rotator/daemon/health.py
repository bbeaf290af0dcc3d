"""Finds passes and jobs that are stuck, for /healthz and systemd's watchdog.

A restart only helps if this process is at fault. So the bounds are longer than any healthy work: requests end by their
own time-outs, and waiting for a provider's budget never counts.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rotator.core.ports import Clock

LONGEST_WORK = 1800.0
"""Seconds without a step after which a pass or a job is stuck. A hundred requests that time out take less."""


class Health:
    """The work under way and the time of its last step. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._moved: dict[str, float] = {}  # by work under way: its last step (monotonic)
        self._excused = float("-inf")

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Record that this work is under way. Its start is the first step."""
        with self._lock:
            self._moved[what] = self._clock.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._moved.pop(what, None)

    def moved(self, what: str) -> None:
        """Record another step of this work, if it is under way."""
        with self._lock:
            if what in self._moved:
                self._moved[what] = self._clock.monotonic()

    def excuse(self) -> None:
        """Count from now on, because the work under way may be waiting for a budget."""
        with self._lock:
            self._excused = self._clock.monotonic()

    def problems(self) -> Iterator[str]:
        """Yield a problem for each stuck pass or job."""
        now = self._clock.monotonic()
        with self._lock:
            moved = {what: max(at, self._excused) for what, at in self._moved.items()}
        for what, at in moved.items():
            if now - at > LONGEST_WORK:
                yield f"{what} has made no progress for {now - at:.0f} s"
