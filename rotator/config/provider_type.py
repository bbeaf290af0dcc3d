"""What a type of provider declares. The built-in types and the entry points of plugins are values of `ProviderType`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, get_args

from rotator.config.provider_settings import KeyOptions, ProviderSettings
from rotator.core.errors import ProviderError
from rotator.core.ports import Clock, Meter, Provider
from rotator.core.secrets import Secret
from rotator.core.traits import Traits
from rotator.runtime.proxy import Proxy


@dataclass(frozen=True, slots=True)
class ProviderContext:
    """What rotator gives to a provider that it makes."""

    name: str
    """The provider's name in the configuration."""
    credential: Callable[[], Secret]
    """Read the management credential afresh. Raises `ProviderCredentialRefused` or `ProviderUnavailable`."""
    clock: Clock
    meter: Meter
    rate_limited: Callable[[float], None]
    """Call it with the seconds to wait after every 429."""
    before_confirming: Callable[[], object]
    """Call it before a request that no caller asked for: it waits for the budget."""
    connections: int
    """How many threads call at once."""
    proxy: Proxy | None = None
    """The proxy to send through, with its credentials."""


class ConnectedProvider(Provider, Protocol):
    """A provider that keeps connections and the management credential between calls."""

    @property
    def upstream(self) -> str:
        """The host and port, as the clock knows them."""

    @property
    def error(self) -> ProviderError | None:
        """The error that callers get while the provider is down or refuses the credential."""

    def is_to_be_asked(self) -> bool:
        """Return whether one request is due that shows if the provider is still down."""

    def look_again(self) -> None:
        """Read the management credential again at the next request, and send that request even if it was refused."""

    def close(self) -> None:
        """Close all connections."""


S = TypeVar("S", bound=ProviderSettings)


@dataclass(frozen=True, slots=True)
class ProviderType(Generic[S]):
    """One value of `type` under [providers.NAME]."""

    settings: type[S]
    """The options. Its field `type` is a `Literal` of the type's name, which the configuration is discriminated by."""
    traits: Callable[[S], Traits]
    make: Callable[[S, ProviderContext], ConnectedProvider]
    """Called once a configuration, and again later if it raised an exception. It must not use the network."""
    fixed_key_model: type[KeyOptions] = KeyOptions
    """The options of a target's `key` table. `KeyOptions` itself has none."""
    key_options: Callable[[S], type[KeyOptions]] | None = None
    """Return the options of a target's `key` table, where they depend on the settings."""

    @property
    def name(self) -> str:
        """The value of `type`."""
        [name] = get_args(self.settings.model_fields["type"].annotation)
        return str(name)

    def key_model(self, settings: S) -> type[KeyOptions]:
        """Return the options of a target's `key` table at a provider with these settings."""
        return self.key_options(settings) if self.key_options else self.fixed_key_model


@dataclass(frozen=True, slots=True, eq=False)
class ProviderTypes:
    """The types that a configuration may name."""

    usable: Mapping[str, ProviderType[Any]]
    broken: Mapping[str, str]
    """Why a plugin cannot be used, by the name of its type."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all types, the broken ones too."""
        return (*self.usable, *self.broken)
