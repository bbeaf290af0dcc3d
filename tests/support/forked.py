"""Commands of rotator in processes that are forked, not started anew: to import rotator takes half a second of CPU."""

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

TESTS = Path(__file__).parents[1]


class Warm:
    """The process that forks (`support.warm_rotator`); it starts with the first command, and ends with this one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._line: socket.socket | None = None

    def send(self, command: Mapping[str, object], descriptors: Sequence[int]) -> None:
        """Let it fork for this command."""
        with self._lock:
            line = self._line or self._start()
            text = json.dumps(command).encode() + b"\n"
            sent = socket.send_fds(line, [text], descriptors)
            line.sendall(text[sent:])

    def _start(self) -> socket.socket:
        self._line, its = socket.socketpair()
        with its:
            process = subprocess.Popen(
                [sys.executable, "-m", "support.warm_rotator", str(its.fileno())],
                env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(map(str, (TESTS, TESTS.parent)))},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[its.fileno()],
            )
        atexit.register(process.wait)
        atexit.register(self._line.close)
        return self._line


WARM = Warm()


class Forked:
    """A command that runs, as `subprocess.Popen` has it. `module` is the program that Python runs."""

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        stdout: IO[bytes],
        stderr: IO[bytes],
    ) -> None:
        self._command = {
            "module": module,
            "arguments": [*arguments],
            "environment": dict(environment),
            "folder": str(Path.cwd()),
        }
        self._lock = threading.Lock()
        reading, report = os.pipe()
        with Path(os.devnull).open("rb") as stdin:
            WARM.send(self._command, [stdin.fileno(), stdout.fileno(), stderr.fileno(), report])
        os.close(report)
        self._report = os.fdopen(reading)
        self.pid = int(self._report.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return its exit status, or None while it runs."""
        return self._status(0)

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit status once it has ended."""
        status = self._status(None if timeout is None else timeout * 1000)
        if status is None:
            raise subprocess.TimeoutExpired([*map(str, self._command.values())], timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        """Send it a signal if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)

    def _status(self, milliseconds: float | None) -> int | None:
        with self._lock:
            if self.returncode is None:
                reports = select.poll()
                reports.register(self._report, select.POLLIN)
                if reports.poll(milliseconds):
                    self.returncode = os.waitstatus_to_exitcode(int(self._report.readline()))
                    self._report.close()
            return self.returncode
