"""A daemon and the receivers of its webhooks, which may misbehave in every way: no rotation, reload or end waits."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.installation import Daemon, Installation, installation, on_vault
from support.kube import OwnKubeServer
from support.process import wait_until
from support.receiver import FORMER, SECRET, Receiver, never_reading, receiving
from support.vault import VaultServer

from rotator.simulator.faults import Fault

FULL_AT_FIVE = "import rotator.notify.outbox as o; o.MOST = 5; from rotator.__main__ import main; main()"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def rotator(tmp_path: Path) -> Iterator[Installation]:
    with installation(tmp_path) as rotator:
        rotator.environment.update(HOOK=SECRET, FORMER_HOOK=FORMER)
        yield rotator


def notify(rotator: Installation, **urls: str) -> None:
    rotator.config["notify"] = {"webhooks": {name: {"url": u, "secret": {"env": "HOOK"}} for name, u in urls.items()}}


def rotated(daemon: Daemon, count: int) -> None:
    daemon.wait_for("key_published", count)


def counted(daemon: Daemon, channel: str, outcome: str) -> float | None:
    return daemon.metric(f'rotator_notifications_total{{channel="webhooks.{channel}",outcome="{outcome}"}}')


def test_a_receiver_learns_of_each_key_and_of_the_end_of_the_last_one(
    rotator: Installation, receiver: Receiver
) -> None:
    notify(rotator, chat=receiver.url)
    rotator.config["defaults"]["grace_period"] = "10m"
    daemon = rotator.start()
    rotated(daemon, 1)
    daemon.signal(signal.SIGUSR1)
    rotated(daemon, 2)
    wait_until(lambda: len(receiver.bodies()) == 3, "three notifications")
    logged = daemon.events("key_published")
    for line, body in zip(logged, receiver.bodies("key.published"), strict=True):
        data = {name: line[name] for name in ("target", "key_id", "version", "expires_at")}
        assert body["data"] == {"owner": "prod-eu", **data}
    [ending] = receiver.bodies("key.ending")
    assert ending["data"]["key_id"] == logged[0]["key_id"]
    assert ending["data"]["ends_at"] == daemon.wait_for("key_shortened")["expires_at"]
    assert counted(daemon, "chat", "success") == 3
    assert counted(daemon, "chat", "failure") == 0
    assert daemon.stop() == 0


def test_a_daemon_notifies_of_the_keys_that_commands_publish_which_notify_of_nothing(
    rotator: Installation, receiver: Receiver
) -> None:
    notify(rotator, chat=receiver.url)
    rotator.config["daemon"]["resync"] = "8s"  # a busy machine starts the daemon within two of them
    rotator.run("run", "--once", status=0)
    rotator.run("rotate", "a", status=0)
    assert receiver.deliveries == []
    daemon = rotator.start()
    wait_until(lambda: len(receiver.bodies("key.published")) == 1, "the served key")
    time.sleep(2)  # so that the next one is another version than the daemon read
    rotator.run("rotate", "a", status=0)
    wait_until(lambda: len(receiver.bodies("key.published")) == 2, "the key of the command")
    assert daemon.stop() == 0


def test_a_command_that_informs_the_daemon_has_it_notify_at_once(rotator: Installation, receiver: Receiver) -> None:
    notify(rotator, chat=receiver.url)
    rotator.config["daemon"]["resync"] = "1h"
    daemon = rotator.start()
    wait_until(lambda: len(receiver.bodies("key.published")) == 1, "the first key")
    rotator.run("rotate", "a", "--url", daemon.url(admin=True), status=0)
    wait_until(lambda: len(receiver.bodies("key.published")) == 2, "the key of the command")
    assert daemon.stop() == 0


def test_a_restart_repeats_with_the_same_id(rotator: Installation, receiver: Receiver) -> None:
    notify(rotator, chat=receiver.url)
    receiver.status = 500
    daemon = rotator.start()
    daemon.wait_for("notifications_failed")
    daemon.process.kill()
    daemon.end()
    tried = {delivery.id for delivery in receiver.deliveries}
    receiver.status, receiver.deliveries = 204, []
    daemon = rotator.start()
    wait_until(lambda: receiver.deliveries != [], "it to be repeated")
    assert {delivery.id for delivery in receiver.deliveries} == tried
    assert daemon.stop() == 0


def test_each_webhook_gets_its_own_events_signed_with_its_own_secret_beside_one_that_hangs(
    rotator: Installation, receiver: Receiver
) -> None:
    rotator.config["defaults"]["grace_period"] = "10m"
    file = rotator.folder / "hook"
    file.write_text(f"{FORMER}\n")
    with receiving() as ending, never_reading() as never:
        notify(rotator, never=never, all=receiver.url, ending=ending.url)
        rotator.config["notify"]["webhooks"]["ending"] |= {"secret": {"file": "hook"}, "events": ["key.ending"]}
        daemon = rotator.start()
        wait_until(lambda: len(receiver.bodies()) == 1, "the first key")
        assert daemon.events("notifications_failed") == [], "the first try of the one that hangs is not over"
        daemon.signal(signal.SIGUSR1)
        wait_until(lambda: len(receiver.bodies()) == 3 and len(ending.deliveries) == 1, "all but the one that hangs")
        assert [body["type"] for body in receiver.bodies()].count("key.published") == 2
        assert ending.deliveries[0].verified(FORMER) == receiver.bodies("key.ending")[0]
        file.write_text(SECRET)
        daemon.signal(signal.SIGUSR1)
        wait_until(lambda: len(ending.deliveries) == 2, "the next, with the secret that the file holds by then")
        assert ending.deliveries[1].verified(SECRET)["type"] == "key.ending"
        daemon.process.kill()
        daemon.end()


def test_what_a_crash_lost_is_in_the_events_of_the_version_history(rotator: Installation, receiver: Receiver) -> None:
    notify(rotator, chat=receiver.url)
    rotator.config["defaults"]["grace_period"] = "10m"
    receiver.status = 500
    daemon = rotator.start()
    rotated(daemon, 1)
    daemon.signal(signal.SIGUSR1)
    rotated(daemon, 2)
    wait_until(lambda: len(receiver.bodies("key.published")) == 2, "both to be tried")
    daemon.process.kill()
    daemon.end()
    lost = [(body["data"]["version"], body["data"]["key_id"]) for body in receiver.bodies("key.published")]
    listed = rotator.json("events", "--since", "24h")["events"]
    assert [(one["version"], one["key_id"]) for one in listed if one["event"] == "published"] == sorted(lost)


# --- receivers that misbehave ----------------------------------------------------------------------------------------


def test_no_receiver_delays_a_rotation_a_reload_or_the_end(rotator: Installation) -> None:
    """One of each kind, and a queue that is full after five."""
    rotator.program = [sys.executable, "-c", FULL_AT_FIVE]
    rotator.config["daemon"]["drain"] = "3s"
    rotator.config["targets"] = {f"t{number}": {"path": f"apps/t{number}"} for number in range(12)}
    with ExitStack() as stack:
        receivers = {name: stack.enter_context(receiving()) for name in ("slow", "drops", "error", "gone", "moved")}
        receivers["slow"].seconds, receivers["drops"].drops = 60, True
        receivers["error"].status, receivers["gone"].status = 500, 410
        receivers["moved"].status, receivers["moved"].location = 308, receivers["error"].url
        urls = {name: receiver.url for name, receiver in receivers.items()}
        notify(rotator, **urls, never=stack.enter_context(never_reading()), closed="http://127.0.0.1:1/")
        daemon = rotator.start()
        began = time.monotonic()
        rotated(daemon, 12)
        daemon.signal(signal.SIGUSR1)
        rotated(daemon, 24)
        assert time.monotonic() - began < 20
        wait_until(lambda: (counted(daemon, "slow", "dropped") or 0) > 0, "the slow one's queue to be full")
        for name in ("drops", "error", "gone", "moved", "closed"):
            daemon.wait_for("notifications_failed", channel=f"webhooks.{name}")
        assert daemon.wait_for("notifications_failed", channel="webhooks.gone")["level"] == "error"
        assert [len(receivers["gone"].deliveries), daemon.get("/healthz").status_code] == [1, 200]
        rotator.config["targets"]["more"] = {"path": "apps/more"}
        rotator.write()
        began = time.monotonic()
        daemon.wait_for("configuration_loaded")
        rotated(daemon, 25)
        assert time.monotonic() - began < 10
        began = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - began < 3 + 2, "drain, and what a busy machine takes"
        failed = daemon.events("notifications_failed")
        reported = [line["channel"] for line in failed if "before the end" not in line["error"]]
        reported.remove("webhooks.gone")  # reported again after the reload
        assert len(reported) == len(set(reported)), "each other one once"
        assert "webhooks.slow" in [line["channel"] for line in failed if "before the end" in line["error"]]


def test_a_ca_file_that_cannot_be_used_fails_its_channel_alone(rotator: Installation, receiver: Receiver) -> None:
    notify(rotator, chat=receiver.url, sealed="https://127.0.0.1:1/")
    rotator.config["notify"]["webhooks"]["sealed"]["ca_file"] = "missing.pem"
    rotator.run("rotate", "a", status=0)
    daemon = rotator.start()
    wait_until(lambda: receiver.deliveries != [], "the other channel")
    failed = daemon.wait_for("notifications_failed", channel="webhooks.sealed", level="error")
    assert "missing.pem, which notify.webhooks.sealed.ca_file names, cannot be used: No such file" in failed["error"]
    assert daemon.stop() == 0
    findings = rotator.json("check", "--online", status=1)["findings"]
    assert [one["where"] for one in findings] == ["notify.webhooks.sealed"]


def test_a_receiver_that_comes_back_gets_what_it_missed(rotator: Installation, receiver: Receiver) -> None:
    notify(rotator, chat=receiver.url)
    receiver.status = 503
    daemon = rotator.start()
    daemon.wait_for("notifications_failed")
    daemon.signal(signal.SIGUSR1)
    rotated(daemon, 2)
    receiver.deliveries, receiver.status = [], 204
    wait_until(lambda: len(receiver.bodies("key.published")) == 2, "both")
    daemon.wait_for("notifications_recovered", channel="webhooks.chat")
    assert daemon.stop() == 0


def test_a_reload_corrects_the_url_and_adds_a_second_signature(rotator: Installation, receiver: Receiver) -> None:
    notify(rotator, chat="http://127.0.0.1:1/")
    daemon = rotator.start()
    daemon.wait_for("notifications_failed")
    chat = rotator.config["notify"]["webhooks"]["chat"]
    chat.update(url=receiver.url, former_secret={"env": "FORMER_HOOK"})
    rotator.write()
    daemon.wait_for("notifications_recovered")
    [delivery] = receiver.deliveries
    assert delivery.verified(SECRET) == delivery.verified(FORMER)
    assert daemon.stop() == 0


def test_a_secret_in_vault_is_read_at_each_notification(tmp_path: Path, vault: VaultServer, receiver: Receiver) -> None:
    with on_vault(tmp_path, vault) as (rotator, paths):
        paths.put("hooks", {"secret": FORMER})
        where = {"vault": f"{paths.mount}/hooks#secret"}
        rotator.config["notify"] = {"webhooks": {"chat": {"url": receiver.url, "secret": where}}}
        daemon = rotator.start()
        wait_until(lambda: receiver.deliveries != [], "the first")
        paths.put("hooks", {"secret": SECRET})
        daemon.signal(signal.SIGUSR1)
        wait_until(lambda: len({delivery.id for delivery in receiver.deliveries}) >= 2, "the second")
        assert receiver.deliveries[0].verified(FORMER)["type"] == "key.published"
        assert receiver.deliveries[1].verified(SECRET)["type"] == "key.published"
        assert daemon.stop() == 0


def test_the_end_sends_what_is_queued(rotator: Installation, receiver: Receiver) -> None:
    notify(rotator, chat=receiver.url)
    rotator.config["targets"] = {f"t{number}": {"path": f"apps/t{number}"} for number in range(5)}
    receiver.seconds = 0.3
    daemon = rotator.start()
    rotated(daemon, 5)
    assert daemon.stop() == 0
    assert len(receiver.bodies("key.published")) == 5


# --- several replicas ------------------------------------------------------------------------------------------------


def lease_of(kube: OwnKubeServer, folder: Path) -> dict[str, Any]:
    namespace = kube.namespace()
    (folder / "token").write_text(kube.token_for(namespace, "rotator"))
    rights = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]}
    kube.bind(namespace, kube.role(namespace, rights), "rotator")
    access = {"api_server": kube.address, "token_file": "token", "ca_file": str(kube.ca_file)}
    return {"namespace": namespace, "duration": "2s", **access}


def test_a_new_leader_repeats_with_the_same_id_and_standbys_send_nothing(
    rotator: Installation, receiver: Receiver, own_kube: OwnKubeServer, tmp_path: Path
) -> None:
    notify(rotator, chat=receiver.url)
    lease = lease_of(own_kube, tmp_path)
    receiver.status = 500
    rotator.config["lease"] = {**lease, "identity": "one"}
    one = rotator.start()
    one.wait_for("notifications_failed")
    rotator.config["lease"] = {**lease, "identity": "two"}
    two = rotator.start()
    two.wait_for("started")
    wait_until(lambda: two.get("/readyz").status_code == 200, "the standby to have read the path")
    time.sleep(1)
    one.process.kill()
    one.end()
    tried = {delivery.id for delivery in receiver.deliveries}
    assert two.events("notifications_failed") == []
    receiver.deliveries, receiver.status = [], 204
    two.wait_for("leadership_acquired")
    wait_until(lambda: receiver.deliveries != [], "it to be repeated")
    assert {delivery.id for delivery in receiver.deliveries} == tried
    assert two.stop() == 0


def test_a_failure_and_its_recovery_outlive_the_leader(
    rotator: Installation, receiver: Receiver, own_kube: OwnKubeServer, tmp_path: Path
) -> None:
    """The leader dies before the receiver has taken the failure. The target works before the successor dies, too."""
    notify(rotator, chat=receiver.url)
    rotator.config["notify"]["webhooks"]["chat"]["events"] = ["target.failing", "target.recovered"]
    lease = lease_of(own_kube, tmp_path)
    rotator.simulator.faults.add(Fault("refuse", "create", status=422, times=None))
    tried: dict[str, list[str]] = {}
    for identity, status in (("one", 500), ("two", 204), ("three", 500), ("four", 204)):
        receiver.status, receiver.deliveries = status, []
        if identity == "three":
            rotator.simulator.faults.clear()
        rotator.config["lease"] = {**lease, "identity": identity}
        daemon = rotator.start()
        daemon.wait_for("leadership_acquired")
        wait_until(lambda: receiver.deliveries != [], f"{identity} to notify")
        tried[identity] = [receiver.deliveries[0].id, receiver.deliveries[0].verified()["type"]]
        daemon.process.kill()
        daemon.end()
    assert tried["one"] == tried["two"]
    assert tried["three"] == tried["four"]
    assert (tried["two"][1], tried["three"][1]) == ("target.failing", "target.recovered")


# --- the check -------------------------------------------------------------------------------------------------------


def test_check_online_sends_a_test_event(rotator: Installation, receiver: Receiver) -> None:
    notify(rotator, chat=receiver.url)
    rotator.config["notify"]["webhooks"]["chat"]["events"] = ["target.failing"]
    rotator.run("check", status=0)
    assert receiver.deliveries == []
    rotator.run("check", "--online", status=0)
    [body] = receiver.bodies()
    assert (body["type"], body["data"]["owner"]) == ("test", "prod-eu")


def test_check_online_names_each_webhook_that_fails(rotator: Installation, receiver: Receiver, tmp_path: Path) -> None:
    notify(rotator, chat=receiver.url, closed="http://127.0.0.1:1/x", sealed=receiver.url, empty=receiver.url)
    (tmp_path / "hook").write_text("")
    rotator.config["notify"]["webhooks"]["sealed"]["secret"] = {"file": "missing"}
    rotator.config["notify"]["webhooks"]["empty"]["secret"] = {"file": "hook"}
    receiver.status = 401
    findings = {one["where"]: one for one in rotator.json("check", "--online", status=1)["findings"]}
    assert {where.removeprefix("notify.webhooks.") for where in findings} == {"chat", "closed", "sealed", "empty"}
    assert "answered 401" in findings["notify.webhooks.chat"]["message"]
    assert "which notify.webhooks.sealed.secret names, cannot be read" in findings["notify.webhooks.sealed"]["message"]
