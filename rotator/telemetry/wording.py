"""Numbers, durations and actions in words, for every output."""

import math
from collections.abc import Iterable
from datetime import datetime, timedelta

from rotator.core.plan import Action, Retire, Rotate, SetExpiry
from rotator.core.reasons import Reason
from rotator.core.times import timestamp

_VERBS = {Reason.RESTORED: "restore", Reason.IN_USE: "extend", Reason.PAUSED: "extend"}
_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def count(number: int, noun: str) -> str:
    """Return "1 target" or "2 targets"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def in_units(duration: timedelta) -> str:
    """Return the two largest units of a duration: "4 h 10 min", "40 s"."""
    rest = round(max(0.0, duration.total_seconds()))
    largest = next((index for index, (_, size) in enumerate(_UNITS) if rest >= size), len(_UNITS) - 1)
    parts: list[str] = []
    for unit, size in _UNITS[largest : largest + 2]:
        number, rest = divmod(rest, size)
        if number or not parts:
            parts.append(f"{number} {unit}")
    return " ".join(parts)


def distance(moment: datetime, now: datetime) -> str:
    """Return "in 3 h 20 min" or "4 min ago"."""
    return f"in {in_units(moment - now)}" if moment >= now else f"{in_units(now - moment)} ago"


def percent(ratio: float) -> str:
    """Return a share in whole percent, rounded down: only what is used up is "100%"."""
    return f"{math.floor(ratio * 100)}%"


def use_in_words(ratio: float, cap: str, spent_at: datetime | None) -> str:
    """Return how much of a cap is used, and when it was, or will be, spent."""
    if ratio >= 1:
        return f"{cap} spent" + (f", seen at {timestamp(spent_at)}" if spent_at else "")
    until = f", spent at {timestamp(spent_at)} at the present rate" if spent_at else ""
    return f"{percent(ratio)} of {cap} used{until}"


def used_in_words(used: Iterable[tuple[float, str, str]]) -> str:
    """Return what a key has used of its caps, each with its unit and name: "40 calls, 1.5 USD"; "" if nothing."""
    return ", ".join(f"{amount:.15g} {unit or f'of {cap}'}" for amount, unit, cap in used if amount)


def verb_of(action: SetExpiry) -> str:
    """Return what an action does to the life of its key."""
    return _VERBS.get(action.reason, "shorten")


def in_words(action: Action) -> str:
    """Return what an action would do."""
    match action:
        case Rotate():
            return f"rotate ({action.reason}): create a key, publish it as version {action.base + 1}"
        case SetExpiry():
            return f"{verb_of(action)} {action.record.key_id} to {timestamp(action.until)} ({action.reason})"
        case Retire():
            numbers = ",".join(map(str, action.key.to_destroy))
            destroy = f"destroy version {numbers}, " if numbers else ""
            return f"remove {action.key.key_id} ({action.reason}): {destroy}delete it at the provider"
