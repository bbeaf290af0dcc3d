"""Break glass, in a world of memory: what is told of each key that lives longer."""

from support.world import HOUR, OWNER, START, World

from rotator.events import Level, What
from rotator.extend import living
from rotator.model import timestamp
from rotator.rotate import listed


def test_each_key_that_lives_longer_is_told_with_the_reason_and_who_asked() -> None:
    world = World()
    executor = world.executor()
    assert executor.reconcile(world.target).rotated
    [key] = world.vendor.keys.values()
    until = START + 48 * HOUR
    [found] = living(executor, listed(executor.ports), {OWNER}, world.targets, until)
    assert found.extend(until, "an outage") is None
    assert key.expires_at == until
    [told] = world.told(What.KEY_EXTENDED)
    assert (told.target, told.level) == (world.target.name, Level.INFO)
    assert told.fields == {
        "key_id": key.id,
        "key_name": key.name,
        "reason": "extended",
        "expires_at": timestamp(until),
        "by": "command",
        "note": "an outage",
    }
    assert living(executor, listed(executor.ports), {OWNER}, world.targets, until) == [], "it lives so long already"
