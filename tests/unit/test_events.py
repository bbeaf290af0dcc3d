"""`events`: what the command shows of the past, and what it states that it cannot show."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.installation import Installation, installation
from support.process import wait_until

from rotator.core.errors import StoreUnavailable
from rotator.core.versions import History
from rotator.runtime.clock import SystemClock
from rotator.simulator import Fault
from rotator.stores.sqlite import SqliteStore


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Installation]:
    with installation(tmp_path, targets=("a", "b")) as made:
        made.config["defaults"]["grace_period"] = "10m"
        made.config["sweep"] = {"min_age": "1s"}
        made.run("run", "--once", status=0)
        yield made


def rows(made: Installation, *arguments: str) -> list[list[str]]:
    """The printed cells, without the times."""
    printed = made.run("events", *arguments, status=0).stdout.splitlines()
    return [line.split("\t")[1:] for line in printed]


def served(made: Installation, target: str) -> str:
    [shown] = [one for one in made.json("status", status=None)["targets"] if one["name"] == target]
    return str(shown["key_id"])


def test_rotation_and_rollback_are_shown_and_nothing_is_changed(made: Installation) -> None:
    first = served(made, "a")
    made.run("rotate", "a", status=0)
    second = served(made, "a")
    made.run("rollback", "a", status=0)
    before = made.calls("create", "update", "delete")
    assert rows(made, "a") == [
        ["a", "published", "1", first, "first"],
        ["a", "superseded", "1", first, "requested"],
        ["a", "published", "2", second, "requested"],
        ["a", "superseded", "2", second, "rolled-back"],
        ["a", "rolled-back", "3", first, "-"],
    ]
    assert made.calls("create", "update", "delete") == before


def test_every_target_is_shown_unless_some_are_named(made: Installation) -> None:
    assert sorted(row[0] for row in rows(made)) == ["a", "b"]
    assert [row[0] for row in rows(made, "b", "--since", "1h")] == ["b"]
    assert "there is no target 'c'" in made.run("events", "c", status=2).stderr


def test_the_events_in_json(made: Installation) -> None:
    shown = made.json("events", "a")
    [event] = shown.pop("events")
    assert (shown["owner"], shown["missing"], set(shown)) == ("prod-eu", [], {"owner", "at", "since", "missing"})
    assert event.pop("at").endswith("Z")
    about = {"target": "a", "event": "published", "version": 1, "key_id": served(made, "a"), "reason": "first"}
    assert event == {"exact": True, **about}


@pytest.mark.parametrize("since", ["", "24", "1y", "-1h", "4000d"])
def test_a_duration_that_is_none_is_refused(made: Installation, since: str) -> None:
    assert "--since" in made.run("events", "--since", since, status=2).stderr


def test_a_provider_that_fails_is_named_and_the_versions_are_shown(made: Installation) -> None:
    made.simulator.faults.add(Fault("refuse", "list", status=503, times=None))
    ended = made.run("events", status=0)
    assert [line.split("\t")[2] for line in ended.stdout.splitlines()] == ["published", "published"]
    assert "provider respan: removed and orphaned keys are not shown: " in ended.stderr
    [missing] = made.json("events")["missing"]
    assert missing["where"] == "provider respan"


@pytest.mark.parametrize(("unreadable", "status"), [("ab", 3), ("a", 1)])
def test_paths_that_cannot_be_read_are_named(
    made: Installation, monkeypatch: pytest.MonkeyPatch, unreadable: str, status: int
) -> None:
    history = SqliteStore.history

    def read(store: SqliteStore, path: str) -> History:
        if path[-1] in unreadable:
            raise StoreUnavailable("the disk is gone")
        return history(store, path)

    monkeypatch.setattr(SqliteStore, "history", read)
    ended = made.run("events", status=status)
    assert "a: not read: the disk is gone" in ended.stderr
    assert [line.split("\t")[1] for line in ended.stdout.splitlines()] == sorted({"a", "b"} - {*unreadable})


def test_a_key_that_a_person_removed_at_the_provider_is_shown(made: Installation) -> None:
    gone = served(made, "a")
    made.simulator.vendor.delete(gone)
    wait_until(lambda: len(rows(made, "a")) == 2, "the key to be old enough", 10)
    ended = made.run("events", "a", status=0).stdout.splitlines()
    assert [line.split("\t")[1:] for line in ended] == [
        ["a", "published", "1", gone, "first"],
        ["a", "removed", "1", gone, "-"],
    ]
    assert ended[1].startswith(">= 20")


def test_what_another_writer_wrote_is_shown_without_its_text(made: Installation) -> None:
    store = SqliteStore(made.folder / "store.db", SystemClock())
    store.write("apps/a", {"api_key": "theirs-and-secret"}, store.newest("apps/a").current_version)
    ended = made.run("events", "a", status=0)
    assert ended.stdout.splitlines()[-1].split("\t")[1:] == ["a", "foreign-write", "2", "-", "no-record"]
    assert "theirs" not in ended.stdout + ended.stderr


def test_a_terminal_gets_a_table(made: Installation) -> None:
    shown = made.at_a_terminal("events", "a")
    assert "event" in shown
    assert "published" in shown
    assert "\t" not in shown
