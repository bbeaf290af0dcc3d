"""The sweep: which keys are orphans, what is done about them, and what it must leave alone."""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from datetime import datetime, timedelta
from math import inf

import pytest
from support.sweeps import SETTLE, orphan, sweeper_of
from support.world import (
    HOUR,
    OWNER,
    VendorClient,
    World,
    afterwards,
    faults,
    lost,
    make_target,
    meanwhile,
    refuse,
    unknown,
)

from rotator.app.passes import troubles
from rotator.cli.output import sweep_lines
from rotator.core.errors import (
    ClockDisagrees,
    ProviderError,
    ProviderRequestRefused,
    ProviderUnavailable,
    StoreUnavailable,
    TooManyOrphans,
)
from rotator.core.events import EventType, Level
from rotator.core.keys import KeyName, ListedKey, ProviderKey, UnreadableKey
from rotator.core.orphans import OrphanState, Outcome
from rotator.core.plan import Plan, Rotate, deadline
from rotator.core.reasons import Reason, State
from rotator.core.request import LOOK, RotationRequest
from rotator.core.versions import RECORD_FIELD
from rotator.protocol.observer import Observer
from rotator.protocol.reconciler import Reconciler
from rotator.protocol.sweeper import Sweeper, SweepReport

LATER = timedelta(minutes=6)
FIRST_KEY = (Rotate(Reason.FIRST, 0),)


def rotated(world: World) -> Reconciler:
    """Return a reconciler that has given every target its first key."""
    reconciler = world.reconciler()
    for target in world.targets:
        assert reconciler.reconcile(target).error is None
    return reconciler


def sweep(world: World, *, after: timedelta = LATER, dry_run: bool = False, max_orphans: int = 10) -> SweepReport:
    """Do what a running process does: sweep twice, then work on the findings."""
    reconciler = world.reconciler("sweeper")
    sweeper = sweeper_of(reconciler, world.targets, max_orphans)
    if after:
        sweeper.sweep(dry_run=True)
        world.clock.advance(after)
    swept = sweeper.sweep(dry_run=dry_run)
    for target in swept.to_work if not dry_run else ():
        reconciler.reconcile(target)
    return swept


def replica(world: World, actor: str) -> Reconciler:
    """A process whose provider may not show keys younger than `SETTLE`."""
    names = frozenset(target.name for target in world.targets)
    return Reconciler(Observer(OWNER, frozenset(), names, world.ports(actor), min_age=SETTLE))


# --- orphans ---------------------------------------------------------------------------------------------------------


def test_an_orphan_is_treated_as_just_superseded_and_its_record_goes_when_that_is_over() -> None:
    world = World()
    rotated(world)
    lonely = orphan(world)
    swept = sweep(world)
    assert [(o.key.id, o.state, o.outcome) for o in swept.orphans] == [
        (lonely.id, OrphanState.TO_SHORTEN, Outcome.SHORTENED)
    ]
    assert lonely.expires_at == swept.orphans[0].until == world.clock.now() + world.target.grace_period
    assert world.vendor.alive(lonely)

    assert [o.state for o in sweep(world).orphans] == [OrphanState.ENDING]

    world.clock.advance(world.target.grace_period)
    assert [o.outcome for o in sweep(world).orphans] == [Outcome.REMOVED]
    assert lonely.revoked
    assert sweep(world).orphans == ()
    assert not world.broken


def test_a_key_that_never_expires_is_shortened_too() -> None:
    world = World()
    rotated(world)
    lonely = orphan(world)
    lonely.expires_at = None
    assert [o.outcome for o in sweep(world).orphans] == [Outcome.SHORTENED]
    assert lonely.expires_at is not None


def test_a_served_key_whose_id_the_provider_uses_again_is_replaced() -> None:
    world = World()
    rotated(world)
    served = world.served()
    assert served is not None
    world.vendor.revoke(served.id)
    later = orphan(world, version=2)
    del world.vendor.keys[later.id]
    later.id = served.id  # as databases do that count on from the largest id
    world.vendor.keys[later.id] = later

    sweep(world)
    current = world.served()
    assert current is not None
    assert current.id != later.id
    assert world.vendor.alive(current)
    assert world.vendor.alive(later)
    world.clock.advance(world.target.grace_period)
    assert [(o.key.name, o.outcome) for o in sweep(world).orphans] == [(later.name, Outcome.REMOVED)]


class WithoutExpiry(VendorClient):
    """A provider whose answers show no expiry: only the id is certain."""

    def pages(self, before: Callable[[], object]) -> Iterator[Sequence[ListedKey]]:
        for page in super().pages(before):
            yield [replace(key, expires_at=None) for key in page if isinstance(key, ProviderKey)]

    def retrieve(self, key_id: str) -> ProviderKey | None:
        key = super().retrieve(key_id)
        return replace(key, expires_at=None) if key else None


def test_an_orphan_without_a_shown_expiry_gets_one_grace_and_not_another_with_each_sweep() -> None:
    world = World()
    rotated(world)
    lonely = orphan(world)
    ports = replace(world.ports("a"), provider=WithoutExpiry(world.vendor, world.wire, "a"))
    sweeper = sweeper_of(Reconciler(Observer(OWNER, frozenset(), frozenset({world.target.name}), ports)), world.targets)
    for _ in range(24):
        sweeper.sweep()
        world.clock.advance(timedelta(minutes=15))
    assert lonely.revoked
    assert len([call for call in world.wire.journal if call.operation == "provider.set_expiry"]) == 1


def test_an_orphan_that_expires_within_a_grace_period_is_left_alone() -> None:
    world = World()
    rotated(world)
    lonely = orphan(world, life=2 * HOUR)
    ends = lonely.expires_at
    assert [o.state for o in sweep(world).orphans] == [OrphanState.ENDING]
    assert lonely.expires_at == ends


def test_a_young_key_may_still_be_on_its_way() -> None:
    world = World()
    rotated(world)
    orphan(world)
    assert [o.state for o in sweep(world, after=timedelta(0)).orphans] == [OrphanState.SETTLING]
    assert [o.state for o in sweep(world, after=SETTLE - timedelta(seconds=1)).orphans] == [OrphanState.SETTLING]
    assert [o.outcome for o in sweep(world, after=SETTLE).orphans] == [Outcome.SHORTENED]


def test_the_history_is_read_after_the_list() -> None:
    """A key that is published while the list is on its way is found in the history."""
    world = World()
    reconciler = rotated(world)
    sweeper = sweeper_of(world.reconciler("sweeper"), world.targets)
    sweeper.sweep(dry_run=True)

    def publishes_meanwhile() -> None:
        reconciler.reconcile(world.target, RotationRequest(rotate=True))
        world.clock.advance(LATER)

    world.at(
        lambda call: call.actor == "sweeper" and call.operation == "provider.page", afterwards(publishes_meanwhile)
    )
    assert sweeper.sweep().orphans == ()
    assert not world.broken


@pytest.mark.parametrize("served", ["shortened", "restored"])
def test_a_superseded_key_is_no_orphan(served: str) -> None:
    world = World()
    reconciler = rotated(world)
    first = world.served()
    assert first
    reconciler.reconcile(world.target, RotationRequest(rotate=True))
    if served == "restored":
        world.store.rollback(world.target.path, 1)
    assert sweep(world).orphans == ()
    assert world.vendor.alive(first)
    assert not world.broken


def test_a_key_that_a_short_history_pushed_out_keeps_a_grace_period() -> None:
    world = World(max_versions=1)
    reconciler = rotated(world)
    first = world.served()
    assert first
    world.at("provider.set_expiry", refuse(unknown("provider.set_expiry")), times=1)
    reconciler.reconcile(world.target, RotationRequest(rotate=True))
    assert [o.outcome for o in sweep(world).orphans] == [Outcome.SHORTENED]
    assert first.expires_at == world.clock.now() + world.target.grace_period
    assert not world.broken


def test_a_list_that_is_older_than_anothers_shortening_prolongs_nothing() -> None:
    """Found by the simulation: a sweep that was frozen after its list would have given the key another grace period."""
    world = World()
    rotated(world)
    lonely = orphan(world)
    frozen = sweeper_of(world.reconciler("frozen"), world.targets)
    frozen.sweep(dry_run=True)
    world.clock.advance(LATER)

    def others_work() -> None:
        sweep(world)
        world.clock.advance(HOUR)

    pages = iter([False, True])
    world.at(
        lambda call: call.actor == "frozen" and call.operation == "provider.page" and next(pages, False),
        afterwards(others_work),
        times=inf,
    )
    assert [o.outcome for o in frozen.sweep().orphans] == [Outcome.LEFT]
    assert lonely.expires_at == world.clock.now() - HOUR + world.target.grace_period


# --- the fence -------------------------------------------------------------------------------------------------------


def test_a_key_that_was_retired_since_the_list_is_no_orphan_and_not_deleted_again() -> None:
    world = World()
    reconciler = rotated(world)
    reconciler.reconcile(world.target, RotationRequest(rotate=True))
    world.clock.advance(world.target.grace_period)
    world.events.clear()
    swept_by = world.reconciler("sweeper")
    world.at(
        lambda call: call.actor == "sweeper" and call.operation == "provider.page",
        afterwards(lambda: reconciler.reconcile(world.target)),
    )
    swept = sweeper_of(swept_by, world.targets).sweep()
    assert (swept.listed, swept.orphans) == (2, ())
    [deleted] = [event for event in world.events if event.what is EventType.KEY_DELETED]
    assert deleted.fields["reason"] == Reason.GRACE_OVER


def test_a_key_for_a_version_to_come_is_fenced_off_first() -> None:
    world = World()
    rotated(world)
    before = world.store.read(world.target.path)
    lonely = orphan(world, version=2)
    other = orphan(world, version=2)
    swept = sweep(world)
    assert [o.outcome for o in swept.orphans] == [Outcome.SHORTENED] * 2
    assert {lonely.expires_at, other.expires_at} == {swept.orphans[0].until}
    assert world.store.current_version(world.target.path) == 2, "one fence for both"
    assert world.store.read(world.target.path) == before
    assert [event.fields["version"] for event in world.events.of(EventType.PATH_FENCED)] == [2]
    assert not sweep(world).to_work, "a fenced path has nothing due"


def test_a_fence_repeats_a_record_of_a_later_version_as_it_is() -> None:
    world = World()
    rotated(world)
    data = world.store.read(world.target.path) or {}
    world.store.patch(world.target.path, **{RECORD_FIELD: f"why=nearly-spent,{data[RECORD_FIELD]}"})
    before = world.store.read(world.target.path)
    orphan(world, version=3)
    assert [o.outcome for o in sweep(world).orphans] == [Outcome.SHORTENED]
    assert world.store.current_version(world.target.path) == 3
    assert world.store.read(world.target.path) == before


def test_the_keys_of_an_emptied_path_are_reported_and_end_once_it_has_a_key_again() -> None:
    """`vault kv metadata delete`: the keys are in no version, and a path that is absent cannot be fenced."""
    world = World(make_target("a"), make_target("b"))
    reconciler = rotated(world)
    old = world.served()
    assert old
    world.store.delete_metadata(world.target.path)
    worker = sweeper_of(world.reconciler("sweeper"), world.targets)
    assert [o.state for o in worker.sweep().orphans] == [OrphanState.SETTLING], "it may be about to become version 1"
    world.clock.advance(LATER)
    since = len(world.wire.journal)
    swept = worker.sweep()
    assert [(o.key.id, o.state, o.outcome) for o in swept.orphans] == [(old.id, OrphanState.EMPTIED, Outcome.LEFT)]
    assert not {"store.write", "provider.set_expiry", "provider.delete"} & {*world.calls(since=since)}
    assert reconciler.reconcile(world.target).rotated
    assert [(o.key.id, o.outcome) for o in worker.sweep().orphans] == [(old.id, Outcome.SHORTENED)]
    assert old.expires_at == world.clock.now() + world.target.grace_period
    assert not world.broken


def test_a_process_that_starts_learns_from_its_sweep_that_a_path_was_emptied() -> None:
    world = World()
    rotated(world)
    world.store.delete_metadata(world.target.path)
    world.clock.advance(LATER)
    starts = world.reconciler("starts")
    assert starts.reconcile(world.target, options=LOOK).plan == Plan(State.MISSING, Reason.FIRST, actions=FIRST_KEY)
    sweeper = sweeper_of(starts, world.targets)
    assert sweeper.sweep().to_work == (), "the provider does not show how old the key is"
    world.clock.advance(LATER)
    assert sweeper.sweep().to_work == world.targets
    looked = starts.reconcile(world.target, options=LOOK)
    assert looked.plan
    assert (looked.plan.state, looked.plan.reason) == (State.MISSING, Reason.EMPTIED)
    assert deadline(looked.plan, world.clock.now()) == world.clock.now(), "a new target can wait, this one cannot"
    [event] = troubles(looked)
    assert (event.what, event.level) == (EventType.PATH_EMPTIED, Level.WARNING)
    assert starts.reconcile(world.target).attempted is Reason.EMPTIED
    assert [*troubles(starts.reconcile(world.target, options=LOOK))] == []


def test_a_process_that_served_a_key_knows_without_a_sweep_that_the_path_was_emptied() -> None:
    world = World()
    reconciler = rotated(world)
    assert reconciler.reconcile(world.target).error is None
    world.store.delete_metadata(world.target.path)
    made = reconciler.reconcile(world.target)
    assert (made.rotated, made.attempted) == (True, Reason.EMPTIED)
    assert [event.what for event in troubles(made)] == [EventType.PATH_EMPTIED]


def test_orphans_of_many_emptied_paths_are_held_when_the_paths_have_new_keys() -> None:
    world = World(*(make_target(f"t{number}") for number in range(12)))
    reconciler = rotated(world)
    old = [*world.vendor.keys.values()]
    ends = [key.expires_at for key in old]
    for target in world.targets:
        world.store.delete_metadata(target.path)
    world.clock.advance(LATER)
    sweeper = sweeper_of(reconciler, world.targets, max_orphans=10)
    emptied = sweeper.sweep()
    assert emptied.error is None
    assert emptied.to_work == world.targets
    for target in world.targets:
        assert reconciler.reconcile(target).attempted is Reason.EMPTIED
    world.clock.advance(LATER)
    held = sweeper.sweep()
    assert isinstance(held.error, TooManyOrphans)
    assert "emptied" in held.error.advice
    assert "until they expire" in held.error.message
    assert [key.expires_at for key in old] == ends
    assert {o.outcome for o in sweeper.sweep(max_orphans=12).orphans} == {Outcome.SHORTENED}
    assert not world.broken


def test_an_emptied_path_without_a_live_key_is_a_new_one() -> None:
    world = World()
    rotated(world)
    world.store.delete_metadata(world.target.path)
    world.clock.advance(25 * HOUR)
    assert sweep(world, dry_run=True).orphans == ()


def test_no_fence_where_the_key_has_missed_its_version() -> None:
    world = World()
    rotated(world)
    orphan(world, version=1)
    assert [o.outcome for o in sweep(world).orphans] == [Outcome.SHORTENED]
    assert world.store.current_version(world.target.path) == 1


def test_a_writer_that_wakes_up_after_the_fence_publishes_nothing() -> None:
    """The publish of a frozen replica lands after the sweep: with its compare-and-set spent it changes nothing."""
    world = World()
    rotated(world)
    served = world.served()
    world.at("store.write", world.delay(unknown("store.write")), times=inf)
    world.reconciler("frozen").reconcile(world.target, RotationRequest(rotate=True))
    world.wire.route = lambda call: call.effect()
    assert [o.outcome for o in sweep(world).orphans] == [Outcome.SHORTENED]
    world.land()
    assert world.served() is served
    assert not world.broken


def test_a_writer_that_wakes_up_before_the_fence_has_its_key_served() -> None:
    world = World()
    rotated(world)
    world.at("store.write", world.delay(unknown("store.write")), times=inf)
    world.reconciler("frozen").reconcile(world.target, RotationRequest(rotate=True))
    world.wire.route = lambda call: call.effect()
    world.at("store.write", meanwhile(world.land))
    swept = sweep(world)
    served = world.served()
    assert served is world.vendor.keys[swept.orphans[0].key.id]
    assert swept.orphans[0].outcome is Outcome.LEFT
    assert served.expires_at == served.granted


def test_a_read_that_is_older_than_the_fence_is_not_believed() -> None:
    """Found by the simulation: an old leader does not know the key yet that the fence itself has just published again.

    The list shows a key that is published at once; a stale history makes it an orphan; the fence, on a fresh read,
    repeats that very key; and another stale read shows it as an orphan still.
    """
    world = World()
    reconciler = rotated(world)
    past = world.store.history(world.target.path, 0.0)
    sweeper = sweeper_of(world.reconciler("sweeper"), world.targets)
    reconciler.reconcile(world.target, RotationRequest(rotate=True))
    served = world.served()
    assert served
    sweeper.sweep(dry_run=True)
    world.clock.advance(LATER)
    reads = iter([True, False, True])
    world.at(
        lambda call: call.actor == "sweeper" and call.operation == "store.history" and next(reads),
        lambda call: replace(past, observed_at=world.clock.monotonic()),
        times=inf,
    )
    swept = sweeper.sweep()
    assert [(o.key.id, o.outcome) for o in swept.orphans] == [(served.id, Outcome.LEFT)]
    assert served.expires_at == served.granted
    assert not world.broken


@pytest.mark.parametrize("kind", ["lost", "unsent", "late", "StoreSealed", "StorePermissionDenied"])
def test_without_a_fence_that_is_known_to_stand_nothing_is_shortened(kind: str) -> None:
    world = World()
    rotated(world)
    lonely = orphan(world, version=2)
    ends = lonely.expires_at
    world.at("store.write", faults(world, "store.write")[kind], times=inf)
    swept = sweep(world)
    assert swept.orphans[0].outcome is Outcome.FAILED
    assert lonely.expires_at == ends
    assert [*swept.failed] == [world.target.name]
    assert not swept.complete
    world.wire.route = lambda call: call.effect()
    assert sweep(world).orphans[0].outcome is Outcome.SHORTENED, "the next sweep tries again"


def test_another_sweeps_fence_is_not_taken_for_our_own() -> None:
    """Found by the simulation: it repeats the same key, and a writer may be about to publish right after it."""
    world = World()
    reconciler = rotated(world)
    path = world.target.path
    past = world.store.history(path, 0.0)
    world.store.put(path, **(world.store.read(path) or {}))  # what the other sweep does
    lonely = orphan(world, version=3)
    ends = lonely.expires_at
    sweeper = sweeper_of(reconciler, world.targets)
    sweeper.sweep(dry_run=True)
    world.clock.advance(LATER)
    reads = iter([False, True])
    world.at(
        lambda call: call.operation == "store.history" and next(reads, False),
        lambda call: replace(past, observed_at=world.clock.monotonic()),
        times=inf,
    )
    assert [o.outcome for o in sweeper.sweep().orphans] == [Outcome.LEFT]
    assert lonely.expires_at == ends
    assert not world.events.of(EventType.PATH_FENCED)


def test_no_fence_over_a_foreign_write() -> None:
    world = World()
    rotated(world)
    lonely = orphan(world, version=2)
    sweeper = sweeper_of(world.reconciler("sweeper"), world.targets)
    sweeper.sweep(dry_run=True)
    world.clock.advance(LATER)
    reads = iter([False, True])  # the comparison's, and the fence's
    world.at(
        lambda call: call.operation == "store.history" and next(reads, False),
        meanwhile(lambda: world.store.put(world.target.path, password="x")),
        times=inf,
    )
    sweeper.sweep()
    assert world.store.read(world.target.path) == {"password": "x"}
    assert (world.events.of(EventType.PATH_FENCED), world.vendor.alive(lonely)) == ([], True)


def test_a_pending_key_of_this_process_is_no_orphan() -> None:
    world = World()
    reconciler = rotated(world)
    world.clock.advance(16 * HOUR)
    world.at("store.write", refuse(unknown("store.write")), times=6)
    reconciler.reconcile(world.target)
    sweeper = sweeper_of(reconciler, world.targets, max_orphans=0)
    sweeper.sweep(dry_run=True)
    world.clock.advance(LATER)
    waiting = world.vendor.keys["tk_0002"]
    ends = waiting.expires_at
    [found] = sweeper.sweep().orphans
    assert (found.key.id, found.state) == (waiting.id, OrphanState.SETTLING)
    assert (waiting.expires_at, world.events.of(EventType.PATH_FENCED)) == (ends, [])
    swept = sweep(world)  # another process's is one: this process does not know it
    assert [o.outcome for o in swept.orphans] == [Outcome.SHORTENED]
    assert reconciler.reconcile(world.target).rotated
    assert world.served() is not waiting


def test_a_pending_key_that_is_no_longer_needed_is_an_orphan() -> None:
    world = World()
    reconciler = rotated(world)
    world.at("store.write", refuse(unknown("store.write")), times=6)
    reconciler.reconcile(world.target, RotationRequest(rotate=True))
    sweeper = sweeper_of(reconciler, world.targets)
    sweeper.sweep(dry_run=True)
    world.clock.advance(LATER)
    assert [orphan.outcome for orphan in sweeper.sweep().orphans] == [Outcome.SHORTENED]


# --- what is left alone ----------------------------------------------------------------------------------------------


def test_more_orphans_than_allowed_are_all_left_alone() -> None:
    world = World(make_target("a"), make_target("b"))
    rotated(world)
    orphans = [orphan(world, target=target) for target in world.targets for _ in range(2)]
    over = orphan(world, life=timedelta(seconds=1))
    ends = [key.expires_at for key in orphans]
    swept = sweep(world, max_orphans=3)
    assert isinstance(swept.error, TooManyOrphans)
    assert {o.outcome for o in swept.orphans} == {Outcome.HELD}
    assert [key.expires_at for key in orphans] == ends
    assert not over.revoked

    assert {o.outcome for o in sweep(world, max_orphans=4).orphans} == {Outcome.SHORTENED, Outcome.REMOVED}


def test_an_extended_orphan_that_an_old_list_shows_as_expired_is_left_alone_at_the_limit() -> None:
    """Found by the simulation (seed 8186): a person extended it, and an old list did not show that."""
    world = World()
    rotated(world)
    over, lonely = orphan(world, life=LATER), orphan(world)
    world.at("provider.retrieve", meanwhile(lambda: setattr(over, "expires_at", world.clock.now() + 48 * HOUR)))
    swept = sweep(world, max_orphans=1)
    assert {o.key.id: o.outcome for o in swept.orphans} == {over.id: Outcome.LEFT, lonely.id: Outcome.SHORTENED}
    assert over.expires_at == world.clock.now() + 48 * HOUR


def test_a_dry_run_changes_nothing() -> None:
    world = World()
    reconciler = rotated(world)
    reconciler.reconcile(world.target, RotationRequest(rotate=True))
    orphan(world, version=9)
    orphan(world, life=timedelta(seconds=1))
    served = world.served()
    assert served
    world.vendor.revoke(served.id)
    before = len(world.wire.journal)
    swept = sweep(world, dry_run=True)
    changing = {"store.write", "store.destroy", "provider.create", "provider.set_expiry", "provider.delete"}
    assert not changing & set(world.calls(since=before))
    assert [o.state for o in swept.orphans] == [OrphanState.TO_SHORTEN, OrphanState.OVER]
    assert swept.to_work == (world.target,)


def test_a_foreign_key_is_reported_and_never_touched() -> None:
    world = World()
    rotated(world)
    removed = make_target("removed")
    place = World(removed).reconciler().observer.scope(removed).place
    gone = world.vendor.issue(str(KeyName(OWNER, "removed", place, 1, "abcdefgh")), world.clock.now() + HOUR)
    theirs = world.vendor.issue(str(KeyName("staging", "removed", place, 1, "abcdefgh")), world.clock.now() + HOUR)
    by_hand = world.vendor.issue("made by hand", None)
    before = [(key.expires_at, key.revoked) for key in (gone, theirs, by_hand)]
    swept = sweep(world)
    assert [key.id for key in swept.unclaimed] == [gone.id]
    assert swept.others == 2
    assert [(key.expires_at, key.revoked) for key in (gone, theirs, by_hand)] == before


@pytest.mark.parametrize(("owner", "is_clear"), [("prod-eu", True), ("prod-eu-west", False), ("prod-eu-", False)])
def test_a_cut_owner_does_not_decide_whose_a_key_is(owner: str, is_clear: bool) -> None:
    world = World()
    reconciler = Reconciler(Observer(owner, frozenset(), frozenset({world.target.name}), world.ports("a")))
    assert reconciler.reconcile(world.target).rotated
    others = world.vendor.issue(str(KeyName(owner, "removed", "a" * 12, 1, "abcdefgh")), world.clock.now() + HOUR)
    groups = [(reconciler.observer, [world.target])]
    swept = Sweeper("respan", groups, reconciler.observer.ports.budget, SETTLE, 10).sweep()
    assert [key.id for key in swept.unclaimed] == ([others.id] if is_clear else [])
    assert [key.id for key in swept.unclear] == ([] if is_clear else [others.id])
    assert swept.others == (0 if is_clear else 1)
    lines = "\n".join(sweep_lines(swept))
    assert ("or belongs to another installation" in lines) is not is_clear
    assert others.id in lines


@pytest.mark.parametrize("deed", ["put", "patch", "delete", "forget"])
def test_nothing_is_touched_while_the_path_is_not_ours(deed: str) -> None:
    world = World()
    rotated(world)
    lonely = orphan(world, version=2)
    ends, path = lonely.expires_at, world.target.path
    if deed == "put":
        world.store.put(path, api_key="theirs")
    elif deed == "patch":
        world.store.patch(path, api_key="theirs")
    elif deed == "delete":
        world.store.delete(path)
    else:
        world.store.delete_metadata(path)
    before = len(world.wire.journal)
    assert {orphan.state for orphan in sweep(world).orphans} <= {OrphanState.EMPTIED}
    assert lonely.expires_at == ends
    if deed in ("put", "patch"):
        assert not {"store.write", "provider.set_expiry", "provider.delete"} & set(world.calls(since=before))


def test_a_clock_that_is_not_trusted_ends_no_key() -> None:
    world = World()
    reconciler = rotated(world)
    reconciler.reconcile(world.target, RotationRequest(rotate=True))
    first = world.vendor.keys["tk_0001"]
    lonely = orphan(world)
    ends = lonely.expires_at
    world.clock.is_trusted = False
    swept = sweep(world)
    assert isinstance(swept.error, ClockDisagrees)
    assert [o.outcome for o in swept.orphans] == [Outcome.HELD]
    assert lonely.expires_at == ends
    world.clock.advance(world.target.grace_period)
    assert reconciler.reconcile(world.target).error is None
    assert not first.revoked, "its grace may not be over"
    world.clock.is_trusted = True
    assert reconciler.reconcile(world.target).error is None
    assert first.revoked


def test_a_clock_that_may_be_ahead_takes_no_grace_for_over() -> None:
    world = World()
    rotated(world)
    lonely = orphan(world, life=LATER - timedelta(seconds=30))
    world.clock.is_ahead = timedelta(minutes=1)
    assert [o.state for o in sweep(world).orphans] == [OrphanState.ENDING]
    assert not lonely.revoked
    world.clock.advance(timedelta(minutes=1))
    assert [o.outcome for o in sweep(world, after=timedelta(0)).orphans] == [Outcome.REMOVED]


# --- served keys that are gone ---------------------------------------------------------------------------------------


def test_a_served_key_that_is_gone_is_replaced() -> None:
    world = World(make_target("a"), make_target("b"))
    rotated(world)
    served = world.served()
    assert served
    world.vendor.revoke(served.id)
    swept = sweep(world)
    assert swept.to_work == (world.target,)
    assert world.events.of(EventType.KEY_PUBLISHED)[-1].fields["reason"] == Reason.MISSING
    now_served = world.served()
    assert now_served
    assert world.vendor.alive(now_served)


def test_a_list_that_lacks_the_served_key_proves_nothing_alone() -> None:
    world = World()
    rotated(world)
    world.at(lambda call: call.operation == "provider.page", lambda call: [], times=inf)
    before = len(world.wire.journal)
    assert sweep(world).to_work == ()
    assert "provider.retrieve" in world.calls(since=before)


def test_a_served_key_that_a_person_shortened_is_restored() -> None:
    world = World()
    rotated(world)
    served = world.served()
    assert served
    assert served.expires_at
    served.expires_at -= 10 * HOUR
    assert sweep(world).to_work == (world.target,)
    assert served.expires_at == served.granted


def test_a_moved_path_rolled_back_to_an_expiring_key_is_repaired() -> None:
    """Its name carries another path, so that it is not prolonged. It must be replaced before it expires."""
    old, new = make_target(path="old/billing"), make_target(path="new/billing")
    world = World(old)
    reconciler = rotated(world)
    world.clock.advance(16 * HOUR)
    assert reconciler.reconcile(old).rotated
    on_its_way = world.vendor.keys["tk_0001"]
    world.store.move(old.path, new.path)
    world.targets = (new,)
    world.store.rollback(new.path, 1)
    assert world.served(new) is on_its_way
    sweep(world)
    served = world.served(new)
    assert served is not None
    assert served is not on_its_way
    assert world.vendor.alive(on_its_way), "applications that have read it keep it for its grace"


def test_a_path_rolled_back_to_an_expiring_key_is_repaired() -> None:
    world = World()
    reconciler = rotated(world)
    first = world.served()
    reconciler.reconcile(world.target, RotationRequest(rotate=True))
    world.store.rollback(world.target.path, 1)
    assert world.served() is first
    sweep(world)
    assert first
    assert first.expires_at == first.granted


def test_a_lost_shortening_is_repeated() -> None:
    world = World()
    reconciler = rotated(world)
    first = world.served()
    assert first
    world.at("provider.set_expiry", lambda call: ProviderKey(call.subject, "", call.arguments[1]))  # and does nothing
    reconciler.reconcile(world.target, RotationRequest(rotate=True))
    assert first.expires_at == first.granted
    sweep(world)
    assert first.expires_at == world.superseded_at(first) + world.target.grace_period  # type: ignore[operator]


# --- when things fail ------------------------------------------------------------------------------------------------


def test_an_incomplete_list_proves_nothing() -> None:
    world = World(make_target("a"), make_target("b"))
    rotated(world)
    lonely = orphan(world)
    ends = lonely.expires_at
    calls = iter([False, True, False, True, False, True, False, True])
    world.at(
        lambda call: call.operation == "provider.page" and next(calls),
        refuse(ProviderUnavailable("the list broke off")),
        times=inf,
    )
    swept = sweep(world)
    assert isinstance(swept.error, ProviderUnavailable)
    assert swept.to_work == ()
    assert lonely.expires_at == ends


@pytest.mark.parametrize("is_fenced", [False, True])
def test_a_new_key_that_the_provider_does_not_show_yet_is_not_missing(is_fenced: bool) -> None:
    world = World()
    world.vendor.shown_after = SETTLE.total_seconds() - 1
    a = replica(world, "a")
    assert a.reconcile(world.target).rotated
    if is_fenced:  # a sweep writes the same data again, and then every pass looks the key up
        world.store.put(world.target.path, **(world.store.read(world.target.path) or {}))
    sweeper = sweeper_of(a, world.targets)
    for _ in range(90):
        for target in sweeper.sweep().to_work:
            a.reconcile(target)
        assert not a.reconcile(world.target).rotated
        world.clock.advance(timedelta(seconds=1))
    assert len(world.vendor.keys) == 1


def test_a_key_that_is_gone_is_replaced_when_it_is_no_longer_young() -> None:
    world = World()
    a = replica(world, "a")
    assert a.reconcile(world.target).rotated
    world.vendor.revoke("tk_0001")
    sweeper = sweeper_of(a, world.targets)
    world.clock.advance(SETTLE - timedelta(seconds=1))
    assert sweeper.sweep().to_work == ()
    world.clock.advance(timedelta(seconds=1))
    assert sweeper.sweep().to_work == (world.target,)
    assert a.reconcile(world.target).rotated


def test_an_unreadable_foreign_entry_stops_nothing() -> None:
    world = World()
    rotated(world)
    lonely = orphan(world)
    for number, name in enumerate(["", "production", "prod-eu.billing-ap.aaaaaaaaaaaa.1.aaaaaaaa"]):
        flaw = "whose expiry_date is true"
        world.vendor.unreadable[f"x{number}"] = UnreadableKey("" if number else f"x{number}", name, flaw)
    swept = sweep(world)
    assert swept.complete
    assert (swept.listed, swept.others) == (5, 2)
    assert [(o.key.id, o.outcome) for o in swept.orphans] == [(lonely.id, Outcome.SHORTENED)]


@pytest.mark.parametrize("what", ["the served key", "an orphan", "one without an id"])
def test_an_unreadable_entry_of_ours_stops_work_on_its_path_and_is_named(what: str) -> None:
    world = World(make_target("a"), make_target("b"))
    rotated(world)
    orphans = [orphan(world, target=target) for target in (*world.targets, world.targets[0])]
    odd = {"the served key": world.served(world.targets[0]), "an orphan": orphans[0]}.get(what)
    name = odd.name if odd else orphans[0].name.replace(".1.", ".7.")
    entry = UnreadableKey(odd.id if odd else "", name, 'whose expiry_date is "soon"')
    world.vendor.unreadable[entry.id] = entry
    since = len(world.wire.journal)
    swept = sweep(world)
    [(target, error)] = swept.failed.items()
    assert target == "a"
    assert f'{entry.id or name}, whose expiry_date is "soon"' in error.message
    assert swept.to_work == ()
    assert swept.error is None
    shortened = {o.key.id for o in swept.orphans if o.outcome is Outcome.SHORTENED}
    assert shortened == {key.id for key in orphans} - {entry.id}
    assert not any(entry.id in call for call in world.calls("provider.", since) if entry.id)
    assert world.served(world.targets[0]) is world.vendor.keys["tk_0001"]


@pytest.mark.parametrize("refusal", [ProviderRequestRefused, ProviderUnavailable])
def test_a_served_key_that_cannot_be_looked_up_does_not_hold_up_the_orphans_of_its_path(
    refusal: type[ProviderError],
) -> None:
    world = World()
    rotated(world)
    served, lonely = world.served(), orphan(world)
    assert served
    served.revoked = True  # the list lacks it, so each sweep asks for it
    world.at(
        lambda call: call.operation == "provider.retrieve" and call.subject == served.id,
        refuse(refusal("the id is refused")),
        times=inf,
    )
    swept = sweep(world)
    assert isinstance(swept.failed[world.target.name], refusal)
    assert swept.to_work == ()
    assert [(o.key.id, o.outcome) for o in swept.orphans] == [(lonely.id, Outcome.SHORTENED)]
    world.clock.advance(world.target.grace_period)
    sweep(world)
    assert lonely.revoked
    assert world.served() is served, "nothing shows that it is gone"


def test_one_path_that_cannot_be_read_does_not_hold_up_the_others() -> None:
    world = World(make_target("a"), make_target("b"))
    rotated(world)
    lonely = orphan(world, target=world.targets[1])
    world.at(
        lambda call: call.operation == "store.history" and call.subject == world.target.path,
        refuse(StoreUnavailable("no answer")),
        times=inf,
    )
    swept = sweep(world)
    assert [*swept.failed] == ["a"]
    assert [(o.key.id, o.outcome) for o in swept.orphans] == [(lonely.id, Outcome.SHORTENED)]
    assert swept.unclaimed == (), "while a path is unknown, a key may be its key"


@pytest.mark.parametrize("operation", ["provider.set_expiry", "provider.delete"])
def test_the_next_sweep_does_what_failed(operation: str) -> None:
    world = World()
    rotated(world)
    lonely = orphan(world, life=24 * HOUR if operation == "provider.set_expiry" else timedelta(seconds=1))
    world.at(operation, lost(unknown(operation)))
    swept = sweep(world)
    assert [o.outcome for o in swept.orphans] == [Outcome.FAILED]
    assert not swept.complete
    again = sweep(world)
    assert again.complete
    assert lonely.revoked or [o.state for o in again.orphans] == [OrphanState.ENDING]


def test_a_sweep_that_has_to_stop_begins_nothing_more() -> None:
    world = World(make_target("a"), make_target("b"))
    reconciler = rotated(world)
    lonely = orphan(world)
    ends = lonely.expires_at
    sweeper = sweeper_of(reconciler, world.targets)
    before = len(world.wire.journal)
    sweeper.sweep(stopping=lambda: True)
    assert set(world.calls(since=before)) == {"provider.page"}
    assert lonely.expires_at == ends


def test_a_provider_without_targets_is_not_asked() -> None:
    world = World()
    assert Sweeper("respan", [], world.reconciler().observer.ports.budget, SETTLE, 10).sweep() == SweepReport("respan")
    assert world.wire.journal == []


def test_a_key_with_a_creation_date_is_old_without_being_watched() -> None:
    world = World()
    rotated(world)
    lonely = orphan(world)
    made = world.clock.now() - LATER
    world.at(
        lambda call: call.operation == "provider.page",
        lambda call: [replace(key, created_at=made) for key in call.effect()],
        times=inf,
    )
    assert [o.outcome for o in sweep(world, after=timedelta(0)).orphans] == [Outcome.SHORTENED]
    assert lonely.expires_at == world.clock.now() + world.target.grace_period


def test_after_a_sweep_a_rotation_costs_three_calls_though_another_process_made_the_key() -> None:
    """The list has shown the served key's name, so no look-up is needed once it is superseded."""
    world = World()
    rotated(world)
    successor = world.reconciler("successor")
    sweeper_of(successor, world.targets).sweep()
    since = len(world.wire.journal)
    successor.reconcile(world.target, RotationRequest(rotate=True))
    world.clock.advance(world.target.grace_period)
    successor.reconcile(world.target)
    assert world.calls("provider.", since) == ["provider.create", "provider.set_expiry", "provider.delete"]
    assert not world.broken


def test_an_old_list_is_not_believed_about_a_key_that_was_rolled_back_to() -> None:
    """It may show the key's expiry from before it was shortened."""
    world = World()
    reconciler = rotated(world)
    first = world.served()
    assert first
    sweeper = sweeper_of(world.reconciler("sweeper"), world.targets)

    def shortens_and_rolls_back() -> None:
        reconciler.reconcile(world.target, RotationRequest(rotate=True))
        world.store.rollback(world.target.path, 1)

    world.at(
        lambda call: call.actor == "sweeper" and call.operation == "provider.page", afterwards(shortens_and_rolls_back)
    )
    sweeper.sweep()
    world.reconciler("sweeper").reconcile(world.target)
    assert world.served() is first
    assert first.expires_at == first.granted


def test_an_old_list_is_not_believed_about_a_superseded_key() -> None:
    """Found by the simulation (seed 5258): it was extended after the list, and its grace was taken for over."""
    world = World()
    reconciler = rotated(world)
    first = world.served()
    assert first

    def extended_and_replaced() -> None:
        first.expires_at = world.clock.now() + 48 * HOUR
        world.clock.advance(25 * HOUR)
        assert reconciler.reconcile(world.target).rotated

    world.at("provider.page", afterwards(extended_and_replaced))
    sweeper_of(reconciler, world.targets).sweep()
    reconciler.reconcile(world.target)
    assert first.expires_at == world.clock.now() + world.target.grace_period
    assert world.vendor.alive(first)


class CountingBudget:
    """A part of the budget."""

    def __init__(self) -> None:
        self.taken = 0

    def take(self, deadline: datetime) -> None:
        self.taken += 1

    def pause(self, seconds: float) -> None: ...


def test_all_requests_of_a_sweep_count_towards_its_share() -> None:
    world = World(*(make_target(f"t{number}") for number in range(5)))
    reconciler = rotated(world)
    for key in [*world.vendor.keys.values()][:2]:
        world.vendor.revoke(key.id)
    since = len(world.wire.journal)
    share = CountingBudget()
    swept = Sweeper("respan", [(reconciler.observer, world.targets)], share, SETTLE, 10).sweep()
    assert len(swept.to_work) == 2
    assert world.calls("budget.", since) == []
    assert share.taken >= len(world.calls("provider.", since)) > 4


def test_without_a_list_whole_histories_are_read() -> None:
    """A sweep finds the older keys of a path in the list. Without a list, the history shows them."""
    world = World()
    world.at("provider.set_expiry", refuse(ProviderUnavailable("no answer")), times=inf)
    rotated(world).reconcile(world.target, RotationRequest(rotate=True))
    world.clock.advance(world.target.grace_period + HOUR)
    reconciler = world.reconciler("fresh")
    reconciler.reconcile(world.target)
    assert len(world.vendor.living()) == 2, "the cheap look has not seen it"
    world.at("provider.page", refuse(ProviderUnavailable("no answer")), times=inf)
    sweeper_of(reconciler, world.targets).sweep()
    reconciler.reconcile(world.target)
    assert world.vendor.living() == [world.served()]


def test_of_a_path_whose_only_key_is_as_it_was_the_newest_version_is_read() -> None:
    world = World(*(make_target(f"t{number}") for number in range(3)))
    reconciler = rotated(world)
    successor = world.reconciler("successor")
    sweeper = sweeper_of(successor, world.targets)
    sweeper.sweep()
    since = len(world.wire.journal)
    assert sweeper.sweep().to_work == ()
    assert len(world.calls("store.", since)) == 3

    one, two, three = world.targets
    lonely = orphan(world, target=one)
    reconciler.reconcile(two, RotationRequest(rotate=True))
    served = world.served(three)
    assert served
    served.expires_at = world.clock.now() + HOUR
    since = len(world.wire.journal)
    world.clock.advance(LATER)
    swept = sweeper.sweep()
    assert [o.key.id for o in swept.orphans] == [lonely.id]
    assert [target.name for target in swept.to_work] == [three.name]
    assert world.calls("store.history", since), "all three were read"


def looked_at(world: World) -> tuple[Reconciler, Sweeper]:
    """A process that has read each path, and has not swept."""
    rotated(world)
    successor = world.reconciler("successor")
    for target in world.targets:
        assert successor.reconcile(target).error is None
    return successor, sweeper_of(successor, world.targets)


def read_since(world: World, since: int) -> set[object]:
    return {call.subject for call in world.wire.journal[since:] if call.operation.startswith("store.")}


def test_the_first_sweep_does_not_repeat_the_first_reads() -> None:
    world = World(*(make_target(f"t{number}") for number in range(4)))
    _, sweeper = looked_at(world)
    one, two, three, four = world.targets
    lonely = orphan(world, target=one)
    world.reconciler().reconcile(two, RotationRequest(rotate=True))
    served = world.served(three)
    assert served
    served.expires_at = world.clock.now() + HOUR
    world.clock.advance(LATER)
    since = len(world.wire.journal)
    swept = sweeper.sweep()
    assert read_since(world, since) == {one.path, two.path, three.path}
    assert [o.key.id for o in swept.orphans] == [lonely.id]
    assert [target.name for target in swept.to_work] == [three.name]
    assert swept.complete

    since = len(world.wire.journal)
    sweeper.sweep()
    assert four.path in read_since(world, since), "only the first sweep relies on a look"


def test_a_change_since_the_first_read_is_found_by_the_second_sweep_at_the_latest() -> None:
    world = World()
    successor, sweeper = looked_at(world)
    world.store.delete_metadata(world.target.path)
    world.clock.advance(LATER)
    assert sweeper.sweep().to_work == ()
    assert sweeper.sweep().to_work == world.targets
    assert successor.observer.memory.is_emptied(world.target)


@pytest.mark.parametrize("spoils", [False, True])
def test_the_first_sweep_counts_a_key_as_missing_that_the_list_lacks_despite_the_recent_read(spoils: bool) -> None:
    world = World(make_target("a"), make_target("b"), make_target("c"))
    _, sweeper = looked_at(world)
    served = world.served(world.targets[0])
    assert served
    if spoils:
        world.vendor.unreadable[served.id] = UnreadableKey(served.id, served.name, 'whose expiry_date is "soon"')
    else:
        served.revoked = True
    since = len(world.wire.journal)
    swept = sweeper.sweep()
    assert read_since(world, since) == {world.targets[0].path}
    assert [target.name for target in swept.to_work] == ([] if spoils else ["a"])
    assert list(swept.failed) == (["a"] if spoils else [])


def test_an_older_snapshot_is_repaired_by_the_next_sweep_of_the_same_process() -> None:
    """The process remembers the state before; the key that the list shows is no longer served."""
    world = World()
    reconciler = rotated(world)
    sweeper, path = sweeper_of(reconciler, world.targets), world.target.path
    snapshot = deepcopy(world.store._versions[path])
    reconciler.reconcile(world.target, RotationRequest(rotate=True))
    world.clock.advance(world.target.grace_period)
    reconciler.reconcile(world.target)
    sweeper.sweep()
    world.store._versions[path] = snapshot
    world.store._counters[path] = 1
    served = world.served()
    assert served
    assert not world.vendor.alive(served)
    swept = sweeper.sweep()
    assert swept.to_work == world.targets
    assert reconciler.reconcile(world.target).attempted is Reason.MISSING
    served = world.served()
    assert served
    assert world.vendor.alive(served)


def test_a_key_under_another_field_beside_its_record_is_no_orphan() -> None:
    """A replica with another `key_field` wrote it, and a person put another value into our field."""
    world = World(max_versions=2)
    rotated(world)
    other = replace(world.target, key_field="other_field")
    world.reconciler("other").reconcile(other, RotationRequest(rotate=True))
    key = world.served(other)
    world.store.patch(world.target.path, api_key="made by hand")
    world.reconciler("ours").reconcile(replace(world.target, adopt=True), RotationRequest(rotate=True, adopt=True))
    swept = sweep(world)
    assert key
    assert key.id not in [orphan.key.id for orphan in swept.orphans]


def test_a_sweep_that_was_stopped_half_way_is_not_complete() -> None:
    world = World(*(make_target(f"t{number}") for number in range(3)))
    reconciler = rotated(world)
    answers = iter([False, True, True, True])
    swept = sweeper_of(reconciler, world.targets).sweep(stopping=lambda: next(answers))
    assert (swept.stopped, swept.complete) == (True, False)
    assert not any(reconciler.observer.memory.newest_may_suffice(target) for target in world.targets), (
        "it proves nothing"
    )
