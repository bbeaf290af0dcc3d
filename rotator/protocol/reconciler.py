"""Does what is due for one target at a time: look, plan, take the budget's permit, do one action, look again.

The order of the effects is the protocol of docs/architecture.md. All effects go through `core.ports`, `core.plan`
decides what is due, and only the store and the provider keep anything that must outlive the process.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime

from rotator.core.errors import (
    CasMismatch,
    Contested,
    NoKeyByThisClock,
    ProviderCredentialRefused,
    ProviderError,
    ProviderRateLimited,
    ProviderRequestRefused,
    ProviderUnavailable,
    RotatorError,
    StoreUnavailable,
)
from rotator.core.events import Event, EventType, Level
from rotator.core.keys import ProviderKey
from rotator.core.observation import Observation
from rotator.core.plan import Action, Plan, Retire, Rotate, SetExpiry, deadline, grace_error, plan
from rotator.core.reasons import Reason
from rotator.core.renewal import TIDYING, permitted_from
from rotator.core.request import ACT, SCHEDULED, PassOptions, RotationRequest
from rotator.core.superseded import to_confirm
from rotator.core.target import Target
from rotator.core.times import timestamp
from rotator.core.versions import Ownership, Record
from rotator.protocol.audit import emit_key_event, emit_not_removed, emit_published
from rotator.protocol.expiry import set_expiry
from rotator.protocol.observer import MAX_READ, Observer
from rotator.protocol.rotation import Rotation, may_act

_PROVIDER_OUT = (ProviderCredentialRefused, ProviderRateLimited, ProviderUnavailable)
"""After one of these, every other request of this pass to the provider would fail too."""


_OF_SERVED_KEYS = {Reason.RESTORED: EventType.KEY_RESTORED, Reason.PAUSED: EventType.KEY_EXTENDED}
"""Why the expiry of a served key is set, and the event that reports it."""


_SCHEDULED = (Reason.EXPIRED, Reason.EXPIRING, Reason.DRIFTED)
"""Why a key is replaced that windows and a pause may hold back."""


@dataclass(frozen=True, slots=True)
class Report:
    """What one pass over a target did. `plan` is the last one made; None when nothing could be observed."""

    target: Target
    plan: Plan | None
    error: RotatorError | None = None
    rotated: bool = False  # by us, in this pass
    attempted: Reason | None = None  # why this pass tried a rotation, whether or not it succeeded
    kept: bool = False  # this pass failed to remove a superseded key
    rolled_back: bool = False  # the previous key is served again, because a person asked for it
    tidied: bool = False  # this pass tried to set a key's expiry, or to remove a key


@dataclass(slots=True)
class Attempt:
    """One pass over one target that is under way: what it knows, and what it has done.

    Each action is tried once a pass: a failure waits for the caller's backoff, and a success without a visible
    effect (a provider that ignores a PATCH) cannot keep the pass in a loop.
    """

    target: Target
    request: RotationRequest  # what is left of it
    observation: Observation | None = None  # None: look again
    plan: Plan | None = None
    has_permit: bool = False  # the budget has let one request go, and it has not been sent yet
    tried: dict[object, Action] = field(default_factory=dict)  # by identity
    lost: Observation | None = None  # before a publish that another writer preceded, with the same key so far as known
    rotated: bool = False
    kept: bool = False
    error: RotatorError | None = None  # the first one

    def fail(self, error: RotatorError) -> None:
        """Note an error, unless there was one before."""
        self.error = self.error or error

    def fulfil(self) -> None:
        """Note that a new key is served."""
        self.request = replace(self.request, rotate=False, adopt=False)

    def untried(self, actions: tuple[Action, ...]) -> Action | None:
        """Return the first of these actions that this pass has not tried."""
        return next((action for action in actions if _identity(action) not in self.tried), None)

    def report(self) -> Report:
        """Return what came of it."""
        tried = self.tried.values()
        return Report(
            self.target,
            self.plan,
            self.error,
            self.rotated,
            attempted=next((action.reason for action in tried if isinstance(action, Rotate)), None),
            kept=self.kept,
            tidied=any(not isinstance(action, Rotate) for action in tried),
        )


class Reconciler:
    """Works on the targets of one provider and one store.

    Safe for many threads, with one pass over a target at a time. A sweep may work on that target meanwhile.
    """

    def __init__(self, observer: Observer) -> None:
        self.observer = observer
        self._ports, self._memory = observer.ports, observer.memory
        self._rotation = Rotation(observer)

    # --- one pass --------------------------------------------------------------------------------------------------

    def reconcile(
        self,
        target: Target,
        request: RotationRequest = SCHEDULED,
        options: PassOptions = ACT,
        planned: Callable[[Plan], object] = lambda _: None,
    ) -> Report:
        """Do all that is due for one target. Errors end what they concern and are reported, never raised.

        `planned` is called with each plan as it is made: a pass may wait for its budget for long. A replica that does
        not lead only looks at the store.
        """
        attempt = Attempt(target, request)
        try:
            while action := self._next_action(attempt, options, planned):
                if self._takes_permit(attempt, action):
                    self._try(attempt, action)
        except RotatorError as failure:
            attempt.fail(failure)
        return attempt.report()

    def _next_action(self, attempt: Attempt, options: PassOptions, planned: Callable[[Plan], object]) -> Action | None:
        """Look, plan, and return the first action that was not tried; None at the end of the pass."""
        observation = self._look(attempt)
        acts = options.act and may_act(self._ports, attempt.request)
        if acts and not (attempt.has_permit and self._is_confirmed(attempt, observation)):
            attempt.has_permit = False
            try:
                observation = self.observer.confirm(observation)
            except ProviderError as failure:
                attempt.fail(failure)
        attempt.observation = self.observer.with_belief(observation)
        attempt.plan = plan(attempt.observation, self._ports.clock.now(), attempt.request, options)
        planned(attempt.plan)
        action = attempt.untried(attempt.plan.actions) if acts else None
        if acts and action is None and (error := self._left_undone(attempt, attempt.observation, attempt.plan)):
            attempt.fail(error)
        return action

    def _is_confirmed(self, attempt: Attempt, observation: Observation) -> bool:
        """Return whether the permit may be used at once. Else the observation might grow old, waiting for another one.

        A read from the past has forgotten what was looked up.
        """
        return attempt.error is not None or not to_confirm(observation, self._ports.clock.now())

    def _look(self, attempt: Attempt) -> Observation:
        """Return what is known of the target. Read it again where that is too old to act on."""
        observation = attempt.observation
        if observation is None or self.observer.is_too_old(observation):
            look = self.observer.read_current if attempt.request.by == SCHEDULED.by else self.observer.observe
            observation = look(attempt.target)
        if landed := self._memory.take_landed(attempt.target):
            emit_published(self._ports.emit, attempt.target, *landed)
        if attempt.lost and _serves_another_key(observation, attempt.lost):
            attempt.lost = None  # another writer's new key is as good as one of ours
            attempt.fulfil()
        return observation

    def _left_undone(self, attempt: Attempt, observation: Observation, made: Plan) -> RotatorError | None:
        """Return why the plan, of which no action is left to try, does not do all that is due."""
        target = attempt.target
        if made.reason is Reason.CLOCK:
            return NoKeyByThisClock(observation.clock_disputed_by)
        if not attempt.request.revoke_now and (error := grace_error(target, made, self._ports.clock.now())):
            return error  # after a revocation, the keys that are left have an error of their own
        if made.reason is Reason.CONTESTED:
            return Contested(target.name, target.path)
        if attempt.lost and any(isinstance(left, Rotate) for left in made.actions):
            by_command = attempt.request.by == "command"
            return CasMismatch(
                f"another write to {target.path} came first, and left the same key (as a sweep's fence does)",
                "Run the command again." if by_command else "Nothing to do: the next try follows.",
            )
        return None

    def _takes_permit(self, attempt: Attempt, action: Action) -> bool:
        """Take the budget's permit for one request. Return whether it may be used at once, or after another look."""
        observation, made = attempt.observation, attempt.plan
        assert observation is not None and made is not None  # noqa: S101, PT018 - for the type checker
        if not attempt.has_permit:
            self._ports.provider.ready()
            self._ports.budget.take(self._needed_by(action, observation, made))
            if isinstance(action, Retire) and not observation.traits.can_set_expiry:
                self._ports.budget.take(TIDYING)  # for the look-up before the deletion
            attempt.has_permit = True
            return not self.observer.is_too_old(observation) and may_act(self._ports, attempt.request)
        if self.observer.is_too_old(observation) and not isinstance(action, Rotate):  # that has a compare-and-set
            raise StoreUnavailable(
                f"reading {attempt.target.path} took longer than {MAX_READ:.0f} s, so its superseded keys are left",
                "They work until their own expiry. Look at the store's latency. The next try follows.",
            )
        return True

    def _needed_by(self, action: Action, observation: Observation, made: Plan) -> datetime:
        """Return by when the applications need an action."""
        if isinstance(action, Retire):
            return TIDYING
        needed_by = deadline(made, self._ports.clock.now())
        if not isinstance(action, SetExpiry) or action.reason is not Reason.IN_USE:
            return needed_by
        key = observation.key_of(action.record)
        return min(needed_by, key.expires_at) if key and key.expires_at else needed_by

    def _try(self, attempt: Attempt, action: Action) -> None:
        """Do one action. Raises an error that every other request to the provider would meet too."""
        attempt.tried[_identity(action)] = action
        attempt.has_permit = False
        try:
            attempt.observation = self._do(attempt, action)
        except RotatorError as failure:
            attempt.fail(failure)
            attempt.kept = attempt.kept or isinstance(action, Retire)
            if isinstance(failure, _PROVIDER_OUT):
                raise
            attempt.observation = None  # what else is due may still be possible

    def _do(self, attempt: Attempt, action: Action) -> Observation | None:
        """Do one action. Return what is known afterwards."""
        before = attempt.observation
        assert before is not None  # noqa: S101 - for the type checker: the action was planned from it
        if isinstance(action, SetExpiry):
            return self._set_expiry(before, action, attempt.request)
        if isinstance(action, Retire):
            return self._retire(before, action, attempt.request)
        began_at = self._ports.clock.now() - before.clock_disputed_by
        after, attempt.rotated = self._rotation.rotate(before, action, attempt.request)
        if attempt.rotated:
            attempt.fulfil()
            self._report_outside_window(before.target, action, began_at)
        elif after is None:
            attempt.lost = before
        return after

    def _report_outside_window(self, target: Target, action: Rotate, began_at: datetime) -> None:
        """Report a scheduled rotation that could not wait for a window, or for the end of a pause."""
        permitted_at = permitted_from(target, began_at)
        if action.reason in _SCHEDULED and permitted_at > began_at:
            fields = {
                "reason": action.reason.value,
                "permitted_at": timestamp(permitted_at),
                "advice": "Nothing to do, unless it happens again: then compare renew_before with how long an outage "
                "may last.",
            }
            self._ports.emit(Event(EventType.ROTATED_OUTSIDE_WINDOW, target.name, Level.WARNING, fields))

    # --- the other keys --------------------------------------------------------------------------------------------

    def _set_expiry(self, observation: Observation, action: SetExpiry, request: RotationRequest) -> Observation:
        record = action.record
        seen = observation.shown[record.key_id].key
        deadline = record.expires_at if action.reason in _OF_SERVED_KEYS else TIDYING
        try:
            ends = set_expiry(self._ports, record.key_id, action.asked.request, deadline)
        except ProviderRequestRefused:
            if action.reason is not Reason.RESTORED:
                raise
            ends = None  # a served key that cannot be restored is replaced, like one that is gone
        if ends and (seen is None or ends != seen.expires_at):
            self._emit_expiry(observation.target, action, request, ends, seen)
        key = replace(seen, expires_at=ends) if ends and seen else None
        return self._memory.note(observation, record.key_id, key, asked=action.asked)

    def _emit_expiry(
        self, target: Target, action: SetExpiry, request: RotationRequest, ends: datetime, before: ProviderKey | None
    ) -> None:
        what = _OF_SERVED_KEYS.get(action.reason, EventType.KEY_SHORTENED)
        about = {"expires_at": timestamp(ends)}
        if action.reason is Reason.IN_USE and before and before.expires_at and ends > before.expires_at:
            if action.is_repeated:
                return  # a key that is used for long is extended every few minutes
            what = EventType.KEY_EXTENDED
            about |= {"last_used_at": timestamp(action.used_at)} if action.used_at else {}
        emit_key_event(self._ports.emit, what, target, action.record, request, action.reason, **about)

    def _retire(self, observation: Observation, action: Retire, request: RotationRequest) -> Observation | None:
        """Destroy, look again, delete: once its versions are destroyed, the path cannot be rolled back to the key.

        A key that the provider does not have is not deleted: if that answer was wrong, a sweep finds the key.
        Where no expiry could be set, the last look at the key may be a grace period old, and another one may have its
        id by now: so it is looked up again.
        """
        target, key = observation.target, action.key
        numbers = key.to_destroy
        if numbers:
            self._ports.store.destroy(target.path, numbers)
            what, listed = EventType.VERSIONS_DESTROYED, ",".join(map(str, numbers))
            emit_key_event(self._ports.emit, what, target, key.record, request, action.reason, versions=listed)
        after = self.observer.observe(target)
        is_ours = after.current is not None and after.current.ownership is Ownership.OURS
        kept = {version.number for version in key.versions} - {*numbers}
        served_again = any(entry.key_id == key.key_id and entry.number not in kept for entry in after.entries)
        if not is_ours or served_again or self.observer.is_too_old(after):
            return None
        seen = observation.shown[key.key_id]
        if seen.key is None:  # it is not shown to be ours, and there is nothing to delete
            return self._memory.note(after, key.key_id, None)
        try:
            if not observation.traits.can_set_expiry and not self._is_there(key.record):
                return self._memory.note(after, key.key_id, None)
            if self.observer.is_too_old(after):  # the look-up was slow
                return None
            self._ports.provider.delete(key.key_id)
        except ProviderError as error:
            emit_not_removed(self._ports.emit, target, key.key_id, key.record.key_name, error)
            raise
        emit_key_event(self._ports.emit, EventType.KEY_DELETED, target, key.record, request, action.reason)
        self._warn_of_use(target, action)
        return self._memory.note(after, key.key_id, None)

    def _is_there(self, record: Record) -> bool:
        found = self._ports.provider.retrieve(record.key_id)
        return found is not None and found.may_be(record.key_name)

    def _warn_of_use(self, target: Target, action: Retire) -> None:
        """Emit that a key was removed after its grace, and that a consumer has used it until shortly before."""
        key = action.key
        if action.reason is Reason.REVOKED or not key.is_used(target.idle_after, self._ports.clock.now()):
            return
        about = {
            "key_id": key.key_id,
            "last_used_at": timestamp(key.last_used_at) if key.last_used_at else "",
            "advice": f"Find the consumer of {target.path} that has not read it since, and restart it. Lengthen "
            "grace_period, or set grace_extension, if it needs longer.",
        }
        self._ports.emit(Event(EventType.KEY_RETIRED_IN_USE, target.name, Level.WARNING, about))


def _serves_another_key(observation: Observation, before: Observation) -> bool:
    """Return whether the path holds another key than before, or none."""
    return observation.current is None or observation.served_id != before.served_id


def _identity(action: Action) -> object:
    """Return what two actions share that are the same attempt."""
    match action:
        case Rotate():
            return "rotate"
        case SetExpiry():
            return (action.reason, action.record.key_id, action.asked.request)
        case Retire():
            return ("retire", action.key.key_id)
