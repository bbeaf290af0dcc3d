"""A `rotator run` to be measured: started, watched by its log and the kernel's figures, stopped."""

import http.client
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.common import ROTATOR, Usage

_UNKNOWN = re.compile(rb'^rotator_targets\{state="unknown"\} (.*)$', re.MULTILINE)


class Daemon:
    """A running one. `began` is when its process was started, by time.perf_counter."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path, began: float) -> None:
        self.process, self.began = process, began
        self._log = log
        started = self.event("started")
        self.started_at = _moment(started)
        self._at = {"listen": started["listen"], "admin": started["admin"]}
        self.asking = 0.0  # seconds that `knows_all` waited for answers

    def get(self, path: str, *, admin: bool = False) -> tuple[int, bytes]:
        """Status and body of a page."""
        connection = http.client.HTTPConnection(self._at["admin" if admin else "listen"], timeout=60)
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()

    def seconds(self, path: str, *, admin: bool = False) -> float:
        """That a page takes, and is there."""
        began = time.perf_counter()
        status, body = self.get(path, admin=admin)
        assert status == 200, body
        assert body
        return time.perf_counter() - began

    def is_ready(self) -> float:
        """Return the seconds from the start until /readyz is ok."""
        while self.get("/readyz")[0] != 200:
            time.sleep(0.02)
        return time.perf_counter() - self.began

    def knows_all(self, targets: int) -> float:
        """Seconds from the start until no target is unknown.

        Asking costs the daemon CPU time, and the more the more it knows. So it is asked when it may be done, by how
        fast it got on since it was asked before; the waiting for answers is in the result, and in `asking`.
        """
        was, at, wait = targets, time.perf_counter(), 0.25
        while True:
            time.sleep(wait)
            asked_at = time.perf_counter()
            found = _UNKNOWN.search(self.get("/metrics")[1])
            assert found
            left, now = int(float(found[1])), time.perf_counter()
            self.asking += now - asked_at
            if left == 0:
                return now - self.began
            rate = max(was - left, 1) / (now - at)
            wait = min(max(left / rate * 0.95, 0.05), 10.0)
            was, at = left, now

    def sums(self, *families: str) -> Mapping[str, float]:
        """What these counters have come to, over all their labels."""
        lines = self.get("/metrics")[1].decode().splitlines()
        return {
            family: sum(
                float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{family}{{", f"{family} "))
            )
            for family in families
        }

    def event(self, name: str, number: int = 1, within: float = 1800.0) -> dict[str, Any]:
        """Wait for and return the `number`th log line of that event."""
        until = time.perf_counter() + within
        while time.perf_counter() < until:
            lines = self._log.read_text().splitlines(keepends=True)
            found = [line for line in lines if f'"event": "{name}"' in line and line.endswith("\n")]
            if len(found) >= number:
                return dict(json.loads(found[number - 1]))
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise SystemExit(f"{self._log.read_text()[-2000:]}\nno event {name} {number}")

    def seconds_until(self, name: str, number: int, after: float) -> float:
        """From so many seconds after the daemon's own start to that event, by the times in its log."""
        return (_moment(self.event(name, number)) - self.started_at).total_seconds() - after

    def reload(self) -> None:
        """Have it read its files again."""
        self.process.send_signal(signal.SIGHUP)

    def usage(self) -> Usage:
        """What it has and has used."""
        return Usage.of(self.process.pid)


def _moment(event: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(event["timestamp"])


@contextmanager
def running(config: Path, secrets: Mapping[str, str]) -> Iterator[Daemon]:
    """Run a daemon with that configuration."""
    log = config.with_suffix(".log")
    began = time.perf_counter()
    with log.open("wb") as output:
        # At "debug" the log has every sweep, even with unchanged results; it has no lines for single targets.
        command = [str(ROTATOR), "run", "--config", str(config), "--log-format", "json", "--log-level", "debug"]
        process = subprocess.Popen(command, env={**os.environ, **secrets}, stdout=output, stderr=output)
    try:
        yield Daemon(process, log, began)
    finally:
        process.terminate()
        process.wait(120)
