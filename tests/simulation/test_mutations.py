"""The harness must be able to fail: with any one rule taken away, some schedule breaks a promise."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest

from rotator.protocol import publish
from simulation.many import pool, run_many
from simulation.mutations import MUTATIONS, Edit, edited, mutated
from simulation.run import shortest, simulate
from simulation.settings import PROFILES

BUDGET = 3_000
"""Schedules within which a mutant has to be caught."""


@pytest.fixture(scope="module")
def executor() -> Iterator[ProcessPoolExecutor]:
    with pool() as executor:
        yield executor


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", MUTATIONS)
def test_each_is_caught(executor: ProcessPoolExecutor, name: str) -> None:
    profile = PROFILES[MUTATIONS[name].profile]
    promises = []
    for found in run_many(executor, range(BUDGET), profile, name, share=50):
        if found.failing is not None:
            promises.append(found.trace.splitlines()[0])
            break
    assert promises, f"{BUDGET} schedules, and nobody noticed"
    assert any(word in promises[0] for word in MUTATIONS[name].breaks), promises[0]


def test_a_mutation_leaves_nothing_behind() -> None:
    before = publish._judge.__code__
    with mutated("refused publish judged by what a read shows"):
        assert publish._judge.__code__ is not before
    assert publish._judge.__code__ is before


def test_a_mutation_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(AssertionError, match="has not exactly one"), edited([Edit(publish._judge, "no such text", "")]):
        pass


def test_a_failing_schedule_is_made_short_enough_to_read() -> None:
    with mutated("no cas"):
        failing = next(o for o in (simulate(seed, PROFILES["races"]) for seed in range(50)) if o.broken)
        shorter = shortest(failing)
    assert shorter.broken
    assert len(shorter.disturbances) <= len(failing.disturbances)
    assert len(str(shorter).splitlines()) < 100
