"""The rules of windows and pauses: no key may expire before a window opens, and no pause may be too much for a key."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from math import ceil

from rotator.config.parsed import ParsedConfig
from rotator.config.values import format_duration
from rotator.config.windows import SINCE, cycle
from rotator.core.errors import Problem
from rotator.core.renewal import longest_wait
from rotator.core.target import Target
from rotator.core.times import timestamp
from rotator.core.windows import Span, Windows, gaps, open_spans, opened_at
from rotator.runtime.rate_limit import WINDOW

_LONGEST_PAUSE = timedelta(days=366)
_MINUTE = timedelta(minutes=1)
_DAY = timedelta(days=1)


def gaps_that_are_too_long(config: ParsedConfig) -> Iterator[Problem]:
    """Refuse windows of which none opens for so long that a key could expire."""
    sets = dict.fromkeys(target.windows for target in config.targets.values())
    longest_gaps = {windows: _longest_gaps(windows) for windows in sets if windows}
    for target in config.targets.values():
        longest = longest_gaps.get(target.windows, ())
        if not longest or longest[0].length <= longest_wait(target):
            continue
        gap = _next(longest, config.now)
        needed = ceil(gap.length / (longest_wait(target) / target.renew_before) / _MINUTE) * _MINUTE
        message = (
            f"a key could expire before a window opens: none is open for {format_duration(gap.length)}, "
            f"{_shown(target.windows, gap)}, and renew_before ({format_duration(target.renew_before)}) less a quarter "
            f"for retries leaves {format_duration(longest_wait(target))}. Add a window, or set renew_before to at "
            f'least "{format_duration(needed)}"'
        )
        yield config.target_problem(target.name, message, "windows", "renew_before")


def windows_that_are_too_short(config: ParsedConfig) -> Iterator[Problem]:
    """Refuse windows in which a provider's rate limit cannot let all their targets rotate."""
    groups: dict[tuple[str, Windows], list[Target]] = defaultdict(list)
    for target in config.targets.values():
        if target.windows and target.provider in config.traits:
            groups[target.provider, target.windows].append(target)
    for provider in config.traits:  # sets of windows that are open at the same time share its rate limit
        together = [key for key in groups if key[0] == provider]
        if len(together) > 1:
            union = tuple(dict.fromkeys(window for _, windows in together for window in windows))
            groups[provider, union] = [target for key in together for target in groups[key]]
    for (provider, windows), targets in groups.items():
        per_minute = config.settings.providers[provider].requests_per_minute * 60 / WINDOW
        periods = Counter(target.ttl - target.renew_before for target in targets)  # the jitter makes no difference here
        worst: Sequence[Span] = ()
        needed = 0.0
        for (closed, is_open), spans in _shapes(windows).items():
            rotations = sum(
                number * (min(1.0, closed / period) + is_open / period) for period, number in periods.items()
            )
            minutes = rotations * config.traits[provider].requests_per_rotation / per_minute
            if minutes * _MINUTE > is_open and minutes > needed:
                worst, needed = spans, minutes
        if worst:
            span = _next(worst, config.now)
            message = (
                f"{len(targets)} targets of {provider} need about {format_duration(ceil(needed) * _MINUTE)} at "
                f"{config.settings.providers[provider].requests_per_minute} requests a minute, and a window is open "
                f"for {format_duration(span.length)}, {_shown(windows, span)}. Make it longer, or give some targets "
                "other windows"
            )
            yield config.target_problem(targets[0].name, message, "windows")


def pauses_that_are_impossible(config: ParsedConfig) -> Iterator[Problem]:
    """Refuse a pause in which a key would expire, and one that is most likely a mistake."""
    for target in config.targets.values():
        if target.pause_until is None:
            continue
        traits = config.traits.get(target.provider)
        if traits is not None and not traits.can_set_expiry and target.pause_until > config.now:
            message = (
                f"{traits.label} cannot change the expiry of a key, so keys could expire in the pause: leave it out"
            )
            yield config.target_problem(target.name, message, "pause_until")
        if target.pause_until > config.now + _LONGEST_PAUSE:
            message = "is more than a year ahead: one key would be in use for that long. Write an earlier time"
            yield config.target_problem(target.name, message, "pause_until")


def pauses_that_have_passed(config: ParsedConfig) -> Iterator[Problem]:
    """Warn of a pause that is over."""
    for target in config.targets.values():
        if target.pause_until is not None and target.pause_until <= config.now:
            message = f"{timestamp(target.pause_until)} has passed, so it has no effect: remove it"
            yield config.target_problem(target.name, message, "pause_until")


def _shown(windows: Windows, span: Span) -> str:
    """Return when a time begins and ends, in the zone of the first window."""
    return f"from {windows[0].shown(span.start)} to {windows[0].shown(span.end)}"


def _next(spans: Sequence[Span], now: datetime) -> Span:
    """Return the first that begins from now on; the first of all, if none does in the years that were compared."""
    return next((span for span in spans if span.start >= now), spans[0])


@lru_cache(maxsize=16)
def _longest_gaps(windows: Windows) -> tuple[Span, ...]:
    longest = max((gap.length for gap, _ in _gaps(windows)), default=None)
    return tuple(gap for gap, _ in _gaps(windows) if gap.length == longest)


@lru_cache(maxsize=16)
def _shapes(windows: Windows) -> Mapping[tuple[timedelta, timedelta], Sequence[Span]]:
    """Return the open times for each length of a gap and of the open time after it."""
    shapes: dict[tuple[timedelta, timedelta], list[Span]] = defaultdict(list)
    for gap, span in _gaps(windows):
        if span.length:
            shapes[gap.length, span.length].append(span)
    return shapes


@lru_cache(maxsize=16)
def _gaps(windows: Windows) -> tuple[tuple[Span, Span], ...]:
    """Return all gaps, and the open time after each. Targets share few sets of windows, and each reload asks again.

    From the first opening to the same one after a whole cycle, so that no gap is cut.
    """
    start = opened_at(windows, SINCE)
    end = start + cycle(windows) + _DAY
    return tuple(gaps(open_spans(windows, start, end), start, end))
