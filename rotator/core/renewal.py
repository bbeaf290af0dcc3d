"""When a key is due for replacement. Pure."""

from datetime import UTC, datetime, timedelta

from rotator.core.keys import KeyName
from rotator.core.observation import Made, Observation
from rotator.core.target import Target
from rotator.core.versions import Entry, Record

FUTURE = timedelta(minutes=10)
"""How far ahead of `now` a key may have been issued. Clocks of replicas differ."""


LAST_RESORT = 4
"""A key that has this part of `renew_before` left is replaced whatever is wrong with the clock."""


CONTEST = timedelta(hours=6)
"""Within this time two daemons have replaced each other's keys twice; a person who edits takes longer."""


AT_ONCE = datetime.min.replace(tzinfo=UTC)
"""When something is needed that holds up everything else."""


TIDYING = datetime.max.replace(tzinfo=UTC)
"""How urgent work is that no served key waits for."""


def renew_at(record: Record, target: Target) -> datetime:
    """When this key is due for replacement.

    A key that got a shorter life than was asked for (or was made under a shorter `ttl`) is replaced at the same share
    of its life. Else a vendor that cuts lives short would have us create keys without end.
    """
    life = record.expires_at - record.issued_at
    share = min(1.0, max(0.0, life / target.ttl))
    return record.expires_at - target.lead * share


def contested_until_of(observation: Observation) -> datetime | None:
    """Until when outdated parameters are no reason to replace the current key.

    The last keys were made with our parameters, others, ours and the same others: another daemon replaces each of our
    keys as we do its keys. Several in a row with the same ones count as the last of them. None where that is not so.
    """
    runs: list[Made] = []
    for made in sorted(made_keys(observation).values(), key=lambda made: made.at):
        if runs and runs[-1].params == made.params:
            runs.pop()
        runs.append(made)
    last, ours = runs[-4:], observation.target.fingerprint
    by = [made.params for made in last]
    others = by[-1] if by else ours
    return last[0].at + CONTEST if ours != others and by == [ours, others, ours, others] else None


def made_keys(observation: Observation) -> dict[str, Made]:
    """How the path's latest keys were made, by key id: what is remembered of them, and what its versions show."""
    made = dict(observation.made)
    for entry in observation.entries:
        if entry.record is not None:
            made.setdefault(entry.record.key_id, Made(entry.record.params, entry.created_at))
    latest = max((one.at for one in made.values()), default=AT_ONCE)
    return {key_id: one for key_id, one in made.items() if latest - one.at < CONTEST}


def rolled_back_at(observation: Observation) -> datetime | None:
    """When the path was rolled back to the current key, by whomever; None when it was not.

    A fence repeats a key as well, but right after itself: what counts is the first of the versions in a row. The one
    before that held another key if it is readable, or destroyed: the versions of a key are, when its grace is over.
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


def renewal_of(observation: Observation, current: Entry | None, held_since: datetime | None) -> datetime | None:
    """When the current key is due: as `renew_at` says, but one that somebody rolled back to is held a while.

    It is the older key, so it is often due already, and to replace it at once would undo what a person has just done.
    It is replaced when half of what was left of its life is over.
    """
    if current is None or current.record is None:
        return None
    due = renew_at(current.record, observation.target)
    if held_since is None:
        return due
    return max(due, held_since + (current.record.expires_at - held_since) / 2)
