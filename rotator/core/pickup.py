"""How long consumers took to use a new key: from its publication to the last use of the one before. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from rotator.core.superseded import Superseded

MEASURED = 5
"""How many rotations of a target a process remembers."""


@dataclass(frozen=True, slots=True)
class Pickup:
    """One rotation, and the last use that the provider showed of the key that it replaced."""

    key_id: str  # of the superseded key
    replaced_at: datetime
    last_used_at: datetime | None  # since it was replaced; None: it was not used since

    @property
    def took(self) -> timedelta:
        """The time from the replacement of the key to its last use."""
        return (self.last_used_at or self.replaced_at) - self.replaced_at


def pickup_of(key: Superseded) -> Pickup | None:
    """Return what is measured by a superseded key; None while its use since it was replaced is unknown.

    A key that is spent measures nothing: consumers could not use it for longer.
    """
    if key.use is None or key.use.as_of <= key.since:
        return None
    if any(cap.limit is not None and cap.used >= cap.limit for cap in key.use.latest.caps):
        return None
    return Pickup(key.key_id, key.since, key.used_after)


def measured(before: Iterable[Pickup], superseded: Iterable[Superseded]) -> tuple[Pickup, ...]:
    """Return the pickups of the last rotations, the newest last, with those that these keys show."""
    found = {(pickup.key_id, pickup.replaced_at): pickup for pickup in before}
    found |= {(one.key_id, one.replaced_at): one for key in superseded if (one := pickup_of(key))}
    return tuple(sorted(found.values(), key=lambda pickup: pickup.replaced_at)[-MEASURED:])
