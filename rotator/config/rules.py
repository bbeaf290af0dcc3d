"""The rules of a configuration that need more than one table: what is refused, and what is only warned of.

Pure. They look at what `settings` found well-formed, and are silent about what hangs on a table that was not.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from math import ceil
from pathlib import Path

from rotator.config.files import key_path
from rotator.config.schema import FileSettings, SqliteSettings, TokenAuth, VaultSettings
from rotator.config.values import format_duration, is_loopback, quoted
from rotator.core.errors import Problem
from rotator.core.target import Target
from rotator.core.versions import RECORD_FIELD
from rotator.runtime.rate_limit import CALLS_PER_ROTATION, SWEEP_SHARE, WINDOW

_LONGEST_PUBLISH = timedelta(seconds=30)  # with all its retries, and the requests before it
_SHORT_GRACE = timedelta(hours=2)
_SHORT_LEASE = timedelta(seconds=10)
_CLOSE_TO_THE_LIMIT = 0.9
_LONGEST_WORD = 14  # in a variable's name: ORGANISATION, AUTHENTICATION; what is random is longer, or has digits

Place = tuple[str | int, ...]
"""Where something is in the files: ("targets", "a", "ttl")."""


@dataclass(frozen=True, slots=True)
class UnvalidatedConfig:
    """A configuration under examination."""

    file: Path
    settings: FileSettings  # without the parts that are not well-formed
    broken: frozenset[Place]  # those parts: ("http",), ("stores", "vault", "mount"), ("targets", "a", "fields", "x")
    names: Mapping[str, list[str]]  # of the providers and stores that there are, well-formed or not
    targets: Mapping[str, Target]  # with the defaults; provider and store are "" where it is not clear which
    origins: Mapping[str, Path]  # the file that each target is in
    environment: Mapping[str, str]

    def is_broken(self, *place: str) -> bool:
        """Whether what stands there was not well-formed, or is in or around something that was not."""
        return any(part[: len(place)] == place[: len(part)] for part in self.broken)

    def is_unknown(self, target: str, *keys: str) -> bool:
        """Whether what a target has for one of these keys, by itself or by the defaults, was not well-formed."""
        said = self.settings.targets[target].model_fields_set
        return any(
            self.is_broken("targets", target, key) or (key not in said and self.is_broken("defaults", key))
            for key in keys
        )

    def problem(self, message: str, *place: str | int) -> Problem:
        """A problem at a place in the main file."""
        return Problem(str(self.file), key_path(*place), message)

    def target_problem(self, name: str, message: str, *keys: str) -> Problem:
        """A problem at the first of the keys that the target says itself, else at the first that the defaults say."""
        settings = self.settings.targets[name]
        key = next((key for key in keys if key in settings.model_fields_set), None)
        inherited = next((key for key in keys if key in self.settings.defaults.model_fields_set), None)
        if key is None and inherited is not None:
            return self.problem(message, "defaults", inherited)
        return Problem(str(self.origins[name]), key_path("targets", name, key or keys[0]), message)


# --- refused ---------------------------------------------------------------------------------------------------------


def problems(draft: UnvalidatedConfig) -> Iterator[Problem]:
    """All that must be mended before anything can run."""
    for section, message in (
        ("providers", "is required: at least one [providers.NAME]"),
        ("stores", "is required: at least one [stores.NAME]; there is no implicit store"),
    ):
        if not draft.names[section] and not draft.is_broken(section):
            yield draft.problem(message, section)
    yield from _credential_problems(draft)
    for target in draft.targets.values():
        yield from _reference_problems(draft, target)
        yield from _time_problems(draft, target)
        yield from _field_problems(draft, target)


def _credential_problems(draft: UnvalidatedConfig) -> Iterator[Problem]:
    for name, provider in draft.settings.providers.items():
        variable = provider.api_key.env
        if draft.is_broken("providers", name, "api_key"):
            continue
        if variable is not None and not draft.environment.get(variable):
            shown = f"${variable}" if _is_name_of_a_variable(variable) else "a variable"
            message = f"names {shown}, which is not set in the environment"
            yield draft.problem(message, "providers", name, "api_key", "env")
        vaults = sum(isinstance(store, VaultSettings) for store in draft.settings.stores.values())
        of_known_type = len(draft.settings.stores) == len(draft.names["stores"])
        if provider.api_key.vault is not None and vaults != 1 and of_known_type and not draft.is_broken("stores"):
            message = f"needs exactly one store of type vault to be read from, and there are {vaults}"
            yield draft.problem(message, "providers", name, "api_key", "vault")
    for name, store in draft.settings.stores.items():
        if not isinstance(store, VaultSettings) or draft.is_broken("stores", name, "auth"):
            continue
        if isinstance(store.auth, TokenAuth) and not draft.environment.get("VAULT_TOKEN"):
            message = 'method "token" takes the token from $VAULT_TOKEN, which is not set in the environment'
            yield draft.problem(message, "stores", name, "auth", "method")


def _is_name_of_a_variable(text: str) -> bool:
    """Whether it can be shown: people put the key itself where its variable's name belongs."""
    are_words = all(len(part) <= _LONGEST_WORD and sum(map(str.isdigit, part)) <= 2 for part in text.split("_"))
    return are_words and re.fullmatch("[A-Z_][A-Z0-9_]*", text) is not None


def _reference_problems(draft: UnvalidatedConfig, target: Target) -> Iterator[Problem]:
    for section, key, name in (("providers", "provider", target.provider), ("stores", "store", target.store)):
        names = draft.names[section]
        if not names or name in names or draft.is_unknown(target.name, key):
            continue
        message = (
            f"must be said, because there are several: {quoted(names)}" if not name else f"must be {quoted(names)}"
        )
        yield draft.target_problem(target.name, message, key)


def _time_problems(draft: UnvalidatedConfig, target: Target) -> Iterator[Problem]:
    ttl, renew_before, grace = map(format_duration, (target.ttl, target.renew_before, target.grace_period))
    most_jitter = target.renew_before * draft.settings.daemon.jitter
    if draft.is_unknown(target.name, "ttl", "renew_before"):
        pass  # nothing can be told of how they stand to each other
    elif target.renew_before >= target.ttl:
        yield draft.target_problem(target.name, _too_short_for(draft, target), "renew_before", "ttl")
    elif target.renew_before + most_jitter >= target.ttl and not draft.is_broken("daemon", "jitter"):
        message = (
            f"renew_before ({renew_before}) and its largest jitter ({format_duration(most_jitter)}, [daemon].jitter) "
            f"together must be shorter than ttl ({ttl}): a fresh key would be due at once"
        )
        yield draft.target_problem(target.name, message, "renew_before", "ttl")
    if target.grace_period > target.renew_before and not draft.is_unknown(target.name, "grace_period", "renew_before"):
        message = (
            f"grace_period ({grace}) must not be longer than renew_before ({renew_before}): "
            "a replaced key would expire before its grace is over"
        )
        yield draft.target_problem(target.name, message, "grace_period", "renew_before")


def _too_short_for(draft: UnvalidatedConfig, target: Target) -> str:
    """Say what does not fit into the ttl of a target, defaults included, and what would."""
    longer = {"renew_before": target.renew_before, "grace_period": target.grace_period}
    fitting = {"renew_before": target.ttl // 3, "grace_period": target.ttl // 6}  # as the defaults are to theirs

    def shown(key: str) -> str:
        settings = draft.settings.targets[target.name], draft.settings.defaults
        is_set = any(key in table.model_fields_set for table in settings)
        return f"{key} ({format_duration(longer[key])}{'' if is_set else ' by default'})"

    message = f"{shown('renew_before')} must be shorter than ttl ({format_duration(target.ttl)})"
    needed = ["renew_before"]
    if target.grace_period > fitting["renew_before"] and not draft.is_unknown(target.name, "grace_period"):
        message += f", and {shown('grace_period')} not longer than renew_before"
        needed.append("grace_period")
    example = " and ".join(f'{key} = "{format_duration(fitting[key])}"' for key in needed)
    return f"{message}; set {example}, for example" if fitting["grace_period"] >= timedelta(seconds=1) else message


def _field_problems(draft: UnvalidatedConfig, target: Target) -> Iterator[Problem]:
    is_field_known = not draft.is_unknown(target.name, "key_field")
    if target.key_field == RECORD_FIELD and is_field_known:
        yield draft.target_problem(target.name, f'must not be "{RECORD_FIELD}": the record stands there', "key_field")
    if RECORD_FIELD in target.extra_fields:
        yield draft.target_problem(
            target.name, f'must not hold "{RECORD_FIELD}": the record stands there', "extra_fields"
        )
    if target.key_field in target.extra_fields and is_field_known:
        message = f'must not hold the field of the key itself, "{target.key_field}"'
        yield draft.target_problem(target.name, message, "extra_fields", "key_field")


# --- warned of -------------------------------------------------------------------------------------------------------


def warnings(draft: UnvalidatedConfig) -> Iterator[Problem]:
    """All that can run, but is probably not meant."""
    settings = draft.settings
    if not draft.targets:
        yield draft.problem("no target is configured, so no key is replaced", "targets")
    for section in ("providers", "stores"):
        for name, part in getattr(settings, section).items():
            if not isinstance(part, SqliteSettings) and part.allow_insecure:
                message = "credentials and keys may be sent unencrypted"
                yield draft.problem(message, section, name, "allow_insecure")
    for name, provider in settings.providers.items():
        if provider.api_key.vault is not None and provider.api_key.vault.path.startswith("data/"):
            message = 'has "data/" after its mount, which belongs to the API and not to the path: probably too much'
            yield draft.problem(message, "providers", name, "api_key", "vault")
    vaults = [store for store in settings.stores.values() if isinstance(store, VaultSettings)]
    if vaults and draft.environment.get("VAULT_SKIP_VERIFY"):
        yield draft.problem("$VAULT_SKIP_VERIFY is not honoured: certificates are verified (see ca_file)")
    if not is_loopback(settings.http.admin.host):
        message = "is not a loopback address: the status page, with paths and key ids, is open to the network"
        yield draft.problem(message, "http", "admin")
    if settings.sweep.min_age < _LONGEST_PUBLISH:
        message = (
            f"is shorter than a publish may take ({format_duration(_LONGEST_PUBLISH)}): a sweep may fence a replica "
            "that is about to publish, whose key is then made in vain"
        )
        yield draft.problem(message, "sweep", "min_age")
    if settings.lease is not None and settings.lease.identity is not None:
        message = "several replicas that share this file would all lead: leave it out, and each is called as its pod is"
        yield draft.problem(message, "lease", "identity")
    if settings.lease is not None and settings.lease.duration < _SHORT_LEASE:
        message = (
            f"{format_duration(settings.lease.duration)} is short: an API server that is slow for a moment would have "
            "replicas take turns"
        )
        yield draft.problem(message, "lease", "duration")
    for name, target in draft.targets.items():
        if target.path.startswith("data/"):
            message = 'begins with "data/", which belongs to the API and not to the path: it is probably too much'
            yield draft.target_problem(name, message, "path")
        store = settings.stores.get(target.store)
        if isinstance(store, VaultSettings) and target.path.startswith(f"{store.mount}/"):
            rest = target.path.removeprefix(f"{store.mount}/").removeprefix("data/")
            message = (
                f'begins with "{store.mount}/", the mount of the store: rotator would write to '
                f'"{store.mount}/{target.path}". Write "{rest}", unless that is meant'
            )
            yield draft.target_problem(name, message, "path")
        if target.grace_period < _SHORT_GRACE:
            message = (
                f"{format_duration(target.grace_period)} is short: External Secrets refreshes hourly by default, "
                "Vault Agent every 5 minutes"
            )
            yield draft.target_problem(name, message, "grace_period")
    yield from _limited_usage(draft)
    yield from _budgets(draft)


def _limited_usage(draft: UnvalidatedConfig) -> Iterator[Problem]:
    message = "usage is not watched: a key that is used up stays until its time"
    if draft.settings.defaults.key.max_usage not in (None, -1):
        yield draft.problem(message, "defaults", "key", "max_usage")
    for name, target in draft.settings.targets.items():
        if target.key.max_usage not in (None, -1):
            yield Problem(str(draft.origins[name]), key_path("targets", name, "key", "max_usage"), message)


def _budgets(draft: UnvalidatedConfig) -> Iterator[Problem]:
    for load in loads(draft):
        part = f"{_some(load.needed)} of {_some(load.let_through)} requests a minute"
        needs = f"{load.targets} targets need {part} ({load.parts})"
        if load.share > 1:
            message = (
                f"{load.requests_per_minute} is too few: {needs}, so keys will be late; "
                "lengthen ttl or shorten renew_before"
            )
        elif load.share > _CLOSE_TO_THE_LIMIT:
            message = (
                f"{load.requests_per_minute} is close to too few: {needs}, {load.share:.0%} of them; "
                "retries, look-ups and rotations by hand take more"
            )
        else:
            continue
        yield draft.problem(message, "providers", load.provider, "requests_per_minute")


# --- how much the providers are asked for ----------------------------------------------------------------------------


PAGE = 100
"""Keys on a page of the vendor's list, which a sweep reads whole."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a provider's targets take of what it allows, in requests a minute."""

    provider: str
    targets: int
    requests_per_minute: int
    rotations: float
    sweeps: float

    @property
    def needed(self) -> float:
        """For both."""
        return self.rotations + self.sweeps

    @property
    def let_through(self) -> float:
        """What the budget lets through: a little less than what the vendor allows, for requests travel unequally."""
        return self.requests_per_minute * 60 / WINDOW

    @property
    def share(self) -> float:
        """1.0 is all of what is let through."""
        return self.needed / self.let_through

    @property
    def parts(self) -> str:
        """How `needed` comes about."""
        return (
            f"{_some(self.rotations)} at {CALLS_PER_ROTATION} a rotation (create, shorten, delete), "
            f"{_some(self.sweeps)} for sweeps"
        )

    def __str__(self) -> str:
        targets = f"{self.targets} target{'' if self.targets == 1 else 's'}"
        return (
            f"{self.provider}: {targets}, {self.parts}: "
            f"{_some(self.needed)} of {_some(self.let_through)} requests a minute ({self.share:.0%})"
        )


def _some(requests: float) -> str:
    """A number of them, as exact as a person wants it."""
    return f"{requests:,.0f}" if requests >= 100 else f"{requests:.3g}"


def loads(draft: UnvalidatedConfig) -> tuple[Load, ...]:
    """The arithmetic for each provider.

    A key is replaced `lead` before its expiry, and so once in the rest of it; then there are two for a grace period. A
    sweep lists them all, and takes its part of the budget for that at most, however long that takes.
    """
    rotations, keys = dict.fromkeys(draft.settings.providers, 0.0), dict.fromkeys(draft.settings.providers, 0.0)
    targets = dict.fromkeys(draft.settings.providers, 0)
    for target in draft.targets.values():
        period = target.ttl - target.lead
        rotations[target.provider] += CALLS_PER_ROTATION * (timedelta(minutes=1) / period)
        keys[target.provider] += 1 + target.grace_period / period
        targets[target.provider] += 1
    every = draft.settings.sweep.interval / timedelta(minutes=1)
    return tuple(
        Load(
            name,
            targets[name],
            provider.requests_per_minute,
            rotations[name],
            min(ceil(keys[name] / PAGE) / every, max(1, provider.requests_per_minute // SWEEP_SHARE)),
        )
        for name, provider in draft.settings.providers.items()
    )
