"""Windows of a schedule: one opens again and again, after as many seconds each time."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from support.world import START

from rotator.core.target import Target
from rotator.core.windows import Windows

OPEN = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Repeated:
    """A `core.windows.Window` that opens each `every`."""

    every: timedelta
    duration: timedelta = OPEN

    def openings(self, after: datetime) -> Iterator[datetime]:
        opens_at = self.last(after) + self.every
        while True:
            yield opens_at
            opens_at += self.every

    def shown(self, moment: datetime) -> str:
        return str(moment)

    def last(self, moment: datetime) -> datetime:
        """Return when it opened last."""
        return moment - (moment - START) % self.every


def repeated(seconds: int) -> Windows:
    """Return one that opens that often; none for 0."""
    return (Repeated(timedelta(seconds=seconds)),) if seconds else ()


def permitted_at(target: Target, due: datetime, end: datetime, reserve: timedelta, now: datetime) -> datetime:
    """Return since when a key that is due may be replaced, or from when on, by what is known now.

    `end`: when the key expires. One that no window saves before `reserve` is replaced at once.
    """
    if target.pause_until is not None:
        due = max(due, target.pause_until)
        if now < target.pause_until:
            return due
    for window in target.windows:
        assert isinstance(window, Repeated)
        opened = window.last(now)
        if now < opened + window.duration:
            return max(due, opened)
        opens_at = max(due, opened + window.every)
        return opens_at if opens_at <= end - reserve else max(due, opened + window.duration)
    return due
