"""The rules on what caps a key has, what becomes of a spent key, and whether grace follows use. Pure."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

from rotator.config.parsed import ParsedConfig
from rotator.config.values import format_duration
from rotator.core.errors import Problem

_MONTH = timedelta(days=30)


def uses_of_caps(config: ParsedConfig) -> Iterator[Problem]:
    """Refuse to replace keys because of a cap where there is none, or where its use is never seen.

    A target without a cap may inherit that from [defaults], if another target that inherits it has one.
    """
    replacing = [target for target in config.targets.values() if target.caps.replaces]
    tables = config.settings.targets
    inherits = {target.name for target in replacing if "on_cap" not in tables[target.name].model_fields_set}
    is_inherited_in_vain = not any(target.caps.caps for target in replacing if target.name in inherits)
    for target in replacing:
        traits = config.traits.get(target.provider)
        if not target.caps.caps:
            if target.name not in inherits or is_inherited_in_vain:
                message = '"replace" needs a cap in key: without one no key is ever nearly spent'
                yield config.target_problem(target.name, message, "on_cap")
        elif traits is not None and (traits.reports_use == "no" or not any(cap.is_seen for cap in target.caps.caps)):
            unseen = f"rotator does not see how much of a cap a key of {traits.label} has used"
            message = f'"replace" is not possible: {unseen}. Leave it out'
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


def cut_extensions(config: ParsedConfig) -> Iterator[Problem]:
    """Warn where a superseded key expires before the extension of its grace is over."""
    for target in config.targets.values():
        longest = target.renew_before - target.grace_period
        if target.grace_extension > longest:
            message = (
                f"{format_duration(target.grace_extension)} is longer than what is left of a replaced key after its "
                f"grace: it expires {format_duration(target.renew_before)} (renew_before) after it was replaced"
            )
            yield config.target_problem(target.name, message, "grace_extension")


def rare_looks(config: ParsedConfig) -> Iterator[Problem]:
    """Warn where a superseded key that is used may count as unused, because its use is looked at too rarely."""
    interval = config.settings.sweep.interval
    for target in config.targets.values():
        if target.grace_extension and target.idle_after < 2 * interval:
            message = (
                f"{format_duration(target.idle_after)} is less than two sweeps ({format_duration(interval)} apart): "
                "if the provider shows use in its list alone, no grace is extended"
            )
            yield config.target_problem(target.name, message, "idle_after")


def late_pickups(config: ParsedConfig) -> Iterator[Problem]:
    """Warn where a key that was replaced early may end before the last consumer has the next one."""
    for target in config.targets.values():
        pickup, grace = target.caps.pickup, target.grace_period
        if target.caps.replaces and pickup > grace:
            message = (
                f"{format_duration(pickup)} is longer than grace_period ({format_duration(grace)}): the replaced key "
                "ends before all consumers use the new one"
            )
            yield config.target_problem(target.name, message, "pickup")


def caps_per_key(config: ParsedConfig) -> Iterator[Problem]:
    """Warn that each new key begins its caps anew: once for all targets of which the same is true."""
    alike: dict[tuple[str, str], dict[Problem, None]] = {}
    for target in config.targets.values():
        period = target.ttl - target.renew_before  # without jitter: the warning is the same for all such targets
        keys = max(1, round(_MONTH / period))
        a_month = f"about {keys} {'key' if keys == 1 else 'keys'} a month"
        if target.caps.replaces:
            a_month += f", and {target.caps.max_early_rotations} more a day at most"
        for cap in target.caps.caps:
            message = f"{f'{cap.limit:.15g} {cap.unit}'.rstrip()} is per key: {a_month}"
            alike.setdefault((cap.option, message), {})[config.key_problem(target.name, cap.option, message)] = None
    for first, *others in alike.values():
        count = f" (and {len(others)} like it)" if others else ""
        yield replace(first, message=first.message + count)
