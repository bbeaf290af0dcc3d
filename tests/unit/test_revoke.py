"""`rotate --revoke-now` also revokes keys in no version, but no foreign key and none about to be served."""

from dataclasses import replace
from datetime import timedelta

import pytest
from support.world import HOUR, OWNER, IssuedKey, World, afterwards, make_target, meanwhile, refuse

from rotator.core.errors import ProviderRequestRefused, ProviderUnavailable, StoreUnavailable
from rotator.core.events import EventType
from rotator.core.keys import KeyName, ListedKey, UnreadableKey
from rotator.core.orphans import by_place
from rotator.core.request import RotationRequest
from rotator.protocol.observer import MAX_READ, Observer, list_keys
from rotator.protocol.reconciler import Reconciler
from rotator.protocol.revoke import not_revoked, revoke_the_unheld

REVOKE = RotationRequest(rotate=True, revoke_now=True, by="command", comment="it leaked")


def command(world: World, budget_wait: float = 0.0) -> Reconciler:
    """A new process that does not sweep."""
    names = frozenset(target.name for target in world.targets)
    return Reconciler(Observer(OWNER, frozenset(), names, world.ports("command", budget_wait)))


def first_key(world: World) -> IssuedKey:
    """Give every target its first key; an hour later, return that of the first target."""
    for target in world.targets:
        assert world.reconciler().reconcile(target).rotated
    world.clock.advance(HOUR)
    return world.vendor.keys["tk_0001"]


def revoked(world: World, reconciler: Reconciler) -> object:
    """Do what the command does: a pass, and then the list."""
    assert reconciler.reconcile(world.target, REVOKE).error is None
    return revoke_the_unheld(reconciler.observer, world.target, by_place(list_keys(reconciler.observer.ports)), REVOKE)


def taken_out(world: World) -> tuple[IssuedKey, Reconciler, dict[str, list[ListedKey]]]:
    """Delete a key from the path by hand, have a command make another, and read the list."""
    leaked, a = first_key(world), command(world)
    world.store.delete(world.target.path)
    assert a.reconcile(world.target, REVOKE).error is None
    return leaked, a, by_place(list_keys(a.observer.ports))


@pytest.mark.parametrize("how", ["deleted", "destroyed", "metadata deleted", "pushed out", "repeated"])
def test_a_key_that_no_readable_version_holds_is_revoked(how: str) -> None:
    world = World(max_versions=1 if how in ("pushed out", "repeated") else 10)
    leaked = first_key(world)
    a = command(world, budget_wait=6.0 if how == "pushed out" else 0.0)
    match how:
        case "deleted":
            world.store.delete(world.target.path)
        case "destroyed":
            world.store.destroy(world.target.path, 1)
        case "metadata deleted":
            world.store.delete_metadata(world.target.path)
        case "repeated":
            world.at("provider.set_expiry", refuse(ProviderUnavailable("down")))
            assert a.reconcile(world.target, REVOKE).error
            a = command(world)
    assert revoked(world, a) is None
    served = world.served()
    assert served is not leaked
    assert [key for key in world.vendor.keys.values() if world.vendor.alive(key)] == [served]
    [fields] = [event.fields for event in world.events.of(EventType.KEY_DELETED) if event.fields["key_id"] == leaked.id]
    assert (fields["reason"], fields["by"], fields["comment"]) == ("revoked", "command", "it leaked")


def test_it_expires_although_deleting_it_fails() -> None:
    world = World()
    leaked, a, keys = taken_out(world)
    world.at("provider.delete", refuse(ProviderUnavailable("down")))
    assert isinstance(revoke_the_unheld(a.observer, world.target, keys, REVOKE), ProviderUnavailable)
    assert leaked.expires_at
    assert leaked.expires_at <= world.clock.now() + timedelta(minutes=2)
    world.at("store.history", refuse(StoreUnavailable("down")))
    assert isinstance(revoke_the_unheld(a.observer, world.target, keys, REVOKE), StoreUnavailable)


def test_foreign_keys_and_keys_about_to_be_published_are_left_alone() -> None:
    mine, other = make_target("a"), make_target("b")
    world = World(mine, other)
    first_key(world)
    a = command(world)
    ends = world.clock.now() + 24 * HOUR
    coming = world.vendor.issue(str(KeyName(OWNER, "a", a.observer.scope(mine).place, 9, "comingaa")), ends)
    by_hand = world.vendor.issue("made by hand", ends)
    world.store.delete(other.path)
    error = revoked(world, a)
    assert isinstance(error, ProviderRequestRefused)
    assert f"the key {coming.id}, which may be about to be published" in error.message, (
        "the message must not sound final"
    )
    assert all(world.vendor.alive(key) for key in (coming, by_hand, world.vendor.keys["tk_0002"]))


def test_a_key_that_is_served_again_during_the_wait_for_the_budget_is_left_alone() -> None:
    world = World()
    leaked, a, keys = taken_out(world)

    def roll_back() -> None:
        world.store.undelete(world.target.path, 1)
        assert world.store.rollback(world.target.path, 1)

    world.at("budget.take", meanwhile(roll_back))
    assert revoke_the_unheld(a.observer, world.target, keys, REVOKE) is None
    assert world.served() is leaked
    assert world.vendor.alive(leaked)
    assert world.broken == []


def test_nothing_is_revoked_on_a_read_that_took_long() -> None:
    world = World()
    leaked, a, keys = taken_out(world)
    world.at("store.history", afterwards(lambda: world.clock.sleep(MAX_READ + 1)), times=2)
    error = revoke_the_unheld(a.observer, world.target, keys, REVOKE)
    assert isinstance(error, ProviderRequestRefused)
    assert "took longer than 30 s" in error.message
    assert world.vendor.alive(leaked)


def test_a_key_that_may_be_another_paths_is_named_and_not_called_revoked() -> None:
    old, new = make_target(path="old/billing"), make_target(path="new/billing")
    world = World(old)
    moved = first_key(world)
    world.store.put(new.path, **(world.store.read(old.path) or {}))
    world.targets = (new,)
    report = command(world).reconcile(new, REVOKE)
    assert report.error is None
    [error] = not_revoked(new, report.plan)
    assert isinstance(error, ProviderRequestRefused)
    assert error.message.startswith(f"not revoked, of new/billing: the key {moved.id}, which is held by a version")
    assert world.vendor.alive(moved)


@pytest.mark.parametrize("is_served", [True, False])
def test_a_key_that_cannot_be_read_is_named_and_the_others_are_revoked(is_served: bool) -> None:
    world = World()
    leaked, a, keys = taken_out(world)
    served = world.served()
    assert served is not None
    odd = UnreadableKey(served.id if is_served else "", served.name, "whose id is 5")
    some = {place: [*mine, odd] for place, mine in keys.items()}
    error = revoke_the_unheld(a.observer, world.target, some, REVOKE)
    assert leaked.revoked
    assert (error is None) is is_served
    assert is_served or "whose id is 5" in str(error)


def test_a_superseded_key_that_the_provider_does_not_show_yet_is_named_as_not_revoked() -> None:
    world = World()
    names = frozenset({world.target.name})
    a = Reconciler(Observer(OWNER, frozenset(), names, world.ports("command"), min_age=timedelta(minutes=5)))
    world.vendor.shown_after = 60.0
    assert world.reconciler().reconcile(world.target).rotated
    report = a.reconcile(world.target, REVOKE)
    assert (report.rotated, report.error) == (True, None)
    [error] = not_revoked(world.target, report.plan)
    assert "tk_0001, which is new" in error.message
    world.clock.advance(timedelta(seconds=60))
    again = a.reconcile(world.target, replace(REVOKE, rotate=False))
    assert [*not_revoked(world.target, again.plan)] == []
    assert world.vendor.keys["tk_0001"].revoked
