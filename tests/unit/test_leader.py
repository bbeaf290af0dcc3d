"""The Lease, against an API server in memory: who leads when, whatever clocks and answers do."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.canned import Asked, Canned, Reply, canned
from support.clocks import FakeClock
from support.handover import Left
from support.process import wait_until
from support.recorded_events import RecordedEvents

from rotator.core.events import EventType, Level
from rotator.core.ports import Clock
from rotator.core.versions import LONGEST_TEXT
from rotator.daemon.leader import LEFT, MOST, Lease
from rotator.runtime.clock import SystemClock
from rotator.runtime.kubernetes import Access, LeaseSettings

DURATION = 15.0
PATH = "/apis/coordination.k8s.io/v1/namespaces/rotator/leases"
TOKEN = "a-service-accounts-token"


class Api:
    """Keeps one Lease as Kubernetes does; `reply` stands in for its answers while it is set."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.reply: Reply | None = None
        self.token = TOKEN
        self._lock = threading.Lock()

    def __call__(self, asked: Asked) -> Reply:
        with self._lock:
            return self._answer(asked)

    def _answer(self, asked: Asked) -> Reply:
        if self.reply is not None:
            return self.reply
        if asked.headers["authorization"] != f"Bearer {self.token}":
            return Reply(401, {"kind": "Status"})
        if asked.method == "GET":
            assert asked.path == f"{PATH}/rotator"
            return Reply(200, self.lease) if self.lease else Reply(404, {"kind": "Status"})
        body = json.loads(asked.body)
        if asked.method == "POST" and self.lease is not None:
            return Reply(409, {"kind": "Status"})
        if asked.method == "PUT" and body["metadata"]["resourceVersion"] != str(self.version):
            return Reply(409, {"kind": "Status"})
        self.version += 1
        body["metadata"]["resourceVersion"] = str(self.version)
        self.lease = body
        return Reply(201 if asked.method == "POST" else 200, body)

    @property
    def holder(self) -> str:
        assert self.lease is not None
        return str(self.lease["spec"]["holderIdentity"])


class Rig:
    """Some replicas and one API server. Each replica has clocks of its own."""

    def __init__(self, server: Canned, folder: Path) -> None:
        self.server, self.api = server, Api()
        server.answer = self.api
        self.token = folder / "token"
        self.token.write_text(TOKEN + "\n")
        self.events = RecordedEvents()
        self.changes: list[tuple[str, bool]] = []

    def replica(self, name: str, clock: Clock, duration: float = DURATION, left: Left | None = None) -> Lease:
        access = Access(self.server.address, "rotator", self.token, Path("unused"))
        settings = LeaseSettings(access, "rotator", name, duration)
        left = left or Left()
        return Lease(settings, clock, self.events.append, left, lambda leads: self.changes.append((name, leads)))


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with canned(lambda _: Reply(500)) as server:
        yield Rig(server, tmp_path)


@pytest.fixture
def clock() -> FakeClock:
    clock = FakeClock()
    clock.sleep(1000)
    return clock


def test_the_first_replica_leads_and_the_second_stands_by(rig: Rig, clock: FakeClock) -> None:
    a, b = rig.replica("a", clock), rig.replica("b", clock)
    a.attempt()
    b.attempt()
    assert (a.leads(), b.leads(), b.holder) == (True, False, "a")
    assert rig.api.lease is not None
    spec = rig.api.lease["spec"]
    assert spec["renewTime"] == spec["acquireTime"] == "2026-03-01T12:16:40.000000Z"
    assert (spec["leaseDurationSeconds"], spec["leaseTransitions"]) == (15, 0)
    assert rig.changes == [("a", True)]


def test_a_leaders_name_is_cut_to_what_is_shown(rig: Rig, clock: FakeClock) -> None:
    rig.replica("a" * 100_000, clock).attempt()
    b = rig.replica("b", clock)
    b.attempt()
    assert b.holder == "a" * LONGEST_TEXT


def test_a_renewal_keeps_the_time_at_which_leadership_began(rig: Rig, clock: FakeClock) -> None:
    a, b = rig.replica("a", clock), rig.replica("b", clock)
    for _ in range(20):
        a.attempt()
        b.attempt()
        assert (a.leads(), b.leads()) == (True, False)
        clock.sleep(DURATION / 4)
    assert rig.api.lease is not None
    assert rig.api.lease["spec"]["acquireTime"] < rig.api.lease["spec"]["renewTime"]
    assert rig.changes == [("a", True)]


def test_a_holder_stops_before_another_can_begin(rig: Rig, clock: FakeClock) -> None:
    a, b = rig.replica("a", clock), rig.replica("b", clock)
    a.attempt()
    b.attempt()
    began, stopped, taken = clock.monotonic(), 0.0, 0.0
    while not taken:
        clock.sleep(0.25)
        b.attempt()
        assert not (a.leads() and b.leads())
        stopped = stopped or (clock.monotonic() if not a.leads() else 0.0)
        taken = clock.monotonic() if b.leads() else 0.0
    assert stopped - began == pytest.approx(DURATION * 2 / 3, abs=0.25)
    assert taken - began == pytest.approx(DURATION, abs=0.25)
    assert rig.api.holder == "b"
    assert rig.api.lease is not None
    assert rig.api.lease["spec"]["leaseTransitions"] == 1
    a.attempt()
    assert (a.leads(), a.holder) == (False, "b")
    assert rig.changes == [("a", True), ("b", True), ("a", False)]


def test_times_in_anothers_lease_mean_nothing(rig: Rig, clock: FakeClock) -> None:
    """A holder with a clock years behind keeps its Lease; a clock years ahead does not extend the wait."""
    for years in (-5, 5):
        rig.api.lease = None
        off = FakeClock()
        off.sleep(1000)
        off.wall_jump = timedelta(days=365 * years)
        a, b = rig.replica("a", off), rig.replica("b", clock)
        a.attempt()
        for _ in range(3):
            b.attempt()
            assert not b.leads()
            clock.sleep(DURATION / 4)
        clock.sleep(DURATION)
        b.attempt()
        assert b.leads()


def test_a_standby_waits_for_the_duration_in_the_lease(rig: Rig, clock: FakeClock) -> None:
    a, b = rig.replica("a", clock), rig.replica("b", clock)
    a.attempt()
    assert rig.api.lease is not None
    rig.api.lease["spec"]["leaseDurationSeconds"] = 60
    b.attempt()
    clock.sleep(DURATION * 2)
    b.attempt()
    assert not b.leads()
    clock.sleep(60)
    b.attempt()
    assert b.leads()


def test_of_two_replicas_that_try_at_once_one_gets_it(rig: Rig, clock: FakeClock) -> None:
    a, b = rig.replica("a", clock), rig.replica("b", clock)
    between: list[Lease] = [b]

    def answer(asked: Asked) -> Reply:
        reply = rig.api(asked)
        if asked.method == "GET" and between:
            between.pop().attempt()  # after the other has seen that there is none
        return reply

    rig.server.answer = answer
    a.attempt()
    assert (a.leads(), b.leads()) == (False, True)
    a.attempt()
    assert not a.leads()
    assert not rig.events.of(EventType.LEASE_FAILED), "nothing is wrong"


@pytest.mark.parametrize("reply", [Reply(500), Reply(403, {}), Reply(401, {}), Reply(200, "<html>"), Reply(200, {})])
def test_a_holder_that_cannot_renew_leads_for_two_thirds_and_reports_it_once(
    rig: Rig, clock: FakeClock, reply: Reply
) -> None:
    a = rig.replica("a", clock)
    a.attempt()
    rig.api.reply = reply
    led = 0.0
    for _ in range(60):
        a.attempt()
        led += 0.25 if a.leads() else 0
        clock.sleep(0.25)
    assert led == pytest.approx(DURATION * 2 / 3, abs=0.3)
    [failed] = rig.events.of(EventType.LEASE_FAILED)
    assert TOKEN not in str(failed)
    assert rig.changes == [("a", True), ("a", False)]
    rig.api.reply = None
    a.attempt()
    assert a.leads()
    assert TOKEN not in str(rig.events)


def test_the_leader_before_an_outage_is_not_shown_as_leader_during_it(rig: Rig, clock: FakeClock) -> None:
    a, b = rig.replica("a", clock), rig.replica("b", clock)
    a.attempt()
    b.attempt()
    rig.api.reply = Reply(500)
    clock.sleep(DURATION / 2)
    for lease in (a, b):
        lease.attempt()
    assert (a.leads(), a.holder, b.holder) == (True, "a", "a")
    clock.sleep(DURATION / 2)
    for lease in (a, b):
        lease.attempt()
    assert (a.leads(), a.holder, b.holder) == (False, "", "")
    rig.api.reply = None
    b.attempt()
    a.attempt()
    assert (a.holder, b.holder) == ("b", "b")


def test_failures_are_reported_once_for_each_reason_and_recovery_once(rig: Rig, clock: FakeClock) -> None:
    a = rig.replica("a", clock)
    for _ in range(3):
        for status in (503, 429, 500):
            rig.api.reply = Reply(status)
            a.attempt()
    assert len(rig.events.of(EventType.LEASE_FAILED)) == 3
    assert not rig.events.of(EventType.LEASE_RECOVERED)
    rig.api.reply = None
    for _ in range(3):
        a.attempt()
    [recovered] = rig.events.of(EventType.LEASE_RECOVERED)
    assert recovered.fields == {"lease": "rotator/rotator", "holder": "a"}
    rig.api.reply = Reply(503)
    a.attempt()
    assert len(rig.events.of(EventType.LEASE_FAILED)) == 4


def test_an_api_server_that_is_down_ends_nothing(rig: Rig, clock: FakeClock) -> None:
    a = rig.replica("a", clock)
    with canned(lambda _: Reply(500)) as gone:
        address = gone.address
    settings = LeaseSettings(Access(address, "rotator", rig.token, Path("unused")), "rotator", "a", DURATION)
    lost = Lease(settings, clock, rig.events.append, Left())
    lost.attempt()
    assert not lost.leads()
    [failed] = rig.events.of(EventType.LEASE_FAILED)
    assert f"the API server {address} does not answer about the Lease rotator/rotator ([Errno" in str(failed)
    assert failed.level is Level.WARNING, "it passes without help"
    assert not a.leads()


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_an_answer_that_drips_is_not_waited_for_longer_than_a_third(rig: Rig, method: str) -> None:
    """Each byte comes in time. All of them take seconds, which would leave no time for another try."""
    clock = SystemClock()
    a = rig.replica("a", clock, duration := 1.5)
    a.attempt()

    def answer(asked: Asked) -> Reply:
        reply = rig.api(asked)
        return replace(reply, drips=asked.method == method)

    rig.server.answer = answer
    rig.server.asked.clear()
    began = clock.monotonic()
    a.attempt()
    assert clock.monotonic() - began < duration / 3 + 0.2
    assert a.leads(), "there is time for another try"
    assert "the rest of the answer did not come" in str(rig.events.of(EventType.LEASE_FAILED)[0].fields["error"])
    assert [asked.method for asked in rig.server.asked] == (["GET"] if method == "GET" else ["GET", "PUT"])


def test_reading_and_writing_have_one_deadline_together(rig: Rig, clock: FakeClock) -> None:
    a = rig.replica("a", clock)
    a.attempt()

    def answer(asked: Asked) -> Reply:
        clock.sleep(DURATION / 3)  # while it is being read
        return rig.api(asked)

    rig.server.answer = answer
    rig.server.asked.clear()
    a.attempt()
    assert [asked.method for asked in rig.server.asked] == ["GET"]
    assert rig.events.of(EventType.LEASE_FAILED)


def test_a_renewal_that_came_too_late_to_lead_is_reported(rig: Rig, clock: FakeClock) -> None:
    """As after a pause of the process: the others wait for it, and it does nothing."""
    a = rig.replica("a", clock)
    a.attempt()

    class StandsStill(FakeClock):
        def now(self) -> datetime:  # asked between reading and writing
            self.sleep(DURATION)
            return super().now()

    late = rig.replica("a", StandsStill())
    late._server._seconds = 4 * DURATION  # no deadline ends the request before
    late.attempt()
    assert not late.leads()
    [failed] = rig.events.of(EventType.LEASE_FAILED)
    assert "it took 15 s to renew the Lease rotator/rotator, which is held for 10 s" in str(failed.fields["error"])


def test_the_token_is_read_again_for_each_request(rig: Rig, clock: FakeClock) -> None:
    a = rig.replica("a", clock)
    a.attempt()
    rig.api.token = "the-next-token"
    clock.sleep(5)
    a.attempt()
    [failed] = rig.events.of(EventType.LEASE_FAILED)
    assert "401" in str(failed.fields["error"])
    assert failed.level is Level.ERROR
    rig.token.write_text("the-next-token")
    clock.sleep(6)
    a.attempt()
    assert a.leads()


def test_a_token_file_that_is_not_there_is_named(rig: Rig, clock: FakeClock) -> None:
    a = rig.replica("a", clock)
    rig.token.unlink()
    a.attempt()
    assert not a.leads()
    assert str(rig.token) in str(rig.events.of(EventType.LEASE_FAILED)[0].fields["error"])


@pytest.mark.parametrize("content", [b"", b" \n", b"a b\x00", b"\xff\xfe"])
def test_a_token_file_without_a_token_is_named(rig: Rig, clock: FakeClock, content: bytes) -> None:
    a = rig.replica("a", clock)
    rig.token.write_bytes(content)
    a.attempt()
    [failed] = rig.events.of(EventType.LEASE_FAILED)
    assert f"the token file {rig.token} for the Lease rotator/rotator" in str(failed.fields["error"])
    assert failed.level is Level.ERROR
    assert rig.server.asked == []


def test_a_clean_stop_releases_the_lease_at_once(rig: Rig, clock: FakeClock) -> None:
    a, b = rig.replica("a", clock), rig.replica("b", clock)
    a.attempt()
    b.attempt()
    a.start()
    a.stop()
    assert rig.api.holder == ""
    assert not a.leads()
    b.attempt()
    assert b.leads()


@pytest.mark.parametrize(("duration", "waiting", "leading"), [(8.0, 1.0, 1.6), (15.0, 1.875, 3.0), (60.0, 2.0, 12.0)])
def test_a_standby_reads_the_lease_at_least_every_two_seconds(
    rig: Rig, clock: FakeClock, duration: float, waiting: float, leading: float
) -> None:
    """A leader tries three times before it has to stop."""
    a, b = rig.replica("a", clock, duration), rig.replica("b", clock, duration)
    a.attempt()
    b.attempt()
    assert (a._pause(), b._pause()) == (leading, waiting)
    assert leading * 3 < duration * 2 / 3


def test_a_stop_releases_a_lease_that_names_it_although_it_no_longer_leads(rig: Rig, clock: FakeClock) -> None:
    """The others wait while the Lease names it, even if it no longer leads."""
    a = rig.replica("a", clock)
    a.attempt()
    rig.api.reply = Reply(500)
    clock.sleep(DURATION)
    assert not a.leads()
    a.start()
    wait_until(lambda: bool(rig.events.of(EventType.LEASE_FAILED)), "an attempt that fails")
    rig.api.reply = None
    a.stop()
    assert rig.api.holder == ""


@pytest.mark.parametrize("where", ["GET", "PUT"])
def test_a_thread_that_outlasts_the_stop_does_not_take_the_lease_again(
    rig: Rig, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    a = rig.replica("a", clock)
    a.attempt()
    hangs, goes_on = threading.Event(), threading.Event()

    def answer(asked: Asked) -> Reply:
        if asked.method == where and not hangs.is_set():
            hangs.set()
            goes_on.wait(10)
        return rig.api(asked)

    rig.server.answer = answer
    monkeypatch.setattr(a._thread, "join", lambda timeout: None)
    a.start()
    assert hangs.wait(10)
    a.stop()
    assert (rig.api.holder, a.leads()) == ("", False)
    goes_on.set()
    threading.Thread.join(a._thread, 10)
    assert (rig.api.holder, a.leads()) == ("", False)


def test_a_stop_leaves_anothers_lease_alone(rig: Rig, clock: FakeClock) -> None:
    a, b = rig.replica("a", clock), rig.replica("b", clock)
    a.attempt()
    b.start()
    b.stop()
    assert rig.api.holder == "a"


def test_a_pod_that_returns_under_its_name_leads_again_at_once(rig: Rig, clock: FakeClock) -> None:
    rig.replica("a", clock).attempt()
    again = rig.replica("a", clock)
    again.attempt()
    assert again.leads()


def test_certificates_that_cannot_be_used_are_named(rig: Rig, clock: FakeClock, tmp_path: Path) -> None:
    for content in (None, "no certificate"):
        ca_file = tmp_path / f"ca-{content}"
        if content:
            ca_file.write_text(content)
        access = Access("https://127.0.0.1:1", "rotator", rig.token, ca_file)
        settings = LeaseSettings(access, "rotator", "a", DURATION)
        Lease(settings, clock, rig.events.append, Left()).attempt()
        failed = rig.events.of(EventType.LEASE_FAILED)[-1]
        assert f"the certificates in {ca_file} for the Lease" in str(failed.fields["error"])
        assert failed.level is Level.ERROR


# --- what a leader leaves to its successor ---------------------------------------------------------------------------


def annotations(rig: Rig) -> dict[str, str]:
    assert rig.api.lease is not None
    return dict(rig.api.lease["metadata"]["annotations"])


def test_a_leader_stores_its_text_with_each_renewal(rig: Rig, clock: FakeClock) -> None:
    left = Left("first")
    a = rig.replica("a", clock, left=left)
    a.attempt()
    assert annotations(rig) == {LEFT: "first"}
    left.now = "second"
    a.attempt()
    assert annotations(rig) == {LEFT: "second"}
    left.now = ""
    a.attempt()
    assert annotations(rig) == {}
    assert (left.resumed, left.stored) == ([""], ["first", "second", ""])


def test_a_successor_begins_with_the_text_of_the_leader_that_died(rig: Rig, clock: FakeClock) -> None:
    rig.replica("a", clock, left=Left("of a")).attempt()
    left = Left("of b")
    b = rig.replica("b", clock, left=left)
    b.attempt()
    assert left.resumed == left.stored == [], "a standby neither reads nor writes it"
    clock.sleep(DURATION)
    b.attempt()
    assert (left.resumed, left.stored, annotations(rig)) == (["of a"], ["of b"], {LEFT: "of b"})


def test_a_release_keeps_the_text(rig: Rig, clock: FakeClock) -> None:
    a = rig.replica("a", clock, left=Left("of a"))
    a.attempt()
    a.start()
    a.stop()
    left = Left()
    rig.replica("b", clock, left=left).attempt()
    assert left.resumed == ["of a"]


def test_a_process_of_the_same_name_begins_with_the_text_too(rig: Rig, clock: FakeClock) -> None:
    rig.replica("a", clock, left=Left("before the restart")).attempt()
    left = Left()
    rig.replica("a", clock, left=left).attempt()
    assert left.resumed == ["before the restart"]


def test_a_text_is_stored_only_when_the_answer_arrives(rig: Rig, clock: FakeClock) -> None:
    left = Left("text")
    a = rig.replica("a", clock, left=left)
    rig.api.reply = Reply(404, {"kind": "Status"})
    a.attempt()
    assert rig.events.of(EventType.LEASE_FAILED) != [], "there is none to read, and it is refused"
    assert left.stored == []


def test_the_annotations_of_others_stay(rig: Rig, clock: FakeClock) -> None:
    a = rig.replica("a", clock, left=Left("text"))
    a.attempt()
    assert rig.api.lease is not None
    rig.api.lease["metadata"]["annotations"]["team"] = "payments"
    a.attempt()
    assert annotations(rig) == {LEFT: "text", "team": "payments"}


@pytest.mark.parametrize(("free", "kept"), [(0, False), (1, True)])
def test_a_text_that_does_not_fit_beside_the_annotations_of_others_is_left_out(
    rig: Rig, clock: FakeClock, free: int, kept: bool
) -> None:
    left = Left("text")
    a = rig.replica("a", clock, left=left)
    a.attempt()
    assert rig.api.lease is not None
    others = "ä" * ((MOST - len(LEFT) - len("text") - len("team")) // 2 - free + 1)
    rig.api.lease["metadata"]["annotations"] = {"team": others}
    a.attempt()
    assert a.leads()
    assert (LEFT in annotations(rig)) is kept
    assert left.stored == ["text", "text"], "consumers learn of it all the same"
