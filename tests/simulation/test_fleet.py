"""Punctuality: near the limit of the budget all keys are replaced in time; an outage is made good in order of need."""

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest
from support.world import START

from simulation.fleet import Fleet
from simulation.windows import Repeated

HOUR = timedelta(hours=1)
IN_TIME = 60.0
"""Seconds: a key is due when its margin begins, and its rotation takes a moment."""


def fleet(used: float = 0.95, changed_at: timedelta | None = None) -> Fleet:
    """Looked at as often as by default, though all else takes an eighth of the default times."""
    return Fleet(
        6,
        used=used,
        ttl=3 * HOUR,
        renew_before=HOUR,
        grace_period=HOUR / 2,
        resync=timedelta(minutes=10),
        changed_at=changed_at,
        spread=HOUR / 8,
    )


@pytest.mark.timeout(600)
def test_at_95_percent_of_the_budget_no_key_comes_nearer_to_its_end_than_its_margin() -> None:
    """All are made within 40 minutes, and so would all be due within 40 minutes, in which a third can be replaced."""
    many = fleet()
    calls = many.run(15 * HOUR)
    assert many.first == many.targets
    assert len(many.replaced) > 6 * many.targets
    assert max(one.late for one in many.replaced) <= IN_TIME
    assert calls["provider.retrieve"] == 0
    assert (
        calls["provider.create"] + calls["provider.set_expiry"] + calls["provider.delete"]
        <= 3 * len(many.replaced) + many.first
    )


@pytest.mark.timeout(600)
def test_an_outage_of_half_the_margin_is_made_good_in_order_of_need() -> None:
    many = fleet()
    down, up = 5 * HOUR, 11 * HOUR / 2
    many.run(20 * HOUR, outages=((down, up),))
    assert all(one.at < one.expires_at for one in many.replaced), "no key has expired"
    assert max(one.late for one in many.replaced) > IN_TIME, "the outage was one"
    begins = many.began
    backlog = [one for one in many.replaced if up <= one.at - begins and one.late > IN_TIME]
    for earlier, later in pairwise(backlog):
        assert later.expires_at >= earlier.expires_at - timedelta(minutes=11), (
            "but for the wait after a failure, ten minutes at most"
        )
    assert max(one.late for one in many.replaced if one.at - begins > 18 * HOUR) <= IN_TIME, "it is made good"


@pytest.mark.timeout(600)
def test_with_windows_each_key_is_replaced_in_one_and_none_expires() -> None:
    """A window is open for 24 of 40 minutes, and the targets need half of the budget."""
    every, is_open = 2 * HOUR / 3, 2 * HOUR / 5
    many = replace(fleet(used=0.5), windows=(Repeated(every, is_open),))
    many.run(15 * HOUR)
    assert len(many.replaced) > 4 * many.targets
    assert all(one.at < one.expires_at - many.renew_before / 4 for one in many.replaced)
    published = [(one.at - START) % every for one in many.replaced]
    assert max(published) < is_open + timedelta(seconds=10), "a rotation takes a moment"
    assert min(published) < timedelta(seconds=10)


@pytest.mark.timeout(600)
def test_a_change_of_all_targets_is_rolled_out_behind_what_is_due() -> None:
    """At 80 % of the budget, which for hours is too small for both. No key is late because of it."""
    many = fleet(used=0.8, changed_at=5 * HOUR)
    many.run(12 * HOUR)
    assert max(one.late for one in many.replaced) <= IN_TIME
    early = [one for one in many.replaced if one.late < -1800 and one.at - many.began > 5 * HOUR]
    assert len(early) > many.targets / 10, "and those are replaced that are not due, too"


@pytest.mark.timeout(600)
def test_restarts_do_not_put_off_the_roll_out_of_a_change() -> None:
    """A process that starts does not know since when the parameters are other ones."""
    changed_at = 4.2 * HOUR  # between the second time that all are due and the third
    many = replace(fleet(used=0.2, changed_at=changed_at), spread=HOUR, restarted=HOUR / 6)
    many.run(6 * HOUR)
    after = [one for one in many.replaced if changed_at <= one.at - many.began <= changed_at + 1.1 * HOUR]
    assert len(after) == len({one.target for one in after}) == many.targets
