"""Windows: when they open, by the clocks of their zones; and which rotations wait for one."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from support.passes import Working
from support.world import FIXED, HOUR, START, make_target, refuse

from rotator.config.windows import CronWindow, parse_cron, parse_open_time, parse_zone
from rotator.core.errors import ProviderUnavailable
from rotator.core.events import EventType, Level
from rotator.core.reasons import Reason, State
from rotator.core.renewal import longest_wait
from rotator.core.request import PassOptions, RotationRequest
from rotator.core.windows import Span, gaps, open_spans, opened_at

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)


def window(cron: str, duration: timedelta = 7 * HOUR, zone: str = "UTC") -> CronWindow:
    return CronWindow(cron, duration, zone)


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def opens(one: CronWindow, after: str, times: int = 3) -> list[str]:
    return [f"{at:%a %Y-%m-%d %H:%M}" for at in islice(one.openings(moment(after)), times)]


# --- when a window opens ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cron", "zone", "after", "expected"),
    [
        # 1 is Monday, and both 0 and 7 are Sunday.
        ("0 9 * * 1-4", "UTC", "2026-03-01", ["Mon 2026-03-02 09:00", "Tue 2026-03-03 09:00", "Wed 2026-03-04 09:00"]),
        ("0 9 * * 0", "UTC", "2026-03-02", ["Sun 2026-03-08 09:00", "Sun 2026-03-15 09:00"]),
        ("0 9 * * 7", "UTC", "2026-03-02", ["Sun 2026-03-08 09:00", "Sun 2026-03-15 09:00"]),
        ("0 9 * * sat", "UTC", "2026-03-02", ["Sat 2026-03-07 09:00"]),
        # A day of the month or of the week is enough, where both are set.
        ("0 9 3 * 5", "UTC", "2026-03-01", ["Tue 2026-03-03 09:00", "Fri 2026-03-06 09:00"]),
        # The hour that is skipped: right after it. The hour that is repeated: once, at its first time.
        ("30 1 * * *", "Europe/London", "2026-03-28T12:00", ["Sun 2026-03-29 01:00", "Mon 2026-03-30 00:30"]),
        ("30 1 * * *", "Europe/London", "2026-10-24T12:00", ["Sun 2026-10-25 00:30", "Mon 2026-10-26 01:30"]),
        # From within the repeated hour, after its opening.
        ("45 1 * * *", "Europe/London", "2026-10-25T01:30", ["Mon 2026-10-26 01:45"]),
        # Where the hour or the minute begins with "*", by what the clocks show.
        ("0 */2 * * *", "America/New_York", "2026-03-08T04:30", ["Sun 2026-03-08 05:00", "Sun 2026-03-08 08:00"]),
        ("*/30 1 * * *", "America/New_York", "2026-11-01T05:15", ["Sun 2026-11-01 05:30", "Sun 2026-11-01 06:00"]),
        # Unless one of them begins with "*": each second day that is a Monday.
        ("0 9 */2 * 1", "UTC", "2026-03-01", ["Mon 2026-03-09 09:00", "Mon 2026-03-23 09:00"]),
        # Half an hour of daylight saving.
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-02T18:00", ["Sat 2026-10-03 15:30", "Sun 2026-10-04 15:15"]),
        ("0 9 29 2 *", "UTC", "2026-03-01", ["Tue 2028-02-29 09:00", "Sun 2032-02-29 09:00"]),
        # Brazil had its last summer in 2019, Jordan its last winter in 2022.
        ("0 9 1 * *", "America/Sao_Paulo", "2018-12-15", ["Tue 2019-01-01 11:00", "Fri 2019-02-01 11:00"]),
        ("0 9 1 12 *", "America/Sao_Paulo", "2018-06-01", ["Sat 2018-12-01 11:00", "Sun 2019-12-01 12:00"]),
        ("0 9 1 1 *", "Asia/Amman", "2021-06-01", ["Sat 2022-01-01 07:00", "Sun 2023-01-01 06:00"]),
        # A day that never was: Samoa went from the 29th to the 31st of December 2011.
        ("0 12 30 12 *", "Pacific/Apia", "2011-06-01", ["Fri 2011-12-30 10:00", "Sat 2012-12-29 22:00"]),
    ],
)
def test_when_a_window_opens(cron: str, zone: str, after: str, expected: list[str]) -> None:
    assert opens(window(parse_cron(cron), zone=parse_zone(zone)), after, len(expected)) == expected


ZONES = [
    "UTC",
    "Europe/London",
    "America/New_York",
    "America/Sao_Paulo",
    "Asia/Amman",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
]
EVENTFUL = [
    "2018-11-03T12:00",
    "2019-02-16T12:00",
    "2022-10-27T12:00",
    "2024-02-28T12:00",
    "2026-03-07T12:00",
    "2026-03-28T12:00",
    "2026-10-03T12:00",
    "2026-10-24T12:00",
    "2027-12-31T12:00",
]
CRONS = st.builds(
    "{} {} * * {}".format,
    st.sampled_from([0, 1, 30, 45, 59]),
    st.lists(st.integers(0, 23), min_size=1, max_size=2, unique=True).map(lambda hours: ",".join(map(str, hours))),
    st.lists(st.integers(0, 6), min_size=1, max_size=6, unique=True).map(lambda days: ",".join(map(str, days)))
    | st.just("*"),
)


@given(CRONS, st.sampled_from(ZONES), st.sampled_from(EVENTFUL), st.integers(0, 24 * 60))
def test_a_window_opens_once_at_each_time_that_its_zone_shows(cron: str, zone: str, after: str, minutes: int) -> None:
    """Against each minute of four days: a local time that exists opens the window when it comes first."""
    start = moment(after) + minutes * MINUTE
    minute, hours, _, _, days = cron.split()
    shown, expected = set[tuple[int, ...]](), []
    for passed in range(-24 * 60, 4 * 24 * 60):
        at = start + passed * MINUTE
        local = at.astimezone(ZoneInfo(zone))
        is_new = (local.day, local.hour, local.minute) not in shown
        shown.add((local.day, local.hour, local.minute))
        matches = local.minute == int(minute) and str(local.hour) in hours.split(",")
        if is_new and matches and passed > 0 and (days == "*" or str(local.isoweekday() % 7) in days.split(",")):
            expected.append(at)
    found = [at for at in islice(window(cron, zone=zone).openings(start), 10) if at < start + 4 * DAY]
    assert all(at > start for at in found)
    assert found == sorted(found)
    assert set(expected) <= set(found)
    for extra in set(found) - set(expected):  # an opening in a skipped hour: when that hour is over
        local = extra.astimezone(ZoneInfo(zone))
        assert (extra - MINUTE).astimezone(ZoneInfo(zone)).utcoffset() != local.utcoffset()


@pytest.mark.parametrize(
    ("windows", "at", "opened"),
    [
        ((window("0 9 * * *"),), "2026-03-02T08:59", "2026-03-02T09:00"),
        ((window("0 9 * * *"),), "2026-03-02T09:00", "2026-03-02T09:00"),
        ((window("0 9 * * *"),), "2026-03-02T15:59:59", "2026-03-02T09:00"),
        ((window("0 9 * * *"),), "2026-03-02T16:00", "2026-03-03T09:00"),
        ((window("0 9 * * 1"), window("0 12 * * *", HOUR)), "2026-03-02T17:00", "2026-03-03T12:00"),
        ((window("0 9 * * 1"), window("0 12 * * *", HOUR)), "2026-03-02T12:30", "2026-03-02T09:00"),
        ((), "2026-03-02T12:30", "0001-01-01"),  # any time is in a window that is always open
    ],
)
def test_when_the_window_opened_that_is_open_or_opens_next(
    windows: tuple[CronWindow, ...], at: str, opened: str
) -> None:
    assert opened_at(windows, moment(at)) == moment(opened)


def test_windows_that_overlap_or_touch_count_as_one() -> None:
    both = window("0 9 * * *", 3 * HOUR), window("0 12,14 * * *", HOUR)
    start = moment("2026-03-02T10:00")
    assert list(islice(open_spans(both, start, start + 2 * DAY), 3)) == [
        Span(start, moment("2026-03-02T13:00")),
        Span(moment("2026-03-02T14:00"), moment("2026-03-02T15:00")),
        Span(moment("2026-03-03T09:00"), moment("2026-03-03T13:00")),
    ]


def test_a_gap_that_is_longer_than_the_time_in_question_ends_with_it() -> None:
    start = moment("2024-03-01")
    end = start + 1098 * DAY
    [(gap, after)] = gaps(open_spans((window("0 0 29 2 *"),), start, end), start, end)
    assert gap == Span(start, end)
    assert after.length == timedelta(0)


@given(
    st.lists(st.tuples(CRONS, st.integers(10, 40 * 60), st.sampled_from(ZONES)), min_size=1, max_size=3),
    st.sampled_from(EVENTFUL),
)
@settings(max_examples=30)
def test_each_moment_is_either_open_or_in_a_gap(drawn: list[tuple[str, int, str]], after: str) -> None:
    windows = tuple(window(cron, minutes * MINUTE, zone) for cron, minutes, zone in drawn)
    start = moment(after)
    end = start + 9 * DAY
    closed = [gap for gap, _ in islice(gaps(open_spans(windows, start, end), start, end), 8)]
    for hours in range(8 * 24):
        at = start + hours * HOUR + 17 * MINUTE
        if closed and at < closed[-1].end:
            assert (opened_at(windows, at) > at) == any(gap.start <= at < gap.end for gap in closed)


# --- what a configuration may hold -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cron",
    [
        "",
        "daily",
        "@daily",
        "0 9 * *",
        "0 0 9 * * 1",
        "60 9 * * *",
        "0 24 * * *",
        "0 9 0 * *",
        "0 9 * 13 *",
        "0 9 * * 8",
        "0 9 31 2 *",
        "0 9 * * 4-1",
        "0 9 * * x",
        "0 9 * * 5#6",
        "0 9 * * 5#2/2",
        "0 9 */0 * *",
        "0 9 30 2 1#9",
        "* 9 * * *",
        "*/5 9-16 * * 1-5",
        "0 9 1-2-3 * *",
        "-1 9 * * *",
        "0 9 * * *\n",
        "0 \uff19 * * *",
        "0 9 " + "1," * 60 + "1 * *",
    ],
)
def test_a_cron_expression_that_is_none_or_never_opens_or_opens_too_often_is_refused(cron: str) -> None:
    with pytest.raises(ValueError, match=r"is not a cron|never opens|opens more than|must not"):
        parse_cron(cron)


@pytest.mark.parametrize(
    ("cron", "message"),
    [
        ("60 9 * * *", "its minute is wrong; write 0-59"),
        ("0 24 * * *", "its hour is wrong; write 0-23"),
        ("0 9 31 2 *", "its day of month is wrong; write 1-31, or L for the last, and a day that its month has"),
        ("0 9 * 13 *", "its month is wrong; write 1-12 or jan-dec"),
        (
            "0 9 * * 5-1",
            "its day of week is wrong; write 0-7 or sun-sat (0 and 7 are Sunday), and 5,6,0,1 for Friday to",
        ),
    ],
)
def test_a_field_that_is_wrong_is_named_with_what_it_may_hold(cron: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"is not a cron expression: {re.escape(message)}"):
        parse_cron(cron)


@given(
    st.text(st.sampled_from("0123456789*/-,#LWlw? SUNMON"), max_size=40)
    | st.builds(
        " ".join, st.lists(st.text(st.sampled_from("0129*/-,#L"), min_size=1, max_size=5), min_size=5, max_size=5)
    )
)
@example("0 0 L/2 * 5L/3")
@settings(max_examples=300)
def test_any_text_is_a_cron_expression_that_opens_or_is_refused(text: str) -> None:
    try:
        cron = parse_cron(text)
    except ValueError:
        return
    assert next(window(cron).openings(START)) > START


@pytest.mark.parametrize(
    "zone",
    [
        "",
        "GMT+25",
        "Europe/Nowhere",
        "../etc/passwd",
        "/etc/localtime",
        "localtime",
        "right/UTC",
        "Europe",
        "europe/london",
    ],
)
def test_a_zone_that_does_not_exist_is_refused(zone: str) -> None:
    with pytest.raises(ValueError, match=r"is not a time zone|must not be empty"):
        parse_zone(zone)


def test_a_zone_that_is_spelled_alike_is_offered() -> None:
    with pytest.raises(ValueError, match='did you mean "Europe/London"'):
        parse_zone("Europe/london")


def test_a_window_that_a_retry_may_miss_is_refused() -> None:
    assert parse_open_time("10m") == 10 * MINUTE
    with pytest.raises(ValueError, match="at least 10m"):
        parse_open_time("9m")


# --- which rotations wait --------------------------------------------------------------------------------------------

WORKING = window("0 9 * * 1-4", 7 * HOUR)
"""START is a Sunday at noon. The key of a week comes due on the next Sunday."""
WEEKLY = make_target(ttl=14 * DAY, renew_before=7 * DAY, windows=(WORKING,))


def test_a_due_key_waits_for_its_window() -> None:
    rotator = Working(WEEKLY)
    rotator.work(START + 7 * DAY + HOUR)  # due since an hour, on a Sunday
    assert (rotator.plan.state, rotator.plan.reason) == (State.OK, Reason.WINDOW)
    assert rotator.plan.next_rotation_at == moment("2026-03-09T09:00") == rotator.plan.wake_at
    rotator.work(START + 9 * DAY)
    assert rotator.rotated_at[1:] == [moment("2026-03-09T09:00")]
    assert rotator.outside == []


def test_a_key_that_comes_due_in_an_open_window_is_replaced_then() -> None:
    rotator = Working(WEEKLY, moment("2026-03-02T15:30"))
    rotator.work(moment("2026-03-09T16:00"))
    assert rotator.rotated_at[1:] == [moment("2026-03-09T15:30")]


@pytest.mark.parametrize(
    ("start", "rotated"),
    [
        ("2026-03-01T12:00", "2026-03-09T09:00"),  # due on a Sunday: not before the window of Monday
        ("2026-03-03T15:30", "2026-03-10T09:00"),  # due in a window: at its opening, not the day before
        ("2026-03-06T12:00", "2026-03-16T09:00"),  # due on a Friday: not in the window of Thursday
    ],
)
def test_levelling_moves_no_rotation_out_of_its_window(start: str, rotated: str) -> None:
    rotator = Working(WEEKLY, moment(start))
    while rotator.world.clock.now() < moment(rotated) + DAY:
        rotator.step(options=PassOptions(ahead=3 * DAY))
        rotator.world.clock.advance(HOUR / 2)
    assert rotator.rotated_at[1:] == [moment(rotated)]
    assert rotator.outside == []


def test_a_request_an_expired_and_a_lost_key_do_not_wait() -> None:
    rotator = Working(WEEKLY)
    rotator.step(RotationRequest(rotate=True))
    assert len(rotator.rotated_at) == 2
    rotator.world.vendor.revoke("tk_0002")
    rotator.reconciler = rotator.world.reconciler("b")
    rotator.look_up()
    rotator.step()
    assert len(rotator.rotated_at) == 3
    rotator.world.clock.advance(14 * DAY)  # a Sunday
    rotator.step()
    assert len(rotator.rotated_at) == 4
    assert rotator.outside == ["expired"]  # it was late


def test_a_key_that_was_rolled_back_to_waits_for_a_window_when_its_hold_is_over() -> None:
    rotator = Working(WEEKLY)
    rotator.step(RotationRequest(rotate=True))
    assert rotator.world.store.rollback(WEEKLY.path, 1)
    rotator.work(START + 7 * DAY + HOUR)
    assert rotator.plan.reason is Reason.WINDOW
    rotator.work(START + 9 * DAY)
    assert rotator.rotated_at[2:] == [moment("2026-03-09T09:00")]


def test_changed_parameters_wait_for_a_window_and_are_rolled_out_in_it() -> None:
    rotator = Working(WEEKLY)
    rotator.world.targets = (replace(WEEKLY, parameters={"rate_limit": 200}),)
    turn = moment("2026-03-02T09:40")
    rotator.work(START + DAY, PassOptions(roll_out_at=START + HOUR))
    assert rotator.rotated_at[1:] == [moment("2026-03-02T09:00")]  # its turn had passed when the window opened
    rotator.world.targets = (replace(WEEKLY, parameters={"rate_limit": 300}),)
    rotator.world.clock.advance(-2 * DAY)
    rotator = Working(WEEKLY)
    rotator.world.targets = (replace(WEEKLY, parameters={"rate_limit": 200}),)
    rotator.work(START + DAY, PassOptions(roll_out_at=turn))
    assert rotator.rotated_at[1:] == [turn]


def test_without_a_roll_out_changed_parameters_wait_for_a_window() -> None:
    rotator = Working(WEEKLY)
    rotator.world.targets = (replace(WEEKLY, parameters={"rate_limit": 200}),)
    rotator.work(START + DAY)
    assert rotator.rotated_at[1:] == [moment("2026-03-02T09:00")]


def test_a_window_missed_in_an_outage_is_followed_by_the_next() -> None:
    rotator = Working(WEEKLY)
    out = moment("2026-03-09T08:00"), moment("2026-03-09T17:00")
    rotator.world.at(
        lambda call: call.operation == "provider.create" and out[0] <= rotator.world.clock.now() < out[1],
        refuse(ProviderUnavailable("out")),
        times=1000,
    )
    rotator.work(START + 10 * DAY)
    assert rotator.rotated_at[1:] == [moment("2026-03-10T09:00")]
    assert rotator.outside == []


def test_a_key_that_would_expire_before_a_window_opens_is_replaced_at_once_and_that_is_reported() -> None:
    rotator = Working(WEEKLY)
    out = moment("2026-03-09T00:00"), moment("2026-03-12T20:00")  # all windows before the key's last quarter
    rotator.world.at(
        lambda call: call.operation == "provider.create" and out[0] <= rotator.world.clock.now() < out[1],
        refuse(ProviderUnavailable("out")),
        times=1000,
    )
    rotator.work(START + 13 * DAY)
    [at] = rotator.rotated_at[1:]
    assert out[1] <= at <= out[1] + 10 * MINUTE
    assert rotator.outside == ["expiring"]
    [event] = rotator.events(EventType.ROTATED_OUTSIDE_WINDOW)
    assert event.level is Level.WARNING
    assert event.fields["permitted_at"] == "2026-03-16T09:00:00Z"


def test_a_key_whose_life_was_cut_short_is_replaced_outside_windows_and_that_is_reported() -> None:
    rotator = Working(WEEKLY)
    rotator.world.vendor.grants = lambda asked: rotator.world.clock.now() + 6 * HOUR
    rotator.step(RotationRequest(rotate=True))
    rotator.work(START + 5 * HOUR)
    assert len(rotator.rotated_at) == 3
    assert rotator.outside == ["expiring"]


@pytest.mark.parametrize(
    ("ends", "rotated", "outside"),
    [
        ("2026-03-04T15:00", "2026-03-04T09:00", []),  # due in the night: it waits, with a quarter of its time left
        ("2026-03-04T11:00", "2026-03-04T00:00", ["expiring"]),  # in the morning it would have less than that
    ],
)
def test_a_key_that_was_made_before_there_were_windows_waits_for_one_if_it_can(
    ends: str, rotated: str, outside: list[str]
) -> None:
    """With the windows came a longer ttl, of which its day is a fourteenth, as is eleven hours of `renew_before`."""
    before = make_target(ttl=DAY, renew_before=8 * HOUR)
    rotator = Working(before, moment(ends) - DAY)
    rotator.world.clock.advance(moment("2026-03-03T17:00") - rotator.world.clock.now())
    longer = replace(before, ttl=14 * DAY, renew_before=14 * 11 * HOUR, windows=(WORKING,))
    rotator.world.targets = (longer,)
    rotator.work(moment("2026-03-04T17:00"))
    assert rotator.rotated_at[1:] == [moment(rotated)]
    assert rotator.outside == outside


def test_a_key_without_an_expiry_always_waits_for_a_window() -> None:
    rotator = Working(WEEKLY)
    rotator.world.vendor.traits = replace(FIXED, keys_expire=False)
    rotator.work(START + 7 * DAY + HOUR)
    assert rotator.plan.reason is Reason.WINDOW
    rotator.work(START + 9 * DAY)
    assert rotator.rotated_at[1:] == [moment("2026-03-09T09:00")]


@given(
    st.lists(
        st.tuples(CRONS, st.sampled_from([10, 60, 7 * 60, 25 * 60]), st.sampled_from(ZONES)), min_size=1, max_size=2
    ),
    st.sampled_from(EVENTFUL),
    st.floats(1.0, 1.5),
    st.floats(0.05, 0.9),
    st.tuples(st.floats(0, 3), st.floats(0, 2)) | st.none(),
)
@settings(max_examples=40, deadline=None)
def test_no_key_expires_that_a_window_could_have_saved_and_none_is_replaced_outside_without_an_outage(
    drawn: list[tuple[str, int, str]],
    after: str,
    slack: float,
    fresh: float,
    outage: tuple[float, float] | None,
) -> None:
    """Over cron, zone, ttl and outage, with times that the configuration's rule accepts."""
    windows = tuple(window(cron, minutes * MINUTE, zone) for cron, minutes, zone in drawn)
    start = moment(after)
    end = start + 1098 * DAY
    gap = max((gap.length for gap, _ in gaps(open_spans(windows, start, end), start, end)), default=HOUR)
    assume(gap < 8 * DAY)
    target = make_target(renew_before=timedelta(seconds=int(slack * 4 / 3 * gap.total_seconds() + 60)), windows=windows)
    assert longest_wait(target) >= gap
    ttl = timedelta(seconds=int(target.renew_before.total_seconds() * (1 + fresh)) + 60)
    rotator = Working(replace(target, ttl=ttl, grace_period=10 * MINUTE), start)
    retry = rotator.retry = max(rotator.retry, target.renew_before / 50)
    begin, length = outage or (0.0, 0.0)
    out = Span(start + begin * ttl, start + (begin + length) * ttl)
    clock = rotator.world.clock

    rotator.world.at(
        lambda call: call.operation.startswith("provider.") and out.start <= clock.now() < out.end,
        refuse(ProviderUnavailable("out")),
        times=10**9,
    )
    begin_of_life = start
    for now in rotator.run(start + 3 * ttl):
        served = rotator.world.served()
        assert served is not None
        assert served.expires_at is not None
        if now >= served.expires_at:
            # Only where the provider did not answer since the key was due, but for the wait for a retry.
            due_at = begin_of_life + ttl - target.renew_before
            could = opened_at(windows, due_at)
            assert out.start <= max(could, due_at) + retry
            assert out.end >= served.expires_at - retry
        begin_of_life = rotator.rotated_at[-1]
    for at in rotator.rotated_at[1:]:
        if opened_at(windows, at) > at:
            assert out.start < at
            assert out.length > timedelta(0)
    if outage is None:
        assert rotator.outside == []
