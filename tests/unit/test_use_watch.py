"""What a running process learns of the use of keys: by the sweep's list, and by looking hot keys up alone."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from support.sweeps import sweeper_of
from support.world import ALL, HOUR, World, make_target, refuse

from rotator.core.errors import ProviderRateLimited, ProviderUnavailable, StoreUnavailable
from rotator.core.plan import Plan, plan
from rotator.core.reasons import Reason, State
from rotator.core.target import Cap, CapPolicy, Target
from rotator.core.use import CapUse, KeyUse
from rotator.protocol.reconciler import Reconciler
from rotator.protocol.use_watch import SAMPLE, UseWatch

MINUTE = timedelta(minutes=1)
CAPS = CapPolicy((Cap("max_usage", 100, "calls"),), replaces=True)


class Watched:
    """A running process whose targets' keys have a cap of 100 calls, and a provider that shows their use."""

    def __init__(self, *names: str, most: int = 6) -> None:
        targets = [make_target(name, caps=CAPS, parameters={"max_usage": 100}) for name in names or ("billing-api",)]
        self.world = World(*targets)
        self.world.vendor.traits = replace(ALL, reports_use="list")
        self.reconciler = self.world.reconciler()
        self.reconciler.observer.hot_every = MINUTE
        for target in targets:
            assert self.reconciler.reconcile(target).error is None
        groups = [(self.reconciler.observer, targets)]
        self.watch = UseWatch(groups, self.reconciler.observer.ports.budget, most)

    @property
    def target(self) -> Target:
        return self.world.target

    def uses(self, used: float | None, target: Target | None = None) -> None:
        """Have the served key used that often; None: the provider shows nothing of it."""
        served = self.world.served(target)
        assert served is not None
        self.world.vendor.use.pop(served.id, None)
        if used is not None:
            self.world.vendor.use[served.id] = KeyUse((CapUse("max_usage", used),))

    def sweep(self) -> tuple[Target, ...]:
        swept = sweeper_of(self.reconciler, self.world.targets).sweep()
        assert swept.complete
        return swept.to_work

    def look(self) -> tuple[Target, ...]:
        return self.watch.look(stopping=lambda: False)

    def looked_up(self) -> int:
        return self.world.calls("provider.retrieve").__len__()

    def plan(self) -> Plan:
        return plan(self.reconciler.observer.observe(self.target), self.world.clock.now())


def passed(watched: Watched, time: timedelta) -> None:
    watched.world.clock.advance(time)


# --- by the list -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_first", [True, False])
def test_a_spent_key_is_spent_within_one_sweep(*, is_first: bool) -> None:
    watched = Watched()
    if not is_first:
        watched.sweep()
    passed(watched, HOUR)
    watched.uses(100)
    assert watched.sweep() == (watched.target,), "it needs a pass"
    report = watched.reconciler.reconcile(watched.target)
    assert (report.error, report.rotated, report.attempted) == (None, True, Reason.NEARLY_SPENT)
    assert watched.plan().state is State.OK, "its successor has used nothing"


def test_a_key_that_is_nearly_spent_by_its_rate_is_found_by_the_first_sweep_after_a_restart() -> None:
    watched = Watched()
    passed(watched, HOUR)
    watched.reconciler = watched.world.reconciler("successor")
    assert watched.reconciler.reconcile(watched.target).error is None
    watched.uses(75)
    assert watched.sweep() == (watched.target,), "at 75 an hour, 25 calls last hardly longer than a pickup"


def test_the_list_costs_no_request_of_its_own() -> None:
    watched = Watched()
    passed(watched, HOUR)
    watched.uses(10)
    before = watched.looked_up()
    watched.sweep()
    assert watched.looked_up() == before
    made = watched.plan()
    assert (made.use and made.use.used, made.state) == (10, State.OK)


def test_a_key_that_is_only_reported_is_not_replaced() -> None:
    watched = Watched()
    watched.world.targets = (replace(watched.target, caps=replace(CAPS, replaces=False)),)
    passed(watched, HOUR)
    watched.uses(100)
    assert watched.sweep() == (watched.target,)
    report = watched.reconciler.reconcile(watched.target)
    assert report.plan is not None
    assert (report.rotated, report.plan.state, report.plan.reason) == (False, State.SPENT, Reason.SPENT)


def test_the_use_of_another_key_is_not_that_of_the_served_one() -> None:
    watched = Watched()
    passed(watched, HOUR)
    watched.uses(100)
    watched.sweep()
    assert watched.reconciler.reconcile(watched.target).rotated
    passed(watched, MINUTE)
    watched.sweep()  # the superseded key is still there, and spent
    made = watched.plan()
    assert (made.state, made.use) == (State.OK, None)


# --- alone -----------------------------------------------------------------------------------------------------------


def hot(*names: str, most: int = 6) -> Watched:
    """Keys that have used 40 in 20 minutes: the next list may come too late, the next minute does not."""
    watched = Watched(*names, most=most)
    passed(watched, 20 * MINUTE)
    for target in watched.world.targets:
        watched.uses(40, target)
    watched.sweep()
    assert watched.plan().actions == ()
    return watched


def test_a_hot_key_is_looked_up_and_replaced_when_its_time_comes() -> None:
    watched, used = hot(), 40
    while used < 100:
        passed(watched, MINUTE)
        used += 2
        watched.uses(used)
        before = watched.looked_up()
        if to_work := watched.look():
            break
        assert watched.looked_up() == before + 1
    assert to_work == (watched.target,)
    assert 50 <= used <= 60, "left: 48 for the pickup and a minute, at half as much again"
    assert watched.reconciler.reconcile(watched.target).rotated


def test_a_key_that_is_far_from_its_cap_is_not_looked_up() -> None:
    watched = Watched()
    passed(watched, HOUR)
    watched.uses(5)
    watched.sweep()
    before = watched.looked_up()
    passed(watched, MINUTE)
    assert watched.look() == ()
    assert watched.looked_up() == before


def test_no_more_keys_are_looked_up_at_once_than_the_share_of_the_budget_allows() -> None:
    watched = hot("a", "b", "c", "d", most=2)
    before = watched.looked_up()
    passed(watched, MINUTE)
    watched.look()
    assert watched.looked_up() == before + 2


def test_the_key_that_is_spent_first_is_looked_up_first() -> None:
    watched = hot("a", "b", most=1)
    passed(watched, MINUTE)
    second = watched.world.targets[1]
    watched.uses(41, second)
    watched.sweep()
    watched.look()
    served = watched.world.served(second)
    assert served is not None
    looked_up = [call.subject for call in watched.world.wire.journal if call.operation == "provider.retrieve"]
    assert looked_up[-1] == served.id


def test_a_provider_that_shows_no_use_in_a_look_up_is_not_asked_in_vain() -> None:
    watched = hot()
    watched.world.vendor.shows_use = frozenset({"list"})
    passed(watched, MINUTE)
    assert watched.look() == (watched.target,), "the next look is the next list, and that may come too late"
    assert watched.reconciler.reconcile(watched.target).rotated


def test_use_that_only_a_look_up_shows_is_found() -> None:
    watched = Watched()
    watched.world.vendor.shows_use = frozenset({"retrieve"})
    passed(watched, HOUR)
    watched.uses(100)
    assert watched.sweep() == ()
    assert watched.look() == (watched.target,)


def test_a_provider_that_shows_no_use_at_all_is_asked_of_a_few_keys_between_two_lists() -> None:
    names = tuple("abcdefgh")
    watched = Watched(*names, most=100)
    before = watched.looked_up()
    for _ in range(10):
        passed(watched, MINUTE)
        assert watched.look() == ()
    assert watched.looked_up() == before + SAMPLE
    passed(watched, 15 * MINUTE)
    watched.look()
    assert watched.looked_up() == before + 2 * SAMPLE


def test_nothing_is_looked_up_where_the_provider_reports_no_use() -> None:
    watched = hot()
    watched.world.vendor.traits = ALL
    before = watched.looked_up()
    passed(watched, MINUTE)
    assert watched.look() == ()
    assert watched.looked_up() == before


# --- unknown use -----------------------------------------------------------------------------------------------------


def unknown(watched: Watched) -> int:
    return len(watched.watch.unknown())


def test_use_is_unknown_once_neither_a_list_nor_a_look_up_shows_it() -> None:
    watched = Watched(*"abcdefgh", most=100)
    watched.sweep()
    assert unknown(watched) == 0, "a look-up may show it"
    passed(watched, MINUTE)
    watched.look()
    watched.sweep()
    assert unknown(watched) == 8
    assert not watched.watch.shows_use()
    for target in watched.world.targets:
        watched.uses(10, target)
    passed(watched, MINUTE)
    watched.sweep()
    assert unknown(watched) == 0
    assert watched.watch.shows_use()


def test_a_last_use_alone_shows_no_use_of_a_cap() -> None:
    watched = Watched(*"abcd", most=100)
    for target in watched.world.targets:
        served = watched.world.served(target)
        assert served is not None
        watched.world.vendor.use[served.id] = KeyUse(last_used_at=watched.world.clock.now())
    before = watched.looked_up()
    for _ in range(3):
        passed(watched, MINUTE)
        watched.sweep()
        watched.look()
    assert unknown(watched) == 4
    assert watched.looked_up() == before + SAMPLE, "no more than where nothing is shown"


def test_use_that_is_no_longer_shown_is_unknown() -> None:
    watched = hot()
    watched.uses(None)
    for _ in range(20):
        passed(watched, MINUTE)
        watched.sweep()
        watched.look()
    assert unknown(watched) == 1


def test_of_a_new_key_nothing_is_known_yet() -> None:
    watched = Watched()
    passed(watched, MINUTE)
    watched.look()
    assert unknown(watched) == 1
    passed(watched, 24 * HOUR)
    assert watched.reconciler.reconcile(watched.target).rotated
    assert unknown(watched) == 0


def failures() -> Iterator[tuple[str, Exception]]:
    yield "provider.retrieve", ProviderUnavailable("down", "Wait.")
    yield "provider.retrieve", ProviderRateLimited("slow down", 5.0)
    yield "store.history", StoreUnavailable("down", "Wait.")


@pytest.mark.parametrize(("operation", "error"), [*failures()])
def test_a_look_that_fails_is_repeated(operation: str, error: Exception) -> None:
    watched = hot()
    passed(watched, MINUTE)
    watched.uses(60)
    watched.world.at(operation, refuse(error))
    assert watched.look() == ()
    passed(watched, MINUTE)
    assert watched.look() == (watched.target,)


def test_a_watch_that_is_to_stop_asks_nothing() -> None:
    watched = hot()
    before = watched.looked_up()
    passed(watched, MINUTE)
    assert watched.watch.look(stopping=lambda: True) == ()
    assert watched.looked_up() == before


# --- after a restart -------------------------------------------------------------------------------------------------


def test_the_bound_holds_over_restarts_and_destroyed_versions() -> None:
    watched = Watched()
    early = 0
    for hour in range(48):
        passed(watched, HOUR)
        watched.uses(90)
        fresh: Reconciler = watched.world.reconciler()  # a new process each hour
        sweeper_of(fresh, watched.world.targets).sweep()
        report = fresh.reconcile(watched.target)
        assert report.error is None
        early += report.rotated and report.attempted is Reason.NEARLY_SPENT
        if hour == 23:
            assert early == CAPS.max_early_rotations
    assert early <= 2 * CAPS.max_early_rotations


def test_a_look_up_that_shows_less_than_the_list_does_not_hide_what_the_list_showed() -> None:
    watched = hot()
    served = watched.world.served()
    assert served is not None
    passed(watched, MINUTE)
    watched.world.vendor.use[served.id] = KeyUse(last_used_at=watched.world.clock.now())
    watched.look()
    made = watched.plan()
    assert made.use is not None
    assert (made.use.used, made.is_nearly_spent) == (40, True), "and the next look is the next list"


def test_a_list_that_shows_less_than_a_look_up_does_not_hide_what_the_look_up_showed() -> None:
    watched = Watched()
    watched.uses(40)
    passed(watched, MINUTE)
    watched.look()
    served = watched.world.served()
    assert served is not None
    watched.world.vendor.use[served.id] = KeyUse(last_used_at=watched.world.clock.now())
    passed(watched, MINUTE)
    watched.sweep()
    made = watched.plan()
    assert made.use is not None
    assert made.use.used == 40
    passed(watched, HOUR)
    watched.look()
    watched.sweep()
    assert watched.plan().use is None, "the look-up no longer shows it"


def test_a_clock_that_was_ahead_hides_no_use_once_it_is_right() -> None:
    watched = Watched()
    passed(watched, 24 * HOUR)
    watched.uses(10)
    watched.sweep()
    passed(watched, -22 * HOUR)
    watched.uses(100)
    watched.sweep()
    assert watched.plan().state is State.SPENT


def test_a_provider_that_shows_the_use_of_some_keys_only_leaves_the_others_unknown() -> None:
    watched = Watched("a", "b")
    passed(watched, HOUR)
    first, second = watched.world.targets
    watched.uses(100, first)
    watched.uses(None, second)
    assert watched.sweep() == (first,)
    assert watched.look() == (), "the other one is looked up alone, and that shows nothing either"
    now = watched.world.clock.now()
    shown, hidden = (plan(watched.reconciler.observer.observe(target), now) for target in (first, second))
    assert (shown.state, shown.use and shown.use.used) == (State.SPENT, 100)
    assert (hidden.state, hidden.use, hidden.is_nearly_spent, hidden.actions) == (State.OK, None, False, ())
