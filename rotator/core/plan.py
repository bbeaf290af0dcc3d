"""Decides what has to be done for one target, from what was observed.

Pure: no I/O, no clock, no randomness, no logger. The result is a `Plan`: the target's state, the actions in their
order, and the moment at which time alone changes the plan. Each plan has a constant `Reason`, which logs, metrics, the
command line and the status page show.

The rules keep these promises:

- Nothing is touched while the newest version is not ours, unless the target or a person adopts it.
- A key's expiry at the provider is a function of history: a current key's is the recorded one, a superseded key's is
  the end of its grace or its own, whichever is earlier; `superseded` shows how grace may follow use. Both directions
  are corrected. Where the provider cannot set an expiry, a superseded key is deleted when its grace is over, and a
  current key that expires too early is replaced.
- No key is shortened or retired unless the provider shows it under a name for this path, and none is extended beyond
  twice the `ttl`: a forger who can write the path can write a record.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from rotator.core.caps import CapState, cap_states, free_again_at, is_nearly_spent, picked_up_at
from rotator.core.due import WITHOUT_A_KEY, Facts, reason_for_a_new_key, reason_to_wait
from rotator.core.errors import GraceNotEnforced
from rotator.core.expiry import Asked, KeyObservation, next_request, whole_seconds
from rotator.core.observation import Observation
from rotator.core.pause import as_extended, extended_to, moments_of_pause
from rotator.core.reasons import Reason, State
from rotator.core.renewal import Renewal, contested_until_of, is_paused, renewal_of, turning_points
from rotator.core.request import ACT, SCHEDULED, PassOptions, RotationRequest
from rotator.core.superseded import (
    Superseded,
    expiry_to_set,
    is_known,
    is_to_look_at,
    looks_at,
    reach,
    set_before,
    superseded_keys,
)
from rotator.core.target import Target
from rotator.core.times import timestamp
from rotator.core.versions import Entry, Record


@dataclass(frozen=True, slots=True)
class Rotate:
    """Create a key and publish it as the version after `base`."""

    reason: Reason
    base: int


@dataclass(frozen=True, slots=True)
class SetExpiry:
    """Make a key expire at `until`: a superseded one sooner, a restored one as recorded, a paused one later."""

    reason: Reason
    record: Record
    until: datetime
    later: datetime | None = None  # to ask for instead, because the provider rounds down
    used_at: datetime | None = None  # the last use, because of which its grace is extended
    is_repeated: bool = False  # its grace was extended before

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
    current: Record | None = None  # with the expiry that a pause has given the key
    version: Entry | None = None  # that serves the current key
    superseded: tuple[Superseded, ...] = ()  # without those that are known to be gone
    untrusted: tuple[Record, ...] = ()  # superseded, but the provider knows them under another name: left alone
    actions: tuple[Action, ...] = ()
    renewal: Renewal | None = None  # of the current key
    wake_at: datetime | None = None  # when time alone changes this plan
    use: CapState | None = None  # of the current key: the cap that `cap_states` has first; None: unknown
    is_nearly_spent: bool = False  # the current key, whether or not it may be replaced for it
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
    if plan.current is None:
        return now + NEWCOMER if plan.reason is Reason.FIRST else now
    end = min(plan.current.expires_at, now) if plan.state is State.MISSING else plan.current.expires_at
    if plan.use and plan.use.spent_at and any(isinstance(action, Rotate) for action in plan.actions):
        return min(end, plan.use.spent_at)  # whatever the reason; a key that is not to be replaced can wait
    return end


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

    renewal = renewal_of(observation, current.record, options, now - observation.clock_disputed_by)
    facts = Facts(observation, current.record, renewal, now, request)
    due = reason_for_a_new_key(facts)
    held = reason_to_wait(facts, due) if due else None
    rotation = (Rotate(due, observation.history.current_version),) if due and not held else ()
    if rotation:
        renewal = replace(renewal, roll_out_at=None)
    superseded = superseded_keys(observation, current, request, now)
    extended = () if rotation else _extend(facts)
    others = (*_restore(facts), *extended, *(action for key in superseded for action in _tidy(facts, key)))
    if not observation.traits.can_set_expiry:  # a key works until it is deleted, or until its own expiry
        others = tuple(action for action in others if not isinstance(action, SetExpiry))
    states = cap_states(observation, current.record)
    state, reason = _state_and_reason(facts, due, held, is_spent=any(cap.is_spent for cap in states))
    moments = (*turning_points(observation, current.record, renewal), *_other_moments(facts, superseded, due))
    return Plan(
        state=state,
        reason=reason,
        current=as_extended(observation, current.record, now),
        version=current,
        superseded=tuple(key for key in superseded if not observation.is_key_gone(key.record)),
        untrusted=tuple(key.record for key in superseded if observation.is_owned(key.record) is False),
        actions=(*rotation, *others),
        renewal=renewal,
        wake_at=min((moment for moment in moments if moment > now), default=None),
        use=states[0] if states else None,
        is_nearly_spent=is_nearly_spent(observation, current.record),
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


def _other_moments(facts: Facts, superseded: tuple[Superseded, ...], due: Reason | None) -> Iterator[datetime]:
    """Yield when time alone changes anything but whether the current key is due."""
    observation = facts.observation
    yield from (seen.key.expires_at for seen in observation.shown.values() if seen.key and seen.key.expires_at)
    yield from (key.until + observation.clock_ahead for key in superseded)
    for key in superseded:
        if key.may_be_extended and key.grace_over_at:
            yield from (key.grace_over_at - reach(observation.target), *looks_at(key, observation.target))
    yield from (moment + observation.clock_disputed_by for moment in moments_of_pause(observation, facts.record))
    if due is Reason.DRIFTED and (contested_until := contested_until_of(observation)):
        yield contested_until
    if due is Reason.NEARLY_SPENT:
        yield picked_up_at(observation, facts.record)
        yield from filter(None, [free_again_at(observation, facts.now)])


def _state_and_reason(facts: Facts, due: Reason | None, held: Reason | None, *, is_spent: bool) -> tuple[State, Reason]:
    """Return the target's state and its reason: `due` is why a new key is due, `held` why it is not made."""
    if (due is None or held) and not facts.observation.gone_is_believed and facts.observation.is_gone(facts.now):
        return State.FAILING, Reason.UNRECOGNISED
    if due in WITHOUT_A_KEY:
        return State.MISSING, held or due
    if is_spent:
        return State.SPENT, held or due or Reason.SPENT
    if due is None and facts.renewal.waits:
        return State.OK, Reason.PAUSED if is_paused(facts.observation.target, facts.upstream_time) else Reason.WINDOW
    if due is None:
        return State.OK, Reason.DRIFTED if facts.renewal.is_rolled_out_first else Reason.FRESH
    return State.DUE, held or due


# --- what becomes of the other keys ----------------------------------------------------------------------------------


def _tidy(facts: Facts, key: Superseded) -> tuple[Action, ...]:
    observation, now, revoke_now = facts.observation, facts.now, facts.request.revoke_now
    seen = observation.shown.get(key.key_id)
    if seen is None or not is_known(observation, key) or observation.is_owned(key.record) is False:
        return ()
    if not revoke_now and key.until <= now and is_to_look_at(observation, key, now):
        return ()  # that look failed, and without it a key that is used would end
    if revoke_now or (observation.clock_trusted and key.until <= now - observation.clock_ahead):
        # A version that carries another's field is kept; once its key is gone nothing is left to do.
        left = seen.key is not None or key.to_destroy
        retire = (Retire(Reason.REVOKED if revoke_now else Reason.GRACE_OVER, key),) if left else ()
        return (*_revoke(key.record, seen, now), *retire) if revoke_now else retire
    if seen.key is None or key.until <= now or not observation.clock_trusted:
        return ()  # its versions are destroyed after its grace; while the clocks differ, that moment is not known
    if key.shown is not None and key.shown <= now and (key.is_extended or not seen.asked):
        return ()  # it has ended, and is not revived
    until = expiry_to_set(key, observation.target, now)
    if until is None or key.grace_over_at is None or until == key.grace_over_at:
        return _set_expiry(Reason.SUPERSEDED, key.record, until, seen) if until else ()
    is_repeated = set_before(seen, key.record, key.grace_over_at) > key.grace_over_at
    return tuple(
        replace(action, used_at=key.last_used_at, is_repeated=is_repeated)
        for action in _set_expiry(Reason.IN_USE, key.record, until, seen, key.latest)
    )


def _revoke(record: Record, seen: KeyObservation, now: datetime) -> tuple[SetExpiry, ...]:
    """Shorten a revoked key that has its life before it still, before its versions are destroyed.

    Should deleting it fail after that, only a sweep would find it, and a sweep would give it a grace.
    """
    soon = whole_seconds(now + REVOKED_WITHIN)
    if seen.key is None or (seen.key.expires_at and seen.key.expires_at <= soon):
        return ()
    return (SetExpiry(Reason.REVOKED, record, soon),)


def _set_expiry(
    reason: Reason, record: Record, until: datetime, seen: KeyObservation, latest: datetime | None = None
) -> tuple[SetExpiry, ...]:
    """Return what makes the key expire at `until`, without a request for a time after `latest`."""
    request = next_request(seen, until, record.issued_at)
    if request and latest and request > latest:
        was_asked = seen.asked is not None and seen.asked.until == until and seen.asked.request >= latest
        request = None if was_asked else latest
    return (SetExpiry(reason, record, until, None if request == until else request),) if request else ()


def _restore(facts: Facts) -> tuple[Action, ...]:
    """Restore the expiry of a current key that was on its way out when the path was rolled back to it."""
    record, observation = facts.record, facts.observation
    if not observation.is_cut_short(record, facts.now) or observation.is_overlong(record):
        return ()
    if not observation.is_owned(record):
        return ()
    return _set_expiry(Reason.RESTORED, record, record.expires_at, observation.shown[record.key_id])


def _extend(facts: Facts) -> tuple[Action, ...]:
    """Extend a current key that would expire in a pause. Not one that a forged record may name."""
    record, observation = facts.record, facts.observation
    until = extended_to(observation, record, facts.upstream_time)
    if until is None or not observation.is_owned(record):
        return ()
    return _set_expiry(Reason.PAUSED, record, until, observation.shown[record.key_id])


def grace_error(target: Target, plan: Plan, now: datetime) -> GraceNotEnforced | None:
    """Return the error for the superseded keys that work, and do not end with their grace."""
    keys = plan.unenforced(now)
    ends = [f"works until {timestamp(key.works_until)}" if key.works_until else "never expires" for key in keys]
    named = [(key.key_id, key.other_name or "", end) for key, end in zip(keys, ends, strict=True)]
    return GraceNotEnforced(target.path, named) if named else None
