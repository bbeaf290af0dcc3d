"""Remembers that somebody else is down: so that it is asked by one at a time until it is up again, or only told once.

Data and arithmetic only. While a circuit is open, the error that opened it is what everybody is answered with.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from rotator.core.errors import RotatorError
from rotator.core.ports import Clock

FIRST_WAIT = 1.0
LONGEST_WAIT = 25.0
"""Seconds between two requests at most to what is down, if there is anything to ask: a daemon asks within 30."""

LASTING = 60.0
"""Seconds of nothing but failures, after which it is an outage and not a lost answer."""

CONFIRMED_FOR = 5.0
"""Seconds for which an answer about a credential counts for all who ask."""

E = TypeVar("E", bound=RotatorError)
C = TypeVar("C")


@dataclass(slots=True)
class Circuit(Generic[E]):
    """Between an adapter and its upstream. Safe to be used by many threads."""

    clock: Clock
    error: E | None = None  # why nothing is sent; None while all is well
    _wait: float = 0.0  # seconds
    _until: float = 0.0  # monotonic
    _trying: bool = False  # somebody was let go, to see whether it is up again
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def enter(self) -> None:
        """Return if something may be sent: always while all is well, else to one caller after each wait.

        Raises the error that is known already.
        """
        with self._lock:
            if self.error is None:
                return
            now = self.clock.monotonic()
            if now < self._until:
                raise self.error.with_traceback(None)  # else each raising would make the traceback longer
            # Whoever is let go has as long as that; should nothing be heard of it, the next may try.
            self._trying, self._until = True, now + self._wait

    def look(self) -> None:
        """Return if `enter` would; without being the one who tries. Raises the error that is known already."""
        with self._lock:
            if self.error is not None and self.clock.monotonic() < self._until:
                raise self.error.with_traceback(None)

    def failed(self, error: E) -> None:
        """The upstream is down. The wait doubles with each try, not with each of those that were under way at once."""
        with self._lock:
            if self.error is None:
                self._wait = FIRST_WAIT
            elif self._trying:
                self._wait = min(LONGEST_WAIT, 2 * self._wait)
            self._trying = False
            self.error, self._until = error, self.clock.monotonic() + self._wait

    def try_now(self) -> None:
        """Let the next caller go at once: the cause may be fixed. The upstream is down until it answers."""
        with self._lock:
            self._until = self.clock.monotonic()

    def worked(self) -> None:
        """The upstream answered as it should."""
        with self._lock:
            self.error = None


@dataclass(slots=True)
class Outage(Generic[E]):
    """Whether an upstream answers at all. It stops nothing: callers have their own next tries. Safe for many threads.

    It begins with a failure that comes a while after another, with no answer in between: after a single one it may be
    long until anything is asked again.
    """

    clock: Clock
    error: E | None = None  # of the last try; None while the upstream answers
    _since: float | None = None  # monotonic: of the first failure in a row
    _failed_at: float = 0.0  # monotonic: of the last one
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def failed(self, error: E) -> None:
        """There was no answer."""
        with self._lock:
            now = self.clock.monotonic()
            self._since = now if self._since is None else self._since
            self._failed_at = now
            if now - self._since >= LASTING:
                self.error = error

    def is_to_be_asked(self) -> bool:
        """Whether it is an outage, and the last try was a while ago."""
        with self._lock:
            return self.error is not None and self.clock.monotonic() - self._failed_at >= LONGEST_WAIT

    def answered(self) -> None:
        """There was one, be it a refusal."""
        with self._lock:
            self.error = self._since = None


@dataclass(slots=True)
class Confirmation(Generic[C, E]):
    """What is wrong with a credential, if anything: asked by one thread at a time, and shared for a while.

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
