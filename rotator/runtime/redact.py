"""Makes text safe to show: hides secrets, shortens foreign text, escapes control characters, in this order.

The last line of defence behind `Secret`. It knows the shapes of tokens, and hides every fragment of the texts that this
process holds (credentials, Vault tokens, keys), in every spelling. A text that is cut before it is searched may show
the rest of a secret at its end, so use `quoted` to shorten foreign text.
"""

import re
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from rotator.core.secrets import Secret
from rotator.runtime.spellings import (
    Span,
    condensed,
    decoded,
    fragments,
    joined,
    length_as_words,
    merged,
    occurrences,
    plain,
)

T = TypeVar("T")

HIDDEN = "[hidden]"

MAX_QUOTE = 200
"""Characters of foreign text in a message."""

SHORTEST = 8
"""Characters. Hiding a shorter secret (Vault's development token is "root") would make every line unreadable."""

_SPARE = 64
"""Registrations beyond twice the living secrets, after which the dead ones are forgotten."""

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
_LINE_BREAKS = str.maketrans({"\n": "\\n", "\t": "\\t"})

_TOKEN = r"[\w.~+/-]"  # noqa: S105 - the characters of a token, and not a token
_START = r"(?<![A-Za-z0-9])"
_SHAPES = re.compile(
    "|".join(
        (
            r"hv[sbr]\.[A-Za-z0-9_-]+",  # Vault's tokens
            _START + r"[sbr]\.[A-Za-z0-9]{24,}",  # Vault's tokens before 1.10
            r"eyJ[A-Za-z0-9_-]{8,600}+\.[A-Za-z0-9_.-]+",  # JWTs, as Kubernetes' service accounts have
            _START + r"(?:[2-7][0-9A-Fa-f]){16,}+(?![0-9A-Za-z])",  # a text in hex; a digest has other digits, too
            r"(?P<header>(?i:x-vault-token|authorization)[\"']*\s*[:=,]\s*b?[\"']*(?i:(?:bearer|basic)\s+)?)"
            r"[^\s\"',;)]+",
            # Whatever looks random where such a word announces it: a path or an English word does not.
            r"(?P<word>(?i:api[_-]?key|bearer|token|secret(?:[_-]?id)?|password)[\"'\s:=]{1,12})"
            rf"(?={_TOKEN}*[0-9A-Z]){_TOKEN}{{16,}}=*",
        )
    )
)
_LONG_RUN = re.compile(r"[A-Za-z0-9_+/-]{20,}=*")
_CHANGES = re.compile(r"[a-z](?=[A-Z0-9])|[A-Z](?=[a-z0-9])|[0-9](?=[A-Za-z])")


def printable(text: str) -> str:
    """Return the text on one line, without a character that a terminal would obey or that would hide others."""
    return without_controls(text).translate(_LINE_BREAKS)


def without_controls(text: str) -> str:
    """Return the same with its line breaks and tabs."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


@dataclass(frozen=True, slots=True)
class _Registered:
    """The secrets, each with its `length_as_words`, and all that is kept of their texts."""

    secrets: list[tuple[weakref.ref[Secret], int]] = field(default_factory=list)
    lengths: dict[int, int] = field(default_factory=dict)  # by the hash of the secret: many hold the same text
    fragments: set[int] = field(default_factory=set)

    def add(self, secret: Secret) -> None:
        text, number = secret.reveal(), hash(secret)
        if number not in self.lengths:
            self.fragments.update(fragments(text))
            self.lengths[number] = length_as_words(text)
        self.secrets.append((weakref.ref(secret), self.lengths[number]))

    def living(self) -> "_Registered":
        """Return the same without the secrets that nothing holds."""
        left = _Registered()
        for secret in [known for reference, _ in self.secrets if (known := reference()) is not None]:
            left.add(secret)
        return left


class Scrubber:
    """Replaces secrets in text. Safe for many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._registered = _Registered()
        self._is_full = 0  # how many may live before those that do not are looked for
        self._patterns: dict[str, re.Pattern[str]] = {}

    def hide_pattern(self, pattern: str) -> None:
        """Hide what this regular expression finds, in all text from now on. Raises `re.error`."""
        if pattern not in self._patterns:
            self._patterns = {**self._patterns, pattern: re.compile(pattern)}

    def register(self, secret: Secret) -> Secret:
        """Hide this text and each fragment of it for as long as the secret lives. Return it."""
        if len(secret.reveal()) >= SHORTEST:
            with self._lock:
                if len(self._registered.secrets) > self._is_full:
                    self._registered = self._registered.living()
                    self._is_full = 2 * len(self._registered.secrets) + _SPARE
                self._registered.add(secret)
        return secret

    def known(self, text: str) -> str:
        """Return the text without registered secrets; what else looks like a token stays: it may be an id."""
        return _without(text, self._known(text))

    def __call__(self, text: str, *, foreign: bool = False) -> str:
        """Return the text without registered secrets, and without anything that looks like a token.

        `foreign`: it comes from outside, and all that looks random in it is hidden.
        """
        shapes = (_SHAPES, *self._patterns.values())
        return _without(text, [*self._known(text), *_shapes(text, shapes, foreign=foreign)])

    def _known(self, text: str) -> Iterator[Span]:
        registered = self._registered
        if len(text) >= SHORTEST and any(reference() for reference, _ in registered.secrets):
            view = condensed(text)
            whole = [
                plain(known.reveal())
                for reference, length in registered.secrets
                if 0 < length <= len(view.text) and (known := reference()) is not None
            ]
            yield from occurrences(view, registered.fragments, whole)


def _shapes(text: str, shapes: Sequence[re.Pattern[str]], *, foreign: bool) -> Iterator[Span]:
    view = decoded(text)
    whole = joined(view)
    for seen in (view, whole) if len(whole.text) < len(view.text) else (view,):
        for match in (found for shape in shapes for found in shape.finditer(seen.text) if found[0]):
            announced = match.lastgroup if match.re is _SHAPES else None  # by a word that may be shown
            yield seen.source(match.end(announced) if announced else match.start(), match.end())
        for run in _LONG_RUN.finditer(seen.text) if foreign else ():
            if _is_random(run[0]):
                yield seen.source(*run.span())


def _is_random(run: str) -> bool:
    """Return whether small letters, capitals and digits alternate as in no word, path, digest or UUID."""
    if run.islower() or run.isupper():
        return False
    changes, digits = len(_CHANGES.findall(run)) / len(run), sum(map(str.isdigit, run))
    return changes >= 0.45 or (changes >= 0.3 and digits >= 1) or (changes >= 0.25 and digits >= 2)


def _without(text: str, spans: "Iterator[Span] | list[Span]") -> str:
    parts, done = [], 0
    for start, end in merged(spans):
        parts += [text[done:start], HIDDEN]
        done = end
    return "".join([*parts, text[done:]]) if parts else text


# --- the one of this process -----------------------------------------------------------------------------------------

_scrubber = Scrubber()


def register(secret: Secret) -> Secret:
    """Hide this text in all that is shown, for as long as the secret lives. Return it."""
    return _scrubber.register(secret)


def hide_pattern(pattern: str) -> None:
    """Hide what this regular expression finds in all that is shown, from now on. Raises `re.error`."""
    _scrubber.hide_pattern(pattern)


def scrub(text: str) -> str:
    """Return text for a person, on one line and without secrets."""
    return printable(_scrubber(text))


def scrub_lines(text: str) -> str:
    """Return text for a person, with its line breaks and tabs and without secrets."""
    return without_controls(_scrubber(text))


def scrub_foreign(text: str) -> str:
    """Return foreign text with its line breaks, and without anything that looks random."""
    return without_controls(_scrubber(text, foreign=True))


NAMES = frozenset(("key_id", "key_name", "target"))
"""Fields of events that hold ids and names: those may look like a token, and must not be damaged."""


def scrub_name(text: str) -> str:
    """Return an id or a name, on one line: only registered secrets are hidden in it."""
    return printable(_scrubber.known(text))


def scrub_fields(fields: Mapping[str, T]) -> dict[str, T | str]:
    """Return the fields of an event, each text redacted and on one line."""
    return {
        name: (scrub_name if name in NAMES else scrub)(value) if isinstance(value, str) else value
        for name, value in fields.items()
    }


def quoted(text: str, *secrets: str) -> str:
    """Return foreign text for a message: without secrets (these among them), on one line, and short."""
    held = [Secret(secret) for secret in secrets]  # held until the text was searched
    for secret in held:
        register(secret)
    hidden = " ".join(_scrubber(text, foreign=True).split())
    return printable(hidden if len(hidden) <= MAX_QUOTE else f"{hidden[:MAX_QUOTE]}…")
