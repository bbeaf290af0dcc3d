"""Records all output of rotator's processes in this session, and looks for secrets in it.

A test that runs a process records its output and its secrets; `scan` finds a secret as it is, escaped
for JSON, and in base64 at any alignment.
"""

import base64
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rotator.simulator import Simulator

SHORTEST = 12
"""Characters. Vault's development root token is "root", which is a folder, too."""


@dataclass(frozen=True, slots=True)
class Leak:
    """A secret that was found. Its text is not repeated: the report of this must not leak either."""

    source: str
    kind: str
    around: str


def spellings(secret: str) -> set[str]:
    """Return how a secret may stand in a text."""
    escaped = json.dumps(secret)[1:-1]
    return {secret, escaped, escaped.replace("/", "\\/"), *_base64(secret.encode())}


def _base64(raw: bytes) -> Iterator[str]:
    """Return the base64 characters that depend on this secret alone, wherever it begins in a longer text."""
    for shift in range(3):
        first, last = -(-shift * 8 // 6), (shift + len(raw)) * 8 // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            yield encode(bytes(shift) + raw).decode()[first:last]


class Recorder:
    """The output of the session, and the secrets that must not be in it."""

    def __init__(self) -> None:
        self._texts: list[tuple[str, str]] = []
        self._secrets: dict[str, str] = {}  # what kind each is
        self._simulators: list[Simulator] = []

    def record(self, source: str, text: str, exempt: Iterable[str] = ()) -> str:
        """Record a text, without the lines that hold a secret on purpose. Return it."""
        lines = set(exempt)
        self._texts.append((source, "\n".join(line for line in text.splitlines() if line not in lines)))
        return text

    def add_secret(self, kind: str, secret: str) -> None:
        """Add a secret, which must be in no text, earlier ones included."""
        if len(secret) >= SHORTEST:
            self._secrets[secret] = kind

    def add_simulator(self, simulator: Simulator) -> None:
        """Add its organisation keys and all keys that it ever makes, which must be in no text."""
        self._simulators.append(simulator)

    @property
    def texts(self) -> list[tuple[str, str]]:
        """Return the texts, each with its source."""
        return list(self._texts)

    def secrets(self) -> dict[str, str]:
        """Return every known secret and its kind."""
        found = dict(self._secrets)
        for simulator in self._simulators:
            found |= dict.fromkeys((key.text for key in simulator.vendor.keys.values()), "a key")
            found |= dict.fromkeys(simulator.vendor.organisation_keys, "an organisation key")
        return found

    def scan(self) -> list[Leak]:
        """Return every text that holds a secret."""
        secrets = self.secrets()
        everything = "\0".join(text for _, text in self._texts)
        leaks = []
        for secret, kind in secrets.items():
            for spelling in spellings(secret):
                if spelling not in everything:
                    continue
                for source, text in self._texts:
                    before, found, _ = text.partition(spelling)
                    if found:
                        leaks.append(Leak(source, kind, _without(before[-80:], secrets)))
        return leaks


def _without(text: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "…")
    return text


RECORDER = Recorder()
"""The session's."""
