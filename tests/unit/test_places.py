"""A mount, a cluster or a path that moved: keys that were made for the former place."""

from dataclasses import replace

import pytest
from support.world import HOUR, OWNER, START, StoreClient, World, make_target, refuse

from rotator.errors import StoreUnavailable
from rotator.execute import Executor
from rotator.model import place_of
from rotator.places import Claims, locations
from rotator.plan import Order

FORCED = Order(rotate=True, by="command")


def store_at(world: World, place: str, *former: str) -> StoreClient:
    return StoreClient(world.store, world.clock, world.wire, "a", place, former)


def executor_at(world: World, place: str, *former: str, claims: Claims | None = None) -> Executor:
    ports = replace(world.ports("a"), store=store_at(world, place, *former))
    return Executor(OWNER, frozenset(), frozenset({world.target.name}), ports, claims=claims)


def test_a_key_made_before_a_move_ends_with_its_grace_where_the_former_place_is_named() -> None:
    world = World()
    assert world.executor().reconcile(world.target).rotated
    [old] = world.vendor.keys.values()
    moved = executor_at(world, "moved", "memory")
    report = moved.reconcile(world.target, FORCED)
    assert (report.rotated, report.error) == (True, None)
    assert old.expires_at == START + 4 * HOUR
    world.clock.advance(4 * HOUR)
    assert moved.reconcile(world.target).error is None
    assert world.vendor.living() == [world.served()]


def test_a_key_made_for_a_former_path_ends_with_its_grace() -> None:
    world = World(make_target(path="apps/old"))
    assert world.executor().reconcile(world.target).rotated
    [old] = world.vendor.keys.values()
    world.store.move("apps/old", "apps/new")
    target = make_target(path="apps/new", former_paths=("apps/old",))
    assert world.executor().reconcile(target, FORCED).rotated
    assert old.expires_at == START + 4 * HOUR


def test_former_locations_paths_and_owners_combine_the_present_place_first() -> None:
    world = World(make_target(path="new", former_paths=("old",)))
    ports = replace(world.ports("a"), store=store_at(world, "here", "there"))
    scope = Executor("now", frozenset({"then"}), frozenset(), ports).scope(world.target)
    places = [place_of(o, at) for at in ("here/new", "there/new", "here/old", "there/old") for o in ("now", "then")]
    assert scope.places == tuple(places)
    assert scope.place == places[0]


def test_a_former_place_that_another_target_has_is_neither_s() -> None:
    moved, there = make_target("moved"), make_target("there", path="apps/moved/respan")
    world = World(moved, there)
    claims = Claims([(moved, store_at(world, "new", "memory")), (there, store_at(world, "memory"))])
    scope = executor_at(world, "new", "memory", claims=claims).scope(moved)
    assert scope.places == (place_of(OWNER, "new/apps/moved/respan"),)


def test_a_former_place_waits_until_every_store_has_shown_where_it_is() -> None:
    """And the target works on meanwhile."""
    moved, other = make_target("moved"), make_target("other")
    world = World(moved, other)
    away = StoreClient(world.store, world.clock, world.wire, "away", "elsewhere")
    claims = Claims([(moved, store_at(world, "new", "memory")), (other, away)])
    executor = executor_at(world, "new", "memory", claims=claims)
    world.at(lambda call: call.actor == "away", refuse(StoreUnavailable("no answer")))
    assert len(executor.scope(moved).places) == 1
    assert len(executor.scope(moved).places) == 2


@pytest.mark.parametrize("path", ["old", "new"])
def test_a_place_that_did_not_move_is_no_former_place(path: str) -> None:
    world = World()
    target = make_target(path="new", former_paths=(path,))
    present, former = locations(target, store_at(world, "here", "here"))
    assert (present, former) == ("here/new", () if path == "new" else ("here/old",))
