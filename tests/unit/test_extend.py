"""`extend` in the in-memory world: the events of each key that lives longer."""

from math import inf

import pytest
from support.world import HOUR, START, World, make_target, refuse

from rotator.core.errors import StoreUnavailable
from rotator.core.events import EventType, Level
from rotator.core.keys import UnreadableKey
from rotator.core.times import timestamp
from rotator.protocol.extend import extendable
from rotator.protocol.observer import Observer, list_keys
from rotator.protocol.reconciler import Reconciler


def test_each_extended_key_is_logged_with_the_reason_and_who_asked() -> None:
    world = World()
    reconciler = world.reconciler()
    assert reconciler.reconcile(world.target).rotated
    [key] = world.vendor.keys.values()
    until = START + 48 * HOUR
    [found], _ = extendable(reconciler.observer, list_keys(reconciler.observer.ports), world.targets, until)
    assert found.extend(until, "an outage") == until
    assert key.expires_at == until
    [event] = world.events.of(EventType.KEY_EXTENDED)
    assert (event.target, event.level) == (world.target.name, Level.INFO)
    assert event.fields == {
        "key_id": key.id,
        "key_name": key.name,
        "reason": "extended",
        "expires_at": timestamp(until),
        "by": "command",
        "comment": "an outage",
    }
    assert extendable(reconciler.observer, list_keys(reconciler.observer.ports), world.targets, until)[0] == [], (
        "it lives that long already"
    )


def test_a_key_that_cannot_be_read_is_named_and_the_others_are_extended() -> None:
    world = World(make_target("a"), make_target("b"))
    reconciler = world.reconciler()
    for target in world.targets:
        assert reconciler.reconcile(target).rotated
    a, b = world.vendor.keys.values()
    world.vendor.unreadable[a.id] = UnreadableKey(a.id, a.name, "whose expiry_date is true")
    found, left = extendable(
        reconciler.observer, list_keys(reconciler.observer.ports), world.targets, START + 48 * HOUR
    )
    assert [one.key.id for one in found] == [b.id]
    assert [*left] == ["a"]
    assert f"{a.id}, whose expiry_date is true" in left["a"].message


@pytest.mark.parametrize(("owner", "is_clear"), [("prod-eu", True), ("prod-eu-west", False)])
def test_without_the_store_keys_of_an_owner_that_may_be_cut_are_extended_when_a_person_confirms_it(
    owner: str, is_clear: bool
) -> None:
    world = World()
    names = frozenset({world.target.name})
    assert Reconciler(Observer(owner, frozenset(), names, world.ports("a"))).reconcile(world.target).rotated
    theirs = Reconciler(Observer("prod-eu-east", frozenset(), names, world.ports("b")))
    assert theirs.reconcile(make_target(path="elsewhere")).rotated
    a, b = world.vendor.keys.values()
    world.at("store.location", refuse(StoreUnavailable("no answer")), times=inf)
    reconciler, until = Reconciler(Observer(owner, frozenset(), names, world.ports("c"))), START + 48 * HOUR
    found, left = extendable(reconciler.observer, list_keys(reconciler.observer.ports), world.targets, until)
    assert [one.key.id for one in found] == ([a.id] if is_clear else [])
    if not is_clear:
        error = left[world.target.name]
        assert f"{a.id} ({a.name}), which expires at" in error.message
        assert f"{b.id} ({b.name})" in error.message
        assert "--by-name" in error.advice
        found, left = extendable(
            reconciler.observer, list_keys(reconciler.observer.ports), world.targets, until, by_name=True
        )
        assert {one.key.id for one in found} == {a.id, b.id}
    assert left == {}
    assert all(one.by_slug for one in found)
