"""The tables of a configuration file that every type of provider shares."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from rotator.config.fields import (
    Duration,
    EncryptedUrl,
    File,
    ProxyUrl,
    Reference,
    Settings,
    Statuses,
    Text,
    UsuallyEncryptedUrl,
    option,
)
from rotator.config.values import parse_duration
from rotator.core.target import Cap


def not_the_secret_itself(value: object) -> object:
    """Return the value, unless it is a text."""
    if isinstance(value, str):
        raise ValueError(  # noqa: TRY004 - pydantic turns only a ValueError into a problem
            'must not stand in the configuration itself: write where it is, as { file = "..." } or { env = "..." }'
        )
    return value


class LocalSecret(Settings):
    """Where to read a secret from: a file or an environment variable."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})

    choice: ClassVar[str] = 'file = "..." and env = "..."'

    file: File | None = None
    """A file that holds the secret, relative to the configuration file. White space around it is ignored."""
    env: Text | None = None
    """An environment variable that holds the secret."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if len(self.model_fields_set) != 1:
            raise ValueError(f"must have exactly one of {self.choice}")
        return self


class SecretSource(LocalSecret):
    """Where to read a secret from: exactly one of the three."""

    choice = 'file = "...", env = "..." and vault = "mount/path#field"'

    vault: Reference | None = None
    """A field of a KV version 2 secret, written "mount/path#field". The first segment is the mount; the path has no
    data/. rotator reads it with the login of the only store of type vault."""


class ProbeSettings(Settings):
    """A request that each new key makes before it is published, to show that the key works.

    It is retried for at most 30 seconds. Without an accepted status, rotator removes the new key and keeps the served
    one.
    """

    url: EncryptedUrl
    """The URL to request. The new key is sent there as `Authorization: Bearer`, so it must be https:// or a
    loopback host."""
    method: Literal["GET", "HEAD", "POST"] = "GET"
    """The HTTP method; a POST has the body {}. A request that costs money or usage costs it at each rotation."""
    accept: Statuses = (200,)
    """The HTTP statuses that show that the key works."""


class ProviderSettings(Settings):
    """The options of every provider. A type makes `type` a `Literal` of its name, and adds options of its own."""

    type: str
    """The kind of provider."""
    allow_insecure: bool = False  # before the URL, whose check needs it
    """Allow http:// to hosts other than loopback; rotator warns at each start."""
    base_url: UsuallyEncryptedUrl
    """The URL of the provider's API; http:// for loopback hosts only."""
    api_key: Annotated[SecretSource, BeforeValidator(not_the_secret_itself)]
    """Where the management credential is, which creates and deletes keys."""
    requests_per_minute: int = Field(60, ge=1, le=100_000)
    """The provider's rate limit, in requests a minute. rotator warns when the targets need more than 90% of it; a
    sweep uses at most a fifth."""
    timeout: Duration = option("30s", parse_duration)
    """How long one request may take as a whole."""
    ca_file: File | None = None
    """Certificates to trust, as a PEM file relative to the configuration file. certifi's if left out. rotator reads it
    at the start and at each reload."""
    proxy: ProxyUrl | None = None
    """The URL of an HTTP proxy for every request to the provider, such as "http://proxy:3128". Without it requests go
    to the provider directly: rotator ignores $HTTPS_PROXY."""
    proxy_credentials: Annotated[LocalSecret, BeforeValidator(not_the_secret_itself)] | None = None
    """Where the proxy's user name and password are, written user:password. They go to the proxy alone, unencrypted if
    `proxy` is http://. rotator reads them at the start and at each reload."""
    probe: ProbeSettings | None = None
    """A request that each new key makes before it is published. Off if left out."""


class KeyOptions(Settings):
    """What a key may do. The provider's default applies to what is left out."""

    def finite_caps(self) -> tuple[Cap, ...]:
        """Return the options that are set and make the key stop working after a certain use."""
        return ()
