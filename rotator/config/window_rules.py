"""The rules of windows and pauses: no key may expire before a window opens, and no pause may be too much for a key."""

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache, lru_cache
from itertools import chain, repeat, tee
from math import ceil

from rotator.config.parsed import ParsedConfig
from rotator.config.values import format_duration
from rotator.config.windows import SINCE, cycle
from rotator.core.errors import Problem
from rotator.core.renewal import longest_wait
from rotator.core.target import Target
from rotator.core.times import timestamp
from rotator.core.windows import Span, Windows, gaps, open_spans, opened_at
from rotator.runtime.rate_limit import REQUESTS_PER_ROTATION, WINDOW

_LONGEST_PAUSE = timedelta(days=366)
_LONGEST_OPEN = timedelta(days=31)  # a longer open time may be cut where the comparison ends
_MINUTE = timedelta(minutes=1)
_DAY = timedelta(days=1)


def gaps_that_are_too_long(config: ParsedConfig) -> Iterator[Problem]:
    """Refuse windows of which none opens for so long that a key could expire."""
    for target, gap in _gaps(config):
        if gap > longest_wait(target):
            yield _too_long_to_wait(config, target, _gap_of(target.windows, gap, config.now))


def gaps_that_shorten_the_grace(config: ParsedConfig) -> Iterator[Problem]:
    """Warn of windows after whose longest gap a replaced key expires before its grace is over."""
    for target, gap in _gaps(config):
        if gap > target.renew_before - target.grace_period and _expires(config, target):
            yield _too_long_for_the_grace(config, target, _gap_of(target.windows, gap, config.now))


def _gaps(config: ParsedConfig) -> Iterator[tuple[Target, timedelta]]:
    """Yield the longest gap of each target that has windows with gaps."""
    sets = dict.fromkeys(target.windows for target in config.targets.values())
    longest = {windows: _longest_gap(windows) for windows in sets if windows}
    for target in config.targets.values():
        if gap := longest.get(target.windows):
            yield target, gap


def _expires(config: ParsedConfig, target: Target) -> bool:
    traits = config.traits.get(target.provider)
    return traits is None or traits.keys_expire


def _too_long_to_wait(config: ParsedConfig, target: Target, gap: Span) -> Problem:
    in_time = gap.length / (longest_wait(target) / target.renew_before)
    needed = ceil(max(in_time, gap.length + target.grace_period) / _MINUTE) * _MINUTE
    message = (
        f"a key could expire before a window opens: none is open for {format_duration(gap.length)}, "
        f"{_shown(target.windows, gap)}, and renew_before ({format_duration(target.renew_before)}) less a quarter "
        f"for retries leaves {format_duration(longest_wait(target))}. Add a window, or set renew_before to at "
        f'least "{format_duration(needed)}"{_longer_ttl(config, target, needed)}'
    )
    return config.target_problem(target.name, message, "windows", "renew_before")


def _too_long_for_the_grace(config: ParsedConfig, target: Target, gap: Span) -> Problem:
    """A key that waited through the gap is replaced with the rest of `renew_before` to live."""
    rest = target.renew_before - gap.length
    needed = ceil((gap.length + target.grace_period) / _MINUTE) * _MINUTE
    message = (
        f"a replaced key may expire before its grace is over: no window is open for {format_duration(gap.length)}, "
        f"{_shown(target.windows, gap)}, which leaves {format_duration(rest)} of renew_before "
        f"({format_duration(target.renew_before)}) for a grace_period of {format_duration(target.grace_period)}. Add a "
        f'window, set grace_period to at most "{format_duration(rest)}", or set renew_before to at least '
        f'"{format_duration(needed)}"{_longer_ttl(config, target, needed)}'
    )
    return config.target_problem(target.name, message, "windows", "grace_period")


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
        alone = [_too_short(config, provider, {windows: targets}) for windows, targets in by_windows.items()]
        together = None if any(alone) else _too_short(config, provider, by_windows)
        yield from filter(None, (*alone, together))


def _too_short(config: ParsedConfig, provider: str, by_windows: Mapping[Windows, Sequence[Target]]) -> Problem | None:
    """Return the problem of the time in which any of these windows is open, and that is too short for its rotations."""
    sets, limit = tuple(by_windows), config.settings.providers[provider].requests_per_minute
    each = REQUESTS_PER_ROTATION / (limit * 60 / WINDOW) * _MINUTE
    numbers = [_rotations(targets) for targets in by_windows.values()]

    def need(shape: Shape) -> timedelta:
        of_sets = zip(numbers, shape[1], strict=True)
        return each * sum(number_of(*wait) for number_of, waits in of_sets for wait in waits)

    worst = max((shape for shape in _shapes(sets) if shape[0] and need(shape) > shape[0]), key=need, default=None)
    if worst is None:
        return None
    span = _next((span for span, shape in _compared(sets) if shape == worst), config.now)
    opening = [windows for windows, waits in zip(sets, worst[1], strict=True) if waits]
    targets = [target for windows in opening for target in by_windows[windows]]
    message = (
        f"{len(targets)} targets of {provider} need about {format_duration(ceil(need(worst) / _MINUTE) * _MINUTE)} at "
        f"{limit} requests a minute, and a window is open for {format_duration(span.length)}, "
        f"{_shown(opening[0], span)}. Make it longer, or give some targets other windows"
    )
    return config.target_problem(targets[0].name, message, "windows")


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


def _next(spans: Iterable[Span], now: datetime) -> Span:
    """Return the first that begins from now on; the first of all, if none does in the years that were compared."""
    following = iter(spans)
    first = next(following)
    return next((span for span in chain([first], following) if span.start >= now), first)


def _rotations(targets: Iterable[Target]) -> Callable[[timedelta, timedelta], float]:
    """Return how many of these rotate in an open time, by the length of the gap before it and by its own."""
    periods = Counter(target.ttl - target.renew_before for target in targets)  # the jitter makes no difference here

    @cache
    def number_of(closed: timedelta, is_open: timedelta) -> float:
        return sum(number * (min(1.0, closed / period) + is_open / period) for period, number in periods.items())

    return number_of


# --- the years that are compared -------------------------------------------------------------------------------------

Shape = tuple[timedelta, tuple[tuple[tuple[timedelta, timedelta], ...], ...]]
"""How long any of several sets of windows is open; and for each set, of each open time of its own in there, how long
the gap before it and how long it is."""


def _compared(sets: tuple[Windows, ...]) -> Iterator[tuple[Span, Shape]]:
    """Yield when any of these sets of windows is open, and the shape of that time.

    From the first opening to the same one after a whole cycle, so that no gap is cut. The last time may have no length.
    """
    union = tuple(dict.fromkeys(chain.from_iterable(sets)))
    starts = [opened_at(windows, SINCE) for windows in sets]
    end = max(starts) + cycle(union) + _DAY
    until = end + _LONGEST_OPEN
    each = [gaps(open_spans(one, start, until), start, until) for one, start in zip(sets, starts, strict=True)]
    if len(sets) > 1:
        whole = gaps(open_spans(union, min(starts), until), min(starts), until)
    else:
        whole, each[0] = tee(each[0])  # to find each opening takes time
    own = heapq.merge(*(zip(repeat(number), one) for number, one in enumerate(each)), key=lambda one: one[1][1].start)
    following = next(own, None)
    for _, open_time in whole:
        inside: list[list[tuple[timedelta, timedelta]]] = [[] for _ in sets]
        while following is not None and following[1][1].start <= open_time.end:
            number, (gap, span) = following
            if span.start >= open_time.start:
                inside[number].append((gap.length, span.length))
            following = next(own, None)
        if open_time.start < end or not open_time.length:
            yield open_time, (open_time.length, tuple(map(tuple, inside)))


@lru_cache(maxsize=64)
def _shapes(sets: tuple[Windows, ...]) -> frozenset[Shape]:
    """Return the shapes of all open times. Targets share few sets of windows, and each reload asks again."""
    return frozenset(shape for _, shape in _compared(sets))


def _longest_gap(windows: Windows) -> timedelta:
    shapes = _shapes((windows,))
    return max((closed for _, [waits] in shapes for closed, _ in waits), default=timedelta(0))


@lru_cache(maxsize=64)
def _gap_of(windows: Windows, length: timedelta, now: datetime) -> Span:
    """Return the next gap of this length."""
    found = (
        Span(span.start - length, span.start)
        for span, (_, [[(closed, _)]]) in _compared((windows,))
        if closed == length
    )
    return _next(found, now)
