"""Remembers that an upstream is down, so that only one caller at a time tries it until it is up again.

Data and arithmetic only. While a circuit is open, every caller gets the error that opened it.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from rotator.core.errors import RotatorError
from rotator.core.ports import Clock

FIRST_WAIT = 1.0
LONGEST_WAIT = 25.0
"""Seconds at most between two requests to an upstream that is down: a daemon asks within 30."""

LASTING = 60.0
"""Seconds without a success, after which failures are an outage and not lost answers."""

CONFIRMED_FOR = 5.0
"""Seconds for which an answer about a credential counts for all who ask."""

E = TypeVar("E", bound=RotatorError)
C = TypeVar("C")


@dataclass(slots=True)
class Circuit(Generic[E]):
    """Between an adapter and its upstream. Safe for many threads."""

    clock: Clock
    error: E | None = None  # why nothing is sent; None while all is well
    _wait: float = 0.0  # seconds
    _until: float = 0.0  # monotonic
    _trying: bool = False  # one caller may send, to see whether it is up again
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def enter(self) -> None:
        """Return if a request may be sent: always while all is well, else for one caller after each wait.

        Otherwise raise the known error.
        """
        with self._lock:
            if self.error is None:
                return
            now = self.clock.monotonic()
            if now < self._until:
                raise self.error.with_traceback(None)  # each raise would lengthen the traceback
            # That caller has as much time as the wait. If it never reports, the next one may try.
            self._trying, self._until = True, now + self._wait

    def look(self) -> None:
        """Do what `enter` does, but not as the caller that tries."""
        with self._lock:
            if self.error is not None and self.clock.monotonic() < self._until:
                raise self.error.with_traceback(None)

    def failed(self, error: E) -> None:
        """Note that the upstream is down. The wait doubles with each try, and not with requests that were under way."""
        with self._lock:
            if self.error is None:
                self._wait = FIRST_WAIT
            elif self._trying:
                self._wait = min(LONGEST_WAIT, 2 * self._wait)
            self._trying = False
            self.error, self._until = error, self.clock.monotonic() + self._wait

    def try_now(self) -> None:
        """Let the next caller try at once: the cause may be fixed. The upstream counts as down until it answers."""
        with self._lock:
            self._until = self.clock.monotonic()

    def worked(self) -> None:
        """Note that the upstream works."""
        with self._lock:
            self.error = None


@dataclass(slots=True)
class Outage(Generic[E]):
    """Whether an upstream answers at all. It stops no request: callers retry on their own. Safe for many threads.

    It begins with a failure some time after another one, with no answer in between: after a single failure, the next
    request may be far away.
    """

    clock: Clock
    error: E | None = None  # of the last try; None while the upstream answers
    _since: float | None = None  # monotonic: of the first failure in a row
    _failed_at: float = 0.0  # monotonic: of the last one
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def failed(self, error: E) -> None:
        """Note that there was no answer."""
        with self._lock:
            now = self.clock.monotonic()
            self._since = now if self._since is None else self._since
            self._failed_at = now
            if now - self._since >= LASTING:
                self.error = error

    def is_to_be_asked(self) -> bool:
        """Return whether it is an outage, and the last try was a while ago."""
        with self._lock:
            return self.error is not None and self.clock.monotonic() - self._failed_at >= LONGEST_WAIT

    def answered(self) -> None:
        """Note that there was an answer, which may be a refusal."""
        with self._lock:
            self.error = self._since = None


@dataclass(slots=True)
class Confirmation(Generic[C, E]):
    """The error of a credential, if any. One thread at a time asks, and all share the answer for a while.

    An upstream that refuses one request may refuse that request, or the credential. `ask` sends a cheap request with
    the credential, and returns its error, or None when it worked. It must not raise.
    """

    clock: Clock
    ask: Callable[[C], E | None]
    _credential: C | None = None
    _found: E | None = None
    _until: float = 0.0  # monotonic
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, credential: C) -> E | None:
        """Return what `ask` found, now or a moment ago."""
        with self._lock:
            if self._credential != credential or self.clock.monotonic() >= self._until:
                self._found = self.ask(credential)
                self._credential, self._until = credential, self.clock.monotonic() + CONFIRMED_FOR
            return self._found
