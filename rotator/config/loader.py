"""From the configuration's files to what the program runs with, or to everything that is wrong with them.

The way of a configuration: read (`config_files`), checked table by table (`settings`, told by `findings`), completed
with the defaults here, and checked as a whole (`config_checks`, `config_places`). No secret is read, and nothing goes
over a network.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rotator.config import files as config_files
from rotator.config import findings
from rotator.config import place_rules as config_places
from rotator.config import rules as config_checks
from rotator.config.files import Source
from rotator.config.rules import Load, Place, UnvalidatedConfig
from rotator.config.schema import (
    Changeable,
    DaemonSettings,
    FileSettings,
    HttpSettings,
    LeaseSettings,
    RespanSettings,
    SqliteSettings,
    SweepSettings,
    TargetSettings,
    VaultSettings,
)
from rotator.config.values import parse_go_seconds
from rotator.core.errors import ConfigurationError, Problem
from rotator.core.target import KeyParameters, Target
from rotator.core.times import hash_fraction

_NAMED = ("providers", "stores", "targets")  # the sections that hold tables of any name
_VAULT_VARIABLES = {
    "address": "VAULT_ADDR",
    "namespace": "VAULT_NAMESPACE",
    "ca_file": "VAULT_CACERT",
    "server_name": "VAULT_TLS_SERVER_NAME",
    "timeout": "VAULT_CLIENT_TIMEOUT",
}


_FEWEST_TARGETS = 2
"""With fewer, the removal of a target is no sign that more was lost than was meant."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """All that the program runs with; of a secret only where it is found."""

    file: Path
    owner: str
    former_owners: tuple[str, ...]
    providers: Mapping[str, RespanSettings]
    stores: Mapping[str, VaultSettings | SqliteSettings]
    http: HttpSettings
    daemon: DaemonSettings
    sweep: SweepSettings
    lease: LeaseSettings | None
    targets: Mapping[str, Target]
    loads: tuple[Load, ...]  # what each provider is asked for, against what it allows
    warnings: tuple[Problem, ...]


def load(file: Path, environment: Mapping[str, str], in_use: Configuration | None = None) -> Configuration:
    """Read a file and what it includes. Raises ConfigurationError with every problem that can be found at once.

    With the configuration that is in use, what removes too much of it is a problem, too.
    """
    source = config_files.read(file)
    if source.data is None:
        raise ConfigurationError(source.problems)
    draft, malformed = _examine(file, source, source.data, environment)
    broken_rules = (*config_checks.problems(draft), *config_places.problems(draft))
    problems = dict.fromkeys((*source.problems, *malformed, *broken_rules))
    if problems:
        raise ConfigurationError(tuple(problems))
    settings = draft.settings
    if in_use is not None and (lost := _lost(file, in_use, draft)):
        raise ConfigurationError((lost,))
    return Configuration(
        file=file,
        owner=settings.owner,
        former_owners=settings.former_owners,
        providers=settings.providers,
        stores=settings.stores,
        http=settings.http,
        daemon=settings.daemon,
        sweep=settings.sweep,
        lease=settings.lease,
        targets=draft.targets,
        loads=config_checks.loads(draft),
        warnings=tuple(dict.fromkeys((*source.warnings, *config_checks.warnings(draft)))),
    )


def _lost(file: Path, in_use: Configuration, draft: UnvalidatedConfig) -> Problem | None:
    """Return what is wrong when more targets are gone than may go at once. A target with a new name is not gone."""
    kept = {(target.store, target.path) for target in draft.targets.values()}
    removed = [
        target.name
        for target in in_use.targets.values()
        if target.name not in draft.targets and (target.store, target.path) not in kept
    ]
    limit, total = draft.settings.daemon.max_removed_targets, len(in_use.targets)
    if total < _FEWEST_TARGETS or len(removed) <= limit.of(total):
        return None
    names = ", ".join(removed[:5]) + (", …" if removed[5:] else "")
    return Problem(
        str(file),
        "targets",
        f"{len(removed)} of {total} targets are gone ({names}), over [daemon].max_removed_targets ({limit}). "
        "It looks like a file, a folder or a ConfigMap that lost its content: their keys would expire without being "
        f"replaced, and their applications would be refused. To remove them, set max_removed_targets = {len(removed)} "
        "for this reload, or restart rotator",
    )


def _examine(
    file: Path, source: Source, data: Mapping[str, Any], environment: Mapping[str, str]
) -> tuple[UnvalidatedConfig, list[Problem]]:
    """The well-formed parts of the data, and what is wrong with the others."""
    data, variables = _with_vault_variables(data, environment)
    context = {"folder": file.absolute().parent}
    problems: list[Problem] = []
    broken: set[Place] = set()
    rest: dict[str, Any] = dict(data)
    settings: FileSettings | None = None
    while settings is None:
        try:
            settings = FileSettings.model_validate(rest, context=context)
        except ValidationError as error:
            details = findings.details(error)
            problems = problems or findings.describe(details, file, source.origins, variables)
            places = findings.places(details)
            if not broken:
                rest = deepcopy(rest)
            broken |= set(places)
            before = deepcopy(rest)
            for place in places:
                _mend(rest, place)
            if rest == before:
                raise ConfigurationError((*source.problems, *problems)) from None
    names = {section: sorted(_table(data.get(section))) for section in ("providers", "stores")}
    targets = {name: _resolve(name, target, settings, names) for name, target in settings.targets.items()}
    return UnvalidatedConfig(file, settings, frozenset(broken), names, targets, source.origins, environment), problems


_STAND_INS: Mapping[Place, Any] = {
    ("owner",): "unknown",
    ("providers", "*", "api_key"): {"env": "UNKNOWN"},
    ("stores", "*", "address"): "https://unknown.invalid",
    ("targets", "*", "path"): "unknown",
}
"""What is put where something required is missing or wrong, so that all else can still be looked at."""


def _mend(data: dict[str, Any], place: Place) -> None:
    """Take out what is wrong there, and no more; where it is what is missing, the table that lacks it."""
    tables: list[dict[str, Any]] = [data]
    for part in place[:-1]:
        inner = tables[-1].get(str(part))
        if not isinstance(inner, dict):
            break
        tables.append(inner)
    depth = len(tables) - 1  # of the last table on the way; a list on it goes as a whole
    key = place[depth]
    stand_in = _STAND_INS.get(
        (place[0], "*", key) if place[0] in _NAMED and depth == 2 else (key,) if not depth else ()
    )
    if stand_in is not None and tables[-1].get(str(key)) != stand_in:
        tables[-1][str(key)] = stand_in
    elif str(key) in tables[-1]:
        del tables[-1][str(key)]
    elif depth and depth == len(place) - 1:  # else the table that holds it was taken out, for another mistake
        del tables[-2][str(place[depth - 1])]


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _with_vault_variables(
    data: Mapping[str, Any], environment: Mapping[str, str]
) -> tuple[Mapping[str, Any], dict[Place, str]]:
    """The data with what Vault's own variables say where a store says nothing; and which variable is where."""
    variables: dict[Place, str] = {}
    stores = dict(_table(data.get("stores")))
    for name, store in stores.items():
        if _table(store).get("type") != "vault":
            continue
        for key, variable in _VAULT_VARIABLES.items():
            if key not in store and (value := environment.get(variable)):
                variables["stores", name, key] = variable
                stores[name] = {key: _as_written(key, value), **stores[name]}
    return {**data, "stores": stores} if variables else data, variables


def _as_written(key: str, value: str) -> str:
    """A variable's value as one would write it in the file: Vault takes Go's durations, and starts from here."""
    if key == "timeout" and (seconds := parse_go_seconds(value)) is not None:
        return f"{seconds}s"
    return str(Path(value).absolute()) if key == "ca_file" else value


def _resolve(name: str, target: TargetSettings, settings: FileSettings, names: Mapping[str, list[str]]) -> Target:
    """One target with the defaults; provider and store are "" where it does not say which of several."""
    defaults = settings.defaults

    def said(key: str) -> Any:
        return getattr(target if key in target.model_fields_set else defaults, key)

    def part(key: str, known: list[str]) -> str:
        return said(key) or (known[0] if len(known) == 1 else "")

    fields = {**defaults.extra_fields, **target.extra_fields} if target.extra_fields else defaults.extra_fields
    return Target(
        name=name,
        path=target.path,
        provider=part("provider", names["providers"]),
        store=part("store", names["stores"]),
        key_field=said("key_field"),
        extra_fields=fields,
        parameters=_parameters(**{**_asked(defaults), **_asked(target)}),
        ttl=said("ttl"),
        renew_before=said("renew_before"),
        grace_period=said("grace_period"),
        jitter=said("renew_before") * settings.daemon.jitter * hash_fraction(name),
        adopt=target.adopt,
        former_paths=target.former_paths,
    )


_parameters = lru_cache(maxsize=1000, typed=True)(KeyParameters)
"""Most targets ask for the same, and need not hold it each by itself."""


def _asked(settings: Changeable) -> dict[str, Any]:
    return settings.key.model_dump(exclude_unset=True)
