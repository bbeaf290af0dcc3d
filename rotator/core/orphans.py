"""Which keys made for a path are in no version of it. Pure."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from rotator.core.expiry import TOLERANCE
from rotator.core.keys import KeyName, ProviderKey
from rotator.core.observation import Observation
from rotator.core.secrets import Secret
from rotator.core.target import Target
from rotator.core.versions import RECORD_FIELD, History, Ownership, Record


class OrphanState(StrEnum):
    """What is to become of an orphan."""

    SETTLING = "settling"  # so young that it may still be on its way into a version
    TO_SHORTEN = "to-shorten"
    ENDING = "ending"  # ends by itself within a grace period
    EMPTIED = "emptied"  # its path is absent: once that has a version again, it is an orphan like any other
    OVER = "over"  # has ended: only its record at the provider is left


class Outcome(StrEnum):
    """What became of one."""

    LEFT = "left"  # nothing was to be done, or not any more
    SHORTENED = "shortened"
    REMOVED = "removed"
    HELD = "held"  # there are too many, or the clock is not to be trusted
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Orphan:
    """A key made for a target's path that no readable version of it holds."""

    target: Target
    key: ProviderKey
    state: OrphanState
    ahead: bool  # the path does not have the version yet that it was meant for
    outcome: Outcome = Outcome.LEFT
    until: datetime | None = None  # when it ends now


def orphans(
    observation: Observation, keys: Iterable[ProviderKey], now: datetime, unsettled: Callable[[ProviderKey], bool]
) -> tuple[Orphan, ...]:
    """Which of a target's own `keys` are in no readable version of its path; none while the path is not ours.

    An absent path cannot be fenced, so its keys are only reported: one of them may be about to become version 1.
    `keys` must have been listed before the history was read.
    """
    current = observation.current
    is_absent = observation.history.current_version == 0
    if not is_absent and (current is None or current.ownership is not Ownership.OURS):
        return ()
    held = {entry.key_id for entry in observation.entries} | set(_present(observation.history))
    end = now + observation.target.grace_period + TOLERANCE
    found = []
    for key in keys:
        name = KeyName.parse(key.name)
        if key.id in held or name is None:
            continue
        if is_absent and key.expires_at is not None and key.expires_at <= now:
            continue
        if key.expires_at is not None and key.expires_at <= now - observation.clock_ahead:
            state = OrphanState.OVER
        elif unsettled(key):
            state = OrphanState.SETTLING
        elif is_absent:
            state = OrphanState.EMPTIED
        elif key.expires_at is not None and key.expires_at <= end:
            state = OrphanState.ENDING
        else:
            state = OrphanState.TO_SHORTEN
        ahead = name.version > observation.history.current_version
        found.append(Orphan(observation.target, key, state, ahead, until=key.expires_at))
    return tuple(found)


def _present(history: History) -> Iterator[str]:
    """The described keys whose text stands in the current version, under whatever field: somebody may read it there."""
    data = history.current.data if history.current and history.current.data else {}
    texts = {Secret(value).fingerprint for value in data.values() if isinstance(value, str)}
    for version in history.versions:
        record = Record.parse(version.data.get(RECORD_FIELD)) if version.data else None
        if record and record.key in texts:
            yield record.key_id
