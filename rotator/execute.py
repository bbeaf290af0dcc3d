"""Does what the plan says, for one target at a time: observe, plan, act, observe again.

The order of effects is the protocol of docs/architecture.md; each step says which promise it keeps. All effects go
through `ports`; nothing here decides whether something is due, and nothing here outlives the process but what is in
the store and at the provider.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from rotator.errors import (
    CasMismatch,
    ProviderCredentialRefused,
    ProviderError,
    ProviderKeyNotAccepted,
    ProviderOutcomeUnknown,
    ProviderRateLimited,
    ProviderRequestRefused,
    ProviderUnavailable,
    RotatorError,
    StoreError,
    StoreOutcomeUnknown,
    StoreUnavailable,
)
from rotator.events import Event, Fields, Level, What
from rotator.memory import Memory, Offer
from rotator.model import (
    UNIQUE_ALPHABET,
    UNIQUE_LENGTH,
    CreatedKey,
    History,
    KeyName,
    Record,
    Scope,
    Secret,
    Standing,
    Target,
    VendorKey,
    compose,
    place_of,
    read_version,
    timestamp,
)
from rotator.plan import (
    SCHEDULED,
    TIDYING,
    TOLERANCE,
    Action,
    Observation,
    Order,
    Plan,
    Reason,
    Retire,
    Rotate,
    Seen,
    SetExpiry,
    needed_by,
    plan,
    renew_at,
    to_confirm,
)
from rotator.ports import Budget, Ports
from rotator.publish import publish

MAX_AGE = 5.0
"""Seconds (monotonic) after which an observation is not acted on any more."""

TRIES_OUT = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
"""Seconds between attempts to see a new key work, where a probe is configured."""

UNPUBLISHED = "unpublished"
"""Why a key is deleted that was created and can never be served: no plan says so."""

PLACEHOLDER = Secret("x" * 128)
"""As long as a key may well be: a body that is refused for its size is to be refused before a key exists."""

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


class Executor:
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
    ) -> None:
        """`names` are those of all configured targets, whatever their store."""
        self._owner = owner
        self._owners = frozenset({owner}) | former_owners
        self._names = names
        self.ports = ports
        self.memory = memory or Memory()
        self._scopes: dict[str, Scope] = {}

    # --- observe ---------------------------------------------------------------------------------------------------

    def scope(self, target: Target) -> Scope:
        """Which names and records are this target's own. Raises what `Store.location` raises."""
        if target.name not in self._scopes:
            location = self.ports.store.location(target.path)
            place = place_of(self._owner, location)
            former = (place_of(owner, location) for owner in self._owners - {self._owner})
            self._scopes[target.name] = Scope(
                owner=self._owner,
                places=(place, *former),
                place=place,
                owners=self._owners,
                names=self._names,
            )
        return self._scopes[target.name]

    def observe(self, target: Target) -> Observation:
        """Read the whole history; of the provider, only what this process has seen before. Raises `StoreError`."""
        observation = self._observed(target, self.ports.store.history)
        self.memory.read_whole(observation)
        return observation

    def glance(self, target: Target) -> Observation:
        """Read the newest version alone where it tells as much as the whole history; else read that too.

        Raises `StoreError`.
        """
        if not self.memory.newest_may_do(target):
            return self.observe(target)
        observation = self._observed(target, self.ports.store.newest)
        return observation if self.memory.newest_does(observation, self.ports.clock.now()) else self.observe(target)

    def _observed(self, target: Target, read: Callable[[str], History]) -> Observation:
        clock, vendor = self.ports.clock, dict[str, Seen]()
        scope, history = self.scope(target), read(target.path)
        observation = Observation(target, scope, history, vendor, clock.trusted(), clock.may_be_ahead())
        vendor.update(self.memory.recall(observation))
        return observation

    def confirm(self, observation: Observation) -> Observation:
        """Look up at the provider what the plan needs to know of it. Raises `ProviderError`."""
        for record in to_confirm(observation):
            observation = self.look_up(observation, record, self.ports.budget)
        return observation

    def look_up(self, observation: Observation, record: Record, budget: Budget) -> Observation:
        """Ask the provider for one key, whatever was seen of it before. Raises `ProviderError`."""
        served = observation.current is not None and observation.current.key_id == record.key_id
        self.ports.provider.ready()
        budget.take(record.expires_at if served else TIDYING)
        return self.memory.note(observation, record.key_id, self.ports.provider.retrieve(record.key_id))

    # --- one pass --------------------------------------------------------------------------------------------------

    def reconcile(
        self,
        target: Target,
        order: Order = SCHEDULED,
        roll_out_at: datetime | None = None,
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
        look = self.glance if order.by == SCHEDULED.by else self.observe
        try:
            while True:
                if observation is None or self._too_old(observation):
                    observation = look(target)
                if lost and (observation.current is None or observation.current.key_id != served):
                    lost = False  # another's new key is as good as one of ours
                    order = replace(order, rotate=False, adopt=False)
                may_act = order.act and self._is_ours_to_do(order)
                unknown = error is None and bool(to_confirm(observation))  # a read from the past has forgotten it
                if may_act and (not paid or unknown):  # else it might grow old again, waiting for the budget
                    paid = False
                    try:
                        observation = self.confirm(observation)
                    except ProviderError as failure:
                        error = error or failure
                made = plan(observation, clock.now(), order, roll_out_at)
                planned(made)
                action = next((action for action in made.actions if _identity(action) not in tried), None)
                if action is None or not may_act:
                    if lost and any(isinstance(left, Rotate) for left in made.actions):
                        error = error or CasMismatch(
                            f"another write to {target.path} came first, and left the same key (a sweep's fence does)",
                            "Nothing to do: the next try follows.",
                        )
                    break
                if not paid:
                    self.ports.provider.ready()
                    self.ports.budget.take(TIDYING if isinstance(action, Retire) else needed_by(made, clock.now()))
                    paid = True
                    if self._too_old(observation) or not self._is_ours_to_do(order):
                        continue
                elif self._too_old(observation):
                    raise StoreUnavailable(
                        f"reading {target.path} took longer than {MAX_AGE:.0f} s, and nothing is done on old knowledge",
                        "Look at the store's latency. The served key is left as it is; the next try follows.",
                    )
                tried.add(_identity(action))
                paid = False
                try:
                    if isinstance(action, Rotate):
                        attempted = action.reason
                        served = observation.current.key_id if observation.current else None
                        observation, rotated = self._rotate(observation, action, order)
                        lost = observation is None and not rotated
                        if rotated:
                            order = replace(order, rotate=False, adopt=False)
                    elif isinstance(action, SetExpiry):
                        observation = self._set_expiry(observation, action, order)
                    else:
                        observation = self._retire(observation, action, order)
                except RotatorError as failure:
                    error = error or failure
                    kept = kept or isinstance(action, Retire)
                    if isinstance(failure, _PROVIDER_OUT):
                        break
                    observation = None  # what else is due may still be possible
        except RotatorError as failure:
            error = error or failure
        return Report(target, made, error, rotated, attempted, kept)

    def _is_ours_to_do(self, order: Order) -> bool:
        """What is scheduled is the leader's; a person is obeyed by any replica."""
        return order.by != SCHEDULED.by or self.ports.leads()

    def _too_old(self, observation: Observation) -> bool:
        return self.ports.clock.monotonic() - observation.history.observed_at > MAX_AGE

    # --- rotate ----------------------------------------------------------------------------------------------------

    def _rotate(self, observation: Observation, action: Rotate, order: Order) -> tuple[Observation | None, bool]:
        """Publish a new key. Returns what is known now, and whether our key is served.

        Nothing is known (None) after another write came first, or may have come since.
        """
        offer = self._made_before(observation, action) or self._make(observation, action, order)
        # Another may lead by now: the proof and the look-up can take as long as a Lease lasts.
        if offer is None or (offer.unanswered and not self._is_ours_to_do(order)):
            return observation, False
        return self._publish(observation, action.reason, offer, order)

    def _made_before(self, observation: Observation, action: Rotate) -> Offer | None:
        """The key of an earlier pass whose write may land yet, if it is as good as a new one; proved like that.

        A store that takes no writes would have us make one key after the other, none of which we may remove.
        """
        target, ports = observation.target, self.ports
        offer = self.memory.offers.get(target.name)
        if offer is None or (offer.base, offer.provider) != (action.base, target.provider):
            return None
        record = offer.record
        if not observation.scope.owns(record.key_name) or record.params != target.fingerprint:
            return None
        if renew_at(record, target) <= ports.clock.now():
            return None
        ports.store.prove(target.path, compose(target, record, offer.secret, carried_over(observation)))
        try:
            found = ports.provider.retrieve(record.key_id)
        except ProviderRequestRefused:  # some vendors have no other answer for a key that is gone
            found = None
        if found is None or (found.expires_at is not None and found.expires_at < record.expires_at - TOLERANCE):
            self.memory.offers.pop(target.name, None)
            raise ProviderError(
                f"the new key {record.key_id}, whose write to {target.path} was not answered, is gone or about to end",
                "Nothing to do: the next try makes another one.",
            )
        return offer

    def _make(self, observation: Observation, action: Rotate, order: Order) -> Offer | None:
        """Prove that a key can be stored, and create one. None: that is another's to do by now."""
        target = observation.target
        ports = self.ports
        now = ports.clock.now().replace(microsecond=0)
        asked = now + target.ttl
        unique = "".join(ports.rng.choice(UNIQUE_ALPHABET) for _ in range(UNIQUE_LENGTH))
        name = str(KeyName(self._owner, target.name, observation.scope.place, action.base + 1, unique))
        record = Record(
            self._owner, target.name, "x" * 64, name, now, asked, target.fingerprint, PLACEHOLDER.fingerprint
        )

        # Nothing is minted in vain: first it is made sure that the store would take it.
        ports.store.prove(target.path, compose(target, record, PLACEHOLDER, carried_over(observation)))
        if not self._is_ours_to_do(order):  # another may lead by now: the proof can take as long as a Lease lasts
            return None
        try:
            created = ports.provider.create(name, target.parameters, asked)
        except ProviderOutcomeUnknown:
            self._remove_stray(target, name, order)
            raise
        self.tell_of(What.KEY_CREATED, observation, order, created.id, name, reason=action.reason)
        try:
            expires_at = self._believe(observation, created, name, asked, order, action.reason)
            self._try_out(created)
        except Exception:  # of whatever kind: nobody is served this key yet, and nobody else knows of it
            self._discard(target, created.id, name, order)
            raise
        record = replace(record, key_id=created.id, expires_at=expires_at, key=created.secret.fingerprint)
        return Offer(target.provider, action.base, record, created.secret)

    def _publish(
        self, observation: Observation, reason: Reason, offer: Offer, order: Order
    ) -> tuple[Observation | None, bool]:
        """Have it served, if nobody writes first. What is returned is as `_rotate` says."""
        target, ports, record = observation.target, self.ports, offer.record
        key_id, name = record.key_id, record.key_name
        observed_at = ports.clock.monotonic()
        data = compose(target, record, offer.secret, carried_over(observation))
        self.memory.offers.pop(target.name, None)
        try:
            version = publish(ports.store, ports.clock, target, data, offer.base, unanswered=offer.unanswered)
        except StoreOutcomeUnknown as error:
            # It may still land, so it may yet be served: it is written again by the next pass, or judged by a sweep.
            self.memory.offers[target.name] = replace(offer, unanswered=True)
            if not offer.unanswered:
                self._left_behind(target, key_id, name, error)
            raise
        except StoreError:
            self._discard(target, key_id, name, order)
            raise
        if version is None:
            self.tell_of(What.PUBLISH_LOST, observation, order, key_id, name, reason=reason, version=offer.base + 1)
            self._discard(target, key_id, name, order)
            return None, False
        self.tell_of(
            What.KEY_PUBLISHED,
            observation,
            order,
            key_id,
            name,
            reason=reason,
            version=version.number,
            expires_at=timestamp(record.expires_at),
        )
        if version.vanishes_at is not None and version.vanishes_at < record.expires_at:
            fields: Fields = {
                "key_id": key_id,
                "key_name": name,
                "version": version.number,
                "vanishes_at": timestamp(version.vanishes_at),
                "expires_at": timestamp(record.expires_at),
                "advice": "Applications would find nothing: `rotator check --online` tells where that is set.",
            }
            ports.tell(Event(What.VERSION_VANISHES, target.name, Level.ERROR, fields))
        self.memory.look_closer(target)
        if offer.unanswered:
            return None, True  # it may have landed long ago, and the path have moved on
        history = History(version.number, (*observation.history.versions, version), observed_at)
        published = replace(observation, history=history)
        return self.memory.note(published, key_id, VendorKey(key_id, name, record.expires_at)), True

    def _believe(
        self, observation: Observation, created: CreatedKey, name: str, asked: datetime, order: Order, reason: Reason
    ) -> datetime:
        """When the key really expires: as answered if that is earlier than asked; later is put right at the vendor."""
        answered = created.expires_at
        if answered is None or answered > asked + TOLERANCE:
            self.ports.budget.take(asked)
            if not self.ports.provider.set_expiry(created.id, asked):
                raise ProviderRequestRefused(
                    f"the new key {created.id} is gone before it was published",
                    "Nothing to do, unless it happens again: then look for who removes keys at the provider.",
                )
            until = timestamp(asked)
            self.tell_of(What.KEY_SHORTENED, observation, order, created.id, name, reason=reason, expires_at=until)
            answered = asked
        if answered <= self.ports.clock.now():
            raise ProviderRequestRefused(
                f"asked for a key that lives until {timestamp(asked)}, the provider made one that ended at "
                f"{timestamp(answered)}",
                "Compare this machine's clock and the provider's.",
            )
        if answered < asked - TOLERANCE:
            fields = {"key_id": created.id, "key_name": name, "expires_at": timestamp(answered)}
            self.ports.tell(Event(What.KEY_CUT_SHORT, observation.target.name, Level.WARNING, fields))
        return min(asked, answered)

    def _try_out(self, created: CreatedKey) -> None:
        """Publish no key that does not work; the vendor's systems may take a while to learn of it."""
        for wait in (*TRIES_OUT, None):
            try:
                self.ports.provider.try_out(created.secret)
            except (ProviderKeyNotAccepted, ProviderUnavailable):
                if wait is None:
                    raise
                self.ports.clock.sleep(wait)
            else:
                return

    def _discard(self, target: Target, key_id: str, name: str, order: Order) -> None:
        """Remove a key that this process created, and that can never be served."""
        try:
            self.ports.budget.take(TIDYING)
            self.ports.provider.delete(key_id)
        except ProviderError as error:
            self._left_behind(target, key_id, name, error)
            return
        fields = {"key_id": key_id, "key_name": name, "reason": UNPUBLISHED, **_asked(order)}
        self.ports.tell(Event(What.KEY_DELETED, target.name, Level.INFO, fields))

    def _remove_stray(self, target: Target, name: str, order: Order) -> None:
        """A create was sent and not answered: if a key of this attempt's own name exists, remove it."""
        try:
            for key in listed(self.ports):
                if key.name == name:
                    self._discard(target, key.id, name, order)
        except ProviderError as error:
            self._left_behind(target, "unknown", name, error)

    def _left_behind(self, target: Target, key_id: str, name: str, error: RotatorError) -> None:
        fields = {"key_id": key_id, "key_name": name, "error": error.message}
        self.ports.tell(Event(What.KEY_LEFT_BEHIND, target.name, Level.WARNING, fields))

    # --- the other keys --------------------------------------------------------------------------------------------

    def _set_expiry(self, observation: Observation, action: SetExpiry, order: Order) -> Observation:
        record = action.record
        seen = observation.vendor[record.key_id].key
        try:
            found = self.ports.provider.set_expiry(record.key_id, action.until)
        except ProviderRequestRefused:
            if action.reason is not Reason.RESTORED:
                raise
            found = False  # a served key that cannot be restored is replaced, like one that is gone
        if found:
            what = What.KEY_RESTORED if action.reason is Reason.RESTORED else What.KEY_SHORTENED
            name, until = record.key_name, timestamp(action.until)
            self.tell_of(what, observation, order, record.key_id, name, reason=action.reason, expires_at=until)
        key = replace(seen, expires_at=action.until) if found and seen else None
        return self.memory.note(observation, record.key_id, key)

    def _retire(self, observation: Observation, action: Retire, order: Order) -> Observation | None:
        """Destroy, look again, delete: once its versions are gone, nobody can roll the path back to the key."""
        target, key = observation.target, action.key
        numbers = [version.number for version in key.versions if not version.foreign_fields]
        if numbers:
            self.ports.store.destroy(target.path, numbers)
            versions = ",".join(map(str, numbers))
            self.tell_of(
                What.VERSIONS_DESTROYED,
                observation,
                order,
                key.key_id,
                key.record.key_name,
                reason=action.reason,
                versions=versions,
            )
        after = self.observe(target)
        current = after.current
        kept = {version.number for version in key.versions} - {*numbers}
        served_again = any(entry.key_id == key.key_id and entry.number not in kept for entry in after.entries)
        if current is None or current.standing is not Standing.OURS or served_again or self._too_old(after):
            return None
        try:
            self.ports.provider.delete(key.key_id)
        except ProviderError as error:
            self._left_behind(target, key.key_id, key.record.key_name, error)
            raise
        self.tell_of(What.KEY_DELETED, observation, order, key.key_id, key.record.key_name, reason=action.reason)
        return self.memory.note(after, key.key_id, None)

    def tell_of(
        self,
        what: What,
        observation: Observation,
        order: Order,
        key_id: str,
        key_name: str,
        **fields: str | int,
    ) -> None:
        """Tell what was done to a key of a target, by whose wish."""
        fields = {"key_id": key_id, "key_name": key_name, **fields, **_asked(order)}
        self.ports.tell(Event(what, observation.target.name, Level.INFO, fields))


def listed(ports: Ports, needed_by: datetime = TIDYING) -> tuple[VendorKey, ...]:
    """The provider's whole list. Raises `ProviderError`: then it proves nothing."""
    pages = ports.provider.pages(before=lambda: ports.budget.take(needed_by))
    return tuple(key for page in pages for key in page)


def _asked(order: Order) -> dict[str, str]:
    """Who asked for it, and why."""
    return {"by": order.by, **({"note": order.note} if order.note else {})}


def _identity(action: Action) -> object:
    """What makes two actions of one pass the same attempt."""
    match action:
        case Rotate():
            return "rotate"
        case SetExpiry():
            return (action.reason, action.record.key_id)
        case Retire():
            return ("retire", action.key.key_id)


def carried_over(observation: Observation) -> dict[str, Any]:
    """The fields of the current version that are neither ours nor configured: they stay with the path."""
    current = observation.history.current
    if current is None or current.data is None:
        return {}
    foreign = read_version(current, observation.target, observation.scope).foreign_fields
    return {name: value for name, value in current.data.items() if name in foreign}
