"""The status of a daemon, for the tests of its displays."""

from datetime import datetime
from typing import Any

from rotator.telemetry.status import DaemonInfo, DaemonStatus, TargetStatus


def known(*targets: TargetStatus, at: datetime, leads: bool = True, **info: Any) -> DaemonStatus:
    """Return the status of a daemon without a Lease that has these targets."""
    return DaemonStatus("prod-eu", at, targets, (), DaemonInfo("1.2.3", "", leads, "", **info))
