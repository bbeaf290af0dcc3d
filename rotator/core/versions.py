"""Versions of a path: the record in each, and what a version means to a target. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote

from rotator.core.keys import KeyName
from rotator.core.secrets import Secret
from rotator.core.target import Target
from rotator.core.times import timestamp

RECORD_FIELD = "rotator"
"""The field of a version that holds its record."""


# --- the record in a version -----------------------------------------------------------------------------------------

_EARLIEST, _LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(3000, 1, 1, tzinfo=UTC)
"""No key is issued before or after. At the ends of the calendar, adding a duration would fail."""

LONGEST = timedelta(days=3650)
"""No configured duration is longer, so no key gets a longer life."""

LONGEST_TEXT = 300
"""Characters of an id or a name from outside that are kept: each output searches them for secrets."""

LONGEST_RECORD = 8192
"""Characters of a record with all its fields, those of later versions included."""

_FIELDS = frozenset(
    ("v", "owner", "target", "key_id", "key_name", "issued_at", "expires_at", "params", "key", "why", "early")
)

MAX_EARLY = 24
"""Early rotations whose times a record has room for: the largest bound that the version history can hold."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a version records of the key it holds. `unknown` fields are a later rotator's, kept as written."""

    owner: str
    target: str
    key_id: str
    key_name: str
    issued_at: datetime
    expires_at: datetime
    params: str
    key: str  # the key's fingerprint
    why: str = ""  # the reason for which the key was made; "" before this was recorded
    early: str = ""  # when keys of this path were made early because of a cap, as `core.caps` writes it
    unknown: tuple[str, ...] = ()

    def is_younger(self, than: timedelta, now: datetime) -> bool:
        """Return whether the key was issued less than that ago, or by a clock that is less than that ahead."""
        return abs(now - self.issued_at) < than

    def format(self) -> str:
        """Return one line that is readable, and safe in a shell and in an `env` template."""
        values = {
            "v": "1",
            "owner": self.owner,
            "target": self.target,
            "key_id": self.key_id,
            "key_name": self.key_name,
            "issued_at": timestamp(self.issued_at),
            "expires_at": timestamp(self.expires_at),
            "params": self.params,
            "key": self.key,
            **({"why": self.why} if self.why else {}),
            **({"early": self.early} if self.early else {}),
        }
        known = (f"{name}={quote(value, safe=':').replace('~', '%7E')}" for name, value in values.items())
        return ",".join((*known, *self.unknown))

    @classmethod
    def parse(cls, text: object, known: tuple[str, ...] = ()) -> "Record | None":
        """Return the record, or None where no version of rotator that writes `v=1` can have written the text.

        Unknown fields are accepted: a later rotator may have added them. `known`: texts that many records share, so
        that each is held in memory once.
        """
        if not isinstance(text, str) or not text.isascii() or len(text) > LONGEST_RECORD:
            return None
        return _parsed(text, known)


@lru_cache(maxsize=1000)
def _parsed(text: str, known: tuple[str, ...]) -> Record | None:
    """Return the record of a text. All that look at one version in a pass share it."""
    values, unknown = _split(text)
    if values.pop("v", None) != "1" or not all(0 < len(value) <= LONGEST_TEXT for value in values.values()):
        return None
    try:
        issued_at, expires_at = (datetime.fromisoformat(values.pop(name)) for name in ("issued_at", "expires_at"))
        if not issued_at.tzinfo == expires_at.tzinfo == UTC or expires_at - issued_at > LONGEST:
            return None
        if min(issued_at, expires_at) < _EARLIEST or max(issued_at, expires_at) > _LATEST:
            return None
        shared = {name: next((one for one in known if one == value), value) for name, value in values.items()}
        return Record(issued_at=issued_at, expires_at=expires_at, unknown=tuple(unknown), **shared)
    except (KeyError, TypeError, ValueError):
        return None


def _split(text: str) -> tuple[dict[str, str], list[str]]:
    """Return the decoded fields that are known here, and the others as written."""
    values: dict[str, str] = {}
    unknown: list[str] = []
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name in _FIELDS:
            values[name] = unquote(value)
        else:
            unknown.append(part)
    return values, unknown


# --- versions and history, as a store keeps them ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a path. `data` is None when it is deleted or destroyed; it may hold a key, so repr hides it.

    `vanishes_at` is when the store deletes it on its own, or when it was deleted.
    """

    number: int
    created_at: datetime
    data: Mapping[str, Any] | None = field(repr=False)
    destroyed: bool = False
    vanishes_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class History:
    """Everything that a store still knows of a path, oldest version first.

    `current_version` is the store's own counter, 0 when the path is absent; it may name a version that is deleted, or
    one of which nothing is known. `observed_at` is monotonic seconds, taken before the read that decided the counter.
    """

    current_version: int
    versions: tuple[Version, ...]
    observed_at: float

    @property
    def current(self) -> Version | None:
        """The version that applications read; None when the path is absent or nothing is known of that version."""
        return next((v for v in self.versions if v.number == self.current_version), None)


# --- what a version means to a target --------------------------------------------------------------------------------


class Ownership(StrEnum):
    """Whose a version is, to one target; each value is a constant reason, which is shown."""

    OURS = "ours"
    UNREADABLE = "unreadable"  # deleted, destroyed, or pushed out of the history
    NO_RECORD = "no-record"  # another's data, or a `kv put` over ours
    OTHER_OWNER = "other-owner"
    OTHER_TARGET = "other-target"  # a copy of another configured target's
    HAND_EDITED = "hand-edited"  # our record, beside a key that is not the one it describes

    @property
    def foreign(self) -> bool:
        """Whether the data is readable and not ours."""
        return self not in (Ownership.OURS, Ownership.UNREADABLE)


@dataclass(frozen=True, slots=True)
class Entry:
    """One version, read by one target: whose it is, and which key it holds. It holds no key text."""

    number: int
    created_at: datetime
    ownership: Ownership
    record: Record | None  # only when it is ours
    as_configured: bool  # the requested parameters, the field and the extra fields are those of the configuration
    foreign_fields: frozenset[str]  # neither the key, nor its record, nor a configured extra field

    @property
    def key_id(self) -> str | None:
        """The id of the key of ours that this version holds."""
        return self.record.key_id if self.record else None

    @property
    def is_as_made(self) -> bool:
        """Whether its key was made for this very version; else the path was rolled back to it, or fenced."""
        name = KeyName.parse(self.record.key_name) if self.record else None
        return name is not None and name.version == self.number


@dataclass(frozen=True, slots=True)
class Scope:
    """What a target must know to recognise its own versions and keys."""

    owner: str
    places: tuple[str, ...]  # this path's and its former ones', under `owner` and each of the former owners
    place: str  # under `owner`
    owners: frozenset[str]  # `owner` and the former ones
    names: frozenset[str]  # of all configured targets, its own too: one set that all scopes share

    def owns(self, name: str) -> bool:
        """Return whether a key with this name was made for this very path."""
        parsed = KeyName.parse(name)
        return parsed is not None and parsed.place in self.places


def read_version(version: Version, target: Target, scope: Scope) -> Entry:
    """Return what one version means to a target.

    A version holds a key exactly if one of its fields has the fingerprint that its record names. Any field may have it,
    so that a target whose `key_field` was renamed still knows its key.
    """

    def entry(ownership: Ownership, holder: str | None = None) -> Entry:
        ours = {RECORD_FIELD, target.key_field if holder is None else holder, *target.extra_fields}
        data = version.data or {}
        return Entry(
            version.number,
            version.created_at,
            ownership,
            record if ownership is Ownership.OURS else None,
            as_configured=record is not None
            and record.params == target.fingerprint
            and holder == target.key_field
            and all(data.get(name) == value for name, value in target.extra_fields.items()),
            foreign_fields=frozenset(data) - ours,
        )

    known = scope.owner, target.name, target.fingerprint
    record = Record.parse(version.data.get(RECORD_FIELD), known) if version.data else None
    if version.data is None:
        return entry(Ownership.UNREADABLE)
    if record is None:
        return entry(Ownership.NO_RECORD)
    if record.owner not in scope.owners:
        return entry(Ownership.OTHER_OWNER)
    if record.target != target.name and record.target in scope.names:
        return entry(Ownership.OTHER_TARGET)
    names = sorted(version.data, key=lambda name: name != target.key_field)  # the configured field first
    holder = next((name for name in names if _fingerprint(version.data[name]) == record.key), None)
    if holder is None or (holder != target.key_field and target.key_field in version.data):
        return entry(Ownership.HAND_EDITED)
    return entry(Ownership.OURS, holder)


def fingerprints_in(data: Mapping[str, Any]) -> frozenset[str]:
    """Return the fingerprints of all texts in a version's data: an application may read its key in any field."""
    return frozenset(filter(None, map(_fingerprint, data.values())))


def _fingerprint(value: object) -> str | None:
    return Secret(value).fingerprint if isinstance(value, str) else None


def key_in(data: Mapping[str, Any]) -> Secret | None:
    """Return the key that a version's data holds: the text with the fingerprint that its record names."""
    record = Record.parse(data.get(RECORD_FIELD))
    texts = (Secret(value) for value in data.values() if isinstance(value, str))
    return next((text for text in texts if record is not None and text.fingerprint == record.key), None)


def compose(target: Target, record: Record, secret: Secret, carried: Mapping[str, Any]) -> dict[str, Any]:
    """Return a version's data: the fields carried over, the target's own fields, the key, and its record."""
    return {**carried, **target.extra_fields, target.key_field: secret.reveal(), RECORD_FIELD: record.format()}
