"""`find`: which target holds a key, whether it works, and its revocation. No output shows any part of a key."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest
from support.installation import Installation, Result, installation
from support.leaks import RECORDER
from support.process import free_ports, wait_until
from support.world import ALL, ENDLESS, FIXED, World

from rotator.core.holding import Holding, holdings, is_dead
from rotator.core.request import RotationRequest
from rotator.core.secrets import Secret
from rotator.core.traits import Traits
from rotator.runtime.clock import SystemClock
from rotator.simulator import Fault
from rotator.stores.sqlite import SqliteStore

STRANGER = "9f8e7d6c.a-key-of-another-program_0123456789"
Find = Callable[..., Result]


@pytest.fixture(autouse=True)
def stranger() -> None:
    RECORDER.add_secret("a key of another program", STRANGER)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Installation]:
    with installation(tmp_path, targets=("a", "b")) as made:
        made.config["defaults"]["grace_period"] = "10m"
        made.run("run", "--once", status=0)
        yield made


@pytest.fixture
def find(made: Installation, monkeypatch: pytest.MonkeyPatch) -> Find:
    """Runs `find` with these lines on standard input."""

    def find(lines: str | bytes, *arguments: str, status: int | None = None, **environment: str) -> Result:
        raw = lines.encode() if isinstance(lines, str) else lines
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stdin", TextIOWrapper(BytesIO(raw)))
            return made.run("find", *arguments, status=status, **environment)

    return find


def store_of(made: Installation) -> SqliteStore:
    return SqliteStore(made.folder / "store.db", SystemClock())


def data(made: Installation, target: str) -> Mapping[str, Any]:
    """Return what the applications of a target read."""
    version = store_of(made).newest(f"apps/{target}").current
    assert version is not None
    assert version.data is not None
    return version.data


def served(made: Installation, target: str = "a") -> str:
    """Return the text of the key that the applications of a target have."""
    return str(data(made, target)["api_key"])


def put(made: Installation, target: str, fields: Mapping[str, Any]) -> None:
    """Write a version by hand."""
    store = store_of(made)
    store.write(f"apps/{target}", fields, store.newest(f"apps/{target}").current_version)


def key_id(made: Installation, text: str) -> str:
    key = made.simulator.vendor.key_of(text)
    assert key is not None
    return key.id


# --- where a key is --------------------------------------------------------------------------------------------------


def test_each_key_is_found_by_the_number_of_its_line(made: Installation, find: Find) -> None:
    old = served(made)
    made.run("rotate", "a", status=0)
    new, other = served(made), served(made, "b")
    ended = find(f"\n  {old}\t\r\n{new}\n\n\ufeff{other}", status=0)
    assert [line.partition(" works until 2")[0] for line in ended.stdout.splitlines()] == [
        f"line 2: a: version 1 (superseded): the key {key_id(made, old)}",
        f"line 3: a: version 2 (current): the key {key_id(made, new)}",
        f"line 5: b: version 1 (current): the key {key_id(made, other)}",
    ]
    assert len(made.calls("update", "delete")) == 1, "that of the rotation"


def test_a_key_in_no_version_ends_with_1_and_advice(made: Installation, find: Find) -> None:
    ended = find(f"{STRANGER}\n{served(made)}\n", status=1)
    assert ended.stdout.startswith("line 1: not found in any version of 2 targets\n  Its version may be destroyed")
    assert "line 2: a: version 1 (current)" in ended.stdout


def test_the_result_in_json(made: Installation, find: Find) -> None:
    old = served(made)
    made.run("rotate", "a", status=0)
    [superseded] = made.json("status", status=0)["targets"][0]["superseded"]
    shown = json.loads(find(f"{old}\n{STRANGER}", "--json", status=1).stdout)
    assert (shown["owner"], shown["targets"], shown["unread"]) == ("prod-eu", [], {})
    assert shown["keys"] == [
        {
            "line": 1,
            "found": [
                {
                    "target": "a",
                    "path": "apps/a",
                    "versions": [1],
                    "key_id": key_id(made, old),
                    "state": "superseded",
                    "ours": True,
                    "works": True,
                    "until": superseded["until"],
                    "error": None,
                }
            ],
        },
        {"line": 2, "found": []},
    ]


def test_a_copy_is_found_beside_the_original(made: Installation, find: Find) -> None:
    put(made, "b", data(made, "a"))
    ended = find(served(made), status=0)
    first, second = ended.stdout.splitlines()
    assert first.startswith("line 1: a: version 1 (current): the key ")
    assert second.startswith("line 1: b: version 2 (current, not written by rotator for this target): the key ")


def test_a_bare_text_is_found_but_whether_it_works_is_unknown(made: Installation, find: Find) -> None:
    put(made, "b", {"api_key": STRANGER})
    ended = find(STRANGER, status=1)
    assert ended.stdout == (
        "line 1: b: version 2 (current, not written by rotator for this target): no version of this path has the id of "
        "the key, so it is unknown whether the key works\n"
    )


def test_a_text_that_was_overwritten_is_found_by_its_record(made: Installation, find: Find) -> None:
    text = served(made)
    store = store_of(made)
    put(made, "a", {**data(made, "a"), "api_key": STRANGER})
    store.destroy("apps/a", [1])
    ended = find(text, status=0)
    assert f"line 1: a: version 2 (current): the key {key_id(made, text)} works until" in ended.stdout


def test_a_key_that_the_provider_does_not_have_no_longer_works(made: Installation, find: Find) -> None:
    text = served(made)
    made.simulator.vendor.delete(key_id(made, text))
    assert "is so new that Respan may not show it yet" in find(text, status=0).stdout
    made.config["sweep"] = {"min_age": "1s"}
    gone = "no longer works: Respan does not have it\n"
    wait_until(lambda: find(text, status=0).stdout.endswith(gone), "the key to be old enough")


# --- what cannot be read ---------------------------------------------------------------------------------------------


def test_without_any_store_it_ends_with_3(made: Installation, find: Find) -> None:
    text = served(made)
    away = {"type": "vault", "address": f"http://127.0.0.1:{free_ports(1)[0]}", "timeout": "1s"}
    made.config["stores"]["store"] = away
    ended = find(text, "--revoke-now", status=3, VAULT_TOKEN="hvs.made-up-for-a-vault-that-is-not-there")
    assert "a: not searched: " in ended.stdout
    assert "line 1: not found in any version of 0 targets; 2 targets could not be searched" in ended.stdout


def test_without_one_store_the_others_are_searched(made: Installation, find: Find) -> None:
    made.config["stores"]["away"] = {
        "type": "vault",
        "address": f"http://127.0.0.1:{free_ports(1)[0]}",
        "timeout": "1s",
    }
    made.config["targets"]["a"]["store"] = "store"
    made.config["targets"]["b"]["store"] = "away"
    made.config["providers"]["respan"]["requests_per_minute"] = 60
    ended = find(
        f"{served(made)}\n{STRANGER}", "--json", status=1, VAULT_TOKEN="hvs.made-up-for-a-vault-that-is-not-there"
    )
    shown = json.loads(ended.stdout)
    assert [len(key["found"]) for key in shown["keys"]] == [1, 0]
    assert list(shown["unread"]) == ["b"]


def test_without_the_provider_a_key_is_found_and_nothing_is_changed(made: Installation, find: Find) -> None:
    text = served(made)
    made.simulator.stop()
    ended = find(text, status=1)
    assert "line 1: a: version 1 (current): the key" in ended.stdout
    assert "could not be looked up: " in ended.stdout
    revoked = find(text, "--revoke-now", status=1)
    assert "line 1: not revoked\n  Correct what failed and run the command again" in revoked.stdout
    assert served(made) == text


def test_a_look_up_that_was_refused_with_429_is_retried(made: Installation, find: Find) -> None:
    made.simulator.faults.add(Fault("rate_limit", "retrieve", retry_after=1))
    assert " works until " in find(served(made), status=0).stdout


# --- revocation ------------------------------------------------------------------------------------------------------


def test_a_served_key_is_replaced_and_revoked(made: Installation, find: Find) -> None:
    text, other = served(made), served(made, "b")
    ended = find(text, "--revoke-now", status=0)
    first, second, third = ended.stdout.splitlines()
    assert first.startswith("a: rotated (requested): key ")
    assert second == f"  the old key {key_id(made, text)} is revoked: it no longer works"
    assert third == f"line 1: a: version 1 (current): the key {key_id(made, text)} is revoked: it no longer works"
    assert made.simulator.vendor.works(served(made))
    assert not made.simulator.vendor.works(text)
    assert served(made, "b") == other
    assert '"comment": "rotator find --revoke-now"' in ended.stderr


def test_a_superseded_key_is_revoked_and_the_served_one_stays(made: Installation, find: Find) -> None:
    old = served(made)
    made.run("rotate", "a", status=0)
    new = served(made)
    shown = json.loads(find(old, "--revoke-now", "--json", status=0).stdout)
    [report] = shown["targets"]
    assert (report["name"], report["outcome"], report["revoked"]) == ("a", "unchanged", [key_id(made, old)])
    [[found]] = [key["found"] for key in shown["keys"]]
    assert (found["works"], found["until"]) == (False, None)
    assert not made.simulator.vendor.works(old)
    assert served(made) == new
    assert made.simulator.vendor.works(new)


def test_what_was_not_found_ends_with_1_though_the_others_were_revoked(made: Installation, find: Find) -> None:
    text = served(made)
    ended = find(f"{text}\n{STRANGER}", "--revoke-now", status=1)
    assert "line 2: not found in any version" in ended.stdout
    assert not made.simulator.vendor.works(text)


def test_a_path_that_holds_foreign_data_is_left_alone(made: Installation, find: Find) -> None:
    text = served(made)
    put(made, "a", {"api_key": text})
    ended = find(text, "--revoke-now", status=1)
    assert "a: left alone: apps/a holds data that is not ours (no-record)" in ended.stdout
    assert "line 1: a: versions 1, 2 (current): the key" in ended.stdout
    assert "line 1: not revoked\n" in ended.stdout
    assert made.simulator.vendor.works(text)


def test_a_copied_record_alone_changes_nothing(made: Installation, find: Find) -> None:
    text = served(made)
    put(made, "b", data(made, "a"))
    store_of(made).destroy("apps/a", [1])
    calls = len(made.calls("create", "update", "delete"))
    ended = find(text, "--revoke-now", status=1)
    assert "line 1: not revoked\n" in ended.stdout
    assert len(made.calls("create", "update", "delete")) == calls


def test_a_key_that_the_provider_refuses_to_delete_is_reported_as_not_revoked(made: Installation, find: Find) -> None:
    made.simulator.faults.add(Fault("refuse", "delete", status=503, times=None))
    made.simulator.faults.add(Fault("refuse", "update", status=503, times=None))
    ended = find(served(made), "--revoke-now", status=1)
    assert "a: rotated, but " in ended.stdout
    assert "line 1: not revoked\n" in ended.stdout


# --- standard input --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (b"", "standard input has no key"),
        (b"\n \n\t\n", "standard input has no key"),
        (f"{STRANGER}\n".encode() + b"x" * 4097, "line 2 of standard input is longer than 4096 bytes"),
        (f"{STRANGER}\n".encode("utf-16"), "line 1 of standard input is not text in UTF-8"),
        (f"{STRANGER}\n".encode() * 101, "standard input has more than 100 lines"),
    ],
    ids=["empty", "blank", "long", "utf-16", "many"],
)
def test_input_that_cannot_be_used_ends_with_2(made: Installation, find: Find, lines: bytes, message: str) -> None:
    ended = find(lines, status=2)
    assert message in ended.stderr
    assert ended.stdout == ""


def test_a_key_as_an_argument_is_refused_and_not_printed(made: Installation) -> None:
    ended = made.run("find", STRANGER, status=2)
    assert "write the keys to stdin" in ended.stderr
    assert STRANGER not in ended.stdout + ended.stderr


def test_a_closed_standard_input_ends_with_2(made: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert "standard input is closed" in made.run("find", status=2).stderr


# --- providers of every kind -----------------------------------------------------------------------------------------


def found(world: World, text: str) -> Holding:
    """Return what the target holds of this key, looked up by a process that knows nothing."""
    observer = world.reconciler("find").observer
    [holding] = holdings(observer.observe(world.target), {Secret(text).fingerprint})
    assert holding.record is not None
    return holding.looked_up(observer.look_up(holding.observation, holding.record, observer.ports.budget))


@pytest.mark.parametrize("traits", [ALL, FIXED, ENDLESS], ids=["all", "no expiry to set", "no expiry"])
def test_a_key_works_until_its_grace_ends_whatever_the_provider_can_do(traits: Traits) -> None:
    world = World()
    world.vendor.traits = traits
    reconciler = world.reconciler()
    reconciler.reconcile(world.target)
    text = str((world.store.read(world.target.path) or {})[world.target.key_field])
    world.clock.advance(timedelta(minutes=10))
    now = world.clock.now()
    holding = found(world, text)
    assert (holding.is_current, holding.is_ours, holding.works(now)) == (True, True, True)
    assert (holding.works_until is None) == (not traits.keys_expire)
    reconciler.reconcile(world.target, RotationRequest(rotate=True))
    holding = found(world, text)
    assert (holding.is_current, holding.works(now)) == (False, True)
    assert holding.works_until == now + world.target.grace_period
    reconciler.reconcile(world.target, RotationRequest(revoke_now=True))
    observation = world.reconciler("find").observer.observe(world.target)
    assert list(holdings(observation, {Secret(text).fingerprint})) == [], "its version is destroyed"


def test_a_holding_shows_no_text_and_one_forged_record_does_not_prove_a_key_dead() -> None:
    world = World()
    world.reconciler().reconcile(world.target)
    text = str((world.store.read(world.target.path) or {})[world.target.key_field])
    world.clock.advance(timedelta(minutes=10))
    now = world.clock.now()
    works = found(world, text)
    assert text not in repr(works)
    [key] = world.vendor.keys.values()
    key.revoked = True
    dead = found(world, text)
    assert is_dead([dead], now)
    assert not is_dead([dead, works], now)
    assert not is_dead([], now)
