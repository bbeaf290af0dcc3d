"""The status of a daemon and the use of a key, for the tests of their displays."""

from datetime import datetime, timedelta
from typing import Any

from rotator.core.caps import CapState
from rotator.core.target import Cap
from rotator.core.use import CapUse, KeyUse, UseSeries, series_with
from rotator.telemetry.status import DaemonInfo, DaemonStatus, TargetStatus

CAP = Cap("max_usage", 50.0, "calls")


def used(calls: float, as_of: datetime, rate: float = 0.0, reached_at: datetime | None = None) -> CapState:
    """Return the use of a key that may make 50 calls, `rate` a second."""
    return CapState(CAP, calls, rate, rate, as_of, reached_at)


def used_since(since: datetime, calls: float, last_used_at: datetime) -> UseSeries:
    """Return two looks at a key that was replaced at that time, and was last used later."""
    before = KeyUse((CapUse("max_usage", 7),), as_of=since + timedelta(seconds=1))
    after = KeyUse((CapUse("max_usage", 7 + calls),), last_used_at, last_used_at + timedelta(minutes=1))
    return series_with(series_with(None, before), after).marked(since)


def known(*targets: TargetStatus, at: datetime, leads: bool = True, **info: Any) -> DaemonStatus:
    """Return the status of a daemon without a Lease that has these targets."""
    return DaemonStatus("prod-eu", at, targets, (), DaemonInfo("1.2.3", "", leads, "", **info))
