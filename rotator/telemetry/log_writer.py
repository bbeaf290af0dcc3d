"""Writes lines to where a log goes, in a thread of its own: what logs never waits for what reads.

A pipe that is not read takes 64 KiB and then blocks the writer. So lines wait here, up to a bound; beyond it they
are dropped, those of the audit trail last; once lines can be written again, one reports how many are missing.
"""

import os
import select
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import TextIOBase

MOST = 4 * 2**20
"""Characters that wait to be written: ten thousand lines and more."""


class Stderr(TextIOBase):
    """Standard error as it is when something is written: a progress bar puts itself in its place, to stay below."""

    def write(self, text: str) -> int:
        """Write it, if there is anywhere to write to.

        Past Python's own buffer: its lock, held by a thread that waits for a reader, would abort the interpreter's end.
        """
        stream, original = sys.stderr, sys.__stderr__
        if stream is None:
            return len(text)
        if original is None or stream is not original:
            return stream.write(text)
        _write(original.fileno(), text.encode(original.encoding, "backslashreplace"))
        return len(text)

    def isatty(self) -> bool:
        """Whether a person reads it."""
        return sys.stderr is not None and sys.stderr.isatty()


def _write(descriptor: int, data: bytes) -> None:
    """Write all of it, however long that takes, also to a descriptor that is non-blocking."""
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:
            select.select((), (descriptor,), ())


@dataclass(frozen=True, slots=True)
class Dropped:
    """How many lines are missing in a log, of the audit trail and of all else."""

    audit: int = 0
    other: int = 0

    def __add__(self, more: "Dropped") -> "Dropped":
        return Dropped(self.audit + more.audit, self.other + more.other)

    def __sub__(self, less: "Dropped") -> "Dropped":
        return Dropped(self.audit - less.audit, self.other - less.other)


class LineWriter:
    """Writes what is put to it, in that order. Safe to be used by many threads.

    `write` may block and may raise an OSError or a ValueError: then its line is dropped. `report` makes the line that
    reports what was dropped. What is dropped is handed to `dropped` as well.
    """

    def __init__(
        self,
        write: Callable[[str], object],
        report: Callable[[Dropped], str],
        dropped: Callable[[Dropped], object],
        most: int = MOST,
    ) -> None:
        self._write, self._report, self._count, self._most = write, report, dropped, most
        self._changed = threading.Condition()
        self._waiting: Mapping[bool, deque[tuple[int, str]]] = {True: deque(), False: deque()}  # by: is it audit
        self._number = 0  # of the next line: in their order they are written
        self._size = 0
        self._missing = Dropped()  # since the last report
        self._is_writing = self._is_closed = False
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def put(self, line: str, *, audit: bool) -> None:
        """Have it written, or drop it; at once in any case."""
        with self._changed:
            others = self._waiting[False]
            while audit and others and self._size + len(line) > self._most:
                self._take(others)
                self._miss(Dropped(other=1))
            if self._size + len(line) > self._most:
                self._miss(Dropped(audit=1) if audit else Dropped(other=1))
                return
            self._waiting[audit].append((self._number, line))
            self._number += 1
            self._size += len(line)
            self._changed.notify_all()

    def flush(self, seconds: float) -> bool:
        """Wait until all is written, but no longer than this. Returns whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._is_writing and not any(self._waiting.values()), seconds)

    def close(self) -> None:
        """End the thread once what waits is written."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _run(self) -> None:
        while (taken := self._next()) is not None:
            line, audit = taken
            try:
                self._write(line)
                while (missing := self._missing) != Dropped():
                    self._write(self._report(missing))
                    with self._changed:
                        self._missing -= missing
            except (OSError, ValueError):  # a closed pipe, a full disk: to complain there is no other place
                with self._changed:
                    self._miss(Dropped(audit=1) if audit else Dropped(other=1))

    def _next(self) -> tuple[str, bool] | None:
        """The next line, once there is one, and whether it is of the audit trail; None when there will be none."""
        with self._changed:
            self._is_writing = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._is_closed or any(self._waiting.values()))
            waiting = [audit for audit, lines in self._waiting.items() if lines]
            if not waiting:
                return None
            self._is_writing = True
            audit = min(waiting, key=lambda audit: self._waiting[audit][0])
            return self._take(self._waiting[audit]), audit

    def _take(self, lines: deque[tuple[int, str]]) -> str:
        _, line = lines.popleft()
        self._size -= len(line)
        return line

    def _miss(self, missing: Dropped) -> None:
        self._missing += missing
        self._count(missing)
