"""The states of a target, and the constant reasons for what is done or left, which all output shows."""

from enum import StrEnum

from rotator.core.versions import Ownership


class State(StrEnum):
    """The state of a target, in one word."""

    OK = "ok"
    DUE = "due"
    FAILING = "failing"  # the last attempt at something failed
    FOREIGN = "foreign"  # the path's newest version is not ours
    MISSING = "missing"  # the path holds no live key
    SPENT = "spent"  # a cap of the served key is reached: the provider refuses its calls
    UNKNOWN = "unknown"  # not observed yet, or not readable


class Reason(StrEnum):
    """Why something is done, or left as it is."""

    FRESH = "fresh"
    FIRST = "first"  # the path is absent
    EMPTIED = "emptied"  # the path is absent, and keys of it are known: it held one before
    DELETED = "deleted"  # the path's newest version is deleted or destroyed
    MISSING = "missing"  # the provider no longer has the served key
    UNRECOGNISED = "unrecognised"  # nor most others: more likely another account's list, so a person decides
    EXPIRED = "expired"
    EXPIRING = "expiring"
    WINDOW = "window"  # a new key is due, and waits until a window of the target opens
    PAUSED = "paused"  # a new key is due, and waits for the end of the target's pause
    REQUESTED = "requested"
    DRIFTED = "drifted"  # the key is not as configured: its parameters, or its recorded life
    MISDATED = "misdated"  # the key was issued in the future: by a clock that was ahead, so it lives too long
    CLOCK = "clock"  # a new key is due, but every upstream contradicts this machine's clock
    NEARLY_SPENT = "nearly-spent"  # a cap of the served key is nearly spent, and the target replaces such keys
    SPENT = "spent"
    PICKUP = "pickup"  # nearly spent, but consumers may not have this key for long
    CAP_TOO_SMALL = "cap-too-small"  # nearly spent, but the next key would be, too, before consumers have it
    EARLY_EXHAUSTED = "early-exhausted"  # nearly spent, but a day's early rotations are used up
    CONTESTED = "contested"  # another daemon with this owner and path and other parameters replaces each key of ours
    ADOPTED = "adopted"
    SUPERSEDED = "superseded"
    IN_USE = "in-use"  # superseded, and still used: its grace is extended
    RESTORED = "restored"  # current again, after it was on its way out
    GRACE_OVER = "grace-over"
    ORPHAN = "orphan"  # a key made for this path that no version of it holds
    REVOKED = "revoked"  # a person asked for superseded keys to be removed now
    NO_RECORD = Ownership.NO_RECORD.value
    OTHER_OWNER = Ownership.OTHER_OWNER.value
    OTHER_TARGET = Ownership.OTHER_TARGET.value
    HAND_EDITED = Ownership.HAND_EDITED.value


EARLY_HOLDS = (Reason.CAP_TOO_SMALL, Reason.EARLY_EXHAUSTED)
"""Why a key that is nearly spent is not replaced until a person acts or time passes; a pickup is over soon."""

NOT_EARLY = (Reason.PICKUP, *EARLY_HOLDS)
"""Why a key that is nearly spent is not replaced now. It is by its expiry."""
