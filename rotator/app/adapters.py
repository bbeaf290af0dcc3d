"""Makes the provider, the store and the channels that a configuration's tables describe."""

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rotator.config import schema as settings
from rotator.config.notify_settings import ExternalSecretsSettings, NotifySettings, WebhookSettings
from rotator.config.provider_settings import LocalSecret, ProviderSettings, SecretSource
from rotator.config.provider_type import ConnectedProvider, ProviderContext, ProviderType
from rotator.core.errors import (
    NotificationFailed,
    NotificationRefused,
    ProviderCredentialRefused,
    ProviderUnavailable,
    RotatorError,
    StoreCredentialRefused,
    StoreError,
    StoreUnavailable,
)
from rotator.core.renewal import AT_ONCE
from rotator.core.secrets import Secret
from rotator.core.traits import Traits
from rotator.notify import webhooks
from rotator.notify.external_secrets import ExternalSecretsSender
from rotator.notify.notification import Sender
from rotator.notify.webhooks import WebhookSender
from rotator.providers.guard import GuardedProvider
from rotator.providers.registry import BUILT_IN
from rotator.runtime import files
from rotator.runtime.clock import SystemClock
from rotator.runtime.http import CertificatesUnusable, HttpClient
from rotator.runtime.kubernetes import Access, access_in_a_pod
from rotator.runtime.proxy import Proxy
from rotator.runtime.rate_limit import SlidingWindow
from rotator.runtime.redact import register
from rotator.stores.sqlite import SqliteStore
from rotator.stores.vault.auth import AppRoleLogin, CertLogin, JwtLogin, Login, TokenFileLogin, TokenLogin
from rotator.stores.vault.store import VaultStore
from rotator.stores.vault.transport import FormerLocation, VaultSettings
from rotator.telemetry.metrics import Metrics

AnyStore = VaultStore | SqliteStore

Contents = tuple[str | None, ...]
"""Digests of files; None for a file that cannot be read."""


@dataclass(frozen=True, slots=True)
class Adapters:
    """Makes providers and stores. `stores` are those of the configuration: a provider may read its key from one."""

    environment: Mapping[str, str]
    clock: SystemClock
    metrics: Metrics
    connections: int
    stores: Mapping[str, AnyStore]

    def provider(
        self,
        provider_type: ProviderType[Any],
        provider: ProviderSettings,
        name: str,
        budget: SlidingWindow,
        traits: Traits,
    ) -> ConnectedProvider:
        """Return the provider of this name. Raises `ProviderUnavailable`: a file that it needs cannot be used.

        A plugin's provider is not made yet: what a plugin raises concerns its own targets alone.
        """
        context = ProviderContext(
            name=name,
            credential=self._secret(provider.api_key, f"providers.{name}.api_key", _MANAGEMENT),
            clock=self.clock,
            meter=self.metrics.provider_meter(name),
            rate_limited=budget.pause,
            before_confirming=partial(budget.take, AT_ONCE),
            connections=self.connections,
            proxy=self._proxy(provider, name),
        )

        def make() -> ConnectedProvider:
            try:
                return provider_type.make(provider, context)
            except CertificatesUnusable as error:
                raise ProviderUnavailable(
                    f"the certificates in {provider.ca_file}, which providers.{name}.ca_file names, cannot be used: "
                    f"{error}. rotator sends nothing to this provider",
                    "Put PEM certificates there (-----BEGIN CERTIFICATE-----), or leave ca_file out to trust "
                    "certifi's.",
                ) from None

        guarded = GuardedProvider(name, provider.type, traits, make)
        return guarded.make() if provider_type in BUILT_IN else guarded

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

    def channels(self, notify: NotifySettings, lease: settings.LeaseSettings | None) -> "Channels":
        """Return the channels of [notify]."""
        found = notify.external_secrets
        return Channels(
            {name: self._webhook(webhook, name) for name, webhook in notify.webhooks.items()},
            None if found is None else self._external_secrets(found, lease or settings.LeaseSettings()),
        )

    def _webhook(self, webhook: WebhookSettings, name: str) -> WebhookSender:
        sources = {"secret": webhook.secret, "former_secret": webhook.former_secret}
        client: HttpClient | NotificationRefused
        try:
            client = HttpClient(self.clock, timeout=webhooks.TIMEOUT, ca_file=webhook.ca_file)
        except CertificatesUnusable as error:  # no rotation may fail for it
            client = NotificationRefused(
                f"the certificates in {webhook.ca_file}, which notify.webhooks.{name}.ca_file names, cannot be used: "
                f"{error}",
                "Put PEM certificates there (-----BEGIN CERTIFICATE-----), or leave ca_file out to trust certifi's. "
                "Then reload (HUP).",
            )
        return WebhookSender(
            name,
            webhook.url,
            webhook.events,
            [
                self._secret(source, f"notify.webhooks.{name}.{key}", _WEBHOOK)
                for key, source in sources.items()
                if source is not None
            ],
            client,
            self.clock,
        )

    def _external_secrets(
        self, external_secrets: ExternalSecretsSettings, lease: settings.LeaseSettings
    ) -> ExternalSecretsSender:
        def access(namespace: str) -> Access:
            return access_in_a_pod(
                self.environment,
                namespace=namespace,
                api_server=lease.api_server,
                token_file=lease.token_file,
                ca_file=lease.ca_file,
            )

        return ExternalSecretsSender(external_secrets.namespaces, access, self.clock)

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

    def _proxy(self, provider: ProviderSettings, name: str) -> Proxy | None:
        if provider.proxy is None or provider.proxy_credentials is None:
            return Proxy(provider.proxy) if provider.proxy else None
        key, advice = f"providers.{name}.proxy_credentials", "rotator sends nothing to this provider without them."
        credentials = self._read(provider.proxy_credentials, key, ProviderUnavailable, advice)
        if ":" not in credentials.reveal():
            raise ProviderUnavailable(f"what {key} names is not written user:password", advice)
        return Proxy(provider.proxy, credentials)

    def _secret(self, source: SecretSource, key: str, use: "_Use") -> Callable[[], Secret]:
        """Return what reads the secret, afresh at each call, because its source may change."""

        def read() -> Secret:
            if source.vault is not None:
                [vault] = (store for store in self.stores.values() if isinstance(store, VaultStore))
                try:
                    return vault.read_secret(source.vault)
                except StoreError as error:  # who calls a provider or a channel knows no error of a store
                    kind = use.refused if error.needs_a_person else use.unavailable
                    message = f"{use.what}, which {key} names, cannot be read: {error.message}"
                    raise kind(message, error.advice) from None
            return self._read(source, key, use.refused, f"{use.advice} It is read again at each try.")

        return read

    def _read(self, source: LocalSecret, key: str, kind: type[RotatorError], advice: str) -> Secret:
        """Return the secret in a file or a variable, which this key of the configuration names."""
        where = f"the file {source.file}" if source.file else f"${source.env}"
        try:
            text = files.read(source.file).decode() if source.file else self.environment.get(source.env or "", "")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise kind(f"{where}, which {key} names, cannot be read: {reason}", advice) from None
        if not text.strip():
            raise kind(f"{where}, which {key} names, is empty or not set", advice)
        return register(Secret(text.strip()))


@dataclass(frozen=True, slots=True)
class Channels:
    """What notifies consumers."""

    webhooks: Mapping[str, WebhookSender]  # by name
    external_secrets: ExternalSecretsSender | None

    @property
    def senders(self) -> Mapping[str, Sender]:
        """All of them, by their name in [notify]."""
        webhooks: dict[str, Sender] = {f"webhooks.{name}": sender for name, sender in self.webhooks.items()}
        return {**webhooks, **({"external_secrets": self.external_secrets} if self.external_secrets else {})}


@dataclass(frozen=True, slots=True)
class _Use:
    """What a secret is, and the errors of those that use it."""

    what: str
    refused: type[RotatorError]
    unavailable: type[RotatorError]
    advice: str


_MANAGEMENT = _Use(
    "the management credential",
    ProviderCredentialRefused,
    ProviderUnavailable,
    "rotator cannot create, shorten or remove keys without it.",
)
_WEBHOOK = _Use(
    "the secret of a webhook",
    NotificationRefused,
    NotificationFailed,
    "rotator does not notify without a signature.",
)


def contents(table: settings.StoreSettings | ProviderSettings) -> Contents:
    """Return the contents of the files that are read when a provider or a store is made, as they are now."""
    files_read = [] if isinstance(table, settings.SqliteSettings) else [table.ca_file]
    if isinstance(table, ProviderSettings) and table.proxy_credentials is not None:
        files_read.append(table.proxy_credentials.file)
    return tuple(_digest(file) for file in files_read)


def _digest(file: Path | None) -> str | None:
    with suppress(OSError):
        return hashlib.sha256(files.read(file)).hexdigest() if file is not None else None
    return None
