"""What has to be done for one target, decided from what was observed.

Pure: no I/O, no clock, no randomness, no logger. `observed` is all there is to know, `now` is given, and the answer is
a `Plan`: the target's state, the actions in the order in which they are to be done, and the moment at which time alone
will change the answer. Each answer carries a constant `Reason`, which logs, metrics, the command line and the status
page show as it stands.

What the rules hold:

- Nothing is touched while the newest version is not ours, unless somebody asked for it to be adopted.
- The vendor's expiry of a key is a function of history: a current key's is the recorded one, a superseded key's is the
  end of its grace or its own, whichever is earlier. Both directions are corrected.
- No key is shortened or retired that the vendor has not shown to carry this path's name, and none is prolonged beyond
  twice the `ttl`: whoever can write the path can write a record.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cached_property

from rotator.core.errors import GraceNotEnforced
from rotator.core.keys import KeyName, VendorKey
from rotator.core.secrets import Secret
from rotator.core.target import Target
from rotator.core.times import timestamp
from rotator.core.versions import Entry, History, Record, Scope, Standing, read_version

TOLERANCE = timedelta(seconds=1)
"""Expiries this close are the same: records are written to the second, and a vendor may round as well."""

UNITS = (timedelta(days=1), timedelta(hours=1), timedelta(minutes=1))
"""What a provider may keep expiries in, the coarsest first. One that keeps seconds is within `TOLERANCE`."""


class State(StrEnum):
    """How a target stands, in one word."""

    OK = "ok"
    DUE = "due"
    FAILING = "failing"  # the last attempt at something failed
    FOREIGN = "foreign"  # the path's newest version is not ours
    MISSING = "missing"  # the path holds no live key
    UNKNOWN = "unknown"  # not observed yet, or it could not be


class Reason(StrEnum):
    """Why something is done or left alone."""

    FRESH = "fresh"
    FIRST = "first"  # the path is absent
    EMPTIED = "emptied"  # the path is absent, and keys of it are known: it held one before
    DELETED = "deleted"  # the path's newest version is deleted or destroyed
    MISSING = "missing"  # the provider does not have the served key any more
    UNRECOGNISED = "unrecognised"  # nor most others: it is more likely another organisation, and a person decides
    EXPIRED = "expired"
    EXPIRING = "expiring"
    REQUESTED = "requested"
    DRIFTED = "drifted"  # the key is not as configured: its parameters, or how long it is said to live
    MISDATED = "misdated"  # the key was issued in the future: by a clock that was ahead, so it lives too long
    CLOCK = "clock"  # a new key is due, and is not made while all others contradict this machine's clock
    CONTESTED = "contested"  # another daemon with this owner and path and other parameters replaces each key of ours
    ADOPTED = "adopted"
    SUPERSEDED = "superseded"
    RESTORED = "restored"  # current again, after it was on its way out
    GRACE_OVER = "grace-over"
    ORPHAN = "orphan"  # a key made for this path that no version of it holds
    REVOKED = "revoked"  # somebody asked for superseded keys to be removed now
    NO_RECORD = Standing.NO_RECORD.value
    OTHER_OWNER = Standing.OTHER_OWNER.value
    OTHER_TARGET = Standing.OTHER_TARGET.value
    HAND_EDITED = Standing.HAND_EDITED.value


@dataclass(frozen=True, slots=True)
class Order:
    """What somebody asked for on top of the schedule, and who it was."""

    rotate: bool = False
    revoke_now: bool = False  # superseded keys get no grace
    adopt: bool = False
    by: str = "schedule"
    note: str = ""
    act: bool = True  # else only see what is due
    ahead: timedelta = timedelta(0)  # replaced so long before it is due: at that time there would be too many at once


SCHEDULED = Order()
LOOK = Order(act=False)


@dataclass(frozen=True, slots=True)
class Asked:
    """An expiry that was asked for: when the key has to expire, and what the provider was sent."""

    until: datetime
    request: datetime


@dataclass(frozen=True, slots=True)
class Seen:
    """What the provider last said of a key, and which version of the path was current then. `key` None: gone."""

    key: VendorKey | None
    at_version: int
    asked: Asked | None = None  # the request of this process that made the key look like this


@dataclass(frozen=True, slots=True)
class Made:
    """With which parameters a key was made, by their fingerprint, and when the path had it first."""

    params: str
    at: datetime


@dataclass(frozen=True)
class Observation:
    """All that is known of one target at one moment."""

    target: Target
    scope: Scope
    history: History
    vendor: Mapping[str, Seen]  # by key id; only the keys that were looked at
    clock_trusted: bool = True  # else no key is ended because its time is over
    clock_ahead: timedelta = timedelta(0)  # by so much it may be, and so much later is a key ended
    clock_disputed_by: timedelta = timedelta(0)  # how far `now` is ahead of all that answered; 0 while one agrees
    answered_at: float = 0.0  # monotonic seconds, when the read of the history had been answered
    gone_is_believed: bool = True  # else a served key that the provider does not know is not replaced
    made: Mapping[str, Made] = field(default_factory=dict)  # by key id; those too whose versions are destroyed
    is_emptied: bool = False  # the path is absent, and has held a key, or the provider has live ones of it

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """The versions as this target reads them, oldest first."""
        return tuple(read_version(version, self.target, self.scope) for version in self.history.versions)

    @property
    def current(self) -> Entry | None:
        """The version that applications read, as this target reads it; None when nothing is known of it."""
        number = self.history.current_version
        return next((entry for entry in self.entries if entry.number == number), None)


@dataclass(frozen=True, slots=True)
class Superseded:
    """A key of ours that a later version replaced, and that some readable version still holds."""

    record: Record
    versions: tuple[Entry, ...]  # those that hold it
    since: datetime  # by the store's time
    until: datetime  # when its grace ends, and it is removed
    shown: datetime | None = None  # its expiry as the provider last showed it
    ends_with_grace: bool = True  # else the clock is not trusted, and nothing is done at `until`
    other_name: str | None = None  # what it is called, if not by a name for this path: nothing is done at `until` then
    is_endless: bool = False  # the provider shows that it never expires

    @property
    def key_id(self) -> str:
        """The key's id at the provider."""
        return self.record.key_id

    @property
    def works_until(self) -> datetime | None:
        """When it stops working: a provider that keeps an earlier expiry than was asked for decides. None: never.

        A key that nothing is done about works until its expiry at the provider: one that is not known to be ours; and
        each, while nothing is ended by this clock.
        """
        if not self.ends_with_grace or self.other_name is not None:
            return None if self.is_endless else self.shown or self.record.expires_at
        return min(self.until, self.shown or self.until)


@dataclass(frozen=True, slots=True)
class Rotate:
    """Create a key and publish it as the version after `base`."""

    reason: Reason
    base: int


@dataclass(frozen=True, slots=True)
class SetExpiry:
    """Let a key expire at `until`: a superseded one sooner, a restored one as late as was recorded."""

    reason: Reason
    record: Record
    until: datetime
    later: datetime | None = None  # to ask for instead, because the provider rounds down

    @property
    def asked(self) -> Asked:
        """What to send, and for which end."""
        return Asked(self.until, self.later or self.until)


@dataclass(frozen=True, slots=True)
class Retire:
    """Destroy the versions that hold a key, then delete it at the provider."""

    reason: Reason
    key: Superseded


Action = Rotate | SetExpiry | Retire


@dataclass(frozen=True, slots=True)
class Plan:
    """What is, what is to be done now, and when to look again."""

    state: State
    reason: Reason
    current: Record | None = None
    superseded: tuple[Superseded, ...] = ()  # without those that are known to be gone
    untrusted: tuple[Record, ...] = ()  # superseded, but the provider knows them under another name: left alone
    actions: tuple[Action, ...] = ()
    renew_at: datetime | None = None  # when the current key is due, by its own end
    roll_out_at: datetime | None = None  # when it is replaced for its outdated parameters, if it is not yet
    wake_at: datetime | None = None

    def unenforced(self, now: datetime) -> tuple[Superseded, ...]:
        """Return the superseded keys that work, have another place's name, and so do not end with their grace."""
        left = (key for key in self.superseded if key.other_name is not None)
        return tuple(key for key in left if key.works_until is None or key.works_until > now)

    @property
    def next_rotation_at(self) -> datetime | None:
        """When the current key is replaced, for whatever reason comes first; to the second, as it is shown."""
        first = min((at for at in (self.renew_at, self.roll_out_at) if at is not None), default=None)
        return first.replace(microsecond=0) if first else None


REVOKED_WITHIN = timedelta(minutes=1)
"""How long a revoked key lives should it be shortened and not deleted: a vendor may refuse an end that has passed."""

FUTURE = timedelta(minutes=10)
"""How far ahead of `now` a key may have been issued. Clocks of replicas differ."""

LAST_RESORT = 4
"""A key that has this part of `renew_before` left is replaced whatever is wrong with the clock."""

CONTEST = timedelta(hours=6)
"""Within this time two daemons have replaced each other's keys twice; a person who edits takes longer."""

NEWCOMER = timedelta(hours=1)
"""How long a path that never held a key may wait for its first one while the budget is short: nobody uses it yet."""

AT_ONCE = datetime.min.replace(tzinfo=UTC)
"""When something is needed that holds up everything else."""

TIDYING = datetime.max.replace(tzinfo=UTC)
"""How urgent work is that no served key waits for."""


def needed_by(plan: Plan, now: datetime) -> datetime:
    """When the target's applications would be without a live key: who is served first while the budget is short."""
    if plan.current is not None:
        return plan.current.expires_at
    return now + NEWCOMER if plan.reason is Reason.FIRST else now


def renew_at(record: Record, target: Target) -> datetime:
    """When this key is due for replacement.

    A key that got a shorter life than was asked for (or was made under a shorter `ttl`) is replaced at the same share
    of its life. Else a vendor that cuts lives short would have us create keys without end.
    """
    life = record.expires_at - record.issued_at
    share = min(1.0, max(0.0, life / target.ttl))
    return record.expires_at - target.lead * share


def to_confirm(observation: Observation) -> tuple[Record, ...]:
    """The keys that must be looked up at the provider before `plan` can act on them.

    Superseded ones, because only the vendor's own list says for which path a key was made. And a current key that was
    published under another number than the one in its name: somebody rolled the path back to it, so it may be on its
    way out; what was seen of it before it became current again says nothing.
    """
    current = observation.current
    if current is None or current.record is None:
        return ()
    name = KeyName.parse(current.record.key_name)
    seen = observation.vendor.get(current.record.key_id)
    as_made = name is not None and name.version == current.number
    # The provider's answer shows its time as well: with two opinions a wrong clock is corrected.
    known = (as_made and not observation.clock_disputed_by) or (seen is not None and seen.at_version == current.number)
    superseded = superseded_keys(observation, current)
    unknown = [key.record for key in superseded if not _is_known(observation, key)]
    return (*(() if known else (current.record,)), *unknown)  # the served key first: it may not have long to live


def is_gone(observation: Observation, now: datetime) -> bool:
    """Return whether the provider has said that the served key does not work, since it is served."""
    current = observation.current
    seen = observation.vendor.get(current.key_id or "") if current else None
    if current is None or seen is None or seen.at_version != current.number:
        return False
    return seen.key is None or (seen.key.expires_at is not None and seen.key.expires_at <= now)


def plan(
    observation: Observation, now: datetime, order: Order = SCHEDULED, roll_out_at: datetime | None = None
) -> Plan:
    """Decide what is to be done. `roll_out_at`: when keys with outdated parameters are replaced; None is now."""
    current = observation.current
    held_since = _rolled_back_at(observation)
    ahead = order.ahead if held_since is None else timedelta(0)
    theirs = now - observation.clock_disputed_by
    facts = _Facts(observation, current, _renewal(observation, current, held_since), theirs, order, ahead)
    rotate = next((reason for check in _CHECKS if (reason := check(facts))), None)
    base = observation.history.current_version

    if current is not None and current.standing.foreign:
        adopt = order.adopt or observation.target.adopt
        if adopt and observation.clock_disputed_by:
            return Plan(State.FOREIGN, Reason.CLOCK)
        adopted = (Rotate(Reason.ADOPTED, base),) if adopt else ()
        return Plan(State.FOREIGN, Reason(current.standing.value), actions=adopted)
    if current is None or current.record is None:
        assert rotate is not None  # noqa: S101 - the first two checks answer for every path without a current key
        return Plan(State.MISSING, rotate, actions=(Rotate(rotate, base),))

    drifted = not current.as_configured and held_since is None
    if rotate is None and drifted and (roll_out_at is None or now >= roll_out_at):
        rotate = Reason.DRIFTED
    held = rotate is not None and _waits_for_the_clock(facts, rotate)
    contested_until = _contested_until(observation) if rotate is Reason.DRIFTED else None
    contested = contested_until is not None and now < contested_until
    rotate = None if held or contested else rotate
    superseded = superseded_keys(observation, current, order, now)
    tidy = [action for key in superseded for action in _tidy(observation, key, now, order)]
    due = facts.renew_at
    assert due is not None  # noqa: S101 - for the type checker: there is a current key
    later = roll_out_at if drifted and rotate is None and roll_out_at is not None and roll_out_at < due else None
    ends = [seen.key.expires_at for seen in observation.vendor.values() if seen.key and seen.key.expires_at]
    graces = [key.until + observation.clock_ahead for key in superseded]
    own_end, shift = current.record.expires_at, observation.clock_disputed_by
    last_resort = _own_end(observation, current.record) - observation.target.lead / LAST_RESORT
    renewals = [moment + shift for moment in (due, own_end, last_resort, current.record.issued_at - FUTURE)]
    moments = [later or due, own_end, *renewals, *ends, *graces, *([contested_until] if contested_until else ())]
    state = State.MISSING if rotate in _WITHOUT_A_KEY else State.DUE if rotate or held or contested else State.OK
    reason = (
        Reason.CLOCK
        if held
        else Reason.CONTESTED
        if contested
        else rotate or (Reason.FRESH if later is None else Reason.DRIFTED)
    )
    if rotate is None and not observation.gone_is_believed and is_gone(observation, now):
        state, reason = State.FAILING, Reason.UNRECOGNISED
    return Plan(
        state=state,
        reason=reason,
        current=current.record,
        superseded=tuple(key for key in superseded if not _is_gone(observation, key.record)),
        untrusted=tuple(key.record for key in superseded if _owned(observation, key.record) is False),
        actions=(*((Rotate(rotate, base),) if rotate else ()), *_restore(observation, current.record, now), *tidy),
        renew_at=due,
        roll_out_at=later,
        wake_at=min((moment for moment in moments if moment > now), default=None),
    )


# --- is a new key needed? Each check looks at the facts and names its reason, or says nothing ------------------------


@dataclass(frozen=True, slots=True)
class _Facts:
    observation: Observation
    current: Entry | None
    renew_at: datetime | None
    now: datetime
    order: Order
    ahead: timedelta

    @property
    def record(self) -> Record | None:
        return self.current.record if self.current else None


def _absent(facts: _Facts) -> Reason | None:
    if facts.observation.history.current_version:
        return None
    return Reason.EMPTIED if facts.observation.is_emptied else Reason.FIRST


def _unreadable(facts: _Facts) -> Reason | None:
    unreadable = facts.current is None or facts.current.standing is Standing.UNREADABLE
    return Reason.DELETED if unreadable else None


def _gone(facts: _Facts) -> Reason | None:
    believed = facts.observation.gone_is_believed
    return Reason.MISSING if believed and is_gone(facts.observation, facts.now) else None


def _expired(facts: _Facts) -> Reason | None:
    return Reason.EXPIRED if facts.record and _own_end(facts.observation, facts.record) <= facts.now else None


def _cut_for_good(facts: _Facts) -> Reason | None:
    record, observation = facts.record, facts.observation
    if record is None or not cut_short(observation, record, facts.now):
        return None
    for_good = (
        overlong(observation, record) or not _owned(observation, record) or _restoring_failed(observation, record)
    )
    return Reason.DRIFTED if for_good else None


def _misdated(facts: _Facts) -> Reason | None:
    """A key of a clock that was ahead lives as much longer than its `ttl`, and its record looks fresh all that time."""
    misdated = facts.record and facts.record.issued_at > facts.now + FUTURE
    return Reason.MISDATED if misdated and not facts.observation.clock_disputed_by else None


def _requested(facts: _Facts) -> Reason | None:
    return Reason.REQUESTED if facts.order.rotate else None


def _expiring(facts: _Facts) -> Reason | None:
    return Reason.EXPIRING if facts.renew_at is not None and facts.renew_at - facts.ahead <= facts.now else None


_CHECKS: tuple[Callable[[_Facts], Reason | None], ...] = (
    _absent,
    _unreadable,
    _expired,
    _gone,
    _cut_for_good,
    _misdated,
    _requested,
    _expiring,
)


_WITHOUT_A_KEY = (Reason.MISSING, Reason.EXPIRED)
"""Why a key is replaced that does not work, so that nothing is worse than to wait."""


def _contested_until(observation: Observation) -> datetime | None:
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


def _waits_for_the_clock(facts: _Facts, reason: Reason) -> bool:
    """Whether the served key works long enough to wait until the clock is corrected, or proves to be right.

    A key that was made by a wrong clock lives too long or too short, and no later look can tell.
    """
    record = facts.record
    if record is None or not facts.observation.clock_disputed_by or reason in _WITHOUT_A_KEY:
        return False
    return _own_end(facts.observation, record) - facts.now > facts.observation.target.lead / LAST_RESORT


def _rolled_back_at(observation: Observation) -> datetime | None:
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


def _renewal(observation: Observation, current: Entry | None, held_since: datetime | None) -> datetime | None:
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


# --- what becomes of the other keys ----------------------------------------------------------------------------------


def superseded_keys(
    observation: Observation, current: Entry, order: Order = SCHEDULED, now: datetime | None = None
) -> tuple[Superseded, ...]:
    """The keys of ours in readable versions, but the current one; those too that the provider does not have any more.

    `current` is the current version, and ours. `now` is wanted only where the order is to revoke.
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
        until = min(_own_end(observation, record), whole_seconds(since + observation.target.grace_period))
        if order.revoke_now and now is not None:
            until = min(until, now)
        seen = observation.vendor.get(record.key_id)
        shown = seen.key.expires_at if seen and seen.key else None
        ends_with_grace = observation.clock_trusted or order.revoke_now
        name = seen.key.name if seen and seen.key else record.key_name
        other_name = None if observation.scope.owns(name) else name
        is_endless = seen is not None and seen.key is not None and shown is None
        found.append(Superseded(record, tuple(versions), since, until, shown, ends_with_grace, other_name, is_endless))
    return tuple(found)


def _bare_versions(observation: Observation, record: Record) -> Iterator[int]:
    """Versions that are not ours and hold this key's text all the same: whoever read one has the key from it."""
    yield 0
    for entry, version in zip(observation.entries, observation.history.versions, strict=True):
        if entry.standing.foreign and version.data is not None:
            texts = (Secret(value) for value in version.data.values() if isinstance(value, str))
            if any(text.fingerprint == record.key for text in texts):
                yield entry.number


def whole_seconds(moment: datetime) -> datetime:
    """Rounded up: the vendor is told a time to the second, and a grace that ends early is no grace."""
    return moment if not moment.microsecond else moment.replace(microsecond=0) + timedelta(seconds=1)


def _is_known(observation: Observation, key: Superseded) -> bool:
    """Whether enough is known of a superseded key to end it.

    Not if its own end comes before that of its grace, as far as was seen when it was still served: `extend` may have
    prolonged it since, which takes no more than the provider's list.
    """
    seen = observation.vendor.get(key.key_id)
    bounded = _own_end(observation, key.record) < key.since + observation.target.grace_period
    return seen is not None and not (bounded and seen.at_version <= key.versions[-1].number)


def _own_end(observation: Observation, record: Record) -> datetime:
    """When a key ends by itself: `extend` may have prolonged it past its record while the store was away."""
    seen = observation.vendor.get(record.key_id)
    if seen is None or seen.key is None:
        return record.expires_at
    return max(record.expires_at, seen.key.expires_at or datetime.max.replace(tzinfo=record.expires_at.tzinfo))


def _is_gone(observation: Observation, record: Record) -> bool:
    seen = observation.vendor.get(record.key_id)
    return seen is not None and seen.key is None


def _owned(observation: Observation, record: Record) -> bool | None:
    """Whether the provider knows this key under this path's name; None when it has not been asked, or it is gone."""
    seen = observation.vendor.get(record.key_id)
    return None if seen is None or seen.key is None else observation.scope.owns(seen.key.name)


def _tidy(observation: Observation, key: Superseded, now: datetime, order: Order) -> tuple[Action, ...]:
    seen = observation.vendor.get(key.key_id)
    if seen is None or not _is_known(observation, key) or _owned(observation, key.record) is False:
        return ()
    if order.revoke_now or (observation.clock_trusted and key.until <= now - observation.clock_ahead):
        # A version that carries somebody else's field is kept; once its key is gone nothing is left to do.
        left = seen.key is not None or not all(version.foreign_fields for version in key.versions)
        retire = (Retire(Reason.REVOKED if order.revoke_now else Reason.GRACE_OVER, key),) if left else ()
        soon = whole_seconds(now + REVOKED_WITHIN)
        if not order.revoke_now or seen.key is None or (seen.key.expires_at and seen.key.expires_at <= soon):
            return retire
        # It has its life before it still. Once its versions are destroyed only a sweep would find it, should deleting
        # it fail, and that would give it a grace.
        return (SetExpiry(Reason.REVOKED, key.record, soon), *retire)
    if seen.key is None or key.until <= now or not observation.clock_trusted:
        return ()  # its versions go when its grace is over; and when that is, is not known while the clocks differ
    if key.shown is not None and key.shown <= now and not seen.asked:
        return ()
    return _set_expiry(Reason.SUPERSEDED, key.record, key.until, seen)


def _set_expiry(reason: Reason, record: Record, until: datetime, seen: Seen) -> tuple[SetExpiry, ...]:
    request = _next_request(seen, until, record.issued_at)
    return (SetExpiry(reason, record, until, None if request == until else request),) if request else ()


def _next_request(seen: Seen, until: datetime, made_at: datetime) -> datetime | None:
    """What to ask the provider for, so that a key expires at `until`; None if it does, as nearly as the provider can.

    What was asked for already is asked for again only to correct an answer that would cut a grace short.
    """
    shown = seen.key.expires_at if seen.key else None
    if seen.asked and seen.asked.until == until:
        return corrected(seen.asked, shown)
    request = on_the_grid(until, shown, made_at)
    # The next whole minute is as near: a key made on one does not show whether the provider rounds.
    nearest = (until, request, _ceiling(until, UNITS[-1]))
    return None if shown and any(abs(shown - moment) <= TOLERANCE for moment in nearest) else request


def corrected(asked: Asked, shown: datetime | None) -> datetime | None:
    """The later time to ask for, after the provider has rounded a request down; None if there is no need, or no use."""
    if shown is None or shown >= asked.until - TOLERANCE:
        return None
    lacking = asked.until - shown
    # What is shown lies on the provider's grid, so the next step of the grid is the earliest that lasts.
    later = shown + next((unit for unit in reversed(UNITS) if unit > lacking), lacking)
    return later if later > asked.request else None


def on_the_grid(until: datetime, shown: datetime | None, made_at: datetime | None) -> datetime:
    """What to ask for first: `until`, or a later time where the provider would round that down.

    A provider that rounds shows it by the key itself, which was made for a whole `ttl` from a second that is not on the
    grid, and yet expires on it. The first request must be right: an expiry that is rounded into the past kills the key.
    """
    for unit in UNITS if shown and made_at else ():
        if _rest(shown, unit) == _NONE != _rest(made_at, unit):
            return _ceiling(until, unit)
    return until


_NONE = timedelta(0)


def _ceiling(moment: datetime, unit: timedelta) -> datetime:
    return moment + (unit - _rest(moment, unit)) % unit


def _rest(moment: datetime | None, unit: timedelta) -> timedelta:
    """How long after a whole day, hour or minute of UTC this is."""
    return ((moment or _EPOCH) - _EPOCH) % unit


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _restore(observation: Observation, record: Record, now: datetime) -> tuple[Action, ...]:
    """A current key that expires before its record says was on its way out when the path was rolled back to it."""
    if not cut_short(observation, record, now) or overlong(observation, record) or not _owned(observation, record):
        return ()
    return _set_expiry(Reason.RESTORED, record, record.expires_at, observation.vendor[record.key_id])


def _restoring_failed(observation: Observation, record: Record) -> bool:
    """Whether the provider was asked for the recorded expiry and keeps an earlier one all the same."""
    return _next_request(observation.vendor[record.key_id], record.expires_at, record.issued_at) is None


def cut_short(observation: Observation, record: Record, now: datetime) -> bool:
    """Whether the current key was seen to end before its record says."""
    seen = observation.vendor.get(record.key_id)
    if seen is None or seen.key is None or seen.key.expires_at is None:
        return False
    return now < seen.key.expires_at < record.expires_at - TOLERANCE


def overlong(observation: Observation, record: Record) -> bool:
    """Whether a key's record gives it far more than the `ttl`: anybody who can write the path may have written that.

    No key is prolonged to such an end; one that got it from a longer `ttl` keeps it. Twice the `ttl`: clocks differ.
    """
    seen = observation.vendor.get(record.key_id)
    made_at = seen.key.created_at if seen and seen.key else None
    held_since = min(entry.created_at for entry in observation.entries if entry.key_id == record.key_id)
    return record.expires_at > (made_at or held_since) + 2 * observation.target.ttl


def unenforced(target: Target, plan: Plan, now: datetime) -> GraceNotEnforced | None:
    """Return the error for the superseded keys that work, and do not end with their grace."""
    keys = plan.unenforced(now)
    ends = [f"works until {timestamp(key.works_until)}" if key.works_until else "never expires" for key in keys]
    named = [(key.key_id, key.other_name or "", end) for key, end in zip(keys, ends, strict=True)]
    return GraceNotEnforced(target.path, named) if named else None
