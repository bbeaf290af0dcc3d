"""The harness must be able to fail: with any one rule taken away, some schedule breaks a promise."""

from types import FunctionType

import pytest

from rotator.core.versions import Scope
from rotator.protocol import publish
from simulation.many import run_some
from simulation.mutations import MUTATIONS, Edit, edited, mutated
from simulation.run import shortest, simulate
from simulation.settings import PROFILES

BUDGET = 3_000
"""Schedules within which a mutant has to be caught."""


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", MUTATIONS)
def test_each_is_caught(name: str) -> None:
    mutation = MUTATIONS[name]
    found = run_some(range(mutation.first, mutation.first + BUDGET), mutation.schedules, name)
    assert found.failing is not None, f"no promise was broken in {BUDGET} schedules"
    promise = found.trace.splitlines()[0]
    assert any(word in promise for word in mutation.breaks), promise


@pytest.mark.parametrize(
    ("name", "function"),
    [("refused publish judged by what a read shows", publish._judge), ("no name check", Scope.owns)],
)
def test_a_mutation_leaves_nothing_behind(name: str, function: FunctionType) -> None:
    before = function.__code__
    with mutated(name):
        assert function.__code__ is not before
    assert function.__code__ is before


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
