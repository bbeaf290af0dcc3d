"""When scheduled rotations may begin next, for `check`: each set of windows, and each pause."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rotator.config.values import format_duration
from rotator.config.windows import CronWindow, cycle
from rotator.core.renewal import is_paused
from rotator.core.target import Target
from rotator.core.times import timestamp
from rotator.core.windows import Span, open_spans
from rotator.telemetry.wording import count


@dataclass(frozen=True, slots=True)
class Timetable:
    """A set of windows, how many targets have it, and when one is open next."""

    windows: tuple[CronWindow, ...]
    targets: int
    open_at: Span
    now: datetime

    def __str__(self) -> str:
        zone = self.windows[0]
        when = ", ".join(f'"{one.cron}" for {format_duration(one.duration)} ({one.timezone})' for one in self.windows)
        is_open = self.open_at.start <= self.now
        next_one = (
            f"open until {zone.shown(self.open_at.end)}" if is_open else f"opens {zone.shown(self.open_at.start)}"
        )
        return f"{count(self.targets, 'target')}: {when}: {next_one}"

    def to_json(self) -> dict[str, Any]:
        """Return the same for `check --json`."""
        return {
            "windows": [
                {"cron": one.cron, "duration": format_duration(one.duration), "timezone": one.timezone}
                for one in self.windows
            ],
            "targets": self.targets,
            "opens_at": timestamp(self.open_at.start),
            "closes_at": timestamp(self.open_at.end),
        }


def timetables(targets: Iterable[Target], now: datetime) -> Iterator[Timetable]:
    """Yield one for each set of windows."""
    for windows, number in Counter(target.windows for target in targets if target.windows).items():
        cron = tuple(window for window in windows if isinstance(window, CronWindow))
        yield Timetable(cron, number, next(open_spans(windows, now, now + cycle(windows))), now)


def pauses(targets: Iterable[Target], now: datetime) -> dict[str, int]:
    """Return how many targets are paused until when."""
    paused = (target.pause_until for target in targets if is_paused(target, now))
    return {timestamp(until): number for until, number in sorted(Counter(filter(None, paused)).items())}
