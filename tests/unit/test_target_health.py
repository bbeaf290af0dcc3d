"""Which failures and recoveries consumers learn of, and what a leader leaves to its successor for it."""

import json
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clocks import FakeClock

from rotator.notify.notification import Facts
from rotator.notify.target_health import MOST, Change, TargetHealth

RECENT = timedelta(minutes=20)
WHY = {"error": "the store is sealed", "advice": "Unseal it."}
NAMES = ("billing-api", "search")


class Replica:
    """One process. `renew` is a write of the Lease that succeeds."""

    def __init__(self, clock: FakeClock, *, leads: bool = False, names: tuple[str, ...] = NAMES) -> None:
        self.leads, self.sent = leads, list[Change]()
        self.health = TargetHealth(self.sent.append, clock, lambda: self.leads)
        self.health.share()
        self.health.configure(names, RECENT)

    def acquire(self, text: str) -> str:
        """Lead from now on, with what the last leader left. Returns what is left now."""
        self.health.resume(text)
        self.leads = True
        return self.renew()

    def renew(self) -> str:
        text = self.health.text()
        self.health.written()
        return text

    def news(self) -> list[tuple[str, str]]:
        """Return kind and target of what was sent since the last call."""
        taken, self.sent[:] = [*self.sent], []
        return [(change.kind, change.target) for change in taken]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def failing(replica: Replica, *targets: str, facts: Facts = WHY) -> None:
    for target in targets or NAMES[:1]:
        replica.health.failed(target, facts)


def test_a_notification_waits_until_the_lease_holds_it(clock: FakeClock) -> None:
    leader = Replica(clock, leads=True)
    failing(leader)
    assert leader.news() == []
    text = leader.health.text()
    assert leader.news() == [], "the answer to the write is missing"
    leader.health.written()
    assert leader.news() == [("target.failing", "billing-api")]
    assert json.loads(text)["failing"].keys() == {"billing-api"}


def test_what_begins_to_fail_during_a_write_waits_for_the_next(clock: FakeClock) -> None:
    leader = Replica(clock, leads=True)
    failing(leader, "billing-api")
    leader.health.text()
    failing(leader, "search")
    leader.health.written()
    assert leader.news() == [("target.failing", "billing-api")]
    leader.renew()
    assert leader.news() == [("target.failing", "search")]


def test_without_a_lease_nothing_waits(clock: FakeClock) -> None:
    sent: list[Change] = []
    health = TargetHealth(sent.append, clock, lambda: True)
    health.configure(NAMES, RECENT)
    health.failed("search", WHY)
    health.worked("search", is_done=True)
    assert [change.kind for change in sent] == ["target.failing", "target.recovered"]


def test_a_successor_sends_the_same_failure_again(clock: FakeClock) -> None:
    former, successor = Replica(clock, leads=True), Replica(clock)
    failing(former)
    text = former.renew()
    clock.sleep(60)
    successor.acquire(text)
    failing(successor, facts={"error": "the store is sealed", "advice": "Unseal it soon."})
    successor.renew()
    assert [(change.kind, change.since) for change in successor.sent] == [
        (change.kind, change.since) for change in former.sent
    ]
    failing(successor)
    successor.renew()
    assert len(successor.sent) == 1, "once"


def test_a_failure_of_long_ago_is_not_sent_again_but_its_recovery_is(clock: FakeClock) -> None:
    former, successor = Replica(clock, leads=True), Replica(clock)
    failing(former)
    text = former.renew()
    clock.sleep(RECENT.total_seconds())
    successor.acquire(text)
    failing(successor)
    successor.renew()
    assert successor.news() == []
    successor.health.worked("billing-api", is_done=True)
    successor.renew()
    assert successor.news() == [("target.recovered", "billing-api")]


def test_a_target_that_works_for_the_successor_has_recovered(clock: FakeClock) -> None:
    former, successor = Replica(clock, leads=True), Replica(clock)
    failing(former)
    successor.acquire(former.renew())
    successor.health.worked("billing-api", is_done=False)
    successor.renew()
    assert successor.news() == [], "a pass that only looked says nothing of what it left undone"
    successor.health.worked("billing-api", is_done=True)
    successor.renew()
    assert successor.news() == [("target.recovered", "billing-api")]
    successor.health.worked("billing-api", is_done=True)
    successor.renew()
    assert successor.news() == [], "once"


def test_a_successor_sends_a_recent_recovery_again(clock: FakeClock) -> None:
    former = Replica(clock, leads=True)
    failing(former)
    former.renew()
    clock.sleep(60)
    former.health.worked("billing-api", is_done=True)
    text = former.renew()
    recovered = former.sent[-1]
    clock.sleep(RECENT.total_seconds() - 1)
    soon = Replica(clock)
    later = soon.acquire(text)
    assert soon.sent == [recovered]
    clock.sleep(1)
    late = Replica(clock)
    assert late.acquire(later) == "", "nothing is left of it"
    assert late.sent == []


def test_a_standby_that_saw_a_failure_notifies_of_it_when_it_leads(clock: FakeClock) -> None:
    standby = Replica(clock)
    failing(standby, "billing-api", "search")
    standby.health.worked("search", is_done=False)
    standby.acquire("")
    standby.renew()
    assert standby.news() == [("target.failing", "billing-api")]


def test_a_leader_that_lost_the_lease_meanwhile_knows_what_the_other_sent(clock: FakeClock) -> None:
    first, second = Replica(clock, leads=True), Replica(clock)
    failing(first)
    text = first.renew()
    first.leads = False
    text = second.acquire(text)
    second.health.worked("billing-api", is_done=True)
    text = second.renew()
    second.leads = False
    first.news()
    first.acquire(text)
    failing(first)
    first.renew()
    assert first.news() == [("target.recovered", "billing-api"), ("target.failing", "billing-api")]


def test_two_failures_of_one_target_differ(clock: FakeClock) -> None:
    leader = Replica(clock, leads=True)
    for _ in range(2):
        failing(leader)
        leader.health.worked("billing-api", is_done=True)
        leader.renew()
        clock.sleep(1)
    assert len({(change.kind, change.since) for change in leader.sent}) == 4


@pytest.mark.parametrize(
    "text",
    [
        "no JSON",
        "[]",
        '{"failing": 3}',
        '{"failing": {"search": "soon"}}',
        '{"recovered": {"search": "9999-12-31T23:59:59-01:00"}}',  # beyond the calendar in UTC, so no body can show it
    ],
)
def test_a_text_that_another_program_wrote_is_ignored(text: str, clock: FakeClock) -> None:
    replica = Replica(clock)
    failing(replica)
    replica.acquire(text)
    replica.renew()
    assert replica.news() == [("target.failing", "billing-api")]


def test_what_a_later_release_adds_to_the_text_is_ignored(clock: FakeClock) -> None:
    former, successor = Replica(clock, leads=True), Replica(clock)
    failing(former)
    successor.acquire(json.dumps({**json.loads(former.renew()), "more": 1}))
    successor.health.worked("billing-api", is_done=True)
    successor.renew()
    assert successor.news() == [("target.recovered", "billing-api")]


def test_a_target_that_is_no_longer_configured_is_forgotten(clock: FakeClock) -> None:
    leader = Replica(clock, leads=True)
    failing(leader, *NAMES)
    text = leader.renew()
    leader.health.configure(NAMES[1:], RECENT)
    assert json.loads(leader.renew())["failing"].keys() == {"search"}
    successor = Replica(clock, names=NAMES[1:])
    assert json.loads(successor.acquire(text))["failing"].keys() == {"search"}


def test_the_text_has_a_bound_and_keeps_what_fails_longest(clock: FakeClock) -> None:
    names = tuple(f"{number:063}" for number in range(4000))
    leader = Replica(clock, leads=True, names=names)
    for name in names:
        failing(leader, name)
        clock.sleep(1)
    text = leader.renew()
    assert MOST / 4 < len(text) < MOST
    assert len(leader.news()) == len(names), "all are sent"
    kept = json.loads(text)["failing"]
    assert [*kept] == [*names[: len(kept)]]


@given(steps=st.lists(st.sampled_from(["fails", "works", "renew", "crash", "renew, crash"]), max_size=20))
def test_whatever_crashes_the_last_notification_is_the_truth(steps: list[str]) -> None:
    """A crash loses what waits for the Lease. In the last step it also loses what the Lease holds and nothing took."""
    clock = FakeClock()
    replica, text, is_failing = Replica(clock), "", False
    received: dict[tuple[str, datetime], Change] = {}
    text = replica.acquire(text)
    for step in (*steps, "renew"):
        clock.sleep(1)
        if step in ("fails", "works"):
            is_failing = step == "fails"
        if is_failing:
            failing(replica)
        else:
            replica.health.worked("billing-api", is_done=True)
        if "renew" in step:
            text = replica.renew()
        if "crash" in step:
            replica = Replica(clock)
            text = replica.acquire(text)
        received |= {(change.kind, change.since): change for change in replica.sent}
    ordered = sorted(received.values(), key=lambda change: change.since)
    assert [change.fails for change in ordered[-1:]] == ([is_failing] if ordered or is_failing else [])
