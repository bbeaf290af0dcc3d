"""Numbers and actions in words, for every output."""

from rotator.core.plan import Action, Reason, Retire, Rotate, SetExpiry
from rotator.core.times import timestamp


def count(number: int, noun: str) -> str:
    """ "1 target", "2 targets"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def in_words(action: Action) -> str:
    """What an action would do."""
    match action:
        case Rotate():
            return f"rotate ({action.reason}): create a key, publish it as version {action.base + 1}"
        case SetExpiry():
            verb = "restore" if action.reason is Reason.RESTORED else "shorten"
            return f"{verb} {action.record.key_id} to {timestamp(action.until)} ({action.reason})"
        case Retire():
            numbers = ",".join(str(version.number) for version in action.key.versions)
            return f"remove {action.key.key_id} ({action.reason}): destroy version {numbers}, delete it at the provider"
