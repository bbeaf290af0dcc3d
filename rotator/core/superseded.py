"""The keys that a later version of their path replaced, and which of them must be looked up. Pure.

With `grace_extension`, grace follows use. At first a superseded key is made to expire with its grace, so that it ends
even if no replica runs. Shortly before that its use is looked at. As long as it is used, its expiry is moved to one
`idle_after` after its last use, and never past the bound. What is not known to be used is not extended. An expiry that
an earlier process set is left as it is until the use is known: this process has not seen what that one saw.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from rotator.core.caps import shows_more_early
from rotator.core.expiry import TOLERANCE, KeyObservation, next_request, whole_seconds
from rotator.core.observation import Observation
from rotator.core.renewal import FUTURE, LAST_RESORT, extension_lead, lead_of, permitted_from
from rotator.core.request import SCHEDULED, RotationRequest
from rotator.core.target import Target
from rotator.core.use import CapUse, UseSeries
from rotator.core.versions import Entry, Record, fingerprints_in

REACH = 4
"""In this part of `idle_after` before its end, the use of a superseded key is looked at, and the end is moved."""

AGAIN = 3
"""In this part of that time it is looked at again, if the end was not moved."""

MOST_BEHIND = timedelta(days=1)
"""If a key was issued longer than this after its version was written, the clock that issued it was ahead."""


@dataclass(frozen=True, slots=True)
class Superseded:
    """A key of ours that a later version replaced, and that some readable version still holds."""

    record: Record
    versions: tuple[Entry, ...]  # those that hold it
    since: datetime  # by the store's time
    until: datetime  # when its grace ends, use included, and it is removed
    shown: datetime | None = None  # its expiry as the provider last showed it
    ends_with_grace: bool = True  # else the clock is not trusted, and nothing is done at `until`
    other_name: str | None = None  # its name, where that is not one for this path: nothing is done at `until` then
    is_endless: bool = False  # the provider shows that it never expires
    grace_over_at: datetime | None = None  # when its grace ends if it is not used; None: at `until`
    latest: datetime | None = None  # `until` is never moved past this; None: it is not moved
    use: UseSeries | None = None  # None: unknown
    kept: frozenset[int] = frozenset()  # the versions that alone show what is still needed: they are not destroyed yet

    @property
    def to_destroy(self) -> tuple[int, ...]:
        """The versions that are destroyed when its grace is over: those that carry nothing that is needed."""
        return tuple(
            version.number
            for version in self.versions
            if not version.foreign_fields and version.number not in self.kept
        )

    @property
    def is_extended(self) -> bool:
        """Whether it lives on after its grace, because it is used."""
        return self.grace_over_at is not None and self.until > self.grace_over_at

    @property
    def may_be_extended(self) -> bool:
        """Whether its use decides when it ends."""
        return self.latest is not None and self.grace_over_at is not None and self.latest > self.grace_over_at

    @property
    def last_used_at(self) -> datetime | None:
        """When it was last used, at the latest; None: never, or unknown."""
        used_at = self.use.used_at if self.use else None
        return used_at if used_at is not None and used_at >= self.record.issued_at else None

    @property
    def used_since(self) -> tuple[CapUse, ...]:
        """How much of its caps was used since it was replaced, if that is known."""
        return self.use.used_since if self.use else ()

    @property
    def used_after(self) -> datetime | None:
        """When it was last used, if that was after it was replaced; None: not since, or unknown."""
        return last_use_since(self.use, self.since)

    def is_used(self, idle_after: timedelta, now: datetime) -> bool:
        """Return whether it was used since it was replaced, and within `idle_after`."""
        return self.used_after is not None and now - self.used_after < idle_after

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


# --- which keys they are ---------------------------------------------------------------------------------------------


def superseded_keys(
    observation: Observation, current: Entry, request: RotationRequest = SCHEDULED, now: datetime | None = None
) -> tuple[Superseded, ...]:
    """Return the keys of ours in readable versions, without the current one; those too that the provider lost.

    `current` is the current version, and ours. `now` is needed only for a request to revoke.
    """
    holders: dict[str, list[Entry]] = {}
    for entry in observation.entries:
        if entry.key_id and entry.key_id != current.key_id:
            holders.setdefault(entry.key_id, []).append(entry)
    found = []
    for versions in holders.values():
        record = versions[-1].record
        assert record is not None  # noqa: S101 - for the type checker: only an entry with a record has a key id
        since = _began_at(_follower(observation, versions, record), record)
        until = min(observation.own_end(record), whole_seconds(since + observation.target.grace_period))
        if request.revoke_now and now is not None:
            until = min(until, now)
        key = observation.key_of(record)
        shown = key.expires_at if key else None
        latest = until if request.revoke_now else _latest(observation, record, since, until)
        name = key.name if key else record.key_name
        found.append(
            Superseded(
                record,
                tuple(versions),
                since,
                until=_extended(observation, record, since, until, latest),
                shown=shown,
                ends_with_grace=observation.clock_trusted or request.revoke_now,
                other_name=None if observation.scope.owns(name) else name,
                is_endless=not observation.traits.keys_expire or (key is not None and shown is None),
                grace_over_at=until,
                latest=latest,
                use=observation.use.get(record.key_id),
                kept=frozenset(entry.number for entry in versions if shows_more_early(entry, current)),
            )
        )
    needed = frozenset(_outlived(observation, found))
    return tuple(replace(key, kept=key.kept | needed) for key in found) if needed else tuple(found)


def _outlived(observation: Observation, found: Sequence[Superseded]) -> Iterator[int]:
    """Yield the versions that alone show since when the grace of a key counts, and whose own key ends before it.

    A key that a person rolled the path back to may end so early. Without its versions the grace would begin again.
    """
    if len(found) < 2 or observation.target.grace_extension:
        return  # with an extension these versions count, though they are destroyed
    ends = {key.key_id: key.until for key in found}
    for key in found:
        follower = _follower(observation, key.versions, key.record)
        is_outlived = ends.get(follower.key_id or "", key.until) < key.until
        if is_outlived and key.other_name is None and not observation.is_key_gone(key.record):
            yield follower.number


def _follower(observation: Observation, versions: Sequence[Entry], record: Record) -> Entry:
    """Return the version by which another key followed the one that these versions hold.

    A key whose grace is extended may outlive those that followed it for long. Their versions are destroyed by then, and
    still show since when its grace counts: without them it would begin again and again.
    """
    last = max(versions[-1].number, *_bare_versions(observation, record))
    may_outlive = bool(observation.target.grace_extension)
    destroyed = {version.number for version in observation.history.versions if version.destroyed and may_outlive}
    # The current version is ours and holds another key, so there is always a next one.
    later = (entry for entry in observation.entries if entry.number > last)
    return next(entry for entry in later if entry.record is not None or entry.number in destroyed)


def _began_at(follower: Entry, record: Record) -> datetime:
    """Return when the grace of a key began, which this version replaced: when the store wrote it.

    Later, where either key was issued well after that. Then the store's clock is behind, and no `Date` shows it if a
    proxy, or another node, sets that.
    """
    issued_at = max(record.issued_at, follower.record.issued_at if follower.record else record.issued_at)
    return issued_at if FUTURE < issued_at - follower.created_at <= MOST_BEHIND else follower.created_at


# --- grace follows use -----------------------------------------------------------------------------------------------


def _latest(observation: Observation, record: Record, since: datetime, over_at: datetime) -> datetime:
    """Return when the grace of a key that is used ends at the latest.

    Just before its recorded expiry, so that an expiry that was moved differs from one that was never shortened.
    """
    extension = observation.target.grace_extension
    if not extension or not observation.clock_trusted or observation.key_of(record) is None:
        return over_at
    bound = whole_seconds(since + observation.target.grace_period + extension)
    return max(over_at, min(bound, record.expires_at - 2 * TOLERANCE))


def _extended(
    observation: Observation, record: Record, since: datetime, over_at: datetime, latest: datetime
) -> datetime:
    """Return when the grace of a key ends, from `over_at` to `latest`: the longer it is used, the later."""
    if latest == over_at:
        return over_at
    use, idle_after = observation.use.get(record.key_id), observation.target.idle_after
    used_at = last_use_since(use, since)
    if used_at is None:
        until = set_before(observation.shown[record.key_id], record, over_at)
        if use is not None and len(use.looks) > 1:  # it was not used since the first of them
            until = min(until, use.begun_at + idle_after)
    else:
        until = whole_seconds(used_at + idle_after)
    return min(latest, max(over_at, until))


def last_use_since(use: UseSeries | None, since: datetime) -> datetime | None:
    """Return the last use of a key if that came after it was replaced; None: not used since, or unknown."""
    return use.used_at if use is not None and use.used_at is not None and use.used_at > since else None


def set_before(seen: KeyObservation, record: Record, over_at: datetime) -> datetime:
    """Return a key's expiry, if a process has moved it past the end of its grace; else that end."""
    shown = seen.key.expires_at if seen.key else None
    if shown is None or shown <= over_at or shown >= record.expires_at - TOLERANCE:
        return over_at
    is_rounded = next_request(seen, over_at, record.issued_at) is None
    return over_at if is_rounded else shown


def reach(target: Target) -> timedelta:
    """Return how long before its end a superseded key may get a later one."""
    return target.idle_after / REACH


def requests_to_extend(target: Target) -> float:
    """Return how many requests a superseded key takes that is used until its bound: looks, and later expiries."""
    if not target.grace_extension:
        return 0.0
    return 3 + 2 * target.grace_extension / (target.idle_after - reach(target))


def looks_at(key: Superseded, target: Target) -> tuple[datetime, ...]:
    """Return when the use of a superseded key is looked at, the first time first; none if it is never extended.

    First when it would be idle by its end if it is not used from then on: a count alone shows use only by its growth.
    """
    end = key.works_until
    if end is None or not key.may_be_extended:
        return ()
    return end - target.idle_after, end - reach(target), end - reach(target) / AGAIN


def is_to_look_at(observation: Observation, key: Superseded, now: datetime) -> bool:
    """Return whether a key must be looked up now, because its use decides whether it ends."""
    seen = observation.shown.get(key.key_id)
    if seen is None or seen.key is None or seen.key.expires_by(now) or not observation.is_owned(key.record):
        return False
    due = max((moment for moment in looks_at(key, observation.target) if moment <= now), default=None)
    if due is None or key.latest is None or key.latest <= max(now, key.until):
        return False
    if key.use is not None and (key.use.is_shown_alone is False or key.use.as_of >= due):
        return False
    return seen.looked_up_at is None or seen.looked_up_at < due


def expiry_to_set(key: Superseded, target: Target, now: datetime) -> datetime | None:
    """Return the expiry that the provider is to keep now; None to leave it.

    The end of the grace at first, whatever is known of the use: should no replica run, the key ends then. It is moved
    only when it comes within reach, and not at each look.
    """
    if not key.is_extended or key.grace_over_at is None:
        return key.until
    if now < key.grace_over_at - reach(target):
        return key.grace_over_at
    is_far = key.shown is not None and now < key.shown - reach(target)
    return None if is_far and key.shown is not None and key.shown < key.until else key.until


# --- what must be known of them --------------------------------------------------------------------------------------


def _bare_versions(observation: Observation, record: Record) -> Iterator[int]:
    """Yield the versions that are not ours and hold this key's text: an application may have read it there."""
    yield 0
    for entry, version in zip(observation.entries, observation.history.versions, strict=True):
        if entry.ownership.foreign and record.key in fingerprints_in(version.data or {}):
            yield entry.number


def is_known(observation: Observation, key: Superseded) -> bool:
    """Return whether enough is known of a superseded key to expire it.

    Not where its own expiry, as seen while it was still served, comes before the end of its grace: `extend`, which
    needs only the provider's list, may have moved it since.
    """
    seen = observation.shown.get(key.key_id)
    bounded = observation.own_end(key.record) < key.since + observation.target.grace_period
    return seen is not None and not (bounded and seen.at_version <= key.versions[-1].number)


def to_confirm(observation: Observation, now: datetime) -> tuple[Record, ...]:
    """Return the keys that must be looked up at the provider before `plan` can act on them.

    Superseded ones, because only the provider shows for which path a key was made, and whether it is used. And a
    current key that is published under another number than the one in its name: the path was rolled back to it, so it
    may be about to expire. What was seen of it before that proves nothing. And a current key that a pause may have
    extended, or is to extend: also before it is replaced outside of a window.
    """
    current = observation.current
    if current is None or current.record is None:
        return ()
    seen = observation.shown.get(current.record.key_id)
    as_made = current.is_as_made and not _may_be_extended(observation, current.record, now)
    # The provider's answer shows its time as well: with two opinions a wrong clock is corrected.
    known = (as_made and not observation.clock_disputed_by) or (seen is not None and seen.at_version == current.number)
    superseded = superseded_keys(observation, current)
    unknown = [
        key.record for key in superseded if not is_known(observation, key) or is_to_look_at(observation, key, now)
    ]
    return (*(() if known else (current.record,)), *unknown)  # the served key first: it may not have long to live


def _may_be_extended(observation: Observation, record: Record, now: datetime) -> bool:
    """Return whether by its record it is time to extend a key, because of a pause that may be over by now.

    Or to replace it outside of a window: a pause that is no longer configured may have extended it.
    """
    target = observation.target
    pause_until, due_at = target.pause_until, record.expires_at - extension_lead(target)
    if pause_until is not None and due_at < pause_until and due_at <= now:
        return True
    lead = lead_of(record, target)
    if not target.windows or not observation.traits.can_set_expiry or now < record.expires_at - lead:
        return False
    return permitted_from(target, now) > record.expires_at - lead / LAST_RESORT
