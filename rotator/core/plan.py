"""Decides what has to be done for one target, from what was observed.

Pure: no I/O, no clock, no randomness, no logger. The result is a `Plan`: the target's state, the actions in their
order, and the moment at which time alone changes the plan. Each plan has a constant `Reason`, which logs, metrics, the
command line and the status page show.

The rules keep these promises:

- Nothing is touched while the newest version is not ours, unless the target or a person adopts it.
- A key's expiry at the provider is a function of history: a current key's is the recorded one, a superseded key's is
  the end of its grace or its own, whichever is earlier. Both directions are corrected. Where the provider cannot set
  an expiry, a superseded key is deleted when its grace is over, and a current key that expires too early is replaced.
- No key is shortened or retired unless the provider shows it under a name for this path, and none is extended beyond
  twice the `ttl`: a forger who can write the path can write a record.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from rotator.core.errors import GraceNotEnforced
from rotator.core.expiry import Asked, KeyObservation, next_request, whole_seconds
from rotator.core.observation import Observation
from rotator.core.renewal import FUTURE, Renewal, contested_until_of, last_resort, renewal_of, turning_points
from rotator.core.request import ACT, SCHEDULED, PassOptions, RotationRequest
from rotator.core.superseded import Superseded, is_known, superseded_keys
from rotator.core.target import Target
from rotator.core.times import timestamp
from rotator.core.versions import Entry, Ownership, Record


class State(StrEnum):
    """The state of a target, in one word."""

    OK = "ok"
    DUE = "due"
    FAILING = "failing"  # the last attempt at something failed
    FOREIGN = "foreign"  # the path's newest version is not ours
    MISSING = "missing"  # the path holds no live key
    UNKNOWN = "unknown"  # not observed yet, or not readable


class Reason(StrEnum):
    """Why something is done, or left as it is."""

    FRESH = "fresh"
    FIRST = "first"  # the path is absent
    EMPTIED = "emptied"  # the path is absent, and keys of it are known: it held one before
    DELETED = "deleted"  # the path's newest version is deleted or destroyed
    MISSING = "missing"  # the provider no longer has the served key
    UNRECOGNISED = "unrecognised"  # nor most others: more likely another account's list, so a person decides
    EXPIRED = "expired"
    EXPIRING = "expiring"
    REQUESTED = "requested"
    DRIFTED = "drifted"  # the key is not as configured: its parameters, or its recorded life
    MISDATED = "misdated"  # the key was issued in the future: by a clock that was ahead, so it lives too long
    CLOCK = "clock"  # a new key is due, but every upstream contradicts this machine's clock
    CONTESTED = "contested"  # another daemon with this owner and path and other parameters replaces each key of ours
    ADOPTED = "adopted"
    SUPERSEDED = "superseded"
    RESTORED = "restored"  # current again, after it was on its way out
    GRACE_OVER = "grace-over"
    ORPHAN = "orphan"  # a key made for this path that no version of it holds
    REVOKED = "revoked"  # a person asked for superseded keys to be removed now
    NO_RECORD = Ownership.NO_RECORD.value
    OTHER_OWNER = Ownership.OTHER_OWNER.value
    OTHER_TARGET = Ownership.OTHER_TARGET.value
    HAND_EDITED = Ownership.HAND_EDITED.value


@dataclass(frozen=True, slots=True)
class Rotate:
    """Create a key and publish it as the version after `base`."""

    reason: Reason
    base: int


@dataclass(frozen=True, slots=True)
class SetExpiry:
    """Make a key expire at `until`: a superseded one sooner, a restored one as late as recorded."""

    reason: Reason
    record: Record
    until: datetime
    later: datetime | None = None  # to ask for instead, because the provider rounds down

    @property
    def asked(self) -> Asked:
        """The request to send, and the expiry it is for."""
        return Asked(self.until, self.later or self.until)


@dataclass(frozen=True, slots=True)
class Retire:
    """Destroy the versions that hold a key, then delete it at the provider."""

    reason: Reason
    key: Superseded


Action = Rotate | SetExpiry | Retire


@dataclass(frozen=True, slots=True)
class Plan:
    """A target's state, what to do now, and when to look again."""

    state: State
    reason: Reason
    current: Record | None = None
    superseded: tuple[Superseded, ...] = ()  # without those that are known to be gone
    untrusted: tuple[Record, ...] = ()  # superseded, but the provider knows them under another name: left alone
    actions: tuple[Action, ...] = ()
    renewal: Renewal | None = None  # of the current key
    wake_at: datetime | None = None  # when time alone changes this plan
    is_endless: bool = False  # the current key never expires: by the end that its record shows it is to be replaced

    def unenforced(self, now: datetime) -> tuple[Superseded, ...]:
        """Return the superseded keys that work, have another place's name, and so outlive their grace."""
        left = (key for key in self.superseded if key.other_name is not None)
        return tuple(key for key in left if key.works_until is None or key.works_until > now)

    @property
    def next_rotation_at(self) -> datetime | None:
        """When the current key is replaced, for the reason that comes first; to the second, as it is shown."""
        return self.renewal.first_at.replace(microsecond=0) if self.renewal else None


REVOKED_WITHIN = timedelta(minutes=1)
"""How long a revoked key lives if deleting it fails: a provider may refuse an expiry that has passed."""


NEWCOMER = timedelta(hours=1)
"""How long a path that never held a key may wait for its first one while requests are short: it has no users yet."""


def deadline(plan: Plan, now: datetime) -> datetime:
    """Return when the target's applications would be without a live key: the earliest is served first."""
    if plan.current is not None:
        return plan.current.expires_at
    return now + NEWCOMER if plan.reason is Reason.FIRST else now


def plan(
    observation: Observation, now: datetime, request: RotationRequest = SCHEDULED, options: PassOptions = ACT
) -> Plan:
    """Decide what has to be done."""
    current = observation.current
    if current is not None and current.ownership.foreign:
        return _plan_foreign(observation, current, request)
    if current is None or current.record is None:
        why = _why_missing(observation)
        return Plan(State.MISSING, why, actions=(Rotate(why, observation.history.current_version),))

    renewal = renewal_of(observation, current.record, options)
    facts = _Facts(observation, current.record, renewal, now, request)
    due = next((reason for check in _CHECKS if (reason := check(facts))), None)
    held = next((reason for check in _HOLDS if due and (reason := check(facts, due))), None)
    rotation = (Rotate(due, observation.history.current_version),) if due and not held else ()
    if rotation:
        renewal = replace(renewal, roll_out_at=None)
    superseded = superseded_keys(observation, current, request, now)
    others = (*_restore(facts), *(action for key in superseded for action in _tidy(facts, key)))
    if not observation.traits.can_set_expiry:  # a key works until it is deleted, or until its own expiry
        others = tuple(action for action in others if not isinstance(action, SetExpiry))
    state, reason = _standing(facts, due, held)
    moments = (*turning_points(observation, current.record, renewal), *_other_moments(observation, superseded, due))
    return Plan(
        state=state,
        reason=reason,
        current=current.record,
        superseded=tuple(key for key in superseded if not observation.is_key_gone(key.record)),
        untrusted=tuple(key.record for key in superseded if observation.is_owned(key.record) is False),
        actions=(*rotation, *others),
        renewal=renewal,
        wake_at=min((moment for moment in moments if moment > now), default=None),
        is_endless=not observation.traits.keys_expire,
    )


def _plan_foreign(observation: Observation, current: Entry, request: RotationRequest) -> Plan:
    """Plan for a path whose newest version is not ours: leave it alone, unless it may be adopted."""
    adopt = request.adopt or observation.target.adopt
    if adopt and observation.clock_disputed_by:
        return Plan(State.FOREIGN, Reason.CLOCK)
    adopted = (Rotate(Reason.ADOPTED, observation.history.current_version),) if adopt else ()
    return Plan(State.FOREIGN, Reason(current.ownership.value), actions=adopted)


def _why_missing(observation: Observation) -> Reason:
    """Return why the path has no key that can be read."""
    if observation.history.current_version:
        return Reason.DELETED
    return Reason.EMPTIED if observation.is_emptied else Reason.FIRST


def _other_moments(
    observation: Observation, superseded: tuple[Superseded, ...], due: Reason | None
) -> Iterator[datetime]:
    """Yield when time alone changes anything but whether the current key is due."""
    yield from (seen.key.expires_at for seen in observation.shown.values() if seen.key and seen.key.expires_at)
    yield from (key.until + observation.clock_ahead for key in superseded)
    if due is Reason.DRIFTED and (contested_until := contested_until_of(observation)):
        yield contested_until


def _standing(facts: "_Facts", due: Reason | None, held: Reason | None) -> tuple[State, Reason]:
    """Return the target's state and its reason: `due` is why a new key is due, `held` why it is not made."""
    if (due is None or held) and not facts.observation.gone_is_believed and facts.observation.is_gone(facts.now):
        return State.FAILING, Reason.UNRECOGNISED
    if due is None:
        return State.OK, Reason.DRIFTED if facts.renewal.is_rolled_out_first else Reason.FRESH
    return State.MISSING if due in _WITHOUT_A_KEY else State.DUE, held or due


# --- is a new key due? Each check looks at the facts, and returns its reason or None ---------------------------------


@dataclass(frozen=True, slots=True)
class _Facts:
    observation: Observation
    record: Record  # of the current key
    renewal: Renewal
    now: datetime
    request: RotationRequest

    @property
    def theirs(self) -> datetime:
        """The time by the upstreams' clocks, where all of them contradict this one."""
        return self.now - self.observation.clock_disputed_by


def _expired(facts: _Facts) -> Reason | None:
    return Reason.EXPIRED if facts.observation.own_end(facts.record) <= facts.theirs else None


def _gone(facts: _Facts) -> Reason | None:
    believed = facts.observation.gone_is_believed
    return Reason.MISSING if believed and facts.observation.is_gone(facts.theirs) else None


def _cut_for_good(facts: _Facts) -> Reason | None:
    """A key that expires before its record says, and whose expiry cannot be restored."""
    record, observation = facts.record, facts.observation
    if not observation.is_cut_short(record, facts.theirs):
        return None
    for_good = (
        not observation.traits.can_set_expiry
        or observation.is_overlong(record)
        or not observation.is_owned(record)
        or _restoring_failed(observation, record)
    )
    return Reason.DRIFTED if for_good else None


def _misdated(facts: _Facts) -> Reason | None:
    """A key made by a clock that was ahead lives that much longer than its `ttl`, and its record looks fresh."""
    misdated = facts.record.issued_at > facts.theirs + FUTURE
    return Reason.MISDATED if misdated and not facts.observation.clock_disputed_by else None


def _requested(facts: _Facts) -> Reason | None:
    return Reason.REQUESTED if facts.request.rotate else None


def _expiring(facts: _Facts) -> Reason | None:
    return Reason.EXPIRING if facts.renewal.is_due(facts.theirs) else None


def _outdated(facts: _Facts) -> Reason | None:
    roll_out_at = facts.renewal.roll_out_at
    return Reason.DRIFTED if roll_out_at is not None and roll_out_at <= facts.now else None


_CHECKS: tuple[Callable[[_Facts], Reason | None], ...] = (
    _expired,
    _gone,
    _cut_for_good,
    _misdated,
    _requested,
    _expiring,
    _outdated,
)


# --- may the new key that is due be made? ----------------------------------------------------------------------------


_WITHOUT_A_KEY = (Reason.MISSING, Reason.EXPIRED)
"""Why a key that does not work is replaced: nothing is worse than to wait."""


def _waits_for_the_clock(facts: _Facts, due: Reason) -> Reason | None:
    """The served key works long enough to wait until the clock is corrected, or proves to be right.

    A key that was made by a wrong clock lives too long or too short, and no later look can show that.
    """
    if not facts.observation.clock_disputed_by or due in _WITHOUT_A_KEY:
        return None
    return Reason.CLOCK if facts.theirs < last_resort(facts.observation, facts.record) else None


def _contested(facts: _Facts, due: Reason) -> Reason | None:
    contested_until = contested_until_of(facts.observation) if due is Reason.DRIFTED else None
    return Reason.CONTESTED if contested_until is not None and facts.now < contested_until else None


_HOLDS: tuple[Callable[[_Facts, Reason], Reason | None], ...] = (_waits_for_the_clock, _contested)


# --- what becomes of the other keys ----------------------------------------------------------------------------------


def _tidy(facts: _Facts, key: Superseded) -> tuple[Action, ...]:
    observation, now, revoke_now = facts.observation, facts.now, facts.request.revoke_now
    seen = observation.shown.get(key.key_id)
    if seen is None or not is_known(observation, key) or observation.is_owned(key.record) is False:
        return ()
    if revoke_now or (observation.clock_trusted and key.until <= now - observation.clock_ahead):
        # A version that carries another's field is kept; once its key is gone nothing is left to do.
        left = seen.key is not None or not all(version.foreign_fields for version in key.versions)
        retire = (Retire(Reason.REVOKED if revoke_now else Reason.GRACE_OVER, key),) if left else ()
        return (*_revoke(key.record, seen, now), *retire) if revoke_now else retire
    if seen.key is None or key.until <= now or not observation.clock_trusted:
        return ()  # its versions are destroyed after its grace; while the clocks differ, that moment is not known
    if key.shown is not None and key.shown <= now and not seen.asked:
        return ()
    return _set_expiry(Reason.SUPERSEDED, key.record, key.until, seen)


def _revoke(record: Record, seen: KeyObservation, now: datetime) -> tuple[SetExpiry, ...]:
    """Shorten a revoked key that has its life before it still, before its versions are destroyed.

    Should deleting it fail after that, only a sweep would find it, and a sweep would give it a grace.
    """
    soon = whole_seconds(now + REVOKED_WITHIN)
    if seen.key is None or (seen.key.expires_at and seen.key.expires_at <= soon):
        return ()
    return (SetExpiry(Reason.REVOKED, record, soon),)


def _set_expiry(reason: Reason, record: Record, until: datetime, seen: KeyObservation) -> tuple[SetExpiry, ...]:
    request = next_request(seen, until, record.issued_at)
    return (SetExpiry(reason, record, until, None if request == until else request),) if request else ()


def _restore(facts: _Facts) -> tuple[Action, ...]:
    """Restore the expiry of a current key that was on its way out when the path was rolled back to it."""
    record, observation = facts.record, facts.observation
    if not observation.is_cut_short(record, facts.now) or observation.is_overlong(record):
        return ()
    if not observation.is_owned(record):
        return ()
    return _set_expiry(Reason.RESTORED, record, record.expires_at, observation.shown[record.key_id])


def _restoring_failed(observation: Observation, record: Record) -> bool:
    """Return whether the provider keeps an earlier expiry although the recorded one was requested."""
    return next_request(observation.shown[record.key_id], record.expires_at, record.issued_at) is None


def grace_error(target: Target, plan: Plan, now: datetime) -> GraceNotEnforced | None:
    """Return the error for the superseded keys that work, and do not end with their grace."""
    keys = plan.unenforced(now)
    ends = [f"works until {timestamp(key.works_until)}" if key.works_until else "never expires" for key in keys]
    named = [(key.key_id, key.other_name or "", end) for key, end in zip(keys, ends, strict=True)]
    return GraceNotEnforced(target.path, named) if named else None
