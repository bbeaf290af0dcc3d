"""What a provider's list shows of a path: its orphans, and whether its served key is there. Pure."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TypeVar

from rotator.core.errors import ClockDisagrees, RotatorError, TooManyOrphans
from rotator.core.expiry import TOLERANCE, whole_seconds
from rotator.core.keys import KeyName, ListedKey, ProviderKey
from rotator.core.observation import Observation
from rotator.core.target import Target
from rotator.core.versions import RECORD_FIELD, Entry, History, Ownership, Record, fingerprints_in

K = TypeVar("K", bound=ListedKey)


def by_place(keys: Iterable[K]) -> dict[str, list[K]]:
    """Return the keys by the place in their names; those whose name is not one of ours are at the place ""."""
    found: dict[str, list[K]] = defaultdict(list)
    for key in keys:
        name = KeyName.parse(key.name)
        found[name.place if name else ""].append(key)
    return dict(found)


# --- the served key --------------------------------------------------------------------------------------------------


class Sighting(StrEnum):
    """What a provider's list shows of the key that a path serves."""

    NOT_DUE = "not-due"  # the path serves no key, or one that has expired by its record
    LISTED = "listed"
    REPLACED = "replaced"  # the list lacks it, and shows another key of the path: the provider recognises this path
    MISSING = "missing"  # the list shows no key of the path


def sighting(live: Record | None, entry: ProviderKey | None, others: Iterable[ListedKey], now: datetime) -> Sighting:
    """Return what the list shows of the served key that lives by its record.

    `entry` has the id of the served key, and `others` carry the path's name.
    """
    if live is None:
        return Sighting.NOT_DUE
    if entry is not None and not entry.expires_by(now):
        return Sighting.LISTED
    is_recognised = any(not isinstance(key, ProviderKey) or not key.expires_by(now) for key in others)
    return Sighting.REPLACED if is_recognised else Sighting.MISSING


# --- orphans ---------------------------------------------------------------------------------------------------------


class OrphanState(StrEnum):
    """What has to be done about an orphan."""

    SETTLING = "settling"  # so young that a version may still receive it
    TO_SHORTEN = "to-shorten"
    ENDING = "ending"  # expires within a grace period without our help
    # Instead of TO_SHORTEN, where the provider cannot set an expiry:
    TO_FENCE = "to-fence"  # the next version may still receive it, and its grace begins with the fence
    IN_GRACE = "in-grace"  # is deleted when its grace is over
    GRACE_OVER = "grace-over"  # works, and is deleted
    EMPTIED = "emptied"  # its path is absent: once that has a version again, it is an orphan like any other
    OVER = "over"  # has expired: only its record at the provider is left


class Outcome(StrEnum):
    """What a sweep did about an orphan."""

    LEFT = "left"  # there was nothing to do
    SHORTENED = "shortened"
    REMOVED = "removed"
    HELD = "held"  # there are too many, or the clock is not trusted
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Grace:
    """The grace of an orphan whose expiry cannot be set."""

    since: datetime  # the path cannot have served the orphan from then on
    until: datetime
    found_at: datetime


@dataclass(frozen=True, slots=True)
class Orphan:
    """A key made for a target's path that no readable version of it holds."""

    target: Target
    key: ProviderKey
    state: OrphanState
    ahead: bool  # the path does not have the version yet that the key was made for
    outcome: Outcome = Outcome.LEFT
    until: datetime | None = None  # when it expires now, or its grace ends
    grace: Grace | None = None

    @property
    def is_due(self) -> bool:
        """Whether a sweep has something to do about it."""
        return self.state is OrphanState.OVER or self.is_to_end

    @property
    def is_to_end(self) -> bool:
        """Whether a sweep would end it, and it works for longer than a grace period otherwise."""
        return self.state in (OrphanState.TO_SHORTEN, OrphanState.TO_FENCE, OrphanState.GRACE_OVER)

    @property
    def is_to_fence(self) -> bool:
        """Whether its path gets another version first, so that no writer can publish it."""
        return self.ahead and self.state in (OrphanState.TO_SHORTEN, OrphanState.TO_FENCE)


def orphans(
    observation: Observation,
    keys: Iterable[ProviderKey],
    now: datetime,
    unsettled: Callable[[ProviderKey], bool],
    found_before: Callable[[ProviderKey], Grace | None] = lambda _: None,
) -> tuple[Orphan, ...]:
    """Return those of a target's own `keys` that no readable version of its path holds; none if the path is not ours.

    An absent path cannot be fenced, so its keys are only reported: one of them may be about to become version 1.
    `keys` must have been listed before the history was read. `found_before`: the grace of a key, as an earlier
    call found it.
    """
    current = observation.current
    is_absent = observation.history.current_version == 0
    if not is_absent and (current is None or current.ownership is not Ownership.OURS):
        return ()
    held = {entry.key_id for entry in observation.entries} | set(_present(observation.history))
    found = []
    for key in keys:
        name = KeyName.parse(key.name)
        is_held = key.id in held and not observation.is_another(key)
        if is_held or name is None or (is_absent and key.expires_by(now)):
            continue
        grace = None
        if key.expires_by(now - observation.clock_ahead):
            state = OrphanState.OVER
        elif unsettled(key):
            state = OrphanState.SETTLING
        elif is_absent:
            state = OrphanState.EMPTIED
        else:
            is_ending = key.expires_by(now + observation.target.grace_period + TOLERANCE)
            if observation.traits.can_set_expiry:
                state = OrphanState.TO_SHORTEN
            else:
                state, grace = _grace(observation, key, name.version, now, found_before(key))
            if is_ending and state is not OrphanState.GRACE_OVER:
                state = OrphanState.ENDING
        ahead = name.version > observation.history.current_version
        until = grace.until if grace and state is not OrphanState.ENDING else key.expires_at
        found.append(Orphan(observation.target, key, state, ahead, until=until, grace=grace))
    return tuple(found)


def _grace(
    observation: Observation, key: ProviderKey, version: int, now: datetime, before: Grace | None
) -> tuple[OrphanState, Grace | None]:
    """Return where an orphan that was made for `version` is in its grace, and that grace.

    A path that was emptied gets one fence, and not one for each of its earlier keys in turn.
    """
    if version == observation.history.current_version + 1 and before is None:
        return OrphanState.TO_FENCE, None
    since = _unserved_since(observation, key, version, before) or now
    grace = Grace(since, whole_seconds(since + observation.target.grace_period), now)
    is_over = grace.until <= now - observation.clock_ahead
    return OrphanState.GRACE_OVER if is_over else OrphanState.IN_GRACE, grace


def _unserved_since(observation: Observation, key: ProviderKey, version: int, before: Grace | None) -> datetime | None:
    """Return since when the path cannot have served an orphan that was made for `version`; None if that is not known.

    The current version and those right before it do not hold the key, as long as they are readable and ours. A path
    that was restored to an older state shows versions from before it served the key: only those are later that have
    such a number, and were written after the key was made. What an earlier call found holds while it is known which
    versions were current since then.
    """
    latest: list[Entry] = []
    for entry in reversed(observation.entries):
        if entry.record is None or (latest and entry.number != latest[-1].number - 1):
            break
        latest.append(entry)
    made_at = key.created_at
    later = [entry for entry in latest if made_at and entry.number >= version and entry.created_at >= made_at]
    moments = [entry.created_at for entry in later]
    if before and latest and latest[-1].created_at < before.found_at:
        moments.append(before.since)
    return min(moments, default=None)


def _present(history: History) -> Iterator[str]:
    """Yield the recorded keys whose text the current version holds in any field: an application may read it there."""
    held = fingerprints_in(history.current.data if history.current and history.current.data else {})
    for version in history.versions:
        record = Record.parse(version.data.get(RECORD_FIELD)) if version.data else None
        if record and record.key in held:
            yield record.key_id


def reason_to_hold(found: Sequence[Orphan], limit: int, *, clock_trusted: bool) -> RotatorError | None:
    """Return why none of these orphans may be touched; None if they may be.

    Many orphans at once look less like as many crashes than like a mistake in what was seen.
    """
    to_end = sum(orphan.is_to_end for orphan in found)
    if to_end > limit:
        return TooManyOrphans(to_end, limit)
    return ClockDisagrees() if found and not clock_trusted else None
