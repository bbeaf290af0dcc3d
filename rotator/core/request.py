"""What was asked for on top of the schedule."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Order:
    """What somebody asked for on top of the schedule, and who it was."""

    rotate: bool = False
    revoke_now: bool = False  # superseded keys get no grace
    adopt: bool = False
    by: str = "schedule"
    comment: str = ""
    act: bool = True  # else only see what is due
    ahead: timedelta = timedelta(0)  # replaced so long before it is due: at that time there would be too many at once


SCHEDULED = Order()


LOOK = Order(act=False)
