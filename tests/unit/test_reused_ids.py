"""Providers that give the id of a deleted key to a later one: by its name, no key is taken for another."""

from support.sweeps import SETTLE, orphan, sweeper_of
from support.world import ENDLESS, HOUR, IssuedKey, World, make_target, meanwhile, refuse

from rotator.core.errors import ProviderError, StoreRequestRefused
from rotator.core.orphans import OrphanState, Outcome
from rotator.core.request import RotationRequest
from rotator.protocol.sweeper import Sweeper

ROTATE = RotationRequest(rotate=True, by="person")


def reused(world: World, key: IssuedKey, name: str = "a stranger's") -> IssuedKey:
    """Delete a key by hand, and return another one that has its id."""
    later = world.vendor.issue(name, world.clock.now() + 99 * HOUR)
    del world.vendor.keys[later.id]
    later.id = key.id
    world.vendor.keys[later.id] = later
    world.vendor.made[later.id] = world.clock.monotonic()
    return later


def with_an_old_orphan() -> tuple[World, IssuedKey, Sweeper]:
    """Return a world with an orphan that is no longer young, and the sweeper that has seen it."""
    world = World()
    world.reconciler().reconcile(world.target)
    lonely = orphan(world)
    sweeper = sweeper_of(world.reconciler("sweeper"), world.targets)
    sweeper.sweep(dry_run=True)
    world.clock.advance(SETTLE)
    return world, lonely, sweeper


def test_a_sweep_leaves_the_key_that_has_the_id_of_an_orphan_by_now() -> None:
    world, lonely, sweeper = with_an_old_orphan()
    later: list[IssuedKey] = []
    world.at("provider.retrieve", meanwhile(lambda: later.append(reused(world, lonely))))
    assert sweeper.sweep().orphans == ()
    assert later[0].expires_at == world.clock.now() + 99 * HOUR


def test_the_age_of_an_orphan_is_not_that_of_the_key_that_had_its_id() -> None:
    world, lonely, sweeper = with_an_old_orphan()
    reused(world, lonely, lonely.name[:-1] + "b")
    [found] = sweeper.sweep().orphans
    assert (found.state, found.outcome) == (OrphanState.SETTLING, Outcome.LEFT)


def test_the_key_that_has_the_id_of_a_superseded_one_by_the_end_of_its_grace_is_left() -> None:
    world = World(make_target())
    world.vendor.traits = ENDLESS
    world.reconciler().reconcile(world.target)
    first = world.served()
    assert first is not None
    reconciler = world.reconciler("b")
    reconciler.reconcile(world.target, ROTATE)
    reconciler.reconcile(world.target)
    later = reused(world, first)
    world.clock.advance(world.target.grace_period)
    since = len(world.wire.journal)
    assert reconciler.reconcile(world.target).error is None
    assert world.calls("provider.", since) == ["provider.retrieve"]
    assert world.vendor.alive(later)


def test_a_waiting_key_whose_id_another_key_has_is_not_published() -> None:
    world = World()
    reconciler = world.reconciler()
    world.at("store.write", refuse(StoreRequestRefused("too large")))
    assert reconciler.reconcile(world.target).error
    [waiting] = world.vendor.living()
    reused(world, waiting)
    report = reconciler.reconcile(world.target)
    assert isinstance(report.error, ProviderError)
    assert "is gone or about to expire" in report.error.message
    assert world.served() is None
    reconciler.reconcile(world.target)
    served = world.served()
    assert served is not None
    assert world.vendor.alive(served)
