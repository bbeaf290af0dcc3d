"""An application that spends its keys at a steady rate is never refused where `replace` is on, and no day has too many.

In simulated weeks; benchmarks/caps.py has bursts.
"""

from datetime import datetime, timedelta

import pytest
from support.world import HOUR

from rotator.core.target import CapPolicy
from simulation.spending import DAY, LIST_EVERY, Spending, steady

WEEK = 7 * DAY
MINUTE = timedelta(minutes=1)
BOUND = 4


def most_in_a_day(moments: list[datetime]) -> int:
    """Return how many of them were in any 24 hours."""
    return max((sum(first <= other < first + DAY for other in moments) for first in moments), default=0)


@pytest.mark.parametrize(
    ("lasts", "pickup", "restart_every", "shown_in"),
    [
        (9 * HOUR, 15 * MINUTE, None, ("list", "retrieve")),
        (9 * HOUR, HOUR, 5 * HOUR, ("list",)),
        (13 * HOUR, MINUTE, HOUR, ("retrieve",)),
        (22 * HOUR, 15 * MINUTE, None, ("list", "retrieve")),
    ],
)
def test_replace_keeps_a_steady_consumer_at_no_refused_call(
    lasts: timedelta, pickup: timedelta, restart_every: timedelta | None, shown_in: tuple[str, ...]
) -> None:
    """Wherever the provider shows use, and whether or not the process restarts."""
    policy = CapPolicy(replaces=True, pickup=pickup, max_early_rotations=BOUND)
    week = Spending(steady(lasts), policy, restart_every=restart_every, shown_in=shown_in).run(WEEK)
    assert (week.refused, week.spent) == (timedelta(0), timedelta(0))
    assert most_in_a_day(week.early()) <= BOUND
    assert bool(week.early()) == (lasts < 16 * HOUR), "one that lasts until it is due by its expiry is replaced then"


def test_without_replace_the_same_consumer_is_refused_and_the_state_is_spent_within_one_sweep() -> None:
    week = Spending(steady(9 * HOUR), CapPolicy()).run(WEEK)
    assert week.early() == []
    assert week.refused > 2 * DAY, "seven of each sixteen hours"
    keys = WEEK // (16 * HOUR) + 1
    assert week.spent > week.refused - keys * (LIST_EVERY + CapPolicy().pickup)


def test_the_bound_holds_for_a_consumer_that_spends_many_keys_a_day() -> None:
    """Though the process forgets all that it knows every five hours."""
    policy = CapPolicy(replaces=True, pickup=MINUTE, max_early_rotations=BOUND)
    week = Spending(steady(2 * HOUR), policy, restart_every=5 * HOUR).run(WEEK)
    assert most_in_a_day(week.early()) == BOUND
    assert len(week.world.store.puts) - len(week.early()) >= WEEK // DAY, "at the bound, rotation by expiry goes on"
    assert week.refused > WEEK / 3
