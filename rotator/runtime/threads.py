"""Threads that run from the start.

A machine may have no thread left at any moment (a limit on processes or memory). Work that must go on therefore runs in
threads that were started before, and wait. Only work that can do without one starts a thread later.
"""

import queue
import sys
import threading
from collections.abc import Callable, Iterator

from rotator.core.errors import RotatorError


def start(thread: threading.Thread) -> threading.Thread:
    """Start this thread, and return it. Raises `RotatorError` when the machine has none left."""
    try:
        thread.start()
    except (RuntimeError, MemoryError) as error:
        raise RotatorError(
            f"no thread could be started ({thread.name}): {error}",
            "Raise the limit on processes (TasksMax, pids.max, ulimit -u) or on memory, or set [daemon].workers lower.",
        ) from None
    return thread


class Workers:
    """A fixed number of threads that run what is submitted, in that order, until `end`."""

    def __init__(self, size: int, name: str) -> None:
        """Raises `RotatorError` when one of them cannot be started."""
        self._submitted: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self.size, self._ended = size, False
        try:
            for number in range(size):
                thread = threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True)
                self._threads.append(start(thread))
        except RotatorError:
            self.end()
            raise

    def submit(self, work: Callable[[], object]) -> None:
        """Have the next free thread run it. Starts no thread."""
        self._submitted.put(work)

    def problems(self) -> Iterator[str]:
        """Yield each thread that has ended, though it should not have."""
        if not self._ended:
            yield from (f"the thread {thread.name} has ended" for thread in self._threads if not thread.is_alive())

    def end(self) -> None:
        """Have each thread end after its present work. Waits for none of them."""
        self._ended = True
        for _ in range(self.size):
            self._submitted.put(None)

    def _run(self) -> None:
        while (work := self._submitted.get()) is not None:
            try:
                work()
            except Exception:  # else there would be one thread less from then on
                threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))
            del work  # it holds an installation
