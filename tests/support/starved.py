"""A machine that has no thread left."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def no_new_threads(monkeypatch: pytest.MonkeyPatch, left: int = 0) -> Iterator[None]:
    """As with a limit on processes: only `left` more threads can start here."""
    start = threading.Thread.start
    started: list[threading.Thread] = []

    def limited(thread: threading.Thread) -> None:
        if thread.name.endswith("(process_request_thread)"):  # the simulator's: it stands for another machine
            return start(thread)
        if len(started) >= left:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        return start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", limited)
        yield
