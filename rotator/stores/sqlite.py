"""A file as a `Store`, for the demo and for tests. It does what KV version 2 does.

Each method opens the file, runs one transaction, and closes it, so many threads and processes may use it. There is no
write-ahead log, which would keep destroyed data.
"""

import json
import os
import sqlite3
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from rotator.core.errors import (
    CasMismatch,
    StoreError,
    StoreMountUnusable,
    StoreOutcomeUnknown,
    StorePermissionDenied,
    StoreRequestRefused,
    StoreUnavailable,
)
from rotator.core.ports import Clock
from rotator.core.versions import History, Version
from rotator.runtime.redact import quoted

BUSY_TIMEOUT = 5.0  # seconds that one transaction waits for the others

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS store (id TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS versions (path TEXT NOT NULL, number INTEGER NOT NULL, created_at TEXT NOT NULL,"
    " data TEXT, destroyed INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (path, number))",
)
_NOT_ALLOWED = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH}


class SqliteStore:
    """Keeps versions in `file`, which is created where it is missing, and which only its owner may read.

    The file holds the id that makes its paths differ from every other store's: a copy of the file is the same store.
    The constructor raises what the methods raise.
    """

    def __init__(self, file: Path, clock: Clock) -> None:
        self._file = file.absolute()
        self._clock = clock
        try:
            # SQLite gives a journal the mode of its database; so others can never read one.
            os.close(os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except IsADirectoryError:
            raise StoreMountUnusable(f"{file} is a folder, not a database", "Name a file in it.") from None
        except OSError as error:
            raise StorePermissionDenied(
                f"the database {file} cannot be opened: {error.strerror}",
                "Its folder must exist, and both must be readable and writable for the user that rotator runs as.",
            ) from None
        with self._transaction(StoreUnavailable) as database:
            for statement in _SCHEMA:
                database.execute(statement)
            database.execute("INSERT INTO store SELECT ? WHERE NOT EXISTS (SELECT * FROM store)", (uuid.uuid4().hex,))
            [(self._id,)] = database.execute("SELECT id FROM store")
        try:
            self._file.chmod(0o600)  # only now: a file of another kind is left as it is
        except OSError as error:
            raise StorePermissionDenied(
                f"the permissions of the database {file} cannot be restricted: {error.strerror}",
                "It must belong to the user that rotator runs as.",
            ) from None

    def location(self, path: str) -> str:
        """Return the file's own id and the path."""
        return f"sqlite/{self._id}/{path}"

    def former_locations(self, path: str) -> Sequence[str]:  # noqa: ARG002 - the file's own id moves with it
        """Return no location: a moved file keeps its id."""
        return ()

    def history(self, path: str) -> History:
        """Return all versions of the path; none is ever pushed out."""
        return self._read(path, "")

    def newest(self, path: str) -> History:
        """Return the newest version alone."""
        return self._read(path, "AND number = (SELECT max(number) FROM versions WHERE path = :path)")

    def _read(self, path: str, only: str) -> History:
        observed_at = self._clock.monotonic()
        with self._transaction(StoreUnavailable) as database:
            rows = database.execute(
                f"SELECT number, created_at, data, destroyed FROM versions WHERE path = :path {only} ORDER BY number",  # noqa: S608 - `only` is ours
                {"path": path},
            ).fetchall()
        versions = tuple(
            Version(
                number, datetime.fromisoformat(created_at), None if data is None else json.loads(data), destroyed == 1
            )
            for number, created_at, data, destroyed in rows
        )
        return History(versions[-1].number if versions else 0, versions, observed_at)

    def preflight(self, path: str, data: Mapping[str, Any]) -> None:
        """Write the data, and roll back before any reader can see it."""
        with self._transaction(StoreUnavailable) as database:
            self._append(database, path, data, self._current(database, path))
            database.rollback()

    def write(self, path: str, data: Mapping[str, Any], cas: int) -> Version:
        """Append a version."""
        with self._transaction(StoreOutcomeUnknown) as database:
            current = self._current(database, path)
            if current != cas:
                raise CasMismatch(f"{path} is at version {current}, not {cas}: another writer was first")
            return self._append(database, path, data, current)

    def destroy(self, path: str, versions: Sequence[int]) -> None:
        """Overwrite the data of these versions."""
        with self._transaction(StoreOutcomeUnknown) as database:
            database.executemany(
                "UPDATE versions SET data = NULL, destroyed = 1 WHERE path = ? AND number = ?",
                [(path, number) for number in versions],
            )

    def _current(self, database: sqlite3.Connection, path: str) -> int:
        [(number,)] = database.execute("SELECT coalesce(max(number), 0) FROM versions WHERE path = ?", (path,))
        return int(number)

    def _append(self, database: sqlite3.Connection, path: str, data: Mapping[str, Any], current: int) -> Version:
        version = Version(current + 1, self._clock.now(), dict(data))
        database.execute(
            "INSERT INTO versions (path, number, created_at, data) VALUES (?, ?, ?, ?)",
            (path, version.number, version.created_at.isoformat(), json.dumps(version.data)),
        )
        return version

    @contextmanager
    def _transaction(self, unsettled: type[StoreError]) -> Iterator[sqlite3.Connection]:
        """Run one transaction alone. SQLite's errors become ours, `unsettled` where the outcome is unclear."""
        try:
            # mode=rw: a file that was removed is not created again, with another id.
            with closing(
                sqlite3.connect(f"{self._file.as_uri()}?mode=rw", uri=True, timeout=BUSY_TIMEOUT, isolation_level=None)
            ) as database:
                database.execute("PRAGMA secure_delete = ON")
                database.execute("BEGIN IMMEDIATE")
                yield database
                if database.in_transaction:
                    database.commit()
        except sqlite3.Error as error:
            raise self._meaning(error, unsettled) from None

    def _meaning(self, error: sqlite3.Error, unsettled: type[StoreError]) -> StoreError:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # without SQLite's finer distinctions
        what = f"the database {self._file}"
        if code == sqlite3.SQLITE_NOTADB:
            return StoreMountUnusable(f"{what} is a file of another kind", "Name another file, or move this one.")
        if code in _NOT_ALLOWED:
            return StorePermissionDenied(
                f"{what} may not be written ({quoted(str(error))})",
                "It and its folder must be writable for the user that rotator runs as.",
            )
        if code == sqlite3.SQLITE_FULL:
            return StoreRequestRefused(f"{what} cannot grow: the disk is full; nothing was changed", "Free some space.")
        advice = "If this continues, check the file and its disk."
        return unsettled(f"{what} cannot be used ({quoted(str(error))})", advice)
