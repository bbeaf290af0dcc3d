"""How a served key lasts through a pause of its target: its expiry at the provider is extended. Pure."""

from dataclasses import replace
from datetime import UTC, datetime, time

from rotator.core.expiry import TOLERANCE, whole_seconds
from rotator.core.observation import Observation
from rotator.core.renewal import MOST_AHEAD, extension_lead, is_paused, permitted_from
from rotator.core.versions import Record


def as_extended(observation: Observation, record: Record, now: datetime) -> Record:
    """Return the record of the served key with the expiry that a pause may have given the key.

    A key that nothing is known of has been extended if it is due by its record.
    """
    target = observation.target
    if target.pause_until is None or not observation.traits.can_set_expiry:
        return record
    is_unknown = record.key_id not in observation.shown
    if is_unknown and now < record.expires_at - extension_lead(target):
        return record
    return replace(record, expires_at=observation.own_end(record))


def extend_from(observation: Observation, record: Record) -> datetime:
    """Return from when on a key is extended, if it ends in a pause: when it would be due by its end."""
    return observation.own_end(record) - extension_lead(observation.target)


def moments_of_pause(observation: Observation, record: Record) -> tuple[datetime, ...]:
    """Return when a pause alone may have something done to the served key: by its own end, or by its record."""
    target = observation.target
    if target.pause_until is None:
        return ()
    return extend_from(observation, record), record.expires_at - extension_lead(target)


def extended_to(observation: Observation, record: Record, now: datetime) -> datetime | None:
    """Return until when the served key must be extended now; None where it lasts through the pause, or for a while.

    After the pause it has as long to be replaced as another key. `now`: by the upstreams' clocks.
    """
    target = observation.target
    if not is_paused(target, now) or now < extend_from(observation, record):
        return None
    wanted = whole_seconds(permitted_from(target, now) + target.lead)
    latest = datetime.combine((now + MOST_AHEAD).date(), time(), UTC)  # the same in each look of a pass
    until = min(wanted, latest)
    return until if until > observation.own_end(record) + TOLERANCE else None
