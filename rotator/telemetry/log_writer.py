"""Writes the lines of a log in a thread of its own, so that logging never waits for the log's reader.

A pipe without a reader takes 64 KiB and then blocks the writer. So lines wait here, up to a bound. Beyond it they are
dropped, those of the audit trail last. The next line that can be written reports how many are missing.
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
"""The most characters that may wait: more than ten thousand lines."""


class Stderr(TextIOBase):
    """Standard error at the time of each write: a progress bar replaces `sys.stderr`, to stay below the lines."""

    def write(self, text: str) -> int:
        """Write the text, if standard error is open.

        Bypasses Python's buffer: if a thread that waits for a reader held its lock, the interpreter's end would abort.
        """
        stream, original = sys.stderr, sys.__stderr__
        if stream is None:
            return len(text)
        if original is None or stream is not original:
            return stream.write(text)
        _write(original.fileno(), text.encode(original.encoding, "backslashreplace"))
        return len(text)

    def isatty(self) -> bool:
        """Return whether standard error is a terminal."""
        return sys.stderr is not None and sys.stderr.isatty()


def _write(descriptor: int, data: bytes) -> None:
    """Write all data, however long it takes. The descriptor may be non-blocking."""
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:
            select.select((), (descriptor,), ())


@dataclass(frozen=True, slots=True)
class Dropped:
    """How many lines are missing in a log: of the audit trail, and others."""

    audit: int = 0
    other: int = 0

    def __add__(self, more: "Dropped") -> "Dropped":
        return Dropped(self.audit + more.audit, self.other + more.other)

    def __sub__(self, less: "Dropped") -> "Dropped":
        return Dropped(self.audit - less.audit, self.other - less.other)


class LineWriter:
    """Writes lines in the order of `put`. Thread-safe.

    `write` may block. If it raises an OSError or a ValueError, its line is dropped. `report` makes the line that
    reports dropped lines, and `dropped` is called with each.
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
        self._waiting: Mapping[bool, deque[tuple[int, str]]] = {True: deque(), False: deque()}  # by: audit or not
        self._number = 0  # of the next line, for the order
        self._size = 0
        self._missing = Dropped()  # since the last report
        self._is_writing = self._is_closed = False
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def put(self, line: str, *, audit: bool) -> None:
        """Queue the line, or drop it if too many wait. Does not block."""
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
        """Wait this long until all lines are written. Return whether they are."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._is_writing and not any(self._waiting.values()), seconds)

    def close(self) -> None:
        """End the thread when the queued lines are written."""
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
            except (OSError, ValueError):  # a closed pipe or a full disk: there is no other place to report it
                with self._changed:
                    self._miss(Dropped(audit=1) if audit else Dropped(other=1))

    def _next(self) -> tuple[str, bool] | None:
        """Wait for the next line. Return it and whether it is of the audit trail, or None after the last line."""
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
