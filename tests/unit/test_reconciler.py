"""The protocol, by attempts to break it: every call of a target's life refused, lost, late, interrupted or raced."""

import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from math import inf
from typing import Any

import pytest
from support.world import (
    CHANGES,
    HOUR,
    OWNER,
    START,
    Call,
    Fault,
    IssuedKey,
    World,
    afterwards,
    faults,
    lost,
    make_target,
    meanwhile,
    only_newest,
    refusals,
    refuse,
    unknown,
)

from rotator.cli.output import report_lines
from rotator.core.errors import (
    CasMismatch,
    ProviderCredentialRefused,
    ProviderKeyNotAccepted,
    ProviderOutcomeUnknown,
    ProviderRateLimited,
    ProviderRequestRefused,
    ProviderUnavailable,
    StoreOutcomeUnknown,
    StorePermissionDenied,
    StoreSealed,
    StoreUnavailable,
)
from rotator.core.events import EventType, Level
from rotator.core.keys import CreatedKey, KeyName
from rotator.core.plan import NEWCOMER, REVOKED_WITHIN
from rotator.core.reasons import Reason, State
from rotator.core.renewal import TIDYING, Renewal
from rotator.core.request import PassOptions, RotationRequest
from rotator.core.secrets import Secret
from rotator.core.target import Target
from rotator.core.times import timestamp
from rotator.core.versions import RECORD_FIELD, Record, compose
from rotator.protocol.observer import MAX_AGE, MAX_READ, Observer
from rotator.protocol.publish import WAITS
from rotator.protocol.reconciler import Reconciler, Report
from rotator.protocol.rollback import roll_back
from rotator.protocol.rotation import PROBE_WAITS, UNPUBLISHED
from rotator.protocol.sweeper import Sweeper

MINUTE = timedelta(minutes=1)
FORCED = RotationRequest(rotate=True, by="tester", comment="why not")
READS = ["store.history"]
ROTATION = ["store.history", "store.preflight", "provider.create", "probe", "store.write"]


def running(world: World, actor: str = "a") -> Reconciler:
    """Return a process that has made the target's first key, and still runs."""
    reconciler = world.reconciler(actor)
    assert reconciler.reconcile(world.target).rotated
    return reconciler


def by_id(world: World, number: int) -> IssuedKey:
    return world.vendor.keys[f"tk_{number:04}"]


def record_of(world: World) -> Record:
    record = Record.parse((world.store.read(world.target.path) or {})[RECORD_FIELD])
    assert record is not None
    return record


def assert_shows_no_key(world: World, reports: list[Report]) -> None:
    """Check that no event, report or error, with its causes, holds a key's text."""
    errors = [report.error for report in reports if report.error]
    texts = repr(world.events) + repr(reports) + "".join("".join(traceback.format_exception(e)) for e in errors)
    assert not [key.id for key in world.vendor.keys.values() if key.text in texts]


def assert_served(world: World) -> None:
    served = world.served()
    assert served is not None
    assert world.vendor.alive(served)


def settle(world: World, passes: int = 3) -> list[Report]:
    """All delayed calls arrive, the faults end, and a new process makes a few passes."""
    world.land()
    fresh = world.reconciler("fresh")
    reports = []
    for _ in range(passes):
        world.clock.advance(10 * MINUTE)
        reports.append(fresh.reconcile(world.target))
    return reports


# --- nothing goes wrong ---


def test_a_rotation_costs_a_create_a_shortening_and_a_delete_and_nothing_more() -> None:
    world = World()
    a = world.reconciler()
    steps: list[tuple[timedelta, list[str]]] = [
        (0 * HOUR, ["store.location", *ROTATION]),
        (1 * HOUR, READS),
        (15 * HOUR, [*ROTATION, "provider.set_expiry"]),
        (0 * HOUR, READS),
        (4 * HOUR - MINUTE, READS),
        (1 * MINUTE, ["store.history", "store.destroy", "store.history", "provider.delete"]),
        (0 * HOUR, READS),
    ]
    for wait, calls in steps:
        world.clock.advance(wait)
        since = len(world.wire.journal)
        report = a.reconcile(world.target)
        assert world.calls(since=since) == calls
        assert len(world.calls("budget.take", since)) == len(world.calls("provider.", since))
        assert report.error is None
        assert report.plan is not None
        assert report.plan.state is State.OK
        assert_served(world)
    assert world.broken == []
    assert world.served() is by_id(world, 2)
    assert a.observer.memory.seen[world.target.name].keys() == {"tk_0002"}  # what is known of others is forgotten
    assert world.vendor.living() == [by_id(world, 2)]
    assert world.store.versions(world.target.path)[1].destroyed
    assert [event.what for event in world.events] == [
        EventType.KEY_CREATED,
        EventType.KEY_PUBLISHED,
        EventType.KEY_CREATED,
        EventType.KEY_PUBLISHED,
        EventType.KEY_SHORTENED,
        EventType.VERSIONS_DESTROYED,
        EventType.KEY_DELETED,
    ]


def test_the_published_version_holds_the_key_its_record_and_the_configured_fields() -> None:
    world = World()
    report = running(world).reconcile(world.target)
    key = by_id(world, 1)
    assert world.store.read(world.target.path) == {
        "api_key": key.text,
        "base_url": "https://api.respan.ai",
        RECORD_FIELD: record_of(world).format(),
    }
    assert (record_of(world).key_id, record_of(world).key_name) == (key.id, key.name)
    assert record_of(world).expires_at == key.expires_at == START + 24 * HOUR
    assert report.plan is not None
    assert report.plan.wake_at == START + 16 * HOUR


def test_a_superseded_key_works_until_its_grace_is_over_and_expires_without_help() -> None:
    world = World()
    a = running(world)
    world.clock.advance(16 * HOUR)
    a.reconcile(world.target)
    assert by_id(world, 1).expires_at == world.clock.now() + 4 * HOUR


def test_a_new_program_looks_an_old_key_up_before_it_shortens_it() -> None:
    world = World()
    running(world)
    world.clock.advance(16 * HOUR)
    since = len(world.wire.journal)
    report = world.reconciler().reconcile(world.target)
    assert world.calls(since=since) == [
        "store.location",
        *ROTATION,
        "provider.retrieve",
        "provider.set_expiry",
    ]
    assert (report.rotated, report.attempted, report.error) == (True, Reason.EXPIRING, None)


def test_a_request_is_logged_in_the_events_and_done_once() -> None:
    world = World()
    a = running(world)
    report = a.reconcile(world.target, FORCED)
    assert (report.rotated, report.attempted) == (True, Reason.REQUESTED)
    assert report.plan is not None
    assert report.plan.state is State.OK
    assert world.store.current_version(world.target.path) == 2
    for event in world.events[2:]:
        assert (event.fields["by"], event.fields["comment"]) == ("tester", "why not")
    assert not a.reconcile(world.target).rotated


def test_foreign_fields_are_carried_over_and_their_versions_are_kept() -> None:
    world = World()
    path = world.target.path
    a = running(world)
    world.store.patch(path, note="keep me")
    assert a.reconcile(world.target, FORCED).error is None
    assert (world.store.read(path) or {})["note"] == "keep me"
    world.clock.advance(4 * HOUR)
    assert a.reconcile(world.target).error is None
    assert [v.number for v in world.store.versions(path).values() if v.destroyed] == [1]
    assert not world.vendor.alive(by_id(world, 1))
    since = len(world.wire.journal)
    a.reconcile(world.target)
    assert world.calls(since=since) == READS  # version 2 still holds the text of an expired key, and nothing else


def test_a_renamed_field_is_rolled_out_and_the_old_one_goes() -> None:
    world = World()
    running(world)
    renamed = replace(world.target, key_field="token")
    a = world.reconciler()
    waiting = a.reconcile(renamed, options=PassOptions(roll_out_at=START + HOUR))
    assert not waiting.rotated
    assert waiting.plan is not None
    assert waiting.plan.wake_at == START + HOUR
    world.clock.advance(HOUR)
    assert a.reconcile(renamed, options=PassOptions(roll_out_at=START + HOUR)).attempted is Reason.DRIFTED
    assert (world.store.read(renamed.path) or {}).keys() == {"token", "base_url", RECORD_FIELD}
    assert world.served(renamed) is by_id(world, 2)


def test_a_drifted_target_without_a_roll_out_is_rotated_at_once() -> None:
    world = World()
    a = running(world)
    changed = replace(world.target, ttl=12 * HOUR, renew_before=HOUR, grace_period=HOUR)
    assert a.reconcile(changed).attempted is Reason.DRIFTED
    assert by_id(world, 2).expires_at == START + 12 * HOUR
    assert not a.reconcile(changed).rotated


def test_a_former_owners_keys_are_taken_over() -> None:
    world = World()
    running(world)
    world.clock.advance(16 * HOUR)
    names = frozenset({world.target.name})
    heir = Reconciler(Observer("new-eu", frozenset({OWNER}), names, world.ports("heir")))
    assert heir.reconcile(world.target).rotated
    assert record_of(world).owner == "new-eu"
    world.clock.advance(4 * HOUR)
    heir.reconcile(world.target)
    assert world.vendor.living() == [world.served()]
    assert world.broken == []


def test_a_path_whose_metadata_was_deleted_gets_version_1_again() -> None:
    world = World()
    a = running(world)
    world.store.delete_metadata(world.target.path)
    assert a.reconcile(world.target).attempted is Reason.EMPTIED
    assert world.store.current_version(world.target.path) == 1
    assert world.served() is by_id(world, 2)


@pytest.mark.parametrize("max_versions", [1, 2, 10])
def test_a_short_history_ends_no_key_before_its_time(max_versions: int) -> None:
    world = World(max_versions=max_versions)
    a = running(world)
    for hour in range(100):
        world.clock.advance(HOUR)
        assert a.reconcile(world.target, FORCED if hour % 7 == 0 else RotationRequest()).error is None
        assert_served(world)
    assert world.broken == []


# --- foreign paths ---


@pytest.mark.parametrize(
    "spoil",
    [
        lambda world: world.store.put(world.target.path, password="x"),
        lambda world: world.store.put(world.target.path, api_key="by hand"),
        lambda world: world.store.patch(world.target.path, api_key="by hand"),
        lambda world: world.store.put(
            world.target.path,
            **(world.store.read(world.target.path) or {})
            | {RECORD_FIELD: replace(record_of(world), owner="staging").format()},
        ),
    ],
)
def test_a_foreign_path_is_only_read(spoil: Callable[[World], object]) -> None:
    world = World()
    a = running(world)
    a.reconcile(world.target, FORCED)
    spoil(world)
    data = world.store.read(world.target.path)
    for reconciler in (a, world.reconciler("fresh")):
        for request in (RotationRequest(), FORCED, RotationRequest(rotate=True, revoke_now=True)):
            world.clock.advance(10 * HOUR)
            since = len(world.wire.journal)
            report = reconciler.reconcile(world.target, request)
            assert report.plan is not None
            assert report.plan.state is State.FOREIGN
            assert [name for name in world.calls(since=since) if name != "store.location"] == READS
    assert world.store.read(world.target.path) == data


def test_a_foreign_path_is_adopted_when_a_person_asks() -> None:
    world = World()
    a = world.reconciler()
    world.store.put(world.target.path, api_key="theirs", base_url="theirs", note="x")
    assert not a.reconcile(world.target).rotated
    report = a.reconcile(world.target, RotationRequest(adopt=True))
    assert (report.rotated, report.attempted) == (True, Reason.ADOPTED)
    assert report.plan is not None
    assert report.plan.state is State.OK
    data = world.store.read(world.target.path) or {}
    assert (data["note"], data["base_url"]) == ("x", "https://api.respan.ai")
    assert_served(world)


def beside_a_victim() -> tuple[World, Reconciler, IssuedKey]:
    """Two targets, each with its key; an attacker who can write the first path is after the second key."""
    victim_target = make_target("search")
    world = World(make_target(), victim_target)
    a = running(world)
    a.reconcile(victim_target)
    victim = world.served(victim_target)
    assert victim is not None
    return world, a, victim


def test_a_key_that_is_not_ours_is_never_touched_whatever_the_record_holds() -> None:
    world, a, victim = beside_a_victim()
    # The attacker makes a foreign key look like a superseded one of ours, and then like the served one.
    forged = replace(record_of(world), key_id=victim.id)
    data = world.store.read(world.target.path) or {}
    world.store.put(world.target.path, **data | {RECORD_FIELD: forged.format()})
    world.store.rollback(world.target.path, 1)
    for reconciler in (a, world.reconciler("fresh")):
        for request in (RotationRequest(), RotationRequest(rotate=True, revoke_now=True)):
            world.clock.advance(HOUR)
            reconciler.reconcile(world.target, request)
    world.clock.advance(13 * HOUR)
    a.reconcile(world.target)
    touched = {call.subject for call in world.wire.journal if call.operation in CHANGES}
    assert victim.id not in touched
    assert world.vendor.alive(victim)


def test_a_key_is_known_by_its_name_at_the_provider_and_not_by_its_record() -> None:
    world = World()
    a = running(world)
    renamed = replace(record_of(world), key_name="renamed")
    world.store.patch(world.target.path, **{RECORD_FIELD: renamed.format()})
    assert a.reconcile(world.target, FORCED).error is None
    assert by_id(world, 1).expires_at == START + 4 * HOUR
    world.clock.advance(4 * HOUR)
    a.reconcile(world.target)
    assert by_id(world, 1).revoked


def test_a_short_budget_serves_first_the_target_whose_key_expires_first() -> None:
    def urgencies(since: int) -> list[tuple[str, object]]:
        calls = [call for call in world.wire.journal[since:] if call.operation.startswith(("budget", "provider"))]
        return [(then.operation, paid.arguments[0]) for paid, then in zip(calls[::2], calls[1::2], strict=True)]

    world = World()
    a = running(world)
    assert urgencies(0) == [("provider.create", START + NEWCOMER)]
    since = len(world.wire.journal)
    world.clock.advance(16 * HOUR)
    a.reconcile(world.target)
    first, second = by_id(world, 1).granted, by_id(world, 2).granted
    assert urgencies(since) == [("provider.create", first), ("provider.set_expiry", second)]
    since = len(world.wire.journal)
    world.reconciler("fresh").reconcile(world.target)
    assert urgencies(since) == [("provider.retrieve", TIDYING)]
    since = len(world.wire.journal)
    world.clock.advance(4 * HOUR)
    a.reconcile(world.target)
    assert urgencies(since) == [("provider.delete", TIDYING)]
    a.reconcile(world.target, FORCED)
    world.store.rollback(world.target.path, 2)
    since = len(world.wire.journal)
    world.reconciler("fresh").reconcile(world.target)
    assert urgencies(since)[0] == ("provider.retrieve", second), "it is served, and may be about to expire"


# --- preflight ---


@pytest.mark.parametrize("error", refusals("store.preflight"), ids=lambda error: type(error).__name__)
def test_no_key_is_made_when_the_store_would_refuse_it(error: Exception) -> None:
    world = World()
    a = running(world)
    world.clock.advance(16 * HOUR)
    world.at("store.preflight", refuse(error), times=inf)
    for _ in range(5):
        report = a.reconcile(world.target)
        assert report.error is error
        assert not report.rotated
    assert len(world.vendor.keys) == 1
    assert_served(world)


def test_the_preflight_is_as_long_as_the_publish_and_holds_no_key() -> None:
    world = World()
    running(world)
    [proven] = [call.arguments[1] for call in world.wire.journal if call.operation == "store.preflight"]
    [written] = [call.arguments[1] for call in world.wire.journal if call.operation == "store.write"]
    assert proven.keys() == written.keys()
    assert all(len(proven[name]) >= len(written[name]) for name in written)


# --- publish ---


def test_a_write_that_landed_without_an_answer_is_settled() -> None:
    world = World()
    a = world.reconciler()
    world.at("store.write", lost(unknown("store.write")))
    report = a.reconcile(world.target)
    assert (report.rotated, report.error) == (True, None)
    assert len(world.vendor.keys) == 1
    assert_served(world)


@pytest.mark.parametrize("times", range(1, 6))
def test_a_write_that_did_not_land_is_repeated(times: int) -> None:
    world = World()
    world.at("store.write", refuse(unknown("store.write")), times=times)
    report = world.reconciler().reconcile(world.target)
    assert (report.rotated, report.error) == (True, None)
    writes = [call.arguments for call in world.wire.journal if call.operation == "store.write"]
    assert len(writes) == times + 1
    assert all(write == writes[0] for write in writes)
    assert_served(world)


def test_a_key_whose_write_may_still_land_is_left_alone_and_lives_when_it_lands() -> None:
    world = World()
    a = running(world)
    world.clock.advance(16 * HOUR)
    world.at("store.write", refuse(unknown("store.write")), times=5)
    world.at("store.write", world.delay(unknown("store.write")))
    report = a.reconcile(world.target)
    assert isinstance(report.error, StoreOutcomeUnknown)
    assert not report.rotated
    assert world.events.of(EventType.KEY_NOT_REMOVED)
    assert world.vendor.alive(by_id(world, 2))
    world.clock.advance(10 * MINUTE)
    world.land()
    assert world.served() is by_id(world, 2)
    assert settle(world)[0].error is None
    assert world.served() is by_id(world, 2)
    assert_served(world)
    assert world.broken == []


@pytest.mark.parametrize(
    "wanted", [RotationRequest(rotate=True, by="command"), RotationRequest(rotate=True, revoke_now=True, by="command")]
)
def test_one_wrong_answer_does_not_delete_the_key_that_another_path_serves(wanted: RotationRequest) -> None:
    """An attacker wrote another path's key id into a path, and its one look-up is answered with a 404."""
    a, b = make_target("a"), make_target("b")
    world = World(a, b)
    reconciler = world.reconciler()
    for target in (a, b):
        assert reconciler.reconcile(target).rotated
    victim = world.served(b)
    assert victim is not None
    planted = Record.parse((world.store.read(a.path) or {})[RECORD_FIELD])
    assert planted is not None
    secret = Secret("sk-made-up")
    record = replace(planted, key_id=victim.id, key=secret.fingerprint)
    world.store.put(a.path, **compose(a, record, secret, {}))
    world.at(lambda call: call.operation == "provider.retrieve" and call.subject == victim.id, lambda _: None)
    assert reconciler.reconcile(a, wanted).error is None
    for _ in range(30):
        world.clock.advance(10 * MINUTE)
        assert reconciler.reconcile(a).error is None
    assert world.vendor.alive(victim)
    assert not [event for event in world.events.of(EventType.KEY_DELETED) if event.fields["key_id"] == victim.id]


def test_a_key_whose_write_landed_late_is_reported_as_published_once() -> None:
    world = World()
    a = in_flight(world, world.target)
    world.land()
    for _ in range(3):
        assert a.reconcile(world.target).error is None
    published = [event.fields for event in world.events.of(EventType.KEY_PUBLISHED)]
    served = by_id(world, 2)
    assert [fields["key_id"] for fields in published] == [by_id(world, 1).id, served.id]
    assert {name: published[1][name] for name in ("key_name", "version", "reason", "by")} == {
        "key_name": served.name,
        "version": 2,
        "reason": "expiring",
        "by": "schedule",
    }


def test_a_key_whose_write_landed_late_and_was_replaced_at_once_is_reported_too() -> None:
    """The newest version does not show whether it landed; the history does."""
    world = World()
    a = in_flight(world, world.target)
    world.land()
    assert world.reconciler("command").reconcile(world.target, RotationRequest(rotate=True, by="command")).rotated
    for _ in range(3):
        assert a.reconcile(world.target).error is None
    published = [event.fields["key_id"] for event in world.events.of(EventType.KEY_PUBLISHED)]
    assert sorted(map(str, published)) == [by_id(world, number).id for number in (1, 2, 3)]


def test_all_events_of_a_key_carry_its_name_whichever_process_logs_them() -> None:
    world = World()
    assert world.reconciler("a").reconcile(world.target).rotated
    first = by_id(world, 1)
    world.clock.advance(16 * HOUR)
    assert world.reconciler("b").reconcile(world.target).rotated
    world.clock.advance(5 * HOUR)
    c = Reconciler(Observer(OWNER, frozenset(), frozenset({world.target.name}), world.ports("c")))
    assert c.reconcile(world.target).error is None
    logged = [event for event in world.events if event.fields.get("key_name") == first.name]
    assert [(event.what, event.fields["key_id"]) for event in logged] == [
        (EventType.KEY_CREATED, first.id),
        (EventType.KEY_PUBLISHED, first.id),
        (EventType.KEY_SHORTENED, first.id),
        (EventType.VERSIONS_DESTROYED, first.id),
        (EventType.KEY_DELETED, first.id),
    ]


def unanswered(world: World) -> tuple[Reconciler, list[bool]]:
    """A process whose key is due and which has made another. The store refuses writes while that list is not empty."""
    a = running(world)
    world.clock.advance(16 * HOUR)
    closed = [True]

    def write(call: Call) -> Any:
        return refuse(unknown("store.write"))(call) if closed else call.effect()

    world.at("store.write", write, times=inf)
    assert isinstance(a.reconcile(world.target).error, StoreOutcomeUnknown)
    assert len(world.vendor.keys) == 2
    return a, closed


def waiting() -> tuple[World, Reconciler]:
    """The same, after the store accepts writes again."""
    world = World()
    a, closed = unanswered(world)
    closed.clear()
    return world, a


def test_while_the_store_refuses_writes_one_key_waits_and_is_served_in_the_end() -> None:
    world = World()
    a, closed = unanswered(world)
    for _ in range(24):
        world.clock.advance(10 * MINUTE)
        since = len(world.wire.journal)
        assert isinstance(a.reconcile(world.target).error, StoreOutcomeUnknown)
        assert world.calls("provider.", since) == ["provider.retrieve"]
    closed.clear()
    report = a.reconcile(world.target)
    assert (report.rotated, report.error) == (True, None)
    assert world.served() is by_id(world, 2)
    assert len(world.vendor.keys) == 2
    assert len(world.events.of(EventType.KEY_NOT_REMOVED)) == 1
    writes = [call.arguments for call in world.wire.journal if call.operation == "store.write"][1:]
    assert all(write == writes[0] for write in writes)
    assert (a.observer.memory.pending, world.broken) == ({}, [])


@pytest.mark.parametrize("error", refusals("store.write"), ids=lambda error: type(error).__name__)
def test_a_refused_repetition_does_not_settle_the_write_of_an_earlier_pass(
    error: Exception,
) -> None:
    world = World()
    a = running(world)
    world.at("store.write", refuse(error), times=3)
    world.at("store.write", world.delay(unknown("store.write")))
    for _ in range(3):
        report = a.reconcile(world.target, FORCED)
        assert isinstance(report.error, StoreOutcomeUnknown | type(error))
        assert str(report.error).count(str(error)) == 1
    assert world.vendor.living() == [by_id(world, 1), by_id(world, 2)]
    world.land()
    assert world.served() is by_id(world, 2)
    assert a.reconcile(world.target).error is None
    assert_served(world)
    assert a.reconcile(world.target, FORCED).rotated
    assert world.served() is by_id(world, 3)
    assert a.observer.memory.pending == {}


def test_a_pending_key_outlasts_a_rotation_that_saw_the_past() -> None:
    """A stale read shows the path as it was before the version that the pending key follows."""
    world = World()
    a = running(world)
    past = old_view(world)
    assert a.reconcile(world.target, FORCED).rotated
    closed = [True]

    def write(call: Call) -> Any:
        return refuse(unknown("store.write"))(call) if closed else call.effect()

    world.at("store.write", write, times=inf)
    assert isinstance(a.reconcile(world.target, FORCED).error, StoreOutcomeUnknown)
    world.at("store.history", past)
    a.reconcile(world.target, FORCED)
    closed.clear()
    a.reconcile(world.target, FORCED)
    assert world.served() is by_id(world, 3)
    assert (a.observer.memory.pending, world.broken) == ({}, [])


def test_a_pending_key_that_lost_is_deleted() -> None:
    world, a = waiting()
    world.at("store.write", meanwhile(rotate_elsewhere(world)))
    a.reconcile(world.target)
    assert world.events.of(EventType.PUBLISH_CONFLICT)
    assert not world.vendor.alive(by_id(world, 2))
    assert world.served() is by_id(world, 3)


@pytest.mark.parametrize("what", ["revoked", "shortened", "refused"])
def test_a_pending_key_is_not_served_if_it_is_gone_or_about_to_expire(what: str) -> None:
    world, a = waiting()
    key = by_id(world, 2)
    if what == "revoked":
        world.vendor.revoke(key.id)
    elif what == "shortened":
        key.expires_at = world.clock.now() + HOUR
    else:
        world.at("provider.retrieve", refuse(ProviderRequestRefused("no such id")))
    report = a.reconcile(world.target)
    assert "is gone or about to expire" in str(report.error)
    assert report.error is not None
    assert not report.error.needs_a_person
    assert (world.served(), len(world.vendor.keys)) == (by_id(world, 1), 2)
    assert a.reconcile(world.target).rotated
    assert world.served() is by_id(world, 3)


def test_a_pending_key_without_an_expiry_at_the_provider_is_served_too() -> None:
    world, a = waiting()
    by_id(world, 2).expires_at = None
    assert a.reconcile(world.target).rotated
    assert world.served() is by_id(world, 2)


def test_a_lasting_refusal_of_a_pending_keys_write_is_reported_as_it_is() -> None:
    world, a = waiting()
    world.at("store.preflight", refuse(StorePermissionDenied("the policy")), times=2)
    for _ in range(2):
        assert isinstance(a.reconcile(world.target).error, StorePermissionDenied)
    assert a.reconcile(world.target).rotated
    assert world.served() is by_id(world, 2)


def test_a_replica_that_lost_the_lease_does_not_write_a_pending_key() -> None:
    world, a = waiting()
    leads = [True]
    ports = replace(a.observer.ports, leads=lambda: bool(leads))
    a = Reconciler(Observer(OWNER, frozenset(), frozenset({world.target.name}), ports, a.observer.memory))
    world.at("provider.retrieve", afterwards(leads.clear))
    assert not a.reconcile(world.target).rotated
    assert world.served() is by_id(world, 1)
    leads.append(True)
    assert a.reconcile(world.target).rotated
    assert world.served() is by_id(world, 2)


def test_a_pending_key_is_written_with_the_present_fields() -> None:
    world, a = waiting()
    assert a.reconcile(replace(world.target, key_field="token", extra_fields={"region": "eu"})).rotated
    data = world.store.read(world.target.path) or {}
    assert (data["token"], data["region"]) == (by_id(world, 2).text, "eu")


def in_flight(world: World, target: Target) -> Reconciler:
    """A process whose key is due and which has made another. It gave up the write, which may still land."""
    a = world.reconciler()
    assert a.reconcile(target).rotated
    world.clock.advance(16 * HOUR)
    world.at("store.write", refuse(unknown("store.write")), times=5)
    world.at("store.write", world.delay(unknown("store.write")))
    assert isinstance(a.reconcile(target).error, StoreOutcomeUnknown)
    return a


def test_a_write_from_before_a_reload_that_lands_is_ours_under_any_field() -> None:
    """The field was renamed meanwhile, so that the version looks foreign."""
    target = make_target(adopt=True)
    world = World(target)
    a = in_flight(world, target)
    renamed = replace(target, key_field="token")
    world.at("store.write", meanwhile(world.land))
    a.reconcile(renamed)
    assert world.vendor.alive(by_id(world, 2))
    assert world.broken == []


def test_a_pending_key_that_was_written_long_ago_is_not_taken_for_the_newest() -> None:
    """It landed, a person rolled back from it, and a stale read shows neither."""
    world = World()
    a = in_flight(world, world.target)
    past = old_view(world)
    world.land()
    world.store.rollback(world.target.path, 1)
    world.at("store.history", past)
    a.reconcile(world.target)
    assert world.served() is by_id(world, 1)
    assert by_id(world, 1).expires_at == by_id(world, 1).granted
    assert world.broken == []


def test_a_key_that_landed_is_not_written_again_when_the_path_is_recreated() -> None:
    world = World()
    world.at("store.write", refuse(unknown("store.write")), times=5)
    world.at("store.write", world.delay(unknown("store.write")))
    a = world.reconciler()
    a.reconcile(world.target)
    world.land()
    assert a.reconcile(world.target).error is None
    assert a.observer.memory.pending == {}
    world.store.delete_metadata(world.target.path)
    assert a.reconcile(world.target).rotated
    assert world.served() is by_id(world, 2)


def test_a_look_reports_nothing_and_the_next_pass_reports_a_late_publish_once() -> None:
    world = World()
    world.at("store.write", refuse(unknown("store.write")), times=5)
    world.at("store.write", world.delay(unknown("store.write")))
    a = world.reconciler()
    a.reconcile(world.target)
    world.land()
    a.observer.observe(world.target)
    a.observer.observe(world.target)
    assert not world.events.of(EventType.KEY_PUBLISHED)
    a.reconcile(world.target)
    a.reconcile(world.target)
    assert [event.fields["key_id"] for event in world.events.of(EventType.KEY_PUBLISHED)] == ["tk_0001"]


@pytest.mark.parametrize("what", ["parameters", "provider", "path", "age", "moved on", "made anew"])
def test_a_pending_key_is_not_served_after_a_change_of_parameters_or_request(what: str) -> None:
    world, a = waiting()
    target = world.target
    if what == "parameters":
        target = replace(target, parameters={"rate_limit": 7})
    elif what == "provider":
        target = replace(target, provider="another")
    elif what == "path":
        target = replace(target, path="elsewhere")
        world.reconciler("b").reconcile(target)
        assert world.store.current_version("elsewhere") == world.store.current_version(world.target.path)
    elif what == "age":
        world.clock.advance(23 * HOUR)
    elif what == "made anew":
        world.store.delete_metadata(target.path)
    else:
        world.store.rollback(target.path, 1)
    before = set(world.vendor.keys)
    successor = Reconciler(Observer(OWNER, frozenset(), frozenset(), world.ports("c"), a.observer.memory))
    assert successor.reconcile(target, FORCED).rotated
    served = world.served(target)
    assert served
    assert set(world.vendor.keys) - before == {served.id}
    assert a.observer.memory.pending == {}


@pytest.mark.parametrize(("hours", "is_reported"), [(None, False), (23, True), (24, False)])
def test_a_version_that_the_store_deletes_before_its_key_expires_is_reported(
    hours: int | None, is_reported: bool
) -> None:
    world = World()
    vanishes_at = None if hours is None else START + hours * HOUR
    world.at("store.write", lambda call: replace(call.effect(), vanishes_at=vanishes_at))
    assert world.reconciler().reconcile(world.target).rotated
    events = world.events.of(EventType.VERSION_EXPIRES_EARLY)
    assert [(event.level, event.fields["vanishes_at"]) for event in events] == (
        [(Level.ERROR, timestamp(START + 23 * HOUR))] if is_reported else []
    )


def rotate_elsewhere(world: World) -> Callable[[], object]:
    other = world.reconciler("b")
    return lambda: other.reconcile(world.target, FORCED)


def test_a_key_that_lost_against_another_replica_is_deleted() -> None:
    world = World()
    a = running(world)
    world.clock.advance(16 * HOUR)
    world.at("store.write", meanwhile(rotate_elsewhere(world)))
    report = a.reconcile(world.target)
    assert (report.rotated, report.error) == (False, None)
    assert report.plan is not None
    assert report.plan.state is State.OK
    assert world.events.of(EventType.PUBLISH_CONFLICT)
    assert world.served() is by_id(world, 3)
    assert not world.vendor.alive(by_id(world, 2))
    assert world.broken == []


def test_a_key_that_lost_against_a_persons_write_is_deleted() -> None:
    world = World()
    a = running(world)
    world.at("store.write", meanwhile(lambda: world.store.put(world.target.path, password="x")))
    report = a.reconcile(world.target, FORCED)
    assert report.plan is not None
    assert report.plan.state is State.FOREIGN
    assert not world.vendor.alive(by_id(world, 2))


def old_view(world: World) -> Fault:
    """From now on the store answers with the state of this moment."""
    history = world.ports("observer").store.history(world.target.path)
    return lambda call: replace(history, observed_at=world.clock.monotonic())


@pytest.mark.parametrize("spoil", ["delete", "destroy", "unreadable", "old", "pushed out"])
def test_a_key_is_left_alone_when_its_intended_version_cannot_be_read(spoil: str) -> None:
    world = World()
    a = running(world)
    path = world.target.path
    elsewhere, old = rotate_elsewhere(world), old_view(world)

    def race() -> None:
        elsewhere()
        if spoil == "delete":
            world.store.delete(path, 2)
        elif spoil == "destroy":
            world.store.destroy(path, 2)
        elif spoil == "unreadable":
            world.at("store.history", refuse(StoreUnavailable("no")))
        elif spoil == "old":
            world.at("store.history", old)
        else:
            world.store.max_versions = 1
            elsewhere()

    world.at("store.write", meanwhile(race))
    report = a.reconcile(world.target, FORCED)
    assert isinstance(report.error, StoreOutcomeUnknown)
    assert world.events.of(EventType.KEY_NOT_REMOVED)
    assert world.vendor.alive(by_id(world, 2))


REFUSED = pytest.mark.parametrize("error", refusals("store.write"), ids=lambda error: type(error).__name__)


@REFUSED
def test_a_refused_write_that_landed_is_a_publish(error: Exception) -> None:
    """A proxy or a filter may answer instead of the store."""
    world = World()
    a = running(world)
    world.at("store.write", lost(error))
    report = a.reconcile(world.target, FORCED)
    assert (report.rotated, report.error) == (True, None)
    assert world.served() is by_id(world, 2)
    assert [event.fields["key_id"] for event in world.events.of(EventType.KEY_PUBLISHED)] == ["tk_0001", "tk_0002"]
    assert_served(world)
    assert world.broken == []


@REFUSED
@pytest.mark.parametrize("read", ["old", "refused"])
def test_a_refused_write_that_landed_unseen_keeps_its_key(error: Exception, read: str) -> None:
    """The read that would show it goes to a standby that is behind, or is refused too."""
    world = World()
    a = running(world)
    unseen = old_view(world) if read == "old" else refuse(StoreUnavailable("no"))

    def landed(call: Call) -> None:
        call.effect()
        world.at("store.history", unseen)
        raise error

    world.at("store.write", landed)
    report = a.reconcile(world.target, FORCED)
    assert (report.rotated, report.error) == (False, error)
    assert world.served() is by_id(world, 2)
    assert_served(world)
    assert a.reconcile(world.target).error is None
    assert world.served() is by_id(world, 2)
    assert (a.observer.memory.pending, world.broken) == ({}, [])


@REFUSED
def test_a_refused_write_that_lands_late_keeps_its_key(error: Exception) -> None:
    world = World()
    a = running(world)
    world.at("store.write", world.delay(error))
    assert a.reconcile(world.target, FORCED).error is error
    world.land()
    assert world.served() is by_id(world, 2)
    assert a.reconcile(world.target).error is None
    assert_served(world)
    assert world.broken == []


@REFUSED
def test_a_key_whose_write_was_refused_waits_and_is_the_only_one(error: Exception) -> None:
    world = World()
    a = running(world)
    world.at("store.write", refuse(error), times=3)
    for _ in range(3):
        assert a.reconcile(world.target, FORCED).error is error
    assert world.served() is by_id(world, 1)
    assert len(world.events.of(EventType.KEY_NOT_REMOVED)) == 1
    assert a.reconcile(world.target, FORCED).rotated
    assert (world.served(), len(world.vendor.keys)) == (by_id(world, 2), 2)
    assert world.broken == []


@REFUSED
def test_a_key_whose_write_was_refused_is_deleted_where_another_writer_was_first(error: Exception) -> None:
    world = World()
    a = running(world)
    elsewhere = rotate_elsewhere(world)

    def refused(call: Call) -> None:
        elsewhere()
        raise error

    world.at("store.write", refused)
    assert a.reconcile(world.target, FORCED).error is None
    assert world.events.of(EventType.PUBLISH_CONFLICT)
    assert not world.vendor.alive(by_id(world, 2))
    assert world.served() is by_id(world, 3)
    assert world.broken == []


@pytest.mark.parametrize("error", refusals("store.write"), ids=lambda error: type(error).__name__)
def test_a_refusal_after_an_unknown_outcome_does_not_settle_the_first_write(error: Exception) -> None:
    world = World()
    a = running(world)
    world.at("store.write", refuse(error))
    world.at("store.write", world.delay(unknown("store.write")))
    report = a.reconcile(world.target, FORCED)
    assert isinstance(report.error, StoreOutcomeUnknown)
    assert str(error) in str(report.error)
    assert world.vendor.alive(by_id(world, 2))
    world.land()
    assert world.served() is by_id(world, 2)
    assert_served(world)


def test_a_key_that_cannot_be_discarded_is_reported() -> None:
    world = World()
    a = running(world)
    world.at("store.write", meanwhile(rotate_elsewhere(world)))
    world.at(lambda call: (call.operation, call.actor) == ("provider.delete", "a"), refuse(ProviderUnavailable("down")))
    a.reconcile(world.target, FORCED)
    world.at(lambda call: (call.operation, call.actor) == ("provider.delete", "a"), refuse(ProviderUnavailable("down")))
    world.remove_strays()
    [event] = world.events.of(EventType.KEY_NOT_REMOVED)
    assert event.fields["key_id"] == by_id(world, 2).id


def test_our_write_that_landed_is_recognised_below_a_foreign_version() -> None:
    world = World()
    a = running(world)
    world.at("store.write", afterwards(rotate_elsewhere(world)))
    world.at("store.write", lambda call: lost(unknown("store.write"))(call))
    assert a.reconcile(world.target, FORCED).error is None
    settle(world)
    assert_served(world)
    assert world.broken == []
    assert not world.events.of(EventType.PUBLISH_CONFLICT)


# --- another writer is first ---


def test_a_fence_in_between_does_not_swallow_a_persons_request() -> None:
    """Another write came first, and kept the key that a person wants replaced."""
    world = World()
    a = running(world)
    served = world.served()
    data = world.store.read(world.target.path)
    assert data
    world.at("store.write", meanwhile(lambda: world.store.put(world.target.path, **data)))
    report = a.reconcile(world.target, FORCED)
    assert isinstance(report.error, CasMismatch)
    assert not report.rotated
    assert world.served() is served
    assert len(world.vendor.living()) == 1, "ours is removed"
    assert a.reconcile(world.target, FORCED).rotated


def test_another_replicas_new_key_satisfies_a_persons_request() -> None:
    world = World()
    a = running(world)
    world.at("store.write", meanwhile(lambda: world.reconciler("b").reconcile(world.target, FORCED)))
    report = a.reconcile(world.target, FORCED)
    assert (report.rotated, report.error) == (False, None)
    assert len(world.vendor.keys) == 3
    assert_served(world)


# --- how much is read ---


def test_a_path_is_read_whole_only_while_there_is_more_to_it_than_the_served_key() -> None:
    world = World()
    a = world.reconciler()
    whole: list[bool] = []
    history = world.store.history
    world.store.history = lambda *its: (whole.append(True), history(*its))[1]  # type: ignore[method-assign, func-returns-value]
    world.store.newest = lambda *its: (whole.append(False), only_newest(history(*its)))[1]  # type: ignore[method-assign, func-returns-value]

    def reads(reconciler: Reconciler) -> list[bool]:
        whole.clear()
        assert reconciler.reconcile(world.target).error is None
        return list(whole)

    assert reads(a) == [False], "an absent path"
    assert reads(a) == [True], "just published: is there a predecessor?"
    assert reads(a) == reads(a) == [False]
    world.clock.advance(16 * HOUR)
    assert reads(a) == [False], "and rotates"
    assert reads(a) == reads(a) == [True], "a superseded key is left"
    assert reads(world.reconciler("b")) == [False, True], "a new process sees a young key, and reads more"
    world.clock.advance(4 * HOUR)
    assert reads(a) == [True, True], "and retires"
    assert reads(a) == [False]
    world.clock.advance(MINUTE)
    assert reads(world.reconciler("c")) == [False], "the served key is older than a grace period"
    b = world.reconciler("b")
    b.reconcile(world.target, FORCED)
    assert reads(a) == [False, True], "its number has changed"
    world.store.put(world.target.path, api_key="theirs")
    assert reads(world.reconciler("d")) == [False], "nothing is done about a foreign path, so nothing else matters"


def test_a_process_that_does_not_sweep_reads_the_whole_history_of_an_unknown_path() -> None:
    """As `run --once` from a cron job: no other process would retire the key."""
    world = World()
    a = running(world)
    a.reconcile(world.target, FORCED)
    world.clock.advance(7 * HOUR)
    names = frozenset({world.target.name})
    assert Reconciler(Observer(OWNER, frozenset(), names, world.ports("once"))).reconcile(world.target).error is None
    assert by_id(world, 1).revoked
    assert_served(world)


def test_untidied_superseded_keys_are_found_by_a_sweep_and_read_from_then_on() -> None:
    """All processes were down for days. A new one's first look at the path sees a served key that is old enough."""
    world = World()
    a = running(world)
    a.reconcile(world.target, FORCED)
    world.clock.advance(7 * HOUR)
    b = world.reconciler("b")
    b.reconcile(world.target)
    assert len(world.vendor.keys) == 2
    assert not by_id(world, 1).revoked, "not seen"
    Sweeper("respan", [(b.observer, world.targets)], b.observer.ports.budget, HOUR, 10).sweep()
    b.reconcile(world.target)
    assert by_id(world, 1).revoked
    assert world.store.versions(world.target.path)[1].destroyed
    assert_served(world)


# --- `extend`, and clocks ---


def test_a_key_that_was_extended_while_the_store_was_down_gets_its_grace_from_its_maker() -> None:
    """Its knowledge is older: it must ask the provider before it takes the recorded expiry for the key's."""
    world = World()
    a = running(world)
    by_id(world, 1).expires_at = START + 48 * HOUR
    world.clock.advance(25 * HOUR)
    report = a.reconcile(world.target)
    assert (report.rotated, report.attempted) == (True, Reason.EXPIRED)
    assert world.vendor.alive(by_id(world, 1))
    assert by_id(world, 1).expires_at == world.clock.now() + 4 * HOUR
    world.clock.advance(4 * HOUR)
    a.reconcile(world.target)
    assert world.vendor.living() == [world.served()]


def test_a_key_that_may_have_been_extended_is_not_shortened() -> None:
    world = World()
    a = running(world)
    by_id(world, 1).expires_at = START + 48 * HOUR
    world.clock.advance(25 * HOUR)
    world.at("provider.retrieve", refuse(ProviderUnavailable("no answer")), times=inf)
    for _ in range(3):
        a.reconcile(world.target)
    assert world.vendor.alive(by_id(world, 1))


def test_a_clock_that_may_be_ahead_ends_a_key_later_by_as_much() -> None:
    world = World()
    a = running(world)
    a.reconcile(world.target, FORCED)
    world.clock.is_ahead = MINUTE
    world.clock.advance(4 * HOUR)
    a.reconcile(world.target)
    assert not by_id(world, 1).revoked
    assert world.store.versions(world.target.path)[1].data
    world.clock.advance(MINUTE)
    a.reconcile(world.target)
    assert by_id(world, 1).revoked


# --- the probe ---


def test_a_new_key_that_cannot_be_probed_is_removed() -> None:
    world = World()
    a = running(world)
    error = ProviderCredentialRefused("the key holds what no key does")
    world.at("probe", refuse(error))
    assert a.reconcile(world.target, FORCED).error is error
    assert world.vendor.living() == [by_id(world, 1)]


@pytest.mark.parametrize("error", [ProviderKeyNotAccepted("401"), ProviderUnavailable("no answer")])
def test_a_key_that_takes_a_while_to_work_is_published_when_it_does(error: Exception) -> None:
    world = World()
    a = running(world)
    world.at("probe", refuse(error), times=3)
    started, since = world.clock.monotonic(), len(world.wire.journal)
    assert a.reconcile(world.target, FORCED).rotated
    assert world.clock.monotonic() - started == sum(PROBE_WAITS[:3])
    assert world.calls(since=since)[2:8] == ["provider.create", *["probe"] * 4, "store.write"]
    assert_served(world)


@pytest.mark.parametrize("error", [ProviderKeyNotAccepted("401"), ProviderUnavailable("no answer")])
def test_a_key_that_never_works_is_removed_and_the_old_one_stays(error: Exception) -> None:
    world = World()
    a = running(world)
    served = world.served()
    world.at("probe", refuse(error), times=inf)
    since = len(world.wire.journal)
    report = a.reconcile(world.target, FORCED)
    assert report.error is error
    assert "store.write" not in world.calls(since=since)
    assert world.calls("provider.create", since) == ["provider.create"]
    assert world.served() is served
    assert [key.id for key in world.vendor.living()] == [served.id if served else ""]
    assert [event.fields["reason"] for event in world.events.of(EventType.KEY_DELETED)] == [UNPUBLISHED]
    assert_served(world)


# --- create ---


@pytest.mark.parametrize("error", refusals("provider.create"), ids=lambda error: type(error).__name__)
def test_a_refused_create_is_reported_and_the_served_key_stays(error: Exception) -> None:
    world = World()
    a = running(world)
    world.at("provider.create", refuse(error))
    report = a.reconcile(world.target, FORCED)
    assert report.error is error
    assert len(world.vendor.keys) == 1
    assert_served(world)


def mixed_up(world: World, **shown: Any) -> Fault:
    """The key is made, and the answer shows these values of another key instead of its own."""

    def fault(call: Call) -> CreatedKey:
        created: CreatedKey = call.effect()
        return replace(created, **shown)

    return fault


def two_targets() -> tuple[World, Reconciler]:
    """A process that serves two targets with a key each."""
    world = World(make_target("alpha"), make_target("beta"))
    a = world.reconciler()
    assert all(a.reconcile(target).rotated for target in world.targets)
    return world, a


@pytest.mark.parametrize(
    "what", ["all", "without a name", "without a name and unknown", "id", "text", "own id", "own text"]
)
def test_an_answer_to_a_create_about_another_key_is_not_used(what: str) -> None:
    world, a = two_targets()
    alpha, beta = world.targets
    others, own = world.served(alpha), world.served(beta)
    assert others
    assert own
    stranger = world.vendor.issue("a stranger's", START + 1000 * HOUR)
    whole: dict[str, Any] = {"id": others.id, "name": others.name, "secret": Secret(others.text), "expires_at": None}
    shown: dict[str, Any] = {
        "all": whole,
        "without a name": {**whole, "name": ""},
        "without a name and unknown": {**whole, "name": "", "id": stranger.id, "secret": Secret(stranger.text)},
        "id": {"id": others.id},
        "text": {"secret": Secret(others.text)},
        "own id": {"id": own.id},
        "own text": {"secret": Secret(own.text)},
    }[what]
    before = [(key.id, key.expires_at) for key in world.vendor.living()]
    world.at("provider.create", mixed_up(world, **shown))
    since = len(world.wire.journal)
    report = a.reconcile(beta, FORCED)
    assert isinstance(report.error, ProviderOutcomeUnknown)
    assert_shows_no_key(world, [report])
    assert "store.write" not in world.calls(since=since)
    world.remove_strays()
    assert [(key.id, key.expires_at) for key in world.vendor.living()] == before, "and the new one is removed"
    assert (world.served(alpha), world.served(beta)) == (others, own)
    assert len(world.events.of(EventType.KEY_CREATED)) == 2
    assert world.broken == []


def test_a_key_whose_create_showed_no_name_is_looked_up_and_published() -> None:
    world = World()
    world.at("provider.create", mixed_up(world, name=""))
    report = world.reconciler().reconcile(world.target)
    assert (report.rotated, report.error) == (True, None)
    assert world.calls("provider.") == ["provider.create", "provider.retrieve"]


@pytest.mark.parametrize("error", [*refusals("provider.retrieve"), None], ids=lambda error: type(error).__name__)
def test_a_key_without_a_name_that_cannot_be_looked_up_is_not_published(error: Exception | None) -> None:
    world = World()
    a = running(world)
    world.at("provider.create", mixed_up(world, name=""))
    if error:
        world.at("provider.retrieve", refuse(error))
    else:
        world.at("provider.retrieve", lambda call: None, times=len(PROBE_WAITS) + 1)
    report = a.reconcile(world.target, FORCED)
    assert isinstance(report.error, ProviderOutcomeUnknown)
    world.remove_strays()
    assert world.vendor.living() == [world.served()]


@pytest.mark.parametrize("shown", [{"name": ""}, {"expires_at": None}], ids=["no name", "no expiry"])
def test_a_new_key_that_has_to_be_looked_up_is_waited_for(shown: dict[str, Any]) -> None:
    world = World()
    world.at("provider.create", mixed_up(world, **shown))
    world.at("provider.retrieve", lambda call: None, times=3)
    started = world.clock.monotonic()
    assert world.reconciler().reconcile(world.target).rotated
    assert world.clock.monotonic() - started == sum(PROBE_WAITS[:3])


def test_nothing_is_changed_by_the_id_of_an_answer_that_the_provider_does_not_show() -> None:
    """The name is right and the id is another path's. Only a look-up could show that, and it finds nothing."""
    world, _ = two_targets()
    alpha, beta = world.targets
    other = world.served(alpha)
    assert other is not None
    new_process = world.reconciler("b")
    world.at("provider.create", mixed_up(world, id=other.id, expires_at=None))
    world.at("provider.retrieve", lambda call: None, times=len(PROBE_WAITS) + 1)
    since = len(world.wire.journal)
    assert isinstance(new_process.reconcile(beta, FORCED).error, ProviderOutcomeUnknown)
    assert "provider.set_expiry" not in world.calls(since=since)


def test_a_pending_key_is_not_taken_for_a_new_one() -> None:
    world, a = two_targets()
    alpha, beta = world.targets
    world.at("store.write", refuse(StoreSealed("sealed")))
    a.reconcile(alpha, FORCED)
    waits = by_id(world, 3)
    world.at("provider.create", mixed_up(world, id=waits.id, secret=Secret(waits.text)))
    assert isinstance(a.reconcile(beta, FORCED).error, ProviderOutcomeUnknown)
    assert world.vendor.alive(waits)


def test_a_create_that_lands_late_expires_without_help() -> None:
    world = World()
    a = running(world)
    world.at("provider.create", world.delay(unknown("provider.create")))
    a.reconcile(world.target, FORCED)
    world.land()
    stray = by_id(world, 2)
    assert stray.expires_at == START + 24 * HOUR
    assert a.reconcile(world.target, FORCED).rotated
    assert world.served() is by_id(world, 3)


def test_a_key_whose_write_was_not_answered_waits_for_a_provider_that_does_not_show_it_yet() -> None:
    world = World()
    names = frozenset({world.target.name})
    a = Reconciler(Observer(OWNER, frozenset(), names, world.ports("a"), min_age=timedelta(minutes=5)))
    world.vendor.shown_after = 290.0
    world.at("store.write", refuse(unknown("store.write")), times=len(WAITS))
    assert isinstance(a.reconcile(world.target).error, StoreOutcomeUnknown)
    assert a.reconcile(world.target).rotated
    assert [*world.vendor.keys] == ["tk_0001"]


def test_a_pass_that_shortened_a_key_is_not_reported_as_idle() -> None:
    world = World()
    a = running(world)
    world.at("provider.set_expiry", refuse(unknown("provider.set_expiry")))
    assert a.reconcile(world.target, FORCED).rotated
    report = a.reconcile(world.target)
    assert (report.rotated, report.tidied, report.error) == (False, True, None)
    assert next(report_lines(report)).startswith("billing-api: fixed: key ")
    assert next(report_lines(a.reconcile(world.target))).startswith("billing-api: nothing to do: key ")


# --- the expiry that a new key gets ---


def test_a_shorter_life_is_believed_and_makes_no_storm() -> None:
    world = World()
    world.vendor.grants = lambda asked: asked - 12 * HOUR
    a = running(world)
    assert record_of(world).expires_at == START + 12 * HOUR
    assert [event.fields["expires_at"] for event in world.events.of(EventType.KEY_CUT_SHORT)] == [
        timestamp(START + 12 * HOUR)
    ]
    for _ in range(5):
        assert not a.reconcile(world.target).rotated
    report = a.reconcile(world.target)
    assert report.plan is not None
    assert report.plan.renewal == Renewal(START + 8 * HOUR)


@pytest.mark.parametrize("granted", [None, 48 * HOUR])
def test_a_longer_life_is_corrected_before_the_key_is_published(granted: timedelta | None) -> None:
    world = World()
    world.vendor.grants = lambda asked: None if granted is None else START + granted
    since = len(world.wire.journal)
    running(world)
    assert world.calls("provider.", since) == ["provider.create", "provider.retrieve", "provider.set_expiry"]
    assert len(world.calls("budget.take", since)) == 3
    assert by_id(world, 1).expires_at == record_of(world).expires_at == START + 24 * HOUR


def test_an_expiry_within_a_second_of_the_requested_one_is_accepted() -> None:
    world = World()
    world.vendor.grants = lambda asked: asked + timedelta(seconds=1)
    running(world)
    assert not world.events.of(EventType.KEY_CUT_SHORT)
    assert world.calls("provider.") == ["provider.create"]
    assert record_of(world).expires_at == START + 24 * HOUR


@pytest.mark.parametrize("error", [*refusals("provider.set_expiry"), unknown("x")], ids=lambda e: type(e).__name__)
def test_a_key_whose_longer_life_cannot_be_corrected_is_not_published(error: Exception) -> None:
    world = World()
    world.vendor.grants = lambda asked: None
    world.at("provider.set_expiry", refuse(error))
    report = world.reconciler().reconcile(world.target)
    assert report.error is error
    assert world.vendor.living() == []
    assert world.store.current_version(world.target.path) == 0


def test_a_key_that_is_gone_before_it_was_published_is_not_published() -> None:
    world = World()
    world.vendor.grants = lambda asked: None
    world.at("provider.set_expiry", meanwhile(lambda: world.vendor.revoke("tk_0001")))
    report = world.reconciler().reconcile(world.target)
    assert isinstance(report.error, ProviderRequestRefused)
    assert world.store.current_version(world.target.path) == 0


def test_a_key_that_is_created_expired_is_not_published() -> None:
    world = World()
    world.vendor.grants = lambda asked: START - HOUR
    report = world.reconciler().reconcile(world.target)
    assert isinstance(report.error, ProviderRequestRefused)
    assert timestamp(START - HOUR) in str(report.error)
    assert by_id(world, 1).revoked
    assert world.store.current_version(world.target.path) == 0


# --- one failure does not hold up the rest ---


def test_other_actions_are_done_although_no_key_can_be_made() -> None:
    world = World()
    a = running(world)
    a.reconcile(world.target, FORCED)
    world.clock.advance(4 * HOUR)
    error = ProviderRequestRefused("no more keys")
    world.at("provider.create", refuse(error))
    report = a.reconcile(world.target, FORCED)
    assert report.error is error
    assert not world.vendor.alive(by_id(world, 1))
    assert world.store.versions(world.target.path)[1].destroyed


def test_a_provider_that_is_down_is_not_asked_again_in_the_same_pass() -> None:
    world = World()
    a = running(world)
    a.reconcile(world.target, FORCED)
    world.clock.advance(4 * HOUR)
    error = ProviderRateLimited("too much", 30)
    world.at("provider.create", refuse(error))
    since = len(world.wire.journal)
    assert a.reconcile(world.target, FORCED).error is error
    assert world.calls("provider.", since) == ["provider.create"]


def test_a_shortening_that_failed_is_repeated_by_the_next_pass() -> None:
    world = World()
    a = running(world)
    world.at("provider.set_expiry", refuse(ProviderUnavailable("down")))
    report = a.reconcile(world.target, FORCED)
    assert report.rotated
    assert isinstance(report.error, ProviderUnavailable)
    world.clock.advance(HOUR)
    assert a.reconcile(world.target).error is None
    assert by_id(world, 1).expires_at == START + 4 * HOUR


def test_a_budget_that_closes_ends_the_pass() -> None:
    world = World()
    error = ProviderUnavailable("rotator is stopping")
    world.at("budget.take", refuse(error))
    report = world.reconciler().reconcile(world.target)
    assert report.error is error
    assert report.plan is not None
    assert world.calls("provider.") == []


def test_a_look_up_that_is_always_refused_does_not_prevent_a_rotation() -> None:
    world = World()
    running(world).reconcile(world.target, FORCED)
    world.at("provider.retrieve", refuse(ProviderRequestRefused("what an id")), times=inf)
    world.clock.advance(16 * HOUR)
    report = world.reconciler("slow", budget_wait=10).reconcile(world.target)
    assert isinstance(report.error, ProviderRequestRefused)
    assert report.rotated


# --- retire ---


def superseded(world: World) -> Reconciler:
    """Two keys; the grace of the first is just over."""
    a = running(world)
    a.reconcile(world.target, FORCED)
    world.clock.advance(4 * HOUR)
    return a


def test_an_interrupted_retirement_leaves_a_key_that_has_expired() -> None:
    world = World()
    a = superseded(world)
    world.at("provider.delete", refuse(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        a.reconcile(world.target)
    assert world.store.versions(world.target.path)[1].destroyed
    assert not by_id(world, 1).revoked
    assert not world.vendor.alive(by_id(world, 1))
    assert all(report.error is None for report in settle(world))


@pytest.mark.parametrize("spoil", ["rollback", "foreign", "deleted"])
def test_a_key_is_not_deleted_when_the_path_changed_since(spoil: str) -> None:
    world = World()
    a = superseded(world)
    path = world.target.path
    acts: dict[str, Callable[[], object]] = {
        "rollback": lambda: world.store.rollback(path, 1),
        "foreign": lambda: world.store.put(path, password="x"),
        "deleted": lambda: world.store.delete(path, 2),
    }
    by_id(world, 1).expires_at = START + 24 * HOUR  # a person undid its shortening
    world.at("store.destroy", meanwhile(acts[spoil]))
    a.reconcile(world.target)
    assert not by_id(world, 1).revoked
    assert "provider.delete" not in world.calls()


def test_a_key_that_is_gone_already_is_retired_all_the_same() -> None:
    world = World()
    a = superseded(world)
    world.vendor.revoke("tk_0001")
    assert a.reconcile(world.target).error is None
    assert world.store.versions(world.target.path)[1].destroyed


# --- rolled back by hand ---


def test_a_key_that_was_rolled_back_to_is_restored() -> None:
    world = World()
    a = running(world)
    a.reconcile(world.target, FORCED)
    world.store.rollback(world.target.path, 1)
    world.clock.advance(HOUR)
    for reconciler in (a, world.reconciler("fresh")):
        assert reconciler.reconcile(world.target).error is None
        assert world.served() is by_id(world, 1)
        assert by_id(world, 1).expires_at == START + 24 * HOUR
        assert by_id(world, 2).expires_at == START + 4 * HOUR


@pytest.mark.parametrize("fresh", [False, True])
def test_an_expired_key_that_was_rolled_back_to_is_replaced(fresh: bool) -> None:
    world = World()
    a = running(world)
    a.reconcile(world.target, FORCED)
    world.vendor.revoke("tk_0001")
    world.store.rollback(world.target.path, 1)
    report = (world.reconciler("fresh") if fresh else a).reconcile(world.target)
    assert report.attempted is Reason.MISSING
    assert_served(world)


@pytest.mark.parametrize("answer", ["refused", "gone"])
def test_a_key_that_cannot_be_restored_is_replaced_in_the_same_pass(answer: str) -> None:
    world = World()
    a = running(world)
    a.reconcile(world.target, FORCED)
    world.store.rollback(world.target.path, 1)
    fault: Fault = refuse(ProviderRequestRefused("it is on its way out")) if answer == "refused" else lambda _: None
    world.at("provider.set_expiry", fault)
    report = a.reconcile(world.target)
    assert report.attempted is Reason.MISSING
    assert world.served() is by_id(world, 3)


# --- every call of a target's life, broken in every way ---


def life(world: World, executor_for: Callable[[], Reconciler]) -> Iterator[Report]:
    """A first key, a rotation, the end of the first key's grace: all calls that the protocol makes."""
    for hours in (0, 16, 4):
        world.clock.advance(hours * HOUR)
        yield executor_for().reconcile(world.target)


def lives(fresh: bool) -> tuple[World, Iterator[Report]]:
    """`fresh`: a new process does each step, so that all keys are looked up."""
    world = World()
    a = world.reconciler()
    return world, life(world, (lambda: world.reconciler()) if fresh else (lambda: a))


def calls_of_a_life(fresh: bool) -> list[Call]:
    world, passes = lives(fresh)
    assert all(report.error is None for report in passes)
    return world.wire.journal


CALLS = [(fresh, call.number, call.operation) for fresh in (False, True) for call in calls_of_a_life(fresh)]
AT_EVERY_CALL = pytest.mark.parametrize(("fresh", "number", "operation"), CALLS)


def test_a_life_makes_every_kind_of_call() -> None:
    operations = {operation for _, _, operation in CALLS}
    assert operations == {
        *CHANGES,
        "store.location",
        "store.history",
        "store.preflight",
        "provider.retrieve",
        "probe",
        "budget.take",
    }


def assert_promises_hold(world: World, reports: list[Report]) -> None:
    """Check the promises once all is settled, and for a day from then on."""
    for report in reports[-2:]:
        assert report.error is None
        assert report.plan is not None
        assert report.plan.state is State.OK
    served = world.served()
    assert served is not None
    assert served.expires_at == record_of(world).expires_at
    keeper = world.reconciler("keeper")
    for _ in range(48):
        world.clock.advance(HOUR / 2)
        assert keeper.reconcile(world.target).error is None
        assert_served(world)
    held = {value for version in world.store.versions(world.target.path).values() for value in version.data.values()}
    assert len([key for key in world.vendor.living() if key.text not in held]) <= 1
    assert_shows_no_key(world, reports)


@AT_EVERY_CALL
def test_no_error_at_any_call_escapes_or_breaks_a_promise(fresh: bool, number: int, operation: str) -> None:
    for name in faults(World(), operation):
        world, passes = lives(fresh)
        world.at(number, faults(world, operation)[name])
        reports = [*passes]
        assert_promises_hold(world, [*reports, *settle(world)])
        assert world.broken == [], name


@AT_EVERY_CALL
@pytest.mark.parametrize("when", [refuse, lost])
def test_after_a_kill_at_any_call_the_next_process_repairs_everything(
    fresh: bool, number: int, operation: str, when: Callable[[BaseException], Fault]
) -> None:
    world, passes = lives(fresh)
    world.at(number, when(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        list(passes)
    assert_promises_hold(world, settle(world))
    assert world.broken == []


@AT_EVERY_CALL
@pytest.mark.parametrize("when", [meanwhile, afterwards])
def test_another_replica_may_publish_at_any_call(
    fresh: bool, number: int, operation: str, when: Callable[[Callable[[], object]], Fault]
) -> None:
    world, passes = lives(fresh)
    other = world.reconciler("b")
    world.at(number, when(lambda: other.reconcile(world.target, FORCED)))
    reports = [*passes]
    assert all(report.error is None for report in reports)
    assert_promises_hold(world, [*reports, *settle(world)])
    assert world.broken == []


@AT_EVERY_CALL
@pytest.mark.parametrize("when", [meanwhile, afterwards])
@pytest.mark.parametrize("twice", [False, True])
def test_a_person_may_roll_back_at_any_call(
    fresh: bool, number: int, operation: str, when: Callable[[Callable[[], object]], Fault], twice: bool
) -> None:
    world, passes = lives(fresh)
    path = world.target.path

    def roll_back() -> None:
        if world.store.rollback(path, world.store.current_version(path) - 1) and twice:
            world.store.rollback(path, world.store.current_version(path) - 1)

    world.at(number, when(roll_back))
    reports = [*passes]
    assert_promises_hold(world, [*reports, *settle(world)])
    # A served key may be shortened when the path is rolled back at that moment; it has been restored since.
    assert not [what for what in world.broken if "provider.delete" in what]


@AT_EVERY_CALL
@pytest.mark.parametrize("act", ["foreign", "delete", "metadata", "revoke"])
def test_a_person_may_do_worse_at_any_call(fresh: bool, number: int, operation: str, act: str) -> None:
    world, passes = lives(fresh)
    path = world.target.path

    def spoil() -> None:
        if act == "foreign":
            world.store.put(path, password="x")
        elif act == "metadata":
            world.store.delete_metadata(path)
        elif act == "delete" and world.store.read(path):
            world.store.delete(path)
        elif act == "revoke" and (served := world.served()):
            world.vendor.revoke(served.id)

    world.at(number, meanwhile(spoil))
    reports = [*passes, *settle(world)]
    assert_shows_no_key(world, reports)
    assert not [what for what in world.broken if "serves" in what]
    if act == "foreign":
        assert world.store.read(path) == {"password": "x"}
    elif act != "revoke":
        assert_served(world)


# --- a stale result changes nothing ---


def watch_age(world: World) -> list[float]:
    """Return how old the last read of the store was, in seconds, at each change without compare-and-set."""
    asked = [0.0]
    ages: list[float] = []

    def look(call: Call) -> Any:
        asked[0] = world.clock.monotonic()
        return call.effect()

    def act(call: Call) -> Any:
        ages.append(world.clock.monotonic() - asked[0])
        return call.effect()

    world.at(lambda call: call.operation in ("store.history", "store.write"), look, times=inf)
    changes = {*CHANGES} - {"store.write"}
    world.at(lambda call: call.operation in changes, act, times=inf)
    return ages


@pytest.mark.parametrize("wait", [0, 3, 5.5, 61])
def test_a_wait_for_the_budget_never_leads_to_an_action_on_a_stale_read(wait: float) -> None:
    world = World()
    ages = watch_age(world)
    slow = world.reconciler("slow", budget_wait=wait)
    for hours in (0, 16, 4):
        world.clock.advance(hours * HOUR)
        assert slow.reconcile(world.target).error is None
    settle(world)
    assert len(ages) >= 4
    assert max(ages) <= MAX_AGE
    assert world.broken == []
    assert world.vendor.living() == [world.served()]


def test_a_slow_budget_and_keys_to_look_up_do_not_prevent_a_rotation() -> None:
    world = World()
    a = running(world)
    for _ in range(3):
        a.reconcile(world.target, FORCED)
    world.clock.advance(16 * HOUR)
    ages = watch_age(world)
    report = world.reconciler("slow", budget_wait=20).reconcile(world.target)
    assert (report.rotated, report.error) == (True, None)
    assert max(ages) <= MAX_AGE
    assert world.broken == []


def slow_to_read(world: World, seconds: float) -> None:
    """From now on each answer of the store takes `seconds`."""
    world.at("store.history", afterwards(lambda: world.clock.sleep(seconds)), times=inf)


@pytest.mark.parametrize("seconds", [6, 29])
@pytest.mark.parametrize("budget_wait", [0, 20])
def test_a_slow_store_delays_a_targets_life_and_prevents_nothing(seconds: float, budget_wait: float) -> None:
    world = World()
    slow_to_read(world, seconds)
    slow = world.reconciler("slow", budget_wait=budget_wait)
    for hours in (0, 16, 4):
        world.clock.advance(hours * HOUR)
        assert slow.reconcile(world.target).error is None
    world.clock.advance(2 * MINUTE)
    assert slow.reconcile(world.target).error is None
    assert world.vendor.living() == [world.served()]
    assert len(world.vendor.keys) == 2
    assert by_id(world, 1).revoked
    assert world.broken == []


def test_a_store_too_slow_to_shorten_a_key_is_reported_and_the_served_key_is_replaced() -> None:
    world = World()
    a = running(world)
    world.clock.advance(16 * HOUR)
    slow_to_read(world, MAX_READ + 1)
    report = a.reconcile(world.target)
    assert report.rotated
    world.clock.advance(4 * HOUR)
    report = a.reconcile(world.target)
    assert isinstance(report.error, StoreUnavailable)
    assert "longer than 30 s" in str(report.error)
    assert world.served() is by_id(world, 2)
    assert world.broken == []


def test_a_stale_answer_changes_nothing_however_slow_the_store() -> None:
    """The path is rolled back during the wait for the budget: the earlier answer does not show it."""
    world = World()
    a = running(world)
    a.reconcile(world.target, FORCED)
    old = by_id(world, 1)
    world.clock.advance(4 * HOUR)
    slow_to_read(world, 6)
    slow = world.reconciler("slow", budget_wait=MAX_AGE + 1)
    slow.observer.observe(world.target)
    world.at("budget.take", afterwards(lambda: world.store.rollback(world.target.path, 1)), times=1)
    old.expires_at = old.granted  # as the provider keeps it, should the shortening have been lost
    slow.reconcile(world.target)
    assert world.served() is old
    assert world.vendor.alive(old)
    assert world.broken == []


def test_a_store_that_becomes_slow_causes_no_delete_on_a_stale_read() -> None:
    world = World()
    a = superseded(world)
    late = afterwards(lambda: world.clock.sleep(MAX_READ + 1))
    world.at("store.destroy", afterwards(lambda: world.at("store.history", late)))
    ages = watch_age(world)
    a.reconcile(world.target)
    assert max(ages) <= MAX_AGE


def test_a_wall_clock_that_jumps_ends_no_grace_and_kills_no_key() -> None:
    world = World()
    a = running(world)
    for jump in (-30 * HOUR, 30 * HOUR, 0 * HOUR):
        world.clock.wall_jump = jump
        assert a.reconcile(world.target).error is None
    settle(world)
    assert_served(world)


# --- when a person asks ---


def test_revoke_now_ends_superseded_keys_at_once() -> None:
    for fresh in (False, True):
        world = World()
        a = running(world)
        if fresh:
            a = world.reconciler("fresh")
        report = a.reconcile(world.target, RotationRequest(rotate=True, revoke_now=True, by="cli"))
        assert (report.rotated, report.error) == (True, None)
        assert world.vendor.living() == [world.served()]
        assert world.store.versions(world.target.path)[1].destroyed
        assert world.events.of(EventType.KEY_DELETED)[0].fields["reason"] == Reason.REVOKED


def test_revoke_now_without_a_rotation_leaves_the_served_key() -> None:
    world = World()
    a = running(world)
    a.reconcile(world.target, FORCED)
    assert a.reconcile(world.target, RotationRequest(revoke_now=True)).error is None
    assert world.vendor.living() == [world.served()] == [by_id(world, 2)]


def test_a_revoked_key_expires_although_it_cannot_be_deleted() -> None:
    """Its versions are gone by then: only a sweep would find it, and would give it a grace."""
    world = World()
    a = running(world)
    world.at("provider.delete", refuse(ProviderUnavailable("no answer")))
    report = a.reconcile(world.target, RotationRequest(rotate=True, revoke_now=True))
    assert isinstance(report.error, ProviderUnavailable)
    assert [event.fields["key_id"] for event in world.events.of(EventType.KEY_NOT_REMOVED)] == ["tk_0001"]
    world.clock.advance(REVOKED_WITHIN)
    assert world.vendor.living() == [world.served()]


def test_a_revoked_key_that_the_provider_does_not_shorten_is_deleted_all_the_same() -> None:
    world = World()
    a = running(world)
    world.at("provider.set_expiry", refuse(ProviderRequestRefused("no")), times=inf)
    report = a.reconcile(world.target, RotationRequest(rotate=True, revoke_now=True))
    assert isinstance(report.error, ProviderRequestRefused)
    assert world.vendor.living() == [world.served()]


def previous(world: World) -> Reconciler:
    """Two keys of ours, the first within its grace."""
    a = running(world)
    a.reconcile(world.target, FORCED)
    world.clock.advance(HOUR)
    return a


@pytest.mark.parametrize("fresh", [False, True])
def test_rolling_back_serves_the_previous_key_again_with_its_whole_life(fresh: bool) -> None:
    world = World()
    a = previous(world)
    if fresh:
        a = world.reconciler("fresh")
    since = len(world.wire.journal)
    report = roll_back(a, world.target, RotationRequest(by="cli"))
    assert report.error is None
    assert report.plan is not None
    assert report.plan.state is State.OK
    assert world.served() is by_id(world, 1)
    assert by_id(world, 1).expires_at == START + 24 * HOUR
    assert by_id(world, 2).expires_at == world.clock.now() + 4 * HOUR
    changes = [name for name in world.calls(since=since) if name in CHANGES]
    assert changes == ["provider.set_expiry", "store.write", "provider.set_expiry"]
    assert world.events.of(EventType.KEY_ROLLED_BACK)[0].fields["by"] == "cli"
    assert world.broken == []
    for _ in range(30):
        world.clock.advance(HOUR)
        a.reconcile(world.target)
        assert_served(world)


@REFUSED
def test_a_refused_roll_back_that_landed_is_one(error: Exception) -> None:
    world = World()
    a = previous(world)
    world.at("store.write", lost(error))
    report = roll_back(a, world.target, RotationRequest())
    assert (report.rolled_back, report.error) == (True, None)
    assert world.served() is by_id(world, 1)
    assert by_id(world, 1).expires_at == by_id(world, 1).granted
    assert world.events.of(EventType.KEY_ROLLED_BACK)
    assert world.broken == []


def test_there_is_nothing_to_roll_back_to() -> None:
    world = World()
    for report in (
        roll_back(world.reconciler(), world.target, RotationRequest()),
        roll_back(running(world), world.target, RotationRequest()),
    ):
        assert report.error is not None
        assert "no previous key" in str(report.error)
    assert world.store.current_version(world.target.path) == 1


def test_there_is_nothing_to_roll_back_to_on_a_foreign_path() -> None:
    world = World()
    a = previous(world)
    world.store.put(world.target.path, password="x")
    report = roll_back(a, world.target, RotationRequest())
    assert report.error is not None
    assert "--adopt" in report.error.advice
    assert report.plan is not None
    assert report.plan.state is State.FOREIGN


@pytest.mark.parametrize("call", ["provider.retrieve", "provider.set_expiry"])
def test_a_failure_after_a_rollback_does_not_hide_that_it_was_done(call: str) -> None:
    world = World()
    a = previous(world)
    error = ProviderUnavailable("no answer")
    world.at("store.write", afterwards(lambda: world.at(call, refuse(error), times=inf)))
    report = roll_back(a, world.target, RotationRequest())
    assert (report.error, report.rolled_back) == (error, True)
    assert report.plan is not None
    assert world.served() is by_id(world, 1)


@pytest.mark.parametrize("what", ["gone", "expired", "not ours", "gone meanwhile"])
def test_a_previous_key_that_does_not_work_is_not_served(what: str) -> None:
    world = World()
    a = previous(world)
    key = by_id(world, 1)
    if what == "gone":
        world.vendor.revoke(key.id)
    elif what == "expired":
        world.clock.advance(22 * HOUR)
        world.vendor.keys["tk_0002"].expires_at = None
        a = world.reconciler("fresh")
        world.clock.advance(2 * HOUR)
    elif what == "not ours":
        key.name = "made-by-hand"
    else:
        world.at("provider.set_expiry", meanwhile(lambda: world.vendor.revoke(key.id)))
    data = world.store.read(world.target.path)
    reconciler = a if what == "gone meanwhile" else world.reconciler("fresh")
    report = roll_back(reconciler, world.target, RotationRequest())
    assert isinstance(report.error, ProviderRequestRefused)
    assert what.removesuffix(" meanwhile") in str(report.error)
    assert world.store.read(world.target.path) == data


def test_a_rollback_that_lost_against_another_writer_leaves_the_previous_key_to_expire() -> None:
    world = World()
    a = previous(world)
    world.at("store.write", meanwhile(lambda: world.store.rollback(world.target.path, 2)))
    report = roll_back(a, world.target, RotationRequest())
    assert isinstance(report.error, CasMismatch)
    assert world.served() is by_id(world, 2)
    assert by_id(world, 1).expires_at == START + 4 * HOUR
    assert world.broken == []


def test_a_key_that_was_revoked_during_its_rollback_is_replaced() -> None:
    world = World()
    a = previous(world)
    world.at("store.write", afterwards(lambda: world.vendor.revoke("tk_0001")))
    report = roll_back(a, world.target, RotationRequest())
    assert (report.rotated, report.attempted) == (True, Reason.MISSING)
    assert_served(world)


ROLL_BACK_CALLS = 16


@pytest.mark.parametrize("offset", range(ROLL_BACK_CALLS))
def test_a_roll_back_that_fails_anywhere_leaves_a_served_key_that_works(offset: int) -> None:
    world = World()
    a = previous(world)
    number = len(world.wire.journal) + offset
    roll_back(a, world.target, RotationRequest())
    assert len(world.wire.journal) <= number + ROLL_BACK_CALLS - offset
    operation = world.wire.journal[number].operation if number < len(world.wire.journal) else ""
    for name in faults(world, operation):
        world = World()
        a = previous(world)
        world.at(number, faults(world, operation)[name])
        reports = [roll_back(a, world.target, RotationRequest())]
        assert_promises_hold(world, [*reports, *settle(world)])
        assert world.broken == [], name


# --- many at once ---


def test_many_targets_in_many_threads_do_not_disturb_each_other() -> None:
    targets = [make_target(f"target-{number}") for number in range(40)]
    world = World(*targets)
    reconciler = world.reconciler()

    def step(target: Target) -> Report:
        return reconciler.reconcile(target)

    with ThreadPoolExecutor(8) as pool:
        for hours in (0, 16, 4, 1):
            world.clock.advance(hours * HOUR)
            reports = [*pool.map(step, targets)]
            assert [report.target for report in reports] == targets
            assert not [report.error for report in reports if report.error]
    served = [world.served(target) for target in targets]
    assert len({key.id for key in served if key}) == len(targets)
    assert len(world.vendor.living()) == len(targets)
    assert len(world.calls("provider.")) == len(targets) * 4
    assert world.broken == []


# --- an attacker who can write the path ---


def test_another_paths_key_is_not_ended_because_a_record_vouches_for_itself() -> None:
    """The record names the victim's key, and a name that is our own for this very version."""
    world, a, victim = beside_a_victim()
    version = world.store.current_version(world.target.path) + 1
    name = str(KeyName(OWNER, world.target.name, a.observer.scope(world.target).place, version, "a" * 8))
    forged = replace(record_of(world), key_id=victim.id, key_name=name, params="drifted")
    world.store.patch(world.target.path, **{RECORD_FIELD: forged.format()})
    sweeper = Sweeper("respan", [(a.observer, world.targets)], a.observer.ports.budget, MINUTE, 10)
    for _ in range(3):
        sweeper.sweep()
        a.reconcile(world.target, FORCED)
        world.clock.advance(5 * HOUR)
    touched = {call.subject for call in world.wire.journal if call.operation in CHANGES}
    assert victim.id not in touched
    assert world.vendor.alive(victim)


def patched(world: World, **changes: Any) -> None:
    """Write other values into the record of the served key."""
    world.store.patch(world.target.path, **{RECORD_FIELD: replace(record_of(world), **changes).format()})


def test_a_key_with_years_in_its_record_is_replaced_and_not_prolonged() -> None:
    world = World()
    a = running(world)
    first, end = by_id(world, 1), by_id(world, 1).expires_at
    patched(world, expires_at=START + timedelta(days=3000))
    world.at("provider.create", refuse(ProviderRequestRefused("no")))
    sweeper = Sweeper("respan", [(a.observer, world.targets)], a.observer.ports.budget, MINUTE, 10)
    sweeper.sweep()
    a.reconcile(world.target)
    assert (world.served(), first.expires_at) == (first, end)
    report = a.reconcile(world.target)
    assert (report.rotated, report.attempted) == (True, Reason.DRIFTED)
    assert_served(world)


def test_a_rollback_does_not_prolong_a_key_with_years_in_its_record() -> None:
    world = World()
    a = running(world)
    patched(world, expires_at=START + timedelta(days=3000))
    a.reconcile(world.target, FORCED)
    served, ends = world.served(), by_id(world, 1).expires_at
    report = roll_back(a, world.target, RotationRequest())
    assert "longer than any key of this target" in str(report.error)
    assert (world.served(), by_id(world, 1).expires_at) == (served, ends)


def test_foreign_fields_beside_the_key_survive_a_rollback() -> None:
    world = World()
    a = previous(world)
    world.store.patch(world.target.path, note="mind this")
    assert roll_back(a, world.target, RotationRequest()).rolled_back
    assert (world.store.read(world.target.path) or {})["note"] == "mind this"


def test_a_path_written_by_a_later_version_of_rotator_is_kept_and_rolled_back_with_its_record() -> None:
    """An upgrade, while the older replica still works; or the way back from one."""
    world = World()
    reconciler = running(world)
    later = f"mood=grumpy,{record_of(world).format()},use=0.9"
    world.store.patch(world.target.path, **{RECORD_FIELD: later})
    assert reconciler.reconcile(world.target, RotationRequest(rotate=True)).rotated
    assert not record_of(world).unknown, "the unknown fields belong to that key alone"
    report = roll_back(reconciler, world.target, RotationRequest())
    assert (report.error, report.rolled_back) == (None, True)
    assert record_of(world).unknown == ("mood=grumpy", "use=0.9")
    assert_served(world)
    assert not world.events.of(EventType.TARGET_FOREIGN)


def test_a_record_that_is_renewed_daily_keeps_its_key_for_two_lives_at_most() -> None:
    world = World()
    a = running(world)
    first = by_id(world, 1)
    sweeper = Sweeper("respan", [(a.observer, world.targets)], a.observer.ports.budget, MINUTE, 10)
    for hour in range(48):
        if world.served() is first and hour % 8 == 0:  # the path's history still shows how old the key is
            patched(world, issued_at=world.clock.now(), expires_at=world.clock.now() + 24 * HOUR)
        sweeper.sweep()
        a.reconcile(world.target)
        assert_served(world)
        world.clock.advance(HOUR)
    assert not world.vendor.alive(first)


# --- bugs of rotator ---


@pytest.mark.parametrize("call", ["provider.set_expiry", "probe"])
def test_any_bug_before_the_publish_leaves_no_key_behind(call: str) -> None:
    world = World()
    world.vendor.grants = lambda asked: asked + HOUR
    world.at(call, refuse(TypeError("a fault")))
    with pytest.raises(TypeError):
        world.reconciler().reconcile(world.target)
    assert world.vendor.living() == []


def test_a_removal_that_was_never_tried_has_not_failed() -> None:
    world = World()
    a = running(world)
    a.reconcile(world.target, FORCED)
    world.clock.advance(4 * HOUR)
    world.at("provider.create", refuse(ProviderUnavailable("no answer")), times=inf)
    report = a.reconcile(world.target, FORCED)
    assert report.error is not None
    assert not report.kept
    world.at("store.destroy", refuse(StoreUnavailable("no answer")))
    assert a.reconcile(world.target).kept


def test_a_corrected_expiry_is_in_the_audit_trail() -> None:
    world = World()
    world.vendor.grants = lambda asked: asked + HOUR
    running(world)
    (event,) = [event for event in world.events if event.what is EventType.KEY_SHORTENED]
    assert (event.fields["key_id"], event.fields["expires_at"]) == ("tk_0001", timestamp(START + 24 * HOUR))


def test_a_known_refusal_of_the_organisation_key_costs_neither_a_preflight_nor_the_budget() -> None:
    world = World()
    world.vendor.refusal = ProviderCredentialRefused("refused")
    assert world.reconciler().reconcile(world.target).error is world.vendor.refusal
    assert world.calls() == ["store.location", *READS]


# --- rollback: special cases ---


def test_a_previous_key_that_was_extended_past_its_record_is_served_again() -> None:
    world = World()
    previous(world)
    world.clock.advance(25 * HOUR)
    for number in (1, 2):
        by_id(world, number).expires_at = START + 72 * HOUR
    report = roll_back(world.reconciler("fresh"), world.target, RotationRequest())
    assert (report.error, report.rolled_back) == (None, True)
    assert_served(world)


def test_a_rollback_past_a_deleted_version_names_the_deletion() -> None:
    world = World()
    a = previous(world)
    world.store.delete(world.target.path)
    report = roll_back(a, world.target, RotationRequest())
    assert report.error is not None
    assert "is deleted" in report.error.message
    assert "ndelete" in report.error.advice


def test_a_rollback_that_waited_for_the_budget_uses_the_state_after_the_wait() -> None:
    world = World()
    a = previous(world)
    elsewhere = world.reconciler("elsewhere")
    world.at("budget.take", meanwhile(lambda: elsewhere.reconcile(world.target, FORCED)))
    since = len(world.wire.journal)
    report = roll_back(a, world.target, RotationRequest())
    history = [call.number for call in world.wire.journal[since:] if call.actor == "a" and "history" in call.operation]
    changes = [call.number for call in world.wire.journal[since:] if call.actor == "a" and call.operation in CHANGES]
    assert len(history) >= 2
    assert not changes or changes[0] > history[1]
    assert report.error is not None or world.served() is by_id(world, 2)
    assert_served(world)


def test_a_prolonged_key_is_reported_although_the_rollback_failed() -> None:
    world = World()
    a = previous(world)
    world.at("store.write", refuse(StoreSealed("sealed")))
    roll_back(a, world.target, RotationRequest())
    assert [event.fields["key_id"] for event in world.events if event.what is EventType.KEY_RESTORED] == ["tk_0001"]


def test_an_extended_key_is_not_reported_as_missing() -> None:
    world = World()
    a = running(world)
    world.at("provider.create", refuse(ProviderUnavailable("no answer")), times=inf)
    by_id(world, 1).expires_at = START + 72 * HOUR
    a.observer.memory.note(a.observer.observe(world.target), "tk_0001", by_id(world, 1).seen())
    world.clock.advance(25 * HOUR)
    report = a.reconcile(world.target)
    assert report.plan is not None
    assert (report.plan.state, report.plan.reason) == (State.DUE, Reason.EXPIRING)


def test_the_grace_of_a_key_begins_when_the_last_version_that_held_its_text_was_replaced() -> None:
    """A person put back the text alone, without the record: applications read it from there."""
    world = World()
    a = running(world)
    first = by_id(world, 1)
    adopting = RotationRequest(adopt=True)
    for _ in range(2):
        world.store.put(world.target.path, api_key=first.text)
        assert a.reconcile(world.target, adopting).rotated
        replaced_at = world.clock.now()
        world.clock.advance(3 * HOUR)
        a.reconcile(world.target)
    assert first.expires_at == replaced_at + world.target.grace_period
    assert world.vendor.alive(first)
