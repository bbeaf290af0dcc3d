"""Times as they are written, and turns that follow from a name. Pure."""

import hashlib
from datetime import UTC, datetime, timedelta


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC, to the second: how every time is written in records, output and logs."""
    return moment.astimezone(UTC).replace(microsecond=0).isoformat().replace("+00:00", "Z")


def hash_fraction(text: str) -> float:
    """A number in [0, 1) that is always the same for the same text: jitter that a restart does not change."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64


def next_turn(name: str, since: datetime, every: timedelta) -> datetime:
    """Return the first moment from `since` on in which it is this name's turn, of which it has one in each `every`.

    The turns follow from the name alone: no restart changes them. One that was missed by a twentieth of `every` at most
    is returned, too, and lies before `since`: a restart may have taken that long.
    """
    first = datetime.fromtimestamp(0, UTC) + every * hash_fraction(name)
    turns_before = (first - since + every / 20) // every
    return first - turns_before * every
