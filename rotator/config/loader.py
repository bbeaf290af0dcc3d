"""From the configuration's files to what the program runs with, or to what is wrong with them.

Files are read (`files`) and checked option by option (`schema`); everything malformed is reported at once (`findings`).
Only then the rules check the whole, defaults included, and everything inconsistent is reported at once. Nothing here
reads a secret or uses the network. From now on the providers' keys are hidden in all output.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rotator.config import files, findings, rules
from rotator.config.files import Source
from rotator.config.findings import Place
from rotator.config.key_options import KeyChecker
from rotator.config.notify_settings import NotifySettings
from rotator.config.parsed import ParsedConfig
from rotator.config.provider_load import ProviderLoad, provider_loads
from rotator.config.provider_settings import KeyOptions, ProviderSettings
from rotator.config.provider_type import ProviderTypes
from rotator.config.schema import (
    Changeable,
    DaemonSettings,
    FileSettings,
    HttpSettings,
    LeaseSettings,
    StoreSettings,
    SweepSettings,
    file_settings,
)
from rotator.config.values import parse_go_seconds, share_of
from rotator.config.windows import CronWindow
from rotator.core.errors import ConfigurationError, Problem
from rotator.core.target import Cap, CapPolicy, Target
from rotator.core.times import hash_fraction
from rotator.core.traits import Traits
from rotator.core.windows import Windows
from rotator.runtime.key_pattern import parse_key_pattern
from rotator.runtime.redact import hide_pattern

_VAULT_VARIABLES = {
    "address": "VAULT_ADDR",
    "namespace": "VAULT_NAMESPACE",
    "ca_file": "VAULT_CACERT",
    "server_name": "VAULT_TLS_SERVER_NAME",
    "timeout": "VAULT_CLIENT_TIMEOUT",
}


_INHERITED = {
    *("provider", "store", "ttl", "renew_before", "grace_period", "key_field", "grace_extension", "idle_after"),
    *("windows", "pause_until"),
}
"""The options of a target that replace those of [defaults] as a whole."""

_CAP_OPTIONS = {"on_cap", "replace_at", "pickup", "max_early_rotations"}
"""The options of a target's `CapPolicy`, inherited like those."""

_FEWEST_TARGETS = 2
"""With one target, its removal is no sign that a file lost its content."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """A configuration that passed all checks, with the defaults applied. It holds no secret, only where each is."""

    file: Path
    owner: str
    former_owners: tuple[str, ...]
    providers: Mapping[str, ProviderSettings]
    provider_types: ProviderTypes
    traits: Mapping[str, Traits]  # by the name of the provider
    stores: Mapping[str, StoreSettings]
    http: HttpSettings
    daemon: DaemonSettings
    sweep: SweepSettings
    lease: LeaseSettings | None
    notify: NotifySettings
    targets: Mapping[str, Target]
    loads: tuple[ProviderLoad, ...]
    warnings: tuple[Problem, ...]


def load(
    file: Path,
    environment: Mapping[str, str],
    types: ProviderTypes,
    in_use: Configuration | None = None,
    now: datetime | None = None,
) -> Configuration:
    """Read a file and what it includes; its providers are of these types. `now`: as the clock shows it if left out.

    Raises ConfigurationError with everything malformed, or else with every rule that is broken. A configuration that
    removes too many targets of the one in use is refused too.
    """
    source = files.read(file)
    settings = _validated(file, source, environment, types)
    traits, keys = _traits_and_keys(file, settings, types)
    targets = _targets(settings, keys)
    parsed = ParsedConfig(file, settings, targets, source.origins, environment, traits, keys, now or datetime.now(UTC))
    _refuse(rules.problems(parsed))
    if in_use is not None:
        _refuse(_removed_targets(in_use, parsed))
    loads = provider_loads(settings, targets, traits)
    return Configuration(
        file=file,
        owner=settings.owner,
        former_owners=settings.former_owners,
        providers=settings.providers,
        provider_types=types,
        traits=traits,
        stores=settings.stores,
        http=settings.http,
        daemon=settings.daemon,
        sweep=settings.sweep,
        lease=settings.lease,
        notify=settings.notify,
        targets=targets,
        loads=loads,
        warnings=tuple(dict.fromkeys((*source.warnings, *rules.warnings(parsed, loads)))),
    )


def _traits_and_keys(
    file: Path, settings: FileSettings, types: ProviderTypes
) -> tuple[Mapping[str, Traits], KeyChecker]:
    """Return what each provider can do, and the options of its keys. Both may come from the code of a plugin."""
    traits: dict[str, Traits] = {}
    models: dict[str, tuple[str, type[KeyOptions]]] = {}
    flaws: dict[str, str] = {}
    for name, provider in settings.providers.items():
        provider_type = types.usable[provider.type]
        try:
            traits[name] = provider_type.traits(provider)
            models[name] = traits[name].label, provider_type.key_model(provider)
        except Exception as error:
            flaws[name] = f"{type(error).__name__}: {error}"
            continue
        try:
            if (pattern := traits[name].key_pattern) is not None:
                hide_pattern(parse_key_pattern(pattern))
        except ValueError as error:
            flaws[name] = f"its key_pattern {error}"
    _refuse(
        Problem(str(file), files.key_path("providers", name, "type"), f"this type of provider cannot be used: {flaw}")
        for name, flaw in flaws.items()
    )
    return traits, KeyChecker(models)


def _refuse(problems: Iterable[Problem]) -> None:
    if found := tuple(dict.fromkeys(problems)):
        raise ConfigurationError(found)


def _removed_targets(in_use: Configuration, parsed: ParsedConfig) -> Iterator[Problem]:
    """Yield a problem if too many targets are removed at once. A target with a new name and the same path is kept."""
    kept = {(target.store, target.path) for target in parsed.targets.values()}
    removed = [
        target.name
        for target in in_use.targets.values()
        if target.name not in parsed.targets and (target.store, target.path) not in kept
    ]
    limit, total = parsed.settings.daemon.max_removed_targets, len(in_use.targets)
    if total < _FEWEST_TARGETS or len(removed) <= limit.of(total):
        return
    names = ", ".join(removed[:5]) + (", ..." if removed[5:] else "")
    yield parsed.problem(
        f"{len(removed)} of {total} targets are gone ({names}), over [daemon].max_removed_targets ({limit}). "
        "It looks like a file, a folder or a ConfigMap that lost its content: their keys would expire without being "
        f"replaced, and their applications would be refused. To remove them, set max_removed_targets = {len(removed)} "
        "for this reload, or restart rotator",
        "targets",
    )


def _validated(file: Path, source: Source, environment: Mapping[str, str], types: ProviderTypes) -> FileSettings:
    malformed: list[Problem] = []
    if source.data is not None:
        data, variables = _with_vault_variables(source.data, environment)
        try:
            settings = file_settings(types).model_validate(data, context={"folder": file.absolute().parent})
        except ValidationError as error:  # it holds the values, so nothing is raised from it
            malformed = findings.describe(error, file, source.origins, variables, types)
        else:
            if not source.problems:
                return settings
    raise ConfigurationError(tuple(dict.fromkeys((*source.problems, *malformed))))


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _with_vault_variables(
    data: Mapping[str, Any], environment: Mapping[str, str]
) -> tuple[Mapping[str, Any], dict[Place, str]]:
    """Return the data with Vault's own variables where a store leaves options out, and the variable of each place."""
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
    """Return a variable's value as a file has it. A path is relative to the working directory, as for Vault."""
    if key == "timeout" and (seconds := parse_go_seconds(value)) is not None:
        return f"{seconds}s"
    return str(Path(value).absolute()) if key == "ca_file" else value


def _targets(settings: FileSettings, keys: KeyChecker) -> dict[str, Target]:
    """Return the targets with the defaults. Provider and store are "" if a target has to name one of several."""
    defaults = settings.defaults
    inheritable = _INHERITED | _CAP_OPTIONS
    inherited = {option: getattr(defaults, option) for option in inheritable}
    inherited["provider"] = defaults.provider or _only(settings.providers)
    inherited["store"] = defaults.store or _only(settings.stores)
    inherited["windows"] = _windows(defaults)
    policies: dict[CapPolicy, CapPolicy] = {}  # most targets share one
    targets = {}
    for name, target in settings.targets.items():
        own = {option: getattr(target, option) for option in target.model_fields_set & inheritable}
        if "windows" in own:
            own["windows"] = _windows(target)
        options = {**inherited, **own}
        for option in ("renew_before", "grace_period"):
            options[option] = share_of(options["ttl"], options[option])
        fields = {**defaults.extra_fields, **target.extra_fields} if target.extra_fields else defaults.extra_fields
        key = keys.check(options["provider"], {**defaults.key, **target.key})
        policy = _cap_policy(key.finite_caps, options)
        targets[name] = Target(
            name=name,
            path=target.path,
            extra_fields=fields,
            parameters=key.parameters,
            jitter=options["renew_before"] * settings.daemon.jitter * hash_fraction(name),
            adopt=target.adopt,
            former_paths=target.former_paths,
            caps=policies.setdefault(policy, policy),
            **{option: options[option] for option in _INHERITED},
        )
    return targets


def _cap_policy(caps: tuple[Cap, ...], options: Mapping[str, Any]) -> CapPolicy:
    return CapPolicy(
        caps, options["on_cap"] == "replace", options["replace_at"], options["pickup"], options["max_early_rotations"]
    )


def _windows(table: Changeable) -> Windows:
    return tuple(CronWindow(window.cron, window.duration, window.timezone) for window in table.windows)


def _only(tables: Mapping[str, object]) -> str:
    return next(iter(tables)) if len(tables) == 1 else ""
