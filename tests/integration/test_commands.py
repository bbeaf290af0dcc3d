"""The commands that change keys, as processes with a real Vault: their effects, output and exit statuses."""

import json
import re
import sys
from collections.abc import Iterator
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest
from support.installation import Installation, VaultPaths, installation, on_vault
from support.process import wait_until
from support.vault import VaultServer

from rotator.simulator import Fault

Made = tuple[Installation, VaultPaths]


@pytest.fixture
def made(vault: VaultServer, tmp_path: Path) -> Iterator[Made]:
    with on_vault(tmp_path, vault) as it:
        yield it


@pytest.fixture
def two(vault: VaultServer, tmp_path: Path) -> Iterator[Made]:
    with on_vault(tmp_path, vault, ("a", "b")) as it:
        yield it


def works(made: Made, path: str = "apps/a", field: str = "api_key") -> bool:
    """Return whether the applications of this path have a key that the gateway accepts."""
    return made[0].simulator.vendor.works((made[1].read(path) or {}).get(field, ""))


def key_id(made: Made, path: str = "apps/a") -> str:
    """Return the key that the applications of this path have."""
    key = made[0].simulator.vendor.key_of((made[1].read(path) or {}).get("api_key", ""))
    assert key is not None
    return key.id


# --- run --once ------------------------------------------------------------------------------------------------------


def test_once_rotates_then_does_nothing_then_removes_the_key_after_its_grace(made: Made) -> None:
    rotator, paths = made
    first = rotator.run("run", "--once", status=0)
    assert first.stdout == "1 rotated, 0 unchanged, 0 foreign, 0 failed\n"
    assert works(made)
    assert paths.read("apps/a") is not None

    calls, metadata = rotator.calls(), paths.metadata("apps/a")
    second = rotator.run("run", "--once", status=0)
    assert second.stdout == "0 rotated, 1 unchanged, 0 foreign, 0 failed\n"
    assert [c for c in rotator.calls()[len(calls) :] if c.operation != "retrieve"] == []
    assert paths.metadata("apps/a") == metadata

    old = key_id(made)
    rotator.run("rotate", "a", status=0)
    assert key_id(made) != old
    vendor = rotator.simulator.vendor
    # The store's clock decides when grace is over, which may be a moment later than the provider's whole seconds.
    wait_until(
        lambda: rotator.run("run", "--once").returncode == 0 and vendor.keys[old].revoked_at is not None,
        "the old key to be removed",
        10,
    )
    versions = paths.versions("apps/a")
    assert [versions[number]["destroyed"] for number in ("1", "2")] == [True, False]
    assert works(made)


def test_once_logs_lines_of_json_without_colours(made: Made) -> None:
    result = made[0].run("run", "--once", status=0)
    events = [json.loads(line)["event"] for line in result.stderr.splitlines()]
    assert [event for event in events if event.startswith("key_")] == ["key_created", "key_published"]
    assert "\x1b" not in result.stdout + result.stderr


# --- rotate ----------------------------------------------------------------------------------------------------------


def test_rotate_prints_the_new_key_and_how_long_the_old_one_works(made: Made) -> None:
    rotator, _ = made
    rotator.config["defaults"]["grace_period"] = "10m"
    rotator.run("run", "--once", status=0)
    old = key_id(made)
    result = rotator.run("rotate", "a", "--reason", "the key was in a screenshot", status=0)
    new = key_id(made)
    assert re.match(rf"a: rotated \(requested\): key {new}, until \S+Z\n  the old key {old} works until", result.stdout)
    assert rotator.simulator.vendor.works(rotator.simulator.vendor.text_of(old))
    assert '"comment": "the key was in a screenshot"' in result.stderr


def test_rotate_all_in_json(two: Made) -> None:
    rotator, _ = two
    shown = rotator.json("rotate", "--all")
    assert [(t["name"], t["outcome"], t["attempted"], t["state"]) for t in shown["targets"]] == [
        ("a", "rotated", "first", "ok"),
        ("b", "rotated", "first", "ok"),
    ]
    assert shown["targets"][0]["key_id"] == key_id(two)


def test_revoke_now_removes_the_old_key_at_once(made: Made) -> None:
    rotator, paths = made
    rotator.config["defaults"]["grace_period"] = "10m"
    rotator.run("run", "--once", status=0)
    old = key_id(made)
    result = rotator.run("rotate", "a", "--revoke-now", status=0)
    assert rotator.simulator.vendor.keys[old].revoked_at is not None
    assert paths.versions("apps/a")["1"]["destroyed"]
    assert result.stdout.splitlines()[1:] == [f"  the old key {old} is revoked: it no longer works"]
    second = key_id(made)
    [shown] = rotator.json("rotate", "a", "--revoke-now")["targets"]
    assert shown["revoked"] == [second]
    assert works(made)


def test_revoke_now_revokes_a_key_that_was_deleted_from_the_path(made: Made) -> None:
    """After a leak an operator deletes the secret first; then no version holds the key."""
    rotator, paths = made
    rotator.run("run", "--once", status=0)
    old = key_id(made)
    paths.vault.request("DELETE", f"{paths.mount}/data/apps/a").raise_for_status()
    result = rotator.run("rotate", "a", "--revoke-now", status=0)
    assert rotator.simulator.vendor.keys[old].revoked_at is not None
    assert f"  the old key {old} is revoked: it no longer works" in result.stdout.splitlines()
    assert works(made)
    rotator.simulator.faults.add(Fault("refuse", "list", status=503, times=None))
    result = rotator.run("rotate", "a", "--revoke-now", status=1)
    assert "a: rotated, but" in result.stdout


def test_find_shows_whose_a_key_is_and_revokes_it(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    rotator, paths = made
    rotator.config["defaults"]["grace_period"] = "10m"
    rotator.run("run", "--once", status=0)
    leaked, leaked_id = (paths.read("apps/a") or {})["api_key"], key_id(made)
    rotator.run("rotate", "a", status=0)
    served = key_id(made)

    def find(*arguments: str) -> str:
        monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(f"{leaked}\n".encode())))
        return rotator.run("find", *arguments, status=0).stdout

    assert find().startswith(f"line 1: a: version 1 (superseded): the key {leaked_id} works until ")
    [report] = json.loads(find("--revoke-now", "--json"))["targets"]
    assert (report["outcome"], report["revoked"]) == ("unchanged", [leaked_id])
    assert paths.versions("apps/a")["1"]["destroyed"]
    assert not rotator.simulator.vendor.works(leaked)
    assert (key_id(made), works(made)) == (served, True)


def test_events_show_what_was_done_by_hand_in_vault(made: Made) -> None:
    rotator, paths = made
    rotator.config["defaults"]["grace_period"] = "10m"
    rotator.run("run", "--once", status=0)
    first, data = key_id(made), paths.read("apps/a") or {}
    rotator.run("rotate", "a", status=0)

    def by_hand(action: str, version: int) -> None:
        paths.vault.request("POST", f"{paths.mount}/{action}/apps/a", {"versions": [version]}).raise_for_status()

    paths.put("apps/a", data)  # as `vault kv rollback` does
    paths.put("apps/a", {"api_key": "theirs"})
    by_hand("delete", 4)
    by_hand("delete", 3)
    by_hand("undelete", 3)
    by_hand("destroy", 2)
    shown = [line.split("\t") for line in rotator.run("events", "--since", "1h", status=0).stdout.splitlines()]
    assert [row[2:] for row in shown] == [
        ["published", "1", first, "first"],
        ["written", "2", "-", "-"],
        ["rolled-back", "3", first, "-"],
        ["destroyed", "2", "-", "-"],
        ["written", "4", "-", "-"],
        ["deleted", "4", "-", "-"],
    ]


def test_a_request_over_the_rate_limit_is_retried(two: Made) -> None:
    """As beside a daemon, which uses its part of the rate limit. No key is made twice because of it."""
    rotator, _ = two
    rotator.run("run", "--once", status=0)
    before = len(rotator.calls("create"))
    faults = rotator.simulator.faults
    faults.add(Fault("rate_limit", "create", retry_after=1, times=1))
    faults.add(Fault("rate_limit", "update", retry_after=1, times=1))
    result = rotator.run("rotate", "--all", status=0)
    assert [line.split(" (")[0] for line in result.stdout.splitlines() if not line.startswith(" ")] == [
        "a: rotated",
        "b: rotated",
    ]
    assert [call.status for call in rotator.calls("create")[before:]].count(201) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rotate", "aa"), "there is no target 'aa'"),
        (("rotate",), "name the targets, or use --all"),
        (("rotate", "a", "--all"), "name the targets, or use --all"),
        (("rotate", "a", "--reason", "one\ntwo"), "one line of at most 200 characters"),
        (("rotate", "a", "--reason", "x" * 201), "one line of at most 200 characters"),
        (("extend", "a", "--for", "soon"), "--for"),
        (("rollback", "b"), "there is no target 'b'"),
        (("rotates",), "No such command"),
    ],
    ids=lambda value: "-".join(value)[:30].replace("\n", " ") if isinstance(value, tuple) else "",
)
def test_an_impossible_call_ends_with_2_and_does_nothing(made: Made, arguments: tuple[str, ...], message: str) -> None:
    rotator, paths = made
    result = rotator.run(*arguments, status=2)
    assert message in result.stderr
    assert not result.stdout
    assert rotator.calls() == []
    assert paths.read("apps/a") is None


# --- rollback and extend ---------------------------------------------------------------------------------------------


def test_rollback_serves_the_previous_key_again(made: Made) -> None:
    rotator, paths = made
    rotator.config["defaults"]["grace_period"] = "10m"
    rotator.run("run", "--once", status=0)
    first = key_id(made)
    rotator.run("rotate", "a", status=0)
    second = key_id(made)
    result = rotator.run("rollback", "a", status=0)
    assert key_id(made) == first
    assert works(made)
    assert result.stdout.startswith(f"a: rolled back: key {first}, until ")
    assert f"the old key {second} works until" in result.stdout
    assert len(paths.versions("apps/a")) == 3
    assert len(rotator.calls("create")) == 2
    rotator.run("run", "--once", status=0)
    assert key_id(made) == first


def test_a_rollback_is_reported_as_done_whatever_fails_after_it(made: Made) -> None:
    rotator, _ = made
    rotator.config["defaults"]["grace_period"] = "10m"
    rotator.run("run", "--once", status=0)
    first = key_id(made)
    rotator.run("rotate", "a", status=0)
    rotator.simulator.faults.add(Fault("refuse", "retrieve", skip=1, times=None))
    result = rotator.run("rollback", "a", status=1)
    assert key_id(made) == first
    assert result.stdout.startswith("a: rolled back, but ")
    assert f"the applications have the key {first}, until " in result.stdout


def test_rollback_without_a_previous_key_changes_nothing(made: Made) -> None:
    rotator, paths = made
    rotator.run("run", "--once", status=0)
    metadata = paths.metadata("apps/a")
    result = rotator.run("rollback", "a", status=1)
    assert "no previous key" in result.stdout
    assert "rotator rotate a" in result.stdout
    assert paths.metadata("apps/a") == metadata


def test_extend_prolongs_every_live_key_even_while_the_store_is_down(made: Made) -> None:
    rotator, _ = made
    rotator.config["defaults"]["grace_period"] = "10m"
    rotator.run("run", "--once", status=0)
    rotator.run("rotate", "a", status=0)
    for more in ("2h", "3h"):
        before = {key.id: key.expiry_date for key in rotator.simulator.vendor.keys.values()}
        result = rotator.run("extend", "--all", "--for", more, status=0).stdout
        assert result.count("works until") == 2
        assert ("by its name alone" in result) == (more == "3h")
        for key in rotator.simulator.vendor.keys.values():
            expiry, earlier = key.expiry_date, before[key.id]
            assert expiry is not None
            assert earlier is not None
            assert expiry > earlier
        rotator.config["stores"]["store"]["address"] = "http://127.0.0.1:9"


# --- paths that are not ours, or no longer ---------------------------------------------------------------------------


def test_a_path_written_by_hand_is_left_alone_until_it_is_adopted(two: Made) -> None:
    rotator, paths = two
    theirs = {"api_key": "theirs-and-theirs-alone", "password": "kept"}
    paths.put("apps/a", theirs)
    result = rotator.run("run", "--once", status=1)
    assert result.stdout == "1 rotated, 0 unchanged, 1 foreign, 0 failed\n"
    assert "target_foreign" in result.stderr
    refused = rotator.run("rotate", "a", status=1)
    assert "a: left alone: apps/a holds data that is not ours (no-record)" in refused.stdout
    assert "rotator rotate a --adopt" in refused.stdout
    assert paths.read("apps/a") == theirs
    assert len(rotator.calls("create")) == 1  # b's

    rotator.run("rotate", "a", "--adopt", status=0)
    assert works(two)
    assert (paths.read("apps/a") or {})["password"] == "kept"


def test_a_key_that_was_patched_over_ours_is_left_alone(made: Made) -> None:
    rotator, paths = made
    rotator.run("run", "--once", status=0)
    ours = paths.read("apps/a") or {}
    paths.put("apps/a", {**ours, "api_key": "patched-by-hand"})
    calls = len(rotator.calls("create", "update", "delete"))
    result = rotator.run("rotate", "a", status=1)
    assert "hand-edited" in result.stdout
    assert (paths.read("apps/a") or {})["api_key"] == "patched-by-hand"
    assert len(rotator.calls("create", "update", "delete")) == calls


@pytest.mark.parametrize("how", ["delete", "destroy", "metadata"])
def test_a_path_that_was_removed_gets_a_new_key(made: Made, how: str) -> None:
    rotator, paths = made
    rotator.run("run", "--once", status=0)
    old = key_id(made)
    requests: dict[str, tuple[str, str, Any]] = {
        "delete": ("DELETE", "data", None),
        "destroy": ("PUT", "destroy", {"versions": [1]}),
        "metadata": ("DELETE", "metadata", None),
    }
    method, kind, body = requests[how]
    paths.vault.request(method, f"{paths.mount}/{kind}/apps/a", body).raise_for_status()
    assert rotator.run("run", "--once", status=0).stdout.startswith("1 rotated")
    assert works(made)
    assert key_id(made) != old


def test_the_targets_own_fields_are_beside_the_key_and_changing_them_makes_no_key_lost(made: Made) -> None:
    rotator, paths = made
    rotator.config["targets"]["a"] |= {"extra_fields": {"base_url": "https://api.example"}, "key_field": "RESPAN_KEY"}
    rotator.run("run", "--once", status=0)
    data = paths.read("apps/a") or {}
    assert data["base_url"] == "https://api.example"
    assert works(made, field="RESPAN_KEY")
    assert set(data) == {"RESPAN_KEY", "base_url", "rotator"}


# --- an organisation key that is in a Vault --------------------------------------------------------------------------


def test_an_organisation_key_in_a_vault_that_is_down_is_an_error_of_its_provider(tmp_path: Path) -> None:
    """The targets are kept elsewhere: their paths can be read, and the commands report that."""
    with installation(tmp_path) as rotator:
        rotator.config["stores"]["vault"] = {"type": "vault", "address": "http://127.0.0.1:1", "mount": "secret"}
        rotator.config["defaults"]["store"] = "store"
        rotator.environment["VAULT_TOKEN"] = "hvs.none"
        rotator.run("rotate", "a", status=0)
        rotator.config["providers"]["respan"]["api_key"] = {"vault": "secret/respan/org#api_key"}
        for command in (("rotate", "a"), ("sweep",), ("check", "--online")):
            result = rotator.run(*command, status=3)
            assert "the management credential, which providers.respan.api_key names, cannot be read" in result.stdout, (
                command
            )
        assert rotator.json("plan")["targets"][0]["reason"] == "fresh"
        daemon = rotator.start()
        daemon.wait_for("upstream_down", upstream="store vault")
        assert not daemon.events("unexpected_error")


@pytest.mark.parametrize("content", ["", " \n", None])
def test_a_missing_organisation_key_is_reported_as_missing(tmp_path: Path, content: str | None) -> None:
    with installation(tmp_path) as rotator:
        file = tmp_path / "organisation-key"
        rotator.config["providers"]["respan"]["api_key"] = {"file": str(file)}
        if content is not None:
            file.write_text(content)
        result = rotator.run("rotate", "a", status=3).stdout
        wrong = "cannot be read: No such file or directory" if content is None else "is empty or not set"
        assert f"the file {file}, which providers.respan.api_key names, {wrong}" in result
        assert rotator.calls() == []
        file.write_text(f"{rotator.simulator.organisation_key}\n")
        rotator.run("rotate", "a", status=0)
