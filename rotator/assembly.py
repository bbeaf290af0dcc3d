"""Puts the parts together: a configuration in, an executor for each target out.

The only module that knows every adapter. It decides nothing; what can go wrong here is a credential that is not there.
"""

import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from rotator import logs, settings
from rotator.budget import SlidingWindow
from rotator.clock import SystemClock
from rotator.config import Configuration
from rotator.errors import (
    ProviderCredentialRefused,
    ProviderUnavailable,
    RotatorError,
    StoreCredentialRefused,
    StoreError,
)
from rotator.events import Event, What
from rotator.execute import UNPUBLISHED, Executor
from rotator.metrics import SUCCESS, Metrics
from rotator.model import Secret, Target
from rotator.plan import Reason, Seen
from rotator.ports import Leadership, Listener, Ports
from rotator.providers.respan import Probe, RespanProvider
from rotator.stores.sqlite import SqliteStore
from rotator.stores.vault import VaultStore
from rotator.stores.vault_client import VaultSettings
from rotator.stores.vault_login import AppRoleLogin, CertLogin, JwtLogin, Login, TokenFileLogin, TokenLogin
from rotator.sweep import Sweeper

AnyStore = VaultStore | SqliteStore

SWEEP_SHARE = 5
"""A sweep takes at most the fifth part of a provider's budget."""


class Installation:
    """Everything that one configuration needs, built and not yet used: the first request is the first use.

    A successor (after a reload) takes over the budgets and what was seen of keys: the vendor goes on counting, and
    nothing has to be looked up again.
    """

    def __init__(
        self,
        configuration: Configuration,
        environment: Mapping[str, str],
        clock: SystemClock,
        metrics: Metrics,
        tell: Listener,
        predecessor: "Installation | None" = None,
        leads: Leadership = lambda: True,
        *,
        is_swept: bool = False,
    ) -> None:
        self.configuration = configuration
        self.clock = clock
        self._environment = environment
        self._seen: dict[str, Mapping[str, Seen]] = predecessor._seen if predecessor else {}
        self.stores: dict[str, AnyStore] = {
            name: self._store(store, metrics, name) for name, store in configuration.stores.items()
        }
        self.budgets: dict[str, SlidingWindow] = {}
        self.providers: dict[str, RespanProvider] = {}
        for name, provider in configuration.providers.items():
            budget = predecessor.budgets.get(name) if predecessor else None
            budget = budget or SlidingWindow(provider.requests_per_minute, clock)
            budget.limit = provider.requests_per_minute
            self.budgets[name] = budget
            self.providers[name] = RespanProvider(
                name=name,
                base_url=provider.base_url,
                organisation_key=self._secret(provider.api_key, f"providers.{name}.api_key"),
                clock=clock,
                meter=metrics.provider_meter(name),
                rate_limited=budget.pause,
                connections=configuration.daemon.workers,
                probe=_probe(provider.probe),
            )

        def listen(event: Event) -> None:
            tell(event)
            if event.what is What.KEY_DELETED and event.fields["reason"] not in (UNPUBLISHED, Reason.ORPHAN):
                metrics.retirement(SUCCESS)

        self.tell = listen
        names = frozenset(configuration.targets)
        self._executors = {
            (provider, store): Executor(
                configuration.owner,
                frozenset(configuration.former_owners),
                names,
                Ports(
                    self.providers[provider],
                    self.stores[store],
                    self.budgets[provider],
                    clock,
                    random.SystemRandom(),
                    listen,
                    leads,
                ),
                self._seen,
                is_swept=is_swept,
            )
            for provider in self.providers
            for store in self.stores
        }
        clock.max_skew = configuration.daemon.max_skew
        self.sweepers = {name: self._sweeper(name) for name in self.providers}

    @property
    def targets(self) -> Mapping[str, Target]:
        """The configured targets, by name."""
        return self.configuration.targets

    def executor(self, target: Target) -> Executor:
        """Who works on this target."""
        return self._executors[target.provider, target.store]

    def groups(self, targets: Iterable[Target]) -> Iterator[tuple[Executor, list[Target]]]:
        """The targets by who works on them."""
        groups: dict[Executor, list[Target]] = {}
        for target in targets:
            groups.setdefault(self.executor(target), []).append(target)
        yield from groups.items()

    def _sweeper(self, provider: str) -> Sweeper:
        configuration, budget = self.configuration, self.budgets[provider]
        return Sweeper(
            provider,
            list(self.groups(target for target in self.targets.values() if target.provider == provider)),
            SlidingWindow(max(1, budget.limit // SWEEP_SHARE), self.clock, whole=budget),
            frozenset({configuration.owner, *configuration.former_owners}),
            configuration.sweep.settle,
            configuration.sweep.max_removals,
        )

    def peers(self) -> Mapping[str, RotatorError | None]:
        """Every provider and store by name, with the error for which it is left alone at the moment."""
        providers = {f"provider {name}": provider.circuit.error for name, provider in self.providers.items()}
        vaults = {name: store for name, store in self.stores.items() if isinstance(store, VaultStore)}
        return {**providers, **{f"store {name}": store.client.circuit.error for name, store in vaults.items()}}

    def close(self) -> None:
        """Give back the connections. What is still under way fails as if the network had."""
        for provider in self.providers.values():
            provider.close()
        for store in self.stores.values():
            if isinstance(store, VaultStore):
                store.close()

    def _store(self, store: settings.VaultSettings | settings.SqliteSettings, metrics: Metrics, name: str) -> AnyStore:
        if isinstance(store, settings.SqliteSettings):
            return SqliteStore(store.file, self.clock)
        return VaultStore(
            VaultSettings(
                address=store.address,
                mount=store.mount,
                login=self._login(store.auth),
                namespace=store.namespace or None,
                ca_file=store.ca_file,
                server_name=store.server_name,
                timeout=store.timeout.total_seconds(),
                connections=self.configuration.daemon.workers,
                certificate=(
                    (store.auth.cert_file, store.auth.key_file) if isinstance(store.auth, settings.CertAuth) else None
                ),
            ),
            self.clock,
            metrics.store_meter(name),
        )

    def _login(self, auth: settings.Auth) -> Login:
        match auth:
            case settings.TokenFileAuth():
                return TokenFileLogin(auth.token_file)
            case settings.AppRoleAuth():
                return AppRoleLogin(auth.role_id, auth.secret_id_file, auth.mount)
            case settings.TokenAuth():
                token = self._environment.get("VAULT_TOKEN")
                if not token:
                    raise StoreCredentialRefused(
                        "$VAULT_TOKEN is not set", 'auth.method = "token" reads it from there.'
                    )
                secret = Secret(token)
                logs.register(secret)
                return TokenLogin(secret)
            case settings.KubernetesAuth() | settings.JwtAuth():
                return JwtLogin(auth.role, auth.token_file, auth.mount)
            case settings.CertAuth():
                return CertLogin(auth.role, auth.mount)

    def _secret(self, source: settings.SecretSource, key: str) -> Callable[[], Secret]:
        """Reads the secret afresh at each call, so that one that was replaced is found."""

        def read() -> Secret:
            if source.vault is not None:
                vaults = [store for store in self.stores.values() if isinstance(store, VaultStore)]
                try:
                    secret = vaults[0].read_secret(source.vault)
                except StoreError as error:  # whoever asks the provider for something knows no error of a store
                    kind = ProviderCredentialRefused if error.needs_a_person else ProviderUnavailable
                    message = f"the organisation key, which {key} names, cannot be read: {error.message}"
                    raise kind(message, error.advice) from None
                logs.register(secret)
                return secret
            where = f"the file {source.file}" if source.file else f"${source.env}"
            try:
                text = Path(source.file).read_text() if source.file else self._environment.get(source.env or "", "")
            except (OSError, UnicodeDecodeError) as error:
                reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "it is not text"
                raise ProviderCredentialRefused(
                    f"{where}, which {key} names, cannot be read: {reason}",
                    "No key can be created, shortened or removed until it can be; it is read again at every try.",
                ) from None
            if not text.strip():
                raise ProviderCredentialRefused(
                    f"{where}, which {key} names, is empty or not set",
                    "No key can be created, shortened or removed until it holds an organisation key.",
                )
            secret = Secret(text.strip())
            logs.register(secret)
            return secret

        return read


def _probe(probe: settings.ProbeSettings | None) -> Probe | None:
    return Probe(probe.url, probe.method, frozenset(probe.accept)) if probe else None
