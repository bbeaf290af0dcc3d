"""What a person asked for, and how the schedule runs a pass."""

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class RotationRequest:
    """What a person asked for on top of the schedule, and who asked."""

    rotate: bool = False
    revoke_now: bool = False  # superseded keys get no grace
    adopt: bool = False
    by: str = "schedule"
    comment: str = ""


SCHEDULED = RotationRequest()
"""The schedule's own request: do only what is due."""


@dataclass(frozen=True, slots=True)
class PassOptions:
    """How the schedule runs a pass."""

    act: bool = True  # else only see what is due
    ahead: timedelta = timedelta(0)  # replace a key this long before it is due, when too many would be due at once
    roll_out_at: datetime | None = None  # when a key with outdated parameters is replaced; None: now


ACT = PassOptions()


LOOK = PassOptions(act=False)
