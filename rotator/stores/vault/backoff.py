"""When a request may be sent again: after refused credentials, and after a 429. No HTTP here.

Vault locks a role, for everyone who uses it, after five refused logins that come within 15 minutes of each other.
"""

import threading
from dataclasses import dataclass, field

from rotator.core.errors import StoreCredentialRefused
from rotator.core.ports import Clock

FIRST_LOGIN_WAIT, LOGIN_WAIT_GROWS, LONGEST_LOGIN_WAIT = 5.0, 2, 300.0
"""Seconds before refused credentials are sent again where Vault does not count refusals, or has locked the role."""

FIRST_LOCKING_WAIT, LOCKING_WAIT_GROWS, LONGEST_LOCKING_WAIT = 60.0, 4, 960.0
"""The same where Vault counts them: three attempts, and then none within the 15 minutes that it counts."""

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
"""Seconds without a request after a 429 that names no time: doubled by each in a row."""

FIRST_GAP, LONGEST_GAP, GAP_SHRINKS = 0.01, 1.0, 0.99
"""Seconds between two requests after a 429: doubled by each, and reduced by each request that Vault took."""


@dataclass(slots=True)
class Refusals:
    """Remembers which credentials Vault refused last, by their fingerprint. Safe for many threads."""

    clock: Clock
    _content: str = ""
    _error: StoreCredentialRefused | None = None
    _wait: float = 0.0  # seconds
    _until: float = 0.0  # monotonic
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def known(self, content: str) -> StoreCredentialRefused | None:
        """Return the refusal of these credentials while they must not be sent again; None for all others."""
        with self._lock:
            held_back = self._content == content and self.clock.monotonic() < self._until
            return self._error if held_back else None

    def refused(self, content: str, error: StoreCredentialRefused, *, counted: bool) -> None:
        """Note that Vault refused these credentials; `counted`: it locks the role after a few refusals."""
        first, grows, longest = (
            (FIRST_LOCKING_WAIT, LOCKING_WAIT_GROWS, LONGEST_LOCKING_WAIT)
            if counted
            else (FIRST_LOGIN_WAIT, LOGIN_WAIT_GROWS, LONGEST_LOGIN_WAIT)
        )
        with self._lock:
            same = self._content == content and self._error is not None
            self._wait = max(first, min(longest, grows * self._wait)) if same else first
            self._content, self._error, self._until = content, error, self.clock.monotonic() + self._wait

    def accepted(self) -> None:
        """Note that Vault accepted credentials. Those that it refused before may then be sent at once."""
        with self._lock:
            self._error, self._content = None, ""


@dataclass(slots=True)
class Pace:
    """Spaces the requests of all threads to one Vault, once it answered 429. Safe for many threads."""

    clock: Clock
    _until: float = 0.0  # monotonic: nothing is sent before
    _next: float = 0.0  # monotonic: the first turn that no thread has
    _gap: float = 0.0  # seconds between two turns
    _pause: float = 0.0  # seconds; the last one of our own choice
    _refused_at: float = float("-inf")  # monotonic
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def wait(self, patience: float) -> float:
        """Wait for this thread's turn, and return 0. If it is more than `patience` away, return the seconds at once."""
        began, turn = self.clock.monotonic(), float("-inf")
        while True:
            with self._lock:
                now = self.clock.monotonic()
                if turn < self._until:  # it has none yet, or a pause began since
                    turn = max(now, self._next, self._until)
                    if turn - began > patience:
                        return turn - now
                    self._next = turn + self._gap
            if now >= turn:
                return 0.0
            self.clock.sleep(turn - now)
            if self.clock.monotonic() < turn:  # the clock was stopped: the program ends
                return 0.0

    def too_much(self, retry_after: float | None, sent_at: float) -> None:
        """Note a 429 to a request sent at that monotonic time. Of several requests under way, only the first counts."""
        with self._lock:
            now = self.clock.monotonic()
            if sent_at > self._refused_at:
                self._gap = min(LONGEST_GAP, max(FIRST_GAP, 2 * self._gap))
                self._pause = min(LONGEST_PAUSE, max(FIRST_PAUSE, 2 * self._pause))
                self._refused_at = now
            pause = self._pause if retry_after is None else min(retry_after, LONGEST_PAUSE)
            self._until = max(self._until, now + pause)

    def taken(self) -> None:
        """Note that Vault took a request."""
        with self._lock:
            self._pause = 0.0
            self._gap = self._gap * GAP_SHRINKS if self._gap > FIRST_GAP / 2 else 0.0
