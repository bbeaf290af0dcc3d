"""Providers that cannot set an expiry, and providers whose keys never expire: what is done instead, and what is not."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from support.sweeps import orphan, sweeper_of
from support.world import (
    ENDLESS,
    FIXED,
    HOUR,
    START,
    IssuedKey,
    World,
    afterwards,
    make_target,
    refuse,
)

from rotator.app.passes import served
from rotator.cli.output import report_lines, sweep_lines
from rotator.core.errors import ClockDisagrees, ProviderRequestRefused, ProviderUnavailable, TooManyOrphans
from rotator.core.events import EventType
from rotator.core.orphans import OrphanState, Outcome, by_place
from rotator.core.reasons import Reason, State
from rotator.core.request import RotationRequest
from rotator.core.target import Target
from rotator.core.traits import Traits
from rotator.core.versions import RECORD_FIELD, Record
from rotator.protocol.extend import extendable
from rotator.protocol.observer import list_keys
from rotator.protocol.revoke import revoke_the_unheld
from rotator.protocol.rollback import roll_back
from rotator.protocol.sweeper import Sweeper, SweepReport

GRACE = 4 * HOUR
LATER = timedelta(minutes=6)
ROTATE = RotationRequest(rotate=True, by="person")
REVOKE = RotationRequest(rotate=True, revoke_now=True, by="person")


@pytest.fixture(params=[FIXED, ENDLESS], ids=["no expiry to set", "no expiry"])
def traits(request: pytest.FixtureRequest) -> Traits:
    found: Traits = request.param
    return found


def world_of(traits: Traits, *targets: Target, max_versions: int = 10) -> World:
    world = World(*targets, max_versions=max_versions)
    world.vendor.traits, world.vendor.is_dated = traits, True
    return world


def rotated(world: World, request: RotationRequest = ROTATE, actor: str = "a") -> IssuedKey:
    """The key that a pass has made."""
    report = world.reconciler(actor).reconcile(world.target, request)
    assert (report.error, report.rotated) == (None, True)
    key = world.served()
    assert key is not None
    return key


def recorded_end(world: World) -> datetime:
    """Return the recorded expiry of the served key."""
    record = Record.parse((world.store.read(world.target.path) or {}).get(RECORD_FIELD))
    assert record is not None
    return record.expires_at


def settled(world: World, max_orphans: int = 10) -> Sweeper:
    """The sweeper of a process that has swept once, long enough ago."""
    sweeper = sweeper_of(world.reconciler("sweeper"), world.targets, max_orphans)
    sweeper.sweep(dry_run=True)
    world.clock.advance(LATER)
    return sweeper


def states(swept: SweepReport) -> list[tuple[OrphanState, Outcome]]:
    return [(orphan.state, orphan.outcome) for orphan in swept.orphans]


# --- a superseded key ------------------------------------------------------------------------------------------------


def test_a_superseded_key_works_for_its_whole_grace_and_is_deleted_then(traits: Traits) -> None:
    world = world_of(traits)
    first = rotated(world)
    since = len(world.wire.journal)
    second = rotated(world)
    reconciler = world.reconciler()
    report = reconciler.reconcile(world.target)
    assert report.plan is not None
    assert report.plan.wake_at == START + GRACE
    world.clock.advance(GRACE - timedelta(seconds=1))
    reconciler.reconcile(world.target)
    assert world.vendor.alive(first)
    world.clock.advance(timedelta(seconds=1))
    assert reconciler.reconcile(world.target).error is None
    assert first.revoked
    assert world.vendor.living() == [second]
    assert [e.fields["reason"] for e in world.events.of(EventType.KEY_DELETED)] == [Reason.GRACE_OVER.value]
    assert world.events.of(EventType.KEY_SHORTENED) == []
    assert "provider.set_expiry" not in world.calls(since=since)
    assert not world.broken


def test_a_superseded_key_that_no_process_is_there_to_delete_is_deleted_by_the_next_one(traits: Traits) -> None:
    world = world_of(traits)
    first, second = rotated(world), rotated(world)
    world.clock.advance(12 * HOUR)
    assert world.vendor.alive(first)
    reconciler = world.reconciler("another")
    swept = sweeper_of(reconciler, world.targets).sweep()
    assert swept.to_work == world.targets
    assert reconciler.reconcile(world.target).error is None
    assert world.vendor.living() == [second]
    assert not world.broken


def test_a_key_whose_deletion_failed_is_deleted_by_the_next_sweep(traits: Traits) -> None:
    """Its versions are destroyed by then; the version after them shows that its grace is over."""
    world = world_of(traits)
    first, second = rotated(world), rotated(world)
    world.clock.advance(GRACE)
    world.at("provider.delete", refuse(ProviderUnavailable("down")))
    assert world.reconciler().reconcile(world.target).error
    assert world.vendor.alive(first)
    assert states(settled(world).sweep()) == [(OrphanState.GRACE_OVER, Outcome.REMOVED)]
    assert world.vendor.living() == [second]


# --- a key of another life than asked for ----------------------------------------------------------------------------


def test_the_expiry_asked_for_is_recorded_of_a_key_that_lives_longer() -> None:
    world = world_of(FIXED)
    world.vendor.grants = lambda asked: asked + 7 * HOUR
    key = rotated(world)
    assert recorded_end(world) == START + 24 * HOUR
    assert key.expires_at == START + 31 * HOUR
    assert [call for call in world.calls("provider.") if call != "provider.create"] == []
    assert world.events.of(EventType.KEY_SHORTENED, EventType.KEY_CUT_SHORT) == []


@pytest.mark.parametrize("hours", [7, 24])
def test_an_expiry_that_only_a_look_up_shows_is_recorded(hours: int, monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_of(FIXED)
    world.vendor.grants = lambda asked: asked - (24 - hours) * HOUR

    def without_expiry(call: object) -> object:
        return replace(call.effect(), expires_at=None)  # type: ignore[attr-defined]

    world.at("provider.create", without_expiry)
    rotated(world)
    assert recorded_end(world) == START + hours * HOUR
    assert [call for call in world.calls("provider.") if call != "provider.create"] == ["provider.retrieve"]


def test_a_key_that_never_expires_is_recorded_with_its_ttl_and_one_request_makes_it() -> None:
    world = world_of(ENDLESS)
    key = rotated(world)
    assert key.expires_at is None
    assert recorded_end(world) == START + 24 * HOUR
    assert world.calls("provider.") == ["provider.create"]


# --- a key that never expires ----------------------------------------------------------------------------------------


def test_a_key_that_never_expires_is_due_by_its_age_and_works_while_nothing_replaces_it() -> None:
    world = world_of(ENDLESS)
    reconciler = world.reconciler()
    assert reconciler.reconcile(world.target).rotated
    first = world.served()
    world.clock.advance(16 * HOUR)
    world.at("provider.create", refuse(ProviderUnavailable("down")), times=2)
    for since in (16, 40):
        report = reconciler.reconcile(world.target)
        assert report.plan is not None
        assert (report.plan.state, report.plan.reason) == (State.DUE, Reason.EXPIRING), since
        world.clock.advance(24 * HOUR)
    assert world.served() is first
    assert reconciler.reconcile(world.target).rotated
    assert world.served() is not first
    assert not world.broken


def test_a_key_that_never_expires_is_shown_without_an_end(traits: Traits) -> None:
    world = world_of(traits)
    report = world.reconciler().reconcile(world.target)
    end = "which never expires" if traits is ENDLESS else "until 2026-03-02T12:00:00Z"
    assert [*report_lines(report)] == [f"billing-api: rotated (first): key tk_0001, {end}"]
    assert served(report.plan) == f"the key tk_0001, {end}"


def test_a_sweep_replaces_a_served_key_that_is_gone_however_old_it_is() -> None:
    world = world_of(ENDLESS)
    first = rotated(world)
    world.clock.advance(99 * HOUR)
    world.vendor.revoke(first.id)
    reconciler = world.reconciler("sweeper")
    swept = sweeper_of(reconciler, world.targets).sweep()
    assert swept.to_work == world.targets
    report = reconciler.reconcile(world.target)
    assert (report.attempted, report.rotated) == (Reason.MISSING, True)


def test_the_keys_of_most_targets_that_a_provider_does_not_know_are_left_alone_however_old_they_are() -> None:
    world = world_of(ENDLESS, make_target("one"), make_target("two"))
    for target in world.targets:
        assert world.reconciler().reconcile(target).rotated
    world.clock.advance(99 * HOUR)
    for key in world.vendor.living():
        world.vendor.revoke(key.id)
    assert sweeper_of(world.reconciler("sweeper"), world.targets).sweep().unknown == world.targets


def test_no_key_is_published_that_was_made_by_a_clock_far_behind() -> None:
    """It would have to be replaced at once, and the provider's answer has corrected the clock."""
    world = world_of(ENDLESS)
    world.clock.wall_jump = -30 * HOUR

    def correct_the_clock() -> None:
        world.clock.wall_jump = timedelta(0)

    world.at("provider.create", afterwards(correct_the_clock))
    report = world.reconciler().reconcile(world.target)
    assert isinstance(report.error, ProviderRequestRefused)
    assert "Compare this machine's clock and the provider's" in report.error.advice
    assert world.served() is None
    assert world.vendor.living() == []


# --- rollback --------------------------------------------------------------------------------------------------------


def test_the_previous_key_is_served_again_without_a_change_of_its_expiry(traits: Traits) -> None:
    world = world_of(traits)
    first, second = rotated(world), rotated(world)
    report = roll_back(world.reconciler(), world.target, RotationRequest(by="person"))
    assert (report.error, report.rolled_back) == (None, True)
    assert world.served() is first
    assert world.events.of(EventType.KEY_RESTORED) == []
    world.clock.advance(GRACE)
    assert world.reconciler().reconcile(world.target).error is None
    assert world.vendor.living() == [first]
    assert second.revoked
    assert not world.broken


def test_a_previous_key_that_expires_too_early_is_not_served_again() -> None:
    world = world_of(FIXED)
    first, second = rotated(world), rotated(world)
    first.expires_at = START + HOUR
    report = roll_back(world.reconciler(), world.target, RotationRequest(by="person"))
    assert report.error is not None
    assert report.error.message == (
        f"the previous key {first.id} expires at 2026-03-01T13:00:00Z, which Vendor cannot change; "
        "the served key was left as it is"
    )
    assert world.served() is second


# --- extend ----------------------------------------------------------------------------------------------------------


def test_no_key_is_extended_whose_expiry_cannot_be_set_and_the_error_names_provider_and_key() -> None:
    world = world_of(FIXED)
    key = rotated(world)
    reconciler = world.reconciler()
    found, left = extendable(
        reconciler.observer, list_keys(reconciler.observer.ports), world.targets, START + 48 * HOUR
    )
    assert found == []
    error = left[world.target.name]
    assert isinstance(error, ProviderRequestRefused)
    assert error.message == (
        f"Vendor cannot change the expiry of a key: {key.id} ({key.name}), which expires at 2026-03-02T12:00:00Z"
    )
    assert "`rotator rotate billing-api`" in error.advice
    assert extendable(reconciler.observer, list_keys(reconciler.observer.ports), world.targets, START + HOUR) == (
        [],
        {},
    )


def test_keys_that_never_expire_need_no_extension() -> None:
    world = world_of(ENDLESS)
    rotated(world)
    reconciler = world.reconciler()
    keys = list_keys(reconciler.observer.ports)
    assert extendable(reconciler.observer, keys, world.targets, START + 999 * HOUR) == ([], {})


# --- revoke ----------------------------------------------------------------------------------------------------------


def test_superseded_keys_are_revoked_by_deleting_them(traits: Traits) -> None:
    world = world_of(traits)
    first = rotated(world)
    world.clock.advance(HOUR)
    second = rotated(world, REVOKE)
    assert first.revoked
    assert world.vendor.living() == [second]


def test_a_key_that_no_version_holds_is_revoked_by_deleting_it(traits: Traits) -> None:
    world = world_of(traits)
    leaked = rotated(world)
    world.store.delete(world.target.path)
    reconciler = world.reconciler()
    assert reconciler.reconcile(world.target, REVOKE).error is None
    keys = by_place(list_keys(reconciler.observer.ports))
    assert revoke_the_unheld(reconciler.observer, world.target, keys, REVOKE) is None
    assert leaked.revoked
    assert world.vendor.living() == [world.served()]


# --- orphans ---------------------------------------------------------------------------------------------------------


def endless_orphan(world: World, version: int = 1) -> IssuedKey:
    return orphan(world, version, life=99 * HOUR)


def test_an_orphan_of_a_version_that_others_wrote_has_its_grace_from_that_version(traits: Traits) -> None:
    world = world_of(traits)
    rotated(world)
    lonely = endless_orphan(world)
    sweeper = settled(world)
    swept = sweeper.sweep()
    assert states(swept) == [(OrphanState.IN_GRACE, Outcome.LEFT)]
    assert swept.orphans[0].until == START + GRACE
    [line, _] = sweep_lines(swept)
    assert line.endswith("is deleted when its grace period is over, at 2026-03-01T16:00:00Z")
    world.clock.advance(GRACE - LATER - timedelta(seconds=1))
    assert states(sweeper.sweep()) == [(OrphanState.IN_GRACE, Outcome.LEFT)]
    world.clock.advance(timedelta(seconds=1))
    [line, _] = sweep_lines(sweeper.sweep(dry_run=True))
    assert line.endswith("would be deleted: its grace period is over")
    assert world.vendor.alive(lonely)
    assert states(sweeper.sweep()) == [(OrphanState.GRACE_OVER, Outcome.REMOVED)]
    assert lonely.revoked
    assert [e.fields["reason"] for e in world.events.of(EventType.KEY_DELETED)] == [Reason.ORPHAN.value]
    assert not world.broken


def test_the_grace_of_an_orphan_does_not_begin_again_with_a_process(traits: Traits) -> None:
    world = world_of(traits)
    rotated(world)
    lonely = endless_orphan(world)
    for _ in range(4):
        assert states(settled(world).sweep()) == [(OrphanState.IN_GRACE, Outcome.LEFT)]
        world.clock.advance(HOUR - LATER)
    assert states(settled(world).sweep()) == [(OrphanState.GRACE_OVER, Outcome.REMOVED)]
    assert lonely.revoked


def test_the_grace_of_an_orphan_without_a_date_begins_when_a_process_finds_it(traits: Traits) -> None:
    """The path may have been restored to a state from before the key was made, which has its version, too."""
    world = world_of(traits)
    world.vendor.is_dated = False
    rotated(world)
    lonely = endless_orphan(world)
    world.clock.advance(GRACE)
    sweeper = settled(world)
    [found] = sweeper.sweep().orphans
    assert (found.state, found.until) == (OrphanState.IN_GRACE, world.clock.now() + GRACE)
    world.clock.advance(GRACE)
    assert states(sweeper.sweep()) == [(OrphanState.GRACE_OVER, Outcome.REMOVED)]
    assert lonely.revoked


def test_an_orphan_that_the_next_version_may_still_receive_has_its_grace_from_the_fence(traits: Traits) -> None:
    world = world_of(traits)
    rotated(world)
    lonely = endless_orphan(world, version=2)
    world.clock.advance(12 * HOUR)
    sweeper = settled(world)
    [line, _] = sweep_lines(sweeper.sweep(dry_run=True))
    assert line.endswith("would be deleted after a grace period, after a fence (the served data is written again)")
    fenced_at = world.clock.now()
    swept = sweeper.sweep()
    assert states(swept) == [(OrphanState.IN_GRACE, Outcome.LEFT)]
    assert swept.orphans[0].until == fenced_at + GRACE
    assert len(world.events.of(EventType.PATH_FENCED)) == 1
    world.clock.advance(GRACE - timedelta(seconds=1))
    assert states(sweeper.sweep()) == [(OrphanState.IN_GRACE, Outcome.LEFT)]
    world.clock.advance(timedelta(seconds=1))
    assert states(settled(world).sweep()) == [(OrphanState.GRACE_OVER, Outcome.REMOVED)], "another process"
    assert lonely.revoked
    assert len(world.events.of(EventType.PATH_FENCED)) == 1


def test_a_key_that_a_short_history_pushed_out_has_its_whole_grace(traits: Traits) -> None:
    world = world_of(traits, max_versions=1)
    first = rotated(world)
    world.clock.advance(12 * HOUR)
    rotated(world)
    superseded_at = world.clock.now()
    sweeper = settled(world)
    assert sweeper.sweep().orphans[0].until == superseded_at + GRACE
    world.clock.advance(GRACE - LATER)
    assert states(sweeper.sweep()) == [(OrphanState.GRACE_OVER, Outcome.REMOVED)]
    assert first.revoked
    assert not world.broken


def test_a_rotation_does_not_begin_the_grace_again(traits: Traits) -> None:
    """The version that shows since when is deleted; but the process has seen it."""
    world = world_of(traits, make_target(grace_period=8 * HOUR))
    first = rotated(world)
    world.clock.advance(HOUR)
    rotated(world)
    superseded_at = world.clock.now()
    world.store.delete(world.target.path, 1)
    sweeper = settled(world)
    assert sweeper.sweep().orphans[0].until == superseded_at + 8 * HOUR
    for _ in range(3):
        world.clock.advance(2 * HOUR)
        rotated(world)
        assert superseded_at + 8 * HOUR in [orphan.until for orphan in sweeper.sweep().orphans]
        assert world.vendor.alive(first)
    world.store.destroy(world.target.path, 2, 3)
    world.clock.advance(2 * HOUR)
    sweeper.sweep()
    assert first.revoked
    assert not world.broken


def test_each_rotation_begins_the_grace_again_where_the_history_is_one_version_long(traits: Traits) -> None:
    """The version before may have held the key."""
    world = world_of(traits, max_versions=1)
    first = rotated(world)
    rotated(world)
    sweeper = settled(world)
    sweeper.sweep()
    world.clock.advance(HOUR)
    rotated(world)
    swept = sweeper.sweep()
    assert {o.until for o in swept.orphans if o.key.id == first.id} == {world.clock.now() + GRACE}


def test_an_orphan_far_ahead_is_deleted_a_grace_after_the_process_found_it(traits: Traits) -> None:
    """As after the path was restored to an older state: its versions do not show when that was."""
    world = world_of(traits)
    rotated(world)
    lonely = endless_orphan(world, version=9)
    world.clock.advance(99 * HOUR - LATER if traits is ENDLESS else 2 * HOUR)
    sweeper = settled(world)
    found_at = world.clock.now() - LATER  # `settled` looked then
    swept = sweeper.sweep()
    assert states(swept) == [(OrphanState.IN_GRACE, Outcome.LEFT)]
    assert swept.orphans[0].until == found_at + GRACE
    world.clock.advance(GRACE - LATER - timedelta(seconds=1))
    assert states(sweeper.sweep()) == [(OrphanState.IN_GRACE, Outcome.LEFT)]
    world.clock.advance(timedelta(seconds=1))
    assert states(sweeper.sweep()) == [(OrphanState.GRACE_OVER, Outcome.REMOVED)]
    assert lonely.revoked
    assert world.events.of(EventType.PATH_FENCED) == [], "no writer can publish it next"


def test_what_was_restored_from_before_a_key_was_made_does_not_show_since_when_it_is_superseded(
    traits: Traits,
) -> None:
    world = world_of(traits)
    rotated(world)
    world.clock.advance(12 * HOUR)
    restored = dict(world.store.read(world.target.path) or {})
    lost_key = rotated(world)
    world.store.delete_metadata(world.target.path)
    world.store.put(world.target.path, **restored)
    world.store.versions(world.target.path)[1].created_at = START  # as a snapshot has it
    sweeper = settled(world)
    [found] = [orphan for orphan in sweeper.sweep().orphans if orphan.key.id == lost_key.id]
    assert (found.state, found.until) == (OrphanState.IN_GRACE, world.clock.now() + GRACE)
    assert world.vendor.alive(lost_key)


def test_an_orphan_that_expires_within_a_grace_is_left_to_that() -> None:
    world = world_of(FIXED)
    rotated(world)
    lonely = orphan(world, life=4 * HOUR)
    sweeper = settled(world)
    assert states(sweeper.sweep()) == [(OrphanState.ENDING, Outcome.LEFT)]
    world.clock.advance(4 * HOUR)
    assert states(sweeper.sweep()) == [(OrphanState.OVER, Outcome.REMOVED)]
    assert lonely.revoked


def test_an_orphan_that_a_version_holds_again_is_left_and_then_gets_a_new_grace(traits: Traits) -> None:
    world = world_of(traits)
    first, second = rotated(world), rotated(world)
    world.store.delete(world.target.path, 1)
    sweeper = settled(world)
    assert [o.key.id for o in sweeper.sweep().orphans] == [first.id]
    world.store.undelete(world.target.path, 1)
    assert world.store.rollback(world.target.path, 1)
    assert sweeper.sweep().orphans == ()
    world.clock.advance(GRACE)
    third = rotated(world)
    world.store.delete(world.target.path, 1, 3)
    swept = sweeper.sweep()
    assert {o.key.id: o.until for o in swept.orphans}[first.id] == world.clock.now() + GRACE
    assert world.vendor.alive(first)
    assert second is not third
    assert not world.broken


@pytest.mark.parametrize("version", [1, 2], ids=["past their grace", "that may be published"])
def test_more_orphans_than_the_maximum_are_left_alone(traits: Traits, version: int) -> None:
    targets = [make_target(f"target-{letter}") for letter in "abc"]
    world = world_of(traits, *targets)
    for target in targets:
        assert world.reconciler().reconcile(target).rotated
    lonely = [orphan(world, version, target, life=99 * HOUR) for target in targets]
    sweeper = settled(world, max_orphans=2)
    world.clock.advance(GRACE)
    swept = sweeper.sweep()
    assert isinstance(swept.error, TooManyOrphans)
    assert {orphan.outcome for orphan in swept.orphans} == {Outcome.HELD}
    assert world.events.of(EventType.PATH_FENCED) == []
    assert sweeper.sweep(max_orphans=3).error is None
    assert all(key.revoked for key in lonely) is (version == 1)
    assert len(world.events.of(EventType.PATH_FENCED)) == (0 if version == 1 else 3)


def test_no_orphan_is_deleted_while_the_clock_is_not_trusted(traits: Traits) -> None:
    world = world_of(traits)
    rotated(world)
    lonely = endless_orphan(world)
    world.clock.advance(GRACE)
    sweeper = settled(world)
    world.clock.is_trusted = False
    assert isinstance(sweeper.sweep().error, ClockDisagrees)
    world.clock.is_trusted, world.clock.is_ahead = True, LATER * 2
    assert states(sweeper.sweep()) == [(OrphanState.IN_GRACE, Outcome.LEFT)]
    world.clock.advance(LATER)
    assert states(sweeper.sweep()) == [(OrphanState.GRACE_OVER, Outcome.REMOVED)]
    assert lonely.revoked
