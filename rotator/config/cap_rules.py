"""The rules on what caps a key has, what becomes of a spent key, and whether grace follows use. Pure."""

from collections.abc import Iterator
from datetime import timedelta

from rotator.config.parsed import ParsedConfig
from rotator.core.errors import Problem
from rotator.core.renewal import period_of
from rotator.core.target import Target

_MONTH = timedelta(days=30)


def uses_of_caps(config: ParsedConfig) -> Iterator[Problem]:
    """Refuse to replace keys because of a cap where there is none, or where its use is never seen."""
    for target in config.targets.values():
        if not target.caps.replaces:
            continue
        traits = config.traits.get(target.provider)
        if not target.caps.caps:
            message = '"replace" needs a cap in key: without one no key is ever nearly spent'
            yield config.target_problem(target.name, message, "on_cap")
        elif traits is not None and traits.reports_use == "no":
            message = f'"replace" is not possible: rotator sees no use of {traits.label}\'s keys. Leave it out'
            yield config.target_problem(target.name, message, "on_cap")


def extensions_of_grace(config: ParsedConfig) -> Iterator[Problem]:
    """Refuse to extend a grace where the provider cannot do it, or never shows whether a key is used."""
    for target in config.targets.values():
        traits = config.traits.get(target.provider)
        if not target.grace_extension or traits is None:
            continue
        if not traits.can_set_expiry:
            message = f"is not possible: {traits.label} cannot change the expiry of a key. Lengthen grace_period"
            yield config.target_problem(target.name, message, "grace_extension")
        elif traits.reports_use == "no":
            message = f"is not possible: rotator sees no use of {traits.label}'s keys. Lengthen grace_period"
            yield config.target_problem(target.name, message, "grace_extension")


def caps_per_key(config: ParsedConfig) -> Iterator[Problem]:
    """Warn that each new key begins its caps anew."""
    for target in config.targets.values():
        for cap in target.caps.caps:
            limit = f"{cap.limit:.15g} {cap.unit}".rstrip()
            message = f"{limit} is per key: {_a_month(target)}, so up to {cap.limit * _keys(target):.15g} {cap.unit}"
            yield config.key_problem(target.name, cap.option, message.rstrip())


def _keys(target: Target) -> int:
    return max(1, round(_MONTH / period_of(target)))


def _a_month(target: Target) -> str:
    keys = _keys(target)
    return f"about {keys} {'key' if keys == 1 else 'keys'} a month"
