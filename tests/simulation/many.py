"""Many schedules, over all processors."""

import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from simulation.mutations import MUTATIONS, mutated
from simulation.run import shortest, simulate
from simulation.settings import MEDDLING, MIXED, NO_EXPIRY, NO_EXPIRY_CHANGE, RACES, ROLLBACKS, STRANGE, USE, Profile

ROUND = (MIXED, RACES, NO_EXPIRY_CHANGE, MEDDLING, USE, STRANGE, ROLLBACKS, NO_EXPIRY)


SHARE = 100
"""Schedules that a process gets at a time."""


def profile_of(seed: int) -> Profile:
    """Which kind of schedule has this number."""
    return ROUND[seed % len(ROUND)]


@dataclass(frozen=True, slots=True)
class Found:
    """What came of some schedules."""

    schedules: int
    failing: int | None = None  # the first seed that broke a promise
    trace: str = ""
    coverage: "Counter[str]" = field(default_factory=Counter)


def run_some(seeds: range, profile: Profile | None = None, mutation: str = "") -> Found:
    """Until one breaks a promise; its trace is made as short as it can be, unless a mutation was meant to break it."""
    coverage: Counter[str] = Counter()
    promises = MUTATIONS[mutation].breaks if mutation else ()  # a rule may be seen broken before what it carries is
    with mutated(mutation):
        for count, seed in enumerate(seeds, 1):
            outcome = simulate(seed, profile or profile_of(seed), promises=promises)
            coverage.update(outcome.coverage)
            if outcome.broken is not None:
                return Found(count, seed, str(outcome if mutation else shortest(outcome)), coverage)
    return Found(len(seeds), coverage=coverage)


@contextmanager
def pool() -> Iterator[ProcessPoolExecutor]:
    """One process a processor. Spawned: a fork would copy the locks of the threads that run here."""
    processes = os.cpu_count() or 1
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as executor:
        try:
            yield executor
        finally:
            executor.shutdown(wait=True, cancel_futures=True)


def run_many(
    executor: ProcessPoolExecutor, seeds: range, profile: Profile | None = None, mutation: str = ""
) -> Iterator[Found]:
    """All of them, in shares; in the order of their seeds, so that the first failing one is always the same."""
    shares = [seeds[start : start + SHARE] for start in range(0, len(seeds), SHARE)]
    futures = [executor.submit(run_some, some, profile, mutation) for some in shares]
    try:
        for future in futures:
            yield future.result()
    finally:
        for future in futures:
            future.cancel()
