"""A well-formed configuration as the rules see it, and where its problems are."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rotator.config.files import key_path
from rotator.config.key_options import KeyChecker
from rotator.config.schema import FileSettings, VaultSettings
from rotator.core.errors import Problem
from rotator.core.target import Target
from rotator.core.traits import Traits


@dataclass(frozen=True, slots=True)
class ParsedConfig:
    """A well-formed configuration, before the rules."""

    file: Path
    settings: FileSettings
    targets: Mapping[str, Target]  # with the defaults; provider and store are "" where it is not clear which
    origins: Mapping[str, Path]  # the file that each target is in
    environment: Mapping[str, str]
    traits: Mapping[str, Traits]  # by the name of the provider
    keys: KeyChecker
    now: datetime

    def problem(self, message: str, *place: str | int) -> Problem:
        """Return a problem at a place in the main file."""
        return Problem(str(self.file), key_path(*place), message)

    def target_problem(self, name: str, message: str, *keys: str) -> Problem:
        """Return a problem at the first of the keys that the target sets, else at the first that the defaults set."""
        settings = self.settings.targets[name]
        key = next((key for key in keys if key in settings.model_fields_set), None)
        inherited = next((key for key in keys if key in self.settings.defaults.model_fields_set), None)
        if key is None and inherited is not None:
            return self.problem(message, "defaults", inherited)
        return Problem(str(self.origins[name]), key_path("targets", name, key or keys[0]), message)

    def key_problem(self, name: str, option: str, message: str) -> Problem:
        """Return a problem of an option of keys where the target sets it, else where the defaults set it."""
        if option in self.settings.targets[name].key:
            return Problem(str(self.origins[name]), key_path("targets", name, "key", option), message)
        return self.problem(message, "defaults", "key", option)

    def vaults(self) -> dict[str, VaultSettings]:
        """Return the stores of type vault."""
        return {name: store for name, store in self.settings.stores.items() if isinstance(store, VaultSettings)}


Rule = Callable[[ParsedConfig], Iterator[Problem]]
