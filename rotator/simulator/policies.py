"""Limit policies of keys: caps beside the key, each with a counter of its own (page limit-policies of the SDK)."""

import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from rotator.simulator.use import EPOCH, Counter

Json = dict[str, object]

PERIODS = {
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(weeks=1),
    "month": timedelta(days=30),
}
METRICS = ("cost", "request_count", "token_count")  # no call of the simulated gateway has tokens


@dataclass(frozen=True, slots=True)
class Policy:
    """One cap of one key. `period` is its length in words, or None for the key's whole life."""

    key_id: str
    metric: str
    max_value: float
    period: str | None
    counter: Counter
    id: str = field(default_factory=lambda: str(uuid.uuid4()))

    def value(self, at: datetime) -> float:
        """Return what is used by then."""
        seen = self.counter.seen(at)
        return {"cost": seen.usd, "request_count": float(seen.calls)}.get(self.metric, 0.0)

    def is_spent(self, at: datetime) -> bool:
        """Return whether the next call is refused: a `request_count` of 3 allows two calls, and refuses the third."""
        return self.value(at) + (self.metric == "request_count") >= self.max_value

    def count_refused(self, at: datetime) -> None:
        """Count a refused call: it is the one with which a `request_count` reaches its value."""
        if self.metric == "request_count" and self.value(at) < self.max_value:
            self.counter.add(at, 1, 0.0)

    def shown(self, at: datetime) -> Json:
        """Return the policy as the vendor answers it."""
        begun = int(self.counter.begun(at).timestamp())
        return {
            "id": self.id,
            "name": "",
            "scope": "API Key",
            "scope_value": self.key_id,
            "compose": [],
            "metric": self.metric,
            "algorithm": "balance_fixed_window",
            "period": self.period,
            "is_active": True,
            "rules": [{"trigger": {"counter": {"operator": "gte", "value": self.max_value}}, "severity": "hard"}],
            "threshold_value": self.max_value,
            "meter_definition_id": self.id,
            "current_state": {
                "meter_id": self.id,
                "interval_start": begun if self.period else None,
                "interval_end": begun + int(self.counter.period.total_seconds()) if self.period else None,
                "current_value": self.value(at),
            },
        }


def of_life(key_id: str, metric: str, max_value: float, counter: Counter) -> Policy:
    """Return the policy that a limit of the key itself is kept as."""
    return Policy(key_id, metric, max_value, None, counter)


def specified(key_id: str, spec: object, memory: timedelta) -> Policy:
    """Return the policy that an entry of `limit_policies` of a create describes. Raises TypeError or ValueError."""
    if not isinstance(spec, dict):
        raise TypeError("Expected an object.")
    value, metric, period = spec.get("max_value"), spec.get("metric", "cost"), spec.get("period")
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise TypeError("A valid number is required.")
    if metric not in METRICS:
        raise ValueError("Not a valid metric.")
    if not isinstance(period, str) or not (period in PERIODS or (period.isdecimal() and int(period))):
        raise ValueError("Not a valid period.")  # null is for POST /api/limit-policies/ alone
    length = PERIODS.get(period) or timedelta(seconds=int(period))
    return Policy(key_id, metric, value, period, Counter(EPOCH, length, memory))
