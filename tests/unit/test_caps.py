"""What a key's caps demand: the state, an early rotation, what holds one up, and how often there may be one."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.world import ALL, HOUR, OWNER, START, make_target

from rotator.config.windows import CronWindow
from rotator.core import caps
from rotator.core.caps import early_rotations, is_hot
from rotator.core.expiry import KeyObservation
from rotator.core.keys import KeyName, ProviderKey, place_of
from rotator.core.observation import Observation, PathReading
from rotator.core.plan import Plan, Rotate, deadline, plan
from rotator.core.reasons import Reason, State
from rotator.core.request import RotationRequest
from rotator.core.secrets import Secret
from rotator.core.superseded import superseded_keys
from rotator.core.target import Cap, CapPolicy, Target
from rotator.core.use import APART, LOOKS, CapUse, KeyUse, UseSeries, series_with
from rotator.core.versions import MAX_EARLY, History, Record, Scope, Version, compose
from rotator.telemetry.wording import percent

PLACE = place_of(OWNER, "memory/apps/billing-api/respan")
SCOPE = Scope(OWNER, (PLACE,), PLACE, frozenset({OWNER}), frozenset())
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
CAP = Cap("max_usage", 100, "calls")
REPORTS = CapPolicy((CAP,), pickup=15 * MINUTE, max_early_rotations=2)
REPLACES = replace(REPORTS, replaces=True)


def target_with(policy: CapPolicy) -> Target:
    return replace(make_target(), caps=policy, parameters={"max_usage": 100})


def made(target: Target, number: int, hours: float, why: str = "expiring", early: str = "") -> Version:
    """A version that was written `hours` after START, with a key of its own."""
    letter = chr(ord("A") + number)
    name = str(KeyName(OWNER, target.name, PLACE, number, letter.lower() * 8))
    at, secret = START + hours * HOUR, Secret(f"text of {letter}")
    record = Record(
        OWNER, target.name, letter, name, at, at + 24 * HOUR, target.fingerprint, secret.fingerprint, why, early
    )
    return Version(number, at, compose(target, record, secret, {}))


def seen(used: float | None, after: timedelta, limit: float | None = None, cap: str = "max_usage") -> KeyUse:
    """A look at the use, so long after START."""
    return KeyUse(() if used is None else (CapUse(cap, used, limit),), as_of=START + after)


def observed(policy: CapPolicy, looks: Sequence[KeyUse], *versions: Version, alone: bool | None = None) -> Observation:
    """A path whose newest version has the key that these looks were at; one version if left out."""
    target = target_with(policy)
    history = History(len(versions) or 1, versions or (made(target, 1, 0),), 0.0)
    reading = PathReading(target, SCOPE, history)
    shown = {
        entry.record.key_id: KeyObservation(
            ProviderKey(entry.record.key_id, entry.record.key_name, entry.record.expires_at), history.current_version
        )
        for entry in reading.entries
        if entry.record
    }
    current = reading.current
    assert current is not None
    assert current.key_id is not None
    series: UseSeries | None = None
    for look in looks:
        series = series_with(series, look)
    use = {current.key_id: replace(series, is_shown_alone=alone)} if series else {}
    return Observation(reading, shown, ALL, use=use, hot_every=MINUTE)


def decided(observation: Observation, after: timedelta) -> Plan:
    return plan(observation, START + after)


def replaced_for(made: Plan) -> Reason | None:
    return next((action.reason for action in made.actions if isinstance(action, Rotate)), None)


# --- is it spent? ----------------------------------------------------------------------------------------------------


def test_use_that_is_not_shown_is_unknown_and_not_none() -> None:
    for looks in ([], [seen(None, HOUR)]):
        decision = decided(observed(REPLACES, looks), HOUR)
        assert (decision.state, decision.use, replaced_for(decision)) == (State.OK, None, None)


@pytest.mark.parametrize(("used", "state"), [(0, State.OK), (99, State.OK), (100, State.SPENT), (170, State.SPENT)])
def test_a_spent_key_is_never_called_ok(used: float, state: State) -> None:
    decision = decided(observed(REPORTS, [seen(used, 10 * HOUR)]), 10 * HOUR)
    assert decision.state is state
    assert decision.use is not None
    assert (decision.use.ratio, decision.use.is_spent) == (used / 100, state is State.SPENT)
    assert replaced_for(decision) is None, "it is only reported"


def test_a_key_is_spent_since_the_first_look_that_showed_it_however_many_follow() -> None:
    looks = [seen(90, HOUR), *(seen(100, (2 + number) * HOUR) for number in range(2 * LOOKS))]
    decision = decided(observed(REPORTS, looks), 20 * HOUR)
    assert decision.use is not None
    assert decision.use.spent_at == START + 2 * HOUR


def test_the_limit_that_the_provider_shows_counts_and_not_the_configured_one() -> None:
    assert decided(observed(REPORTS, [seen(50, HOUR, limit=50)]), HOUR).state is State.SPENT
    assert decided(observed(REPORTS, [seen(100, HOUR, limit=1000)]), HOUR).state is State.OK


def test_a_limit_of_zero_is_spent_and_divides_by_nothing() -> None:
    decision = decided(observed(REPORTS, [seen(0, HOUR, limit=0)]), HOUR)
    assert (decision.state, decision.use and decision.use.ratio) == (State.SPENT, 1.0)


def test_the_share_of_a_limit_near_zero_is_a_number() -> None:
    decision = decided(observed(REPORTS, [seen(1e10, HOUR, limit=1e-310)]), HOUR)
    assert decision.use is not None
    assert (decision.state, percent(decision.use.ratio)) == (State.SPENT, "100000000%")


def test_a_configured_limit_says_nothing_of_a_key_that_was_made_with_another() -> None:
    other = replace(target_with(REPORTS), parameters={"max_usage": 1000})
    decision = decided(observed(REPORTS, [seen(100, HOUR)], made(other, 1, 0)), HOUR)
    assert decision.use is None


def test_of_several_caps_the_one_with_the_largest_share_is_shown() -> None:
    look = KeyUse((CapUse("max_usage", 10, 100), CapUse("spending_limit", 4, 5)), as_of=START + HOUR)
    decision = decided(observed(REPORTS, [look]), HOUR)
    assert decision.use is not None
    assert (decision.use.cap.option, decision.use.ratio) == ("spending_limit", 0.8)


def test_of_several_caps_the_one_that_makes_the_key_nearly_spent_is_shown_and_decides_how_urgent_it_is() -> None:
    """60 of 100 calls in ten hours last for hours more, but a USD a minute is 2 minutes of what is left of 5 USD."""
    looks = [
        KeyUse((CapUse("max_usage", 59, 100), CapUse("spending_limit", 2, 5)), as_of=START + 10 * HOUR - MINUTE),
        KeyUse((CapUse("max_usage", 60, 100), CapUse("spending_limit", 3, 5)), as_of=START + 10 * HOUR),
    ]
    decision = decided(observed(REPLACES, looks), 10 * HOUR)
    assert decision.use is not None
    assert (decision.use.cap.option, replaced_for(decision)) == ("spending_limit", Reason.NEARLY_SPENT)
    assert deadline(decision, START + 10 * HOUR) == START + 10 * HOUR + 2 * MINUTE


def test_a_key_that_is_gone_is_missing_and_not_spent() -> None:
    observation = observed(REPORTS, [seen(100, HOUR)])
    gone = replace(observation, shown={"B": KeyObservation(None, 1)})
    assert decided(gone, HOUR).state is State.MISSING


# --- is it nearly spent? ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("looks", "after", "is_near"),
    [
        ([seen(79, 10 * HOUR)], 10 * HOUR, False),
        ([seen(80, 10 * HOUR)], 10 * HOUR, True),  # the threshold
        # 40 in the first hour are 0.67 a minute: 16 minutes of it, half as much again, are 16 of the 60 that are left
        ([seen(40, HOUR)], HOUR, False),
        # a burst of 3 a minute needs 72 of the 70 that are left, although 30 in an hour are few
        ([seen(0, 50 * MINUTE), seen(30, HOUR)], HOUR, True),
        # the highest slope counts, though nothing was used since
        ([seen(0, 50 * MINUTE), seen(30, HOUR), seen(30, 2 * HOUR)], 2 * HOUR, True),
        # two looks so close show no burst
        ([seen(10, HOUR), seen(12, HOUR + APART / 2)], HOUR, False),
    ],
)
def test_a_key_is_nearly_spent_by_its_threshold_or_by_its_rate(
    looks: list[KeyUse], after: timedelta, *, is_near: bool
) -> None:
    decision = decided(observed(REPLACES, looks), after)
    assert decision.is_nearly_spent is is_near
    assert replaced_for(decision) is (Reason.NEARLY_SPENT if is_near else None)


@pytest.mark.parametrize("held", [{"windows": (CronWindow("0 3 * * 1", HOUR, "UTC"),)}, {"pause_until": START + DAY}])
def test_neither_a_window_nor_a_pause_holds_back_a_key_that_is_nearly_spent(held: dict[str, Any]) -> None:
    observation = observed(REPLACES, [seen(80, 10 * HOUR)])
    reading = replace(observation.reading, target=replace(observation.target, **held))
    decision = decided(replace(observation, reading=reading), 10 * HOUR)  # a Sunday
    assert (decision.state, replaced_for(decision)) == (State.DUE, Reason.NEARLY_SPENT)


def test_the_first_look_after_a_restart_shows_a_rate() -> None:
    assert decided(observed(REPLACES, [seen(60, 30 * MINUTE)]), 30 * MINUTE).is_nearly_spent, "2 a minute, 40 left"


def test_a_number_that_shrinks_starts_a_new_series() -> None:
    series = series_with(series_with(None, seen(90, HOUR)), seen(5, 2 * HOUR))
    assert [look.used("max_usage") for look in series.looks] == [5]
    assert decided(observed(REPORTS, [seen(100, HOUR), seen(0, 2 * HOUR)]), 2 * HOUR).state is State.OK


@pytest.mark.parametrize(("after", "is_used"), [(91, True), (90, False), (5, True), (0, False)])
def test_a_count_that_grew_or_began_anew_was_used(after: float, *, is_used: bool) -> None:
    series = series_with(series_with(None, seen(90, HOUR)), seen(after, 2 * HOUR))
    assert series.used_at == (START + 2 * HOUR if is_used else None)


def test_a_cap_that_is_no_longer_shown_is_unknown() -> None:
    assert decided(observed(REPORTS, [seen(100, HOUR), seen(None, 2 * HOUR)]), 2 * HOUR).use is None


def test_a_look_from_the_past_is_ignored() -> None:
    series = series_with(series_with(None, seen(90, 2 * HOUR)), seen(80, HOUR))
    assert [look.used("max_usage") for look in series.looks] == [90]


@given(st.lists(st.tuples(st.floats(0, 1e9), st.integers(1, 10**5)), min_size=1, max_size=30))
def test_a_series_is_bounded_in_order_and_keeps_the_newest_look(looks: list[tuple[float, int]]) -> None:
    series, time = None, timedelta(0)
    for used, seconds in looks:
        time += timedelta(seconds=seconds)
        series = series_with(series, seen(used, time))
    assert series is not None
    times = [look.as_of for look in series.looks if look.as_of]
    numbers = [look.used("max_usage") or 0.0 for look in series.looks]
    assert len(times) <= LOOKS
    assert times == sorted(times)
    assert numbers == sorted(numbers)
    assert series.latest.used("max_usage") == looks[-1][0]
    assert series.rate("max_usage", START) >= 0


# --- hot keys --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alone", "hot", "near"), [(None, True, False), (True, True, False), (False, False, True)])
def test_a_key_is_looked_up_alone_before_it_is_replaced_unless_that_shows_nothing(
    *, alone: bool | None, hot: bool, near: bool
) -> None:
    """2 a minute of 60 left: 48 are used within pickup and a minute, 90 within pickup and the time to the next list."""
    observation = observed(REPLACES, [seen(40, 20 * MINUTE)], alone=alone)
    record = observation.entries[0].record
    assert record is not None
    assert (is_hot(observation, record), decided(observation, 20 * MINUTE).is_nearly_spent) == (hot, near)


# --- what holds an early rotation up ---------------------------------------------------------------------------------


def test_a_key_that_is_due_anyway_does_not_count_as_early() -> None:
    decision = decided(observed(REPLACES, [seen(100, 17 * HOUR)]), 17 * HOUR)
    assert (decision.state, replaced_for(decision)) == (State.SPENT, Reason.EXPIRING)


def test_what_a_person_asks_for_is_not_held_up() -> None:
    observation = observed(REPLACES, [seen(80, 5 * MINUTE)])
    decision = plan(observation, START + 5 * MINUTE, RotationRequest(rotate=True, by="signal"))
    assert replaced_for(decision) is Reason.REQUESTED


def test_no_key_is_replaced_within_the_pickup() -> None:
    slow = replace(REPLACES, replace_at=0.1)
    observation = observed(slow, [seen(10, 14 * MINUTE)])
    decision = decided(observation, 14 * MINUTE)
    assert (decision.state, decision.reason, decision.wake_at) == (State.DUE, Reason.PICKUP, START + 15 * MINUTE)
    assert replaced_for(decision) is None
    assert replaced_for(decided(observation, 15 * MINUTE)) is Reason.NEARLY_SPENT


def test_a_cap_that_the_pickup_half_spends_is_reported_and_not_replaced() -> None:
    decision = decided(observed(REPLACES, [seen(100, 25 * MINUTE)]), 25 * MINUTE)
    assert (decision.state, decision.reason, replaced_for(decision)) == (State.SPENT, Reason.CAP_TOO_SMALL, None)


def test_a_cap_that_is_too_small_stays_so_while_its_spent_key_is_not_used() -> None:
    looks = [seen(100, 10 * MINUTE), seen(100, 5 * HOUR)]
    decision = decided(observed(REPLACES, looks), 5 * HOUR)
    assert (decision.reason, replaced_for(decision)) == (Reason.CAP_TOO_SMALL, None)


def history_with(*early_at: float, latest: float = 30.0) -> tuple[Version, ...]:
    """Versions with early rotations at these hours, and a newest one."""
    target = target_with(REPLACES)
    versions = [made(target, number, hours, "nearly-spent") for number, hours in enumerate(early_at, 1)]
    return (*versions, made(target, len(versions) + 1, latest))


def test_the_bound_holds_for_any_24_hours() -> None:
    versions = history_with(20, 25)
    near = seen(85, 35 * HOUR)
    decision = decided(observed(REPLACES, [near], *versions), 35 * HOUR)
    assert (decision.state, decision.reason, replaced_for(decision)) == (State.DUE, Reason.EARLY_EXHAUSTED, None)
    free_at = START + 44 * HOUR + 10 * MINUTE  # the first is a day old then, whatever replica's clock dated it
    assert decision.wake_at is not None
    assert decision.wake_at <= free_at
    later = observed(REPLACES, [near], *versions)
    assert replaced_for(plan(later, free_at - MINUTE)) is None
    assert replaced_for(plan(later, free_at)) is Reason.NEARLY_SPENT


def test_the_bound_counts_keys_whose_versions_are_destroyed() -> None:
    """The next record carries the times of the earlier ones, so a restart after their grace changes nothing."""
    target = target_with(REPLACES)
    before = observed(REPLACES, [seen(85, 35 * HOUR)], *history_with(20, 25))
    kept = caps.carried(before, START + 35 * HOUR)
    destroyed = [Version(number, START + hours * HOUR, None, destroyed=True) for number, hours in ((1, 20), (2, 25))]
    after = observed(REPLACES, [seen(85, 35 * HOUR)], *destroyed, made(target, 3, 30, early=kept))
    assert early_rotations(after, START + 35 * HOUR) == early_rotations(before, START + 35 * HOUR)
    assert decided(after, 35 * HOUR).reason is Reason.EARLY_EXHAUSTED


def test_the_versions_that_alone_show_an_early_rotation_outlive_their_keys() -> None:
    """The path was rolled back by hand, to a record that is older than these."""
    target = target_with(REPLACES)
    early = [made(target, 2, 20, "nearly-spent"), made(target, 3, 25, "nearly-spent")]
    rolled_back = replace(made(target, 1, 10), number=4, created_at=START + 26 * HOUR)

    def to_destroy(*versions: Version) -> list[tuple[int, ...]]:
        observation = observed(REPLACES, [])
        history = History(versions[-1].number, versions, 0.0)
        observation = replace(observation, reading=PathReading(target, SCOPE, history))
        assert observation.current is not None
        return [key.to_destroy for key in superseded_keys(observation, observation.current)]

    assert to_destroy(*early, rolled_back) == [(), ()]
    times = ".".join(str(int((START + hours * HOUR).timestamp())) for hours in (20, 25))
    assert to_destroy(*early, made(target, 5, 35, early=times)) == [(2,), (3,)]
    assert to_destroy(*early, made(target, 5, 50)) == [(2,), (3,)], "they are a day old"


def test_the_bound_holds_after_a_rollback_by_hand() -> None:
    target = target_with(REPLACES)
    versions = made(target, 1, 10), made(target, 2, 20, "nearly-spent"), made(target, 3, 25, "nearly-spent")
    rolled_back = replace(versions[0], number=4, created_at=START + 26 * HOUR)
    decision = decided(observed(REPLACES, [seen(85, 27 * HOUR)], *versions, rolled_back), 27 * HOUR)
    assert (decision.reason, replaced_for(decision)) == (Reason.EARLY_EXHAUSTED, None)


def test_the_key_after_a_deleted_version_carries_what_all_readable_versions_show() -> None:
    target = target_with(REPLACES)
    early = made(target, 1, 20, "nearly-spent"), made(target, 2, 25, "nearly-spent")
    deleted = Version(3, START + 30 * HOUR, None)
    reading = PathReading(target, SCOPE, History(3, (*early, deleted), 0.0))
    observation = replace(observed(REPLACES, []), reading=reading)
    assert decided(observation, 35 * HOUR).reason is Reason.DELETED
    new = made(target, 1, 35, early=caps.carried(observation, START + 35 * HOUR))
    assert decided(observed(REPLACES, [seen(85, 36 * HOUR)], new), 36 * HOUR).reason is Reason.EARLY_EXHAUSTED


def test_a_fence_does_not_count_as_a_rotation() -> None:
    target = target_with(REPLACES)
    first = made(target, 1, 20, "nearly-spent")
    fenced = replace(first, number=2, created_at=START + 25 * HOUR)
    observation = observed(REPLACES, [seen(85, 35 * HOUR)], first, fenced)
    assert len(early_rotations(observation, START + 35 * HOUR)) == 1


@pytest.mark.parametrize("early", ["x", "1.2.3", "-5", "9" * 11, "9" * 40, "....", "١٢٣"])
def test_a_list_of_early_rotations_that_a_person_edited_stays_readable(early: str) -> None:
    target = target_with(REPLACES)
    observation = observed(REPLACES, [seen(85, 35 * HOUR)], made(target, 1, 30, early=early))
    assert len(early_rotations(observation, START + 35 * HOUR)) <= 1


@given(st.lists(st.integers(0, 40 * 3600), max_size=60))
def test_a_record_has_room_for_the_largest_bound(seconds: list[int]) -> None:
    target = target_with(replace(REPLACES, max_early_rotations=MAX_EARLY))
    versions = [made(target, number, at / 3600, "nearly-spent") for number, at in enumerate(sorted(seconds), 1)]
    observation = observed(target.caps, [seen(85, 40 * HOUR)], *versions, made(target, len(versions) + 1, 40))
    text = caps.carried(observation, START + 40 * HOUR)
    record = made(target, 1, 40, "nearly-spent", text).data
    assert record is not None
    assert Record.parse(record["rotator"]) is not None
    carried = observed(target.caps, [], made(target, 1, 40, "expiring", text))
    kept, all_of_them = (early_rotations(one, START + 40 * HOUR) for one in (carried, observation))
    assert kept == all_of_them[-MAX_EARLY:]


# --- urgency ---------------------------------------------------------------------------------------------------------


def test_a_key_that_is_soon_spent_is_as_urgent_as_one_that_soon_expires() -> None:
    decision = decided(observed(REPLACES, [seen(90, 90 * MINUTE)]), 90 * MINUTE)
    assert deadline(decision, START + 90 * MINUTE) == START + 100 * MINUTE


@pytest.mark.parametrize("rotates", [True, False])
def test_a_spent_key_is_urgent_for_whatever_reason_it_is_replaced_and_only_if_it_is(*, rotates: bool) -> None:
    now = START + 10 * HOUR
    decision = plan(observed(REPORTS, [seen(100, 9 * HOUR)]), now, RotationRequest(rotate=rotates))
    assert deadline(decision, now) == START + (9 if rotates else 24) * HOUR


def test_a_key_that_is_gone_is_as_urgent_as_one_that_expires_now() -> None:
    now = START + HOUR
    observation = observed(REPORTS, [])
    gone = {"B": KeyObservation(None, 1)}
    assert deadline(plan(replace(observation, shown=gone), now), now) == now


def test_no_moment_lies_beyond_the_end_of_the_calendar() -> None:
    def spent_at(used: float, as_of: datetime) -> datetime | None:
        return caps.CapState(CAP, used, 1e-300, 1e-300, as_of).spent_at

    assert spent_at(1, START) is None
