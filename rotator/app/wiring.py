"""Puts the parts together: a configuration in, a reconciler for each target out.

The only module that knows every adapter. It decides nothing; what can go wrong here is a credential that is not there.
"""

import contextlib
import random
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial

from rotator.config import schema as settings
from rotator.config.loader import Configuration
from rotator.core.errors import (
    ProviderCredentialRefused,
    ProviderError,
    ProviderUnavailable,
    RotatorError,
    StoreCredentialRefused,
    StoreError,
    StoreUnavailable,
)
from rotator.core.events import Event, EventType
from rotator.core.plan import Reason
from rotator.core.ports import Leadership, Listener, Ports
from rotator.core.renewal import AT_ONCE, TIDYING
from rotator.core.secrets import Secret
from rotator.core.target import Target
from rotator.core.versions import Record
from rotator.protocol.memory import Kept, Memory
from rotator.protocol.places import Claims
from rotator.protocol.recognition import Recognition
from rotator.protocol.reconciler import Reconciler
from rotator.protocol.rotation import UNPUBLISHED
from rotator.protocol.strays import StrayKeys
from rotator.protocol.sweeper import Sweeper
from rotator.providers.respan.client import Probe, RespanProvider
from rotator.runtime import files
from rotator.runtime.clock import SystemClock
from rotator.runtime.kubernetes import LeaseSettings, access_in_a_pod
from rotator.runtime.rate_limit import SWEEP_SHARE, SlidingWindow
from rotator.runtime.redact import register
from rotator.stores.sqlite import SqliteStore
from rotator.stores.vault.auth import AppRoleLogin, CertLogin, JwtLogin, Login, TokenFileLogin, TokenLogin
from rotator.stores.vault.store import VaultStore
from rotator.stores.vault.transport import FormerLocation, VaultSettings
from rotator.telemetry.metrics import SUCCESS, Metrics

AnyStore = VaultStore | SqliteStore


class Installation:
    """Everything that one configuration needs, built and not yet used: the first request is the first use.

    A successor (after a reload) takes over the budgets and what was seen of keys: the vendor goes on counting, and
    nothing has to be looked up again. A provider or store whose settings are the same is taken over itself, with its
    login, its connections, and what is known of its being down; only its credentials are looked at again.

    Building a successor changes nothing that its predecessor uses, and a failure closes what was built. `take_over`
    changes what both share.
    """

    def __init__(
        self,
        configuration: Configuration,
        environment: Mapping[str, str],
        clock: SystemClock,
        metrics: Metrics,
        emit: Listener,
        predecessor: "Installation | None" = None,
        leads: Leadership = lambda: True,
        *,
        is_swept: bool = False,
    ) -> None:
        self.configuration = configuration
        self.clock = clock
        self._environment = environment
        self._metrics = metrics
        self._kept: Kept = predecessor._kept if predecessor else Kept()
        self.connections: int = predecessor.connections if predecessor else configuration.daemon.workers
        self._trusted = {name: _certificates(store) for name, store in configuration.stores.items()}
        self.stores: dict[str, AnyStore] = {}
        self.budgets: dict[str, SlidingWindow] = {}
        self.providers: dict[str, RespanProvider] = {}
        with contextlib.ExitStack() as built:
            built.callback(self.close, but=[predecessor] if predecessor else [])
            for name, store in configuration.stores.items():
                same = predecessor and predecessor._same_store(name, store, self._trusted[name])
                self.stores[name] = same or self._store(store, name)
            for name, provider in configuration.providers.items():
                budget = predecessor.budgets.get(name) if predecessor else None
                self.budgets[name] = budget or SlidingWindow(provider.requests_per_minute, clock)
                same_provider = predecessor and predecessor._same_provider(name, provider, self.stores)
                self.providers[name] = same_provider or self._provider(provider, name)
            built.pop_all()

        def listen(event: Event) -> None:
            emit(event)
            if event.what is EventType.KEY_DELETED and event.fields["reason"] not in (UNPUBLISHED, Reason.ORPHAN):
                metrics.retirement(SUCCESS)

        self.emit = listen
        known: Mapping[str, Recognition] = predecessor._recognitions if predecessor else {}
        self._recognitions: dict[str, Recognition] = {name: known.get(name) or Recognition() for name in self.providers}
        names = frozenset(configuration.targets)
        served: dict[str, dict[str, Record]] = {provider: {} for provider in self.providers}
        claims = Claims((target, self.stores[target.store]) for target in configuration.targets.values())
        self.strays: dict[str, StrayKeys] = {
            name: StrayKeys(
                self.providers[name],
                self._share(name) if is_swept else self.budgets[name],  # what sweeps, rotates keys beside
                clock,
                listen,
                served[name],
                configuration.sweep.min_age,
                predecessor.strays[name].waiting if predecessor and name in predecessor.strays else None,
            )
            for name in self.providers
        }
        self._reconcilers = {
            (provider, store): Reconciler(
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
                    self.strays[provider],
                    leads,
                ),
                Memory(self._kept, served[provider], is_swept=is_swept),
                configuration.sweep.min_age,
                self._recognitions[provider],
                claims,
            )
            for provider in self.providers
            for store in self.stores
        }
        self.sweepers = {name: self._sweeper(name) for name in self.providers}
        if predecessor is None:
            self.take_over()

    def take_over(self) -> None:
        """Replace the predecessor in what both share: budgets, clock, metrics, and what is remembered of targets."""
        self._kept.keep_only(self.targets)
        for name, provider in self.configuration.providers.items():
            self.budgets[name].limit = provider.requests_per_minute
        self.clock.max_clock_skew = self.configuration.daemon.max_clock_skew
        self.clock.listen_to({part.upstream for part in self._connected()})
        self._metrics.keep_only(self.providers, self.stores)  # what is gone must raise no alert

    def look_again(self) -> None:
        """Read all credentials again, and try at once what was left alone."""
        for part in self._connected():
            part.look_again()

    @property
    def targets(self) -> Mapping[str, Target]:
        """The configured targets, by name."""
        return self.configuration.targets

    @property
    def vaults(self) -> Mapping[str, VaultStore]:
        """Those of the stores that are Vaults: they have a login to keep, connections, and an address to be down."""
        return {name: store for name, store in self.stores.items() if isinstance(store, VaultStore)}

    def reconciler(self, target: Target) -> Reconciler:
        """Who works on this target."""
        return self._reconcilers[target.provider, target.store]

    def lease(self) -> LeaseSettings | None:
        """The configured Lease, completed with what the pod says. Raises `LeaseUnusable`."""
        wanted = self.configuration.lease
        if wanted is None:
            return None
        access = access_in_a_pod(
            self._environment,
            namespace=wanted.namespace,
            api_server=wanted.api_server,
            token_file=wanted.token_file,
            ca_file=wanted.ca_file,
        )
        identity = wanted.identity or self._environment.get("HOSTNAME") or socket.gethostname()
        return LeaseSettings(access, wanted.name, identity, wanted.duration.total_seconds())

    def groups(self, targets: Iterable[Target]) -> Iterator[tuple[Reconciler, list[Target]]]:
        """The targets by who works on them."""
        groups: dict[Reconciler, list[Target]] = {}
        for target in targets:
            groups.setdefault(self.reconciler(target), []).append(target)
        yield from groups.items()

    def _sweeper(self, provider: str) -> Sweeper:
        configuration = self.configuration
        return Sweeper(
            provider,
            list(self.groups(target for target in self.targets.values() if target.provider == provider)),
            self._share(provider),
            frozenset({configuration.owner, *configuration.former_owners}),
            configuration.sweep.min_age,
            configuration.sweep.max_orphans,
        )

    def _share(self, provider: str) -> SlidingWindow:
        """A part of the budget for work that no served key waits for."""
        share = self.configuration.providers[provider].requests_per_minute // SWEEP_SHARE
        return SlidingWindow(max(1, share), self.clock, whole=self.budgets[provider])

    def upstreams(self) -> Mapping[str, RotatorError | None]:
        """Every provider and store by name, with the error for which it is left alone, or that all its callers get."""
        providers = {
            f"provider {name}": provider.circuit.error or provider.outage.error
            for name, provider in self.providers.items()
        }
        return {**providers, **{f"store {name}": store.client.circuit.error for name, store in self.vaults.items()}}

    def ask_the_down(self, *, providers: bool) -> None:
        """Send what is down a cheap read, where one is due; what comes of it is in its circuit and meter."""
        for name, store in self.vaults.items():
            target = next((target for target in self.targets.values() if target.store == name), None)
            if store.client.circuit.error is not None and target is not None:
                with suppress(StoreError):
                    store.newest(target.path)
        for name, provider in self.providers.items() if providers else ():
            if provider.circuit.error is not None or provider.outage.is_to_be_asked():
                with suppress(ProviderError):
                    provider.ready()
                    next(provider.pages(partial(self.budgets[name].take, TIDYING)), None)

    def close(self, but: Iterable["Installation"] = ()) -> None:
        """Give back the connections that those others do not use. What is under way fails as if the network had."""
        used = {id(part) for other in but for part in (*other.providers.values(), *other.stores.values())}
        for part in self._connected():
            if id(part) not in used:
                part.close()

    def _connected(self) -> list[RespanProvider | VaultStore]:
        return [*self.providers.values(), *self.vaults.values()]

    def _same_store(self, name: str, store: settings.StoreSettings, trusted: bytes | None) -> AnyStore | None:
        """The store of that name, if it was made of just these settings and certificates."""
        same = self.configuration.stores.get(name) == store and self._trusted[name] == trusted
        return self.stores[name] if same else None

    def _same_provider(
        self, name: str, provider: settings.RespanSettings, stores: Mapping[str, AnyStore]
    ) -> RespanProvider | None:
        """The provider of that name, if nothing but its budget differs, nor the store that its key is read from."""
        former, pace = self.configuration.providers.get(name), {"requests_per_minute": provider.requests_per_minute}
        same = former is not None and former.model_copy(update=pace) == provider
        return self.providers[name] if same and (provider.api_key.vault is None or self.stores == stores) else None

    def _provider(self, provider: settings.RespanSettings, name: str) -> RespanProvider:
        budget = self.budgets[name]
        return RespanProvider(
            name=name,
            base_url=provider.base_url,
            organisation_key=self._secret(provider.api_key, f"providers.{name}.api_key"),
            clock=self.clock,
            meter=self._metrics.provider_meter(name),
            rate_limited=budget.pause,
            before_confirming=partial(budget.take, AT_ONCE),
            connections=self.connections,
            probe=_probe(provider.probe),
        )

    def _store(self, store: settings.StoreSettings, name: str) -> AnyStore:
        if isinstance(store, settings.SqliteSettings):
            try:
                return SqliteStore(store.file, self.clock)
            except StoreError as error:
                raise StoreUnavailable(error.message, error.advice) from None  # for without it nothing can be tried
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
            self._metrics.store_meter(name),
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
                return TokenLogin(register(Secret(token)))
            case settings.KubernetesAuth() | settings.JwtAuth():
                return JwtLogin(auth.role, auth.token_file, auth.mount)
            case settings.CertAuth():
                return CertLogin(auth.role, auth.mount, auth.cert_file)

    def _secret(self, source: settings.SecretSource, key: str) -> Callable[[], Secret]:
        """Reads the secret afresh at each call, so that one that was replaced is found."""

        def read() -> Secret:
            if source.vault is not None:
                [vault] = self.vaults.values()
                try:
                    return vault.read_secret(source.vault)
                except StoreError as error:  # whoever asks the provider for something knows no error of a store
                    kind = ProviderCredentialRefused if error.needs_a_person else ProviderUnavailable
                    message = f"the organisation key, which {key} names, cannot be read: {error.message}"
                    raise kind(message, error.advice) from None
            where = f"the file {source.file}" if source.file else f"${source.env}"
            try:
                text = files.read(source.file).decode() if source.file else self._environment.get(source.env or "", "")
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "it is not text"
                raise ProviderCredentialRefused(
                    f"{where}, which {key} names, cannot be read: {reason}",
                    "No key can be created, shortened or removed until it can be; it is read again at every try.",
                ) from None
            if not text.strip():
                raise ProviderCredentialRefused(
                    f"{where}, which {key} names, is empty or not set",
                    "No key can be created, shortened or removed until it holds an organisation key.",
                )
            return register(Secret(text.strip()))

        return read


def _certificates(store: settings.StoreSettings) -> bytes | None:
    """Those that a store is to trust, which are read when its connections are made; None where it is told later."""
    if not isinstance(store, settings.VaultSettings) or store.ca_file is None:
        return None
    try:
        return files.read(store.ca_file)
    except OSError:
        return None


def _probe(probe: settings.ProbeSettings | None) -> Probe | None:
    return Probe(probe.url, probe.method, frozenset(probe.accept)) if probe else None
