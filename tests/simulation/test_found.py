"""What the simulation has found, each as a short story."""

from datetime import timedelta

from support.world import HOUR, World, afterwards, make_target, refuse

from rotator.core.errors import StoreUnavailable
from rotator.core.request import RotationRequest
from rotator.protocol.rollback import roll_back


def test_what_a_person_rolled_back_to_is_held_longer_than_a_grace() -> None:
    """`python -m simulation 207 --profile mixed` of the first day."""
    world = World(make_target(grace_period=HOUR))
    reconciler = world.reconciler()
    reconciler.reconcile(world.target)
    world.clock.advance(17 * HOUR)
    reconciler.reconcile(world.target)
    assert world.store.rollback(world.target.path, 1)
    again = world.served()
    for _ in range(6):  # half of the seven hours that it has left are three and a half
        reconciler.reconcile(world.target)
        world.clock.advance(HOUR / 2)
    assert world.served() is again


def test_no_key_is_published_that_was_asked_for_with_an_end_in_the_past() -> None:
    """A clock days behind, which the answer to the create puts right, and a vendor that grants more than was asked."""
    world = World()
    world.clock.wall_jump = -48 * HOUR
    world.vendor.grants = lambda asked: None

    def put_right() -> None:
        world.clock.wall_jump = timedelta(0)

    world.at("provider.create", afterwards(put_right))
    world.reconciler().reconcile(world.target)
    served = world.served()
    assert served is None or world.vendor.alive(served)


def test_a_rollback_does_not_shorten_a_key_that_was_extended() -> None:
    """Its grace may end later than it would have; and the rollback may fail after that."""
    world = World()
    reconciler = world.reconciler()
    reconciler.reconcile(world.target)
    first = world.served()
    assert first
    world.clock.advance(23 * HOUR)
    first.expires_at = world.clock.now() + 24 * HOUR
    reconciler.reconcile(world.target)
    ends = first.expires_at
    assert ends == world.clock.now() + world.target.grace_period
    world.at("store.write", refuse(StoreUnavailable("no answer")))
    roll_back(reconciler, world.target, RotationRequest())
    assert first.expires_at == ends


def test_a_grace_does_not_begin_again_when_the_key_that_was_rolled_back_to_expires() -> None:
    """`python -m simulation 900234 --profile use`."""
    world = World(make_target(grace_period=HOUR))
    reconciler = world.reconciler()
    reconciler.reconcile(world.target)
    world.clock.advance(23 * HOUR + HOUR / 2)
    reconciler.reconcile(world.target, RotationRequest(rotate=True))
    second = world.served()
    assert second
    roll_back(reconciler, world.target, RotationRequest())
    reconciler.reconcile(world.target)
    ends = second.expires_at
    assert ends == world.clock.now() + HOUR
    world.clock.advance(HOUR / 2)  # the key that the path was rolled back to has expired
    reconciler.reconcile(world.target)
    assert world.store.current_version(world.target.path) == 4
    reconciler.reconcile(world.target)
    assert second.expires_at == ends
    world.clock.advance(HOUR / 2)
    reconciler.reconcile(world.target)
    assert second.revoked
    reconciler.reconcile(world.target)
    history = world.store.history(world.target.path, world.clock.monotonic())
    assert [version.number for version in history.versions if version.destroyed] == [1, 2, 3]
