"""A text that must not be shown."""

import hashlib
import hmac
from typing import NoReturn


class Secret:
    """A text that no repr, str, format, log line or pickle shows; `reveal()` is the only way to it."""

    __slots__ = ("__weakref__", "_text")  # `redact` knows which ones live

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text itself, for the one line that sends it."""
        return self._text

    @property
    def fingerprint(self) -> str:
        """The first 16 hex digits of the text's SHA-256: enough to recognise it, useless to call with."""
        return hashlib.sha256(self._bytes).hexdigest()[:16]

    @property
    def _bytes(self) -> bytes:
        # Half a surrogate pair has no encoding, and the error about that would hold the text.
        return self._text.encode(errors="surrogatepass")

    def __repr__(self) -> str:
        return "Secret(hidden)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._bytes, other._bytes)

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled")
