"""The daemon as a process: its own work, its signals, its pages, and its end."""

import contextlib
import json
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.canned import Asked, Reply, canned
from support.installation import LEAST_RIGHTS, Daemon, Installation, installation, on_vault
from support.leaks import RECORDER
from support.process import wait_until
from support.vault import VaultServer

from rotator.simulator import Fault


@pytest.fixture
def rotator(tmp_path: Path) -> Iterator[Installation]:
    with installation(tmp_path, targets=("a", "b")) as it:
        yield it


def served(rotator: Installation) -> dict[str, dict[str, Any]]:
    return {target["name"]: target for target in rotator.json("status", status=None)["targets"]}


def alive(rotator: Installation, key_id: str) -> bool:
    vendor = rotator.simulator.vendor
    return vendor.works(vendor.text_of(key_id))


# --- pages -----------------------------------------------------------------------------------------------------------


def test_it_rotates_at_start_and_its_pages_show_it(rotator: Installation) -> None:
    daemon = rotator.start()
    started = daemon.wait_for("started")
    assert re.fullmatch(r"127\.0\.0\.1:\d+", started["listen"])
    assert (started["targets"], started["owner"]) == (2, "prod-eu")
    keys = {daemon.wait_for("key_published", target=name)["key_id"] for name in ("a", "b")}
    wait_until(lambda: daemon.metric('rotator_targets{state="ok"}') == 2, "both targets to be well")
    assert daemon.get("/healthz").status_code == 200
    assert daemon.get("/readyz").status_code == 200
    metrics = daemon.get("/metrics").text
    assert 'rotator_key_expiry_timestamp_seconds{target="a"}' in metrics
    assert not any(key_id in metrics for key_id in keys)
    assert "apps/a" not in metrics
    for path in ("/", "/nowhere", "/status.json"):
        assert daemon.get(path).status_code == 404

    shown = daemon.get("/status.json", admin=True).json()
    assert {target["key_id"] for target in shown["targets"]} == keys
    asked = rotator.json("status", "--url", daemon.url(admin=True))
    assert asked["targets"] == shown["targets"]
    assert rotator.run("status", "--url", daemon.url(admin=True), status=0).stdout.startswith("a\tok\t")
    assert daemon.get("/metrics", admin=True).status_code == 404
    assert daemon.stop() == 0
    assert daemon.events()[-1] | {"event": "stopped", "drained": True} == daemon.events()[-1]


def test_it_rotates_on_schedule_and_removes_the_old_key(rotator: Installation) -> None:
    rotator.config["defaults"] = {"ttl": "5s", "renew_before": "4s", "grace_period": "1s"}
    del rotator.config["targets"]["b"]
    daemon = rotator.start()
    first = daemon.wait_for("key_published")["key_id"]
    second = daemon.wait_for("key_published", 2)
    assert second["reason"] == "expiring"
    assert daemon.wait_for("key_deleted")["key_id"] == first
    assert alive(rotator, served(rotator)["a"]["key_id"])
    assert daemon.stop() == 0


def test_it_keeps_a_path_in_vault(vault: VaultServer, tmp_path: Path) -> None:
    with on_vault(tmp_path, vault) as (rotator, paths):
        role_id, secret_id = vault.approle(LEAST_RIGHTS.format(mount=paths.mount))
        RECORDER.add_secret("an AppRole's secret id", secret_id)
        (tmp_path / "secret-id").write_text(secret_id)
        auth = {"method": "approle", "role_id": role_id, "secret_id_file": "secret-id"}
        rotator.config["stores"]["store"]["auth"] = auth
        del rotator.environment["VAULT_TOKEN"]
        daemon = rotator.start()
        daemon.wait_for("key_published")
        daemon.signal(signal.SIGUSR1)
        daemon.wait_for("key_published", 2)
        assert rotator.simulator.vendor.works((paths.read("apps/a") or {})["api_key"])
        daemon.wait_for("key_deleted")
        assert "apps/a" not in daemon.get("/metrics").text
        assert paths.versions("apps/a")["1"]["destroyed"]
        assert daemon.stop() == 0


def test_a_store_that_cannot_be_opened_ends_it_as_it_ends_a_command(rotator: Installation) -> None:
    """Because nothing could be tried."""
    rotator.config["stores"]["store"]["file"] = "nowhere/store.db"
    for command in (("run",), ("run", "--once"), ("status",)):
        assert "nowhere/store.db cannot be opened: No such file or directory" in rotator.run(*command, status=3).stderr


def test_a_port_in_use_ends_it_with_a_sentence(rotator: Installation) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for name in ("listen", "admin"):
            rotator.config["http"] = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", name: f"127.0.0.1:{port}"}
            errors = rotator.run("run", status=1).stderr
            assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in errors
            assert "[http]" in errors
    assert rotator.calls() == []


def test_a_refused_organisation_key_is_noticed_although_nothing_is_due(rotator: Installation) -> None:
    rotator.config["daemon"]["resync"] = "1s"
    rotator.config["sweep"] = {"interval": "1h"}
    daemon = rotator.start()
    for name in ("a", "b"):
        daemon.wait_for("key_published", target=name)
    rotator.simulator.faults.add(Fault("refuse", "list", status=401, times=None))
    assert daemon.wait_for("upstream_down")["upstream"] == "provider respan"


# --- signals ---------------------------------------------------------------------------------------------------------


def test_usr1_rotates_every_target_once_however_often_it_comes(rotator: Installation) -> None:
    rotator.config["defaults"]["grace_period"] = "10m"
    daemon = rotator.start()
    for name in ("a", "b"):
        daemon.wait_for("key_published", target=name)
    rotator.simulator.faults.add(Fault("slow", "create", seconds=1.0, times=2))
    for count in range(1, 6):
        daemon.signal(signal.SIGUSR1)
        daemon.wait_for("rotation_requested", count)
    for name in ("a", "b"):
        assert daemon.wait_for("key_published", 2, target=name)["reason"] == "requested"
    assert daemon.stop() == 0
    # Five requests: all that came during the first rotation cause one more at most.
    for name in ("a", "b"):
        assert 2 <= len(daemon.events("key_published", target=name)) <= 3
    requested = daemon.events("rotation_requested")
    assert [(event["by"], event["targets"]) for event in requested] == [("signal", 2)] * 5


def test_usr1_in_quick_succession_rotates_each_target_once_a_tick(rotator: Installation) -> None:
    """Even where rotations are quick: the next signal comes after the last one's rotation."""
    rotator.config["defaults"]["grace_period"] = "10m"
    daemon = rotator.start()
    for name in ("a", "b"):
        daemon.wait_for("key_published", target=name)
    since = time.monotonic()
    for count in range(1, 6):
        daemon.signal(signal.SIGUSR1)
        daemon.wait_for("rotation_requested", count)
        if count == 1:
            for name in ("a", "b"):
                daemon.wait_for("key_published", 2, target=name)
            assert time.monotonic() - since < 3, "a tick, and this machine's own time"
            since = time.monotonic()
    ticks = int(time.monotonic() - since) + 2
    assert ticks < 5, "this machine was too slow for this test"
    time.sleep(1.5)
    assert daemon.stop() == 0
    for name in ("a", "b"):
        assert len(daemon.events("key_published", target=name)) <= 2 + ticks


def test_hup_takes_a_good_configuration_and_refuses_a_bad_one(rotator: Installation) -> None:
    daemon = rotator.start()
    daemon.wait_for("key_published", target="b")
    wait_until(lambda: daemon.metric('rotator_targets{state="ok"}') == 2, "both targets to be well")

    rotator.write('{"owner": 7}')
    daemon.signal(signal.SIGHUP)
    refused = daemon.wait_for("configuration_refused")
    assert "owner" in refused["problems"]
    assert daemon.metric("rotator_config_last_reload_successful") == 0
    assert daemon.metric('rotator_targets{state="ok"}') == 2

    del rotator.config["targets"]["b"]
    rotator.config["targets"]["c"] = {"path": "apps/c"}
    rotator.write()
    daemon.signal(signal.SIGHUP)
    loaded = daemon.wait_for("configuration_loaded")
    assert (loaded["targets"], loaded["added"], loaded["changed"], loaded["removed"]) == (2, 1, 0, 1)
    daemon.wait_for("key_published", target="c")
    assert daemon.metric("rotator_config_last_reload_successful") == 1
    metrics = daemon.get("/metrics").text
    assert 'target="b"' not in metrics
    assert 'target="a"' in metrics
    before = len(daemon.events("configuration_loaded"))
    daemon.signal(signal.SIGHUP)  # and without any file that has changed, which would be found without a signal
    loaded = daemon.wait_for("configuration_loaded", before + 1)
    assert (loaded["targets"], loaded["added"], loaded["changed"], loaded["removed"]) == (2, 0, 0, 0)
    daemon.signal(signal.SIGINT)
    assert daemon.end() == 0
    assert [event["signal"] for event in daemon.events("stopping")] == ["SIGINT"]
    assert all(key.revoked_at is None for key in rotator.simulator.vendor.keys.values())


def test_term_ends_what_is_under_way_first(rotator: Installation) -> None:
    del rotator.config["targets"]["b"]
    rotator.simulator.faults.add(Fault("slow", "create", seconds=1.0))
    daemon = rotator.start()
    wait_until(lambda: bool(rotator.calls("create")), "a create under way")
    assert daemon.stop() == 0
    emitted = [event["event"] for event in daemon.events()]
    assert [event for event in emitted if event != "sweep_completed"][-4:] == [  # the first sweep may end meanwhile
        "stopping",
        "key_created",
        "key_published",
        "stopped",
    ]
    assert daemon.events("key_not_removed") == []
    assert served(rotator)["a"]["state"] == "ok"


@pytest.mark.parametrize("job", ["a request to the provider", "a login"])
def test_a_job_that_waits_for_an_answer_delays_nothing(rotator: Installation, job: str) -> None:
    """Its result is not needed, and its answer is no longer read."""
    rotator.config["daemon"]["resync"] = "1s"
    answers = threading.Event()

    def late(_: Asked) -> Reply:
        answers.wait(15)
        return Reply(500)

    with canned(late) as hangs, contextlib.ExitStack() as stack:
        stack.callback(answers.set)
        if job == "a login":
            (rotator.folder / "secret-id").write_text("an-id")
            auth = {"method": "approle", "role_id": "r", "secret_id_file": "secret-id"}
            rotator.config["stores"]["vault"] = {"type": "vault", "address": hangs.address, "auth": auth}
            rotator.config["defaults"]["store"] = "store"
        daemon = rotator.start()
        for name in ("a", "b"):
            daemon.wait_for("key_published", target=name)
        daemon.wait_for("sweep_completed")
        if job == "a login":
            wait_until(lambda: bool(hangs.asked), "a login under way")
        else:
            rotator.simulator.faults.add(Fault("slow", "list", seconds=15.0, times=None))
            wait_until(lambda: any(call.fault for call in rotator.calls("list")), "a look under way")
        since = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - since < 5
    assert daemon.events(level="error") == []
    assert daemon.events()[-1] | {"event": "stopped", "drained": True} == daemon.events()[-1]


def test_a_second_term_ends_it_at_once(rotator: Installation) -> None:
    rotator.simulator.faults.add(Fault("slow", "create", seconds=20.0, times=None))
    daemon = rotator.start()
    wait_until(lambda: bool(rotator.calls("create")), "a create under way")
    daemon.signal(signal.SIGTERM)
    daemon.wait_for("stopping")
    daemon.signal(signal.SIGTERM)
    assert daemon.process.wait(5) == 1
    assert daemon.events("stopped") == []
    # Nothing that it knew is needed: the next process repairs the targets.
    rotator.simulator.faults.clear()
    rotator.run("run", "--once", status=0)
    assert all(target["state"] == "ok" for target in served(rotator).values())


def test_a_key_that_another_process_replaced_is_noticed_within_resync_and_removed(rotator: Installation) -> None:
    """By `kubectl exec`, or a Job: another process, which ends long before the grace period."""
    rotator.config["daemon"]["resync"] = "2s"
    del rotator.config["targets"]["b"]
    own = rotator.folder / "daemon.json"  # which stays as it is: the daemon does not notice by a reload
    own.write_text(json.dumps(rotator.config))
    daemon = rotator.start("--config", str(own))
    old = daemon.wait_for("key_published")["key_id"]
    rotator.run("rotate", "a", "--reason", "by hand", status=0)
    new = served(rotator)["a"]["key_id"]
    assert new != old
    since = time.monotonic()
    assert daemon.wait_for("key_deleted", key_id=old)["by"] == "schedule"
    assert time.monotonic() - since < 2 + 1 + 3, "the resync, the grace, and this machine's own time"
    assert not alive(rotator, old)
    assert alive(rotator, new)
    assert daemon.stop() == 0
    assert daemon.events("configuration_loaded") == []


def watched(rotator: Installation) -> tuple[Daemon, str]:
    """A daemon that has read all paths, will not again for an hour, and notices no file of the others."""
    rotator.config["daemon"]["resync"] = "1h"
    own = rotator.folder / "daemon.json"
    own.write_text(json.dumps(rotator.config))
    daemon = rotator.start("--config", str(own))
    wait_until(lambda: daemon.metric('rotator_targets{state="ok"}') == 2, "both targets to be well")
    return daemon, daemon.url(admin=True)


def seen(rotator: Installation, url: str) -> dict[str, dict[str, Any]]:
    shown = rotator.json("status", "--url", url, status=None)
    return {target["name"]: target for target in shown["targets"]}


def test_what_a_command_changed_appears_within_seconds(rotator: Installation) -> None:
    daemon, url = watched(rotator)
    rotator.run("rotate", "a", status=0)
    new = served(rotator)["a"]["key_id"]
    time.sleep(3)
    assert seen(rotator, url)["a"]["key_id"] != new, "nothing else shows it so soon"
    rotator.run("rotate", "a", status=0, ROTATOR_URL=url)
    new = served(rotator)["a"]["key_id"]
    began = time.monotonic()
    wait_until(lambda: seen(rotator, url)["a"]["key_id"] == new, "the daemon to show the new key", 10)
    assert time.monotonic() - began < 8
    assert all(target["looked_at"] for target in seen(rotator, url).values())
    assert len(daemon.events("key_published")) == 2, "the daemon's own, at its start"
    assert daemon.stop() == 0


def test_hup_reads_every_path_again_and_rotates_nothing(rotator: Installation) -> None:
    daemon, url = watched(rotator)
    rotator.run("rotate", "--all", status=0)
    new = {name: target["key_id"] for name, target in served(rotator).items()}
    daemon.signal(signal.SIGHUP)
    wait_until(
        lambda: {name: target["key_id"] for name, target in seen(rotator, url).items()} == new, "the new keys", 10
    )
    assert len(daemon.events("key_published")) == 2
    assert daemon.stop() == 0


# --- outages ---------------------------------------------------------------------------------------------------------


def test_an_outage_of_the_provider_is_logged_once_a_try_and_so_is_its_end(rotator: Installation) -> None:
    rotator.simulator.stop()
    daemon = rotator.start()
    failed = daemon.wait_for("target_failed", target="a")
    assert failed["served"] == "no live key"
    assert failed["failures"] == 1
    assert "retry_at" in failed
    daemon.wait_for("target_failed", target="b")
    assert daemon.get("/healthz").status_code == 200
    assert daemon.get("/readyz").status_code == 200  # the store could be read
    shown = daemon.get("/status.json", admin=True).json()["targets"]
    assert {(target["state"], bool(target["last_error"])) for target in shown} == {("missing", True)}
    rotator.run("status", "--url", daemon.url(admin=True), status=4)
    tried = 'rotator_rotations_total{{outcome="{}",provider="respan",reason="first"}}'
    assert (daemon.metric(tried.format("failure")) or 0) >= 2  # on a slow machine the next tries have come by now
    assert daemon.metric(tried.format("success")) == 0

    rotator.simulator.start()
    daemon.signal(signal.SIGUSR1)  # a person does not wait for the next try
    for name in ("a", "b"):
        daemon.wait_for("target_recovered", target=name)
    assert daemon.metric(tried.format("success")) == 2
    assert daemon.metric('rotator_targets{state="ok"}') == 2
    assert daemon.stop() == 0


def test_after_an_outage_rotation_resumes_without_help(rotator: Installation) -> None:
    del rotator.config["targets"]["b"]
    rotator.simulator.faults.add(Fault("refuse", "create", status=503))
    daemon = rotator.start()
    daemon.wait_for("target_failed")
    daemon.wait_for("target_recovered")  # the first wait is 2.5 to 5 s
    assert daemon.stop() == 0


def test_one_bad_target_does_not_delay_the_others(rotator: Installation) -> None:
    rotator.simulator.faults.add(Fault("refuse", "create", name=".a.", status=422, times=None))
    daemon = rotator.start()
    failed = daemon.wait_for("target_failed", target="a")
    assert failed["level"] == "error"
    daemon.wait_for("key_published", target="b")
    wait_until(lambda: daemon.metric('rotator_targets{state="missing"}') == 1, "the bad one to be shown")
    assert daemon.metric('rotator_targets{state="ok"}') == 1
    assert daemon.stop() == 0
