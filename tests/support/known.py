"""The status of a daemon and the use of a key, for the tests of their displays."""

from datetime import datetime
from typing import Any

from rotator.core.caps import CapState
from rotator.core.target import Cap
from rotator.telemetry.status import DaemonInfo, DaemonStatus, TargetStatus

CAP = Cap("max_usage", 50.0, "calls")


def used(calls: float, as_of: datetime, rate: float = 0.0, reached_at: datetime | None = None) -> CapState:
    """Return the use of a key that may make 50 calls, `rate` a second."""
    return CapState(CAP, calls, rate, rate, as_of, reached_at)


def known(*targets: TargetStatus, at: datetime, leads: bool = True, **info: Any) -> DaemonStatus:
    """Return the status of a daemon without a Lease that has these targets."""
    return DaemonStatus("prod-eu", at, targets, (), DaemonInfo("1.2.3", "", leads, "", **info))
