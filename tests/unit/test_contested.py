"""Two daemons with one owner and path and different parameters: they stop, and report it."""

from dataclasses import replace
from datetime import timedelta

from support.world import HOUR, World, make_target

from rotator.core.errors import Contested
from rotator.core.reasons import Reason
from rotator.core.renewal import CONTEST
from rotator.core.request import RotationRequest

MINUTE = timedelta(minutes=1)


def test_two_daemons_with_different_parameters_stop_replacing_each_others_keys() -> None:
    for other in (make_target(ttl=48 * HOUR), make_target(parameters={"rate_limit": 5})):
        world = World()
        a, b = world.reconciler("a"), world.reconciler("b")
        errors = []
        for _ in range(10):
            for reconciler, target in ((a, world.target), (b, other)):
                errors.append(reconciler.reconcile(target).error)
                world.clock.advance(10 * MINUTE)
        assert len(world.vendor.keys) == 4
        assert isinstance(errors[-2], Contested)
        assert "both configurations" in errors[-2].advice
        assert errors[-1] is None, "the key of the other one is served"


def test_they_stop_too_where_no_version_of_a_replaced_key_is_left() -> None:
    """A grace of two minutes, or a short history: what a process has seen is all that shows the turns."""
    short = make_target(grace_period=2 * MINUTE)
    for world in (World(short), World(make_target(), max_versions=1)):
        other = replace(world.target, ttl=48 * HOUR)
        a, b = world.reconciler("a"), world.reconciler("b")
        made = []
        for _ in range(10):
            for reconciler, target in ((a, world.target), (b, other)):
                made.append(reconciler.reconcile(target).attempted)
                world.clock.advance(10 * MINUTE)
        assert made.count(Reason.DRIFTED) == 3


def test_a_key_that_a_person_asks_for_between_two_turns_does_not_hide_them() -> None:
    world = World()
    other = make_target(ttl=48 * HOUR)
    reconciler = world.reconciler()
    for target in (world.target, other, world.target, other):
        reconciler.reconcile(target)
        world.clock.advance(MINUTE)
    assert reconciler.reconcile(other, RotationRequest(rotate=True, by="command")).rotated
    assert isinstance(reconciler.reconcile(world.target).error, Contested)


def test_a_person_who_edits_to_and_fro_is_obeyed() -> None:
    world = World()
    other = make_target(ttl=48 * HOUR)
    reconciler = world.reconciler()
    for target in (world.target, other, world.target, other):
        assert reconciler.reconcile(target).error is None
        world.clock.advance(CONTEST / 3 + MINUTE)
    assert reconciler.reconcile(world.target).attempted is Reason.DRIFTED


def test_a_contested_key_is_still_replaced_when_it_expires_or_a_person_asks() -> None:
    world = World()
    other = make_target(ttl=48 * HOUR)
    reconciler = world.reconciler()
    for target in (world.target, other, world.target, other):
        reconciler.reconcile(target)
    assert isinstance(reconciler.reconcile(world.target).error, Contested)
    assert reconciler.reconcile(world.target, RotationRequest(rotate=True, by="command")).rotated
    assert reconciler.reconcile(replace(world.target)).error is None
