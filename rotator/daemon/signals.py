"""The signals of `rotator run`, from its first moment to its last.

Without a handler HUP and USR1 end a process, and importing the daemon takes most of a second. So this module imports
nothing heavy, and handles signals before that import. The daemon obeys early signals once it runs.
"""

import os
import queue
import signal
from collections.abc import Callable, Sequence

STOP = (signal.SIGTERM, signal.SIGINT)


def starts_daemon(arguments: Sequence[str]) -> bool:
    """Return whether these are the arguments of a daemon: `run` without `--once`."""
    return arguments[:1] == ["run"] and "--once" not in arguments


class Signals:
    """Receives TERM, INT, HUP and USR1. A second TERM or INT ends the process at once, with 1."""

    def __init__(self) -> None:
        self.received: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._ends_within: Callable[[], float] | None = None
        self._asked_to_stop = False

    def handle(self) -> None:
        """Handle the signals. Until `started`, TERM or INT ends the process at once with 0: no work has begun."""
        for number in (*STOP, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGALRM, lambda *_: os._exit(1))

    def started(self, ends_within: Callable[[], float]) -> None:
        """Leave it to the reader of `received` to end the process, from now on.

        After `ends_within` seconds the process ends with 1, whatever its main thread waits for.
        """
        self._ends_within = ends_within

    def _on_signal(self, number: int, _frame: object) -> None:
        if number in STOP:
            if self._ends_within is None:
                os._exit(0)
            if self._asked_to_stop:
                os._exit(1)
            self._asked_to_stop = True
            signal.setitimer(signal.ITIMER_REAL, self._ends_within())
        self.received.put(number)


SIGNALS = Signals()
"""The signals of this process."""
