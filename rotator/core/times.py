"""How times are written, and when it is a name's turn. Pure."""

import hashlib
from datetime import UTC, datetime, timedelta, tzinfo


def timestamp(moment: datetime) -> str:
    """Return RFC 3339 in UTC, to the second, as records, output and logs show every time."""
    return moment.astimezone(UTC).replace(microsecond=0).isoformat().replace("+00:00", "Z")


def local_time(moment: datetime, zone: tzinfo) -> str:
    """Return a moment in a zone, to the minute, with the day of the week: "Mon 2026-11-30 09:00"."""
    return f"{moment.astimezone(zone):%a %Y-%m-%d %H:%M}"


def hash_fraction(text: str) -> float:
    """Return a number in [0, 1) that depends on the text alone: jitter that a restart does not change."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64


def next_turn(name: str, since: datetime, every: timedelta) -> datetime:
    """Return the first moment from `since` on at which it is this name's turn. It has one turn in each `every`.

    The turns depend on the name alone, so no restart changes them. A turn that `since` missed by at most a twentieth of
    `every` is returned as well: a restart may have taken that long.
    """
    first = datetime.fromtimestamp(0, UTC) + every * hash_fraction(name)
    turns_before = (first - since + every / 20) // every
    return first - turns_before * every
