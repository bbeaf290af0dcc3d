"""Makes the provider and the store that a configuration's tables describe."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from rotator.config import schema as settings
from rotator.config.provider_settings import ProviderSettings, SecretSource
from rotator.config.provider_type import ConnectedProvider, ProviderContext, ProviderType
from rotator.core.errors import (
    ProviderCredentialRefused,
    ProviderUnavailable,
    StoreCredentialRefused,
    StoreError,
    StoreUnavailable,
)
from rotator.core.renewal import AT_ONCE
from rotator.core.secrets import Secret
from rotator.runtime import files
from rotator.runtime.clock import SystemClock
from rotator.runtime.rate_limit import SlidingWindow
from rotator.runtime.redact import register
from rotator.stores.sqlite import SqliteStore
from rotator.stores.vault.auth import AppRoleLogin, CertLogin, JwtLogin, Login, TokenFileLogin, TokenLogin
from rotator.stores.vault.store import VaultStore
from rotator.stores.vault.transport import FormerLocation, VaultSettings
from rotator.telemetry.metrics import Metrics

AnyStore = VaultStore | SqliteStore


@dataclass(frozen=True, slots=True)
class Adapters:
    """Makes providers and stores. `stores` are those of the configuration: a provider may read its key from one."""

    environment: Mapping[str, str]
    clock: SystemClock
    metrics: Metrics
    connections: int
    stores: Mapping[str, AnyStore]

    def provider(
        self, provider_type: ProviderType[Any], provider: ProviderSettings, name: str, budget: SlidingWindow
    ) -> ConnectedProvider:
        """Return the provider of this name."""
        context = ProviderContext(
            name=name,
            credential=self._secret(provider.api_key, f"providers.{name}.api_key"),
            clock=self.clock,
            meter=self.metrics.provider_meter(name),
            rate_limited=budget.pause,
            before_confirming=partial(budget.take, AT_ONCE),
            connections=self.connections,
        )
        return provider_type.make(provider, context)

    def store(self, store: settings.StoreSettings, name: str) -> AnyStore:
        """Return the store of this name. Raises `StoreUnavailable` or `StoreCredentialRefused`."""
        if isinstance(store, settings.SqliteSettings):
            try:
                return SqliteStore(store.file, self.clock)
            except StoreError as error:
                raise StoreUnavailable(error.message, error.advice) from None  # without it nothing can be tried
        return VaultStore(
            VaultSettings(
                address=store.address,
                mount=store.mount,
                login=self._login(store.auth),
                namespace=store.namespace or None,
                ca_file=store.ca_file,
                server_name=store.server_name,
                timeout=store.timeout.total_seconds(),
                connections=self.connections,
                certificate=(
                    (store.auth.cert_file, store.auth.key_file) if isinstance(store.auth, settings.CertAuth) else None
                ),
                former_locations=tuple(FormerLocation(**former.model_dump()) for former in store.former_locations),
            ),
            self.clock,
            self.metrics.store_meter(name),
        )

    def _login(self, auth: settings.Auth) -> Login:
        match auth:
            case settings.TokenFileAuth():
                return TokenFileLogin(auth.token_file)
            case settings.AppRoleAuth():
                return AppRoleLogin(auth.role_id, auth.secret_id_file, auth.mount)
            case settings.TokenAuth():
                token = self.environment.get("VAULT_TOKEN")
                if not token:
                    raise StoreCredentialRefused(
                        "$VAULT_TOKEN is not set", 'auth.method = "token" reads it from there.'
                    )
                return TokenLogin(register(Secret(token)))
            case settings.KubernetesAuth() | settings.JwtAuth():
                return JwtLogin(auth.role, auth.token_file, auth.mount)
            case settings.CertAuth():
                return CertLogin(auth.role, auth.mount, auth.cert_file)

    def _secret(self, source: SecretSource, key: str) -> Callable[[], Secret]:
        """Return what reads the secret, afresh at each call, because its source may change."""

        def read() -> Secret:
            if source.vault is not None:
                [vault] = (store for store in self.stores.values() if isinstance(store, VaultStore))
                try:
                    return vault.read_secret(source.vault)
                except StoreError as error:  # who calls a provider knows no error of a store
                    kind = ProviderCredentialRefused if error.needs_a_person else ProviderUnavailable
                    message = f"the management credential, which {key} names, cannot be read: {error.message}"
                    raise kind(message, error.advice) from None
            where = f"the file {source.file}" if source.file else f"${source.env}"
            try:
                text = files.read(source.file).decode() if source.file else self.environment.get(source.env or "", "")
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "it is not text"
                raise ProviderCredentialRefused(
                    f"{where}, which {key} names, cannot be read: {reason}",
                    "rotator cannot create, shorten or remove keys until it can be read. It is read again at each try.",
                ) from None
            if not text.strip():
                raise ProviderCredentialRefused(
                    f"{where}, which {key} names, is empty or not set",
                    "rotator cannot create, shorten or remove keys until it holds a management credential.",
                )
            return register(Secret(text.strip()))

        return read


def trusted_certificates(store: settings.StoreSettings) -> bytes | None:
    """Return the certificates that a store trusts, as they are now; None without any, or if they cannot be read."""
    if not isinstance(store, settings.VaultSettings) or store.ca_file is None:
        return None
    try:
        return files.read(store.ca_file)
    except OSError:
        return None
