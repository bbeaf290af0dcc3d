"""`rotator`, which kills or stops itself at a chosen step. It is run as a program: the shipped code has no hook for it.

The adapters behind the ports are wrapped from here. $KILL_AT is `step:number:moment:signal`, as
`create:1:before:KILL`: at the first create, before it is done, with that signal. $STEPS_FILE gets the name of every
step as it begins.
"""

import functools
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rotator.cli.main import main
from rotator.providers.http_provider.client import HttpProvider
from rotator.providers.respan.client import RespanProvider
from rotator.stores.vault.store import VaultStore

PROVIDER_STEPS = ("create", "pages", "retrieve", "set_expiry", "delete")
STEPS: dict[type, tuple[str, ...]] = {
    RespanProvider: PROVIDER_STEPS,
    HttpProvider: PROVIDER_STEPS,
    VaultStore: ("location", "history", "preflight", "write", "destroy"),
}


class Trap:
    """Counts the steps, and springs at the chosen one."""

    def __init__(self, kill_at: str, steps_file: str) -> None:
        self._step, self._number, self._moment, self._signal = kill_at.split(":")
        self._file = Path(steps_file)
        self._counted: Counter[str] = Counter()
        self._lock = threading.Lock()

    def wrap(self, step: str, method: Callable[..., Any]) -> Callable[..., Any]:
        """The method, with a trap before and after it."""

        @functools.wraps(method)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                self._counted[step] += 1
                number = self._counted[step]
                with self._file.open("a") as file:
                    file.write(f"{step}:{number}\n")
            self._spring(step, number, "before")
            result = method(*args, **kwargs)
            self._spring(step, number, "after")
            return result

        return wrapped

    def _spring(self, step: str, number: int, moment: str) -> None:
        if (step, str(number), moment) == (self._step, self._number, self._moment):
            os.kill(os.getpid(), signal.Signals[f"SIG{self._signal}"])


if __name__ == "__main__":
    trap = Trap(os.environ["KILL_AT"], os.environ["STEPS_FILE"])
    for adapter, steps in STEPS.items():
        for step in steps:
            setattr(adapter, step, trap.wrap(step, getattr(adapter, step)))
    main()
