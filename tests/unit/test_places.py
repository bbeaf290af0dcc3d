"""A mount, a cluster or a path that moved: keys that were made for the former place."""

from dataclasses import replace

import pytest
from support.sweeps import sweeper_of
from support.world import HOUR, OWNER, START, IssuedKey, StoreClient, World, make_target, refuse

from rotator.cli.output import outcome
from rotator.core.errors import GraceNotEnforced, ServedKeyMisnamed, StoreUnavailable
from rotator.core.keys import place_of
from rotator.core.plan import Plan, plan
from rotator.core.reasons import State
from rotator.core.request import RotationRequest
from rotator.core.times import timestamp
from rotator.protocol.extend import extendable, misnamed
from rotator.protocol.observer import Observer, list_keys
from rotator.protocol.places import Claims, locations
from rotator.protocol.reconciler import Reconciler
from rotator.telemetry.status import TargetStatus, with_unenforced

FORCED = RotationRequest(rotate=True, by="command")


def store_at(world: World, place: str, *former: str) -> StoreClient:
    return StoreClient(world.store, world.clock, world.wire, "a", place, former)


def executor_at(world: World, place: str, *former: str, claims: Claims | None = None) -> Reconciler:
    ports = replace(world.ports("a"), store=store_at(world, place, *former))
    return Reconciler(Observer(OWNER, frozenset(), frozenset({world.target.name}), ports, claims=claims))


def test_a_key_made_before_a_move_ends_with_its_grace_where_the_former_place_is_named() -> None:
    world = World()
    assert world.reconciler().reconcile(world.target).rotated
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
    assert world.reconciler().reconcile(world.target).rotated
    [old] = world.vendor.keys.values()
    world.store.move("apps/old", "apps/new")
    target = make_target(path="apps/new", former_paths=("apps/old",))
    assert world.reconciler().reconcile(target, FORCED).rotated
    assert old.expires_at == START + 4 * HOUR


def test_former_locations_paths_and_owners_combine_the_present_place_first() -> None:
    world = World(make_target(path="new", former_paths=("old",)))
    ports = replace(world.ports("a"), store=store_at(world, "here", "there"))
    scope = Observer("now", frozenset({"then"}), frozenset(), ports).scope(world.target)
    places = [place_of(o, at) for at in ("here/new", "there/new", "here/old", "there/old") for o in ("now", "then")]
    assert scope.places == tuple(places)
    assert scope.place == places[0]


def test_a_former_place_that_another_target_has_is_neither_s() -> None:
    moved, there = make_target("moved"), make_target("there", path="apps/moved/respan")
    world = World(moved, there)
    claims = Claims([(moved, store_at(world, "new", "memory")), (there, store_at(world, "memory"))])
    scope = executor_at(world, "new", "memory", claims=claims).observer.scope(moved)
    assert scope.places == (place_of(OWNER, "new/apps/moved/respan"),)


def test_a_former_place_waits_until_every_store_has_shown_where_it_is() -> None:
    """And the target works on meanwhile."""
    moved, other = make_target("moved"), make_target("other")
    world = World(moved, other)
    away = StoreClient(world.store, world.clock, world.wire, "away", "elsewhere")
    claims = Claims([(moved, store_at(world, "new", "memory")), (other, away)])
    reconciler = executor_at(world, "new", "memory", claims=claims)
    world.at(lambda call: call.actor == "away", refuse(StoreUnavailable("no answer")))
    assert len(reconciler.observer.scope(moved).places) == 1
    assert len(reconciler.observer.scope(moved).places) == 2


@pytest.mark.parametrize("path", ["old", "new"])
def test_a_place_that_did_not_move_is_no_former_place(path: str) -> None:
    world = World()
    target = make_target(path="new", former_paths=(path,))
    present, former = locations(target, store_at(world, "here", "here"))
    assert (present, former) == ("here/new", () if path == "new" else ("here/old",))


# --- a former place that is not named --------------------------------------------------------------------------------


def moved_without_a_word(world: World) -> tuple[Reconciler, IssuedKey]:
    """The store moved, and its former place is not named; the key that was made there is superseded."""
    assert world.reconciler().reconcile(world.target).rotated
    [old] = world.vendor.keys.values()
    reconciler = executor_at(world, "moved")
    assert reconciler.reconcile(world.target, FORCED).rotated
    return reconciler, old


def test_a_grace_that_is_not_enforced_is_an_error_with_the_real_end() -> None:
    world = World()
    reconciler, old = moved_without_a_word(world)
    report = reconciler.reconcile(world.target)
    assert isinstance(report.error, GraceNotEnforced)
    assert f"works until {timestamp(START + 24 * HOUR)}" in report.error.message
    assert "former_locations" in report.error.advice
    assert report.plan is not None
    assert [key.works_until for key in report.plan.superseded] == [START + 24 * HOUR]
    assert old.expires_at == START + 24 * HOUR
    world.clock.advance(23 * HOUR)
    assert [key.key_id for key in plan_of(reconciler, world).unenforced(world.clock.now())] == [old.id]
    world.clock.advance(HOUR)
    assert plan_of(reconciler, world).unenforced(world.clock.now()) == ()


def plan_of(reconciler: Reconciler, world: World) -> Plan:
    return plan(reconciler.observer.observe(world.target), world.clock.now())


def test_rotate_reports_it_in_the_very_pass() -> None:
    world = World()
    assert world.reconciler().reconcile(world.target).rotated
    report = executor_at(world, "moved").reconcile(world.target, FORCED)
    assert report.rotated
    assert isinstance(report.error, GraceNotEnforced)
    assert outcome(report) == "failed"


def test_a_key_that_was_renamed_or_is_shown_nameless() -> None:
    for name, advice in (("renamed", "renamed at the provider"), ("", "Identity rests on the name")):
        world = World()
        assert world.reconciler().reconcile(world.target).rotated
        [old] = world.vendor.keys.values()
        old.name = name
        report = world.reconciler().reconcile(world.target, FORCED)
        assert isinstance(report.error, GraceNotEnforced)
        assert advice in report.error.advice


def test_status_from_the_store_alone_knows_it_by_the_record() -> None:
    world = World()
    assert world.reconciler().reconcile(world.target).rotated
    assert executor_at(world, "moved").reconcile(world.target, FORCED).rotated
    made = plan_of(executor_at(world, "moved"), world)
    shown = with_unenforced(TargetStatus(world.target, made, None), world.clock.now())
    assert shown.state is State.FAILING
    [old] = shown.to_json()["superseded"]
    assert old["until"] == timestamp(START + 24 * HOUR)


def test_a_key_that_never_expires_has_no_end() -> None:
    world = World()
    assert world.reconciler().reconcile(world.target).rotated
    [old] = world.vendor.keys.values()
    old.name, old.expires_at = "renamed", None
    report = world.reconciler().reconcile(world.target, FORCED)
    assert report.error is not None
    assert "never expires" in report.error.message
    assert [key["until"] for key in TargetStatus(world.target, report.plan, None).to_json()["superseded"]] == [None]


@pytest.mark.parametrize("name", ["renamed", ""])
def test_a_sweep_names_a_served_key_whose_name_is_not_its_path_s(name: str) -> None:
    world = World()
    reconciler = world.reconciler()
    assert reconciler.reconcile(world.target).rotated
    [key] = world.vendor.keys.values()
    key.name = name
    swept = sweeper_of(reconciler, world.targets).sweep()
    error = swept.failed[world.target.name]
    assert isinstance(error, ServedKeyMisnamed)
    assert key.id in error.message
    assert ("If the provider gave its id to another key, it is gone" in error.message) == bool(name)
    assert ("`rotator rotate TARGET`" in error.advice) == bool(name)
    assert not swept.complete
    assert swept.to_work == ()


# --- extend ----------------------------------------------------------------------------------------------------------


def test_extend_fails_where_a_target_has_no_key_by_its_name() -> None:
    world = World()
    reconciler = world.reconciler()
    assert reconciler.reconcile(world.target).rotated
    moved = executor_at(world, "moved")
    found, left = extendable(moved.observer, list_keys(moved.observer.ports), world.targets, START + 48 * HOUR)
    assert (found, [*left]) == ([], [world.target.name])
    assert "former_locations" in left[world.target.name].advice


def test_extend_is_content_with_keys_that_live_long_enough() -> None:
    world = World()
    reconciler = world.reconciler()
    assert reconciler.reconcile(world.target).rotated
    keys = list_keys(reconciler.observer.ports)
    assert extendable(reconciler.observer, keys, world.targets, START + HOUR) == ([], {})
    assert misnamed(reconciler.observer, keys, world.targets, START + 48 * HOUR) == {}


def test_extend_names_a_served_key_that_its_name_does_not_show_while_an_old_one_is_extended() -> None:
    world = World()
    reconciler = world.reconciler()
    assert reconciler.reconcile(world.target).rotated
    assert reconciler.reconcile(world.target, FORCED).rotated
    served = world.served()
    assert served is not None
    served.name = "renamed"
    keys, until = list_keys(reconciler.observer.ports), START + 48 * HOUR
    found, left = extendable(reconciler.observer, keys, world.targets, until)
    assert (len(found), left) == (1, {})
    error = misnamed(reconciler.observer, keys, world.targets, until)[world.target.name]
    assert served.id in error.message
    world.at(lambda call: call.operation == "store.history", refuse(StoreUnavailable("no answer")))
    assert misnamed(reconciler.observer, keys, world.targets, until) == {}
