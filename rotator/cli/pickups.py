"""The grace periods that `check --online` suggests, from the last uses of superseded keys that a list shows.

Reads the history of each path whose superseded key the list shows with its use, and changes nothing.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta

from rotator.app.wiring import Installation
from rotator.config.values import format_duration
from rotator.core.errors import StoreError
from rotator.core.keys import ProviderKey
from rotator.core.pickup import pickup_of
from rotator.core.superseded import superseded_keys
from rotator.core.target import Target
from rotator.telemetry.wording import in_units

_MINUTE = timedelta(minutes=1)
_SHORTEST = timedelta(hours=2)
"""No shorter grace period is suggested: `check` warns of one."""

_ROOM = 2
"""So many times the measured pickup is suggested: with room for consumers that are later the next time."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """How long consumers used a superseded key, so far, and the grace period that follows from that."""

    target: Target
    key_id: str
    took: timedelta

    @property
    def grace_period(self) -> timedelta:
        """The suggested one, in whole minutes."""
        return max(_SHORTEST, -(-_ROOM * self.took // _MINUTE) * _MINUTE)

    def __str__(self) -> str:
        now, suggested = format_duration(self.target.grace_period), format_duration(self.grace_period)
        return (
            f"{self.target.name}: {self.key_id} was used until {in_units(self.took)} after it was replaced, so far; "
            f'grace_period = "{suggested}" leaves room for twice that (it is "{now}")'
        )

    def to_json(self) -> dict[str, str | float]:
        """Return the suggestion for `json.dumps`."""
        return {
            "target": self.target.name,
            "key_id": self.key_id,
            "seconds": self.took.total_seconds(),
            "grace_period": format_duration(self.target.grace_period),
            "suggested_grace_period": format_duration(self.grace_period),
        }


def suggestions(installation: Installation, listed: Iterable[tuple[Target, ProviderKey]]) -> Iterator[Suggestion]:
    """Yield the longest pickup of each target that superseded keys show.

    `listed` are keys of the targets that are not served, with their use.
    A path that cannot be read is left out: it has a finding.
    """
    now, targets = installation.clock.now(), {}
    for target, key in listed:
        installation.observer(target).memory.note_use(target, key.seen_at(now), alone=False)
        targets[target.name] = target
    for target in targets.values():
        try:
            observation = installation.observer(target).observe(target)
        except StoreError:
            continue
        current = observation.current
        if current is None or current.record is None:
            continue
        pickups = filter(None, map(pickup_of, superseded_keys(observation, current)))
        longest = max(pickups, key=lambda pickup: pickup.took, default=None)
        if longest is not None and longest.last_used_at:
            yield Suggestion(target, longest.key_id, longest.took)
