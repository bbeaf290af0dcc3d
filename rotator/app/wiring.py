"""Puts the parts together: a configuration in, a reconciler for each target out. It decides nothing."""

import contextlib
import random
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from functools import partial
from itertools import product

from rotator.app.adapters import Adapters, AnyStore, Channels, Contents, contents
from rotator.config import schema as settings
from rotator.config.loader import Configuration
from rotator.config.provider_settings import ProviderSettings
from rotator.config.provider_type import ConnectedProvider
from rotator.core.caps import HOT_EVERY
from rotator.core.errors import ProviderError, RotatorError, StoreError
from rotator.core.events import Event, EventType
from rotator.core.ports import Leadership, Listener, Ports
from rotator.core.reasons import Reason
from rotator.core.renewal import TIDYING
from rotator.core.target import Target
from rotator.core.versions import Record
from rotator.protocol.memory import Kept, Memory
from rotator.protocol.observer import Observer
from rotator.protocol.places import Claims
from rotator.protocol.recognition import Recognition
from rotator.protocol.reconciler import Reconciler
from rotator.protocol.rotation import UNPUBLISHED
from rotator.protocol.strays import StrayKeys
from rotator.protocol.sweeper import Sweeper
from rotator.protocol.use_watch import WATCH_SHARE, UseWatch
from rotator.providers.guard import GuardedProvider
from rotator.runtime.clock import SystemClock
from rotator.runtime.kubernetes import LeaseSettings, access_in_a_pod
from rotator.runtime.rate_limit import SWEEP_SHARE, SlidingWindow
from rotator.stores.vault.store import VaultStore
from rotator.telemetry.metrics import SUCCESS, Metrics


class Installation:
    """Everything that one configuration needs, built and not used yet.

    After a reload the successor takes over the budgets and what was seen of keys: the provider goes on counting, and
    nothing has to be looked up again. It also takes over a provider or store whose settings are the same, with its
    login, its connections, and whether it is down; it only reads the credentials again.

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
        as_daemon: bool = False,
    ) -> None:
        """`is_swept`: this process sweeps. `as_daemon`: it plans as a daemon does, which also looks at hot keys."""
        self.configuration = configuration
        self.clock = clock
        self._environment = environment
        self._metrics = metrics
        self._kept: Kept = predecessor._kept if predecessor else Kept()
        self.connections: int = predecessor.connections if predecessor else configuration.daemon.workers
        self._store_files = {name: contents(store) for name, store in configuration.stores.items()}
        self._provider_files = {name: contents(provider) for name, provider in configuration.providers.items()}
        self.stores: dict[str, AnyStore] = {}
        self.budgets: dict[str, SlidingWindow] = {}
        self.providers: dict[str, ConnectedProvider] = {}
        self.channels = Channels({}, None)
        with contextlib.ExitStack() as built:
            built.callback(self.close, but=[predecessor] if predecessor else [])
            self._connect(predecessor)
            built.pop_all()

        def listen(event: Event) -> None:
            emit(event)
            if event.what is EventType.KEY_DELETED and event.fields["reason"] not in (UNPUBLISHED, Reason.ORPHAN):
                metrics.retirement(SUCCESS)

        self.emit = listen
        known: Mapping[str, Recognition] = predecessor._recognitions if predecessor else {}
        self._recognitions: dict[str, Recognition] = {name: known.get(name) or Recognition() for name in self.providers}
        served: dict[str, dict[str, Record]] = {provider: {} for provider in self.providers}
        self.strays: dict[str, StrayKeys] = {
            name: StrayKeys(
                self.providers[name],
                self._share(name) if is_swept else self.budgets[name],  # where there are sweeps, rotations go first
                clock,
                listen,
                served[name],
                min_age=configuration.sweep.min_age,
                waiting=predecessor.strays[name].waiting if predecessor and name in predecessor.strays else None,
            )
            for name in self.providers
        }
        hot_every = min(HOT_EVERY, configuration.sweep.interval) if is_swept or as_daemon else None
        self._reconcilers = self._made_reconcilers(served, leads, hot_every, is_swept=is_swept)
        self.sweepers = {name: self._sweeper(name) for name in self.providers}
        self.use_watches = {name: self._use_watch(name) for name in self.providers}
        if predecessor is None:
            self.take_over()

    def _made_reconcilers(
        self, served: Mapping[str, dict[str, Record]], leads: Leadership, hot_every: timedelta | None, *, is_swept: bool
    ) -> dict[tuple[str, str], Reconciler]:
        """Return a reconciler for each provider and store. `served`: by provider, what all of its memories share."""
        configuration = self.configuration
        names = frozenset(configuration.targets)
        claims = Claims((target, self.stores[target.store]) for target in configuration.targets.values())
        return {
            (provider, store): Reconciler(
                Observer(
                    configuration.owner,
                    frozenset(configuration.former_owners),
                    names,
                    self._ports(provider, store, leads),
                    memory=Memory(self._kept, served[provider], is_swept=is_swept),
                    min_age=configuration.sweep.min_age,
                    recognition=self._recognitions[provider],
                    claims=claims,
                    list_every=configuration.sweep.interval,
                    hot_every=hot_every,
                )
            )
            for provider, store in product(self.providers, self.stores)
        }

    def _connect(self, predecessor: "Installation | None") -> None:
        """Make the stores, budgets and providers, or take over those that have not changed."""
        adapters = Adapters(self._environment, self.clock, self._metrics, self.connections, self.stores)
        for name, store in self.configuration.stores.items():
            same = predecessor and predecessor._same_store(name, store, self._store_files[name])
            self.stores[name] = same or adapters.store(store, name)
        for name, provider in self.configuration.providers.items():
            budget = predecessor.budgets.get(name) if predecessor else None
            self.budgets[name] = budget or SlidingWindow(provider.requests_per_minute, self.clock)
            read = self._provider_files[name]
            same_provider = predecessor and predecessor._same_provider(name, provider, self.stores, read)
            provider_type = self.configuration.provider_types.usable[provider.type]
            traits = self.configuration.traits[name]
            made = same_provider or adapters.provider(provider_type, provider, name, self.budgets[name], traits)
            self.providers[name] = made
            if predecessor and not same_provider and isinstance(made, GuardedProvider):
                made.make()  # what a reload cannot make must not replace what works
        self.channels = adapters.channels(self.configuration.notify, self.configuration.lease)

    def _ports(self, provider: str, store: str, leads: Leadership) -> Ports:
        return Ports(
            self.providers[provider],
            self.stores[store],
            self.budgets[provider],
            self.clock,
            random.SystemRandom(),
            self.emit,
            self.strays[provider],
            leads,
        )

    def take_over(self) -> None:
        """Replace the predecessor in what both share: budgets, clock, metrics, and what is remembered of targets."""
        self._kept.keep_only(self.targets)
        for name, provider in self.configuration.providers.items():
            self.budgets[name].limit = provider.requests_per_minute
        self.clock.max_clock_skew = self.configuration.daemon.max_clock_skew
        self.clock.listen_to({part.upstream for part in self._connected()})
        self._metrics.keep_only(self.providers, self.stores)  # what is gone must raise no alert

    def stand_by(self) -> None:
        """Forget what another replica will change."""
        self._kept.forget_seen()

    def look_again(self) -> None:
        """Read all credentials again, and let the next request try an upstream that is down."""
        for part in self._connected():
            part.look_again()

    @property
    def targets(self) -> Mapping[str, Target]:
        """The configured targets, by name."""
        return self.configuration.targets

    @property
    def vaults(self) -> Mapping[str, VaultStore]:
        """The stores that are Vaults: those with a login, connections, and an outage."""
        return {name: store for name, store in self.stores.items() if isinstance(store, VaultStore)}

    def reconciler(self, target: Target) -> Reconciler:
        """Return what works on this target."""
        return self._reconcilers[target.provider, target.store]

    def observer(self, target: Target) -> Observer:
        """Return what looks at this target."""
        return self.reconciler(target).observer

    def lease(self) -> LeaseSettings | None:
        """Return the configured Lease, completed from the pod. Raises `LeaseUnusable`."""
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

    def groups(self, targets: Iterable[Target]) -> Iterator[tuple[Observer, list[Target]]]:
        """Yield the targets of each provider and store, with what looks at them."""
        groups: dict[Observer, list[Target]] = {}
        for target in targets:
            groups.setdefault(self.observer(target), []).append(target)
        yield from groups.items()

    def _sweeper(self, provider: str) -> Sweeper:
        sweep = self.configuration.sweep
        groups, share = self._groups_of(provider), self._share(provider)
        return Sweeper(provider, groups, share, sweep.min_age, sweep.max_orphans)

    def _use_watch(self, provider: str) -> UseWatch:
        share = self._share(provider, WATCH_SHARE)
        return UseWatch(self._groups_of(provider), share, share.limit)

    def _groups_of(self, provider: str) -> list[tuple[Observer, list[Target]]]:
        return list(self.groups(target for target in self.targets.values() if target.provider == provider))

    def _share(self, provider: str, part: int = SWEEP_SHARE) -> SlidingWindow:
        """Return a part of the budget, for work that no served key waits for."""
        share = self.configuration.providers[provider].requests_per_minute // part
        return SlidingWindow(max(1, share), self.clock, whole=self.budgets[provider])

    def upstreams(self) -> Mapping[str, RotatorError | None]:
        """Return each provider and store by name, with the error that its callers get while it is down."""
        providers = {f"provider {name}": provider.error for name, provider in self.providers.items()}
        return {**providers, **{f"store {name}": store.client.circuit.error for name, store in self.vaults.items()}}

    def ask_the_down(self, *, providers: bool) -> None:
        """Send each upstream that is down a cheap read, where one is due; its circuit and meter keep the result."""
        for name, store in self.vaults.items():
            target = next((target for target in self.targets.values() if target.store == name), None)
            if store.client.circuit.error is not None and target is not None:
                with suppress(StoreError):
                    store.newest(target.path)
        for name, provider in self.providers.items() if providers else ():
            if provider.is_to_be_asked():
                with suppress(ProviderError):
                    provider.ready()
                    next(provider.pages(partial(self.budgets[name].take, TIDYING)), None)

    def close(self, but: Iterable["Installation"] = ()) -> None:
        """Close the connections that those others do not use. Requests under way fail as if the network had."""
        used = {id(part) for other in but for part in (*other.providers.values(), *other.stores.values())}
        for part in (*self._connected(), *self.channels.webhooks.values()):
            if id(part) not in used:
                part.close()

    def _connected(self) -> list[ConnectedProvider | VaultStore]:
        return [*self.providers.values(), *self.vaults.values()]

    def _same_store(self, name: str, store: settings.StoreSettings, read: Contents) -> AnyStore | None:
        """Return the store of that name, if it has just these settings, and read files with these contents."""
        same = self.configuration.stores.get(name) == store and self._store_files[name] == read
        return self.stores[name] if same else None

    def _same_provider(
        self, name: str, provider: ProviderSettings, stores: Mapping[str, AnyStore], read: Contents
    ) -> ConnectedProvider | None:
        """Return the provider of that name, if at most its budget differs: no file, and not the store of its key."""
        former, pace = self.configuration.providers.get(name), {"requests_per_minute": provider.requests_per_minute}
        same = former is not None and former.model_copy(update=pace) == provider and self._provider_files[name] == read
        return self.providers[name] if same and (provider.api_key.vault is None or self.stores == stores) else None
