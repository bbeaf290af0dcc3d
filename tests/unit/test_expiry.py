"""Providers that keep expiries in minutes, hours or days: graces last, nothing is repeated, reports are true."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from support.sweeps import orphan, sweeper_of
from support.world import HOUR, START, World, make_target

from rotator.core.events import EventType
from rotator.core.orphans import Outcome
from rotator.core.reasons import Reason, State
from rotator.core.request import LOOK, RotationRequest
from rotator.core.times import timestamp
from rotator.protocol.extend import extendable
from rotator.protocol.observer import list_keys
from rotator.protocol.rollback import roll_back

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
FORCED = RotationRequest(rotate=True, by="tester")
BY_HAND = RotationRequest(by="tester")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Rounding = Callable[[datetime], datetime]


def down(unit: timedelta) -> Rounding:
    return lambda asked: asked - (asked - EPOCH) % unit


def up(unit: timedelta) -> Rounding:
    return lambda asked: asked + (EPOCH - asked) % unit


def local_days(asked: datetime) -> datetime:
    """Whole days in a zone eight hours west of UTC."""
    return down(DAY)(asked - 8 * HOUR) + 8 * HOUR


def rounding(rounds: Rounding, start: timedelta = timedelta(seconds=37), *, answers: bool = True) -> World:
    """A provider that rounds every expiry, and the time at which the first key is made."""
    world = World(make_target(ttl=5 * DAY, renew_before=DAY))
    world.vendor.grants = world.vendor.keeps = rounds
    world.vendor.answers_changes = answers
    world.clock.advance(start)
    return world


ROUNDINGS = {
    "to the minute, down": down(MINUTE),
    "to the minute, up": up(MINUTE),
    "to the hour, down": down(HOUR),
    "to the hour, up": up(HOUR),
    "to the day, down": down(DAY),
    "to the day, up": up(DAY),
}


@pytest.mark.parametrize("answers", [True, False], ids=["shown", "not shown"])
@pytest.mark.parametrize("fresh", [True, False], ids=["run --once", "daemon"])
@pytest.mark.parametrize("rounds", ROUNDINGS.values(), ids=ROUNDINGS)
def test_a_superseded_key_works_for_its_whole_grace_and_its_expiry_is_set_once(
    rounds: Rounding, fresh: bool, answers: bool
) -> None:
    world = rounding(rounds, answers=answers)
    daemon = world.reconciler()
    daemon.reconcile(world.target)
    first = world.served()
    assert first
    world.clock.advance(3 * HOUR + timedelta(seconds=29))
    world.events.clear()
    since = len(world.wire.journal)
    assert daemon.reconcile(world.target, FORCED).rotated
    ends = world.clock.now() + world.target.grace_period
    sweeper = sweeper_of(daemon, world.targets)
    assert first.expires_at
    assert ends <= first.expires_at <= rounds(ends) + DAY
    while world.clock.now() + 15 * MINUTE < ends:
        world.clock.advance(15 * MINUTE)
        if fresh:
            world.reconciler("cron").reconcile(world.target, options=LOOK)
            world.reconciler("cron").reconcile(world.target)
        else:
            sweeper.sweep()
            daemon.reconcile(world.target)
        assert world.vendor.alive(first)
    shortened = [event for event in world.events.of(EventType.KEY_SHORTENED) if event.fields["key_id"] == first.id]
    assert [event.fields["expires_at"] for event in shortened] == [timestamp(first.expires_at)]
    assert len([name for name in world.calls(since=since) if name == "provider.set_expiry"]) <= 3
    assert not world.broken
    world.clock.advance(15 * MINUTE)
    daemon.reconcile(world.target)
    assert first.revoked, "it is removed when its grace is over, whatever the provider keeps"


@pytest.mark.parametrize("rounds", [down(MINUTE), down(HOUR), down(DAY), local_days])
def test_the_first_request_cuts_no_grace_where_the_key_shows_how_the_provider_rounds(rounds: Rounding) -> None:
    world = rounding(rounds)
    reconciler = world.reconciler()
    reconciler.reconcile(world.target)
    kept: list[datetime] = []
    world.vendor.keeps = lambda asked: kept.append(rounds(asked)) or kept[-1]  # type: ignore[func-returns-value]
    world.clock.advance(17 * MINUTE)
    reconciler.reconcile(world.target, FORCED)
    ends = world.clock.now() + world.target.grace_period
    if rounds is local_days:  # by the key it looks like whole hours: the answer shows that they are days
        assert kept == [START - 4 * HOUR, START + 20 * HOUR]
    else:
        assert min(kept, default=ends) >= ends
    [old] = (key for key in world.vendor.keys.values() if key is not world.served())
    assert old.expires_at
    assert old.expires_at >= ends


@pytest.mark.parametrize("rounds", [down(MINUTE), down(HOUR), down(DAY)])
def test_an_expiry_that_was_rounded_down_is_corrected_by_what_the_answer_shows(rounds: Rounding) -> None:
    world = rounding(lambda asked: asked)
    reconciler = world.reconciler()
    reconciler.reconcile(world.target)
    first = world.served()
    world.vendor.keeps = rounds  # the key itself does not show it
    world.clock.advance(17 * MINUTE + timedelta(seconds=5))
    reconciler.reconcile(world.target, FORCED)
    ends = world.clock.now() + world.target.grace_period
    assert first
    assert first.expires_at
    assert ends <= first.expires_at < ends + DAY
    assert len(world.events.of(EventType.KEY_SHORTENED)) == 2
    assert world.events.of(EventType.KEY_SHORTENED)[-1].fields["expires_at"] == timestamp(first.expires_at)


def test_what_a_provider_does_not_correct_is_reported_as_it_is_and_not_asked_for_again() -> None:
    world = rounding(lambda asked: asked)
    reconciler = world.reconciler()
    reconciler.reconcile(world.target)
    world.clock.advance(HOUR)
    soon = world.clock.now() + HOUR
    world.vendor.keeps = lambda asked: min(asked, soon)
    report = reconciler.reconcile(world.target, FORCED)
    assert report.plan
    [old] = report.plan.superseded
    assert old.works_until == soon
    assert old.until == world.clock.now() + world.target.grace_period
    since = len(world.wire.journal)
    sweeper_of(reconciler, world.targets).sweep()
    reconciler.reconcile(world.target)
    assert "provider.set_expiry" not in world.calls(since=since)


def test_a_key_that_is_not_restored_whatever_is_asked_for_is_replaced() -> None:
    world = rounding(lambda asked: asked)
    reconciler = world.reconciler()
    reconciler.reconcile(world.target)
    reconciler.reconcile(world.target, FORCED)
    first = world.vendor.keys["tk_0001"]
    world.store.rollback(world.target.path, 1)
    ends = first.expires_at
    assert ends
    world.vendor.keeps = lambda asked: min(asked, ends)
    report = reconciler.reconcile(world.target)
    assert report.attempted is Reason.DRIFTED
    assert report.plan
    assert report.plan.state is State.OK
    assert not [
        event for event in world.events.of(EventType.KEY_RESTORED) if event.fields["expires_at"] != timestamp(ends)
    ]


@pytest.mark.parametrize("rounds", ROUNDINGS.values(), ids=ROUNDINGS)
def test_an_orphan_is_given_one_grace_and_its_true_end_is_reported(rounds: Rounding) -> None:
    world = rounding(rounds)
    reconciler = world.reconciler()
    reconciler.reconcile(world.target)
    lonely = orphan(world, life=3 * DAY)
    sweeper = sweeper_of(reconciler, world.targets)
    sweeper.sweep()
    world.clock.advance(6 * MINUTE + timedelta(seconds=11))
    since = len(world.wire.journal)
    [shortened] = sweeper.sweep().orphans
    ends = world.clock.now() + world.target.grace_period
    assert shortened.outcome is Outcome.SHORTENED
    assert shortened.until == lonely.expires_at
    assert shortened.until
    assert shortened.until >= ends
    asked = world.calls("provider.set_expiry", since)
    while world.clock.now() <= ends:
        assert world.vendor.alive(lonely)
        sweeper.sweep()
        world.clock.advance(15 * MINUTE)
    sweeper.sweep()
    assert lonely.revoked
    assert world.calls("provider.set_expiry", since) == asked


@pytest.mark.parametrize("rounds", ROUNDINGS.values(), ids=ROUNDINGS)
def test_a_rollback_restores_the_recorded_life(rounds: Rounding) -> None:
    world = rounding(rounds)
    reconciler = world.reconciler()
    reconciler.reconcile(world.target)
    world.clock.advance(HOUR)
    reconciler.reconcile(world.target, FORCED)
    report = roll_back(reconciler, world.target, BY_HAND)
    assert report.error is None
    first = world.vendor.keys["tk_0001"]
    assert world.served() is first
    assert first.expires_at
    assert first.expires_at >= first.granted
    assert world.events.of(EventType.KEY_RESTORED)[-1].fields["expires_at"] == timestamp(first.expires_at)
    assert reconciler.reconcile(world.target).attempted is None


def test_a_rollback_to_a_key_that_the_provider_does_not_prolong_is_refused() -> None:
    world = rounding(lambda asked: asked)
    reconciler = world.reconciler()
    reconciler.reconcile(world.target)
    reconciler.reconcile(world.target, FORCED)
    second = world.served()
    ends = world.vendor.keys["tk_0001"].expires_at
    assert ends
    world.vendor.keeps = lambda asked: min(asked, ends)
    report = roll_back(reconciler, world.target, BY_HAND)
    assert report.error
    assert timestamp(ends) in report.error.message
    assert world.served() is second


@pytest.mark.parametrize("rounds", ROUNDINGS.values(), ids=ROUNDINGS)
def test_an_extended_key_lives_as_long_as_was_asked_for(rounds: Rounding) -> None:
    world = rounding(rounds)
    reconciler = world.reconciler()
    reconciler.reconcile(world.target)
    [key] = world.vendor.keys.values()
    until = START + 7 * DAY + timedelta(minutes=3, seconds=4)
    [found], _ = extendable(reconciler.observer, list_keys(reconciler.observer.ports), world.targets, until)
    ends = found.extend(until)
    assert ends == key.expires_at
    assert isinstance(ends, datetime)
    assert until <= ends < until + DAY
    assert world.events.of(EventType.KEY_EXTENDED)[0].fields["expires_at"] == timestamp(ends)


def test_an_extension_that_the_provider_cuts_short_is_an_error_that_names_the_true_end() -> None:
    world = rounding(lambda asked: asked)
    reconciler = world.reconciler()
    reconciler.reconcile(world.target)
    most = START + 6 * DAY
    world.vendor.keeps = lambda asked: min(asked, most)
    until = START + 7 * DAY
    [found], _ = extendable(reconciler.observer, list_keys(reconciler.observer.ports), world.targets, until)
    error = found.extend(until)
    assert not isinstance(error, datetime)
    assert timestamp(most) in error.message


def test_a_new_key_of_a_provider_that_rounds_up_is_not_reported_as_shortened() -> None:
    world = rounding(up(HOUR))
    world.reconciler().reconcile(world.target)
    assert not world.events.of(EventType.KEY_SHORTENED)
