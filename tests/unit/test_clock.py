"""The machine's clock against the dates in its upstreams' answers."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from rotator.runtime.clock import SystemClock

NOW = datetime(2026, 3, 1, 12, 0, 0, 400_000, tzinfo=UTC)


class At(SystemClock):
    """A system clock at a set time."""

    moment = NOW

    def _wall(self) -> datetime:
        return self.moment

    def monotonic(self) -> float:
        return self.moment.timestamp()


def answered(date: datetime, took: float = 0.0) -> At:
    """Return a clock after an answer with this date to a request that took `took` seconds."""
    clock = At()
    clock.record_date("vault", format_datetime(date, usegmt=True), NOW.timestamp() - took)
    return clock


@pytest.mark.parametrize("took", [0.0, 0.3, 40.0, 600.0])
def test_a_date_between_question_and_answer_agrees_however_long_that_took(took: float) -> None:
    for share in (0, 0.5, 1):
        assert answered(NOW - timedelta(seconds=took * share), took).skews == {"vault": timedelta(0)}


@pytest.mark.parametrize(
    ("off", "trusted"), [(-90, False), (-55, True), (-2, True), (2, True), (55, True), (90, False)]
)
def test_a_clock_that_is_off_is_known_by_how_much_and_which_way(off: int, trusted: bool) -> None:
    clock = answered(NOW - timedelta(seconds=off))
    assert abs(clock.skews["vault"].total_seconds() - off) <= 1.5
    assert clock.trusted() is trusted


def test_the_bound_is_the_configured_one() -> None:
    clock = answered(NOW - timedelta(seconds=90))
    clock.max_clock_skew = timedelta(minutes=2)
    assert clock.trusted()


def test_one_upstream_that_disagrees_is_enough_and_it_may_come_round() -> None:
    clock = answered(NOW)
    clock.record_date("api.respan.ai", format_datetime(NOW + timedelta(hours=1), usegmt=True), NOW.timestamp())
    assert not clock.trusted()
    clock.record_date("api.respan.ai", format_datetime(NOW, usegmt=True), NOW.timestamp())
    assert clock.trusted()


def test_an_upstream_that_is_no_longer_configured_is_forgotten() -> None:
    """Else a removed upstream with a wrong clock would keep this clock distrusted."""
    clock = answered(NOW - timedelta(hours=1))
    assert not clock.trusted()
    clock.listen_to({"api.respan.ai"})
    assert clock.trusted()
    for upstream in ("vault", "api.respan.ai"):  # an answer to what was under way
        clock.record_date(upstream, format_datetime(NOW - timedelta(hours=1), usegmt=True), NOW.timestamp())
    assert set(clock.skews) == {"api.respan.ai"}


@pytest.mark.parametrize(
    "date",
    [
        None,
        "",
        "tomorrow",
        "Sun, 01 Mar 2026",
        "Sun, 99 Mar 2026 12:00:00 GMT",
        "Mon, 01 Jan 99999999999 00:00:00 GMT",
        "Fri, 31 Dec 9999 23:59:59 GMT",
    ],
)
def test_a_malformed_date_is_ignored(date: str | None) -> None:
    clock = At()
    clock.record_date("vault", date, NOW.timestamp())
    assert clock.trusted()
    assert clock.skews == {}


def answer(clock: At, upstream: str, date: datetime) -> None:
    clock.record_date(upstream, format_datetime(date, usegmt=True), clock.monotonic())


@pytest.mark.parametrize("hours", [-9, 9])
def test_where_all_upstreams_agree_their_time_is_taken(hours: int) -> None:
    clock = answered(NOW - timedelta(hours=hours))
    assert clock.now() == NOW, "one alone may be wrong itself"
    answer(clock, "api.respan.ai", NOW - timedelta(hours=hours, seconds=20))
    assert abs(clock.now() - (NOW - timedelta(hours=hours))) < timedelta(seconds=30)
    assert not clock.trusted(), "and still no key is ended by it"
    assert abs(clock.skews["vault"] - timedelta(hours=hours)) < timedelta(seconds=3)
    for upstream in ("vault", "api.respan.ai"):  # the clock is correct again
        answer(clock, upstream, NOW)
    assert clock.now() == NOW
    assert clock.trusted()


def test_upstreams_that_contradict_each_other_are_not_followed() -> None:
    clock = answered(NOW - timedelta(hours=1))
    answer(clock, "api.respan.ai", NOW + timedelta(hours=1))
    assert clock.now() == NOW
    assert not clock.trusted()


def test_it_may_be_ahead_by_the_largest_difference() -> None:
    assert At().may_be_ahead() == timedelta(0)
    clock = answered(NOW + timedelta(seconds=30))
    assert clock.may_be_ahead() == timedelta(0)
    answer(clock, "api.respan.ai", NOW - timedelta(seconds=30))
    assert timedelta(seconds=28) < clock.may_be_ahead() <= timedelta(seconds=30)


def test_a_clock_at_the_very_bound_is_not_trusted_and_not_by_turns() -> None:
    """Dates have whole seconds, so the difference to an unchanged clock varies by more than a second."""
    clock = At()
    judged = set()
    for tenths in range(40):
        clock.moment = NOW + timedelta(seconds=tenths / 10)
        answer(clock, "vault", (clock.moment - timedelta(seconds=61)).replace(microsecond=0))
        judged.add(clock.trusted())
    assert len(judged) == 1


def test_a_clock_is_disputed_while_it_agrees_with_none_that_has_answered() -> None:
    clock = At()
    assert clock.disputed_by() == timedelta(0)
    hour = timedelta(hours=1)
    clock.record_date("vault", format_datetime(NOW - hour, usegmt=True), NOW.timestamp())
    assert abs(clock.disputed_by() - hour) <= timedelta(seconds=2)
    clock.record_date("api.respan.ai", format_datetime(NOW, usegmt=True), NOW.timestamp())
    assert clock.disputed_by() == timedelta(0), "one of them agrees"
    clock.record_date("api.respan.ai", format_datetime(NOW + hour, usegmt=True), NOW.timestamp())
    assert abs(clock.disputed_by() + hour) <= timedelta(seconds=2), "by the time that is the latest"
    clock.record_date("api.respan.ai", format_datetime(NOW - hour, usegmt=True), NOW.timestamp())
    assert clock.disputed_by() == timedelta(0), "both agree, so that is the time"
