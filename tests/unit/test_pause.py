"""Pauses: scheduled rotations wait, and a key that would expire meanwhile is extended."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.passes import Working
from support.world import HOUR, START, IssuedKey, make_target, refuse

from rotator.config.windows import CronWindow
from rotator.core.errors import ProviderRequestRefused, ProviderUnavailable
from rotator.core.events import EventType
from rotator.core.plan import plan
from rotator.core.reasons import Reason, State
from rotator.core.renewal import MOST_AHEAD
from rotator.core.request import LOOK, RotationRequest
from rotator.core.windows import opened_at

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
END = START + 10 * DAY
PAUSED = make_target(pause_until=END)  # its first key lives for a day, and is due after 16 hours


def extended(rotator: Working) -> list[datetime]:
    """Return until when the served key was extended, each time."""
    return [datetime.fromisoformat(str(event.fields["expires_at"])) for event in rotator.events(EventType.KEY_EXTENDED)]


def served(rotator: Working) -> IssuedKey:
    key = rotator.world.served()
    assert key is not None
    return key


def test_a_key_that_would_expire_in_the_pause_is_extended_once_and_replaced_after_it() -> None:
    rotator = Working(PAUSED)
    rotator.work(START + 16 * HOUR - MINUTE)
    assert extended(rotator) == []
    rotator.work(START + 16 * HOUR)
    assert extended(rotator) == [END + PAUSED.renew_before]
    [event] = rotator.events(EventType.KEY_EXTENDED)
    assert event.fields["reason"] == "paused"
    rotator.work(END - MINUTE)
    assert (rotator.plan.state, rotator.plan.reason) == (State.OK, Reason.PAUSED)
    assert rotator.plan.next_rotation_at == END
    assert rotator.plan.current is not None
    assert rotator.plan.current.expires_at == END + PAUSED.renew_before  # what status, page and metrics show
    assert len(rotator.world.store.puts) == 1  # housekeeping writes no version
    rotator.work(END)
    assert rotator.rotated_at == [START, END]
    assert len(extended(rotator)) == 1
    assert rotator.outside == []


def test_the_extended_key_keeps_its_whole_grace_and_no_more() -> None:
    rotator = Working(PAUSED)
    old = served(rotator)
    rotator.work(END)
    assert old.expires_at == END + PAUSED.grace_period
    rotator.work(END + PAUSED.grace_period)
    assert old.revoked
    assert rotator.world.broken == []


@pytest.mark.parametrize("hours", [2, 16, 30, 239])
def test_a_restart_in_the_pause_changes_nothing(hours: float) -> None:
    rotator = Working(PAUSED)
    rotator.work(START + hours * HOUR)
    rotator.restart()
    rotator.step(options=LOOK)  # a daemon's first pass, and each pass of a replica that stands by
    assert (rotator.plan.state, rotator.plan.actions) == (State.OK, ())
    rotator.work(END)
    assert rotator.rotated_at == [START, END]
    assert len(extended(rotator)) == 1
    rotator.restart()
    rotator.work(END + PAUSED.grace_period)
    assert rotator.world.broken == []


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_pause_that_is_removed_ends_at_once(is_restarted: bool) -> None:
    rotator = Working(PAUSED)
    old = served(rotator)
    rotator.work(START + 2 * DAY)
    rotator.world.targets = (replace(PAUSED, pause_until=None),)
    if is_restarted:
        rotator.restart()
    rotator.step()
    assert rotator.rotated_at == [START, START + 2 * DAY]
    rotator.work(START + 2 * DAY + PAUSED.grace_period - MINUTE)
    assert rotator.world.vendor.alive(old)
    rotator.work(START + 2 * DAY + PAUSED.grace_period)
    assert not rotator.world.vendor.alive(old)
    assert rotator.world.broken == []


def test_no_key_is_extended_more_than_thirty_days_ahead() -> None:
    target = replace(PAUSED, pause_until=START + 80 * DAY)
    rotator = Working(target)
    for now in rotator.run(target.pause_until or END):
        ends = served(rotator).expires_at
        assert ends is not None
        assert now < ends <= now + MOST_AHEAD
    assert len(extended(rotator)) == 3
    assert rotator.rotated_at == [START, START + 80 * DAY]


def test_a_key_whose_margin_is_longer_than_that_is_extended_twice_a_month_at_most() -> None:
    target = replace(PAUSED, ttl=90 * DAY, renew_before=60 * DAY, pause_until=START + 200 * DAY)
    rotator = Working(target)
    for now in rotator.run(START + 200 * DAY):
        ends = served(rotator).expires_at
        assert ends is not None
        assert now < ends
    assert rotator.rotated_at == [START, START + 200 * DAY]
    assert len(extended(rotator)) <= (200 - 90) / 14 + 2


def test_a_key_is_looked_up_once_it_is_due_and_not_before() -> None:
    """Else each restart in a pause would cost a request a target."""
    rotator = Working(PAUSED)
    rotator.restart()
    rotator.work(START + 16 * HOUR - MINUTE)
    assert rotator.world.calls("provider.retrieve") == []
    rotator.work(START + 2 * DAY)
    assert rotator.world.calls("provider.retrieve") == ["provider.retrieve"]


def test_before_it_is_due_a_key_shows_its_recorded_expiry() -> None:
    rotator = Working(PAUSED)
    rotator.restart()
    rotator.work(START + HOUR)
    assert rotator.plan.current is not None
    assert rotator.plan.current.expires_at == START + PAUSED.ttl


def test_a_key_that_outlives_the_pause_is_not_extended() -> None:
    target = replace(PAUSED, pause_until=START + 15 * HOUR)
    rotator = Working(target)
    rotator.work(START + DAY)
    assert extended(rotator) == []
    assert rotator.rotated_at == [START, START + 16 * HOUR]


def test_a_key_that_is_due_in_the_pause_and_expires_after_it_is_extended_too_so_that_retries_have_time() -> None:
    target = replace(PAUSED, pause_until=START + 23 * HOUR)
    rotator = Working(target)
    rotator.work(START + 23 * HOUR)
    assert extended(rotator) == [START + 31 * HOUR]
    assert rotator.rotated_at == [START, START + 23 * HOUR]


def test_changed_parameters_and_a_pause_in_the_past() -> None:
    rotator = Working(PAUSED)
    rotator.world.targets = (replace(PAUSED, parameters={"rate_limit": 7}),)
    rotator.work(START + 2 * DAY)
    assert rotator.rotated_at == [START]
    rotator.work(END)
    assert rotator.rotated_at == [START, END]
    rotator.work(END + 16 * HOUR)  # the pause has no effect any longer
    assert rotator.rotated_at == [START, END, END + 16 * HOUR]


def test_a_request_and_a_lost_key_do_not_wait() -> None:
    rotator = Working(PAUSED)
    rotator.step(RotationRequest(rotate=True))
    assert len(rotator.rotated_at) == 2
    rotator.world.vendor.revoke(served(rotator).id)
    rotator.restart()
    rotator.look_up()
    rotator.step()
    assert len(rotator.rotated_at) == 3
    assert rotator.outside == []


def test_an_extended_key_that_the_provider_does_not_know_is_not_replaced_where_it_knows_hardly_any() -> None:
    """With another account's credential, most served keys look gone: a person decides about these."""
    rotator = Working(PAUSED)
    rotator.work(START + 2 * DAY)
    observer, target = rotator.reconciler.observer, rotator.world.target
    seen = observer.observe(target)
    assert seen.current is not None
    assert seen.current.record is not None
    gone = observer.memory.note(seen, seen.current.record.key_id, None)
    made = plan(replace(gone, gone_is_believed=False), START + 2 * DAY)
    assert (made.state, made.reason, made.actions) == (State.FAILING, Reason.UNRECOGNISED, ())
    assert plan(gone, START + 2 * DAY).reason is Reason.MISSING


@pytest.mark.parametrize("error", [ProviderUnavailable("out"), ProviderRequestRefused("no")])
def test_a_key_that_cannot_be_extended_is_replaced_before_it_expires_and_that_is_reported(error: Exception) -> None:
    rotator = Working(PAUSED)
    rotator.world.at("provider.set_expiry", refuse(error), times=10**6)
    rotator.work(START + 22 * HOUR)  # a quarter of renew_before is left
    assert rotator.rotated_at == [START, START + 22 * HOUR]
    assert rotator.outside == ["expiring"]


def test_a_key_whose_extension_the_provider_ignores_is_replaced_before_it_expires() -> None:
    rotator = Working(PAUSED)
    before = served(rotator).expires_at
    assert before is not None
    rotator.world.vendor.keeps = lambda _: before
    rotator.work(START + 22 * HOUR)
    assert rotator.rotated_at == [START, START + 22 * HOUR]


def test_a_key_with_another_places_name_is_not_extended() -> None:
    """Who can write a path can write a record that names another's key."""
    rotator = Working(PAUSED)
    served(rotator).name = "prod-eu.other.xxxxxxxxxxxx.1.xxxxxxxx"
    rotator.restart()
    rotator.work(START + 21 * HOUR)
    assert extended(rotator) == []


@pytest.mark.parametrize("renew_before", [8 * HOUR, HOUR])
def test_with_a_provider_that_rounds_down_a_key_lasts_through_the_pause_too(renew_before: timedelta) -> None:
    target = replace(PAUSED, pause_until=END - HOUR, renew_before=renew_before, grace_period=HOUR)
    rotator = Working(target)
    rotator.world.vendor.keeps = lambda asked: asked.replace(hour=0, minute=0, second=0)
    for now in rotator.run(END - HOUR):
        ends = served(rotator).expires_at
        assert ends is not None
        assert now < ends
    assert rotator.rotated_at == [START, END - HOUR]


def test_after_the_pause_a_window_is_waited_for() -> None:
    """START is a Sunday at noon, and the pause ends on a Wednesday."""
    target = replace(PAUSED, windows=(CronWindow("0 9 * * 1", 7 * HOUR, "UTC"),), ttl=14 * DAY, renew_before=10 * DAY)
    rotator = Working(target)
    rotator.work(START + 20 * DAY)
    assert extended(rotator) == [datetime.fromisoformat("2026-03-26T09:00Z")]
    assert rotator.rotated_at == [START, datetime.fromisoformat("2026-03-16T09:00Z")]


WORKING = (CronWindow("0 9 * * 1-4", 7 * HOUR, "UTC"),)


@pytest.mark.parametrize("hours", [12 * 24 + 6, 15 * 24 + 12])  # a Friday, and after the recorded expiry
@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_pause_that_is_removed_leaves_its_keys_to_the_next_window(hours: int, is_restarted: bool) -> None:
    """A new process does not know of the extension: it must not take the recorded expiry for the end of the key."""
    paused = make_target(ttl=14 * DAY, renew_before=6 * DAY, windows=WORKING, pause_until=START + 40 * DAY)
    rotator = Working(paused)
    rotator.work(START + hours * HOUR)
    rotator.world.targets = (replace(paused, pause_until=None),)
    if is_restarted:
        rotator.restart()
    rotator.step()
    assert (rotator.plan.state, rotator.plan.reason) == (State.OK, Reason.WINDOW)
    opens_at = opened_at(WORKING, START + hours * HOUR)
    rotator.work(opens_at)
    assert rotator.rotated_at == [START, opens_at]
    assert rotator.outside == []


@pytest.mark.parametrize("left", [22, 9, 5])
def test_a_key_that_was_made_for_a_shorter_life_is_extended_too(left: int) -> None:
    """The pause comes with longer times: a quarter of the new ones is more than the key has left."""
    before = make_target(ttl=DAY, renew_before=4 * HOUR)
    rotator = Working(before)
    rotator.world.clock.advance(DAY - left * HOUR)
    rotator.world.targets = (replace(before, ttl=14 * DAY, renew_before=6 * DAY, pause_until=END),)
    rotator.work(END)
    assert rotator.rotated_at == [START, END]
    assert extended(rotator) == [END + 6 * DAY]
    assert rotator.outside == []


@given(
    pause=st.integers(1, 8000).map(lambda hours: hours * HOUR),
    ttl=(st.integers(2, 200) | st.integers(200, 4000)).map(lambda hours: hours * HOUR),
    share=st.floats(0.1, 0.9),
    restarts=st.lists(st.integers(0, 60), max_size=5),
)
@settings(max_examples=60, deadline=None)
def test_no_key_expires_or_is_replaced_in_a_pause(
    pause: timedelta, ttl: timedelta, share: float, restarts: list[int]
) -> None:
    target = make_target(pause_until=START + pause, ttl=ttl, renew_before=ttl * share, grace_period=ttl * share / 2)
    rotator = Working(target)
    for number, now in enumerate(rotator.run(START + pause)):
        ends = served(rotator).expires_at
        assert ends is not None
        assert now < ends
        if number in restarts:
            rotator.restart()
    assert [at for at in rotator.rotated_at[1:] if at < START + pause] == []
    assert rotator.world.broken == []
    assert rotator.outside == []
