"""A sweeper over a world in memory, and a key for it to find."""

from collections.abc import Iterable
from datetime import timedelta

from rotator.core.keys import KeyName
from rotator.core.target import Target
from rotator.protocol.reconciler import Reconciler
from rotator.protocol.sweeper import Sweeper
from support.world import HOUR, OWNER, IssuedKey, World

SETTLE = timedelta(minutes=5)


def sweeper_of(reconciler: Reconciler, targets: Iterable[Target], max_orphans: int = 10) -> Sweeper:
    groups = [(reconciler.observer, list(targets))]
    return Sweeper("respan", groups, reconciler.observer.ports.budget, SETTLE, max_orphans)


def orphan(world: World, version: int = 1, target: Target | None = None, life: timedelta = 24 * HOUR) -> IssuedKey:
    """Return a key that was made for a version of a target's path, and that no version holds."""
    target = target or world.target
    place = world.reconciler().observer.scope(target).place
    name = KeyName(OWNER, target.name, place, version, f"orphan{'abcdefgh'[len(world.vendor.keys) % 8]}a")
    return world.vendor.issue(str(name), world.clock.now() + life)
