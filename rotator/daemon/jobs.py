"""The jobs of the daemon: each has a thread of its own, so that none delays another.

All threads run from the start, because a machine may have none left later. They wait by the monotonic clock, so a wall
clock that is set changes nothing.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from rotator.core.errors import RotatorError
from rotator.core.ports import Clock, Listener
from rotator.daemon.health import Health
from rotator.runtime.threads import start
from rotator.telemetry.logging import unexpected

AT_ONCE = float("-inf")


@dataclass(slots=True)
class _Job:
    name: str
    seconds: float
    work: Callable[[], None]
    due: float  # monotonic


class Jobs:
    """Runs each job at its interval, counted from the start of the run before. Thread-safe."""

    def __init__(self, clock: Clock, emit: Listener, health: Health) -> None:
        self._clock, self._emit, self._health = clock, emit, health
        self._jobs: dict[str, _Job] = {}
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition()
        self._ended = False

    def every(self, seconds: float, name: str, work: Callable[[], None], *, at_once: bool = False) -> None:
        """Add a job before the start. With `at_once` its first run is due at the start."""
        self._jobs[name] = _Job(name, seconds, work, AT_ONCE if at_once else self._clock.monotonic() + seconds)

    def start(self) -> None:
        """Start the threads. Raises `RotatorError` if the machine has too few."""
        try:
            for job in self._jobs.values():
                thread = threading.Thread(target=self._run, args=(job,), name=f"job {job.name}", daemon=True)
                self._threads.append(start(thread))
        except RotatorError:
            self.end()
            raise

    def change(self, name: str, seconds: float) -> None:
        """Give a job another interval, from now on."""
        with self._changed:
            self._jobs[name].seconds, self._jobs[name].due = seconds, self._clock.monotonic() + seconds
            self._changed.notify_all()

    def run_now(self, name: str) -> None:
        """Run a job at once, or after the run that is under way."""
        with self._changed:
            self._jobs[name].due = AT_ONCE
            self._changed.notify_all()

    def problems(self) -> Iterator[str]:
        """Yield a problem for each thread that has ended and should not have."""
        if not self._ended:
            yield from (f"the thread {thread.name} has ended" for thread in self._threads if not thread.is_alive())

    def end(self) -> None:
        """End each thread after the run that is under way, without waiting for it."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _run(self, job: _Job) -> None:
        while self._wait(job):
            try:
                with self._health.doing(job.name):
                    job.work()
            except Exception as error:
                with suppress(Exception):  # the log itself failed
                    self._emit(unexpected(f"the job {job.name}", error))
            with self._changed:  # runs that were missed meanwhile are skipped
                if AT_ONCE < job.due <= (now := self._clock.monotonic()):
                    job.due = now + job.seconds

    def _wait(self, job: _Job) -> bool:
        """Wait until the job is due, and return True; return False at the end."""
        with self._changed:
            while not self._ended:
                now = self._clock.monotonic()
                if job.due <= now:
                    job.due = now + job.seconds
                    return True
                self._changed.wait(job.due - now)
        return False
