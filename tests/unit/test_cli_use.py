"""What the commands show of the use of caps without a daemon: with one list, and although a provider fails."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support.installation import Installation, installation

from rotator.core.caps import HOT_EVERY
from rotator.protocol.observer import Observer
from rotator.simulator import Fault

LIMIT = 50


@contextmanager
def capped(folder: Path, targets: tuple[str, ...] = ("a",), **options: Any) -> Iterator[Installation]:
    """Yield an installation whose keys may make 50 calls, each with a key."""
    with installation(folder, targets=targets, **options) as made:
        made.config["defaults"]["key"] = {"max_usage": LIMIT}
        made.run("rotate", "--all", status=0)
        yield made


def spend(made: Installation, calls: int) -> None:
    for key in made.simulator.vendor.keys.values():
        made.simulator.vendor.use(key.text, calls=calls)


def asked(made: Installation) -> list[str]:
    """Return the calls after those that made the keys."""
    return [operation for call in made.calls() if (operation := call.operation) != "create"]


def targets(made: Installation, status: int = 0) -> dict[str, Any]:
    return {target["name"]: target for target in made.json("status", status=status)["targets"]}


@pytest.mark.parametrize("shown", ["list", "retrieve"])
def test_a_spent_key_is_spent_without_a_daemon(tmp_path: Path, shown: str) -> None:
    with capped(tmp_path, use_shown=shown) as made:
        spend(made, 20)
        use = targets(made)["a"]["use"]
        assert (use["ratio"], use["cap"]) == (0.4, "max_usage")
        spend(made, LIMIT - 20)
        spent = targets(made, status=4)["a"]
        assert (spent["state"], spent["reason"], spent["use"]["ratio"]) == ("spent", "spent", 1.0)
        assert made.run("status", status=4).stdout.split("\t")[1] == "spent"
        assert made.run("plan", status=0).stdout.startswith("a: max_usage spent, seen at ")


def test_one_list_shows_the_use_of_all_keys(tmp_path: Path) -> None:
    names = tuple("abcdefgh")
    with capped(tmp_path, names, use_shown="list") as made:
        spend(made, 10)
        assert {target["use"]["ratio"] for target in targets(made).values()} == {0.2}
        assert asked(made) == ["list"]


def test_use_that_nothing_shows_is_unknown_and_costs_little(tmp_path: Path) -> None:
    names = tuple("abcdefgh")
    with capped(tmp_path, names, use_shown="none") as made:
        made.config["providers"]["respan"]["requests_per_minute"] = 60
        spend(made, LIMIT)
        lines = made.run("status", status=0).stdout.splitlines()
        assert {line.split("\t")[7] for line in lines} == {"unknown"}
        assert asked(made) == ["list", *["retrieve"] * 3]


def test_of_a_long_list_only_the_beginning_is_read(tmp_path: Path) -> None:
    with capped(tmp_path, tuple("abcdefgh"), use_shown="list", page_size=1) as made:
        made.config["providers"]["respan"]["requests_per_minute"] = 12
        spend(made, 10)
        shown = [target["use"] for target in targets(made).values()]
        assert sum(use is not None for use in shown) == 3
        assert asked(made) == ["list"] * 3


@pytest.mark.parametrize(
    "fault", [Fault("fail", "list", times=None), Fault("rate_limit", "list", times=None, retry_after=1)]
)
def test_a_provider_that_fails_makes_use_unknown_and_not_the_command_fail(tmp_path: Path, fault: Fault) -> None:
    with capped(tmp_path, use_shown="list") as made:
        spend(made, LIMIT)
        made.simulator.faults.add(fault)
        ended = made.run("status", status=0)
        assert ended.stdout.split("\t")[7] == "unknown"
        assert "rotator: the use of keys is unknown: " in ended.stderr


def test_without_caps_the_provider_is_not_asked(tmp_path: Path) -> None:
    with installation(tmp_path, use_shown="list") as made:
        made.run("rotate", "--all", status=0)
        assert targets(made)["a"]["use"] is None
        assert asked(made) == []


@pytest.mark.parametrize("shown", ["list", "none"])
def test_check_online_shows_whether_the_list_shows_use(tmp_path: Path, shown: str) -> None:
    with installation(tmp_path, use_shown=shown) as made:
        made.config["defaults"]["key"] = {"max_usage": LIMIT}
        assert made.json("check", "--online")["shows_use"] == {}, "it has no key"
        made.run("rotate", "--all", status=0)
        assert made.json("check", "--online")["shows_use"] == {"respan": shown == "list"}
        assert made.json("check")["shows_use"] == {}
        verb = "shows" if shown == "list" else "does not show"
        line = f"use: respan: its list {verb} what keys have used of their caps"
        assert line in made.run("check", "--online", status=0).stdout.splitlines()
        del made.config["defaults"]["key"]
        assert "use: " not in made.run("check", "--online", status=0).stdout


@pytest.mark.parametrize(
    ("command", "next_look"), [(("plan",), HOT_EVERY), (("status",), HOT_EVERY), (("run", "--once"), None)]
)
def test_plan_and_status_reckon_with_the_looks_of_a_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], next_look: timedelta | None
) -> None:
    """`run --once` cannot know when it runs next, and reckons with the interval of the list."""
    reckoned = []

    def observer(*arguments: Any, **options: Any) -> Observer:
        made = Observer(*arguments, **options)
        reckoned.append(made.hot_every)
        return made

    monkeypatch.setattr("rotator.app.wiring.Observer", observer)
    with capped(tmp_path) as made:
        reckoned.clear()
        made.config["sweep"] = {"interval": "10m"}
        made.run(*command, status=0)
        assert reckoned == [next_look or timedelta(minutes=10)]
