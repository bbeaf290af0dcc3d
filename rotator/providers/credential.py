"""The management credential of a provider, as it was last read."""

import threading
from collections.abc import Callable

from rotator.core.errors import RotatorError
from rotator.core.ports import NO_CREDENTIAL, Meter
from rotator.core.secrets import Secret


class ManagementCredential:
    """Reads the credential at the first use, and again after a refusal. Safe for many threads.

    What `read` raises is passed on.
    """

    def __init__(self, read: Callable[[], Secret], meter: Meter) -> None:
        self.read = read
        self._meter = meter
        self._known: Secret | None = None
        self._is_old = False  # it is to be read again at the next request
        self._lock = threading.Lock()

    def read_again(self) -> None:
        """Read it again at the next request."""
        self._is_old = True  # without the lock: that is held while the credential is read, from Vault perhaps

    def current(self, operation: str) -> Secret:
        """Return the credential for a request."""
        with self._lock:
            if self._is_old:
                self._known, self._is_old = None, False  # before reading: a later replacement is read again
            self._known = self._known or self._read(operation)
            return self._known

    def after(self, refused: Secret, operation: str) -> Secret:
        """Return the credential as it is after this one was refused: perhaps another."""
        with self._lock:
            if self._known is None or self._known == refused:  # else another thread has read it
                self._known = self._read(operation)
            return self._known

    def _read(self, operation: str) -> Secret:
        try:
            return self.read()
        except RotatorError:
            self._meter(operation, NO_CREDENTIAL, 0.0)
            raise
