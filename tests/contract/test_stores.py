"""Every sentence of `ports.Store`, tried on every store; with what people do to one by hand."""

import itertools
import json
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest
from support.vault import VaultServer

from rotator.core.errors import CasMismatch
from rotator.core.ports import Store
from rotator.core.secrets import Secret
from rotator.core.versions import History
from rotator.runtime.clock import SystemClock
from rotator.stores.sqlite import SqliteStore
from rotator.stores.vault.auth import TokenLogin
from rotator.stores.vault.store import VaultStore
from rotator.stores.vault.transport import FormerLocation, VaultSettings

CLOCK = SystemClock()


class Hands(Protocol):
    """What a person does to a path, past rotator."""

    def delete(self, path: str, number: int) -> None:
        """Soft: it can be undone."""

    def undelete(self, path: str, number: int) -> None: ...

    def forget(self, path: str) -> None:
        """Remove the path with all its versions."""


@dataclass
class SqliteHands:
    file: Path
    deleted: dict[tuple[str, int], str] = field(default_factory=dict)

    def _execute(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.file)) as database, database:
            return database.execute(statement, values).fetchall()

    def delete(self, path: str, number: int) -> None:
        [(data,)] = self._execute("SELECT data FROM versions WHERE path = ? AND number = ?", path, number)
        self.deleted[path, number] = data
        self._execute("UPDATE versions SET data = NULL WHERE path = ? AND number = ?", path, number)

    def undelete(self, path: str, number: int) -> None:
        data = self.deleted.pop((path, number))
        self._execute("UPDATE versions SET data = ? WHERE path = ? AND number = ?", data, path, number)

    def forget(self, path: str) -> None:
        self._execute("DELETE FROM versions WHERE path = ?", path)


@dataclass
class VaultHands:
    vault: VaultServer
    mount: str

    def delete(self, path: str, number: int) -> None:
        self.vault.request("POST", f"{self.mount}/delete/{path}", {"versions": [number]}).raise_for_status()

    def undelete(self, path: str, number: int) -> None:
        self.vault.request("POST", f"{self.mount}/undelete/{path}", {"versions": [number]}).raise_for_status()

    def forget(self, path: str) -> None:
        self.vault.request("DELETE", f"{self.mount}/metadata/{path}").raise_for_status()


@dataclass
class Place:
    """Where a store keeps its things; `open` gives a new store object for it.

    `moved` gives one for what is there after a move to another place, which knows that place as a former one.
    """

    open: Callable[[], Store]
    hands: Hands
    moved: Callable[[], Store]


@pytest.fixture(params=["sqlite", "vault"])
def new_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Place]]:
    """Makes places that share nothing."""
    numbers = itertools.count()
    with ExitStack() as stack:

        def sqlite() -> Place:
            file = tmp_path / f"{next(numbers)}.db"

            def moved() -> SqliteStore:
                return SqliteStore(file.rename(tmp_path / f"{next(numbers)}.db"), CLOCK)

            return Place(lambda: SqliteStore(file, CLOCK), SqliteHands(file), moved)

        def vault() -> Place:
            server: VaultServer = request.getfixturevalue("vault")
            mount = server.new_mount()

            def opened(mount: str = mount, *former: FormerLocation) -> VaultStore:
                login = TokenLogin(Secret(server.root_token))
                settings = VaultSettings(server.address, mount, login, former_locations=former)
                store = VaultStore(settings, CLOCK, lambda *_: None)
                stack.callback(store.close)
                return store

            return Place(
                opened, VaultHands(server, mount), lambda: opened(server.new_mount(), FormerLocation(mount=mount))
            )

        yield {"sqlite": sqlite, "vault": vault}[request.param]


@pytest.fixture
def place(new_place: Callable[[], Place]) -> Place:
    return new_place()


@pytest.fixture
def store(place: Place) -> Store:
    return place.open()


def data_of(history: History) -> list[Mapping[str, Any] | None]:
    return [version.data for version in history.versions]


# --- reading ---------------------------------------------------------------------------------------------------------


def test_an_absent_path_is_empty_at_version_0(store: Store) -> None:
    history = store.history("app")

    assert (history.current_version, history.versions, history.current) == (0, (), None)


def test_all_versions_are_known_oldest_first(store: Store) -> None:
    written = [store.write("app", {"n": str(number)}, cas=number) for number in range(3)]

    history = store.history("app")

    assert history.versions == tuple(written)
    assert [version.number for version in written] == [1, 2, 3]
    assert history.current == written[-1]
    assert history.current_version == 3


def assert_newest_is_the_last_of_the_history(store: Store) -> None:
    whole, newest = store.history("app"), store.newest("app")
    assert newest.current_version == whole.current_version
    assert newest.current == whole.current
    assert newest.versions == whole.versions[-1:]


def test_the_newest_version_alone_is_the_same_as_in_the_history(place: Place) -> None:
    store = place.open()
    assert_newest_is_the_last_of_the_history(store)
    for cas in range(3):
        store.write("app", {"n": str(cas)}, cas)
        assert_newest_is_the_last_of_the_history(store)
    place.hands.delete("app", 3)
    assert_newest_is_the_last_of_the_history(store)
    place.hands.undelete("app", 3)
    store.destroy("app", [1, 3])
    assert_newest_is_the_last_of_the_history(store)
    place.hands.forget("app")
    assert_newest_is_the_last_of_the_history(store)


def test_the_observation_is_not_younger_than_its_time(store: Store) -> None:
    before = CLOCK.monotonic()
    for _ in range(2):
        observed_at = store.history("app").observed_at
        assert before <= observed_at <= CLOCK.monotonic()
        before = CLOCK.monotonic()
        store.write("app", {"n": "1"}, cas=store.history("app").current_version)


def test_times_are_of_the_writes_and_in_utc(store: Store) -> None:
    before = CLOCK.now()
    version = store.write("app", {"n": "1"}, cas=0)

    assert before <= version.created_at <= CLOCK.now()
    assert str(version.created_at.tzinfo) == "UTC"


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"api_key": "text", "": "nameless", "ü \n\0": "\N{SNOWMAN}\U0001f600"},
        {"number": 12, "price": 1.1, "big": 123456789012345, "truth": True, "none": None},
        {"nested": {"list": [1, "two", None, {"three": []}], "empty": {}}},
    ],
)
def test_data_comes_back_as_it_was(store: Store, data: dict[str, Any]) -> None:
    version = store.write("app", data, cas=0)

    [read] = data_of(store.history("app"))

    assert version.data == data == read
    assert json.dumps(read, sort_keys=True) == json.dumps(data, sort_keys=True)


def test_paths_do_not_meet(store: Store) -> None:
    paths = [
        "app",
        "app/sub",
        "app/sub/sub",
        "App",
        "app sub",
        "app%20sub",
        "app+sub",
        "app#sub",
        "app?version=1",
        "äpp",
    ]
    for path in paths:
        store.write(path, {"path": path}, cas=0)

    assert [data_of(store.history(path)) for path in paths] == [[{"path": path}] for path in paths]


# --- writing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cas", [0, 1, 3, 2147483647])
def test_a_write_after_another_version_is_refused_and_changes_nothing(store: Store, cas: int) -> None:
    for number in range(2):
        store.write("app", {"n": str(number)}, cas=number)
    before = store.history("app").versions

    with pytest.raises(CasMismatch, match="another writer was first"):
        store.write("app", {"n": "late"}, cas=cas)

    assert store.history("app").versions == before


def test_a_first_write_needs_an_absent_path(store: Store) -> None:
    with pytest.raises(CasMismatch):
        store.write("app", {"n": "1"}, cas=1)

    assert store.write("app", {"n": "1"}, cas=0).number == 1


def test_of_many_that_write_after_one_version_one_wins(place: Place) -> None:
    writers, rounds = 8, 5
    stores = [place.open(), place.open()]
    together = threading.Barrier(writers)

    def write(writer: int) -> list[int]:
        won = []
        for cas in range(rounds):
            together.wait(30)
            try:
                stores[writer % 2].write("app", {"writer": str(writer)}, cas)
                won.append(cas)
            except CasMismatch:
                pass
            together.wait(30)
        return won

    with ThreadPoolExecutor(writers) as pool:
        won = list(pool.map(write, range(writers)))

    assert sorted(cas for mine in won for cas in mine) == list(range(rounds))
    winners = [{"writer": str(writer)} for cas in range(rounds) for writer, mine in enumerate(won) if cas in mine]
    assert data_of(stores[0].history("app")) == winners


def test_many_read_and_write_many_paths_at_once(store: Store) -> None:
    def rotate(number: int) -> int:
        path = f"app-{number}"
        for cas in range(3):
            assert store.history(path).current_version == cas
            store.preflight(path, {"n": "?"})
            store.write(path, {"n": str(cas)}, cas)
        store.destroy(path, [1])
        return len([version for version in store.history(path).versions if version.data is not None])

    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(rotate, range(24))) == [2] * 24


# --- proving ---------------------------------------------------------------------------------------------------------


def test_proving_changes_nothing(store: Store) -> None:
    store.preflight("app", {"n": "placeholder"})
    assert store.history("app").versions == ()

    written = store.write("app", {"n": "1"}, cas=0)
    store.preflight("app", {"n": "placeholder"})
    assert store.history("app").versions == (written,)


# --- destroying ------------------------------------------------------------------------------------------------------


def test_what_is_destroyed_is_unreadable_and_still_known(store: Store) -> None:
    written = [store.write("app", {"n": str(number)}, cas=number) for number in range(3)]

    store.destroy("app", [1, 2])

    history = store.history("app")
    assert data_of(history) == [None, None, {"n": "2"}]
    assert [version.destroyed for version in history.versions] == [True, True, False]
    assert [version.created_at for version in history.versions] == [version.created_at for version in written]


@pytest.mark.parametrize("versions", [[], [1], [1, 1], [7], [2, 99]])
def test_to_destroy_what_is_gone_is_no_error(store: Store, versions: list[int]) -> None:
    store.destroy("app", versions)
    for number in range(3):
        store.write("app", {"n": str(number)}, cas=number)
    store.destroy("app", [1, 2])

    store.destroy("app", versions)

    assert data_of(store.history("app")) == [None, None, {"n": "2"}]


def test_a_destroyed_current_version_is_still_the_current_one(store: Store) -> None:
    for number in range(2):
        store.write("app", {"n": str(number)}, cas=number)
    store.destroy("app", [2])

    history = store.history("app")

    assert history.current_version == 2
    assert history.current is not None
    assert (history.current.data, history.current.destroyed) == (None, True)
    assert data_of(history) == [{"n": "0"}, None]
    with pytest.raises(CasMismatch):
        store.write("app", {"n": "late"}, cas=1)
    assert store.write("app", {"n": "2"}, cas=2).number == 3


# --- by hand ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2])
def test_a_version_deleted_by_hand_is_unreadable_until_it_is_undeleted(place: Place, number: int) -> None:
    store = place.open()
    for cas in range(2):
        store.write("app", {"n": str(cas)}, cas)
    before = store.history("app").versions

    place.hands.delete("app", number)

    history = store.history("app")
    deleted = history.versions[number - 1]
    assert (deleted.data, deleted.destroyed) == (None, False)
    assert deleted.created_at == before[number - 1].created_at
    assert history.current_version == 2
    place.hands.undelete("app", number)
    assert store.history("app").versions == before


def test_a_path_removed_by_hand_is_absent_and_starts_again(place: Place) -> None:
    store = place.open()
    for cas in range(2):
        store.write("app", {"n": str(cas)}, cas)

    place.hands.forget("app")

    history = store.history("app")
    assert (history.current_version, history.versions) == (0, ())
    with pytest.raises(CasMismatch):
        store.write("app", {"n": "late"}, cas=2)
    assert store.write("app", {"n": "anew"}, cas=0).number == 1


# --- location --------------------------------------------------------------------------------------------------------


def test_a_location_belongs_to_one_path_in_one_store(new_place: Callable[[], Place]) -> None:
    one, other = new_place(), new_place()
    store = one.open()
    paths = ["app", "app/sub", "app%2Fsub", "ap", "p/app"]
    before = [store.location(path) for path in paths]
    store.write("app", {"n": "1"}, cas=0)
    one.hands.forget("app")

    assert [one.open().location(path) for path in paths] == before
    elsewhere = [other.open().location(path) for path in paths]
    assert len({*before, *elsewhere}) == 2 * len(paths)


def test_a_path_of_a_store_that_moved_is_known_by_its_former_location(new_place: Callable[[], Place]) -> None:
    place, other = new_place(), new_place()
    paths = ["app", "app/sub", "app%2Fsub"]
    before = [place.open().location(path) for path in paths]
    assert not any(place.open().former_locations(path) for path in paths)
    moved = place.moved()

    known = [{moved.location(path), *moved.former_locations(path)} for path in paths]

    assert all(location in of_path for location, of_path in zip(before, known, strict=True))
    assert len(set.union(*known)) == sum(map(len, known)), "no two paths share one"
    assert other.open().location("app") not in set.union(*known)
