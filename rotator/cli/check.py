"""What `check --online` tries: credentials, permissions and paths, by reading only."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from rotator.app.passes import adoption_advice
from rotator.app.wiring import Installation
from rotator.config.values import format_duration
from rotator.core.errors import (
    KubernetesUnavailable,
    LeaseUnusable,
    ProviderError,
    RotatorError,
    ServedKeyMisnamed,
    StoreError,
)
from rotator.core.keys import OWNER_LETTERS, KeyName, UnreadableKey
from rotator.core.renewal import TIDYING
from rotator.core.target import Target
from rotator.core.versions import Ownership, Scope, read_version
from rotator.daemon.leader import RIGHTS, rights
from rotator.runtime.kubernetes import ApiServer
from rotator.stores.vault.check import Lifetime, findings, login_end, mount_lifetime, path_lifetime
from rotator.stores.vault.store import VaultStore


@dataclass(frozen=True, slots=True)
class OnlineFinding:
    """Something that would keep a target from being rotated, or a surprise."""

    where: str
    message: str
    advice: str
    unreachable: bool = False  # nothing more could be tried there


def online_findings(installation: Installation, advance: Callable[[], None]) -> list[OnlineFinding]:
    """Everything that is found, stores first; `advance` is called for each target that was looked at."""
    served: dict[str, tuple[Target, Scope]] = {}
    stores = [*_stores(installation, advance, served)]
    return [*stores, *_providers(installation, served), *_lease(installation), *_clock(installation)]


def present_locations(installation: Installation) -> dict[str, dict[str, str]]:
    """Return where each Vault store's secrets are, as `former_locations` names it after a move.

    A store that does not answer is left out: there is a finding for it.
    """
    found = {}
    for name, store in installation.vaults.items():
        with suppress(StoreError):
            found[name] = {"cluster_id": store.cluster_id(), "namespace": store.namespace, "mount": store.mount}
    return found


def _clock(installation: Installation) -> Iterator[OnlineFinding]:
    """The clock, last: each answer has shown another's time."""
    clock = installation.clock
    if not clock.trusted():
        yield OnlineFinding(
            "clock",
            f"this machine's clock differs from the upstreams' ({clock.skews_in_words()}); "
            f"[daemon] max_clock_skew is {format_duration(clock.max_clock_skew)}",
            "No key is ended by such a clock, and none is made while every upstream contradicts it. Correct the clock "
            "that is wrong. See the runbook, RotatorClockSkew.",
        )


def _stores(
    installation: Installation, advance: Callable[[], None], served: dict[str, tuple[Target, Scope]]
) -> Iterator[OnlineFinding]:
    """What is wrong with the stores and the paths. Adds to `served`: by a served key's id, whose it is."""
    for name, store in installation.stores.items():
        targets = [target for target in installation.targets.values() if target.store == name]
        vault = installation.vaults.get(name)
        found = False
        try:
            if vault is not None:
                for finding in findings(vault, [target.path for target in targets]):
                    found = True
                    yield OnlineFinding(f"stores.{name}: {finding.path}", finding.message, finding.advice)
            if vault is not None and (end := login_end(vault, installation.clock.now())):
                yield OnlineFinding(f"stores.{name}", end.message, end.advice)
            of_mount = mount_lifetime(vault) if vault is not None and targets and not found else None
            for target in () if found else targets:  # what lacks a right would only say so once more
                reconciler = installation.reconciler(target)
                scope = reconciler.scope(target)
                current = store.newest(target.path).current
                advance()
                entry = read_version(current, target, scope) if current else None
                ownership = entry.ownership if entry else Ownership.UNREADABLE
                if entry and entry.key_id:
                    served[entry.key_id] = target, scope
                if ownership.foreign and not target.adopt:
                    message = f"{target.path} holds data that is not ours ({ownership})"
                    yield OnlineFinding(f"targets.{target.name}", message, adoption_advice(target))
                if vault is not None:
                    yield from _vanishing(target, vault, of_mount)
        except StoreError as error:
            yield _failed(f"stores.{name}", error)


def _vanishing(target: Target, store: VaultStore, of_mount: Lifetime | None) -> Iterator[OnlineFinding]:
    """Vault takes the sooner of what the mount and the path say, and then applications find nothing."""
    said = [life for life in (of_mount, path_lifetime(store, target.path)) if life is not None]
    soonest = min(said, key=lambda life: life.seconds, default=None)
    if soonest is not None and 0 <= soonest.seconds < target.ttl.total_seconds():
        after, ttl = format_duration(timedelta(seconds=soonest.seconds)), format_duration(target.ttl)
        message = (
            f"Vault deletes a version of {store.mount}/{target.path} after {after} (delete_version_after of "
            f"{soonest.where}), sooner than its key ends ({ttl}): applications would find nothing there"
        )
        yield OnlineFinding(f"targets.{target.name}", message, f"Put an end to that: `{soonest.remedy}`.")


def _providers(installation: Installation, served: Mapping[str, tuple[Target, Scope]]) -> Iterator[OnlineFinding]:
    owners = {installation.configuration.owner, *installation.configuration.former_owners}
    for name, provider in installation.providers.items():
        ours = {owner[:OWNER_LETTERS] for owner in owners}
        try:
            for page in provider.pages(partial(installation.budgets[name].take, TIDYING)):  # all, as a sweep does
                for key in page:
                    parsed = KeyName.parse(key.name)
                    target, scope = served.get(key.id, (None, None))
                    if target and scope and target.provider == name and not scope.owns(key.name):
                        error = ServedKeyMisnamed(target.path, key.id, key.name)
                        yield OnlineFinding(f"targets.{target.name}", error.message, error.advice)
                    if isinstance(key, UnreadableKey) and parsed is not None and parsed.owner in ours:
                        message = f"the provider lists a key of ours that cannot be read: {key}"
                        advice = "Correct the key at the provider, or delete it there if no application uses it."
                        yield OnlineFinding(f"providers.{name}", message, advice)
        except ProviderError as error:
            yield _failed(f"providers.{name}", error)


def _lease(installation: Installation) -> Iterator[OnlineFinding]:
    try:
        if (settings := installation.lease()) is None:
            return
        what, advice = "a review of our rights", "Look at the token, and at the address of the API server."
        server = ApiServer(settings.access, installation.clock, what, advice, settings.duration)
        for right in rights(settings.name):
            server.begin()
            if not server.allows(right):
                message = f"lacks the right to {right} in the namespace {settings.access.namespace}"
                yield OnlineFinding("lease", message, RIGHTS)
    except (LeaseUnusable, KubernetesUnavailable) as error:
        yield _failed("lease", error)


def _failed(where: str, error: RotatorError) -> OnlineFinding:
    return OnlineFinding(where, error.message, error.advice, unreachable=True)
