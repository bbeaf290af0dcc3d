"""The SQLite store's own behaviour. Its contract as a store is tested in tests/contract."""

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from rotator.core.errors import (
    StoreError,
    StoreMountUnusable,
    StoreOutcomeUnknown,
    StorePermissionDenied,
    StoreRequestRefused,
    StoreUnavailable,
)
from rotator.runtime.clock import SystemClock
from rotator.stores import sqlite
from rotator.stores.sqlite import SqliteStore

CLOCK = SystemClock()


@pytest.fixture
def loose_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("loose_umask")
def test_no_other_user_can_read_the_file_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[tuple[str, int]] = set()

    def look() -> None:
        seen.update((file.name, stat.S_IMODE(file.stat().st_mode)) for file in tmp_path.iterdir())

    connect = sqlite3.connect

    def connect_and_look(*arguments: object, **more: object) -> sqlite3.Connection:
        look()
        database: sqlite3.Connection = connect(*arguments, **more)  # type: ignore[call-overload]
        database.set_trace_callback(lambda _: look())  # before each statement; at the commit the journal is there
        return database

    monkeypatch.setattr(sqlite3, "connect", connect_and_look)
    store = SqliteStore(tmp_path / "keys.db", CLOCK)
    store.write("app", {"n": "1"}, cas=0)
    store.write("app", {"n": "2"}, cas=1)
    store.destroy("app", [1])

    assert seen == {("keys.db", 0o600), ("keys.db-journal", 0o600)}


@pytest.mark.parametrize("was_database", [False, True])
def test_a_file_that_others_could_read_is_closed_to_them_before_a_key_is_in_it(
    tmp_path: Path, was_database: bool
) -> None:
    file = tmp_path / "keys.db"
    if was_database:
        SqliteStore(file, CLOCK)
    file.touch()
    file.chmod(0o644)

    SqliteStore(file, CLOCK)

    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_file_that_cannot_be_closed_to_others_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", refuse)
    with pytest.raises(StorePermissionDenied, match="cannot be restricted: Operation not permitted"):
        SqliteStore(tmp_path / "keys.db", CLOCK)


def test_a_destroyed_key_is_left_in_no_file(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "keys.db", CLOCK)
    store.write("app", {"api_key": "first-key"}, cas=0)
    store.write("app", {"api_key": "second-key"}, cas=1)

    store.destroy("app", [1])

    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"second-key" in kept
    assert b"first-key" not in kept


def test_two_processes_write_without_losing_anything(tmp_path: Path) -> None:
    file = tmp_path / "keys.db"
    program = """
import sys
from pathlib import Path
from rotator.runtime.clock import SystemClock
from rotator.core.errors import CasMismatch
from rotator.stores.sqlite import SqliteStore

store = SqliteStore(Path(sys.argv[1]), SystemClock())
done = 0
while done < 20:
    try:
        store.write("app", {"by": sys.argv[2], "n": str(done)}, store.history("app").current_version)
        done += 1
    except CasMismatch:
        pass
"""
    writers = [subprocess.Popen([sys.executable, "-c", program, str(file), name]) for name in "ab"]
    assert [writer.wait(60) for writer in writers] == [0, 0]

    history = SqliteStore(file, CLOCK).history("app")

    assert history.current_version == 40
    for name in "ab":
        mine = [version.data["n"] for version in history.versions if version.data and version.data["by"] == name]
        assert mine == [str(number) for number in range(20)]


def a_folder(file: Path) -> None:
    file.mkdir()


def other_text(file: Path) -> None:
    file.write_text("not a database\n" * 100)


def nothing_above(file: Path) -> None:
    file.parent.rmdir()


@pytest.mark.parametrize(
    ("prepare", "error", "words"),
    [
        (a_folder, StoreMountUnusable, "is a folder"),
        (other_text, StoreMountUnusable, "a file of another kind"),
        (nothing_above, StorePermissionDenied, "No such file or directory"),
    ],
)
def test_a_file_that_is_no_database_is_refused_and_left_alone(
    tmp_path: Path, prepare: Callable[[Path], None], error: type[StoreError], words: str
) -> None:
    file = tmp_path / "folder" / "keys.db"
    file.parent.mkdir()
    prepare(file)
    before = file.read_bytes() if file.is_file() else None
    mode = file.stat().st_mode if file.exists() else None

    with pytest.raises(error, match=words) as raised:
        SqliteStore(file, CLOCK)

    assert str(file) in raised.value.message
    assert raised.value.advice
    assert (file.read_bytes() if file.is_file() else None) == before
    assert (file.stat().st_mode if file.exists() else None) == mode


@pytest.fixture
def store(tmp_path: Path) -> SqliteStore:
    store = SqliteStore(tmp_path / "keys.db", CLOCK)
    store.write("app", {"n": "1"}, cas=0)
    return store


def all_methods(store: SqliteStore) -> list[Callable[[], object]]:
    return [
        lambda: store.history("app"),
        lambda: store.preflight("app", {"n": "2"}),
        lambda: store.write("app", {"n": "2"}, cas=1),
        lambda: store.destroy("app", [1]),
    ]


def test_a_file_that_was_removed_is_not_made_anew(tmp_path: Path, store: SqliteStore) -> None:
    (tmp_path / "keys.db").unlink()

    for method, error in zip(
        all_methods(store),
        [StoreUnavailable, StoreUnavailable, StoreOutcomeUnknown, StoreOutcomeUnknown],
        strict=True,
    ):
        with pytest.raises(error, match="unable to open"):
            method()

    assert list(tmp_path.iterdir()) == []


def test_the_wait_for_a_locked_file_is_bounded(
    tmp_path: Path, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT", 0.05)
    with closing(sqlite3.connect(tmp_path / "keys.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for method, error in zip(
            all_methods(store),
            [StoreUnavailable, StoreUnavailable, StoreOutcomeUnknown, StoreOutcomeUnknown],
            strict=True,
        ):
            with pytest.raises(error, match="locked"):
                method()

    assert store.history("app").current_version == 1


def limited(monkeypatch: pytest.MonkeyPatch, pragma: str) -> None:
    """Every connection from now on has this set."""
    connect = sqlite3.connect

    def connect_and_limit(*arguments: object, **more: object) -> sqlite3.Connection:
        database: sqlite3.Connection = connect(*arguments, **more)  # type: ignore[call-overload]
        database.execute(pragma)
        return database

    monkeypatch.setattr(sqlite3, "connect", connect_and_limit)


def test_on_a_full_disk_nothing_is_written(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        limited(patched, "PRAGMA max_page_count = 1")  # SQLite's word for it is that of a full disk
        large = {"n": "x" * 100_000}
        with pytest.raises(StoreRequestRefused, match="the disk is full"):
            store.write("app", large, cas=1)
        with pytest.raises(StoreRequestRefused, match="the disk is full"):
            store.preflight("app", large)

    assert store.history("app").current_version == 1


def test_a_file_that_may_only_be_read_is_named_as_that(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        limited(patched, "PRAGMA query_only = ON")  # root, as whom tests may run, is kept out by no file mode
        for method in all_methods(store)[1:]:
            with pytest.raises(StorePermissionDenied, match="may not be written"):
                method()

    assert store.history("app").current_version == 1
