"""A running daemon: its configuration changes, as a file and as a mounted ConfigMap; and /readyz."""

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.installation import LEAST_RIGHTS, Daemon, Installation, installation, on_vault
from support.kube import MountedConfigMap
from support.leaks import RECORDER
from support.process import wait_until
from support.proxy import Proxy
from support.vault import VaultServer

from rotator.simulator import Fault


@pytest.fixture
def rotator(tmp_path: Path) -> Iterator[Installation]:
    with installation(tmp_path, targets=("a", "b")) as it:
        yield it


def all_well(daemon: Daemon, count: int) -> None:
    wait_until(lambda: daemon.metric('rotator_targets{state="ok"}') == count, f"{count} targets to be well")


def counts(loaded: dict[str, Any]) -> tuple[int, int, int, int]:
    return loaded["targets"], loaded["added"], loaded["changed"], loaded["removed"]


def shown(daemon: Daemon) -> set[str]:
    """The targets that have series of their own."""
    lines = daemon.get("/metrics").text.splitlines()
    return {line.split('target="')[1].split('"')[0] for line in lines if 'target="' in line}


# --- a new configuration ---------------------------------------------------------------------------------------------


def test_a_changed_file_is_taken_up_without_a_signal(rotator: Installation) -> None:
    daemon = rotator.start()
    all_well(daemon, 2)
    before = daemon.wait_for("key_published", target="a")["key_id"]

    del rotator.config["targets"]["b"]
    rotator.config["targets"] |= {"a": {"path": "apps/a", "extra_fields": {"url": "x"}}, "c": {"path": "apps/c"}}
    rotator.config["daemon"]["rollout"] = "1s"
    rotator.write()

    loaded = daemon.wait_for("configuration_loaded")
    assert counts(loaded) == (2, 1, 1, 1)
    for event in (daemon.wait_for("started"), loaded):
        assert re.match(r"respan: 2 targets need [\d.]+ of [\d,]+ requests a minute \(0%\): ", event["budget"])
        assert "for rotations, each of 3 (create, shorten, delete); " in event["budget"]
    daemon.wait_for("key_published", target="c")
    assert daemon.wait_for("key_published", 2, target="a")["reason"] == "drifted"
    assert shown(daemon) == {"a", "c"}
    assert rotator.simulator.vendor.works(rotator.simulator.vendor.text_of(before)), "it has its grace"
    daemon.wait_for("key_deleted", key_id=before)
    assert len(daemon.events("configuration_loaded")) == 1
    assert daemon.stop() == 0


def test_a_mounted_config_map_is_taken_up_when_its_link_turns(rotator: Installation) -> None:
    """The main file and what it includes change at once, as kubelet does it."""
    rotator.config["include"] = ["targets.d/*"]
    rotator.config["stores"]["store"]["file"] = str(rotator.folder / "store.db")  # not among what is mounted
    targets = rotator.config.pop("targets")

    def files(*parts: dict[str, Any], **config: Any) -> dict[str, str]:
        included = {f"targets.d/{n}.json": json.dumps({"targets": part}) for n, part in enumerate(parts)}
        return {"rotator.json": json.dumps({**rotator.config, **config}), **included}

    mounted = MountedConfigMap(rotator.folder / "mounted", files(targets))
    daemon = rotator.start("--config", str(mounted.folder / "rotator.json"))
    all_well(daemon, 2)

    mounted.write(files(targets, {"c": {"path": "apps/c"}}))
    assert counts(daemon.wait_for("configuration_loaded")) == (3, 1, 0, 0)
    daemon.wait_for("key_published", target="c")

    mounted.write(files({"c": {"path": "apps/c"}}))
    assert "2 of 3 targets are gone (a, b)" in daemon.wait_for("configuration_refused")["problems"]
    assert shown(daemon) == {"a", "b", "c"}
    confirmed = {**rotator.config["daemon"], "max_removed_targets": 2}
    mounted.write(files({"c": {"path": "apps/c"}}, daemon=confirmed))
    assert counts(daemon.wait_for("configuration_loaded", 2)) == (1, 0, 0, 2)
    assert shown(daemon) == {"c"}

    mounted.write(files({"c": {"path": "apps/c"}}, owner=7))
    assert "owner" in daemon.wait_for("configuration_refused", 2)["problems"]
    mounted.write(files(targets))
    assert counts(daemon.wait_for("configuration_loaded", 3)) == (2, 2, 0, 1)
    assert daemon.stop() == 0
    assert all(key.revoked_at is None for key in rotator.simulator.vendor.keys.values()), "none was removed"


def put(file: Path, text: str | None) -> None:
    """Let it hold this from one moment to the next, or be gone."""
    if text is None:
        file.unlink()
    else:
        fresh = file.with_suffix(".fresh")
        fresh.write_text(text)
        fresh.replace(file)


def test_a_bad_configuration_is_refused_once_and_the_old_one_stays(rotator: Installation) -> None:
    daemon = rotator.start()
    all_well(daemon, 2)
    good = rotator.file.read_text()
    spoilt = (good[:200], None, good.replace("RESPAN_API_KEY", "NO_SUCH_VARIABLE"))
    words = ("is not JSON", "does not exist", "is not set in the environment")
    for number, (text, word) in enumerate(zip(spoilt, words, strict=True), 1):
        put(rotator.file, text)
        refused = daemon.wait_for("configuration_refused", number)
        assert word in refused["problems"]
        assert refused["level"] == "error"
        assert daemon.metric("rotator_config_last_reload_successful") == 0
    daemon.signal(signal.SIGUSR1)
    for name in ("a", "b"):
        assert daemon.wait_for("key_published", 2, target=name)["reason"] == "requested"
    all_well(daemon, 2)
    assert daemon.events("configuration_loaded") == []
    put(rotator.file, good)
    daemon.wait_for("configuration_loaded")
    assert daemon.metric("rotator_config_last_reload_successful") == 1
    # Each was logged once, although the last was there for several checks.
    assert len(daemon.events("configuration_refused")) == len(spoilt)
    assert daemon.stop() == 0


def test_a_corrected_included_file_is_read_after_its_refusal(rotator: Installation) -> None:
    """The main file names it already, and need not be touched again."""
    folder = rotator.folder / "targets.d"
    folder.mkdir()
    (folder / "c.json").write_text("{")
    daemon = rotator.start()
    all_well(daemon, 2)
    rotator.config["include"] = ["targets.d/*"]
    rotator.write()
    assert "is not JSON" in daemon.wait_for("configuration_refused")["problems"]
    put(folder / "c.json", json.dumps({"targets": {"c": {"path": "apps/c"}}}))
    assert counts(daemon.wait_for("configuration_loaded")) == (3, 1, 0, 0)
    assert len(daemon.events("configuration_refused")) == 1
    assert daemon.stop() == 0


def test_a_reload_that_comes_while_keys_are_made_costs_none(rotator: Installation) -> None:
    """Twice in a row, as when two ConfigMaps change one after the other."""
    rotator.simulator.faults.add(Fault("slow", "create", seconds=1.5, times=2))
    daemon = rotator.start()
    wait_until(lambda: len(rotator.calls("create")) == 2, "two creates under way")
    for number in (1, 2):
        rotator.config["targets"][f"more-{number}"] = {"path": f"apps/more-{number}"}
        rotator.write()
        daemon.signal(signal.SIGHUP)
        daemon.wait_for("configuration_loaded", number)
    for name in ("a", "b", "more-1", "more-2"):
        daemon.wait_for("key_published", target=name)
    all_well(daemon, 4)
    assert daemon.stop() == 0
    assert daemon.events("key_not_removed") == []
    assert daemon.events("target_failed") == []
    assert len(rotator.calls("create")) == 4


def test_a_stop_while_a_reload_waits(rotator: Installation) -> None:
    daemon = rotator.start()
    all_well(daemon, 2)
    for _ in range(5):
        daemon.signal(signal.SIGHUP)
    daemon.signal(signal.SIGTERM)
    assert daemon.end() == 0
    assert daemon.events("unexpected_error") == []


def test_a_reload_takes_no_new_login_and_works_while_there_is_none_to_be_had(
    vault: VaultServer, tmp_path: Path
) -> None:
    with on_vault(tmp_path, vault) as (rotator, paths):
        role_id, secret_id = vault.approle(LEAST_RIGHTS.format(mount=paths.mount))
        RECORDER.add_secret("an AppRole's secret id", secret_id)
        (tmp_path / "secret-id").write_text(secret_id)
        auth = {"method": "approle", "role_id": role_id, "secret_id_file": "secret-id"}
        rotator.config["stores"]["store"]["auth"] = auth
        del rotator.environment["VAULT_TOKEN"]
        daemon = rotator.start()
        daemon.wait_for("key_published")
        (tmp_path / "secret-id").write_text("not-a-good-one")
        rotator.config["targets"]["b"] = {"path": "apps/b"}
        rotator.write()
        daemon.wait_for("configuration_loaded")
        daemon.wait_for("key_published", target="b")
        login = 'rotator_store_requests_total{operation="login",outcome="200",store="store"}'
        assert daemon.metric(login) == 1
        assert daemon.stop() == 0
        assert daemon.events(level="error") == []


def test_a_store_and_a_provider_that_are_renamed_leave_no_series(vault: VaultServer, tmp_path: Path) -> None:
    with on_vault(tmp_path, vault) as (rotator, _):
        daemon = rotator.start()
        daemon.wait_for("key_published")
        for section, old in (("providers", "respan"), ("stores", "store")):
            rotator.config[section]["renamed"] = rotator.config[section].pop(old)
        rotator.write()
        daemon.wait_for("configuration_loaded")
        metrics = daemon.get("/metrics").text
        assert 'rotator_provider_up{provider="renamed"} 1.0' in metrics
        for gauge in ("provider_up", "store_up", "provider_budget_used_ratio", "store_token_expiry_timestamp_seconds"):
            assert f'rotator_{gauge}{{provider="respan"}}' not in metrics
            assert f'rotator_{gauge}{{store="store"}}' not in metrics
        assert daemon.stop() == 0


def test_a_change_that_needs_a_restart_is_named_until_it_is_reverted(rotator: Installation) -> None:
    daemon = rotator.start("--log-level", "debug")  # a sweep that finds nothing new is logged there
    all_well(daemon, 2)
    first = dict(rotator.config["daemon"])

    def late(reloads: int) -> list[str]:
        rotator.write()
        daemon.wait_for("configuration_loaded", reloads)
        named = [event["key"] for event in daemon.events("configuration_warning") if "a restart" in event["message"]]
        return named[sum(before) :]

    before: list[int] = []
    rotator.config["daemon"] |= {"workers": 3, "resync": "1s", "drain": "9s", "max_clock_skew": "2m"}
    rotator.config["sweep"] = {"interval": "1s", "max_orphans": 3}
    rotator.config["http"]["target_metrics"] = False
    both = ["http.target_metrics", "daemon.workers"]
    assert late(1) == both
    before.append(2)
    daemon.wait_for("sweep_completed", 3)
    rotator.config["targets"]["c"] = {"path": "apps/c"}
    assert late(2) == both, "against what is in use, not what was read last"
    before.append(2)
    rotator.config["daemon"] = first
    del rotator.config["http"]["target_metrics"]
    assert late(3) == []
    assert daemon.stop() == 0


# --- ready -----------------------------------------------------------------------------------------------------------


def readiness(daemon: Daemon) -> tuple[int, str]:
    answer = daemon.get("/readyz")
    return answer.status_code, answer.text


def test_it_reports_why_it_is_not_ready_and_stays_ready_through_an_outage(vault: VaultServer, tmp_path: Path) -> None:
    with on_vault(tmp_path, vault) as (rotator, _), Proxy(vault.address) as network:
        network.mode = "refuse"
        rotator.config["stores"]["store"] |= {"address": network.url, "timeout": "1s"}
        daemon = rotator.start()
        daemon.wait_for("upstream_down")
        status, text = readiness(daemon)
        assert status == 503
        assert "no store accepted a login yet (StoreUnavailable)" in text
        assert "apps/" not in text
        assert daemon.get("/healthz").status_code == 200
        network.mode = "pass"
        daemon.signal(signal.SIGUSR1)  # it would retry unasked, too; a person does not wait for the next try
        wait_until(lambda: readiness(daemon)[0] == 200, "it to be ready")
        daemon.wait_for("key_published")

        network.mode = "refuse"
        daemon.signal(signal.SIGUSR1)
        daemon.wait_for("upstream_down", 2)
        assert readiness(daemon) == (200, "ok\n")
        assert daemon.get("/healthz").status_code == 200
        network.mode = "pass"
        daemon.wait_for("upstream_up", 2)
        daemon.wait_for("key_published", 2)
        assert daemon.stop() == 0


def test_a_refused_login_is_why_it_is_not_ready(vault: VaultServer, tmp_path: Path) -> None:
    with on_vault(tmp_path, vault) as (rotator, _):
        rotator.environment["VAULT_TOKEN"] = "hvs.no-such-token"
        daemon = rotator.start()
        down = daemon.wait_for("upstream_down")
        assert "invalid token" in down["error"]
        assert readiness(daemon) == (503, "not ready: no store accepted a login yet (StoreCredentialRefused)\n")
        assert daemon.stop() == 0


def test_a_path_that_a_policy_refuses_does_not_keep_it_from_being_ready(vault: VaultServer, tmp_path: Path) -> None:
    """The login works: a pod that is not ready would hold up an upgrade for one bad path."""
    with on_vault(tmp_path, vault) as (rotator, paths):
        rotator.environment["VAULT_TOKEN"] = paths.token('path "{mount}/data/elsewhere" {{ capabilities = ["read"] }}')
        daemon = rotator.start()
        assert "read" in daemon.wait_for("target_failed")["error"]
        assert readiness(daemon) == (200, "ok\n")
        assert daemon.stop() == 0


def test_a_daemon_that_was_ready_without_targets_stays_ready_when_one_comes(rotator: Installation) -> None:
    rotator.config["targets"] = {}
    rotator.environment["VAULT_TOKEN"] = "hvs.of-no-use-anywhere"
    daemon = rotator.start()
    daemon.wait_for("started")
    with Proxy("http://127.0.0.1:1") as network:
        network.mode = "refuse"
        rotator.config["stores"]["away"] = {"type": "vault", "address": network.url, "auth": {"method": "token"}}
        rotator.config["targets"] = {"a": {"path": "apps/a", "store": "away"}}
        rotator.write()
        daemon.wait_for("upstream_down")
        assert readiness(daemon) == (200, "ok\n")
        assert daemon.stop() == 0


def test_with_no_target_it_is_ready_at_once(rotator: Installation) -> None:
    rotator.config["targets"] = {}
    daemon = rotator.start()
    assert httpx.get(f"{daemon.url()}/readyz", trust_env=False).text == "ok\n"
    rotator.config["targets"] = {"a": {"path": "apps/a"}}
    rotator.write()
    daemon.wait_for("key_published", target="a")
    assert daemon.stop() == 0
