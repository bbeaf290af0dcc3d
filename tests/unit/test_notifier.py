"""Which notifications follow from plans and events: once each, by the leader, and the same again if in doubt."""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.recorded_events import RecordedEvents
from support.world import ALL, ENDLESS, FIXED, HOUR, OWNER, World, make_target, refuse

from rotator.config.notify_settings import EVERY_TYPE
from rotator.core.errors import NotificationFailed, ProviderUnavailable
from rotator.core.events import Event, EventType, Fields, Level
from rotator.core.plan import Plan
from rotator.core.reasons import State
from rotator.core.request import LOOK, RotationRequest
from rotator.core.secrets import Secret
from rotator.core.times import timestamp
from rotator.core.traits import Traits
from rotator.notify import notifier as notifiers
from rotator.notify.notification import Notification, Sender
from rotator.notify.notifier import Notifier
from rotator.notify.outbox import Outbox
from rotator.protocol.reconciler import Report
from rotator.runtime.redact import register
from rotator.telemetry.metrics import Metrics

MINUTE = timedelta(minutes=1)


class AtOnce:
    """An outbox that sends in the thread that puts."""

    def __init__(self, *_: object) -> None:
        self.sender: Sender | None = None

    def use(self, sender: Sender) -> None:
        self.sender = sender

    def put(self, notification: Notification) -> None:
        if self.sender and notification.type in self.sender.types:
            self.sender.send(notification)

    def end(self, by: float) -> None:
        self.sender = None

    def join(self) -> None: ...


class Channel:
    types = EVERY_TYPE

    def __init__(self) -> None:
        self.sent: list[Notification] = []

    def send(self, notification: Notification) -> None:
        self.sent.append(notification)


class Replica:
    """One process: it works on the targets of a world, and notifies if it leads."""

    def __init__(self, world: World, *, leads: bool = True) -> None:
        self.world, self.leads, self.channel = world, leads, Channel()
        self.reconciler = world.reconciler(f"replica {id(self)}")
        self.events = RecordedEvents()
        counted = Metrics("0").notifications
        self.notifier = Notifier(self.events.append, world.clock, counted, lambda: self.leads)
        self.configure()

    def configure(self) -> None:
        names = {target.name for target in self.world.targets}
        self.notifier.configure(OWNER, {"chat": self.channel}, names, 10 * MINUTE)

    def work(self, **request: Any) -> None:
        """Do one pass over each target."""
        for target in self.world.targets:
            planned = partial(self.notifier.observe, target)
            report = self.reconciler.reconcile(target, RotationRequest(**request), planned=planned)
            assert report.error is None

    def news(self) -> list[tuple[str, Mapping[str, object]]]:
        """Return the type and the facts of what was sent since the last call, without owner and target."""
        return [(one.type, {k: v for k, v in one.facts.items() if k not in ("owner", "target")}) for one in self.take()]

    def take(self) -> list[Notification]:
        taken, self.channel.sent = self.channel.sent, []
        return taken


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifiers, "Outbox", AtOnce)


@pytest.fixture
def world() -> World:
    return World()


# --- what is served --------------------------------------------------------------------------------------------------


def test_each_new_key_is_notified_of_once(world: World) -> None:
    replica = Replica(world)
    for version in (1, 2):
        replica.work(rotate=version > 1, by="signal")
        key = world.served()
        assert key is not None
        assert key.expires_at is not None
        published = {"key_id": key.id, "version": version, "expires_at": timestamp(key.expires_at)}
        assert ("key.published", published) in replica.news()
        for _ in range(3):
            world.clock.advance(10 * MINUTE)
            replica.work()
        assert replica.news() == []


def test_the_body_names_owner_and_target_and_the_time_of_the_version(world: World) -> None:
    replica = Replica(world)
    replica.work()
    [published] = replica.take()
    body = json.loads(published.body())
    assert (body["data"]["owner"], body["data"]["target"]) == (OWNER, "billing-api")
    assert body["timestamp"] == timestamp(world.store.versions(world.target.path)[1].created_at)


def test_a_key_that_a_command_published_is_notified_of_by_the_daemon(world: World) -> None:
    daemon, command = Replica(world), world.reconciler("command")
    daemon.work()
    daemon.take()
    world.clock.advance(HOUR)
    command.reconcile(world.target, RotationRequest(rotate=True, by="command"))
    daemon.work()
    assert [kind for kind, _ in daemon.news()] == ["key.published", "key.ending"]


def test_a_path_that_was_rolled_back_serves_another_key(world: World) -> None:
    replica = Replica(world)
    replica.work()
    first = world.served()
    world.clock.advance(HOUR)
    replica.work(rotate=True, by="signal")
    ids = [one.id for one in replica.take() if one.type == "key.published"]
    world.store.rollback(world.target.path, 1)
    world.clock.advance(MINUTE)
    replica.work()
    published, *_ = replica.take()
    assert first is not None
    assert (published.facts["key_id"], published.facts["version"]) == (first.id, 3)
    assert published.id not in ids, "the receiver does not take it for the first publication of that key"


def test_a_fence_is_not_a_new_key(world: World) -> None:
    replica = Replica(world)
    replica.work()
    replica.take()
    world.store.put(world.target.path, **(world.store.read(world.target.path) or {}))
    world.clock.advance(MINUTE)
    replica.work()
    assert replica.news() == []


def test_anothers_data_are_no_key_and_ours_after_them_are_news(world: World) -> None:
    replica = Replica(world)
    replica.work()
    replica.take()
    world.store.put(world.target.path, api_key="theirs")
    replica.work()
    assert replica.news() == []
    world.store.rollback(world.target.path, 1)
    world.clock.advance(MINUTE)
    replica.work()
    assert [kind for kind, _ in replica.news()] == ["key.published"]


def test_a_key_that_never_expires_has_no_expiry_to_notify_of() -> None:
    world = World()
    world.vendor.traits = ENDLESS
    replica = Replica(world)
    replica.work()
    [(kind, facts)] = replica.news()
    assert (kind, "expires_at" in facts) == ("key.published", False)


# --- after a start or a takeover -------------------------------------------------------------------------------------


def test_a_new_leader_repeats_what_is_recent_with_the_same_ids(world: World) -> None:
    former = Replica(world)
    former.work()
    world.clock.advance(HOUR)
    former.work(rotate=True, by="signal")
    sent = {one.id: one for one in former.take() if one.at > world.clock.start}
    world.clock.advance(19 * MINUTE)
    successor = Replica(world)
    successor.work()
    again = {one.id: one for one in successor.take()}
    assert again == sent
    assert {one.type for one in sent.values()} == {"key.published", "key.ending"}


def test_what_is_not_recent_is_not_repeated(world: World) -> None:
    former = Replica(world)
    former.work()
    world.clock.advance(HOUR)
    former.work(rotate=True, by="signal")
    world.clock.advance(21 * MINUTE)
    successor = Replica(world)
    successor.work()
    assert successor.news() == []
    world.clock.advance(HOUR)
    successor.work(rotate=True, by="signal")
    assert [kind for kind, _ in successor.news()] == ["key.published", "key.ending"], "only of the new one"


def test_a_standby_notifies_of_nothing_and_knows_nothing_of_what_it_missed(world: World) -> None:
    leader, other = Replica(world), Replica(world)
    leader.work()
    other.work()
    other.take()
    other.leads = False
    world.clock.advance(HOUR)
    leader.work(rotate=True, by="signal")
    other.work(rotate=False, by="schedule")
    assert other.news() == []
    leader.leads, other.leads = False, True
    world.clock.advance(HOUR)
    other.work()
    assert other.news() == [], "the key was published an hour ago, and its leader notified of it"


@given(steps=st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.booleans()), max_size=12))
def test_the_served_key_is_notified_of_whatever_crashes_and_each_version_has_one_id(
    steps: list[tuple[int, bool, bool]],
) -> None:
    """A crash loses all that was not sent. Within two `resync` from then, another replica sends it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notifiers, "Outbox", AtOnce)
        world = World()
        leader = Replica(world)
        received: list[Notification] = []
        crashed = False
        for minutes, rotates, crashes in steps:
            world.clock.advance(minutes * MINUTE)
            leader.work(rotate=rotates, by="signal")
            sent = leader.take()
            if crashes and not crashed:
                leader = Replica(world)
            else:
                received += sent
            crashed = crashes and not crashed
        leader.work()
        received += leader.take()
        published = [one for one in received if one.type == "key.published"]
        served = world.served()
        assert served is not None
        assert served.id in {one.facts["key_id"] for one in published}
        assert len({one.id for one in published}) == len({one.facts["version"] for one in published})


# --- keys that end ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("traits", [ALL, FIXED, ENDLESS], ids=["can set expiry", "fixed", "endless"])
def test_a_superseded_key_ends_with_its_grace_whatever_the_provider_can_do(traits: Traits) -> None:
    world = World()
    world.vendor.traits = traits
    replica = Replica(world)
    replica.work()
    first = world.served()
    world.clock.advance(HOUR)
    replica.work(rotate=True, by="signal")
    ends_at = timestamp(world.clock.now() + world.target.grace_period)
    assert first is not None
    assert ("key.ending", {"key_id": first.id, "ends_at": ends_at}) in replica.news()
    for _ in range(6):
        world.clock.advance(HOUR)
        replica.work()
    assert replica.news() == []


def test_the_end_of_a_key_is_not_notified_of_before_the_provider_set_it(world: World) -> None:
    replica = Replica(world)
    replica.work()
    world.clock.advance(HOUR)
    world.at("provider.set_expiry", refuse(ProviderUnavailable("no answer")))
    planned = partial(replica.notifier.observe, world.target)
    replica.reconciler.reconcile(world.target, RotationRequest(rotate=True, by="signal"), planned=planned)
    assert [kind for kind, _ in replica.news()] == ["key.published", "key.published"]
    world.clock.advance(2 * HOUR)
    replica.work()
    assert [kind for kind, _ in replica.news()] == ["key.ending"], "and after any time"


def test_the_end_of_a_key_that_the_provider_did_not_show_is_not_notified_of(world: World) -> None:
    former = Replica(world)
    former.work()
    world.clock.advance(HOUR)
    former.work(rotate=True, by="signal")
    successor = Replica(world)
    world.at("provider.retrieve", refuse(ProviderUnavailable("no answer")), times=9)
    planned = partial(successor.notifier.observe, world.target)
    report = successor.reconciler.reconcile(world.target, planned=planned)
    assert report.error is not None
    assert [kind for kind, _ in successor.news()] == ["key.published"]


def test_an_earlier_end_is_news_and_a_later_one_is_not() -> None:
    world = World(make_target(grace_period=4 * HOUR))
    replica = Replica(world)
    replica.work()
    world.clock.advance(HOUR)
    replica.work(rotate=True, by="signal")
    replica.take()
    for hours, news in ((6, False), (2, True), (3, False)):
        world.targets = (make_target(grace_period=hours * HOUR),)
        world.clock.advance(MINUTE)
        replica.work()
        assert [kind for kind, _ in replica.news()] == ["key.ending"] * news, hours


# --- targets that fail -----------------------------------------------------------------------------------------------


def failed(target: str = "billing-api", error: str = "the store is sealed") -> Event:
    fields: Fields = {
        "error": error,
        "advice": "Unseal it.",
        "failures": 1,
        "served": "the key k1",
        "retry_at": "later",
    }
    return Event(EventType.TARGET_FAILED, target, Level.WARNING, fields)


def planned(world: World) -> Plan:
    """Return what a look at a path plans."""
    plan = world.reconciler("a look").reconcile(world.target, options=LOOK).plan
    assert plan is not None
    return plan


def test_a_failing_target_is_notified_of_once_and_so_is_its_recovery(world: World) -> None:
    replica = Replica(world)
    for event in (failed(), failed(), failed(error="another")):
        replica.notifier(event)
    assert len(replica.events) == 3, "and each event is passed on"
    Replica(world).work()
    plan = planned(world)
    replica.notifier.passed(Report(world.target, plan, ProviderUnavailable("it is down", "Wait.")))
    for _ in range(2):
        replica.notifier.passed(Report(world.target, plan))
    assert replica.news() == [
        ("target.failing", {"error": "the store is sealed", "advice": "Unseal it."}),
        ("target.recovered", {}),
    ]
    replica.notifier(failed())
    assert [kind for kind, _ in replica.news()] == ["target.failing"]


def test_a_foreign_path_is_failing_too(world: World) -> None:
    replica = Replica(world)
    fields = {"path": "apps/x", "reason": "no-record", "advice": "Adopt it."}
    replica.notifier(Event(EventType.TARGET_FOREIGN, "billing-api", Level.ERROR, fields))
    [(kind, facts)] = replica.news()
    assert (kind, facts["advice"]) == ("target.failing", "Adopt it.")
    assert "no-record" in str(facts["error"])


def test_a_standby_passes_events_on_and_notifies_of_none(world: World) -> None:
    replica = Replica(world, leads=False)
    replica.notifier(failed())
    assert replica.news() == []
    assert len(replica.events) == 1


def test_a_pass_that_did_nothing_shows_no_recovery(world: World) -> None:
    replica = Replica(world)
    replica.notifier(failed())
    replica.take()
    Replica(world).work()
    world.clock.advance(20 * HOUR)
    due = planned(world)
    assert due.actions
    replica.notifier.passed(Report(world.target, due))
    foreign = replace(due, actions=(), state=State.FOREIGN)
    replica.notifier.passed(Report(world.target, foreign))
    replica.notifier.passed(Report(world.target, None))
    assert replica.news() == []
    replica.notifier.passed(Report(world.target, due, rotated=True))
    assert [kind for kind, _ in replica.news()] == ["target.recovered"]


def test_a_recovery_without_a_failure_is_no_news(world: World) -> None:
    replica = Replica(world)
    replica.work()
    replica.take()
    replica.notifier.passed(Report(world.target, planned(world)))
    assert replica.news() == []


def test_a_failure_that_quotes_a_secret_goes_out_without_it(world: World) -> None:
    replica = Replica(world)
    replica.notifier(failed(error=f"answered: token hvs.{'made-up-' * 4}"))  # it has only the form of a token
    [(_, facts)] = replica.news()
    assert "hvs." not in str(facts)


# --- keys that are spent ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "more", "kind"),
    [
        (EventType.KEY_NEARLY_SPENT, {"spent_at": "2026-03-01T13:00:00Z"}, "key.nearly_spent"),
        (EventType.KEY_NEARLY_SPENT, {}, "key.nearly_spent"),
        (EventType.KEY_SPENT, {"advice": "Raise the cap."}, "key.spent"),
    ],
)
def test_a_spent_key_is_notified_of_with_the_same_id_for_the_same_key_and_cap(
    world: World, what: EventType, more: Mapping[str, str], kind: str
) -> None:
    use: Fields = {"key_id": "k1", "cap": "max_usage", "used": 95, "limit": 100, "as_of": "2026-03-01T12:00:00Z"}
    ids = []
    for used, cap in ((95, "max_usage"), (97, "max_usage"), (9.5, "spending_limit")):
        replica = Replica(world)  # as after a takeover
        fields: Fields = {**use, "used": used, "cap": cap, **more}
        replica.notifier(Event(what, "billing-api", Level.ERROR if "advice" in more else Level.WARNING, fields))
        [sent] = replica.take()
        assert (sent.type, sent.facts) == (kind, {"owner": OWNER, "target": "billing-api", **fields})
        ids.append(sent.id)
    assert ids[0] == ids[1] != ids[2]


# --- reloads ---------------------------------------------------------------------------------------------------------


def test_a_reload_forgets_targets_that_are_gone_and_keeps_the_others(world: World) -> None:
    world.targets = (make_target(), make_target("search"))
    replica = Replica(world)
    replica.work()
    replica.notifier(failed("search"))
    replica.take()
    world.targets = (make_target(),)
    replica.configure()
    replica.work()
    replica.notifier(Event(EventType.TARGET_RECOVERED, "search"))
    assert replica.news() == []


def test_a_fault_in_notifying_fails_no_pass_and_no_event(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(*_: object) -> None:
        raise KeyError("a fault")

    replica = Replica(world)
    monkeypatch.setattr(AtOnce, "put", fault)
    replica.work()
    replica.notifier(failed())
    kinds = [event.what for event in replica.events]
    assert kinds == [EventType.UNEXPECTED_ERROR, EventType.TARGET_FAILED, EventType.UNEXPECTED_ERROR]
    assert world.served() is not None


def test_a_channel_that_is_removed_gets_nothing_more(world: World) -> None:
    replica = Replica(world)
    replica.notifier.configure(OWNER, {}, {"billing-api"}, 10 * MINUTE)
    replica.work()
    assert replica.news() == []


def test_what_waits_for_a_channel_that_a_reload_removes_is_reported(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifiers, "Outbox", Outbox)
    replica = Replica(world)
    monkeypatch.setattr(replica.channel, "send", refuse(NotificationFailed("no answer")))
    replica.work()
    replica.notifier.configure(OWNER, {}, {"billing-api"}, 10 * MINUTE)
    [left] = [event.fields for event in replica.events if "before the end" in str(event.fields.get("error"))]
    assert (left["channel"], left["waiting"]) == ("chat", 1)


def test_an_id_that_is_the_text_of_a_key_goes_out_hidden(world: World) -> None:
    """A forger of records may write one."""
    replica, key = Replica(world), register(Secret("sk-text-of-a-key-in-use"))
    use: Fields = {
        "key_id": key.reveal(),
        "cap": "max_usage",
        "used": 95,
        "limit": 100,
        "as_of": "2026-03-01T12:00:00Z",
    }
    replica.notifier(Event(EventType.KEY_NEARLY_SPENT, "billing-api", Level.WARNING, use))
    [(_, facts)] = replica.news()
    assert facts["key_id"] == "[hidden]"


def test_no_notification_holds_a_key(world: World) -> None:
    replica = Replica(world)
    for _ in range(4):
        replica.work(rotate=True, by="signal")
        world.clock.advance(HOUR)
    replica.notifier(failed())
    texts = [key.text for key in world.vendor.keys.values()]
    bodies = b"".join(one.body() for one in replica.take()).decode()
    assert len(texts) == 4
    assert not any(text in bodies for text in texts)
    assert bodies.count("key.published") == 4
