"""Numbers and actions in words, for every output."""

from rotator.core.plan import Action, Reason, Retire, Rotate, SetExpiry
from rotator.core.times import timestamp

_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def count(number: int, noun: str) -> str:
    """ "1 target", "2 targets"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def in_units(seconds: float, units: int = 2) -> str:
    """Return the largest units of a duration: "4 h 10 min", "40 s"."""
    rest = round(max(0.0, seconds))
    largest = next((index for index, (_, size) in enumerate(_UNITS) if rest >= size), len(_UNITS) - 1)
    parts: list[str] = []
    for unit, size in _UNITS[largest : largest + units]:
        number, rest = divmod(rest, size)
        if number or not parts:
            parts.append(f"{number} {unit}")
    return " ".join(parts)


def in_words(action: Action) -> str:
    """Return what an action would do."""
    match action:
        case Rotate():
            return f"rotate ({action.reason}): create a key, publish it as version {action.base + 1}"
        case SetExpiry():
            verb = "restore" if action.reason is Reason.RESTORED else "shorten"
            return f"{verb} {action.record.key_id} to {timestamp(action.until)} ({action.reason})"
        case Retire():
            numbers = ",".join(str(version.number) for version in action.key.versions)
            return f"remove {action.key.key_id} ({action.reason}): destroy version {numbers}, delete it at the provider"
