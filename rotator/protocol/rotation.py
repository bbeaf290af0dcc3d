"""One rotation: prove that a new key can be stored, create it, probe it, publish it; or remove it again.

`core.plan` decides whether one is due. The order of the steps is the protocol of docs/architecture.md: no key is
created before the store is known to take it, and a created key is removed only while it cannot be served.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from rotator.core.caps import carried
from rotator.core.errors import (
    ProviderCredentialRefused,
    ProviderError,
    ProviderKeyNotAccepted,
    ProviderOutcomeUnknown,
    ProviderRequestRefused,
    ProviderUnavailable,
    StoreError,
)
from rotator.core.events import Event, EventType, Fields, Level
from rotator.core.expiry import TOLERANCE
from rotator.core.keys import UNIQUE_ALPHABET, UNIQUE_LENGTH, CreatedKey, KeyName, ProviderKey
from rotator.core.observation import Observation, PathReading
from rotator.core.plan import Rotate
from rotator.core.ports import Clock, Ports
from rotator.core.reasons import Reason
from rotator.core.renewal import TIDYING, due_at
from rotator.core.request import SCHEDULED, RotationRequest
from rotator.core.secrets import Secret
from rotator.core.target import Target
from rotator.core.times import timestamp
from rotator.core.traits import Traits
from rotator.core.versions import RECORD_FIELD, History, Record, compose
from rotator.protocol.audit import emit_key_event, emit_not_removed, emit_published
from rotator.protocol.expiry import set_expiry
from rotator.protocol.memory import PendingKey
from rotator.protocol.observer import Observer
from rotator.protocol.publish import publish

PROBE_WAITS = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
"""Seconds between attempts to probe a new key, or to find it at the provider."""

UNPUBLISHED = "unpublished"
"""Why a created key that can never be served is deleted; no plan has this reason."""

PLACEHOLDER = Secret("x" * 128)
"""As long as a key may be: a store that refuses the body for its size must do so before a key exists."""


class Rotation:
    """Makes new keys and publishes them, for the targets of one provider and one store. Used by a `Reconciler`."""

    def __init__(self, observer: Observer) -> None:
        self._owner, self._ports, self._memory = observer.owner, observer.ports, observer.memory
        self._min_age = observer.min_age

    def rotate(
        self, observation: Observation, action: Rotate, request: RotationRequest
    ) -> tuple[Observation | None, bool]:
        """Publish a new key. Return what is known now, and whether our key is served.

        Nothing is known (None) when another write came first, or may have come since.
        """
        pending = self._made_before(observation, action, request) or self._make(observation, action, request)
        # Another replica may lead by now: the preflight and the look-up can take as long as a Lease lasts.
        if pending is None or (pending.unsettled and not may_act(self._ports, request)):
            return observation, False
        return self._publish(observation, pending)

    def _made_before(self, observation: Observation, action: Rotate, request: RotationRequest) -> PendingKey | None:
        """Return the key of an earlier pass whose write may still land, if it is as good as a new one.

        Otherwise a store that refuses all writes would have us make one key after the other, and none may be removed.
        """
        target, ports = observation.target, self._ports
        pending = self._memory.pending.get(target.name)
        if pending is None or (pending.base, pending.provider) != (action.base, target.provider):
            return None
        record = pending.record
        if not observation.scope.owns(record.key_name) or record.params != target.fingerprint:
            return None
        if due_at(record, target) <= ports.clock.now():
            return None
        ports.store.preflight(target.path, compose(target, record, pending.secret, observation.preserved_fields()))
        asked_at = ports.clock.now()
        try:
            found = ports.provider.retrieve(record.key_id)
        except ProviderRequestRefused:  # some providers have no other answer for a key that is gone
            found = None
        if found is None and record.is_younger(self._min_age, asked_at):
            return replace(pending, reason=action.reason, request=request)  # the provider may not show it yet
        is_gone = found is None or not found.may_be(record.key_name)  # a later key may have its id
        if is_gone or (found and found.expires_at and found.expires_at < record.expires_at - TOLERANCE):
            self._memory.pending.pop(target.name, None)
            raise ProviderError(
                f"the new key {record.key_id}, which waits to be written to {target.path}, is gone or about to expire",
                "Nothing to do: the next try makes another one.",
            )
        return replace(pending, reason=action.reason, request=request)

    def _make(self, observation: Observation, action: Rotate, request: RotationRequest) -> PendingKey | None:
        """Prove that a key can be stored, and create one. Return None where another replica leads by now."""
        target = observation.target
        ports = self._ports
        now = earliest_now(ports.clock).replace(microsecond=0)
        asked = now + target.ttl
        unique = "".join(ports.rng.choice(UNIQUE_ALPHABET) for _ in range(UNIQUE_LENGTH))
        name = str(KeyName(self._owner, target.name, observation.scope.place, action.base + 1, unique))
        record = Record(
            owner=self._owner,
            target=target.name,
            key_id="x" * 64,
            key_name=name,
            issued_at=now,
            expires_at=asked,
            params=target.fingerprint,
            key=PLACEHOLDER.fingerprint,
            why=action.reason.value,
            early=carried(observation, ports.clock.now()),
        )

        # No key is created in vain: first make sure that the store takes it.
        ports.store.preflight(target.path, compose(target, record, PLACEHOLDER, observation.preserved_fields()))
        if not may_act(ports, request):  # another may lead by now: the preflight can take as long as a Lease lasts
            return None
        try:
            created = ports.provider.create(name, target.parameters, asked)
            created = self._recognise(observation, created, record)
        except (ProviderUnavailable, ProviderCredentialRefused):  # not sent; or refused like every other request
            raise
        except ProviderError:  # whatever the status, the key may have been made
            ports.strays.look_for(target, name, request)
            raise
        record = replace(record, key_id=created.id, key=created.secret.fingerprint)
        emit_key_event(ports.emit, EventType.KEY_CREATED, target, record, request, action.reason)
        try:
            expires_at = self._believe(observation, created, record, request, action.reason)
            self._probe(created)
        except Exception:  # any: this key is not served yet, and only this process knows it
            self._discard(target, record, request)
            raise
        record = replace(record, expires_at=expires_at)
        return PendingKey(target.provider, action.base, record, created.secret, action.reason, request)

    def _publish(self, observation: Observation, pending: PendingKey) -> tuple[Observation | None, bool]:
        """Publish the key, unless another write comes first. Return what `rotate` returns."""
        target, ports, record, request = observation.target, self._ports, pending.record, pending.request
        observed_at = ports.clock.monotonic()
        data = compose(target, record, pending.secret, observation.preserved_fields())
        waiting = self._memory.pending.pop(target.name, None)
        # A stale read may show the path before the version that a waiting key is to follow: then that key waits on.
        later = waiting if waiting is not None and waiting.base > pending.base else None
        try:
            version = publish(ports.store, ports.clock, target, data, pending.base)
        except StoreError as error:
            # It may have landed, or still land: the next pass writes it again, or a sweep judges it.
            self._memory.pending[target.name] = later or replace(pending, unsettled=True)
            if not pending.unsettled:
                emit_not_removed(ports.emit, target, record.key_id, record.key_name, error)
            raise
        if version is None:
            if later is not None:
                self._memory.pending[target.name] = later
            what, number = EventType.PUBLISH_CONFLICT, pending.base + 1
            emit_key_event(ports.emit, what, target, record, request, pending.reason, version=number)
            self._discard(target, record, request)
            return None, False
        emit_published(ports.emit, target, pending, version.number)
        self._memory.published(target, record, version.created_at)
        if version.vanishes_at is not None and version.vanishes_at < record.expires_at:
            fields: Fields = {
                "key_id": record.key_id,
                "key_name": record.key_name,
                "version": version.number,
                "vanishes_at": timestamp(version.vanishes_at),
                "expires_at": timestamp(record.expires_at),
                "advice": "Applications would find no key then: `rotator check --online` shows where that is set.",
            }
            ports.emit(Event(EventType.VERSION_EXPIRES_EARLY, target.name, Level.ERROR, fields))
        self._memory.require_whole(target)
        if pending.unsettled:
            return None, True  # it may have landed long ago, and the path have moved on
        history = History(version.number, (*observation.history.versions, version), observed_at)
        reading = PathReading(target, observation.scope, history)
        published = replace(observation, reading=reading, answered_at=ports.clock.monotonic())
        return self._memory.note(published, record.key_id, published.as_recorded(record)), True

    def _recognise(self, observation: Observation, created: CreatedKey, wanted: Record) -> CreatedKey:
        """Return the answer to a create, with the expiry that a look-up showed where the answer lacks it.

        Raises `ProviderOutcomeUnknown` where it is about another key than the new one.
        """
        name, asked = wanted.key_name, wanted.expires_at
        mismatch = _mismatch(created, name, observation.history, self._memory.in_use(observation.target.provider))
        if not mismatch and (not created.name or _needs_look_up(created, asked, observation.traits)):
            try:
                found = self._look_up_new(created.id, asked)
            except ProviderError as error:
                mismatch = f"the id {created.id}, which could not be looked up: {error.message}"
            else:
                if found is None or not found.may_be(name):
                    mismatch = f"the id {created.id}, which is {f'that of {found.name}' if found else 'unknown'}"
                elif created.expires_at is None:
                    created = replace(created, expires_at=found.expires_at)
        if mismatch:
            raise ProviderOutcomeUnknown(
                f"the provider answered the create of {name} with {mismatch}; that key was not touched",
                "The served key stays, and the next try makes another one. If it happens again, report it to the "
                "provider: an answer went to the wrong request.",
            )
        return created

    def _look_up_new(self, key_id: str, asked: datetime) -> ProviderKey | None:
        """Look up a key that was just created, for as long as the provider may take to show it."""
        for wait in (*PROBE_WAITS, None):
            self._ports.budget.take(asked)
            found = self._ports.provider.retrieve(key_id)
            if found is not None or wait is None:
                return found
            self._ports.clock.sleep(wait)
        return None

    def _believe(
        self, observation: Observation, created: CreatedKey, wanted: Record, request: RotationRequest, reason: Reason
    ) -> datetime:
        """Return when the key really expires: as answered if that is earlier than requested. Correct a later expiry.

        A provider that rounds up, or cannot set an expiry, keeps a later one than was requested. It is not believed:
        the key is replaced as if it expired as requested. So is a key that never expires.
        """
        target, traits = observation.target, observation.traits
        asked, answered = wanted.expires_at, created.expires_at
        if traits.can_set_expiry and (answered is None or _is_longer(created, asked)):
            self._ports.budget.take(asked)
            shown = set_expiry(self._ports, created.id, asked, asked)
            if shown is None:
                raise ProviderRequestRefused(
                    f"the new key {created.id} is gone before it was published",
                    "Nothing to do, unless it happens again: then find out what removes keys at the provider.",
                )
            if shown != answered:
                what, until = EventType.KEY_SHORTENED, timestamp(shown)
                emit_key_event(self._ports.emit, what, target, wanted, request, reason, expires_at=until)
            answered = shown
        if answered is None or not traits.keys_expire:
            answered = asked
        if answered <= earliest_now(self._ports.clock):
            raise ProviderRequestRefused(
                f"asked for a key that lives until {timestamp(asked)}, the provider made one that expired at "
                f"{timestamp(answered)}",
                "Compare this machine's clock and the provider's.",
            )
        if answered < asked - TOLERANCE:
            fields = {"key_id": created.id, "key_name": wanted.key_name, "expires_at": timestamp(answered)}
            self._ports.emit(Event(EventType.KEY_CUT_SHORT, target.name, Level.WARNING, fields))
        return min(asked, answered)

    def _probe(self, created: CreatedKey) -> None:
        """Return if the new key works, for which a provider may take a while. Raises the probe's error."""
        for wait in (*PROBE_WAITS, None):
            try:
                self._ports.provider.probe(created.secret)
            except (ProviderKeyNotAccepted, ProviderUnavailable):
                if wait is None:
                    raise
                self._ports.clock.sleep(wait)
            else:
                return

    def _discard(self, target: Target, record: Record, request: RotationRequest) -> None:
        """Remove a key that this process created, and that can never be served; if it is shown to be that key."""
        ports = self._ports
        try:
            ports.budget.take(TIDYING)
            found = ports.provider.retrieve(record.key_id)
            # Else the provider may not show it yet, or it is another.
            is_it = found is not None and found.may_be(record.key_name)
            if is_it:
                ports.budget.take(TIDYING)
                ports.provider.delete(record.key_id)
        except ProviderError:
            is_it = False
        if is_it:
            emit_key_event(ports.emit, EventType.KEY_DELETED, target, record, request, UNPUBLISHED)
        else:
            ports.strays.look_for(target, record.key_name, request)


def _mismatch(created: CreatedKey, name: str, history: History, in_use: Iterable[Record]) -> str:
    """Return what the answer to a create shows in place of a new key of this name; empty where it shows one."""
    if created.name not in ("", name):
        return f"the key {created.id}, which is called {created.name}"
    held = [version.data for version in history.versions if version.data is not None]
    records = [record for data in held if (record := Record.parse(data.get(RECORD_FIELD)))] + list(in_use)
    if any(created.id == record.key_id for record in records):
        return f"the id of a key that is in use, {created.id}"
    fingerprint = created.secret.fingerprint  # once: a provider may have thousands of keys in use
    has_text = any(created.secret.reveal() in data.values() for data in held)
    if has_text or any(fingerprint == record.key for record in records):
        return f"the text of a key that is in use, under the id {created.id}"
    return ""


def _needs_look_up(created: CreatedKey, asked: datetime, traits: Traits) -> bool:
    """Return whether a new key's expiry is to be changed by its id, or is missing in the answer."""
    return traits.keys_expire and (created.expires_at is None or (traits.can_set_expiry and _is_longer(created, asked)))


def _is_longer(created: CreatedKey, asked: datetime) -> bool:
    return created.expires_at is None or created.expires_at > asked + TOLERANCE


def earliest_now(clock: Clock) -> datetime:
    """Return the time from which a new key's life counts: the upstreams' where they contradict a clock that is ahead.

    Nothing would notice a key that lives too long. One that lives too short is refused or replaced.
    """
    return clock.now() - max(timedelta(0), clock.disputed_by())


def may_act(ports: Ports, request: RotationRequest) -> bool:
    """Return whether this replica may act: only the leader does what is scheduled; any replica serves a person."""
    return request.by != SCHEDULED.by or ports.leads()
