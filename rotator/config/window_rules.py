"""The rules of windows and pauses: no key may expire before a window opens, and no pause may be too much for a key."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from math import ceil

from rotator.config.parsed import ParsedConfig
from rotator.config.values import format_duration
from rotator.core.errors import Problem
from rotator.core.renewal import longest_wait
from rotator.core.target import Target
from rotator.core.times import timestamp
from rotator.core.windows import Span, Windows, gaps, open_spans
from rotator.runtime.rate_limit import WINDOW

_LONGEST_PAUSE = timedelta(days=366)
_MINUTE = timedelta(minutes=1)


def gaps_that_are_too_long(config: ParsedConfig) -> Iterator[Problem]:
    """Refuse windows of which none opens for so long that a key could expire."""
    for target in config.targets.values():
        if not target.windows:
            continue
        gap = _longest_gap(target.windows, _midnight(config.now))
        if gap is None or gap.length <= longest_wait(target):
            continue
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
        worst, needed = None, 0.0
        for (closed, is_open), span in _shapes(windows, _midnight(config.now)).items():
            rotations = sum(
                number * (min(1.0, closed / period) + is_open / period) for period, number in periods.items()
            )
            minutes = rotations * config.traits[provider].requests_per_rotation / per_minute
            if minutes * _MINUTE > is_open and minutes > needed:
                worst, needed = span, minutes
        if worst is not None:
            message = (
                f"{len(targets)} targets of {provider} need about {format_duration(ceil(needed) * _MINUTE)} at "
                f"{config.settings.providers[provider].requests_per_minute} requests a minute, and a window is open "
                f"for {format_duration(worst.length)}, {_shown(windows, worst)}. Make it longer, or give some targets "
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


def _midnight(now: datetime) -> datetime:
    return datetime.combine(now.date(), time(), UTC)


@lru_cache(maxsize=16)
def _longest_gap(windows: Windows, start: datetime) -> Span | None:
    return max((gap for gap, _ in _gaps(windows, start)), key=lambda gap: gap.length, default=None)


@lru_cache(maxsize=16)
def _shapes(windows: Windows, start: datetime) -> dict[tuple[timedelta, timedelta], Span]:
    """Return an open time for each length of a gap and of the open time after it."""
    return {(gap.length, span.length): span for gap, span in reversed(_gaps(windows, start)) if span.length}


@lru_cache(maxsize=16)
def _gaps(windows: Windows, start: datetime) -> tuple[tuple[Span, Span], ...]:
    """Return all gaps, and the open time after each. Targets share few sets of windows, and each reload asks again."""
    return tuple(gaps(open_spans(windows, start), start))
