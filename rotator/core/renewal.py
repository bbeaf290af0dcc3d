"""When a key is replaced. Pure.

The plan, the schedule, the configuration's rules, the status, the page and the metrics all ask here.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from rotator.core.keys import KeyName
from rotator.core.observation import Made, Observation
from rotator.core.request import PassOptions
from rotator.core.target import Target
from rotator.core.versions import Entry, Record
from rotator.core.windows import opened_at

FUTURE = timedelta(minutes=10)
"""How far ahead of `now` a key may have been issued: the clocks of replicas differ."""


LAST_RESORT = 4
"""A key that has this part of `renew_before` left is replaced whatever is wrong with the clock."""


MOST_AHEAD = timedelta(days=30)
"""How far ahead a pause extends a key at most: should rotator not run again, the key ends by then."""


CONTEST = timedelta(hours=6)
"""Two daemons that contest a path replace each other's keys twice within this time; a person who edits takes longer."""


AT_ONCE = datetime.min.replace(tzinfo=UTC)
"""The urgency of what holds up everything else."""


TIDYING = datetime.max.replace(tzinfo=UTC)
"""The urgency of work that no served key waits for."""


@dataclass(frozen=True, slots=True)
class Renewal:
    """When the served key is replaced."""

    due_at: datetime  # by its own end
    roll_out_at: datetime | None = None  # for its outdated parameters; `AT_ONCE` where no roll-out spreads these
    ahead: timedelta = timedelta(0)  # so much earlier than `due_at`, because too many are due then
    not_before: datetime = AT_ONCE  # `ahead` moves no rotation out of the window that this opens
    waits: bool = False  # the key would be due, but for the windows and the pause of its target

    @property
    def begins_at(self) -> datetime:
        """When the rotation begins, for the key's own end."""
        return self.brought_forward(self.ahead)

    def brought_forward(self, ahead: timedelta) -> datetime:
        """Return when it would begin if it were brought forward by that much."""
        return max(self.due_at - ahead, self.not_before)

    def is_due(self, now: datetime) -> bool:
        """Return whether the key is due by its own end."""
        return self.begins_at <= now

    @property
    def is_rolled_out_first(self) -> bool:
        """Whether outdated parameters, at a turn of their own, are why the key is replaced."""
        return self.roll_out_at is not None and AT_ONCE < self.roll_out_at < self.due_at

    @property
    def first_at(self) -> datetime:
        """When the key is replaced, for the reason that comes first."""
        return self.roll_out_at if self.roll_out_at and self.is_rolled_out_first else self.due_at


def renewal_of(observation: Observation, record: Record, options: PassOptions, now: datetime) -> Renewal:
    """Return when the current key, which has this record, is replaced. `now`: by the upstreams' clocks.

    A key that a person rolled back to is held for a while: it is the older one and often due already, so that replacing
    it at once would undo what that person did. It is replaced when half of the rest of its life is over; one that never
    expires, after half of the time that a due key has.
    """
    due, held_since = due_at(record, observation.target), rolled_back_at(observation)
    if held_since is not None:
        rest = record.expires_at - held_since if observation.traits.keys_expire else observation.target.lead
        return _permitted(observation, record, Renewal(max(due, held_since + rest / 2)), now)
    is_outdated = observation.current is not None and not observation.current.as_configured
    roll_out_at = options.roll_out_at or AT_ONCE
    return _permitted(observation, record, Renewal(due, roll_out_at if is_outdated else None, options.ahead), now)


def _permitted(observation: Observation, record: Record, renewal: Renewal, now: datetime) -> Renewal:
    """Return when the pause and the windows of the target let the key be replaced.

    A key for which no window opens before its last resort is replaced at once: to wait would only take time from the
    retries. In a pause such a key is extended, and replaced at its last resort if that fails.
    """
    target = observation.target
    if not target.windows and not is_paused(target, now):
        return renewal
    roll_out_at = renewal.roll_out_at
    if roll_out_at is not None:
        roll_out_at = max(roll_out_at, permitted_from(target, max(roll_out_at, now)))
    opens_at = permitted_from(target, max(renewal.due_at, now))
    lead = lead_of(record, target)
    if is_paused(target, now):  # a key whose lead is longer is extended again and again
        lead = min(lead, extension_lead(target))
    due, limit = max(renewal.due_at, opens_at), observation.own_end(record) - lead / LAST_RESORT
    if due > limit and not (is_paused(target, now) and now < limit):
        return replace(renewal, roll_out_at=roll_out_at)
    return replace(
        renewal, due_at=due, roll_out_at=roll_out_at, not_before=opens_at, waits=renewal.begins_at <= now < due
    )


def permitted_from(target: Target, moment: datetime) -> datetime:
    """Return since when scheduled rotations are permitted, if they are at this moment; else from when on they are."""
    paused_until = target.pause_until or AT_ONCE
    return max(paused_until, opened_at(target.windows, max(moment, paused_until)))


def extension_lead(target: Target) -> timedelta:
    """Return how long before its end a key is extended in a pause."""
    return min(target.lead, MOST_AHEAD / 2)


def is_paused(target: Target, now: datetime) -> bool:
    """Return whether scheduled rotations of the target are paused."""
    return target.pause_until is not None and now < target.pause_until


def due_at(record: Record, target: Target) -> datetime:
    """Return when this key is due by its own end."""
    return record.expires_at - lead_of(record, target)


def lead_of(record: Record, target: Target) -> timedelta:
    """Return how long before its expiry this key is replaced.

    A key that got a shorter life than requested (or was made under a shorter `ttl`) is replaced at the same share
    of its life. Else a provider that cuts lives short would have us create keys without end.
    """
    life = record.expires_at - record.issued_at
    return target.lead * min(1.0, max(0.0, life / target.ttl))


def period_of(target: Target) -> timedelta:
    """Return how far apart the rotations of a target are while all goes well."""
    return target.ttl - target.lead


def longest_wait(target: Target) -> timedelta:
    """Return how long a key of full life may wait for a window: the rest of `renew_before` is left for retries."""
    return target.renew_before - target.renew_before / LAST_RESORT


def margin(expires_at: datetime, next_rotation_at: datetime | None, now: datetime) -> float:
    """Return the share of the time between its due date and its expiry that a served key has left; over 1 before that.

    A key that is due only at its expiry, as one with no life at all, has all or nothing: an infinite share.
    """
    left, whole = expires_at - now, expires_at - (next_rotation_at or expires_at)
    return left / whole if whole > timedelta(0) else math.copysign(math.inf, left.total_seconds())


def last_resort(observation: Observation, record: Record) -> datetime:
    """Return when the current key is replaced whatever is wrong with the clock."""
    return observation.own_end(record) - observation.target.lead / LAST_RESORT


def turning_points(observation: Observation, record: Record, renewal: Renewal) -> tuple[datetime, ...]:
    """Return the moments at which time alone may make the current key due, by this clock and by the others'."""
    by_key = (renewal.due_at, record.expires_at, last_resort(observation, record), record.issued_at - FUTURE)
    by_others = (moment + observation.clock_disputed_by for moment in by_key)
    return (renewal.first_at, record.expires_at, *by_others)


def contested_until_of(observation: Observation) -> datetime | None:
    """Return until when outdated parameters are no reason to replace the current key; None where they are one.

    The last keys were made with our parameters, others, ours and the same others: another daemon replaces each of our
    keys as we do its keys. Several in a row with the same parameters count as the last of them.
    """
    runs: list[Made] = []
    for made in sorted(made_keys(observation.made, observation.entries).values(), key=lambda made: made.at):
        if runs and runs[-1].params == made.params:
            runs.pop()
        runs.append(made)
    last, ours = runs[-4:], observation.target.fingerprint
    by = [made.params for made in last]
    others = by[-1] if by else ours
    return last[0].at + CONTEST if ours != others and by == [ours, others, ours, others] else None


def made_keys(remembered: Mapping[str, Made], entries: Iterable[Entry]) -> dict[str, Made]:
    """Return how the path's latest keys were made, by key id: what is remembered, and what its versions show."""
    made = dict(remembered)
    for entry in entries:
        if entry.record is not None:
            made.setdefault(entry.record.key_id, Made(entry.record.params, entry.created_at))
    latest = max((one.at for one in made.values()), default=AT_ONCE)
    return {key_id: one for key_id, one in made.items() if latest - one.at < CONTEST}


def rolled_back_at(observation: Observation) -> datetime | None:
    """Return when the path was rolled back to the current key; None when it was not.

    A fence repeats a key as well, but right after itself: what counts is the first of the versions in a row. The one
    before that held another key if it is readable, or destroyed: a key's versions are destroyed after its grace.
    """
    first = observation.current
    if first is None or first.record is None:
        return None
    name = KeyName.parse(first.record.key_name)
    by_number = {entry.number: entry for entry in observation.entries}
    while (before := by_number.get(first.number - 1)) and before.key_id == first.key_id:
        first = before
    if before is None or (name is not None and name.version == first.number):
        return None
    destroyed = any(version.destroyed for version in observation.history.versions if version.number == before.number)
    other = before.record is not None or (destroyed and name is not None and name.version != before.number)
    return first.created_at if other else None
