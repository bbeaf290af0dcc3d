"""A world in memory: a store with versions, a provider, a clock, and a wire on which anything may go wrong.

Every call that the code under test makes crosses `Wire`: it is noted in order, and a `Fault` may stand in for its
effect. What a person or another program does by hand does not cross it. The world keeps the whole truth, so that it can
find every broken promise (`World.broken`), whatever was answered.
"""

import itertools
import json
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from math import inf
from typing import Any, TypeVar

from rotator.core.errors import (
    CasMismatch,
    ProviderCredentialRefused,
    ProviderKeyNotAccepted,
    ProviderOutcomeUnknown,
    ProviderRateLimited,
    ProviderRequestRefused,
    ProviderUnavailable,
    RotatorError,
    StoreCredentialRefused,
    StoreMountUnusable,
    StoreOutcomeUnknown,
    StorePermissionDenied,
    StoreRequestRefused,
    StoreSealed,
    StoreUnavailable,
)
from rotator.core.events import Event
from rotator.core.expiry import NEVER, TOLERANCE
from rotator.core.keys import CreatedKey, ListedKey, ProviderKey, UnreadableKey
from rotator.core.ports import Ports
from rotator.core.secrets import Secret
from rotator.core.target import KeyParameters, Target
from rotator.core.traits import Traits
from rotator.core.use import KeyUse
from rotator.core.versions import History, Record, Version
from rotator.protocol.memory import Memory
from rotator.protocol.observer import Observer
from rotator.protocol.reconciler import Reconciler
from rotator.protocol.strays import StrayKeys
from support import clocks
from support.clocks import FakeClock
from support.recorded_events import RecordedEvents

START = clocks.START
HOUR = timedelta(hours=1)
ALL = Traits("Vendor")
FIXED = Traits("Vendor", can_set_expiry=False)
ENDLESS = Traits("Vendor", can_set_expiry=False, keys_expire=False)
OWNER = "prod-eu"
T = TypeVar("T")


# --- the wire --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Call:
    """One call of one program ("actor") to one port; `effect` does it and returns the answer."""

    number: int
    actor: str
    operation: str  # "store.write", "provider.create", …
    arguments: tuple[Any, ...] = field(repr=False)
    effect: Callable[[], Any] = field(repr=False)

    @property
    def subject(self) -> str:
        """The path, the key's id, or (for a create) the key's name."""
        return str(self.arguments[0]) if self.arguments else ""


Fault = Callable[[Call], Any]
"""Stands in for a call's effect, which it may or may not let happen; returns the answer, or raises."""


class Wire:
    """What all calls go through, in the order in which they are made."""

    def __init__(self) -> None:
        self.journal: list[Call] = []
        self.route: Fault = lambda call: call.effect()
        self._lock = threading.Lock()

    def call(self, actor: str, operation: str, effect: Callable[[], T], *arguments: object) -> T:
        with self._lock:
            call = Call(len(self.journal), actor, operation, arguments, effect)
            self.journal.append(call)
        answer: T = self.route(call)
        return answer


def refuse(error: BaseException) -> Fault:
    """Not done, and `error` is answered: "unsent" if the error leaves the outcome unknown."""

    def fault(call: Call) -> None:
        raise error

    return fault


def lost(error: BaseException) -> Fault:
    """Done, but `error` is answered."""

    def fault(call: Call) -> None:
        call.effect()
        raise error

    return fault


def meanwhile(act: Callable[[], object]) -> Fault:
    """Done as asked, just after `act`."""

    def fault(call: Call) -> Any:
        act()
        return call.effect()

    return fault


def afterwards(act: Callable[[], object]) -> Fault:
    """Done as asked, and `act` happens before the answer arrives."""

    def fault(call: Call) -> Any:
        answer = call.effect()
        act()
        return answer

    return fault


# --- the store -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class StoredVersion:
    number: int
    created_at: datetime
    data: dict[str, Any]
    deleted: bool = False
    destroyed: bool = False

    def seen(self) -> Version:
        hidden = self.deleted or self.destroyed
        data = None if hidden else json.loads(json.dumps(self.data))
        return Version(self.number, self.created_at, data, self.destroyed)


@dataclass(frozen=True, slots=True)
class Put:
    """One write that the store ever took, kept whatever becomes of the version."""

    at: datetime
    path: str
    number: int
    data: Mapping[str, Any]


def only_newest(history: History) -> History:
    """The same, as one who reads the current version alone sees it."""
    return replace(history, versions=(history.current,) if history.current else ())


class MemoryStore:
    """Paths in the ways of KV version 2: what is true of them, and what people do to them by hand."""

    def __init__(self, clock: FakeClock, max_versions: int = 10) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._counters: dict[str, int] = {}
        self._versions: dict[str, dict[int, StoredVersion]] = {}
        self.puts: list[Put] = []
        self.max_versions = max_versions

    def put(self, path: str, **data: object) -> int:
        return self.write(path, data, self.current_version(path)).number

    def patch(self, path: str, **data: object) -> int:
        return self.put(path, **{**(self.read(path) or {}), **data})

    def move(self, path: str, to: str) -> None:
        """Do to a path what `vault secrets move` does to its mount: all versions go with it."""
        self._versions[to], self._counters[to] = self._versions.pop(path), self._counters.pop(path)

    def rollback(self, path: str, number: int) -> bool:
        """Do what `vault kv rollback` does; return False when that version cannot be read."""
        version = self._versions.get(path, {}).get(number)
        if version is None or version.deleted or version.destroyed:
            return False
        self.put(path, **version.data)
        return True

    def delete(self, path: str, *numbers: int) -> None:
        for number in numbers or (self.current_version(path),):
            self._versions[path][number].deleted = True

    def undelete(self, path: str, *numbers: int) -> None:
        for number in numbers:
            self._versions[path][number].deleted = False

    def destroy(self, path: str, *numbers: int) -> None:
        for number in numbers:
            if version := self._versions.get(path, {}).get(number):
                version.destroyed, version.data = True, {}

    def delete_metadata(self, path: str) -> None:
        """Make the path absent: its counter starts again."""
        self._counters.pop(path, None)
        self._versions.pop(path, None)

    def current_version(self, path: str) -> int:
        return self._counters.get(path, 0)

    def versions(self, path: str) -> dict[int, StoredVersion]:
        return self._versions.get(path, {})

    def read(self, path: str) -> dict[str, Any] | None:
        """Return what an application reads."""
        version = self.versions(path).get(self.current_version(path))
        return None if version is None or version.deleted or version.destroyed else version.data

    def history(self, path: str, observed_at: float) -> History:
        with self._lock:
            versions = sorted(self.versions(path).items())
            return History(self.current_version(path), tuple(version.seen() for _, version in versions), observed_at)

    def newest(self, path: str, observed_at: float) -> History:
        return only_newest(self.history(path, observed_at))

    def write(self, path: str, data: Mapping[str, Any], cas: int) -> Version:
        with self._lock:
            if cas != self.current_version(path):
                raise CasMismatch(f"{path} is at version {self.current_version(path)}, not {cas}")
            number = cas + 1
            version = StoredVersion(number, self._clock.now(), json.loads(json.dumps(data)))
            kept = self._versions.setdefault(path, {})
            kept[number] = version
            for old in [*kept]:
                if old <= number - self.max_versions:
                    del kept[old]
            self._counters[path] = number
            self.puts.append(Put(version.created_at, path, number, dict(version.data)))
            return version.seen()


@dataclass(frozen=True, slots=True)
class StoreClient:
    """A `ports.Store`: how one process calls the store."""

    store: MemoryStore
    clock: FakeClock
    wire: Wire
    actor: str
    place: str = "memory"
    former: tuple[str, ...] = ()  # the places that the store's data were in before

    def location(self, path: str) -> str:
        return self.wire.call(self.actor, "store.location", lambda: f"{self.place}/{path}", path)

    def former_locations(self, path: str) -> Sequence[str]:
        return [f"{former}/{path}" for former in self.former]

    def history(self, path: str) -> History:
        observed_at = self.clock.monotonic()
        return self.wire.call(self.actor, "store.history", lambda: self.store.history(path, observed_at), path)

    def newest(self, path: str) -> History:
        observed_at = self.clock.monotonic()
        return self.wire.call(self.actor, "store.history", lambda: self.store.newest(path, observed_at), path)

    def preflight(self, path: str, data: Mapping[str, Any]) -> None:
        self.wire.call(self.actor, "store.preflight", lambda: None, path, data)

    def write(self, path: str, data: Mapping[str, Any], cas: int) -> Version:
        return self.wire.call(self.actor, "store.write", lambda: self.store.write(path, data, cas), path, data, cas)

    def destroy(self, path: str, versions: Sequence[int]) -> None:
        self.wire.call(self.actor, "store.destroy", lambda: self.store.destroy(path, *versions), path, versions)


# --- the vendor ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class IssuedKey:
    id: str
    name: str
    text: str
    expires_at: datetime | None
    granted: datetime  # when it expires if not touched by others; without an expiry, when it is replaced
    revoked: bool = False

    def seen(self) -> ProviderKey:
        return ProviderKey(self.id, self.name, self.expires_at)


class MemoryVendor:
    """Keys: what is true of them, and what people do to them by hand."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self.keys: dict[str, IssuedKey] = {}
        self.made: dict[str, float] = {}  # when, by the monotonic clock
        self.shown_after = 0.0  # seconds in which a new key is in no list, and a look-up does not find it
        self.unreadable: dict[str, UnreadableKey] = {}  # how the list shows a key, or an entry that is no key, by id
        self.refusal: ProviderCredentialRefused | None = None  # as it is known before anything is sent
        self.grants: Callable[[datetime], datetime | None] = lambda asked: asked  # what expiry a new key gets
        self.traits = ALL
        self.keeps: Callable[[datetime], datetime] = lambda asked: asked  # what becomes of an expiry that is changed
        self.use: dict[str, KeyUse] = {}  # of keys, by id, as it is now
        self.shows_use = frozenset({"list", "retrieve"})  # where it is shown
        self.is_dated = False  # whether it shows when a key was made
        self.answers_changes = True  # with the expiry, else without

    def issue(self, name: str, expires_at: datetime | None, granted: datetime | None = None) -> IssuedKey:
        with self._lock:
            expires_at = expires_at if self.traits.keys_expire else None
            number = len(self.keys) + 1
            text = f"sk-text-of-{number:04}-{name[-8:]}"
            key = IssuedKey(f"tk_{number:04}", name, text, expires_at, granted or datetime.max.replace(tzinfo=UTC))
            if expires_at:
                key.granted = min(key.granted, expires_at)
            self.keys[key.id] = key
            self.made[key.id] = self._clock.monotonic()
        return key

    def seen(self, key: IssuedKey, where: str = "") -> ProviderKey:
        made_at = START + timedelta(seconds=self.made[key.id]) if self.is_dated else None
        use = self.use.get(key.id) if where in self.shows_use else None
        return ProviderKey(key.id, key.name, key.expires_at, made_at, use)

    def age(self, key: IssuedKey) -> float:
        """Seconds since it was made."""
        return self._clock.monotonic() - self.made[key.id]

    def shows(self, key: IssuedKey) -> bool:
        return not key.revoked and self.age(key) >= self.shown_after

    def revoke(self, key_id: str) -> None:
        if key_id in self.keys:
            self.keys[key_id].revoked = True

    def alive(self, key: IssuedKey) -> bool:
        """Whether a call with it would be answered now."""
        return not key.revoked and (key.expires_at is None or key.expires_at > self._clock.now())

    def living(self) -> list[IssuedKey]:
        return [key for key in [*self.keys.values()] if self.alive(key)]

    def by_text(self, text: object) -> IssuedKey | None:
        return next((key for key in [*self.keys.values()] if key.text == text), None)

    def unrevoked(self, key_id: str) -> IssuedKey | None:
        key = self.keys.get(key_id)
        return None if key is None or key.revoked else key


@dataclass(frozen=True, slots=True)
class VendorClient:
    """A `ports.Provider`: how one process calls the provider, which lists two keys a page."""

    vendor: MemoryVendor
    wire: Wire
    actor: str

    @property
    def traits(self) -> Traits:
        return self.vendor.traits

    def create(self, name: str, parameters: KeyParameters, expires_at: datetime) -> CreatedKey:
        def effect() -> CreatedKey:
            key = self.vendor.issue(name, self.vendor.grants(expires_at), granted=expires_at)
            return CreatedKey(key.id, key.name, Secret(key.text), key.expires_at)

        return self.wire.call(self.actor, "provider.create", effect, name, parameters, expires_at)

    def ready(self) -> None:
        if self.vendor.refusal:
            raise self.vendor.refusal

    def pages(self, before: Callable[[], object]) -> Iterator[Sequence[ListedKey]]:
        def effect() -> Sequence[ListedKey]:
            keys: dict[str, ListedKey] = {
                key.id: self.vendor.seen(key, "list") for key in [*self.vendor.keys.values()] if self.vendor.shows(key)
            }
            return [*{**keys, **self.vendor.unreadable}.values()][start : start + 2]

        start = 0
        while True:
            before()
            if not (page := self.wire.call(self.actor, "provider.page", effect)):
                return
            yield page
            start += 2

    def retrieve(self, key_id: str) -> ProviderKey | None:
        def effect() -> ProviderKey | None:
            key = self.vendor.unrevoked(key_id)
            return self.vendor.seen(key, "retrieve") if key and self.vendor.shows(key) else None

        return self.wire.call(self.actor, "provider.retrieve", effect, key_id)

    def set_expiry(self, key_id: str, expires_at: datetime) -> ProviderKey | None:
        assert self.traits.can_set_expiry

        def effect() -> ProviderKey | None:
            key = self.vendor.unrevoked(key_id)
            if key is None:
                return None
            key.expires_at = self.vendor.keeps(expires_at)
            return key.seen() if self.vendor.answers_changes else replace(key.seen(), expires_at=None)

        return self.wire.call(self.actor, "provider.set_expiry", effect, key_id, expires_at)

    def delete(self, key_id: str) -> None:
        self.wire.call(self.actor, "provider.delete", lambda: self.vendor.revoke(key_id), key_id)

    def probe(self, key: Secret) -> None:
        self.wire.call(self.actor, "probe", lambda: None)


@dataclass(slots=True)
class BudgetClient:
    """A `ports.Budget` that admits every caller after `wait` seconds."""

    clock: FakeClock
    wire: Wire
    actor: str
    wait: float

    def take(self, deadline: datetime) -> None:
        self.wire.call(self.actor, "budget.take", lambda: self.clock.sleep(self.wait), deadline)

    def pause(self, seconds: float) -> None:
        self.wire.call(self.actor, "budget.pause", lambda: None, seconds)


# --- all of it together ----------------------------------------------------------------------------------------------


def make_target(name: str = "billing-api", **overrides: Any) -> Target:
    """Return a target with the configuration's defaults, without jitter."""
    values: dict[str, Any] = {
        "path": f"apps/{name}/respan",
        "provider": "respan",
        "store": "vault",
        "key_field": "api_key",
        "extra_fields": {"base_url": "https://api.respan.ai"},
        "parameters": {"rate_limit": 100},
        "ttl": 24 * HOUR,
        "renew_before": 8 * HOUR,
        "grace_period": 4 * HOUR,
        "jitter": timedelta(0),
    }
    return Target(name, **{**values, **overrides})


class World:
    """A store, a provider and a clock around some targets, and a record of all that happens.

    `broken` names each time a key was ended that was served, or that was within its grace. (After a rollback by hand at
    the worst moment a served key may be shortened; then it has to be restored. With revoke-now grace ends early.)
    """

    def __init__(self, *targets: Target, max_versions: int = 10) -> None:
        self.targets = targets or (make_target(),)
        self.clock = FakeClock()
        self.wire = Wire()
        self.store = MemoryStore(self.clock, max_versions)
        self.vendor = MemoryVendor(self.clock)
        self.events = RecordedEvents()
        self.late: list[Callable[[], object]] = []  # effects that were sent and have not landed yet
        self.broken: list[str] = []
        self.strays: list[StrayKeys] = []  # of each program
        self._served: dict[str, dict[str, Record]] = {}  # by program
        self._seeds = itertools.count()
        self.at(lambda call: call.operation in ("provider.delete", "provider.set_expiry"), self._watch, times=inf)

    @property
    def target(self) -> Target:
        """Return the only target, or the first."""
        return self.targets[0]

    def reconciler(self, actor: str = "a", budget_wait: float = 0.0) -> Reconciler:
        """Return a process that was just started, and knows nothing."""
        names = frozenset(target.name for target in self.targets)
        memory = Memory(served=self._served.setdefault(actor, {}), is_swept=True)
        return Reconciler(Observer(OWNER, frozenset(), names, self.ports(actor, budget_wait), memory))

    def ports(self, actor: str, budget_wait: float = 0.0) -> Ports:
        """Return all ports of one process; its budget admits it after `budget_wait` seconds."""
        provider = VendorClient(self.vendor, self.wire, actor)
        budget = BudgetClient(self.clock, self.wire, actor, budget_wait)
        served = self._served.setdefault(actor, {})
        self.strays.append(StrayKeys(provider, budget, self.clock, self._listen, served))
        return Ports(
            provider,
            StoreClient(self.store, self.clock, self.wire, actor),
            budget,
            self.clock,
            random.Random(next(self._seeds)),
            self._listen,
            self.strays[-1],
        )

    def remove_strays(self, *, at_last: bool = False) -> None:
        """Let every process look for the keys that it may have made in vain."""
        for strays in self.strays:
            strays.remove(at_last=at_last)

    def _listen(self, event: Event) -> None:
        self.events.append(event)

    def at(self, when: str | int | Callable[[Call], bool], fault: Fault, times: float = 1) -> None:
        """Let `fault` stand in for the next calls that are meant: by operation, by number, or by anything."""
        inner = self.wire.route

        def route(call: Call) -> Any:
            nonlocal times
            meant = when(call) if callable(when) else when in (call.operation, call.number)
            if not meant or times <= 0:
                return inner(call)
            times -= 1
            return fault(replace(call, effect=lambda: inner(call)))

        self.wire.route = route

    def delay(self, error: BaseException) -> Fault:
        """Sent and not answered: `error`; its effect lands with `land`."""

        def fault(call: Call) -> None:
            self.late.append(call.effect)
            raise error

        return fault

    def land(self) -> None:
        """Let all requests under way land; their answers are lost."""
        while self.late:
            effect = self.late.pop(0)
            try:
                effect()
            except RotatorError:
                continue

    def calls(self, prefix: str = "", since: int = 0) -> list[str]:
        """Return the operations called, in order; those of the budget only when asked for."""
        names = [call.operation for call in self.wire.journal[since:]]
        return [name for name in names if name.startswith(prefix) and (prefix or not name.startswith("budget."))]

    def served(self, target: Target | None = None) -> IssuedKey | None:
        """Return the key that applications read at the target's path; None when it is absent or unknown."""
        target = target or self.target
        return self.vendor.by_text((self.store.read(target.path) or {}).get(target.key_field))

    def superseded_at(self, key: IssuedKey) -> datetime | None:
        """Return when the key was last replaced in its path; None when it is served, or never was."""
        since = None
        held = None
        for put in self.store.puts:
            if key.text in put.data.values():
                held, since = put.path, None
            elif put.path == held and since is None:
                since = put.at
        return since

    def _watch(self, call: Call) -> Any:
        key = self.vendor.keys.get(call.subject)
        if key and self.vendor.alive(key):
            ends = call.arguments[1] if call.operation == "provider.set_expiry" else self.clock.now()
            target = next((target for target in self.targets if self.served(target) is key), None)
            since = self.superseded_at(key)
            granted = key.granted if self.vendor.traits.keys_expire else NEVER
            if target and ends < granted - TOLERANCE:
                self.broken.append(f"{call.operation} of the key that {target.name} serves")
            elif since and ends < min(granted, since + self.target.grace_period) - TOLERANCE:
                self.broken.append(f"{call.operation} of {key.id} within its grace")
        return call.effect()


# --- what may be answered --------------------------------------------------------------------------------------------

CHANGES = ("store.write", "store.destroy", "provider.create", "provider.set_expiry", "provider.delete")
_REFUSALS: dict[str, tuple[type[RotatorError], ...]] = {
    "store.": (StoreCredentialRefused, StorePermissionDenied, StoreMountUnusable, StoreSealed),
    "store.location": (StoreUnavailable,),
    "store.history": (StoreUnavailable,),
    "store.preflight": (StoreUnavailable, StoreRequestRefused),
    "store.write": (StoreRequestRefused,),
    "provider.": (ProviderCredentialRefused, ProviderRequestRefused, ProviderUnavailable),
    "probe": (ProviderKeyNotAccepted, ProviderUnavailable),
    "budget.take": (ProviderUnavailable,),
}


def refusals(operation: str) -> list[RotatorError]:
    """Return every error that the contract allows when this operation was not done."""
    kinds = [kind for name, kinds in _REFUSALS.items() if operation.startswith(name) for kind in kinds]
    errors = [kind(f"{operation}: {kind.__name__}") for kind in kinds]
    limited = [ProviderRateLimited(f"{operation}: too much", 30.0)] if operation.startswith("provider.") else []
    return [*errors, *limited]


def unknown(operation: str) -> RotatorError:
    """Return the error for a change whose outcome is unknown."""
    kind = StoreOutcomeUnknown if operation.startswith("store.") else ProviderOutcomeUnknown
    return kind(f"{operation}: no answer")


def faults(world: World, operation: str) -> dict[str, Fault]:
    """Return every way in which the contract allows a call to fail, by a name for the test's report."""
    found = {type(error).__name__: refuse(error) for error in refusals(operation)}
    if operation in CHANGES:
        error = unknown(operation)
        found |= {"unsent": refuse(error), "lost": lost(error), "late": world.delay(error)}
    return found
