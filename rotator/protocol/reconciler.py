"""Does what the plan says, for one target at a time: observe, plan, act, observe again.

The order of effects is the protocol of docs/architecture.md; each step says which promise it keeps. All effects go
through `ports`; nothing here decides whether something is due, and nothing here outlives the process but what is in
the store and at the provider.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

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
from rotator.core.events import EventType
from rotator.core.expiry import KeyObservation
from rotator.core.keys import place_of
from rotator.core.observation import Observation, is_gone
from rotator.core.plan import Action, Plan, Reason, Retire, Rotate, SetExpiry, deadline, plan, to_confirm, unenforced
from rotator.core.ports import Budget, Clock, Ports
from rotator.core.renewal import TIDYING
from rotator.core.request import ACT, SCHEDULED, PassOptions, RotationRequest
from rotator.core.target import Target
from rotator.core.times import timestamp
from rotator.core.versions import History, Ownership, Record, Scope
from rotator.protocol.expiry import set_expiry
from rotator.protocol.memory import Memory
from rotator.protocol.places import Claims, locations
from rotator.protocol.recognition import Recognition
from rotator.protocol.rotation import Rotation, emit_key_event, emit_published, left_behind, may_act

MAX_AGE = 5.0
"""Seconds (monotonic) for which the answer of a read may be acted on where no compare-and-set protects the action."""

MAX_READ = 30.0
"""Seconds (monotonic) that a read may have taken for that: what it shows may be as old as the read was long."""

_PROVIDER_OUT = (ProviderCredentialRefused, ProviderRateLimited, ProviderUnavailable)
"""After one of these, nothing else that this pass could ask of the provider would be done either."""


@dataclass(frozen=True, slots=True)
class Report:
    """What came of one pass over a target. `plan` is the last one made; None when nothing could be observed."""

    target: Target
    plan: Plan | None
    error: RotatorError | None = None
    rotated: bool = False  # by us, in this pass
    attempted: Reason | None = None  # why a rotation was tried in this pass, whatever came of it
    kept: bool = False  # a superseded key was to be removed in this pass, and that failed
    rolled_back: bool = False  # the previous key is served again, because a person asked for it
    tidied: bool = False  # a key's expiry was set, or a key removed, in this pass


class Reconciler:
    """Works on the targets of one provider and one store.

    Safe to be used by many threads, with one pass over a target at a time; a sweep may work on that target meanwhile.
    """

    def __init__(
        self,
        owner: str,
        former_owners: frozenset[str],
        names: frozenset[str],
        ports: Ports,
        memory: Memory | None = None,
        min_age: timedelta = timedelta(0),
        recognition: Recognition | None = None,
        claims: Claims | None = None,
    ) -> None:
        """`names` are those of all configured targets, whatever their store, and `claims` where these are;
        `recognition` is the provider's.

        A provider may not show a key yet that is younger than `min_age`.
        """
        self._owner = owner
        self._owners = frozenset({owner}) | former_owners
        self._names = names
        self.ports = ports
        self.memory = memory or Memory()
        self.recognition = recognition or Recognition()
        self._claims = claims or Claims()
        self._min_age = min_age
        self._rotation = Rotation(owner, ports, self.memory, min_age)
        self._scopes: dict[str, Scope] = {}

    # --- observe ---------------------------------------------------------------------------------------------------

    def scope(self, target: Target) -> Scope:
        """Which names and records are this target's own. Raises what `Store.location` raises."""
        if known := self._scopes.get(target.name):
            return known
        present, former = locations(target, self.ports.store)
        undisputed = self._claims.undisputed(former)
        owners = (self._owner, *sorted(self._owners - {self._owner}))
        places = [place_of(owner, location) for location in (present, *(undisputed or ())) for owner in owners]
        scope = Scope(
            owner=self._owner,
            places=tuple(dict.fromkeys(places)),
            place=places[0],
            owners=self._owners,
            names=self._names,
        )
        if undisputed is not None:  # else it is looked for again at the next look
            self._scopes[target.name] = scope
        return scope

    def observe(self, target: Target) -> Observation:
        """Read the whole history; of the provider, only what this process has seen before. Raises `StoreError`."""
        observation = self._observed(target, self.ports.store.history, whole=True)
        self.memory.read_whole(observation)
        return observation

    def read_current(self, target: Target) -> Observation:
        """Read the newest version alone where it tells as much as the whole history; else read that too.

        Raises `StoreError`.
        """
        if not self.memory.newest_may_do(target):
            return self.observe(target)
        observation = self._observed(target, self.ports.store.newest, whole=False)
        return observation if self.memory.newest_does(observation, self.ports.clock.now()) else self.observe(target)

    def _observed(self, target: Target, read: Callable[[str], History], *, whole: bool) -> Observation:
        clock, vendor = self.ports.clock, dict[str, KeyObservation]()
        scope, history = self.scope(target), read(target.path)
        answered_at = clock.monotonic()
        observation = self._timed(Observation(target, scope, history, vendor, answered_at=answered_at))
        if settled := self.memory.settle(observation, whole=whole):
            offer, entry = settled
            emit_published(self.ports, observation, offer, entry.number)
        vendor.update(self.memory.recall(observation))
        return replace(observation, is_emptied=self.memory.is_emptied(target), made=self.memory.made(observation))

    def confirm(self, observation: Observation) -> Observation:
        """Look up at the provider what the plan needs to know of it. Raises `ProviderError`."""
        for record in to_confirm(observation):
            observation = self.look_up(observation, record, self.ports.budget)
        return self._doubted(self._timed(observation))

    def _timed(self, observation: Observation) -> Observation:
        """With what is known of the clock by now: each answer may have shown another's time."""
        clock = self.ports.clock
        return replace(
            observation,
            clock_trusted=clock.trusted(),
            clock_ahead=clock.may_be_ahead(),
            clock_disputed_by=clock.disputed_by(),
        )

    def _doubted(self, observation: Observation) -> Observation:
        """A served key that the provider does not know counts as gone only where that is believed."""
        if not is_gone(observation, self.ports.clock.now()):
            return observation
        return replace(observation, gone_is_believed=self.recognition.believes(observation.target.name))

    def look_up(self, observation: Observation, record: Record, budget: Budget) -> Observation:
        """Ask the provider for one key, whatever was seen of it before. Raises `ProviderError`.

        Nothing is learned where it does not show a key that is so young that it may not be shown yet.
        """
        served = observation.current is not None and observation.current.key_id == record.key_id
        self.ports.provider.ready()
        budget.take(record.expires_at if served else TIDYING)
        asked_at = self.ports.clock.now()  # the answer may be used much later
        found = self.ports.provider.retrieve(record.key_id)
        if found is None and self._may_be_hidden(observation, record, asked_at):
            return observation
        return self.memory.note(observation, record.key_id, found)

    def _may_be_hidden(self, observation: Observation, record: Record, now: datetime) -> bool:
        """Whether the key is so young. A process that was stopped while it asked for one has published it late."""
        held_since = min(entry.created_at for entry in observation.entries if entry.key_id == record.key_id)
        return record.is_younger(self._min_age, now) or now - held_since < self._min_age

    # --- one pass --------------------------------------------------------------------------------------------------

    def reconcile(
        self,
        target: Target,
        request: RotationRequest = SCHEDULED,
        options: PassOptions = ACT,
        planned: Callable[[Plan], object] = lambda _: None,
    ) -> Report:
        """Do all that is due for one target. Errors end what they concern and are reported, never raised.

        `planned` hears of each plan as it is made: a pass may wait for its budget for long.

        Each action is tried once a pass: what fails waits for the caller's backoff, and what succeeds without showing
        (a vendor that ignores a PATCH) cannot keep us here. A replica that does not lead looks at the store, no more.
        """
        clock = self.ports.clock
        observation: Observation | None = None
        made: Plan | None = None
        error: RotatorError | None = None
        rotated = kept = False
        attempted: Reason | None = None
        tried: set[object] = set()
        served: str | None = None  # the current key, when a rotation was tried
        lost = False  # and another writer was first, with the same key as far as is known
        paid = False  # the budget has let one request go, and it has not been sent yet
        look = self.read_current if request.by == SCHEDULED.by else self.observe
        try:
            while True:
                if observation is None or self._too_old(observation):
                    observation = look(target)
                if lost and (observation.current is None or observation.current.key_id != served):
                    lost = False  # another's new key is as good as one of ours
                    request = replace(request, rotate=False, adopt=False)
                acts = options.act and may_act(self.ports, request)
                unknown = error is None and bool(to_confirm(observation))  # a read from the past has forgotten it
                if acts and (not paid or unknown):  # else it might grow old again, waiting for the budget
                    paid = False
                    try:
                        observation = self.confirm(observation)
                    except ProviderError as failure:
                        error = error or failure
                observation = self._doubted(observation)
                made = plan(observation, clock.now(), request, options)
                planned(made)
                action = next((action for action in made.actions if _identity(action) not in tried), None)
                if action is None or not acts:
                    if made.reason is Reason.CLOCK and acts:
                        error = error or NoKeyByThisClock(observation.clock_disputed_by)
                    if acts and not request.revoke_now:  # of which what is left has an error of its own
                        error = error or unenforced(target, made, clock.now())
                    if made.reason is Reason.CONTESTED and acts:
                        error = error or Contested(target.name, target.path)
                    if lost and any(isinstance(left, Rotate) for left in made.actions):
                        error = error or CasMismatch(
                            f"another write to {target.path} came first, and left the same key (a sweep's fence does)",
                            "Say it once more." if request.by == "command" else "Nothing to do: the next try follows.",
                        )
                    break
                if not paid:
                    self.ports.provider.ready()
                    self.ports.budget.take(TIDYING if isinstance(action, Retire) else deadline(made, clock.now()))
                    paid = True
                    if self._too_old(observation) or not may_act(self.ports, request):
                        continue
                elif self._too_old(observation) and not isinstance(action, Rotate):  # that has a compare-and-set
                    raise StoreUnavailable(
                        f"reading {target.path} took longer than {MAX_READ:.0f} s, so its superseded keys are left",
                        "They work until their own expiry. Look at the store's latency. The next try follows.",
                    )
                tried.add(_identity(action))
                paid = False
                try:
                    if isinstance(action, Rotate):
                        attempted = action.reason
                        served = observation.current.key_id if observation.current else None
                        observation, rotated = self._rotation.rotate(observation, action, request)
                        lost = observation is None and not rotated
                        if rotated:
                            request = replace(request, rotate=False, adopt=False)
                    elif isinstance(action, SetExpiry):
                        observation = self._set_expiry(observation, action, request)
                    else:
                        observation = self._retire(observation, action, request)
                except RotatorError as failure:
                    error = error or failure
                    kept = kept or isinstance(action, Retire)
                    if isinstance(failure, _PROVIDER_OUT):
                        break
                    observation = None  # what else is due may still be possible
        except RotatorError as failure:
            error = error or failure
        return Report(target, made, error, rotated, attempted, kept, tidied=bool(tried - {"rotate"}))

    def _too_old(self, observation: Observation) -> bool:
        return too_old(observation, self.ports.clock)

    # --- the other keys --------------------------------------------------------------------------------------------

    def _set_expiry(self, observation: Observation, action: SetExpiry, request: RotationRequest) -> Observation:
        record = action.record
        seen = observation.vendor[record.key_id].key
        deadline = record.expires_at if action.reason is Reason.RESTORED else TIDYING
        try:
            ends = set_expiry(self.ports, record.key_id, action.asked.request, deadline)
        except ProviderRequestRefused:
            if action.reason is not Reason.RESTORED:
                raise
            ends = None  # a served key that cannot be restored is replaced, like one that is gone
        if ends and (seen is None or ends != seen.expires_at):
            what = EventType.KEY_RESTORED if action.reason is Reason.RESTORED else EventType.KEY_SHORTENED
            name, until = record.key_name, timestamp(ends)
            emit_key_event(
                self.ports, what, observation, request, record.key_id, name, reason=action.reason, expires_at=until
            )
        key = replace(seen, expires_at=ends) if ends and seen else None
        return self.memory.note(observation, record.key_id, key, asked=action.asked)

    def _retire(self, observation: Observation, action: Retire, request: RotationRequest) -> Observation | None:
        """Destroy, look again, delete: once its versions are gone, nobody can roll the path back to the key.

        A key that the provider does not have is not deleted: should that answer have been wrong, a sweep finds it.
        """
        target, key = observation.target, action.key
        numbers = [version.number for version in key.versions if not version.foreign_fields]
        if numbers:
            self.ports.store.destroy(target.path, numbers)
            versions = ",".join(map(str, numbers))
            emit_key_event(
                self.ports,
                EventType.VERSIONS_DESTROYED,
                observation,
                request,
                key.key_id,
                key.record.key_name,
                reason=action.reason,
                versions=versions,
            )
        after = self.observe(target)
        current = after.current
        kept = {version.number for version in key.versions} - {*numbers}
        served_again = any(entry.key_id == key.key_id and entry.number not in kept for entry in after.entries)
        if current is None or current.ownership is not Ownership.OURS or served_again or self._too_old(after):
            return None
        seen = observation.vendor[key.key_id]
        if seen.key is None:  # nobody has shown it to be ours, and there is nothing to delete
            return self.memory.note(after, key.key_id, None)
        try:
            self.ports.provider.delete(key.key_id)
        except ProviderError as error:
            left_behind(self.ports.emit, target, key.key_id, key.record.key_name, error)
            raise
        emit_key_event(
            self.ports,
            EventType.KEY_DELETED,
            observation,
            request,
            key.key_id,
            key.record.key_name,
            reason=action.reason,
        )
        return self.memory.note(after, key.key_id, None)


def too_old(observation: Observation, clock: Clock) -> bool:
    """Whether the path may have changed too long ago for an action that no compare-and-set protects.

    The answer of a slow read is used at once or not at all. Should the path have been rolled back to a key while it was
    read, that key still has its grace, and the next sweep restores it.
    """
    took = observation.answered_at - observation.history.observed_at
    return took > MAX_READ or clock.monotonic() - observation.answered_at > MAX_AGE


def _identity(action: Action) -> object:
    """What makes two actions of one pass the same attempt."""
    match action:
        case Rotate():
            return "rotate"
        case SetExpiry():
            return (action.reason, action.record.key_id, action.asked.request)
        case Retire():
            return ("retire", action.key.key_id)
