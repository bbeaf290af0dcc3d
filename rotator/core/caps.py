"""What the caps of the served key demand: whether it is spent, or is to be replaced early, and how often that may be.

Pure. A cap is a guard. Replacing a key because its cap is nearly spent fills the cap anew, so it is bounded: each
record holds when keys of its path were made early, and so the bound holds over restarts, replicas and reloads.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from rotator.core.expiry import NEVER
from rotator.core.observation import Observation
from rotator.core.reasons import Reason
from rotator.core.renewal import FUTURE, rolled_back_at
from rotator.core.target import Cap, Target
from rotator.core.use import UseSeries
from rotator.core.versions import LONGEST, MAX_EARLY, Entry, Record

DAY = timedelta(hours=24)
"""The time in which at most `max_early_rotations` keys are made early."""

HOT_EVERY = timedelta(minutes=1)
"""How often the use of a key is looked up that may be spent before the provider's next list."""

RESERVE = 1.5
"""By so much more than its rate shows, a key may be used until its consumers have the next one."""

PICKUP_SHARE = 0.5
"""A cap of which the pickup alone spends this share is too small for early rotations."""


MOST = 1e6
"""No larger share of a cap is shown: a number may be too large for JSON."""


@dataclass(frozen=True, slots=True)
class CapState:
    """How much of one cap the served key had used at the last look."""

    cap: Cap
    used: float
    rate: float  # a second; the highest of the last looks
    mean_rate: float  # a second, from when the key was made until the cap was reached, or the last look
    as_of: datetime
    reached_at: datetime | None = None  # the first look that showed the cap as spent

    @property
    def ratio(self) -> float:
        """The share of the cap that is used; 1 for a limit of 0. Of a limit near 0, not more than can be shown."""
        return min(MOST, self.used / self.cap.limit) if self.cap.limit > 0 else 1.0

    @property
    def left(self) -> float:
        """How much is left, at least 0."""
        return max(0.0, self.cap.limit - self.used)

    @property
    def is_spent(self) -> bool:
        """Whether the cap is reached, so that the provider refuses the key."""
        return self.left == 0

    @property
    def spent_at(self) -> datetime | None:
        """When the cap was first seen spent, or will be spent at the present rate; None where that is not in sight."""
        if self.is_spent:
            return self.reached_at or self.as_of
        if self.rate <= 0 or self.left / self.rate > LONGEST.total_seconds():
            return None
        return self.as_of + timedelta(seconds=self.left / self.rate)


class Metered(Protocol):
    """What is known of the use of a target's keys; an `Observation` is one."""

    @property
    def target(self) -> Target:
        """The target."""

    @property
    def use(self) -> Mapping[str, UseSeries]:
        """The looks at the use of its keys, by key id."""

    @property
    def list_every(self) -> timedelta:
        """How often the provider's list is read."""

    @property
    def hot_every(self) -> timedelta:
        """How often a key is looked up that may be spent before the next list."""


def cap_states(observation: Metered, record: Record) -> tuple[CapState, ...]:
    """Return each cap whose use and limit are known.

    First those that are nearly spent, the soonest first; then the one with the largest share of use.
    """
    series = observation.use.get(record.key_id)
    if series is None:
        return ()

    def order(state: CapState) -> tuple[bool, datetime, float]:
        is_near = is_cap_nearly_spent(observation, series, state)
        return not is_near, (state.spent_at if is_near else None) or NEVER, -state.ratio

    return tuple(sorted(_states(observation, record, series), key=order))


def _states(observation: Metered, record: Record, series: UseSeries) -> Iterator[CapState]:
    target = observation.target
    configured = {cap.option: cap for cap in target.caps.caps}
    for use in series.latest.caps:
        known = configured.get(use.cap)
        as_configured = known.limit if known and record.params == target.fingerprint else None
        limit = as_configured if use.limit is None else use.limit
        if limit is None:
            continue
        cap = Cap(use.cap, limit, known.unit if known else "")
        looks = (look for look in (*series.looks, series.unchanged) if look is not None)
        reached = (look.as_of for look in looks if look.as_of and (look.used(use.cap) or 0.0) >= limit)
        reached_at, since = min(reached, default=None), record.issued_at
        rates = series.rate(use.cap, since), series.mean_rate(use.cap, since, reached_at)
        yield CapState(cap, use.used, *rates, series.as_of, reached_at)


def next_look(observation: Metered, series: UseSeries) -> timedelta:
    """Return the time until the use of a key is looked at again, once the key is hot."""
    return observation.list_every if series.is_shown_alone is False else observation.hot_every


def is_nearly_spent(observation: Metered, record: Record) -> bool:
    """Return whether a cap reached its threshold, or may be spent before consumers can have another key."""
    series = observation.use.get(record.key_id)
    return series is not None and any(
        is_cap_nearly_spent(observation, series, state) for state in _states(observation, record, series)
    )


def is_cap_nearly_spent(
    observation: Metered, series: UseSeries, state: CapState, within: timedelta | None = None
) -> bool:
    """Return whether one cap reached its threshold, or may be spent before consumers can have another key.

    `within` is the time until the next look, if it is another than `next_look`.
    """
    policy = observation.target.caps
    time = policy.pickup + (next_look(observation, series) if within is None else within)
    return state.ratio >= policy.replace_at or state.left <= RESERVE * state.rate * time.total_seconds()


def is_hot(observation: Metered, record: Record) -> bool:
    """Return whether the key may be nearly spent before the provider's next list, so that it is looked up alone."""
    series = observation.use.get(record.key_id)
    if series is None or series.is_shown_alone is False:
        return False
    states = [*_states(observation, record, series)]  # once: each minute this is asked of each target
    is_near = any(is_cap_nearly_spent(observation, series, state) for state in states)
    within = observation.list_every
    return not is_near and any(is_cap_nearly_spent(observation, series, state, within) for state in states)


def is_cap_too_small(observation: Metered, record: Record) -> bool:
    """Return whether consumers spend so much of a cap before they have the next key that replacing is of no use.

    By the mean rate: a burst is over soon, and its end is when consumers need another key.
    """
    pickup = observation.target.caps.pickup.total_seconds()
    states = cap_states(observation, record)
    return any(state.mean_rate * pickup >= PICKUP_SHARE * state.cap.limit for state in states)


def picked_up_at(observation: Observation, record: Record) -> datetime:
    """Return when all consumers use the served key: one pickup after it was published, or rolled back to."""
    held = [entry.created_at for entry in observation.entries if entry.key_id == record.key_id]
    published_at = rolled_back_at(observation) or min(held, default=record.issued_at)
    return published_at + observation.target.caps.pickup + observation.clock_ahead


def early_rotations(observation: Observation, now: datetime) -> tuple[datetime, ...]:
    """Return when keys of this path were made early in the last day, oldest first; by the records of its history.

    Longer than a day by what the clocks of replicas may differ.
    """
    since = now - DAY - FUTURE - observation.clock_ahead
    made: set[datetime] = set()
    for entry in observation.entries:
        if entry.record is not None:
            made.update(_early_in(entry.record))
    return tuple(sorted(moment for moment in made if moment > since))


def shows_more_early(entry: Entry, current: Entry) -> bool:
    """Return whether a version shows an early rotation of the day before the current key that its record lacks.

    This happens after a rollback by hand. The next record of the path holds what its versions show.
    """
    if entry.record is None or current.record is None:
        return False
    since = current.record.issued_at - DAY
    return any(moment > since for moment in {*_early_in(entry.record)} - {*_early_in(current.record)})


def carried(observation: Observation, now: datetime) -> str:
    """Return what the next record of this path holds of its early rotations."""
    return ".".join(str(int(moment.timestamp())) for moment in early_rotations(observation, now)[-MAX_EARLY:])


def _early_in(record: Record) -> Iterator[datetime]:
    """Yield the early rotations that a record shows: its own, and those before it."""
    yield from _times(record.early)
    if record.why == Reason.NEARLY_SPENT:
        yield record.issued_at


def _times(text: str) -> Iterator[datetime]:
    """Yield the times of `carried`. What is no time is skipped: a record that a person edited must stay readable."""
    for part in text.split("."):
        if part.isdecimal() and len(part) <= 11:
            yield datetime.fromtimestamp(int(part), UTC)


def free_again_at(observation: Observation, now: datetime) -> datetime | None:
    """Return when the next early rotation is allowed; None while the bound is not reached."""
    bound = observation.target.caps.max_early_rotations
    made = early_rotations(observation, now)
    if len(made) < bound:
        return None
    return made[len(made) - bound] + DAY + FUTURE + observation.clock_ahead
