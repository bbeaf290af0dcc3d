"""When scheduled rotations may begin: the windows of a target. Pure; the configuration makes the windows."""

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Protocol


class Window(Protocol):
    """Opens again and again, each time for the same duration."""

    @property
    def duration(self) -> timedelta:
        """How long it stays open, in elapsed time: no change of its zone makes it longer or shorter."""

    def openings(self, after: datetime) -> Iterator[datetime]:
        """Yield when it opens after this moment, in order and in UTC."""

    def shown(self, moment: datetime) -> str:
        """Return a moment in the zone of the window, with its name."""


Windows = tuple[Window, ...]
"""The windows of a target; with none, rotations may begin at any time."""


@dataclass(frozen=True, slots=True)
class Span:
    """A time from one moment to another, in UTC."""

    start: datetime
    end: datetime

    @property
    def length(self) -> timedelta:
        """How long it is."""
        return self.end - self.start


def opened_at(windows: Windows, moment: datetime) -> datetime:
    """Return when the window that is open at this moment opened; with none open, when the next one opens.

    Without windows, each moment counts as in one that is always open.
    """
    first = (next(window.openings(moment - window.duration), _NEVER) for window in windows)
    return min(first, default=_ALWAYS)


def open_spans(windows: Windows, start: datetime, end: datetime) -> Iterator[Span]:
    """Yield the times between these moments in which a window is open, in order. One has no gap inside."""
    times = heapq.merge(*(_times(window, start) for window in windows))
    merged: Span | None = None
    for opens_at, closes_at in takewhile(lambda time: time[0] < end, times):
        if merged is not None and opens_at <= merged.end:
            merged = Span(merged.start, max(merged.end, closes_at))
            continue
        if merged is not None:
            yield merged
        merged = Span(max(opens_at, start), closes_at)
    if merged is not None:
        yield merged


def gaps(spans: Iterable[Span], start: datetime, end: datetime) -> Iterator[tuple[Span, Span]]:
    """Yield each time between these moments without an open window, and the open time after it."""
    closed_at = start
    for span in (*spans, Span(end, end)):
        if span.start > closed_at:
            yield Span(closed_at, span.start), span
        closed_at = span.end


def _times(window: Window, start: datetime) -> Iterator[tuple[datetime, datetime]]:
    """Yield when the window opens and closes, from the first that closes after `start`."""
    return ((opens_at, opens_at + window.duration) for opens_at in window.openings(start - window.duration))


_ALWAYS = datetime.min.replace(tzinfo=UTC)
_NEVER = datetime.max.replace(tzinfo=UTC)
