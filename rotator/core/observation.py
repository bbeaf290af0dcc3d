"""Everything known of one target at one moment: its path, and what the provider showed of its keys. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from rotator.core.expiry import NEVER, TOLERANCE, KeyObservation
from rotator.core.keys import ProviderKey
from rotator.core.target import Target
from rotator.core.traits import Traits
from rotator.core.use import UseSeries
from rotator.core.versions import Entry, History, Record, Scope, read_version


@dataclass(frozen=True, slots=True)
class Made:
    """With which parameters a key was made, by their fingerprint, and when the path had it first."""

    params: str
    at: datetime


@dataclass(frozen=True)
class PathReading:
    """A path's history as its target reads it: once, whatever else an observation learns."""

    target: Target
    scope: Scope
    history: History

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """The versions as this target reads them, oldest first."""
        return tuple(read_version(version, self.target, self.scope) for version in self.history.versions)

    @cached_property
    def current(self) -> Entry | None:
        """The version that applications read, as this target reads it; None when nothing is known of it."""
        number = self.history.current_version
        return next((entry for entry in self.entries if entry.number == number), None)


@dataclass(frozen=True, slots=True)
class Observation:
    """Everything known of one target at one moment."""

    reading: PathReading
    shown: Mapping[str, KeyObservation]  # what the provider showed, by key id; only of keys that were looked at
    traits: Traits  # the provider's
    clock_trusted: bool = True  # else no key is ended because its time is over
    clock_ahead: timedelta = timedelta(0)  # by so much it may be, and so much later is a key ended
    clock_disputed_by: timedelta = timedelta(0)  # how far `now` is ahead of all that answered; 0 while one agrees
    answered_at: float = 0.0  # monotonic seconds, when the read of the history had been answered
    gone_is_believed: bool = True  # else a served key that the provider does not know is not replaced
    made: Mapping[str, Made] = field(default_factory=dict)  # by key id; those too whose versions are destroyed
    use: Mapping[str, UseSeries] = field(default_factory=dict)  # by key id; only of keys whose use was shown
    list_every: timedelta = timedelta(minutes=15)  # how often the provider's list is read
    hot_every: timedelta = timedelta(minutes=15)  # how often a key is looked up that may be spent before the next list
    is_emptied: bool = False  # the path is absent, and has held a key, or the provider has live ones of it

    @property
    def target(self) -> Target:
        """The target that was looked at."""
        return self.reading.target

    @property
    def scope(self) -> Scope:
        """What the target recognises as its own."""
        return self.reading.scope

    @property
    def history(self) -> History:
        """The path's history, or its newest version alone."""
        return self.reading.history

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The versions as this target reads them, oldest first."""
        return self.reading.entries

    @property
    def current(self) -> Entry | None:
        """The version that applications read, as this target reads it; None when nothing is known of it."""
        return self.reading.current

    @property
    def served(self) -> Record | None:
        """The record of the served key; None where the current version holds no key of ours."""
        return self.current.record if self.current else None

    @property
    def served_id(self) -> str | None:
        """The id of the served key."""
        return self.served.key_id if self.served else None

    def preserved_fields(self) -> dict[str, Any]:
        """Return the fields of the current version that are neither ours nor configured: they stay with the path."""
        foreign = self.current.foreign_fields if self.current else frozenset()
        data = self.history.current.data if self.history.current else None
        return {name: value for name, value in (data or {}).items() if name in foreign}

    def is_gone(self, now: datetime) -> bool:
        """Return whether the provider shows that the served key does not work, since it is served."""
        current, seen = self.current, self.shown.get(self.served_id or "")
        if current is None or seen is None or seen.at_version != current.number:
            return False
        return seen.key is None or seen.key.expires_by(now)

    def own_end(self, record: Record) -> datetime:
        """Return when a key expires if nothing shortens it: `extend` may have moved its expiry past its record.

        So may a pause of the target: a key counts as extended until the provider shows it. It does where the provider
        does not know it, too: whether that is believed, is not decided here.
        """
        if not self.traits.keys_expire:
            return NEVER
        key, pause_until = self.key_of(record), self.target.pause_until
        if key is None and pause_until is not None:
            return max(record.expires_at, pause_until + self.target.lead)
        if key is None:
            return record.expires_at
        return max(record.expires_at, key.expires_at or NEVER)

    def has_expired(self, record: Record, now: datetime) -> bool:
        """Return whether a key is known to have expired. Where keys never expire, none has."""
        return self.own_end(record) <= now

    def as_recorded(self, record: Record) -> ProviderKey:
        """Return the key as the provider shows it while nothing has changed it."""
        return ProviderKey(record.key_id, record.key_name, record.expires_at if self.traits.keys_expire else None)

    def is_key_gone(self, record: Record) -> bool:
        """Return whether the provider was asked, and does not have the key."""
        seen = self.shown.get(record.key_id)
        return seen is not None and seen.key is None

    def is_owned(self, record: Record) -> bool | None:
        """Return whether the provider shows this key under this path's name; None where it does not show the key."""
        key = self.key_of(record)
        return None if key is None else self.scope.owns(key.name)

    def is_another(self, key: ProviderKey) -> bool:
        """Return whether a key has the id of one that the path holds, and the name of another key of this path.

        Some providers use the id of a deleted key again. The key that the path holds is gone then.
        """
        names = {entry.record.key_name for entry in self.entries if entry.record and entry.record.key_id == key.id}
        return bool(names) and key.name not in names and self.scope.owns(key.name)

    def is_cut_short(self, record: Record, now: datetime) -> bool:
        """Return whether the provider shows that the current key will expire before its recorded expiry."""
        key = self.key_of(record)
        if key is None or key.expires_at is None:
            return False
        return now < key.expires_at < record.expires_at - TOLERANCE

    def is_overlong(self, record: Record) -> bool:
        """Return whether a key's record gives it far more than the `ttl`: a forger of records may have written that.

        No key is extended to such an end; one that got it from a longer `ttl` keeps it. Twice: clocks differ.
        """
        key = self.key_of(record)
        made_at = key.created_at if key else None
        held_since = min(entry.created_at for entry in self.entries if entry.key_id == record.key_id)
        return record.expires_at > (made_at or held_since) + 2 * self.target.ttl

    def key_of(self, record: Record) -> ProviderKey | None:
        """Return the key as the provider last showed it; None where it was not looked at, or is gone."""
        seen = self.shown.get(record.key_id)
        return seen.key if seen else None
