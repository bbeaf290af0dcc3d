"""What the simulation has found and rotator does not do yet, each as short as it can be told."""

from datetime import timedelta

import pytest
from support.world import HOUR, World, afterwards, make_target, refuse

from rotator.errors import StoreUnavailable
from rotator.plan import Order


@pytest.mark.xfail(strict=True, reason="the hold hangs on the version before, which goes when that key's grace is over")
def test_what_a_person_rolled_back_to_is_held_longer_than_a_grace() -> None:
    """`python -m simulation 207 --profile mixed` of the first day."""
    world = World(make_target(grace_period=HOUR))
    executor = world.executor()
    executor.reconcile(world.target)
    world.clock.advance(17 * HOUR)
    executor.reconcile(world.target)
    assert world.store.rollback(world.target.path, 1)
    again = world.served()
    for _ in range(6):  # half of the seven hours that it has left are three and a half
        executor.reconcile(world.target)
        world.clock.advance(HOUR / 2)
    assert world.served() is again


@pytest.mark.xfail(strict=True, reason="only an earlier end than asked is compared with the time")
def test_no_key_is_published_that_was_asked_for_with_an_end_in_the_past() -> None:
    """A clock days behind, which the answer to the create puts right, and a vendor that grants more than was asked."""
    world = World()
    world.clock.wall_jump = -48 * HOUR
    world.vendor.grants = lambda asked: None

    def put_right() -> None:
        world.clock.wall_jump = timedelta(0)

    world.at("provider.create", afterwards(put_right))
    world.executor().reconcile(world.target)
    served = world.served()
    assert served is None or world.vendor.alive(served)


@pytest.mark.xfail(
    strict=True, reason="what is remembered of a superseded key is not looked up before it is given an end"
)
def test_a_revoked_key_is_not_prolonged_by_a_replica_that_remembers_it() -> None:
    """`rotate --revoke-now` dies after it has shortened the key; the daemon that made it goes on."""
    world = World()
    daemon = world.executor("daemon")
    daemon.reconcile(world.target)
    revoked = world.served()
    assert revoked is not None
    world.at("store.destroy", refuse(StoreUnavailable("no answer")))
    world.executor("cli").reconcile(world.target, Order(rotate=True, revoke_now=True, by="person"))
    ends = revoked.expires_at
    assert ends is not None
    assert ends < world.clock.now() + HOUR
    daemon.reconcile(world.target)
    assert revoked.expires_at == ends
