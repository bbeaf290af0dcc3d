"""The memory replaces reads and requests exactly where memory.py allows it. Other tests count what it saves."""

import contextlib
import threading
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from support.world import HOUR, World, only_newest

from rotator.app.passes import in_threads
from rotator.core.expiry import KeyObservation
from rotator.core.keys import KeyName, ProviderKey
from rotator.core.observation import Observation
from rotator.core.reasons import Reason
from rotator.core.request import RotationRequest
from rotator.core.secrets import Secret
from rotator.core.versions import Record
from rotator.protocol.memory import Kept, Memory, PendingKey

ROTATE = RotationRequest(rotate=True)


def rotated(times: int = 1) -> World:
    """A world whose target's newest version is our key number `version`."""
    world = World()
    reconciler = world.reconciler()
    for _ in range(times):
        assert reconciler.reconcile(world.target, ROTATE).rotated
    return world


def whole(world: World) -> Observation:
    """The path as a newcomer reads it, who has asked the provider for nothing."""
    return world.reconciler("reader").observer.observe(world.target)


def newest(world: World) -> Observation:
    """The same, but the newest version alone."""
    observation = whole(world)
    return replace(observation, reading=replace(observation.reading, history=only_newest(observation.history)))


def served(observation: Observation) -> Record:
    assert observation.current
    assert observation.current.record
    return observation.current.record


def in_the_list(record: Record) -> ProviderKey:
    return ProviderKey(record.key_id, record.key_name, record.expires_at)


def remembering(observation: Observation) -> Memory:
    """A memory of one whole look."""
    memory = Memory(is_swept=True)
    memory.recall(observation)
    memory.note_whole(observation)
    return memory


# --- what the provider's list vouches for ---


def test_the_list_shows_a_key_only_as_it_is_recorded_and_as_the_path_may_name_it() -> None:
    observation = whole(rotated())
    record, scope = served(observation), observation.scope
    key, name = in_the_list(record), KeyName.parse(record.key_name)
    assert name
    renamed = str(replace(name, version=2))
    assert scope.owns(renamed)
    elsewhere = replace(scope, places=("another-place",))
    cases = [
        (key, scope, True),
        (replace(key, expires_at=None), scope, True),
        (replace(key, id="tk_9999"), scope, False),
        (replace(key, name=renamed), scope, False),
        (key, elsewhere, False),
        (replace(key, expires_at=record.expires_at - HOUR), scope, False),
    ]
    for listed, own, shown in cases:
        memory = remembering(observation)
        memory.note_listed(observation.target, own, listed)
        assert (record.key_id in memory.recall(observation)) is shown, listed


@pytest.mark.parametrize("what", ["rolled back", "foreign"])
def test_the_list_shows_nothing_of_a_path_that_does_not_serve_what_was_made_for_it(what: str) -> None:
    world = rotated(2)
    before = whole(world)
    memory = remembering(before)
    if what == "foreign":
        world.store.put(world.target.path, api_key="theirs")
        key = in_the_list(served(before))
    else:
        assert world.store.rollback(world.target.path, 1)
        key = in_the_list(served(whole(world)))
    memory.recall(whole(world))
    memory.note_listed(world.target, before.scope, key)
    assert not memory.recall(whole(world))


def test_a_key_that_the_list_has_shown_counts_as_not_looked_at_while_it_is_served() -> None:
    observation = whole(rotated())
    record, memory = served(observation), remembering(observation)
    key = in_the_list(record)
    memory.note_listed(observation.target, observation.scope, key)
    assert memory.recall(observation) == {record.key_id: KeyObservation(key, at_version=0)}
    shorter = replace(key, expires_at=record.expires_at - HOUR)
    memory.note(observation, record.key_id, shorter)
    assert memory.recall(observation) == {record.key_id: KeyObservation(shorter, at_version=1)}


def test_the_providers_answer_about_a_key_is_kept_as_long_as_the_key_and_passed_to_successors() -> None:
    observation = whole(rotated())
    memory = remembering(observation)
    memory.note(observation, served(observation).key_id, None)
    memory.note(observation, "tk_9999", None)
    successor = Memory(memory.kept)
    assert successor.recall(observation) == {served(observation).key_id: KeyObservation(None, at_version=1)}
    assert not successor.newest_may_suffice(observation.target), "what the path holds is not passed on"
    successor.recall(whole(World()))
    assert memory.recall(observation) == {}


class Slow(dict[str, PendingKey]):
    """Where two who look at the same time both find it."""

    def __init__(self, pending: PendingKey, name: str) -> None:
        super().__init__({name: pending})
        self.looking = threading.Barrier(2)

    def get(self, name: str, default: Any = None) -> Any:
        found = super().get(name, default)
        with contextlib.suppress(threading.BrokenBarrierError):
            self.looking.wait(0.5)
        return found


def test_what_became_of_a_pending_key_is_reported_once_by_all_that_share_it() -> None:
    """A pass of before a reload and the first sweep after it both see that the write has landed."""
    observation = whole(rotated())
    record, name = served(observation), observation.target.name
    pending = PendingKey("respan", 0, record, Secret("key"), Reason.FIRST, ROTATE, unsettled=True)
    kept = Kept(pending=Slow(pending, name))
    assert observation.current is not None

    def looked(memory: Memory) -> tuple[PendingKey, int] | None:
        memory.settle(observation, whole=True)
        return memory.take_landed(observation.target)

    found = in_threads(2, [Memory(kept), Memory(kept)], looked)
    assert sorted(found, key=bool) == [None, (pending, observation.current.number)]
    assert kept.pending == {}


# --- when the newest version alone is enough ---


@pytest.mark.parametrize("is_swept", [True, False])
@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("age", [HOUR, 5 * HOUR])
def test_of_an_unread_path_only_a_version_of_a_good_age_does(is_swept: bool, trusted: bool, age: timedelta) -> None:
    world = rotated()
    world.clock.advance(age)
    world.clock.is_trusted = trusted
    memory, now = Memory(is_swept=is_swept), world.clock.now()
    enough = is_swept and trusted and age > world.target.grace_period
    assert memory.newest_may_suffice(world.target) is is_swept
    assert memory.newest_suffices(newest(world), now) is enough
    world.clock.is_trusted = False
    assert memory.newest_suffices(newest(world), now) is enough, "and then it is as good as read"


def test_of_a_path_that_was_read_only_that_version_does_and_only_if_nothing_else_was_there() -> None:
    world = rotated()
    now = world.clock.now()
    alone, first = remembering(whole(world)), newest(world)
    assert alone.newest_may_suffice(world.target)
    assert alone.newest_suffices(first, now)
    world.reconciler().reconcile(world.target, ROTATE)
    assert not alone.newest_suffices(newest(world), now), "another version"
    beside = remembering(whole(world))
    assert not beside.newest_may_suffice(world.target), "a superseded key"
    assert not beside.newest_suffices(newest(world), now)
    alone.require_whole(world.target)
    assert not alone.newest_may_suffice(world.target)
    assert not alone.newest_suffices(first, now)


def test_a_version_that_its_key_was_not_made_for_does_not() -> None:
    world = rotated()
    data = world.store.read(world.target.path)
    assert data
    world.store.put(world.target.path, **data)  # as a fence does
    world.clock.advance(5 * HOUR)
    for memory in (remembering(whole(world)), Memory(is_swept=True)):
        assert memory.newest_may_suffice(world.target)
        assert not memory.newest_suffices(newest(world), world.clock.now())


def test_after_a_sweep_that_did_not_get_to_the_end_nothing_does() -> None:
    world = rotated()
    world.clock.advance(5 * HOUR)
    memory = remembering(whole(world))
    memory.swept(complete=False)
    assert not memory.newest_may_suffice(world.target)
    assert not memory.newest_suffices(newest(world), world.clock.now())
    memory.swept(complete=True)
    assert memory.newest_may_suffice(world.target)
    assert memory.newest_suffices(newest(world), world.clock.now())
