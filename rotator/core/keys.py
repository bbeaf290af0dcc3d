"""Keys at a provider, and the names that rotator gives them."""

import base64
import hashlib
import re
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Self

from rotator.core.secrets import Secret
from rotator.core.use import KeyUse

_NAME = re.compile(
    r"(?P<owner>[a-z0-9-]{1,8})\.(?P<target>[a-z0-9-]{1,10})\.(?P<place>[a-z2-7]{12})\.(?P<version>[1-9][0-9]{0,7})\.(?P<unique>[a-z2-7]{8})"
)


UNIQUE_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"


UNIQUE_LENGTH = 8


OWNER_LETTERS = 8
"""How many letters of an owner a key's name has room for."""


def place_of(owner: str, location: str) -> str:
    """Return twelve base32 digits for one owner's path; `location` is where the store has the path."""
    digest = hashlib.sha256(f"{owner}\0{location}".encode()).digest()
    return base64.b32encode(digest).decode().lower()[:12]


@dataclass(frozen=True, slots=True)
class KeyName:
    """A key's name at the provider: at most 50 characters.

    Only `place` decides whose a key is; the two slugs are for people who read the provider's list.
    """

    owner: str
    target: str
    place: str
    version: int  # the version of the path that this key is meant for
    unique: str  # of this attempt alone, so that a create whose answer was lost can be found again

    @property
    def may_be_cut(self) -> bool:
        """Whether `owner`, as parsed, may be the beginning of a longer name: of several owners, then."""
        return len(self.owner) >= OWNER_LETTERS

    def __str__(self) -> str:
        return f"{self.owner[:OWNER_LETTERS]}.{self.target[:10]}.{self.place}.{self.version}.{self.unique}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the name's parts, or None where it is not exactly one of ours."""
        match = _NAME.fullmatch(text)
        if match is None:
            return None
        parts = match.groupdict()
        return cls(parts["owner"], parts["target"], parts["place"], int(parts["version"]), parts["unique"])


@dataclass(frozen=True, slots=True)
class ProviderKey:
    """A key as the provider lists it."""

    id: str
    name: str
    expires_at: datetime | None  # None: it never expires
    created_at: datetime | None = field(default=None, compare=False)  # None: the provider did not show it
    use: KeyUse | None = field(default=None, compare=False)  # None: the provider did not show it

    def expires_by(self, moment: datetime) -> bool:
        """Return whether the key has expired at that moment."""
        return self.expires_at is not None and self.expires_at <= moment

    def may_be(self, name: str) -> bool:
        """Return whether it may be the key of this name: the provider shows that name, or none."""
        return self.name in ("", name)

    def seen_at(self, moment: datetime) -> "ProviderKey":
        """Return the key, with the time at which the answer that showed its use arrived."""
        return self if self.use is None else replace(self, use=replace(self.use, as_of=moment))


@dataclass(frozen=True, slots=True)
class UnreadableKey:
    """An entry of the provider's list that cannot be read: its readable parts, and its flaw."""

    id: str  # "" when the id is what cannot be read
    name: str
    flaw: str

    def __str__(self) -> str:
        return f"{self.id or self.name or 'an entry'}, {self.flaw}"


ListedKey = ProviderKey | UnreadableKey


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """A key fresh from the provider: the only answer that ever holds its text."""

    id: str
    name: str  # "": the provider did not show it
    secret: Secret
    expires_at: datetime | None
