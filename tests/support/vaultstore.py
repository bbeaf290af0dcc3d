"""A `VaultStore` for tests, with helpers that they share."""

import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pytest

from rotator.core.errors import RotatorError, StoreError, StoreOutcomeUnknown, StoreUnavailable
from rotator.core.ports import Clock
from rotator.core.secrets import Secret
from rotator.runtime.clock import SystemClock
from rotator.stores.vault.auth import Login, TokenLogin
from rotator.stores.vault.store import VaultStore
from rotator.stores.vault.transport import VaultSettings
from support.canned import Asked, Reply
from support.leaks import spellings

CLOCK = SystemClock()


def assert_hides(error: BaseException, *secrets: str) -> None:
    """Check that the error and its causes hold no secret and no other library's exception, with its request."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None:
        chain.append(link)
        link = link.__cause__ or link.__context__
    assert all(isinstance(link, RotatorError) or type(link).__module__ == "builtins" for link in chain), chain
    text = "\n".join([*traceback.format_exception(error), *(repr(vars(link)) + repr(link) for link in chain)])
    for secret in secrets:
        assert not any(spelling in text for spelling in spellings(secret))


class Metered:
    """A `ports.Meter` that records."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self._lock = threading.Lock()

    def __call__(self, operation: str, outcome: str, seconds: float) -> None:
        assert seconds >= 0
        with self._lock:
            self.requests.append((operation, outcome))

    def take(self) -> list[tuple[str, str]]:
        """Return the requests since the last call."""
        with self._lock:
            taken, self.requests = self.requests, []
        return taken


class MeteredStore(VaultStore):
    """A store with a meter that a test can read."""

    def __init__(self, settings: VaultSettings, clock: Clock) -> None:
        self.metered = Metered()
        super().__init__(settings, clock, self.metered)


OpenStore = Callable[..., MeteredStore]


@contextmanager
def opened_stores() -> Iterator[OpenStore]:
    """Make stores, and close them at the end."""
    with ExitStack() as stack:

        def open_store(
            address: str, mount: str, login: str | Login, clock: Clock = CLOCK, **settings: object
        ) -> MeteredStore:
            login = TokenLogin(Secret(login)) if isinstance(login, str) else login
            wanted = replace(VaultSettings(address, mount, login, timeout=2.0), **settings)  # type: ignore[arg-type]
            store = MeteredStore(wanted, clock)
            stack.callback(store.close)
            return store

        yield open_store


# --- stores that are to fail -----------------------------------------------------------------------------------------

TOKEN = "hvs.the-token-of-this-test"
KEY = "the-key-of-this-test"
DATA = {"api_key": KEY}


def all_methods(store: MeteredStore) -> dict[str, Callable[[], object]]:
    """Return every method of the port that sends a request; each sends it whatever the circuit breaker remembers."""

    def afresh(method: Callable[[], object]) -> Callable[[], object]:
        def ask() -> object:
            store.client.circuit.worked()
            return method()

        return ask

    methods: dict[str, Callable[[], object]] = {
        "history": lambda: store.history("app"),
        "preflight": lambda: store.preflight("app", DATA),
        "write": lambda: store.write("app", DATA, cas=0),
        "destroy": lambda: store.destroy("app", [1]),
        "location": lambda: store.location("app"),
    }
    return {name: afresh(method) for name, method in methods.items()}


def assert_unsettled(store: MeteredStore, words: str, *secrets: str, but: tuple[str, ...] = ()) -> None:
    """Check that reads are unavailable and the outcome of changes unknown, with a clear message."""
    for name, method in all_methods(store).items():
        if name in but:
            continue
        with pytest.raises(StoreError) as raised:
            method()
        assert type(raised.value) is (StoreOutcomeUnknown if name in ("write", "destroy") else StoreUnavailable), name
        assert words in raised.value.message
        assert raised.value.advice
        assert_hides(raised.value, KEY, *secrets)


DENIED = Reply(403, {"errors": ["1 error occurred:\n\t* permission denied\n\n"]})


def answering(reply: Reply) -> Callable[[Asked], Reply]:
    """Let every client log in, and give this answer to all other requests."""
    return lambda asked: DENIED if asked.path == "/v1/auth/token/lookup-self" else reply


def empty(asked: Asked) -> Reply:
    """Let every client log in, and answer as an empty KV version 2 mount at `kv`, behind any prefix."""
    if asked.path.endswith("/v1/auth/token/lookup-self"):
        return DENIED
    if "/v1/sys/internal/ui/mounts/" in asked.path:
        return Reply(200, {"data": {"type": "kv", "options": {"version": "2"}, "path": "kv/"}})
    return Reply(404, {"errors": []})
