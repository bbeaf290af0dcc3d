"""Which versions of a path hold a key's text, and what that key is to the path's target. Pure."""

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime

from rotator.core.errors import RotatorError
from rotator.core.keys import ProviderKey
from rotator.core.observation import Observation
from rotator.core.superseded import superseded_keys
from rotator.core.target import Target
from rotator.core.versions import RECORD_FIELD, Ownership, Record, fingerprints_in


@dataclass(frozen=True, slots=True)
class Holding:
    """A path with a version that holds a key's text, or the record of that key."""

    fingerprint: str  # of the key's text
    observation: Observation = field(repr=False)
    versions: tuple[int, ...]  # those that hold the text or the record, oldest first
    record: Record | None  # None: no readable version of this path names the key's id
    is_ours: bool  # the record is one that rotator wrote for this target
    is_revoked: bool = False  # by this process
    error: RotatorError | None = None  # why the key could not be looked up at the provider

    @property
    def target(self) -> Target:
        """The target of the path."""
        return self.observation.target

    @property
    def is_current(self) -> bool:
        """Whether the version that applications read holds the key."""
        return self.observation.history.current_version in self.versions

    @property
    def is_unknown(self) -> bool:
        """Whether the provider has not shown whether the key works."""
        seen = self.record is not None and self.record.key_id in self.observation.shown
        return not self.is_revoked and (self.error is not None or not seen)

    @property
    def shown(self) -> ProviderKey | None:
        """The key as the provider shows it; None while that is unknown, and where the provider has no such key."""
        if self.record is None or self.is_revoked or self.is_unknown:
            return None
        return self.observation.shown[self.record.key_id].key

    def works(self, now: datetime) -> bool | None:
        """Return whether the key still works; None: unknown."""
        if self.is_unknown:
            return None
        return self.shown is not None and not self.shown.expires_by(now)

    @property
    def works_until(self) -> datetime | None:
        """When a key that the provider shows stops working: its expiry or the end of its grace. None: never."""
        if self.shown is None or self.record is None:
            return None
        current = self.observation.current
        if self.is_ours and current is not None and current.record is not None:
            for key in superseded_keys(self.observation, current):
                if key.key_id == self.record.key_id:
                    return key.works_until
        return self.shown.expires_at

    @property
    def other_name(self) -> str | None:
        """The key's name at the provider, where it is not one for this path: its record may be forged or a copy."""
        shown = self.shown
        return shown.name if shown is not None and not self.observation.scope.owns(shown.name) else None

    def looked_up(self, observation: Observation, error: RotatorError | None = None) -> "Holding":
        """Return the same with what the provider showed, or why it could not be asked."""
        return replace(self, observation=observation, error=error)


def holdings(observation: Observation, fingerprints: Collection[str]) -> Iterator[Holding]:
    """Yield what the path holds of the keys whose texts have these fingerprints, one by key.

    A version holds a key if any of its fields has the text, or if its record names the fingerprint: a text that was
    overwritten by hand is found as well. A record of this target precedes a copied one.
    """
    versions: defaultdict[str, list[int]] = defaultdict(list)
    records: dict[str, tuple[bool, Record]] = {}
    for entry, version in zip(observation.entries, observation.history.versions, strict=True):
        data = version.data or {}
        held = {*fingerprints_in(data)}
        record = Record.parse(data.get(RECORD_FIELD))
        if record is not None and record.key in fingerprints:
            held.add(record.key)
            is_ours = entry.ownership in (Ownership.OURS, Ownership.HAND_EDITED)
            if is_ours or not records.get(record.key, (False, record))[0]:
                records[record.key] = is_ours, record
        for fingerprint in held.intersection(fingerprints):
            versions[fingerprint].append(entry.number)
    for fingerprint, numbers in versions.items():
        is_ours, found = records.get(fingerprint, (False, None))
        yield Holding(fingerprint, observation, tuple(numbers), found, is_ours)


def is_dead(held: Collection[Holding], now: datetime) -> bool:
    """Return whether a key is known not to work: by each path that names its id, and by one at least.

    One path alone does not prove it: its record may be forged.
    """
    known = [holding for holding in held if holding.record is not None]
    return bool(known) and all(holding.works(now) is False for holding in known)
