"""The edges of the core: what it needs a provider, a store, time, a budget and a listener to do.

The docstrings here are the contract. One suite of tests holds every store against it, and `rotator.testing` every
provider. No implementation lives here.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from rotator.core.events import Event
from rotator.core.keys import CreatedKey, ListedKey, ProviderKey
from rotator.core.request import RotationRequest
from rotator.core.secrets import Secret
from rotator.core.target import KeyParameters, Target
from rotator.core.traits import Traits
from rotator.core.versions import History, Version


class Provider(Protocol):
    """Issues keys.

    Each method is one request, `pages` one or more a page, `ready` none. Every one may raise
    `ProviderCredentialRefused`, `ProviderRequestRefused`, `ProviderRateLimited` or `ProviderUnavailable`: it was not
    done. Those that change something may raise `ProviderOutcomeUnknown` too. None takes longer than a bound of the
    implementation's own, and none that changes something is repeated inside it. Safe to be called by many threads.
    """

    @property
    def traits(self) -> Traits:
        """What this provider can do."""

    def create(self, name: str, parameters: KeyParameters, expires_at: datetime) -> CreatedKey:
        """Create one key. An answer that lacks its id or its text is an unknown outcome: the key may exist.

        It may exist after every error but `ProviderUnavailable` and `ProviderCredentialRefused`. The answer may be
        about another key: callers compare its name, id and text before they use it.
        """

    def ready(self) -> None:
        """Return unless it is known that a request would not be sent now.

        Raises the `ProviderCredentialRefused` or `ProviderUnavailable` that is known already. Now and then one request
        passes, to try again.
        """

    def pages(self, before: Callable[[], object]) -> Iterator[Sequence[ListedKey]]:
        """Yield every unrevoked key of the account, a page at a time; expired ones may be among them.

        An entry that cannot be read is an `UnreadableKey`: it proves nothing about the other keys.

        `before` is called before each request, including a repeated one. The list is complete only when
        the iterator ends without an error; keys created or removed meanwhile may be missing or there twice.
        """

    def retrieve(self, key_id: str) -> ProviderKey | None:
        """Return one key, or None when it is unknown or revoked. Raises `ProviderUnavailable` for another key."""

    def set_expiry(self, key_id: str, expires_at: datetime) -> ProviderKey | None:
        """Set the key's expiry, earlier or later than it is. Return the key as the provider shows it afterwards.

        None when there is no such key. The expiry that is returned may differ from the requested one: a provider
        may round it; it is None where the answer shows none, which proves nothing.
        """

    def delete(self, key_id: str) -> None:
        """Revoke the key now. One that is gone already is a success."""

    def probe(self, key: Secret) -> None:
        """Return if the key works, or if that cannot be tested. Takes nothing of the budget.

        Raises `ProviderKeyNotAccepted`, or `ProviderUnavailable` when there was no answer.
        """


class Store(Protocol):
    """Keeps versioned data under paths, with compare-and-set.

    Paths are relative to what the store was configured with. Every method may raise `StoreCredentialRefused`,
    `StorePermissionDenied`, `StoreMountUnusable` or `StoreSealed`: nothing was done. Those that only read may raise
    `StoreUnavailable`. None takes longer than a bound of the implementation's own. Safe to be called by many threads.
    """

    def location(self, path: str) -> str:
        """Return a text that no other path of any store has, and that this path keeps for life."""

    def former_locations(self, path: str) -> Sequence[str]:
        """Return what `location` was for this path in the places that the store's data were in before."""

    def history(self, path: str) -> History:
        """Return all that is known of the path; an empty history of version 0 when it is absent.

        `current_version` and the current version's data belong to one moment, not earlier than `observed_at`.
        """

    def newest(self, path: str) -> History:
        """Return the same with the current version alone, for fewer requests. Older versions may exist."""

    def preflight(self, path: str, data: Mapping[str, Any]) -> None:
        """Return only if the store would accept a `write` of such data, by its shape and size. Change nothing.

        Raises `StoreRequestRefused`, `StoreUnavailable`, or one of the errors named above.
        """

    def write(self, path: str, data: Mapping[str, Any], cas: int) -> Version:
        """Append a version, if the current version is still `cas`; 0 when the path must be absent. Sent once.

        Raises `CasMismatch`: the path has moved on. `StoreRequestRefused` or an error named above: the answer refused
        it, but a proxy may have given that answer, so only the path shows whether it was written.
        `StoreOutcomeUnknown`: anything else.
        """

    def destroy(self, path: str, versions: Sequence[int]) -> None:
        """Make the data of these versions unreadable for good. Versions that are gone already are no error.

        Raises `StoreOutcomeUnknown` when the outcome is unknown.
        """


class Clock(Protocol):
    """The time."""

    def now(self) -> datetime:
        """Return the wall clock's time in UTC; where all upstreams agree that it is wrong, theirs. It may jump."""

    def monotonic(self) -> float:
        """Return seconds that only grow; their zero means nothing."""

    def sleep(self, seconds: float) -> None:
        """Wait that long."""

    def record_date(self, upstream: str, date: str | None, sent_at: float) -> None:
        """Record the `Date` of an answer that has just arrived, to a request sent at `sent_at` (monotonic)."""

    def trusted(self) -> bool:
        """Return False while the wall clock is further from an upstream's than allowed: then it ends no key."""

    def may_be_ahead(self) -> timedelta:
        """Return how far `now` is ahead of the upstream that is furthest behind; at least 0."""

    def disputed_by(self) -> timedelta:
        """Return how far `now` is ahead of all upstreams that have answered; 0 if one agrees, negative if behind."""


class Leadership(Protocol):
    """Which of several replicas acts. It saves work; no promise depends on it."""

    def __call__(self) -> bool:
        """Return whether this process may begin scheduled work now. Must not wait."""


class Budget(Protocol):
    """How many requests a provider may still get; shared by all that send them."""

    def take(self, deadline: datetime) -> None:
        """Wait for the right to send one request. Waiters are released in deadline order."""

    def pause(self, seconds: float) -> None:
        """Send nothing for that long: the provider limits the rate."""


class Listener(Protocol):
    """Takes events: logs, metrics, the command line, the demo's table."""

    def __call__(self, event: Event, /) -> None:
        """Take an event. Must not raise, and must not wait."""


NO_CREDENTIAL = "credential"
"""The outcome of a request that was not sent, because its credential could not be read."""


HELD_BACK = "backoff"
"""The outcome of a login that was not sent, because the same credentials were refused a moment ago."""


class Meter(Protocol):
    """Takes every request that an adapter sent, or could not send without a credential.

    Must not raise, and must not wait.
    """

    def __call__(self, operation: str, outcome: str, seconds: float) -> None:
        """`outcome` is an HTTP status, or one constant word where there was none ("timeout", `NO_CREDENTIAL`)."""


class Strays(Protocol):
    """Finds and removes keys that a provider may have made without confirming it."""

    def look_for(self, target: Target, name: str, request: RotationRequest) -> None:
        """Remove the key of this name later, if there is one. Must not wait."""


@dataclass(frozen=True, slots=True)
class Ports:
    """All the effects that the work on one target can have."""

    provider: Provider
    store: Store
    budget: Budget
    clock: Clock
    rng: random.Random
    emit: Listener
    strays: Strays
    leads: Leadership = lambda: True
