"""Which expiry to request of a provider that may round, so that a key expires when it should. Pure."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from rotator.core.keys import ProviderKey

TOLERANCE = timedelta(seconds=1)
"""Expiries this close are the same: records are written to the second, and a provider may round as well."""


NEVER = datetime(9000, 1, 1, tzinfo=UTC)
"""Later than all that happens; not the end of the calendar, so that a clock's error can be added."""


UNITS = (timedelta(days=1), timedelta(hours=1), timedelta(minutes=1))
"""What a provider may keep expiries in, the coarsest first. One that keeps seconds is within `TOLERANCE`."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A requested expiry: when the key has to expire, and the time that the provider was sent."""

    until: datetime
    request: datetime


@dataclass(frozen=True, slots=True)
class KeyObservation:
    """What the provider last showed of a key, and which version of the path was current then. `key` None: gone."""

    key: ProviderKey | None
    at_version: int
    asked: Asked | None = None  # the request of this process that made the key look like this
    looked_up_at: datetime | None = None  # by this process, the key alone


def whole_seconds(moment: datetime) -> datetime:
    """Round up: a provider takes a time to the second, and a grace that ends early is no grace."""
    return moment if not moment.microsecond else moment.replace(microsecond=0) + timedelta(seconds=1)


def next_request(seen: KeyObservation, until: datetime, made_at: datetime) -> datetime | None:
    """Return what to ask the provider for, so that a key expires at `until`; None if it does already.

    A request that was made already is repeated, with a later time, only where the answer would cut a grace short.
    """
    shown = seen.key.expires_at if seen.key else None
    if seen.asked and seen.asked.until == until:
        return corrected(seen.asked, shown)
    request = on_the_grid(until, shown, made_at)
    # The next whole minute is as near: a key made on one does not show whether the provider rounds.
    nearest = (until, request, _ceiling(until, UNITS[-1]))
    return None if shown and any(abs(shown - moment) <= TOLERANCE for moment in nearest) else request


def corrected(asked: Asked, shown: datetime | None) -> datetime | None:
    """Return the later time to ask for, after the provider rounded a request down; or None."""
    if shown is None or shown >= asked.until - TOLERANCE:
        return None
    lacking = asked.until - shown
    # What is shown lies on the provider's grid, so the next step of the grid is the earliest that lasts.
    later = shown + next((unit for unit in reversed(UNITS) if unit > lacking), lacking)
    return later if later > asked.request else None


def on_the_grid(until: datetime, shown: datetime | None, made_at: datetime | None) -> datetime:
    """Return what to ask for first: `until`, or a later time where the provider would round that down.

    A provider that rounds shows it by the key itself, which was made for a whole `ttl` from a second that is not on the
    grid, and yet expires on it. The first request must be right: one that is rounded into the past kills the key.
    """
    for unit in UNITS if shown and made_at else ():
        if _rest(shown, unit) == _NONE != _rest(made_at, unit):
            return _ceiling(until, unit)
    return until


_NONE = timedelta(0)


def _ceiling(moment: datetime, unit: timedelta) -> datetime:
    return moment + (unit - _rest(moment, unit)) % unit


def _rest(moment: datetime | None, unit: timedelta) -> timedelta:
    """Return how long after a whole day, hour or minute of UTC this is."""
    return ((moment or _EPOCH) - _EPOCH) % unit


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
