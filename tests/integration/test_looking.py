"""The commands that change nothing, and what is refused before a key is created, with a real Vault."""

import json
import re
import signal
import subprocess
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.installation import LEAST_RIGHTS, PROGRAM, Installation, VaultPaths, on_vault
from support.leaks import RECORDER
from support.process import free_ports, wait_until
from support.vault import VaultServer

from rotator import __version__

Made = tuple[Installation, VaultPaths]

TARGET_SHAPE = {
    "name",
    "state",
    "path",
    "key_id",
    "issued_at",
    "expires_at",
    "next_rotation_at",
    "window",
    "reason",
    "superseded",
    "use",
    "caps",
    "pickups",
    "last_error",
    "looked_at",
}


@pytest.fixture
def made(vault: VaultServer, tmp_path: Path) -> Iterator[Made]:
    with on_vault(tmp_path, vault) as it:
        yield it


def closed_port() -> str:
    [port] = free_ports(1)
    return f"http://127.0.0.1:{port}"


def without(line: str) -> str:
    """The policy of least rights without the rule for this."""
    kept = [rule for rule in LEAST_RIGHTS.splitlines() if line not in rule]
    assert len(kept) < len(LEAST_RIGHTS.splitlines())
    return "\n".join(kept)


# --- plan and status -------------------------------------------------------------------------------------------------


def test_plan_shows_what_is_due_and_changes_nothing(made: Made) -> None:
    rotator, paths = made
    assert rotator.run("plan", "--exit-code", status=4).stdout.startswith("a: rotate (first): create a key")
    rotator.run("plan", status=0)
    shown = rotator.json("plan")
    assert shown["targets"][0]["actions"] == [{"action": "rotate", "reason": "first"}]
    assert rotator.calls("create", "update", "delete") == []
    assert paths.read("apps/a") is None
    rotator.run("run", "--once", status=0)
    assert rotator.run("plan", "--exit-code", status=0).stdout.startswith("a: nothing to do; next rotation at ")
    rotator.config["defaults"]["key"] = {"rate_limit": 5}
    assert "rotate (drifted)" in rotator.run("plan", "--exit-code", status=4).stdout


def test_status_shows_all_in_json_and_in_one_line_a_target(made: Made) -> None:
    rotator, _ = made
    assert rotator.run("status", status=4).stdout.startswith("a\tmissing\t-")
    rotator.run("run", "--once", status=0)
    rotator.config["defaults"]["grace_period"] = "10m"
    rotator.run("rotate", "a", status=0)
    shown = rotator.json("status")
    assert set(shown) == {"owner", "at", "targets"}
    [target] = shown["targets"]
    assert set(target) == TARGET_SHAPE
    assert (target["name"], target["state"], target["path"], target["last_error"]) == ("a", "ok", "apps/a", None)
    [old] = target["superseded"]
    assert set(old) == {"key_id", "until", "last_used_at", "used_since"}
    line = rotator.run("status", status=0).stdout
    assert line.split("\t")[:3] == ["a", "ok", target["key_id"]]
    assert line.count("\n") == 1
    assert "\x1b" not in line


@pytest.mark.parametrize("command", ["status", "plan", "rotate a"])
def test_a_vault_that_is_not_there_ends_with_3(made: Made, command: str) -> None:
    rotator, _ = made
    rotator.config["stores"]["store"]["address"] = closed_port()
    result = rotator.run(*command.split(), status=3)
    assert result.stdout + result.stderr
    assert rotator.calls("create") == []


def test_a_daemon_that_is_not_there_ends_with_3(made: Made) -> None:
    result = made[0].run("status", "--url", closed_port(), status=3)
    assert "no daemon answers" in result.stderr


# --- check -----------------------------------------------------------------------------------------------------------


def test_check_finds_nothing_wrong_where_nothing_is(made: Made) -> None:
    rotator, paths = made
    assert "nothing wrong" in rotator.run("check", status=0).stdout
    assert rotator.calls() == []
    assert "credentials, permissions and paths were checked" in rotator.run("check", "--online", status=0).stdout
    assert rotator.calls("create", "update", "delete") == []
    assert paths.read("apps/a") is None
    rotator.run("run", "--once", status=0)
    shown = rotator.json("check", "--online")
    assert shown["findings"] == []
    assert shown["targets"] == 1


def test_check_online_prints_the_location_that_a_move_leaves(made: Made) -> None:
    """As it is pasted, beside the new mount; then keys that were made here are ours there."""
    rotator, paths = made
    rotator.run("run", "--once", status=0)
    [line] = [line for line in rotator.run("check", "--online", status=0).stdout.splitlines() if "after a move" in line]
    [entry] = tomllib.loads(line.partition("add: ")[2])["former_locations"]
    assert entry == rotator.json("check", "--online")["locations"]["store"]
    assert (entry["mount"], entry["namespace"]) == (paths.mount, "")
    rotator.config["stores"]["store"] |= {"mount": "elsewhere", "former_locations": [entry]}
    rotator.run("check", status=0)


def test_check_online_names_a_refused_token(made: Made) -> None:
    rotator, _ = made
    RECORDER.add_secret("a Vault token", "hvs.no-such-token-at-all-at-all")
    result = rotator.run("check", "--online", status=3, VAULT_TOKEN="hvs.no-such-token-at-all-at-all")
    assert "stores.store" in result.stdout


def test_a_token_that_ends_soon_is_named_by_check_and_by_a_daemon(made: Made) -> None:
    rotator, paths = made
    token = paths.token(ttl="90s", renewable=False, no_default_policy=False)
    result = rotator.run("check", "--online", status=1, VAULT_TOKEN=token).stdout
    assert re.search(r"stores\.store: the Vault token expires in [0-9]+ s .* and cannot be renewed", result)
    rotator.environment["VAULT_TOKEN"] = token
    daemon = rotator.start()
    ending = daemon.wait_for("login_ending")
    daemon.wait_for("key_published")
    assert (ending["store"], ending["level"]) == ("store", "warning")
    assert len(daemon.events("login_ending")) == 1


def test_check_online_names_a_refused_organisation_key(made: Made) -> None:
    RECORDER.add_secret("an organisation key", "sk_live_wrong_and_long_enough")
    result = made[0].run("check", "--online", status=3, RESPAN_API_KEY="sk_live_wrong_and_long_enough")
    assert "providers.respan" in result.stdout


@pytest.mark.parametrize("right", ["data", "metadata", "destroy"])
def test_check_online_names_a_missing_right(made: Made, right: str) -> None:
    rotator, paths = made
    result = rotator.run("check", "--online", VAULT_TOKEN=paths.token(without(f"/{right}/")))
    assert result.returncode in (1, 3)
    assert f"{paths.mount}/{right}/apps/a" in result.stdout


@pytest.mark.parametrize("version", [1, None])
def test_check_online_names_a_mount_that_is_not_kv_2(made: Made, version: int | None) -> None:
    rotator, paths = made
    mount = paths.vault.new_mount(version) if version else "not-there"
    rotator.config["stores"]["store"]["mount"] = mount
    rotator.environment["VAULT_TOKEN"] = VaultPaths(paths.vault, mount).token()
    result = rotator.run("check", "--online")
    assert result.returncode in (1, 3)
    assert mount in result.stdout
    assert "stores.store" in result.stdout


def test_check_online_names_a_path_of_others(made: Made) -> None:
    rotator, paths = made
    paths.put("apps/a", {"api_key": "theirs"})
    result = rotator.run("check", "--online", status=1)
    assert "targets.a: apps/a holds data that is not ours (no-record)" in result.stdout


def test_check_online_names_versions_that_vanish_before_their_key_ends(made: Made) -> None:
    rotator, paths = made
    rotator.run("run", "--once", status=0)
    metadata, config = f"{paths.mount}/metadata/apps/a", f"{paths.mount}/config"

    def keeps(path: str, after: str) -> None:
        paths.vault.request("POST", path, {"delete_version_after": after}).raise_for_status()

    keeps(metadata, "90m")
    rotator.run("check", "--online", status=0)
    rotator.config["targets"]["a"]["pause_until"] = (datetime.now(UTC) + timedelta(hours=2)).isoformat()
    assert "after 1h30m" in rotator.run("check", "--online", status=1).stdout  # for as long a key may have to live
    del rotator.config["targets"]["a"]["pause_until"]
    keeps(metadata, "59m30s")
    result = rotator.run("check", "--online", status=1).stdout
    assert f"targets.a: Vault deletes a version of {paths.mount}/apps/a after 59m30s" in result
    assert f"`vault kv metadata patch -mount={paths.mount} -delete-version-after=0s apps/a`" in result
    events = [json.loads(line) for line in rotator.run("rotate", "a", status=0).stderr.splitlines()]
    assert [(line["level"], line["version"]) for line in events if line["event"] == "version_expires_early"] == [
        ("error", 2)
    ]

    keeps(metadata, "0s")
    keeps(config, "10m")
    rotator.run("check", "--online", status=0)  # which the policy of least rights does not let it know
    more = f'{LEAST_RIGHTS}\npath "{{mount}}/config" {{{{ capabilities = ["read"] }}}}'
    result = rotator.run("check", "--online", status=1, VAULT_TOKEN=paths.token(more)).stdout
    assert f"after 10m (delete_version_after of the mount {paths.mount})" in result
    keeps(config, "-1s")
    keeps(metadata, "10m")
    rotator.run("check", "--online", status=0, VAULT_TOKEN=paths.token(more))


def test_every_mistake_of_a_configuration_is_named_at_once(made: Made) -> None:
    rotator, _ = made
    rotator.config["defaults"] |= {"ttl": "1h", "renew_before": "2h", "grase_period": "1h"}
    rotator.config["targets"] |= {"b": {"path": "apps/a"}, "c": {"path": "a//b"}}
    for command in (("check",), ("run",), ("rotate", "--all")):
        result = rotator.run(*command, status=2).stderr
        assert "grase_period" in result
        assert "did you mean" in result
        assert "targets.c.path" in result
        assert "Traceback" not in result
    assert rotator.calls() == []


def test_a_missing_file_is_named(made: Made) -> None:
    result = made[0].run("check", "--config", "/nowhere/rotator.toml", status=2)
    assert "/nowhere/rotator.toml" in result.stderr


# --- no key is created in vain ---------------------------------------------------------------------------------------


def test_a_kv_1_mount_is_not_written_to_and_no_key_is_created(made: Made) -> None:
    rotator, paths = made
    mount = paths.vault.new_mount(1)
    paths.vault.request("PUT", f"{mount}/apps/a", {"password": "theirs"}).raise_for_status()
    rotator.config["stores"]["store"]["mount"] = mount
    hcl = f'path "{mount}/*" {{{{ capabilities = ["create", "read", "update", "delete", "list"] }}}}'
    rotator.environment["VAULT_TOKEN"] = paths.token(hcl)
    result = rotator.run("rotate", "a", status=3)
    assert mount in result.stdout
    assert paths.vault.request("GET", f"{mount}/apps/a").json()["data"] == {"password": "theirs"}
    assert rotator.calls("create") == []


READ_ONLY = LEAST_RIGHTS.replace('"create", "read", "update"', '"read"')
DENIED = LEAST_RIGHTS.replace(
    'capabilities = ["create", "read", "update"]',
    'capabilities = ["create", "read", "update"] denied_parameters = {{ "data" = [] }}',
)


@pytest.mark.parametrize("hcl", [READ_ONLY, DENIED], ids=["read-only", "denied-parameters"])
def test_a_policy_that_forbids_the_write_is_known_before_a_key_is_created(made: Made, hcl: str) -> None:
    rotator, paths = made
    rotator.environment["VAULT_TOKEN"] = paths.token(hcl)
    result = rotator.run("rotate", "a", status=1)
    assert "a: failed: " in result.stdout
    assert paths.read("apps/a") is None
    assert rotator.calls("create") == []


def test_a_body_that_is_too_large_is_known_before_a_key_is_created(made: Made) -> None:
    rotator, paths = made
    rotator.config["targets"]["a"]["extra_fields"] = {
        "large": "x" * (2 * 1024 * 1024)
    }  # Vault takes 1 MiB in one string
    rotator.run("rotate", "a", status=1)
    assert rotator.calls("create") == []
    assert paths.read("apps/a") is None


# --- the rest --------------------------------------------------------------------------------------------------------


def test_schema_and_version(made: Made) -> None:
    rotator, _ = made
    schema = json.loads(rotator.run("schema", status=0).stdout)
    assert set(schema["required"]) >= {"owner", "providers", "stores"}
    assert rotator.run("--version", status=0).stdout == f"rotator {__version__}\n"


def test_simulate_prints_its_address_and_ends_when_asked(tmp_path: Path) -> None:
    output = tmp_path / "stdout"
    with output.open("w") as stdout:
        running = subprocess.Popen([PROGRAM, "simulate", "--port", "0"], stdout=stdout, stderr=subprocess.PIPE, env={})
    try:
        wait_until(lambda: output.read_text().count("\n") == 2, "two lines")
        running.send_signal(signal.SIGTERM)
        _, complaints = running.communicate(timeout=20)
    finally:
        running.kill()
        running.wait()
    url, secret = output.read_text().splitlines()
    key = secret.removeprefix("export RESPAN_API_KEY=")
    assert key.startswith("sk_live_simulated_")
    RECORDER.add_secret("an organisation key", key)
    RECORDER.record("simulate: stdout", output.read_text(), exempt=[secret])
    RECORDER.record("simulate: stderr", complaints.decode())
    assert url.startswith('base_url = "http://127.0.0.1:')
    assert (running.returncode, complaints) == (0, b"")


# --- a mount that cannot be used -------------------------------------------------------------------------------------


def test_a_mount_of_version_1_is_not_taken_for_an_empty_one(vault: VaultServer, tmp_path: Path) -> None:
    with on_vault(tmp_path, vault) as (rotator, _):
        rotator.config["stores"]["store"]["mount"] = vault.new_mount(version=1)
        rotator.environment["VAULT_TOKEN"] = vault.root_token
        for command in ("plan", "status", "sweep"):
            result = rotator.run(command, status=3)
            assert "is KV version 1, which ignores compare-and-set" in result.stdout + result.stderr
            assert "vault kv enable-versioning" in result.stdout + result.stderr
