"""What `check --online` tries: credentials, permissions and paths, by reading only."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rotator.assembly import Installation
from rotator.errors import ProviderError, RotatorError, StoreError
from rotator.model import Standing, read_version
from rotator.stores.vault import VaultStore
from rotator.stores.vault_check import findings
from rotator.work import adoption_advice


@dataclass(frozen=True, slots=True)
class OnlineFinding:
    """Something that would keep a target from being rotated, or a surprise."""

    where: str
    message: str
    advice: str
    unreachable: bool = False  # nothing more could be tried there


def online_findings(installation: Installation, advance: Callable[[], None]) -> list[OnlineFinding]:
    """Everything that is found, stores first; `advance` is called for each target that was looked at."""
    return [*_stores(installation, advance), *_providers(installation)]


def _stores(installation: Installation, advance: Callable[[], None]) -> Iterator[OnlineFinding]:
    for name, store in installation.stores.items():
        targets = [target for target in installation.targets.values() if target.store == name]
        found = False
        try:
            if isinstance(store, VaultStore):
                for finding in findings(store, [target.path for target in targets]):
                    found = True
                    yield OnlineFinding(f"stores.{name}: {finding.path}", finding.message, finding.advice)
            for target in () if found else targets:  # what lacks a right would only say so once more
                executor = installation.executor(target)
                scope = executor.scope(target)
                current = store.newest(target.path).current
                advance()
                standing = read_version(current, target, scope).standing if current else Standing.UNREADABLE
                if standing.foreign and not target.adopt:
                    message = f"{target.path} holds data that is not ours ({standing})"
                    yield OnlineFinding(f"targets.{target.name}", message, adoption_advice(target))
        except StoreError as error:
            yield _failed(f"stores.{name}", error)


def _providers(installation: Installation) -> Iterator[OnlineFinding]:
    for name, provider in installation.providers.items():
        try:
            installation.budgets[name].take(installation.clock.now())
            next(provider.pages(), None)
        except ProviderError as error:
            yield _failed(f"providers.{name}", error)


def _failed(where: str, error: RotatorError) -> OnlineFinding:
    return OnlineFinding(where, error.message, error.advice, unreachable=True)
