"""Programs that the tests start and stop, on loopback and within bounds."""

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx

GO = {"GOGC": "off", "GOMEMLIMIT": "600MiB"}
"""For programs in Go: those that live for seconds spend a fifth of their CPU on collecting garbage."""


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Return once `condition` holds; a refused connection means "not yet". Raise TimeoutError."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(httpx.TransportError):
            if condition():
                return
        time.sleep(0.02)
    raise TimeoutError(f"waited {seconds} s in vain for {what}")


def free_ports(count: int) -> list[int]:
    """Return ports to listen on, which stay free while their server is stopped.

    They are below those of outgoing connections, and each of pytest-xdist's workers has a thousand of its own.
    """
    first = 20_000 + 1_000 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ports: list[int] = []
    with ExitStack() as stack:
        while len(ports) < count:
            port = random.randrange(first, first + 1_000)
            probe = stack.enter_context(socket.socket())
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                ports.append(port)
    return ports


class Process:
    """One program, to be started and stopped repeatedly. `folder` gets its output and is its HOME."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self._command = command
        self._folder = folder
        self._running: subprocess.Popen[bytes] | None = None

    def start(self, is_ready: Callable[[], bool]) -> None:
        """Start it and wait until it is ready. If it never is, the error has a note with its last output."""
        output = self._folder / "output.log"
        with output.open("ab") as log:
            self._running = running = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Without the developer's own VAULT_* variables or ~/.vault-token.
                env={"PATH": os.environ["PATH"], "HOME": str(self._folder), **GO},
            )

        def is_ready_yet() -> bool:
            if running.poll() is not None:
                raise RuntimeError(f"{self._command[0]} ended at once, with status {running.returncode}")
            return is_ready()

        try:
            wait_until(is_ready_yet, f"{self._command[0]} to be ready")
        except (RuntimeError, TimeoutError) as error:
            self.kill()
            error.add_note("\n".join(output.read_text().splitlines()[-20:]))
            raise

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        if self._running:
            self._running.send_signal(number)

    def kill(self) -> None:
        """Kill it."""
        if self._running:
            self._running.kill()
            self._running.wait()
            self._running = None

    def stop(self) -> None:
        """Stop it, frozen or not; kill it after ten seconds."""
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)
        if self._running:
            with suppress(subprocess.TimeoutExpired):
                self._running.wait(10)
        self.kill()
