"""A machine that has no thread left."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def no_new_threads(monkeypatch: pytest.MonkeyPatch, left: int = 0) -> Iterator[None]:
    """As with a limit on processes: `left` more threads can be started here, then no other."""
    start = threading.Thread.start
    started: list[threading.Thread] = []

    def limited(thread: threading.Thread) -> None:
        if thread.name.endswith("(process_request_thread)"):  # the simulated vendor's: it has a machine of its own
            return start(thread)
        if len(started) >= left:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        return start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", limited)
        yield
