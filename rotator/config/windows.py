"""Windows as a configuration writes them: a cron expression in a time zone, and a duration. Pure.

cronsim reads an expression as Debian's cron does: where the clocks skip the hour of an opening, the window opens right
after it, and where they repeat it, the window opens once. Where minute or hour begins with "*", it opens whenever the
clocks show such a time. The proof of the gaps knows all of these openings.
"""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.resources import files
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from rotator.config.values import format_duration, parse_duration, parse_text, quoted
from rotator.core.times import local_time
from rotator.core.windows import Windows

_FIELDS = 5
_LONGEST = 100
_SHORTEST = timedelta(minutes=10)
_MOST_OPENINGS = 24  # a day: more make the comparison with years of them slow
_WEEKLY_CYCLE = timedelta(days=3 * 366)  # has each change of a zone, and all of these are on the same weekday
_CYCLE = timedelta(days=28 * 365 + 7)  # has each date on each weekday

_RANGES = {
    "minute": "write 0-59",
    "hour": "write 0-23",
    "day of month": "write 1-31, or L for the last, and a day that its month has",
    "month": "write 1-12 or jan-dec",
    "day of week": "write 0-7 or sun-sat (0 and 7 are Sunday), and 5,6,0,1 for Friday to Monday",
}

SINCE = datetime(2026, 1, 1, tzinfo=UTC)
"""Since when openings are compared: always the same, so that what passed once passes in each later year."""


@dataclass(frozen=True, slots=True)
class CronWindow:
    """A `core.windows.Window` that opens by a cron expression."""

    cron: str
    duration: timedelta
    timezone: str

    @property
    def is_weekly(self) -> bool:
        """Whether it opens on the same weekdays in each week."""
        _, _, day, month, weekday = self.cron.split()
        return (day, month) == ("*", "*") and not {"#", "l"} & set(weekday.lower())

    @property
    def zone(self) -> ZoneInfo:
        """The time zone of the expression."""
        return ZoneInfo(self.timezone)

    def openings(self, after: datetime) -> Iterator[datetime]:
        """Yield when it opens after this moment, in order and in UTC."""
        openings = (moment.astimezone(UTC) for moment in CronSim(self.cron, after.astimezone(self.zone)))
        return (opens_at for opens_at in openings if opens_at > after)  # in a repeated hour, the first may be earlier

    def shown(self, moment: datetime) -> str:
        """Return a moment in the zone of the window, with its name."""
        return f"{local_time(moment, self.zone)} ({self.timezone})"


def cycle(windows: Windows) -> timedelta:
    """Return after how long the openings of these windows repeat, changes of their zones included."""
    are_weekly = all(isinstance(window, CronWindow) and window.is_weekly for window in windows)
    return _WEEKLY_CYCLE if are_weekly else _CYCLE


def parse_cron(value: object) -> str:
    """Return a cron expression of five fields that opens now and then."""
    text = parse_text(value)
    if len(text.split()) != _FIELDS or len(text) > _LONGEST:
        raise ValueError(
            "is not a cron expression: write minute, hour, day of the month, month and day of the week (0 is Sunday), "
            'such as "0 9 * * 1-4"'
        )
    try:
        cron = CronSim(text, SINCE)
        opens = next(cron, None) is not None  # CronSim looks 50 years ahead
    except CronSimError as error:
        field = str(error).removeprefix("Bad ").replace("-", " ")
        raise ValueError(f"is not a cron expression: its {field} is wrong; {_RANGES[field]}") from None
    except (AssertionError, TypeError):  # a step over "L" or "#"
        raise ValueError("is not a cron expression: a step follows a value that has none") from None
    if not opens:
        raise ValueError("never opens: no month has such a day")
    if len(cron.minutes) * len(cron.hours) > _MOST_OPENINGS:
        raise ValueError(
            f"opens more than {_MOST_OPENINGS} times a day: write when the window opens first, and a longer duration"
        )
    return text


def parse_open_time(value: object) -> timedelta:
    """Return how long a window stays open: a duration in which a failed rotation is tried again."""
    duration = parse_duration(value)
    if duration < _SHORTEST:
        raise ValueError(
            f"must be at least {format_duration(_SHORTEST)}: a failed rotation may wait as long for its retry"
        )
    return duration


def parse_zone(value: object) -> str:
    """Return the name of a time zone."""
    text = parse_text(value)
    if text not in _zones():
        close = difflib.get_close_matches(text, _zones(), 1)
        hint = f"; did you mean {quoted(close)}?" if close else ""
        raise ValueError(f'is not a time zone: write a name such as "Europe/London" or "UTC"{hint}')
    return text


@cache
def _zones() -> frozenset[str]:
    """Return the zones of the tz database. A machine's own folder has other names beside them."""
    return frozenset(files("tzdata").joinpath("zones").read_text("utf-8").split())
