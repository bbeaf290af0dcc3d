"""When Vault may be asked again: credentials that it refused, and requests that were too many. No HTTP here.

Vault locks a role, for everyone who uses it, after five refused logins that come within 15 minutes of each other.
"""

import threading
from dataclasses import dataclass, field

from rotator.errors import StoreCredentialRefused
from rotator.ports import Clock

FIRST_LOGIN_WAIT, LOGIN_WAIT_GROWS, LONGEST_LOGIN_WAIT = 5.0, 2, 300.0
"""Seconds before refused credentials are shown again, where Vault does not count refusals: a locked role's, too."""

FIRST_LOCKING_WAIT, LOCKING_WAIT_GROWS, LONGEST_LOCKING_WAIT = 60.0, 4, 960.0
"""The same where it counts them: three refusals, and then none within the 15 minutes that Vault remembers."""


@dataclass(slots=True)
class Refusals:
    """Remembers the credentials that Vault refused last, by their fingerprint. Safe to be used by many threads."""

    clock: Clock
    _content: str = ""
    _error: StoreCredentialRefused | None = None
    _wait: float = 0.0  # seconds
    _until: float = 0.0  # monotonic
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def known(self, content: str) -> StoreCredentialRefused | None:
        """The refusal of these credentials, while they are not to be shown again; None for all others."""
        with self._lock:
            held_back = self._content == content and self.clock.monotonic() < self._until
            return self._error if held_back else None

    def refused(self, content: str, error: StoreCredentialRefused, *, counted: bool) -> None:
        """Vault refused these credentials; `counted`: after a few of these it locks the role."""
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
        """Vault accepted credentials: what it refused before may be tried at once when it comes back."""
        with self._lock:
            self._error, self._content = None, ""
