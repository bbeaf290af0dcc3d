"""The rules of windows and pauses: no key may expire before a window opens, and no pause may be too much for a key."""

from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache, lru_cache
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
_LONGEST_OPEN = timedelta(days=31)  # a longer open time may be cut where the comparison ends
_MINUTE = timedelta(minutes=1)
_DAY = timedelta(days=1)


def gaps_that_are_too_long(config: ParsedConfig) -> Iterator[Problem]:
    """Refuse windows of which none opens for so long that a key could expire, or a replaced key before its grace."""
    sets = dict.fromkeys(target.windows for target in config.targets.values())
    longest_gaps = {windows: _longest_gaps(windows) for windows in sets if windows}
    for target in config.targets.values():
        if longest := longest_gaps.get(target.windows):
            gap = _next(longest, config.now)
            yield from _too_long_to_wait(config, target, gap)
            yield from _too_long_for_the_grace(config, target, gap)


def _too_long_to_wait(config: ParsedConfig, target: Target, gap: Span) -> Iterator[Problem]:
    if gap.length <= longest_wait(target):
        return
    in_time = gap.length / (longest_wait(target) / target.renew_before)
    needed = ceil(max(in_time, gap.length + target.grace_period) / _MINUTE) * _MINUTE
    message = (
        f"a key could expire before a window opens: none is open for {format_duration(gap.length)}, "
        f"{_shown(target.windows, gap)}, and renew_before ({format_duration(target.renew_before)}) less a quarter "
        f"for retries leaves {format_duration(longest_wait(target))}. Add a window, or set renew_before to at "
        f'least "{format_duration(needed)}"{_longer_ttl(config, target, needed)}'
    )
    yield config.target_problem(target.name, message, "windows", "renew_before")


def _too_long_for_the_grace(config: ParsedConfig, target: Target, gap: Span) -> Iterator[Problem]:
    """A key that waited through the gap is replaced with the rest of `renew_before` to live."""
    rest, traits = target.renew_before - gap.length, config.traits.get(target.provider)
    never_expires = traits is not None and not traits.keys_expire
    if rest >= target.grace_period or gap.length > longest_wait(target) or never_expires:
        return
    needed = ceil((gap.length + target.grace_period) / _MINUTE) * _MINUTE
    message = (
        f"a replaced key could expire before its grace is over: no window is open for {format_duration(gap.length)}, "
        f"{_shown(target.windows, gap)}, which leaves {format_duration(rest)} of renew_before "
        f"({format_duration(target.renew_before)}) for a grace_period of {format_duration(target.grace_period)}. Add a "
        f'window, set grace_period to at most "{format_duration(rest)}", or set renew_before to at least '
        f'"{format_duration(needed)}"{_longer_ttl(config, target, needed)}'
    )
    yield config.target_problem(target.name, message, "windows", "grace_period")


def _longer_ttl(config: ParsedConfig, target: Target, renew_before: timedelta) -> str:
    """Return what else has to change where the ttl is too short for this renew_before."""
    fits = renew_before * (1 + config.settings.daemon.jitter) < target.ttl
    return "" if fits else f', and ttl to more than that, such as "{format_duration(2 * renew_before)}"'


def windows_that_are_too_short(config: ParsedConfig) -> Iterator[Problem]:
    """Refuse windows in which a provider's rate limit cannot let all their targets rotate."""
    groups: dict[str, dict[Windows, list[Target]]] = defaultdict(lambda: defaultdict(list))
    for target in config.targets.values():
        if target.windows and target.provider in config.traits:
            groups[target.provider][target.windows].append(target)
    for provider, by_windows in groups.items():
        limit = config.settings.providers[provider].requests_per_minute
        each = config.traits[provider].requests_per_rotation / (limit * 60 / WINDOW) * _MINUTE
        needs = [(rotations * each, span) for span, rotations in _crowds(by_windows)]
        most = max((need for need, span in needs if need > span.length), default=None)
        if most is None:
            continue
        span = _next([span for need, span in needs if need == most > span.length], config.now)
        sharing = {windows: targets for windows, targets in by_windows.items() if _opens_in(windows, span)}
        targets = [target for group in sharing.values() for target in group]
        message = (
            f"{len(targets)} targets of {provider} need about {format_duration(ceil(most / _MINUTE) * _MINUTE)} at "
            f"{limit} requests a minute, and a window is open for {format_duration(span.length)}, "
            f"{_shown(next(iter(sharing)), span)}. Make it longer, or give some targets other windows"
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
    """Return all gaps of the greatest length. Targets share few sets of windows, and each reload asks again.

    From the first opening to the same one after a whole cycle, so that no gap is cut.
    """
    start = opened_at(windows, SINCE)
    end = start + cycle(windows) + _DAY
    found = [gap for gap, _ in gaps(open_spans(windows, start, end), start, end)]
    longest = max((gap.length for gap in found), default=None)
    return tuple(gap for gap in found if gap.length == longest)


def _crowds(groups: Mapping[Windows, Sequence[Target]]) -> Iterator[tuple[Span, float]]:
    """Yield the times in which any of these windows is open, and how many rotations begin in each.

    Each set of windows has targets of its own, whose keys have waited since it was open last.
    """
    union = tuple(dict.fromkeys(window for windows in groups for window in windows))
    starts = {windows: opened_at(windows, SINCE) for windows in groups}
    end = max(starts.values()) + cycle(union) + _DAY
    spans = [span for _, span in _openings(union, min(starts.values()), end + _LONGEST_OPEN) if span.start < end]
    begins, rotations = [span.start for span in spans], [0.0] * len(spans)
    for windows, targets in groups.items():
        number_of = _rotations(targets)
        for gap, span in _openings(windows, starts[windows], end + _LONGEST_OPEN):
            index = bisect(begins, span.start) - 1
            if index >= 0 and span.start < spans[index].end:
                rotations[index] += number_of(gap.length, span.length)
    yield from zip(spans, rotations, strict=True)


def _rotations(targets: Iterable[Target]) -> Callable[[timedelta, timedelta], float]:
    """Return how many of these rotate in an open time, by the length of the gap before it and by its own."""
    periods = Counter(target.ttl - target.renew_before for target in targets)  # the jitter makes no difference here

    @cache
    def number_of(closed: timedelta, is_open: timedelta) -> float:
        return sum(number * (min(1.0, closed / period) + is_open / period) for period, number in periods.items())

    return number_of


def _opens_in(windows: Windows, span: Span) -> bool:
    return next(open_spans(windows, span.start, span.end), None) is not None


@lru_cache(maxsize=16)
def _openings(windows: Windows, start: datetime, end: datetime) -> tuple[tuple[Span, Span], ...]:
    """Return each open time after the first, with the gap before it. The last one may be cut."""
    found = gaps(open_spans(windows, start, end), start, end)
    return tuple((gap, span) for gap, span in found if span.length)
