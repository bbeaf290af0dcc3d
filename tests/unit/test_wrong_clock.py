"""A machine whose clock every upstream contradicts: what it does, what it leaves, and what it repairs afterwards."""

from dataclasses import replace
from datetime import timedelta

import pytest
from support.world import HOUR, START, World, afterwards, make_target

from rotator.core.errors import NoKeyByThisClock
from rotator.core.events import EventType
from rotator.core.reasons import Reason, State
from rotator.core.renewal import FUTURE
from rotator.core.request import RotationRequest
from rotator.core.versions import RECORD_FIELD, Record

DAY = timedelta(days=1)
FORCED = RotationRequest(rotate=True, by="command")


def off(world: World, by: timedelta) -> World:
    """From now on the machine's clock is ahead by this much, and every upstream contradicts it."""
    world.clock.wall_jump = world.clock.is_disputed_by = by
    world.clock.is_trusted = not by
    return world


def with_a_key() -> World:
    world = World()
    assert world.reconciler().reconcile(world.target).rotated
    return world


def test_a_needed_key_lives_its_ttl_by_the_upstreams_time() -> None:
    world = off(World(), 400 * DAY)
    assert world.reconciler().reconcile(world.target).rotated
    served = world.served()
    assert served
    assert served.expires_at == START + world.target.ttl


@pytest.mark.parametrize("by", [400 * DAY, -9 * HOUR])
@pytest.mark.parametrize("wanted", [FORCED, replace(FORCED, adopt=True)])
def test_no_key_is_made_at_a_persons_request_while_the_clock_is_contradicted(
    by: timedelta, wanted: RotationRequest
) -> None:
    world = off(with_a_key(), by)
    report = world.reconciler().reconcile(world.target, wanted)
    assert isinstance(report.error, NoKeyByThisClock)
    assert ("ahead" if by > timedelta(0) else "behind") in report.error.message
    assert len(world.vendor.keys) == 1
    assert report.plan
    assert (report.plan.state, report.plan.reason) == (State.DUE, Reason.CLOCK)


def test_a_foreign_path_is_not_adopted_while_the_clock_is_contradicted() -> None:
    world = World(make_target(adopt=True))
    world.store.put(world.target.path, api_key="sk-by-hand")
    report = off(world, 400 * DAY).reconciler().reconcile(world.target)
    assert isinstance(report.error, NoKeyByThisClock)
    assert world.vendor.keys == {}


def test_a_served_key_is_not_taken_for_expired_by_a_clock_that_is_contradicted() -> None:
    world = off(with_a_key(), 400 * DAY)
    report = world.reconciler().reconcile(world.target)
    assert (report.error, report.rotated) == (None, False)
    assert len(world.vendor.keys) == 1


def test_a_key_that_is_due_waits_for_the_clock_until_it_is_about_to_expire() -> None:
    world = off(with_a_key(), 400 * DAY)
    reconciler = world.reconciler()
    world.clock.advance(17 * HOUR)
    assert isinstance(reconciler.reconcile(world.target).error, NoKeyByThisClock)
    assert len(world.vendor.keys) == 1
    world.clock.advance(5 * HOUR)  # 2 of the 8 hours of renew_before are left
    assert reconciler.reconcile(world.target).rotated
    served = world.served()
    assert served
    assert served.expires_at == START + 22 * HOUR + world.target.ttl
    assert not world.broken


def test_the_providers_answer_is_the_second_opinion_that_corrects_the_clock() -> None:
    world = off(with_a_key(), 400 * DAY)
    world.clock.advance(17 * HOUR)
    world.at("provider.retrieve", afterwards(lambda: off(world, timedelta(0))))
    report = world.reconciler().reconcile(world.target)
    assert report.attempted is Reason.EXPIRING
    served = world.served()
    assert served
    assert served.expires_at == START + 17 * HOUR + world.target.ttl
    assert world.calls("provider.")[1:3] == ["provider.retrieve", "provider.create"]


def test_a_key_that_was_issued_in_the_future_is_replaced_and_expires_with_its_grace() -> None:
    world = World()
    world.clock.wall_jump = 400 * DAY  # no upstream contradicts it
    world.reconciler().reconcile(world.target)
    long_lived = world.served()
    world.clock.wall_jump = timedelta(0)
    report = world.reconciler().reconcile(world.target)
    assert report.attempted is Reason.MISDATED
    served = world.served()
    assert served
    assert served.expires_at == START + world.target.ttl
    assert long_lived
    record = Record.parse((world.store.read(world.target.path) or {})[RECORD_FIELD])
    assert record
    assert record.issued_at == START
    assert world.reconciler().reconcile(world.target).attempted is None


@pytest.mark.parametrize(("ahead", "replaced"), [(FUTURE, False), (FUTURE + timedelta(minutes=1), True)])
def test_clocks_of_replicas_may_differ_a_little(ahead: timedelta, replaced: bool) -> None:
    world = World()
    world.clock.wall_jump = ahead
    world.reconciler().reconcile(world.target)
    world.clock.wall_jump = timedelta(0)
    assert world.reconciler().reconcile(world.target).rotated is replaced


def test_a_key_is_not_called_misdated_by_a_clock_that_is_contradicted() -> None:
    world = off(with_a_key(), -2 * DAY)
    assert world.reconciler().reconcile(world.target).error is None
    assert len(world.events.of(EventType.KEY_CREATED)) == 1


def test_a_superseded_key_that_nothing_shortens_is_reported_to_work_until_its_expiry() -> None:
    world = with_a_key()
    world.clock.is_trusted = False  # corrected: the upstreams agree with each other
    report = world.reconciler().reconcile(world.target, FORCED)
    assert report.rotated
    assert report.plan
    [old] = report.plan.superseded
    assert old.works_until == world.vendor.keys["tk_0001"].expires_at == START + world.target.ttl
    world.clock.is_trusted = True
    report = world.reconciler().reconcile(world.target)
    assert report.plan
    assert report.plan.superseded[0].works_until == START + world.target.grace_period
