"""The rules that need more than one option of a well-formed configuration: what is refused, and what is warned of.

Pure. Each rule looks at the whole configuration and yields a problem for each option that breaks it.
"""

import re
from collections.abc import Iterable, Iterator
from datetime import timedelta
from urllib.parse import urlsplit

from rotator.config import window_rules
from rotator.config.cap_rules import (
    caps_per_key,
    cut_extensions,
    extensions_of_grace,
    late_pickups,
    rare_looks,
    uses_of_caps,
)
from rotator.config.parsed import ParsedConfig, Rule
from rotator.config.provider_load import ProviderLoad
from rotator.config.provider_settings import LocalSecret, SecretSource
from rotator.config.schema import FormerLocation, TokenAuth, VaultSettings
from rotator.config.values import format_duration, is_loopback, quoted
from rotator.core.errors import Problem
from rotator.core.target import Target
from rotator.core.versions import RECORD_FIELD

_LONGEST_PUBLISH = timedelta(seconds=30)  # with all its retries, and the requests before it
_SHORT_GRACE = timedelta(hours=2)
_SHORT_LEASE = timedelta(seconds=10)
_CLOSE_TO_THE_LIMIT = 0.9
_LONGEST_WORD = 14  # in a variable's name: ORGANISATION, AUTHENTICATION; random text is longer, or has digits
_PRESENT = FormerLocation()


def problems(config: ParsedConfig) -> Iterator[Problem]:
    """Yield everything that must be corrected before rotator can run."""
    for rule in _REFUSED:
        yield from rule(config)


def warnings(config: ParsedConfig, loads: Iterable[ProviderLoad]) -> Iterator[Problem]:
    """Yield everything that rotator can run with, but that is probably a mistake."""
    for rule in _WARNED:
        yield from rule(config)
    yield from _rate_limits(config, loads)


# --- refused: credentials, times and fields --------------------------------------------------------------------------


def _credentials(config: ParsedConfig) -> Iterator[Problem]:
    for name, provider in config.settings.providers.items():
        yield from _secret(config, provider.api_key, "providers", name, "api_key")
        yield from _secret(config, provider.proxy_credentials, "providers", name, "proxy_credentials")
        if provider.proxy_credentials is not None and provider.proxy is None:
            yield config.problem("needs proxy, which is not set", "providers", name, "proxy_credentials")
    for name, webhook in config.settings.notify.webhooks.items():
        yield from _secret(config, webhook.secret, "notify", "webhooks", name, "secret")
        yield from _secret(config, webhook.former_secret, "notify", "webhooks", name, "former_secret")


def _secret(config: ParsedConfig, source: LocalSecret | None, *place: str) -> Iterator[Problem]:
    variable, vaults = source.env if source else None, len(config.vaults())
    if variable is not None and not config.environment.get(variable):
        shown = f"${variable}" if _is_name_of_a_variable(variable) else "a variable"
        yield config.problem(f"names {shown}, which is not set in the environment", *place, "env")
    if isinstance(source, SecretSource) and source.vault is not None and vaults != 1:
        message = f"needs exactly one store of type vault to be read from, and there are {vaults}"
        yield config.problem(message, *place, "vault")


def _names_of_keys(config: ParsedConfig) -> Iterator[Problem]:
    for name, traits in config.traits.items():
        if not traits.names_keys:
            message = (
                f"{traits.label} keeps no name of 50 characters with a key, so rotator could not recognise its own "
                "keys and must not touch any: this provider cannot be used"
            )
            yield config.problem(message, "providers", name, "type")


def _vault_tokens(config: ParsedConfig) -> Iterator[Problem]:
    for name, store in config.vaults().items():
        if isinstance(store.auth, TokenAuth) and not config.environment.get("VAULT_TOKEN"):
            message = 'method "token" takes the token from $VAULT_TOKEN, which is not set in the environment'
            yield config.problem(message, "stores", name, "auth", "method")


def _is_name_of_a_variable(text: str) -> bool:
    """Return whether it can be shown: people write the key itself where its variable's name belongs."""
    are_words = all(len(part) <= _LONGEST_WORD and sum(map(str.isdigit, part)) <= 2 for part in text.split("_"))
    return are_words and re.fullmatch("[A-Z_][A-Z0-9_]*", text) is not None


def _references(config: ParsedConfig) -> Iterator[Problem]:
    providers, stores = sorted(config.settings.providers), sorted(config.settings.stores)
    for target in config.targets.values():
        for key, names, name in (("provider", providers, target.provider), ("store", stores, target.store)):
            if not name:
                message = f"is required, because there are several: {quoted(names)}"
                yield config.target_problem(target.name, message, key)
            elif name not in names:
                yield config.target_problem(target.name, f"must be {quoted(names)}", key)


def _times(config: ParsedConfig) -> Iterator[Problem]:
    for target in config.targets.values():
        most_jitter = target.renew_before * config.settings.daemon.jitter
        if target.renew_before >= target.ttl:
            yield config.target_problem(target.name, _too_short_for(config, target), "renew_before", "ttl")
        elif target.renew_before + most_jitter >= target.ttl:
            message = (
                f"renew_before ({format_duration(target.renew_before)}) and its largest jitter "
                f"({format_duration(most_jitter)}, [daemon].jitter) together must be shorter than ttl "
                f"({format_duration(target.ttl)}): a fresh key would be due at once"
            )
            yield config.target_problem(target.name, message, "renew_before", "ttl")
        if target.grace_period > target.renew_before:
            message = (
                f"grace_period ({format_duration(target.grace_period)}) must not be longer than renew_before "
                f"({format_duration(target.renew_before)}): a replaced key would expire before its grace is over"
            )
            yield config.target_problem(target.name, message, "grace_period", "renew_before")


def _key_options(config: ParsedConfig) -> Iterator[Problem]:
    for target in config.targets.values():
        for option, flaw in config.keys.check(target.provider, target.parameters).flaws.items():
            yield config.key_problem(target.name, option, flaw)


def _too_short_for(config: ParsedConfig, target: Target) -> str:
    """Return that renew_before does not fit into the ttl, and times that would, as the defaults are to theirs."""
    tables = config.settings.targets[target.name], config.settings.defaults
    is_set = any("renew_before" in table.model_fields_set for table in tables)
    return (
        f"renew_before ({format_duration(target.renew_before)}{'' if is_set else ' by default'}) must be shorter than "
        f'ttl ({format_duration(target.ttl)}); set renew_before = "{format_duration(target.ttl // 3)}" and '
        f'grace_period = "{format_duration(target.ttl // 6)}", for example'
    )


def _fields(config: ParsedConfig) -> Iterator[Problem]:
    for target in config.targets.values():
        if target.key_field == RECORD_FIELD:
            message = f'must not be "{RECORD_FIELD}": rotator writes its record there'
            yield config.target_problem(target.name, message, "key_field")
        if RECORD_FIELD in target.extra_fields:
            message = f'must not hold "{RECORD_FIELD}": rotator writes its record there'
            yield config.target_problem(target.name, message, "extra_fields")
        if target.key_field in target.extra_fields:
            message = f'must not hold "{target.key_field}": rotator writes the key there'
            yield config.target_problem(target.name, message, "extra_fields", "key_field")


# --- refused: two targets that claim one path, or the keys made for it -----------------------------------------------


def _located(config: ParsedConfig) -> Iterator[Target]:
    return (target for target in config.targets.values() if target.store in config.settings.stores)


def _location(config: ParsedConfig, name: str, former: FormerLocation = _PRESENT) -> str:
    """Return what the paths of a store begin with: two stores may lead to the same location."""
    store = config.settings.stores[name]
    if not isinstance(store, VaultSettings):
        return f"{store.file}#"
    server = store.address if former.cluster_id is None else f"cluster {former.cluster_id}"
    namespace = store.namespace if former.namespace is None else former.namespace
    # Vault takes a namespace as the beginning of a mount too.
    return "/".join(filter(None, (server, namespace, former.mount or store.mount)))


def _shared_paths(config: ParsedConfig) -> Iterator[Problem]:
    locations = {name: _location(config, name) for name in config.settings.stores}
    first: dict[str, str] = {}
    for target in _located(config):
        other = first.setdefault(f"{locations[target.store]}/{target.path}", target.name)
        if other != target.name:
            message = (
                f'is the path of the target "{other}" too ({config.origins[other]}): '
                "they would replace each other's keys, so give each a path of its own"
            )
            yield config.target_problem(target.name, message, "path")


def _former_locations(config: ParsedConfig) -> Iterator[Problem]:
    for name, store in config.vaults().items():
        present = _location(config, name)
        known = {present}
        for number, former in enumerate(store.former_locations):
            location = _location(config, name, former)
            if location in known:
                message = "is listed twice"
                if location == present:
                    message = "is where the store is now: list former locations only"
                yield config.problem(message, "stores", name, "former_locations", number)
            known.add(location)


def _former_paths(config: ParsedConfig) -> Iterator[Problem]:
    for target in _located(config):
        if target.path in target.former_paths:
            message = f"lists {quoted([target.path])}, which is the path now: list former paths only"
            yield config.target_problem(target.name, message, "former_paths")
        if twice := sorted({path for path in target.former_paths if target.former_paths.count(path) > 1}):
            yield config.target_problem(target.name, f"lists {quoted(twice)} twice", "former_paths")


def _shared_former_places(config: ParsedConfig) -> Iterator[Problem]:
    locations = {name: [(_PRESENT, _location(config, name))] for name in config.settings.stores}
    for name, store in config.vaults().items():
        locations[name] += [(former, _location(config, name, former)) for former in store.former_locations]
    claimed = {f"{locations[target.store][0][1]}/{target.path}": target.name for target in _located(config)}
    for target in _located(config):
        if not target.former_paths and len(locations[target.store]) == 1:
            continue  # it claims its own path alone
        for path in dict.fromkeys((target.path, *target.former_paths)):
            for former, location in locations[target.store]:
                other = claimed.setdefault(f"{location}/{path}", target.name)
                if other == target.name:
                    continue
                message = (
                    f'{quoted([path])} there is or was the path of the target "{other}" too '
                    f"({config.origins[other]}): both would claim the keys that were made for it"
                )
                if path != target.path:
                    yield config.target_problem(target.name, message, "former_paths")
                elif former is not _PRESENT:  # else `_shared_paths` reports it
                    yield config.problem(message, "stores", target.store, "former_locations")


_REFUSED: tuple[Rule, ...] = (
    _credentials,
    _names_of_keys,
    _vault_tokens,
    _references,
    _times,
    _key_options,
    uses_of_caps,
    extensions_of_grace,
    _fields,
    _shared_paths,
    _former_locations,
    _former_paths,
    _shared_former_places,
    window_rules.gaps_that_are_too_long,
    window_rules.windows_that_are_too_short,
    window_rules.pauses_that_are_impossible,
)


# --- warned of -------------------------------------------------------------------------------------------------------


def _no_target(config: ParsedConfig) -> Iterator[Problem]:
    if not config.targets:
        yield config.problem("no target is configured, so rotator replaces no key", "targets")


def _without_encryption(config: ParsedConfig) -> Iterator[Problem]:
    insecure = [("providers", name) for name, table in config.settings.providers.items() if table.allow_insecure]
    insecure += [("stores", name) for name, table in config.vaults().items() if table.allow_insecure]
    for place in insecure:
        yield config.problem("credentials and keys may be sent unencrypted", *place, "allow_insecure")
    if config.vaults() and config.environment.get("VAULT_SKIP_VERIFY"):
        yield config.problem("rotator ignores $VAULT_SKIP_VERIFY and verifies certificates: set ca_file instead")
    if not is_loopback(config.settings.http.admin.host):
        message = "is not a loopback address: the network can read the status page, with paths and key ids"
        yield config.problem(message, "http", "admin")


def _unused_proxy(config: ParsedConfig) -> Iterator[Problem]:
    providers = config.settings.providers
    variable = next((name for name in ("HTTPS_PROXY", "https_proxy") if config.environment.get(name)), None)
    remote = [name for name, table in providers.items() if not is_loopback(urlsplit(table.base_url).hostname or "")]
    if variable is None or not remote or any(table.proxy for table in providers.values()):
        return
    message = (
        f"${variable} is set, and rotator does not use it: requests go to the provider directly. Set proxy if they "
        "must go through a proxy, and proxy_credentials if it wants any"
    )
    yield config.problem(message, "providers", remote[0], "proxy")


def _short_times(config: ParsedConfig) -> Iterator[Problem]:
    lease = config.settings.lease
    if config.settings.sweep.min_age < _LONGEST_PUBLISH:
        message = (
            f"is shorter than a publish may take ({format_duration(_LONGEST_PUBLISH)}): a sweep may fence a replica "
            "that is about to publish, and its new key is wasted"
        )
        yield config.problem(message, "sweep", "min_age")
    if lease is not None and lease.duration < _SHORT_LEASE:
        message = (
            f"{format_duration(lease.duration)} is short: replicas would take turns whenever the API server is slow"
        )
        yield config.problem(message, "lease", "duration")
    tables = config.settings.targets.items()
    inheriting = [name for name, table in tables if "grace_period" not in table.model_fields_set]
    repeating = frozenset(inheriting[1:])  # their warning would be that of the first, about [defaults]
    for target in config.targets.values():
        if target.grace_period < _SHORT_GRACE and target.name not in repeating:
            message = (
                f"{format_duration(target.grace_period)} is short: External Secrets refreshes hourly by default, "
                "Vault Agent every 5 minutes"
            )
            yield config.target_problem(target.name, message, "grace_period")


def _shared_identity(config: ParsedConfig) -> Iterator[Problem]:
    lease = config.settings.lease
    if lease is not None and lease.identity is not None:
        message = "replicas that share this file would all lead: leave it out, and each uses the name of its pod"
        yield config.problem(message, "lease", "identity")


def _paths_with_too_much(config: ParsedConfig) -> Iterator[Problem]:
    vaults = config.vaults()
    for name, provider in config.settings.providers.items():
        if provider.api_key.vault is not None and provider.api_key.vault.path.startswith("data/"):
            message = 'has "data/" after its mount, which belongs to the API and not to the path: probably leave it out'
            yield config.problem(message, "providers", name, "api_key", "vault")
    for name, target in config.targets.items():
        if target.path.startswith("data/"):
            rest = target.path.removeprefix("data/")
            message = (
                f'begins with "data/", which belongs to the API and not to the path. Write "{rest}", unless that is '
                "what you want"
            )
            yield config.target_problem(name, message, "path")
        mount = vaults[target.store].mount if target.store in vaults else None
        if mount is not None and target.path.startswith(f"{mount}/"):
            rest = target.path.removeprefix(f"{mount}/").removeprefix("data/")
            message = (
                f'begins with "{mount}/", the mount of the store: rotator would write to "{mount}/{target.path}". '
                f'Write "{rest}", unless that is what you want'
            )
            yield config.target_problem(name, message, "path")


def _rate_limits(config: ParsedConfig, loads: Iterable[ProviderLoad]) -> Iterator[Problem]:
    for load in loads:
        needs = f"{load.targets} targets need {load.need} ({load.parts})"
        if load.share > 1:
            message = (
                f"{load.requests_per_minute} is too few: {needs}, so keys will be late; "
                "lengthen ttl or shorten renew_before"
            )
        elif load.share > _CLOSE_TO_THE_LIMIT:
            message = (
                f"{load.requests_per_minute} is close to too few: {needs}, {load.share:.0%} of them; "
                "retries, look-ups and manual rotations take more"
            )
        else:
            continue
        yield config.problem(message, "providers", load.provider, "requests_per_minute")


_WARNED: tuple[Rule, ...] = (
    _no_target,
    _without_encryption,
    _unused_proxy,
    _short_times,
    _shared_identity,
    _paths_with_too_much,
    caps_per_key,
    cut_extensions,
    late_pickups,
    rare_looks,
    window_rules.gaps_that_shorten_the_grace,
    window_rules.pauses_that_have_passed,
)
