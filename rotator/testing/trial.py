"""A provider on trial: every call is watched, and every key that the trial creates is removed at its end."""

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Self, TypeVar

from rotator.core.errors import (
    ProviderCredentialRefused,
    ProviderError,
    ProviderKeyNotAccepted,
    ProviderOutcomeUnknown,
    ProviderRateLimited,
    ProviderRequestRefused,
    ProviderUnavailable,
)
from rotator.core.keys import UNIQUE_ALPHABET, CreatedKey, KeyName, ListedKey, ProviderKey, UnreadableKey
from rotator.core.ports import Provider
from rotator.core.secrets import Secret
from rotator.core.target import KeyParameters
from rotator.core.traits import Traits
from rotator.core.use import KeyUse
from rotator.runtime.redact import register

LIFETIME = timedelta(hours=1)
"""How long the key of a trial lives, if it cannot be removed."""

AHEAD = timedelta(minutes=2)
"""By how much a last use may lie in the future: clocks differ."""

WAITS = (0.0, 0.5, 1.0, 2.0, 4.0)
"""Seconds between looks for a change: a provider may need a moment to show it."""

_READ_ERRORS = (ProviderCredentialRefused, ProviderRequestRefused, ProviderRateLimited, ProviderUnavailable)
_ERRORS: dict[str, tuple[type[ProviderError], ...]] = {
    "ready": (ProviderCredentialRefused, ProviderUnavailable),
    "pages": _READ_ERRORS,
    "retrieve": _READ_ERRORS,
    "probe": (*_READ_ERRORS, ProviderKeyNotAccepted),
    "create": (*_READ_ERRORS, ProviderOutcomeUnknown),
    "set_expiry": (*_READ_ERRORS, ProviderOutcomeUnknown),
    "delete": (*_READ_ERRORS, ProviderOutcomeUnknown),
}

T = TypeVar("T")


class ContractBroken(AssertionError):
    """The provider does what the contract does not allow; the text is for the provider's author."""


def demand(holds: object, otherwise: str) -> None:
    """Raise `ContractBroken` unless it holds."""
    __tracebackhide__ = True  # pytest shows the check, and not this function
    if not holds:
        raise ContractBroken(otherwise)


class WatchedProvider:
    """Passes every call on. Raises `ContractBroken` where a method raises or returns what its port does not allow."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self.shown: list[tuple[str, str]] = []  # each method that answered, with the answer's text; not `create`

    @property
    def traits(self) -> Traits:
        """What the provider can do."""
        return self._provider.traits

    def create(self, name: str, parameters: KeyParameters, expires_at: datetime) -> CreatedKey:
        """Create a key."""
        key = self._call("create", lambda: self._provider.create(name, parameters, expires_at))
        demand(isinstance(key, CreatedKey), f"create returned {_kind(key)}, not a CreatedKey")
        demand(isinstance(key.secret, Secret), f"create returned a text of type {_kind(key.secret)}, not a Secret")
        register(key.secret)
        _demand_time("create", key.expires_at)
        return key

    def ready(self) -> None:
        """Ask whether a request would be sent."""
        self._call("ready", self._provider.ready)

    def pages(self, before: Callable[[], object]) -> Iterator[Sequence[ListedKey]]:
        """Yield the pages of the list."""
        pages = iter(self._call("pages", lambda: self._provider.pages(before)))
        while (page := self._call("pages", lambda: next(pages, None))) is not None:
            for key in page:
                demand(isinstance(key, ProviderKey | UnreadableKey), f"pages yielded {_kind(key)}, not a ListedKey")
                self._note("pages", key)
            yield page

    def retrieve(self, key_id: str) -> ProviderKey | None:
        """Look up a key."""
        return self._key("retrieve", lambda: self._provider.retrieve(key_id))

    def set_expiry(self, key_id: str, expires_at: datetime) -> ProviderKey | None:
        """Set a key's expiry."""
        return self._key("set_expiry", lambda: self._provider.set_expiry(key_id, expires_at))

    def delete(self, key_id: str) -> None:
        """Revoke a key."""
        self._call("delete", lambda: self._provider.delete(key_id))

    def probe(self, key: Secret) -> None:
        """Probe a key."""
        self._call("probe", lambda: self._provider.probe(key))

    def _key(self, method: str, call: Callable[[], ProviderKey | None]) -> ProviderKey | None:
        key = self._call(method, call)
        demand(key is None or isinstance(key, ProviderKey), f"{method} returned {_kind(key)}, not a ProviderKey")
        self._note(method, key)
        return key

    def _note(self, method: str, key: ListedKey | None) -> None:
        if isinstance(key, ProviderKey):
            _demand_time(method, key.expires_at)
            if key.use is not None:
                _demand_counters(method, key.use)
        self.shown.append((method, repr(key)))

    def _call(self, method: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except _ERRORS[method]:
            raise
        except Exception as error:
            flaw = f"{method} raised {_kind(error)}, which is none of the errors that it may raise"
        raise ContractBroken(flaw)  # without the error, which may hold a secret


def _kind(value: object) -> str:
    return type(value).__qualname__


def _demand_time(method: str, moment: datetime | None, what: str = "an expiry") -> None:
    is_utc = moment is None or moment.utcoffset() == timedelta(0)
    demand(is_utc, f"{method} returned {what} without a time zone, or in another than UTC")


def _demand_counters(method: str, use: KeyUse) -> None:
    demand(isinstance(use, KeyUse), f"{method} shows a use of type {_kind(use)}, not a KeyUse")
    caps = [cap.cap for cap in use.caps]
    demand(all(caps) and len(set(caps)) == len(caps), f"{method} shows the use of the caps {caps}: name each once")
    for cap in use.caps:
        is_count = type(cap.used) in (int, float) and math.isfinite(cap.used) and cap.used >= 0
        demand(is_count, f"{method} shows {cap.used!r} as the use of {cap.cap}: what is no count is unknown")
        is_limit = cap.limit is None or (
            type(cap.limit) in (int, float) and math.isfinite(cap.limit) and cap.limit >= 0
        )
        demand(is_limit, f"{method} shows {cap.limit!r} as the limit of {cap.cap}: what is no limit is None")
    if use.last_used_at is not None:
        _demand_time(method, use.last_used_at, "a last use")
        is_past = use.last_used_at <= datetime.now(UTC) + AHEAD
        demand(is_past, f"{method} shows the last use {use.last_used_at}, which is in the future: it is unknown")


class Trial:
    """One key of the contract's own. A context manager: at its end every key that it created is removed.

    Only a key that the provider shows with the name of this trial is changed or removed. `before` is called before each
    request: it waits for the budget. `works` returns whether a key's text is accepted where keys are used, and `use`
    makes a call with one; without them only the provider's own answers are checked.
    """

    def __init__(
        self,
        provider: Provider,
        *,
        parameters: KeyParameters | None = None,
        before: Callable[[], object] = lambda: None,
        works: Callable[[Secret], bool] | None = None,
        use: Callable[[Secret], object] | None = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.provider = WatchedProvider(provider)
        self.traits = provider.traits
        self.before = before
        self.works = works
        self.use = use
        self.parameters = parameters or {}
        self._sleep = sleep
        self._key: CreatedKey | None = None
        self.unconfirmed: set[str] = set()  # names of keys that may exist
        self._ids: dict[str, str] = {}  # of keys that do, by name
        self._is_revoked = False
        self.name = ""
        self.expires_at = datetime.now(UTC).replace(microsecond=0) + LIFETIME
        self.left_behind: list[str] = []
        """After the end: the keys that may still exist, by name, and by id where the id is known."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._remove_all()

    # --- the key -----------------------------------------------------------------------------------------------------

    @property
    def key(self) -> CreatedKey:
        """The key of this trial. Created at the first use."""
        if self._key is None:
            self.name = new_name()
            self._key = self.create(self.name)
        return self._key

    @property
    def has_key(self) -> bool:
        """Whether the key was created, and has an id that requests can name."""
        return self._key is not None and bool(self._key.id)

    def create(self, name: str) -> CreatedKey:
        """Create a key that this trial removes at its end."""
        self.before()
        self.expect(name)
        try:
            key = self.provider.create(name, self.parameters, self.expires_at)
        except (ProviderUnavailable, ProviderCredentialRefused):  # it was not created
            self.unconfirmed.discard(name)
            raise
        if key.id:  # else its name leads to it
            self.unconfirmed.discard(name)
            self._ids[name] = key.id
        return key

    def expect(self, name: str) -> None:
        """Look for a key of this name at the end, and remove it: another provider object may create it."""
        self.unconfirmed.add(name)

    def retrieve(self) -> ProviderKey | None:
        """Look up the key."""
        return self.retrieve_by(self.key.id)

    def retrieve_by(self, key_id: str) -> ProviderKey | None:
        """Look up any key."""
        self.before()
        return self.provider.retrieve(key_id)

    def shown(self) -> ProviderKey:
        """Return the key as a look-up shows it. A provider may need a moment to show a new one."""
        found = self.until(self.retrieve, lambda found: found is not None)
        demand(found is not None, "retrieve does not find the key that was created")
        assert found is not None  # noqa: S101 - for mypy
        demand(
            found.name == self.name,
            f"retrieve shows the name {found.name!r}, and the key was created as {self.name!r}: rotator finds its keys "
            "by their names",
        )
        return found

    def set_expiry(self, expires_at: datetime) -> ProviderKey | None:
        """Set the expiry of the key."""
        self.before()
        return self.provider.set_expiry(self.key.id, expires_at)

    def delete(self) -> None:
        """Revoke the key."""
        self.before()
        self.provider.delete(self.key.id)

    def revoke(self) -> None:
        """Revoke the key, once, if it is shown with the name of this trial."""
        if not self._is_revoked:
            self.shown()
            self.delete()
            self._is_revoked = True

    def named(self, name: str) -> list[ListedKey]:
        """Return the entries of the complete list that have this name."""
        return [key for page in self.provider.pages(self.before) for key in page if key.name == name]

    def until(self, look: Callable[[], T], is_it: Callable[[T], object]) -> T:
        """Look until it is so, or for some seconds. Return what was seen last."""
        seen = look()
        for wait in WAITS:
            if is_it(seen):
                break
            self._sleep(wait)
            seen = look()
        return seen

    # --- the end -----------------------------------------------------------------------------------------------------

    def _remove_all(self) -> None:
        if self.unconfirmed:
            with suppress(ProviderError, ContractBroken):
                for page in self.provider.pages(self.before):
                    self._ids.update({key.name: key.id for key in page if key.name in self.unconfirmed})
                self.unconfirmed.clear()
        self.left_behind = sorted(self.unconfirmed - self._ids.keys())
        for name, key_id in self._ids.items():
            try:
                if (found := self.retrieve_by(key_id)) is not None:
                    demand(found.name == name, "the key of that id has another name")
                    self.before()
                    self.provider.delete(key_id)
            except (ProviderError, ContractBroken):
                self.left_behind.append(f"{name} (id {key_id})")  # the provider may show it under another name


def new_name() -> str:
    """Return a name as long as a name of rotator's can be, for a place that no target has."""

    def some(alphabet: str, number: int) -> str:
        return "".join(random.choices(alphabet, k=number))  # noqa: S311 - a name is no secret

    version = int(f"9{some('0123456789', 7)}")
    return str(KeyName("contract", "check-only", some(UNIQUE_ALPHABET, 12), version, some(UNIQUE_ALPHABET, 8)))
