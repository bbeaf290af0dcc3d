"""The keys that a later version of their path replaced, and which of them must be looked up. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from rotator.core.expiry import whole_seconds
from rotator.core.keys import KeyName
from rotator.core.observation import Observation
from rotator.core.request import SCHEDULED, RotationRequest
from rotator.core.secrets import Secret
from rotator.core.versions import Entry, Record


@dataclass(frozen=True, slots=True)
class Superseded:
    """A key of ours that a later version replaced, and that some readable version still holds."""

    record: Record
    versions: tuple[Entry, ...]  # those that hold it
    since: datetime  # by the store's time
    until: datetime  # when its grace ends, and it is removed
    shown: datetime | None = None  # its expiry as the provider last showed it
    ends_with_grace: bool = True  # else the clock is not trusted, and nothing is done at `until`
    other_name: str | None = None  # its name, where that is not one for this path: nothing is done at `until` then
    is_endless: bool = False  # the provider shows that it never expires

    @property
    def key_id(self) -> str:
        """The key's id at the provider."""
        return self.record.key_id

    @property
    def works_until(self) -> datetime | None:
        """When it stops working: a provider that keeps an earlier expiry than requested decides. None: never.

        A key that is left alone works until its expiry at the provider: one that is not known to be ours; and each one,
        while this clock ends no key.
        """
        if not self.ends_with_grace or self.other_name is not None:
            return None if self.is_endless else self.shown or self.record.expires_at
        return min(self.until, self.shown or self.until)


def superseded_keys(
    observation: Observation, current: Entry, request: RotationRequest = SCHEDULED, now: datetime | None = None
) -> tuple[Superseded, ...]:
    """Return the keys of ours in readable versions, without the current one; those too that the provider lost.

    `current` is the current version, and ours. `now` is needed only for a request to revoke.
    """
    ours = [entry for entry in observation.entries if entry.record is not None]
    holders: dict[str, list[Entry]] = {}
    for entry in ours:
        if entry.key_id and entry.key_id != current.key_id:
            holders.setdefault(entry.key_id, []).append(entry)
    found = []
    for versions in holders.values():
        record = versions[-1].record
        assert record is not None  # noqa: S101 - for the type checker: `ours` has only entries with a record
        last = max(versions[-1].number, *_bare_versions(observation, record))
        # The current version is ours and holds another key, so there is always a next one.
        since = next(entry.created_at for entry in ours if entry.number > last)
        until = min(observation.own_end(record), whole_seconds(since + observation.target.grace_period))
        if request.revoke_now and now is not None:
            until = min(until, now)
        seen = observation.shown.get(record.key_id)
        shown = seen.key.expires_at if seen and seen.key else None
        ends_with_grace = observation.clock_trusted or request.revoke_now
        name = seen.key.name if seen and seen.key else record.key_name
        other_name = None if observation.scope.owns(name) else name
        is_endless = not observation.traits.keys_expire or (seen is not None and seen.key is not None and shown is None)
        found.append(Superseded(record, tuple(versions), since, until, shown, ends_with_grace, other_name, is_endless))
    return tuple(found)


def _bare_versions(observation: Observation, record: Record) -> Iterator[int]:
    """Yield the versions that are not ours and hold this key's text: an application may have read it there."""
    yield 0
    for entry, version in zip(observation.entries, observation.history.versions, strict=True):
        if entry.ownership.foreign and version.data is not None:
            texts = (Secret(value) for value in version.data.values() if isinstance(value, str))
            if any(text.fingerprint == record.key for text in texts):
                yield entry.number


def is_known(observation: Observation, key: Superseded) -> bool:
    """Return whether enough is known of a superseded key to expire it.

    Not where its own expiry, as seen while it was still served, comes before the end of its grace: `extend`, which
    needs only the provider's list, may have moved it since.
    """
    seen = observation.shown.get(key.key_id)
    bounded = observation.own_end(key.record) < key.since + observation.target.grace_period
    return seen is not None and not (bounded and seen.at_version <= key.versions[-1].number)


def to_confirm(observation: Observation) -> tuple[Record, ...]:
    """Return the keys that must be looked up at the provider before `plan` can act on them.

    Superseded ones, because only the provider shows for which path a key was made. And a current key that is published
    under another number than the one in its name: the path was rolled back to it, so it may be about to expire. What
    was seen of it before that proves nothing.
    """
    current = observation.current
    if current is None or current.record is None:
        return ()
    name = KeyName.parse(current.record.key_name)
    seen = observation.shown.get(current.record.key_id)
    as_made = name is not None and name.version == current.number
    # The provider's answer shows its time as well: with two opinions a wrong clock is corrected.
    known = (as_made and not observation.clock_disputed_by) or (seen is not None and seen.at_version == current.number)
    superseded = superseded_keys(observation, current)
    unknown = [key.record for key in superseded if not is_known(observation, key)]
    return (*(() if known else (current.record,)), *unknown)  # the served key first: it may not have long to live
