"""Keeps a plugin's faults to its own provider: what a plugin raises unexpectedly becomes an error with its name."""

import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from rotator.config.provider_type import ConnectedProvider
from rotator.core.errors import ProviderError, ProviderOutcomeUnknown, ProviderUnavailable, RotatorError
from rotator.core.keys import CreatedKey, ListedKey, ProviderKey
from rotator.core.secrets import Secret
from rotator.core.target import KeyParameters
from rotator.core.traits import Traits
from rotator.runtime.redact import quoted

T = TypeVar("T")

_ADVICE = "Correct or replace the plugin. Until then this provider's served keys work until they expire."


class GuardedProvider:
    """A plugin's provider. One that cannot be made is made at a later request, and is down until then."""

    def __init__(self, name: str, kind: str, traits: Traits, make: Callable[[], ConnectedProvider]) -> None:
        self._plugin = f'the plugin for providers of type "{kind}"'
        self._name, self._traits, self._make = name, traits, make
        self._lock = threading.Lock()
        self._made: ConnectedProvider | None = None
        self._flaw: ProviderError | None = None

    def make(self) -> ConnectedProvider:
        """Return what the plugin made. Raises `ProviderUnavailable`: it cannot make it."""
        with self._lock:
            if self._made is None:
                try:
                    self._made = self._make()
                except ProviderError as error:
                    self._flaw = error
                    raise
                except Exception as error:
                    what = f"{self._plugin} cannot make providers.{self._name}: {_shown(error)}"
                    self._flaw = ProviderUnavailable(what, _ADVICE)
                    raise self._flaw from None
                self._flaw = None
            return self._made

    def _do(
        self, what: str, work: Callable[[ConnectedProvider], T], kind: type[ProviderError] = ProviderUnavailable
    ) -> T:
        made = self.make()
        try:
            return work(made)
        except RotatorError:
            raise
        except Exception as error:
            raise self._fault(what, error, kind) from None

    def _fault(self, what: str, error: Exception, kind: type[ProviderError] = ProviderUnavailable) -> ProviderError:
        return kind(f"{self._plugin} failed in {what}() of providers.{self._name}: {_shown(error)}", _ADVICE)

    @property
    def traits(self) -> Traits:
        """What the provider can do, as it was when the configuration was loaded."""
        return self._traits

    def create(self, name: str, parameters: KeyParameters, expires_at: datetime) -> CreatedKey:
        """Create one key. It may exist after a fault."""
        return self._do("create", lambda made: made.create(name, parameters, expires_at), ProviderOutcomeUnknown)

    def ready(self) -> None:
        """Return unless it is known that a request would not be sent now."""
        self._do("ready", lambda made: made.ready())

    def pages(self, before: Callable[[], object]) -> Iterator[Sequence[ListedKey]]:
        """Yield every unrevoked key of the account, a page at a time."""
        pages = self._do("pages", lambda made: iter(made.pages(before)))
        while (page := self._do("pages", lambda _: next(pages, None))) is not None:
            yield page

    def retrieve(self, key_id: str) -> ProviderKey | None:
        """Return one key, or None when it is unknown or revoked."""
        return self._do("retrieve", lambda made: made.retrieve(key_id))

    def set_expiry(self, key_id: str, expires_at: datetime) -> ProviderKey | None:
        """Set the key's expiry."""
        return self._do("set_expiry", lambda made: made.set_expiry(key_id, expires_at), ProviderOutcomeUnknown)

    def delete(self, key_id: str) -> None:
        """Revoke the key now."""
        self._do("delete", lambda made: made.delete(key_id), ProviderOutcomeUnknown)

    def probe(self, key: Secret) -> None:
        """Return if the key works, or if that cannot be tested."""
        self._do("probe", lambda made: made.probe(key))

    @property
    def upstream(self) -> str:
        """The host and port, as the clock knows them."""
        return self._or(f"providers.{self._name}", lambda made: made.upstream)

    @property
    def error(self) -> ProviderError | None:
        """The error that callers get while the provider is down, refuses the credential or cannot be made."""
        return self._flaw or self._or(None, lambda made: made.error)

    def is_to_be_asked(self) -> bool:
        """Return whether one request is due that shows if the provider is still down."""
        return self._flaw is not None or self._or(False, lambda made: made.is_to_be_asked())

    def look_again(self) -> None:
        """Read the management credential again at the next request."""
        self._or(None, lambda made: made.look_again())

    def close(self) -> None:
        """Close all connections."""
        self._or(None, lambda made: made.close())

    def _or(self, default: T, work: Callable[[ConnectedProvider], T]) -> T:
        """Return what comes of it, or the default where there is none: no request needs this answer."""
        try:
            return default if self._made is None else work(self._made)
        except Exception:
            return default


def _shown(error: Exception) -> str:
    """Return an exception with the line of code that raised it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {quoted(str(error))} ({Path(frame.filename).name}, line {frame.lineno})"
