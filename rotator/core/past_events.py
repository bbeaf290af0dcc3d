"""What happened to a target's keys, as its versions and the provider's list still show it. Pure.

The log is the complete record. This shows less, and needs no log: a destroyed version has a number and a time alone, a
version that was undeleted looks as it did before, and of what was done to a key at the provider only the result is
visible.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Self

from rotator.core.keys import KeyName, ListedKey, ProviderKey
from rotator.core.observation import PathReading
from rotator.core.orphans import by_place
from rotator.core.reasons import Reason
from rotator.core.versions import Entry, Ownership, Version


class PastEventType(StrEnum):
    """What happened."""

    PUBLISHED = "published"  # a version got a new key
    ROLLED_BACK = "rolled-back"  # a version got an earlier key: by `rotator rollback`, or by hand in the store
    SUPERSEDED = "superseded"
    EDITED = "edited"  # another writer changed fields beside the key
    FOREIGN_WRITE = "foreign-write"  # another writer replaced the key, or its record
    WRITTEN = "written"  # a version was written, and what it held is not known
    DELETED = "deleted"  # a version was deleted in the store, and can be undeleted
    DESTROYED = "destroyed"
    REMOVED = "removed"  # the provider no longer has a key that a version holds and that should still work
    ORPHANED = "orphaned"  # the provider has a key that was made for this path, and that no version holds


@dataclass(frozen=True, slots=True)
class PastEvent:
    """One thing that happened to a target. It holds no key text."""

    at: datetime
    target: str
    what: PastEventType
    version: int | None = None
    key_id: str | None = None
    reason: str = ""
    is_exact: bool = True  # else it happened at `at` or later

    def is_since(self, begin: datetime) -> bool:
        """Return whether it happened since then. Of a removal only the result is known, so it may have."""
        return self.at >= begin or self.what is PastEventType.REMOVED


@dataclass(frozen=True, slots=True)
class KeyList:
    """A provider's complete list. A key that a version held at `known_by` must be in it, if it still exists."""

    ids: frozenset[str]  # "": of an entry that cannot be read, which may be any key
    by_place: Mapping[str, Sequence[ListedKey]]
    known_by: datetime

    @classmethod
    def of(cls, keys: Collection[ListedKey], known_by: datetime) -> Self:
        """Return the list, sorted for many targets."""
        return cls(frozenset(key.id for key in keys), by_place(keys), known_by)


def past_events(reading: PathReading, listed: KeyList | None, now: datetime) -> tuple[PastEvent, ...]:
    """Return what happened to a target, oldest first. Without a list, nothing of the provider's keys is known."""
    found = [*_of_versions(reading, now)]
    if listed is not None:
        found += [*_removed(reading, listed, now), *_orphaned(reading, listed, now)]
    return tuple(sorted(found, key=lambda event: (event.at, not event.is_exact)))


def is_cut_off(reading: PathReading, since: datetime) -> bool:
    """Return whether the store no longer knows of versions that may have been written after `since`."""
    versions = reading.history.versions
    return bool(versions) and versions[0].number > 1 and versions[0].created_at > since


# --- the versions ----------------------------------------------------------------------------------------------------


def _of_versions(reading: PathReading, now: datetime) -> Iterator[PastEvent]:
    name, served = reading.target.name, None
    before: list[Entry] = []
    for entry, version in zip(reading.entries, reading.history.versions, strict=True):
        if entry.ownership is Ownership.UNREADABLE:
            yield PastEvent(version.created_at, name, PastEventType.WRITTEN, entry.number)
            yield from _unreadable(reading, version, now)
        elif entry.ownership.foreign:
            what, reason = PastEventType.FOREIGN_WRITE, entry.ownership.value
            yield PastEvent(entry.created_at, name, what, entry.number, reason=reason)
        else:
            yield from _of_ours(reading, entry, before, served)
            served = entry
        before.append(entry)


def _of_ours(reading: PathReading, entry: Entry, before: Sequence[Entry], served: Entry | None) -> Iterator[PastEvent]:
    """Yield what a readable version of ours did. `served`: the one before that holds a key of ours."""
    at, name, record = entry.created_at, reading.target.name, entry.record
    follows = served is not None and served.number == entry.number - 1
    if served is not None and follows and served.key_id == entry.key_id:
        data = {version.number: version.data for version in reading.history.versions}
        if data[entry.number] != data[served.number]:  # the fence of a sweep repeats the same data
            yield PastEvent(at, name, PastEventType.EDITED, entry.number, entry.key_id)
        return
    what = _kind(reading, entry, before)
    reason = record.why if record is not None and what is PastEventType.PUBLISHED else ""
    if served is not None and served.key_id != entry.key_id:
        yield PastEvent(at, name, PastEventType.SUPERSEDED, served.number, served.key_id, reason or what.value)
    yield PastEvent(at, name, what, entry.number, entry.key_id, reason)


def _kind(reading: PathReading, entry: Entry, before: Sequence[Entry]) -> PastEventType:
    """Return what a version is that holds another key than the one before it. A key's name has its first version."""
    made_for = KeyName.parse(entry.record.key_name) if entry.record else None
    if any(entry.key_id == other.key_id for other in before):
        return PastEventType.ROLLED_BACK
    if made_for is None or not reading.scope.owns(str(made_for)):
        return PastEventType.WRITTEN
    if made_for.version == entry.number:
        return PastEventType.PUBLISHED
    is_earlier = made_for.version < entry.number and bool(before) and before[-1].ownership is not Ownership.UNREADABLE
    return PastEventType.ROLLED_BACK if is_earlier else PastEventType.WRITTEN


def _unreadable(reading: PathReading, version: Version, now: datetime) -> Iterator[PastEvent]:
    """Yield when a version was deleted, and since when it may be destroyed: the store dates deletions alone."""
    name = reading.target.name
    if version.vanishes_at is not None and version.vanishes_at <= now:
        yield PastEvent(version.vanishes_at, name, PastEventType.DELETED, version.number)
    elif not version.destroyed:
        yield PastEvent(version.created_at, name, PastEventType.DELETED, version.number, is_exact=False)
    if version.destroyed:
        since = _superseded_at(reading, version.number)
        graced = since + reading.target.grace_period if since else None
        is_over = graced is not None and graced <= now
        at, reason = (graced, Reason.GRACE_OVER.value) if graced and is_over else (since or version.created_at, "")
        yield PastEvent(at, name, PastEventType.DESTROYED, version.number, reason=reason, is_exact=False)


def _superseded_at(reading: PathReading, number: int) -> datetime | None:
    """Return when the first later version of ours that is readable was written."""
    return next((entry.created_at for entry in reading.entries if entry.record and entry.number > number), None)


# --- the provider's list ---------------------------------------------------------------------------------------------


def _removed(reading: PathReading, listed: KeyList, now: datetime) -> Iterator[PastEvent]:
    """Yield the keys that the list lacks."""
    if "" in listed.ids:
        return
    last = {entry.key_id: entry for entry in reading.entries if entry.record is not None}
    for key_id, entry in last.items():
        assert entry.record is not None  # noqa: S101 - for the type checker
        since = _superseded_at(reading, entry.number)
        is_over = since is not None and since + reading.target.grace_period <= now
        is_known = entry.created_at <= listed.known_by and entry.record.issued_at <= listed.known_by
        if key_id not in listed.ids and is_known and entry.record.expires_at > now and not is_over:
            name, what = reading.target.name, PastEventType.REMOVED
            yield PastEvent(entry.created_at, name, what, entry.number, key_id, is_exact=False)


def _orphaned(reading: PathReading, listed: KeyList, now: datetime) -> Iterator[PastEvent]:
    """Yield the keys of this path that no version holds, if the provider shows when they were made."""
    held = {entry.key_id for entry in reading.entries}
    for key in (key for place in reading.scope.places for key in listed.by_place.get(place, ())):
        if not isinstance(key, ProviderKey) or key.created_at is None or key.id in held or key.expires_by(now):
            continue
        name, what = KeyName.parse(key.name), PastEventType.ORPHANED
        if name is not None and key.created_at <= listed.known_by:
            yield PastEvent(key.created_at, reading.target.name, what, name.version, key.id, Reason.ORPHAN.value)
