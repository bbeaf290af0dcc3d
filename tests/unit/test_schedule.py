"""The schedule: what is due when, who goes first, and what a failure, a request or a jump of the clock changes."""

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from support.clocks import FakeClock
from support.known import used
from support.world import make_target

from rotator.core.errors import (
    ProviderCredentialRefused,
    ProviderRateLimited,
    ProviderRequestRefused,
    RotatorError,
    StoreUnavailable,
)
from rotator.core.plan import Plan, Rotate
from rotator.core.reasons import Reason, State
from rotator.core.renewal import Renewal
from rotator.core.request import LOOK, RotationRequest
from rotator.core.target import Target
from rotator.core.times import hash_fraction
from rotator.core.versions import Record
from rotator.daemon.schedule import FIRST_WAIT, LONGEST_WAIT, LONGEST_WAIT_AT_END, Schedule, Task
from rotator.protocol.reconciler import Report

RESYNC = timedelta(minutes=10)
PACES = {"respan": timedelta(seconds=3), "other": timedelta(seconds=3)}
ALL = RotationRequest(rotate=True, by="signal")


def make_schedule(*names: str) -> tuple[Schedule, FakeClock, dict[str, Target]]:
    clock = FakeClock()
    targets = {name: make_target(name) for name in names}
    schedule = Schedule(clock, random.Random(7), RESYNC)
    schedule.configure(targets, (), RESYNC, PACES)
    return schedule, clock, targets


UNDER_WAY: dict[str, Task] = {}
"""The task with which each target was last taken."""


def taken(schedule: Schedule) -> list[str]:
    names = []
    while entry := schedule.take():
        UNDER_WAY[entry[0]] = entry[1]
        names.append(entry[0])
    return names


def done(schedule: Schedule, report: Report) -> tuple[int, datetime | None]:
    """End the pass over the target."""
    return schedule.done(report, UNDER_WAY[report.target.name])


def well(target: Target, clock: FakeClock, wake: float | None = None, renew: float = 3600) -> Report:
    """Return the report of a pass after which nothing is due; `wake` and `renew` are seconds from now."""
    now = clock.now()
    record = Record("o", target.name, "id", "name", now, now + timedelta(seconds=renew + 600), "p", "k")
    moment = now + timedelta(seconds=wake) if wake is not None else None
    renew_at = now + timedelta(seconds=renew)
    return Report(target, Plan(State.OK, Reason.FRESH, record, renewal=Renewal(renew_at), wake_at=moment))


def failed(target: Target) -> Report:
    return Report(target, None, StoreUnavailable("no answer"))


def test_a_new_key_that_comes_due_within_its_own_pass_is_replaced_soon() -> None:
    """And not only when it expires, which is the next moment at which time alone changes anything."""
    schedule, clock, targets = make_schedule("a")
    schedule.request(["a"], ALL)
    assert taken(schedule) == ["a"]
    report = well(targets["a"], clock, wake=600, renew=0)
    assert report.plan is not None
    due = replace(report.plan, actions=(Rotate(Reason.EXPIRING, 1),))
    _, at = done(schedule, replace(report, plan=due, rotated=True))
    assert at == clock.now() + FIRST_WAIT


def test_each_target_is_read_once_at_the_start_and_then_within_the_resync() -> None:
    schedule, clock, targets = make_schedule("a", "b", "c")
    assert sorted(taken(schedule)) == ["a", "b", "c"]
    assert taken(schedule) == []  # they are under way
    for target in targets.values():
        done(schedule, well(target, clock))
    assert taken(schedule) == []
    clock.sleep(RESYNC.total_seconds())
    assert sorted(taken(schedule)) == ["a", "b", "c"]


def test_held_up_targets_come_in_turn_the_most_urgent_first_and_none_later_than_planned() -> None:
    schedule, clock, targets = make_schedule("a", "b", "c", "d")
    taken(schedule)
    for name, ends in (("a", 3000), ("b", 1000), ("c", 2000), ("d", 4000)):
        done(schedule, well(targets[name], clock, renew=ends, wake=4 if name == "d" else None))
    schedule.wake_in_turn([*targets, "gone"])
    order: dict[str, int] = {}
    for second in range(12):
        order |= dict.fromkeys(taken(schedule), second)
        clock.sleep(1)
    assert order == {"b": 0, "c": 3, "d": 4, "a": 6}


def test_a_key_that_is_nearly_spent_does_not_wait_for_keys_that_work_for_longer() -> None:
    schedule, clock, targets = make_schedule("spending", "due", "idle")
    taken(schedule)
    for name, renew in (("spending", 7200), ("due", 0), ("idle", 7200)):
        done(schedule, well(targets[name], clock, wake=60, renew=renew))
    clock.sleep(60)
    schedule.wake(["spending", "idle"], {"spending": clock.now() + timedelta(minutes=5)})
    assert taken(schedule) == ["spending", "due", "idle"]


def test_a_failed_early_rotation_keeps_its_urgency() -> None:
    schedule, clock, targets = make_schedule("spending", "due")
    taken(schedule)
    done(schedule, well(targets["due"], clock, wake=60, renew=0))
    report = well(targets["spending"], clock, renew=7200)
    assert report.plan is not None
    use = used(40, clock.now(), rate=0.1)
    rotation = (Rotate(Reason.NEARLY_SPENT, 1),)
    nearly_spent = replace(report.plan, reason=Reason.NEARLY_SPENT, use=use, actions=rotation)
    done(schedule, replace(report, plan=nearly_spent, error=ProviderRateLimited("slow down", retry_after=60)))
    clock.sleep(60)
    assert taken(schedule) == ["spending", "due"]


def test_a_target_wakes_at_its_plans_time() -> None:
    schedule, clock, targets = make_schedule("a")
    taken(schedule)
    done(schedule, well(targets["a"], clock, wake=5))
    clock.sleep(4)
    assert taken(schedule) == []
    clock.sleep(1)
    assert taken(schedule) == ["a"]


def test_a_target_that_comes_due_while_it_waits_moves_ahead() -> None:
    """The workers are busy: a target that was only to be read is due by the time that its turn comes."""
    schedule, clock, targets = make_schedule("soon", *(f"other-{number}" for number in range(50)))
    taken(schedule)
    for name, target in targets.items():
        # `soon` is due in half an hour and expires in an hour; all others are due, and have eight hours left.
        renew = 1800 if name == "soon" else 8 * 3600 - 600
        report = well(target, clock, wake=1800, renew=renew)
        assert report.plan is not None
        if name != "soon":
            report = replace(report, plan=replace(report.plan, renewal=Renewal(clock.now()), wake_at=clock.now()))
        done(schedule, report)
    clock.sleep(RESYNC.total_seconds())  # now `soon` is to be read, which can wait
    before = []
    while (entry := schedule.take()) and entry[0] != "soon":
        before.append(entry[0])
        schedule.done(well(targets[entry[0]], clock, renew=16 * 3600), entry[1])
        clock.sleep(60)
    assert 19 <= len(before) <= 21, "as soon as it is due it is the next"
    assert len(set(before)) == len(before)
    assert entry
    schedule.done(well(targets["soon"], clock, renew=16 * 3600), entry[1])
    after = schedule.take()
    assert after
    assert after[0] not in before, "it is not taken twice for having waited in two places"


def test_memory_does_not_grow_with_the_reads_of_a_target() -> None:
    """Each read that is not urgent has an entry: with the default times 95 of them until the key is due."""
    schedule, clock, targets = make_schedule("a", "b", "c")
    for _ in range(3 * 144):  # three days
        for name in taken(schedule):
            done(schedule, well(targets[name], clock, renew=30 * 24 * 3600))
        clock.sleep(RESYNC.total_seconds())
    assert len(schedule._heap) + sum(map(len, schedule._ready.values())) < 150


def test_the_key_that_expires_first_goes_first_and_tidying_last() -> None:
    schedule, clock, targets = make_schedule("tidy", "late", "soon")
    taken(schedule)
    done(schedule, well(targets["tidy"], clock, wake=60, renew=9000))
    done(schedule, well(targets["late"], clock, wake=60, renew=60))
    done(schedule, well(targets["soon"], clock, wake=60, renew=30))
    clock.sleep(60)
    assert taken(schedule) == ["soon", "late", "tidy"]


def waits_after(error: RotatorError, times: int, life: float) -> list[timedelta]:
    """How long each of so many failed passes waits, one after the other, of a target with so many seconds to live."""
    schedule, clock, targets = make_schedule("a")
    taken(schedule)
    done(schedule, well(targets["a"], clock, wake=0, renew=life - 600))
    waits = []
    for count in range(1, times + 1):
        assert taken(schedule) == ["a"]
        failures, at = done(schedule, Report(targets["a"], None, error))
        assert failures == count
        assert at is not None
        waits.append(at - clock.now())
        clock.sleep(waits[-1].total_seconds())
    taken(schedule)
    assert done(schedule, well(targets["a"], clock))[0] == 0, "a success forgets them"
    return waits


def test_failures_back_off_to_a_longest_wait() -> None:
    waits = waits_after(StoreUnavailable("no answer"), 12, life=1_000_000)
    assert FIRST_WAIT / 2 <= waits[0] <= FIRST_WAIT
    assert waits[0] < waits[3] < waits[-1]
    assert all(LONGEST_WAIT / 2 <= wait <= LONGEST_WAIT for wait in waits[-3:])
    assert len(set(waits[-3:])) == 3, "those that failed together do not come back together"


@pytest.mark.parametrize("error", [StoreUnavailable("no answer"), ProviderCredentialRefused("refused")])
def test_the_longest_wait_shrinks_as_the_served_key_nears_its_expiry(error: RotatorError) -> None:
    waits = waits_after(error, 60, life=7200)
    assert max(waits) > 3 * LONGEST_WAIT_AT_END
    assert all(LONGEST_WAIT_AT_END / 2 <= wait <= LONGEST_WAIT_AT_END for wait in waits[-3:])


def test_a_target_with_refused_requests_does_not_delay_the_others() -> None:
    waits = waits_after(ProviderRequestRefused("a rate_limit of 0"), 12, life=600)
    assert all(LONGEST_WAIT / 2 <= wait <= LONGEST_WAIT for wait in waits[-3:])


def test_waking_a_target_keeps_its_request() -> None:
    schedule, clock, targets = make_schedule("a")
    taken(schedule)
    done(schedule, well(targets["a"], clock))
    schedule.wake(["a", "unknown"])
    assert taken(schedule) == ["a"]
    assert UNDER_WAY["a"] == Task()
    done(schedule, well(targets["a"], clock))
    schedule.request(["a"], ALL)
    schedule.wake(["a"])
    assert schedule.take() == ("a", Task(ALL))


def test_a_retry_after_of_the_provider_is_kept() -> None:
    schedule, clock, targets = make_schedule("a")
    taken(schedule)
    _, at = done(schedule, Report(targets["a"], None, ProviderRateLimited("too much", 120)))
    assert at == clock.now() + timedelta(seconds=120)


def test_a_repeated_request_is_done_once() -> None:
    schedule, clock, targets = make_schedule("a")
    taken(schedule)
    done(schedule, well(targets["a"], clock))
    for _ in range(3):
        schedule.request(["a", "unknown"], ALL)
    entry = schedule.take()
    assert entry == ("a", Task(ALL))
    schedule.done(Report(targets["a"], well(targets["a"], clock).plan, rotated=True), entry[1])
    assert taken(schedule) == []


def test_a_request_during_a_pass_is_not_lost() -> None:
    schedule, clock, targets = make_schedule("a")
    taken(schedule)
    schedule.request(["a"], ALL)
    assert taken(schedule) == []
    done(schedule, well(targets["a"], clock))
    assert schedule.take() == ("a", Task(ALL))


def test_a_request_that_failed_is_tried_again() -> None:
    schedule, clock, targets = make_schedule("a")
    taken(schedule)
    done(schedule, well(targets["a"], clock))
    schedule.request(["a"], ALL)
    entry = schedule.take()
    assert entry == ("a", Task(ALL))
    schedule.done(failed(targets["a"]), entry[1])
    clock.sleep(FIRST_WAIT.total_seconds())
    assert schedule.take() == ("a", Task(ALL))


def test_a_new_configuration_takes_up_the_new_and_the_changed_and_forgets_the_rest() -> None:
    schedule, clock, targets = make_schedule("kept", "changed", "gone")  # the provider of "changed" is another one now
    taken(schedule)
    for target in targets.values():
        done(schedule, well(target, clock))
    after = {name: make_target(name) for name in ("kept", "changed", "new")}
    after["changed"] = make_target("changed", provider="other")
    schedule.configure(after, {"changed"}, RESYNC, PACES)
    assert schedule.take(lambda lane: lane == ("other", "vault")) == ("changed", Task())
    assert taken(schedule) == ["new"]
    assert done(schedule, well(targets["gone"], clock)) == (0, None)


def test_a_target_that_changed_during_its_pass_is_looked_at_again() -> None:
    schedule, clock, targets = make_schedule("a")
    taken(schedule)
    schedule.configure(targets, {"a"}, RESYNC, PACES)
    assert taken(schedule) == []
    done(schedule, well(targets["a"], clock))
    assert taken(schedule) == ["a"]


def test_after_a_clock_jump_every_target_is_read_again() -> None:
    schedule, clock, targets = make_schedule("a", "b")
    taken(schedule)
    for target in targets.values():
        done(schedule, well(target, clock))
    assert taken(schedule) == []
    for target in targets.values():
        done(schedule, well(target, clock))
    assert schedule.jumped() == 0
    for jump in (timedelta(hours=-8), timedelta(days=365)):
        clock.wall_jump = jump
        assert sorted(taken(schedule)) == ["a", "b"]
        for target in targets.values():
            done(schedule, well(target, clock))
        assert taken(schedule) == []


def test_a_clock_jump_is_reported_once() -> None:
    schedule, clock, _ = make_schedule("a")
    taken(schedule)
    assert schedule.jumped() == 0
    clock.wall_jump = timedelta(hours=-8)
    taken(schedule)
    assert round(schedule.jumped()) == -8 * 3600
    assert schedule.jumped() == 0
    clock.wall_jump = timedelta(hours=1)
    assert round(schedule.jumped()) == 9 * 3600
    assert taken(schedule) == [], "it is under way"


def test_an_outage_of_an_hour_ends_without_a_stampede() -> None:
    """A thousand targets fail for an hour; then they come back spread out."""
    names = [f"t{number:04}" for number in range(1000)]
    schedule, clock, targets = make_schedule(*names)
    up_again = 3600.0
    after: dict[int, int] = {}
    taken(schedule)
    for name in names:
        done(schedule, well(targets[name], clock, wake=hash_fraction(name) * 600, renew=80_000))
    started = clock.monotonic()
    while (passed := clock.monotonic() - started) < up_again + 900:
        for name in taken(schedule):
            if passed < up_again:
                done(schedule, failed(targets[name]))
            else:
                after[int((passed - up_again) // 10)] = after.get(int((passed - up_again) // 10), 0) + 1
                done(schedule, well(targets[name], clock, renew=80_000))
        clock.sleep(1)
    first_looks = sum(count for slot, count in after.items() if slot < 60)
    assert first_looks >= 1000, "each has been read within its longest wait"
    assert max(after.values()) <= 4 * 1000 / 60, "an even share is a sixtieth of them"


def test_the_first_passes_read_and_their_findings_are_done_by_urgency() -> None:
    schedule, clock, targets = make_schedule("new", "soon", "fine")
    assert sorted(taken(schedule)) == ["fine", "new", "soon"]
    assert set(UNDER_WAY.values()) >= {Task(options=LOOK)}
    rotate = (Rotate(Reason.EXPIRING, 1),)
    new = Report(targets["new"], Plan(State.MISSING, Reason.FIRST, actions=rotate))
    soon = well(targets["soon"], clock, renew=-300)  # expires in five minutes, before a first key is missed
    assert soon.plan is not None
    done(schedule, new)
    done(schedule, replace(soon, plan=replace(soon.plan, actions=rotate)))
    done(schedule, well(targets["fine"], clock))
    assert taken(schedule) == ["soon", "new"]
    assert {UNDER_WAY["soon"], UNDER_WAY["new"]} == {Task()}


def test_a_target_that_waits_for_its_first_key_keeps_its_place() -> None:
    schedule, clock, targets = make_schedule("early", "late")
    taken(schedule)
    nothing = Plan(State.MISSING, Reason.FIRST, actions=(Rotate(Reason.FIRST, 0),))
    done(schedule, Report(targets["early"], nothing, StoreUnavailable("no answer")))
    clock.sleep(60)
    done(schedule, Report(targets["late"], nothing))
    assert taken(schedule) == ["early", "late"]


def test_rotations_due_faster_than_the_budget_allows_are_brought_forward() -> None:
    """A hundred keys end at one moment, and each rotation takes three seconds of the budget."""
    names = [f"t{number:03}" for number in range(100)]
    schedule, clock, targets = make_schedule(*names)
    taken(schedule)
    due = clock.now() + timedelta(hours=4)
    for name in names:
        done(schedule, well(targets[name], clock, renew=4 * 3600))
    begun: dict[str, datetime] = {}
    while clock.now() < due:
        for name in taken(schedule):
            ahead = UNDER_WAY[name].options.ahead
            report = well(targets[name], clock, renew=(due - clock.now()).total_seconds())
            if ahead and due - ahead <= clock.now():
                begun[name] = clock.now()
                report = replace(well(targets[name], clock, renew=16 * 3600), rotated=True)
            done(schedule, report)
        clock.sleep(1)
    assert len(begun) >= 95, "the others are begun when they are due"
    moments = sorted(begun.values())
    assert moments[0] >= due - timedelta(seconds=3 * 100 + 60), "none earlier than it must"
    in_each_minute = [sum(m <= other < m + timedelta(minutes=1) for other in moments) for m in moments]
    assert max(in_each_minute) <= 2 * 60 / 3, "at the pace of the budget, but for what was looked at late"


def test_rotations_within_the_budget_are_not_brought_forward() -> None:
    schedule, clock, targets = make_schedule("a", "b")
    taken(schedule)
    done(schedule, well(targets["a"], clock, wake=3600, renew=3600))
    done(schedule, well(targets["b"], clock, wake=3604, renew=3604))
    ends = clock.monotonic() + 3600
    while clock.monotonic() < ends:
        for name in taken(schedule):
            assert not UNDER_WAY[name].options.ahead
            left = 3600 if name == "a" else 3604
            remaining = ends - clock.monotonic() + left - 3600
            done(schedule, well(targets[name], clock, wake=remaining, renew=remaining))
        clock.sleep(1)


def test_a_due_rotation_does_not_wait_for_a_failing_action() -> None:
    """Tidying that is refused until a person has acted must not make the target late for its next key."""
    schedule, clock, targets = make_schedule("a")
    taken(schedule)
    fine = well(targets["a"], clock, wake=90, renew=90)
    refused = replace(fine, error=ProviderRequestRefused("the policy has no destroy"))
    for _ in range(20):
        _, at = done(schedule, refused)
        assert at is not None
        if at == clock.now() + timedelta(seconds=90):
            break
        schedule.wake(["a"])
        taken(schedule)
    else:
        pytest.fail("the wait grows beyond the moment at which the key is due")


def test_a_closed_lane_delays_no_other_and_its_targets_go_by_urgency_when_it_opens() -> None:
    clock = FakeClock()
    targets = {name: make_target(name, provider=name[:4]) for name in ("sick-late", "sick-soon", "well-late")}
    schedule = Schedule(clock, random.Random(7), RESYNC)
    schedule.configure(targets, (), RESYNC, {"sick": timedelta(seconds=3), "well": timedelta(seconds=3)})
    taken(schedule)
    done(schedule, well(targets["sick-late"], clock, wake=60, renew=60))
    done(schedule, well(targets["sick-soon"], clock, wake=60, renew=30))
    done(schedule, well(targets["well-late"], clock, wake=60, renew=60))
    clock.sleep(60)
    only_the_well = {"is_open": lambda lane: lane[0] == "well"}
    assert (schedule.take(**only_the_well) or ("",))[0] == "well-late"
    assert schedule.take(**only_the_well) is None
    assert taken(schedule) == ["sick-soon", "sick-late"]


def test_the_same_request_during_its_pass_changes_nothing() -> None:
    schedule, clock, targets = make_schedule("a")
    done_all = Report(targets["a"], well(targets["a"], clock).plan, rotated=True)
    taken(schedule)
    done(schedule, well(targets["a"], clock))
    schedule.request(["a"], RotationRequest(rotate=True, by="signal"))
    assert taken(schedule) == ["a"]
    schedule.request(["a"], RotationRequest(rotate=True, by="signal"))
    done(schedule, done_all)
    assert not any(entry and entry[1].request.rotate for entry in [schedule.take()])


def test_a_fault_in_the_arithmetic_forgets_no_target(monkeypatch: pytest.MonkeyPatch) -> None:
    schedule, clock, targets = make_schedule("a")
    taken(schedule)
    monkeypatch.setattr(Schedule, "_next", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        done(schedule, well(targets["a"], clock))
    clock.advance(LONGEST_WAIT)
    assert taken(schedule) == ["a"]


def test_no_rotation_is_brought_forward_out_of_its_window() -> None:
    """A hundred keys wait for a window that opens in four hours, and each rotation takes three seconds."""
    names = [f"t{number:03}" for number in range(100)]
    schedule, clock, targets = make_schedule(*names)
    taken(schedule)
    opens_at = clock.now() + timedelta(hours=4)
    for name in names:
        report = well(targets[name], clock, wake=4 * 3600, renew=4 * 3600)
        assert report.plan is not None
        done(schedule, replace(report, plan=replace(report.plan, renewal=Renewal(opens_at, not_before=opens_at))))
    while clock.now() < opens_at:
        for name in taken(schedule):
            renewal = Renewal(opens_at, not_before=opens_at)
            assert renewal.brought_forward(UNDER_WAY[name].options.ahead) == opens_at
            report = well(targets[name], clock, wake=(opens_at - clock.now()).total_seconds())
            assert report.plan is not None
            done(schedule, replace(report, plan=replace(report.plan, renewal=renewal)))
        clock.sleep(10)
    assert len(taken(schedule)) == 100


def test_within_a_window_rotations_are_brought_forward_to_its_opening_at_most() -> None:
    opens_at, due = datetime(2026, 3, 2, 9, tzinfo=UTC), datetime(2026, 3, 2, 12, tzinfo=UTC)
    renewal = Renewal(due, ahead=timedelta(hours=2), not_before=opens_at)
    assert renewal.begins_at == due - timedelta(hours=2)
    assert replace(renewal, ahead=timedelta(hours=4)).begins_at == opens_at
    assert not replace(renewal, ahead=timedelta(hours=4)).is_due(opens_at - timedelta(seconds=1))


# --- a look on demand ------------------------------------------------------------------------------------------------


def watched(*names: str) -> tuple[Schedule, FakeClock, dict[str, Target]]:
    """Targets that were read a while ago, and are well."""
    schedule, clock, targets = make_schedule(*names)
    for name in taken(schedule):
        done(schedule, well(targets[name], clock, renew=8 * 3600))
    clock.sleep(1)
    return schedule, clock, targets


def test_a_look_reads_every_target_now_and_spreads_the_next_reads_again() -> None:
    names = [f"t{number}" for number in range(200)]
    schedule, clock, targets = watched(*names)
    schedule.look()
    assert sorted(taken(schedule)) == sorted(names)
    looks = [name for name in names if UNDER_WAY[name].options == LOOK]
    assert len(looks) > 190, "all but those that were due anyway"
    nexts = {name: done(schedule, well(targets[name], clock, renew=8 * 3600))[1] for name in names}
    assert taken(schedule) == []
    minutes = {int((at - clock.now()) / timedelta(minutes=1)) for name in looks if (at := nexts[name])}
    assert minutes == set(range(10)), "as after a start"
    clock.sleep(RESYNC.total_seconds())
    assert sorted(taken(schedule)) == sorted(names)
    assert LOOK not in {UNDER_WAY[name].options for name in names}


def test_what_a_look_finds_due_is_done_at_once() -> None:
    schedule, clock, targets = watched("a")
    schedule.look()
    assert taken(schedule) == ["a"]
    found = well(targets["a"], clock, renew=0)
    assert found.plan is not None
    done(schedule, replace(found, plan=replace(found.plan, actions=(Rotate(Reason.EXPIRING, 1),))))
    assert taken(schedule) == ["a"]
    assert UNDER_WAY["a"].options != LOOK


def test_looks_do_not_put_off_what_is_due() -> None:
    schedule, clock, targets = watched(*(f"t{number}" for number in range(50)))
    schedule.wake([*targets])
    for name in targets:
        schedule.look()
        clock.sleep(5)
        entry = schedule.take()
        assert entry
        assert entry[1].options != LOOK, name
        schedule.done(well(targets[entry[0]], clock, renew=8 * 3600), entry[1])


def test_a_look_during_a_pass_reads_the_path_after_it() -> None:
    schedule, clock, targets = watched("a")
    for _ in range(2):  # the second time the pass under way is a look itself
        schedule.look()
        assert taken(schedule) == ["a"]
        schedule.look()
        done(schedule, well(targets["a"], clock, renew=8 * 3600))
        assert taken(schedule) == ["a"]
        done(schedule, well(targets["a"], clock, renew=8 * 3600))
        assert taken(schedule) == []


def test_a_wake_during_a_pass_is_not_lost() -> None:
    schedule, clock, targets = make_schedule("a")
    taken(schedule)
    schedule.wake(["a"])
    done(schedule, well(targets["a"], clock))
    assert taken(schedule) == ["a"]


def test_a_look_keeps_a_request() -> None:
    schedule, clock, targets = watched("a")
    schedule.request(["a"], ALL)
    schedule.look()
    assert taken(schedule) == ["a"]
    assert UNDER_WAY["a"].request == ALL
    done(schedule, replace(well(targets["a"], clock, renew=8 * 3600), rotated=True))
    assert taken(schedule) == []


@pytest.mark.parametrize("again", [False, True])
def test_a_look_at_a_failing_target_changes_nothing_of_its_retry(again: bool) -> None:
    """Otherwise many looks could have an upstream asked more often, or a retry put off."""
    schedule, clock, targets = watched("a")
    clock.sleep(RESYNC.total_seconds())
    assert taken(schedule) == ["a"]
    count, retry_at = done(schedule, failed(targets["a"]))
    for _ in range(10):
        schedule.look()
        assert taken(schedule) == ["a"]
        assert UNDER_WAY["a"].options == LOOK
        report = failed(targets["a"]) if again else well(targets["a"], clock, renew=8 * 3600 - 601)
        assert done(schedule, report) == (count, retry_at)
        assert taken(schedule) == []
    assert retry_at is not None
    clock.sleep((retry_at - clock.now()).total_seconds())
    assert taken(schedule) == ["a"]
    assert UNDER_WAY["a"].options != LOOK


def test_a_failing_target_that_is_woken_while_a_look_waits_is_tried_again() -> None:
    schedule, clock, targets = watched("a", "b")
    clock.sleep(RESYNC.total_seconds())
    taken(schedule)
    for name in ("a", "b"):
        done(schedule, failed(targets[name]))
    schedule.look()
    schedule.wake(["a"])
    schedule.wake_in_turn(["b"])
    assert sorted(taken(schedule)) == ["a", "b"]
    assert (UNDER_WAY["a"].options == LOOK, UNDER_WAY["b"].options == LOOK) == (False, True)
    done(schedule, failed(targets["b"]))
    assert taken(schedule) == ["b"]
    assert UNDER_WAY["b"].options != LOOK


def test_a_clock_that_is_set_back_puts_off_no_retry_after_a_look() -> None:
    schedule, clock, targets = watched("a")
    clock.sleep(RESYNC.total_seconds())
    taken(schedule)
    done(schedule, failed(targets["a"]))
    schedule.look()
    clock.wall_jump = timedelta(days=-365)
    taken(schedule)
    done(schedule, failed(targets["a"]))
    clock.sleep(LONGEST_WAIT.total_seconds())
    assert taken(schedule) == ["a"]


@pytest.mark.parametrize("look", [False, True])
def test_a_look_that_fails_backs_off_like_any_pass(look: bool) -> None:
    """The look on demand as well as the first pass, which is a look, too."""
    schedule, clock, targets = watched("a") if look else make_schedule("a")
    if look:
        schedule.look()
    waits = []
    for failures in range(1, 8):
        assert taken(schedule) == ["a"]
        count, at = done(schedule, failed(targets["a"]))
        assert count == failures
        assert at is not None
        waits.append(at - clock.now())
        clock.sleep(waits[-1].total_seconds())
    assert waits[0] >= FIRST_WAIT / 2
    assert waits[-1] > 4 * FIRST_WAIT


def test_a_failing_target_that_a_person_gave_another_key_has_recovered_at_once() -> None:
    schedule, clock, targets = watched("a")
    clock.sleep(RESYNC.total_seconds())
    taken(schedule)
    done(schedule, failed(targets["a"]))
    schedule.look()
    taken(schedule)
    assert done(schedule, well(targets["a"], clock, renew=16 * 3600))[0] == 0
