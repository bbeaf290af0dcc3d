"""Whether a new key is due, and whether it may be made now. Pure.

Each check looks at the facts, and returns its reason or None.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from rotator.core.caps import free_again_at, is_cap_too_small, is_nearly_spent, picked_up_at
from rotator.core.expiry import next_request
from rotator.core.observation import Observation
from rotator.core.reasons import Reason
from rotator.core.renewal import FUTURE, Renewal, contested_until_of, last_resort
from rotator.core.request import RotationRequest
from rotator.core.versions import Record


@dataclass(frozen=True, slots=True)
class Facts:
    """All that decides whether a new key is due."""

    observation: Observation
    record: Record  # of the current key
    renewal: Renewal
    now: datetime
    request: RotationRequest

    @property
    def upstream_time(self) -> datetime:
        """The time by the upstreams' clocks, where all of them contradict this one."""
        return self.now - self.observation.clock_disputed_by


def _expired(facts: Facts) -> Reason | None:
    return Reason.EXPIRED if facts.observation.has_expired(facts.record, facts.upstream_time) else None


def _gone(facts: Facts) -> Reason | None:
    believed = facts.observation.gone_is_believed
    return Reason.MISSING if believed and facts.observation.is_gone(facts.upstream_time) else None


def _cut_for_good(facts: Facts) -> Reason | None:
    """A key that expires before its recorded expiry, which cannot be restored."""
    record, observation = facts.record, facts.observation
    if not observation.is_cut_short(record, facts.upstream_time):
        return None
    for_good = (
        not observation.traits.can_set_expiry
        or observation.is_overlong(record)
        or not observation.is_owned(record)
        or restoring_failed(observation, record)
    )
    return Reason.DRIFTED if for_good else None


def restoring_failed(observation: Observation, record: Record) -> bool:
    """Return whether the provider keeps an earlier expiry although the recorded one was requested."""
    return next_request(observation.shown[record.key_id], record.expires_at, record.issued_at) is None


def _misdated(facts: Facts) -> Reason | None:
    """A key made by a clock that was ahead lives that much longer than its `ttl`, and its record looks fresh."""
    misdated = facts.record.issued_at > facts.upstream_time + FUTURE
    return Reason.MISDATED if misdated and not facts.observation.clock_disputed_by else None


def _requested(facts: Facts) -> Reason | None:
    return Reason.REQUESTED if facts.request.rotate else None


def _expiring(facts: Facts) -> Reason | None:
    return Reason.EXPIRING if facts.renewal.is_due(facts.upstream_time) else None


def _outdated(facts: Facts) -> Reason | None:
    roll_out_at = facts.renewal.roll_out_at
    return Reason.DRIFTED if roll_out_at is not None and roll_out_at <= facts.now else None


def _nearly_spent(facts: Facts) -> Reason | None:
    is_to_replace = facts.observation.target.caps.replaces and is_nearly_spent(facts.observation, facts.record)
    return Reason.NEARLY_SPENT if is_to_replace else None


_CHECKS: tuple[Callable[[Facts], Reason | None], ...] = (
    _expired,
    _gone,
    _cut_for_good,
    _misdated,
    _requested,
    _expiring,
    _outdated,
    _nearly_spent,  # last: a key that is due anyway does not count as replaced early
)


# --- may the new key that is due be made? ----------------------------------------------------------------------------


WITHOUT_A_KEY = (Reason.MISSING, Reason.EXPIRED)
"""Why a key that does not work is replaced: nothing is worse than to wait."""


def _waits_for_the_clock(facts: Facts, due: Reason) -> Reason | None:
    """The served key works long enough to wait until the clock is corrected, or proves to be right.

    A key that was made by a wrong clock lives too long or too short, and no later look can show that.
    """
    if not facts.observation.clock_disputed_by or due in WITHOUT_A_KEY:
        return None
    return Reason.CLOCK if facts.upstream_time < last_resort(facts.observation, facts.record) else None


def _contested(facts: Facts, due: Reason) -> Reason | None:
    contested_until = contested_until_of(facts.observation) if due is Reason.DRIFTED else None
    return Reason.CONTESTED if contested_until is not None and facts.now < contested_until else None


def _too_small(facts: Facts, due: Reason) -> Reason | None:
    too_small = due is Reason.NEARLY_SPENT and is_cap_too_small(facts.observation, facts.record)
    return Reason.CAP_TOO_SMALL if too_small else None


def _exhausted(facts: Facts, due: Reason) -> Reason | None:
    free_at = free_again_at(facts.observation, facts.now) if due is Reason.NEARLY_SPENT else None
    return Reason.EARLY_EXHAUSTED if free_at is not None else None


def _picked_up_lately(facts: Facts, due: Reason) -> Reason | None:
    """Consumers that do not have this key yet would be one key further behind."""
    waits = due is Reason.NEARLY_SPENT and facts.now < picked_up_at(facts.observation, facts.record)
    return Reason.PICKUP if waits else None


_HOLDS: tuple[Callable[[Facts, Reason], Reason | None], ...] = (
    _waits_for_the_clock,
    _contested,
    _too_small,
    _exhausted,
    _picked_up_lately,
)


def reason_for_a_new_key(facts: Facts) -> Reason | None:
    """Return why a new key is due; None where none is."""
    return next((reason for check in _CHECKS if (reason := check(facts))), None)


def reason_to_wait(facts: Facts, due: Reason) -> Reason | None:
    """Return why the new key that is due is not made now; None where it may be."""
    return next((reason for check in _HOLDS if (reason := check(facts, due))), None)
