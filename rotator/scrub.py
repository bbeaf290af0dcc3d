"""Makes text safe to show: secrets hidden, control characters escaped.

The last line of defence behind `model.Secret`, over text that is rendered already. It knows what tokens look like, and
it knows the few long-lived secrets that were registered; the keys of the targets are listed nowhere, here neither.
"""

import json
import re
import threading
from urllib.parse import quote

from rotator.model import Secret

HIDDEN = "[hidden]"
MOST_REGISTERED = 32
"""Secrets that are known at once; then the oldest is forgotten. A few long-lived ones exist, and their successors."""

SHORTEST = 8
"""Characters. What is shorter (Vault's development token is "root") would make every line unreadable."""

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
_LINE_BREAKS = str.maketrans({"\n": "\\n", "\t": "\\t"})

_TOKEN = r"[\w.~+/-]"  # noqa: S105 - it says which characters tokens are made of
# The start of a word, also where an escaped character comes before it: "\ns.…" in rendered text.
_START = r"(?:(?<![A-Za-z0-9])|(?<=\\[abfnrtv])|(?<=\\x[0-9a-f]{2})|(?<=\\u[0-9a-f]{4}))"
_SECRETS = re.compile(
    "|".join(
        (
            r"hv[sbr]\.[A-Za-z0-9_-]+",  # Vault's tokens
            _START + r"[sbr]\.[A-Za-z0-9]{24,}",  # Vault's tokens before 1.10
            _START + r"sk_[A-Za-z0-9_-]{8,}",  # Respan's organisation keys
            r"eyJ[A-Za-z0-9_-]{8,2000}\.[A-Za-z0-9_.-]+",  # JWTs, as Kubernetes' service accounts have
            r"[A-Za-z0-9]{8}\.[A-Za-z0-9_-]{32,}",  # Respan's keys: a prefix, a dot, and the secret part
            r"(?P<header>(?i:x-vault-token|authorization)[\\\"']*\s*[:=,]\s*b?[\\\"']*(?i:bearer\s+)?)[^\s\"'\\,;)]+",
            # Whatever looks random where such a word announces it: a path or an English word does not.
            r"(?P<word>(?i:api[_-]?key|bearer|token|secret(?:[_-]?id)?|password)[\\\"'\s:=]{1,12})"
            rf"(?={_TOKEN}*[0-9A-Z]){_TOKEN}{{16,}}=*",
        )
    )
)


def printable(text: str) -> str:
    """The text on one line, without a character that a terminal would obey or that would hide others."""
    return without_controls(text).translate(_LINE_BREAKS)


def without_controls(text: str) -> str:
    """The same, but with its line breaks and tabs."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


class Scrubber:
    """Replaces secrets in rendered text. Safe to be used by many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._registered: tuple[Secret, ...] = ()
        self._spellings: tuple[Secret, ...] = ()

    def register(self, secret: Secret) -> None:
        """From now on hide this very text, however it looks; for the few secrets that live long."""
        if len(secret.reveal()) < SHORTEST:
            return
        with self._lock:
            others = [known for known in self._registered if known != secret]
            self._registered = (*others, secret)[-MOST_REGISTERED:]
            spellings = {Secret(text) for known in self._registered for text in _spellings(known.reveal())}
            # The longest first: one may be a part of another.
            self._spellings = tuple(sorted(spellings, key=lambda spelling: -len(spelling.reveal())))

    def __call__(self, text: str) -> str:
        """The text without what is registered, and without what looks like a token."""
        for spelling in self._spellings:
            text = text.replace(spelling.reveal(), HIDDEN)
        return _SECRETS.sub(_hide, text)


def _spellings(text: str) -> set[str]:
    """How the text may stand in a line: as it is, in a repr, in a URL; and each of them in JSON or logfmt."""
    shown = {text, ascii(text)[1:-1], repr(text)[1:-1], repr(text.encode())[2:-1], quote(text, safe="")}
    escaped = {json.dumps(form, ensure_ascii=pure)[1:-1] for form in shown for pure in (True, False)}
    return shown | escaped | {form.replace('"', '\\"') for form in shown}


def _hide(found: re.Match[str]) -> str:
    return (found["header"] or found["word"] or "") + HIDDEN
