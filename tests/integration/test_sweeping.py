"""The sweep, as a command and in the daemon, on a real Vault: a mess made by hand, and what becomes of each piece."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.installation import Installation, VaultPaths, on_vault
from support.process import wait_until
from support.vault import VaultServer

from rotator.simulator import Fault

DAY = timedelta(days=1)


class Mess:
    """Targets a, b and c with their keys, and what people and crashes have left at the provider."""

    def __init__(self, rotator: Installation, paths: VaultPaths) -> None:
        self.rotator, self.paths = rotator, paths
        self.vendor = rotator.simulator.vendor
        rotator.config["defaults"]["grace_period"] = "10m"
        rotator.config["sweep"] = {"min_age": "1s"}
        rotator.run("rotate", "--all", status=0)

    def place(self, target: str) -> list[str]:
        """The parts of the name of the key that this target's path serves."""
        return self.vendor.keys[self.served(target)].name.split(".")

    def served(self, target: str) -> str:
        """The id of the key that applications read."""
        key = self.vendor.key_of((self.paths.read(f"apps/{target}") or {})["api_key"])
        assert key is not None
        return key.id

    def key(self, name: str, life: timedelta = DAY) -> str:
        """A key made by hand a minute ago; its id."""
        now = self.vendor.now
        self.vendor.now = lambda: now() - timedelta(minutes=1)
        try:
            return self.vendor.create({"name": name, "expiry_date": (now() + life).isoformat()}).id
        finally:
            self.vendor.now = now

    def orphan(self, target: str, version: int, unique: str = "lonelyaa") -> str:
        """A key of a target's that no version holds, meant for this one."""
        return self.key(".".join([*self.place(target)[:3], str(version), unique]))

    def left(self, key_id: str) -> timedelta:
        """How long the key lives on; nothing when it is revoked."""
        key = self.vendor.keys[key_id]
        assert key.expiry_date is not None
        return timedelta(0) if key.revoked_at else key.expiry_date - datetime.now(UTC)

    def sweep(self, *arguments: str, status: int = 0) -> Any:
        return self.rotator.json("sweep", *arguments, status=status)

    def changes(self) -> list[str]:
        return [call.operation for call in self.rotator.calls("create", "update", "delete")]


@pytest.fixture
def mess(vault: VaultServer, tmp_path: Path) -> Iterator[Mess]:
    with on_vault(tmp_path, vault, ("a", "b", "c")) as (rotator, paths):
        yield Mess(rotator, paths)


def test_a_sweep_does_what_is_promised_and_nothing_else(mess: Mess) -> None:
    late, ahead = mess.orphan("a", 1), mess.orphan("b", 2)
    foreign = [mess.key("made by hand"), mess.key("staging.a.bbbbbbbbbbbb.1.lonelyaa")]
    of_another_place = mess.key("prod-eu.gone.aaaaaaaaaaaa.3.lonelyaa")
    expired = mess.orphan("a", 1, "expiredd")
    mess.rotator.simulator.vendor.update(expired, {"expiry_date": (datetime.now(UTC) - DAY).isoformat()})
    missing = mess.served("c")
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began > 1, "the keys to be as old as [sweep].min_age")
    mess.vendor.delete(missing)
    served = {name: mess.served(name) for name in "ab"}
    before = {key: mess.left(key) for key in (*foreign, of_another_place, *served.values())}
    calls = len(mess.changes())

    seen = mess.sweep("--dry-run")
    assert len(mess.changes()) == calls
    assert mess.paths.metadata("apps/b")["current_version"] == 1
    states = {orphan["key_id"]: (orphan["target"], orphan["state"]) for orphan in seen["providers"][0]["orphans"]}
    assert states == {late: ("a", "to-shorten"), ahead: ("b", "to-shorten"), expired: ("a", "over")}
    assert [key["key_id"] for key in seen["providers"][0]["unclaimed"]] == [of_another_place]
    assert [(target["name"], target["reason"]) for target in seen["targets"]] == [("c", "missing")]

    done = mess.sweep()
    outcomes = {orphan["key_id"]: orphan["outcome"] for orphan in done["providers"][0]["orphans"]}
    assert outcomes == {late: "shortened", ahead: "shortened", expired: "removed"}
    assert [(target["name"], target["attempted"]) for target in done["targets"]] == [("c", "missing")]
    for key in (late, ahead):
        assert timedelta(minutes=9) < mess.left(key) <= timedelta(minutes=10, seconds=1)
    assert mess.left(expired) == timedelta(0)
    assert mess.vendor.works((mess.paths.read("apps/c") or {})["api_key"])
    assert mess.served("c") != missing
    assert {name: mess.served(name) for name in "ab"} == served
    assert mess.paths.metadata("apps/b")["current_version"] == 2, "fenced"
    assert mess.paths.metadata("apps/a")["current_version"] == 1
    for key, left in before.items():
        assert abs(mess.left(key) - left) < timedelta(minutes=1), "never touched"

    calls = len(mess.changes())
    again = mess.sweep()
    assert {orphan["state"] for orphan in again["providers"][0]["orphans"]} == {"ending"}
    assert again["targets"] == []
    assert len(mess.changes()) == calls


def test_more_orphans_than_allowed_are_left_to_a_person(mess: Mess) -> None:
    orphans = [mess.orphan("a", 1, f"lonelya{letter}") for letter in "abc"]
    refused = mess.rotator.run("sweep", "--max-orphans", "2", status=1)
    assert "3 live keys are in no version of their paths, more than max_orphans (2): none was touched" in refused.stdout
    assert "`rotator sweep --max-orphans 3`" in refused.stdout
    assert refused.stdout.count("is left alone; it expires at ") == 3
    assert all(mess.left(key) > DAY / 2 for key in orphans)
    mess.rotator.run("sweep", "--max-orphans", "3", status=0)
    assert all(mess.left(key) < DAY / 2 for key in orphans)


def test_a_removed_targets_keys_are_reported_and_not_touched(mess: Mess) -> None:
    key = mess.served("c")
    left = mess.left(key)
    del mess.rotator.config["targets"]["c"]
    output = mess.rotator.run("sweep", status=0).stdout
    assert f"respan: {key} (" in output
    assert "has no configured target: left alone" in output
    assert output.splitlines()[-1] == "respan: 3 keys listed, 0 orphans, 1 without a configured target, 0 of others"
    assert abs(mess.left(key) - left) < timedelta(minutes=1)


def test_a_provider_that_cannot_list_proves_nothing(mess: Mess) -> None:
    mess.orphan("a", 1)
    mess.rotator.simulator.faults.add(Fault("refuse", "list", status=500, times=None))
    result = mess.rotator.run("sweep", status=3)
    assert "respan: Respan answered 500" in result.stdout
    assert mess.rotator.json("sweep", status=3)["providers"][0]["orphans"] == []


def test_a_foreign_path_is_left_alone_with_its_orphans(mess: Mess) -> None:
    orphan = mess.orphan("a", 2)
    mess.paths.put("apps/a", {"api_key": "another team's"})
    assert mess.sweep()["providers"][0]["orphans"] == []
    assert mess.left(orphan) > DAY / 2


def test_the_daemon_sweeps_at_its_start_and_then_again_and_again(mess: Mess) -> None:
    mess.rotator.config["sweep"] |= {"interval": "1s"}
    first = mess.orphan("a", 2)
    stranger = mess.key("prod-eu.gone.aaaaaaaaaaaa.3.lonelyaa")
    daemon = mess.rotator.start("--log-level", "debug")
    daemon.wait_for("key_shortened", key_id=first, reason="orphan", target="a", by="schedule")
    daemon.wait_for("path_fenced", target="a", version=2)
    second = mess.orphan("a", 1)
    daemon.wait_for("key_shortened", key_id=second)
    served = mess.served("b")
    mess.vendor.delete(served)
    daemon.wait_for("key_published", target="b", reason="missing")
    assert mess.vendor.works((mess.paths.read("apps/b") or {})["api_key"])
    wait_until(lambda: len(daemon.events("sweep_completed")) > 3, "some more sweeps")
    assert [event["key_id"] for event in daemon.events("key_without_target")] == [stranger], "reported once"
    assert daemon.metric('rotator_orphans_total{outcome="shortened"}') == 2
    assert (daemon.metric("rotator_last_sweep_success_timestamp_seconds") or 0) > 1_700_000_000
    assert daemon.metric('rotator_provider_up{provider="respan"}') == 1
    assert daemon.metric('rotator_store_up{store="store"}') == 1
    assert daemon.stop() == 0
