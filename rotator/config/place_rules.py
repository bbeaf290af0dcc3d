"""The rules about where targets are and were: two targets must not claim one path, nor the keys made for it.

Pure, like `config_checks`, and silent as well about what hangs on a table that was not well-formed.
"""

from collections.abc import Iterator

from rotator.config.rules import UnvalidatedConfig
from rotator.config.schema import FormerLocation, SqliteSettings, VaultSettings
from rotator.config.values import quoted
from rotator.core.errors import Problem
from rotator.core.target import Target

_HERE = FormerLocation()


def problems(draft: UnvalidatedConfig) -> Iterator[Problem]:
    """All that must be corrected before anything can run."""
    yield from _shared_paths(draft)
    for name, store in draft.settings.stores.items():
        if isinstance(store, VaultSettings) and not draft.is_broken("stores", name):
            yield from _former_locations(draft, name, store)
    for target in _located(draft):
        yield from _former_paths(draft, target)
    yield from _shared_former_places(draft)


def _located(draft: UnvalidatedConfig) -> Iterator[Target]:
    """The targets of which it is known where they are."""
    for target in draft.targets.values():
        is_unclear = not target.store or draft.is_unknown(target.name, "store")
        if not is_unclear and not draft.is_broken("targets", target.name, "path"):
            yield target


def _shared_paths(draft: UnvalidatedConfig) -> Iterator[Problem]:
    first: dict[str, str] = {}
    for target in _located(draft):
        other = first.setdefault(f"{_location(draft, target.store)}/{target.path}", target.name)
        if other != target.name:
            message = f'is the path of the target "{other}" too ({draft.origins[other]}): each needs one of its own'
            yield draft.target_problem(target.name, message, "path")


def _former_locations(draft: UnvalidatedConfig, name: str, store: VaultSettings) -> Iterator[Problem]:
    known = {_location(draft, name)}
    for number, former in enumerate(store.former_locations):
        location = _location(draft, name, former)
        if location in known:
            is_present = location == _location(draft, name)
            message = "is where the store is now: name what it was before" if is_present else "stands there twice"
            yield draft.problem(message, "stores", name, "former_locations", number)
        known.add(location)


def _former_paths(draft: UnvalidatedConfig, target: Target) -> Iterator[Problem]:
    if target.path in target.former_paths:
        message = f"holds {quoted([target.path])}, which is the path now: name what it was before"
        yield draft.target_problem(target.name, message, "former_paths")
    if twice := sorted({path for path in target.former_paths if target.former_paths.count(path) > 1}):
        yield draft.target_problem(target.name, f"holds {quoted(twice)} twice", "former_paths")


def _shared_former_places(draft: UnvalidatedConfig) -> Iterator[Problem]:
    """Two targets that claim the keys of one place would end each other's."""
    claimed = {f"{_location(draft, target.store)}/{target.path}": target.name for target in _located(draft)}
    for target in _located(draft):
        for path in dict.fromkeys((target.path, *target.former_paths)):
            for former in (_HERE, *_former_of(draft, target.store)):
                location = f"{_location(draft, target.store, former)}/{path}"
                other = claimed.setdefault(location, target.name)
                if other == target.name:
                    continue
                message = (
                    f'{quoted([path])} there is or was the path of the target "{other}" too ({draft.origins[other]}): '
                    "two targets would claim the keys that were made for it"
                )
                if path != target.path:
                    yield draft.target_problem(target.name, message, "former_paths")
                elif former is not _HERE:  # else two targets have one path, which is a problem of its own
                    yield draft.problem(message, "stores", target.store, "former_locations")


def _former_of(draft: UnvalidatedConfig, name: str) -> tuple[FormerLocation, ...]:
    store = draft.settings.stores.get(name)
    return store.former_locations if isinstance(store, VaultSettings) else ()


def _location(draft: UnvalidatedConfig, name: str, former: FormerLocation = _HERE) -> str:
    """What the paths of a store begin with: two stores may lead to the same place, and one leads to one at least."""
    store = draft.settings.stores.get(name)
    if isinstance(store, SqliteSettings):
        return f"{store.file}#" if not draft.is_broken("stores", name, "file") else f"{name}#"
    keys = ("address", "namespace", "mount")
    if store is None or any(draft.is_broken("stores", name, key) for key in keys):
        return f"{name}#"
    server = store.address if former.cluster_id is None else f"cluster {former.cluster_id}"
    namespace = store.namespace if former.namespace is None else former.namespace
    # Vault takes a namespace as the beginning of a mount too.
    return "/".join(filter(None, (server, namespace, former.mount or store.mount)))
