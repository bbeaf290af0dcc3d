"""The findings of `check --online`: credentials, permissions, paths, the Lease, the channels and the clock.

Changes nothing, and sends a test event to each webhook.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

from rotator.app.passes import adoption_advice
from rotator.app.wiring import Installation
from rotator.cli.pickups import Suggestion, suggestions
from rotator.config.values import format_duration
from rotator.core.errors import (
    KubernetesUnavailable,
    LeaseUnusable,
    NotificationFailed,
    ProviderError,
    RotatorError,
    ServedKeyMisnamed,
    StoreError,
)
from rotator.core.keys import OWNER_LETTERS, KeyName, ListedKey, ProviderKey, UnreadableKey
from rotator.core.ports import Store
from rotator.core.renewal import TIDYING
from rotator.core.target import Target
from rotator.core.versions import Scope, read_version
from rotator.daemon.leader import RIGHTS, rights
from rotator.notify.external_secrets import rights_advice
from rotator.notify.notification import notification
from rotator.runtime.kubernetes import ApiServer
from rotator.stores.vault.check import Lifetime, findings, login_end, mount_lifetime, path_lifetime
from rotator.stores.vault.store import VaultStore


@dataclass(frozen=True, slots=True)
class OnlineFinding:
    """A fault that prevents a rotation, or that would surprise."""

    where: str
    message: str
    advice: str
    unreachable: bool = False  # nothing else there could be checked


@dataclass(frozen=True, slots=True)
class OnlineCheck:
    """What `check --online` shows."""

    findings: Sequence[OnlineFinding] = ()
    locations: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # by store
    shows_use: Mapping[str, bool] = field(default_factory=dict)  # by provider whose list has keys
    pickups: Sequence[Suggestion] = ()


def check_online(installation: Installation, advance: Callable[[], None]) -> OnlineCheck:
    """Check everything, the stores first. Call `advance` after each target."""
    served: dict[str, tuple[Target, Scope]] = {}
    shows_use: dict[str, bool] = {}
    used: list[tuple[Target, ProviderKey]] = []
    stores = [*_stores(installation, advance, served)]
    providers = [*_providers(installation, served, shows_use, used)]
    findings = [*stores, *providers, *_lease(installation), *_channels(installation), *_clock(installation)]
    return OnlineCheck(findings, _present_locations(installation), shows_use, [*suggestions(installation, used)])


def _present_locations(installation: Installation) -> dict[str, dict[str, str]]:
    """Return where each Vault store's secrets are, as `former_locations` names it after a move.

    A store that does not answer is left out: it has a finding.
    """
    found = {}
    for name, store in installation.vaults.items():
        with suppress(StoreError):
            found[name] = {"cluster_id": store.cluster_id(), "namespace": store.namespace, "mount": store.mount}
    return found


def _clock(installation: Installation) -> Iterator[OnlineFinding]:
    """Check the clock. Last, because each answer has shown the time of an upstream."""
    clock = installation.clock
    if not clock.trusted():
        yield OnlineFinding(
            "clock",
            f"this machine's clock differs from the upstreams' ({clock.skews_in_words()}); "
            f"[daemon] max_clock_skew is {format_duration(clock.max_clock_skew)}",
            "rotator shortens and deletes no key by such a clock, and creates none while every upstream contradicts "
            "it. Correct the clock that is wrong. See the runbook, RotatorClockSkew.",
        )


def _stores(
    installation: Installation, advance: Callable[[], None], served: dict[str, tuple[Target, Scope]]
) -> Iterator[OnlineFinding]:
    """Check the stores and the paths. Add to `served` the target of each served key, by the key's id."""
    for name, store in installation.stores.items():
        targets = [target for target in installation.targets.values() if target.store == name]
        vault = installation.vaults.get(name)
        try:
            missing = [*_missing_rights(name, vault, targets)] if vault is not None else []
            yield from missing
            if vault is not None and (end := login_end(vault, installation.clock.now())):
                yield OnlineFinding(f"stores.{name}", end.message, end.advice)
            if missing:  # reading the paths would report the same again
                continue
            of_mount = mount_lifetime(vault) if vault is not None and targets else None
            for target in targets:
                yield from _path(installation, store, target, served)
                advance()
                if vault is not None:
                    yield from _version_lifetime(target, vault, of_mount, installation.clock.now())
        except StoreError as error:
            yield _failed(f"stores.{name}", error)


def _missing_rights(name: str, vault: VaultStore, targets: Sequence[Target]) -> Iterator[OnlineFinding]:
    for finding in findings(vault, [target.path for target in targets]):
        yield OnlineFinding(f"stores.{name}: {finding.path}", finding.message, finding.advice)


def _path(
    installation: Installation, store: Store, target: Target, served: dict[str, tuple[Target, Scope]]
) -> Iterator[OnlineFinding]:
    scope = installation.observer(target).scope(target)
    current = store.newest(target.path).current
    entry = read_version(current, target, scope) if current else None
    if entry and entry.key_id:
        served[entry.key_id] = target, scope
    if entry and entry.ownership.foreign and not target.adopt:
        message = f"{target.path} holds data that is not ours ({entry.ownership})"
        yield OnlineFinding(f"targets.{target.name}", message, adoption_advice(target, entry.ownership))


def _version_lifetime(
    target: Target, store: VaultStore, of_mount: Lifetime | None, now: datetime
) -> Iterator[OnlineFinding]:
    """Check that Vault keeps a version as long as its key lives. The shorter time of mount and path counts.

    In a pause a key may have to live that much longer.
    """
    life = target.ttl + max(timedelta(0), (target.pause_until or now) - now)
    lifetimes = [one for one in (of_mount, path_lifetime(store, target.path)) if one is not None]
    shortest = min(lifetimes, key=lambda one: one.seconds, default=None)
    if shortest is not None and 0 <= shortest.seconds < life.total_seconds():
        after, ttl = format_duration(timedelta(seconds=shortest.seconds)), format_duration(life)
        message = (
            f"Vault deletes a version of {store.mount}/{target.path} after {after} (delete_version_after of "
            f"{shortest.where}), before its key expires ({ttl}). Applications would find no key"
        )
        yield OnlineFinding(f"targets.{target.name}", message, f"Run `{shortest.remedy}`.")


def _providers(
    installation: Installation,
    served: Mapping[str, tuple[Target, Scope]],
    shows_use: dict[str, bool],
    used: list[tuple[Target, ProviderKey]],
) -> Iterator[OnlineFinding]:
    """List all keys, as a sweep does. Add to `used` those of the targets that are not served and show their use."""
    by_place = {place: target for target, scope in served.values() for place in scope.places}
    owners = {installation.configuration.owner, *installation.configuration.former_owners}
    ours = {owner[:OWNER_LETTERS] for owner in owners}
    for name, provider in installation.providers.items():
        try:
            for page in provider.pages(partial(installation.budgets[name].take, TIDYING)):
                for key in page:
                    yield from _listed_key(name, key, served, ours)
                    shown = isinstance(key, ProviderKey) and key.use is not None and bool(key.use.caps)
                    shows_use[name] = shows_use.get(name, False) or shown
                    parsed = KeyName.parse(key.name)
                    target = by_place.get(parsed.place) if parsed and key.id not in served else None
                    if target and target.provider == name and isinstance(key, ProviderKey) and key.use:
                        used.append((target, key))
        except ProviderError as error:
            yield _failed(f"providers.{name}", error)


def _listed_key(
    provider: str, key: ListedKey, served: Mapping[str, tuple[Target, Scope]], ours: Collection[str]
) -> Iterator[OnlineFinding]:
    target, scope = served.get(key.id, (None, None))
    if target and scope and target.provider == provider and not scope.owns(key.name):
        error = ServedKeyMisnamed(target.path, key.id, key.name)
        yield OnlineFinding(f"targets.{target.name}", error.message, error.advice)
    name = KeyName.parse(key.name)
    if isinstance(key, UnreadableKey) and name is not None and name.owner in ours:
        message = f"the provider lists a key of ours that cannot be read: {key}"
        advice = "Correct the key at the provider, or delete it there if no application uses it."
        yield OnlineFinding(f"providers.{provider}", message, advice)


def _lease(installation: Installation) -> Iterator[OnlineFinding]:
    try:
        if (settings := installation.lease()) is None:
            return
        what, advice = "a review of our rights", "Check the token and the address of the API server."
        server = ApiServer(settings.access, installation.clock, what, advice, settings.duration)
        for right in rights(settings.name):
            server.begin()
            if not server.allows(right):
                message = f"lacks the right to {right} in the namespace {settings.access.namespace}"
                yield OnlineFinding("lease", message, RIGHTS)
    except (LeaseUnusable, KubernetesUnavailable) as error:
        yield _failed("lease", error)


def _channels(installation: Installation) -> Iterator[OnlineFinding]:
    now, owner = installation.clock.now(), installation.configuration.owner
    for name, webhook in installation.channels.webhooks.items():
        try:
            webhook.send(notification("test", now, owner, "", {}, now))
        except NotificationFailed as error:
            yield OnlineFinding(f"notify.webhooks.{name}", error.message, error.advice)
    external_secrets = installation.channels.external_secrets
    for namespace in external_secrets.namespaces if external_secrets else ():
        try:
            for right in external_secrets.missing_rights(namespace) if external_secrets else ():
                message = f"lacks the right to {right} in the namespace {namespace}"
                yield OnlineFinding("notify.external_secrets", message, rights_advice(namespace))
        except NotificationFailed as error:
            yield OnlineFinding("notify.external_secrets", error.message, error.advice)


def _failed(where: str, error: RotatorError) -> OnlineFinding:
    return OnlineFinding(where, error.message, error.advice, unreachable=True)
