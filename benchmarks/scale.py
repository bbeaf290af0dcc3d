"""How rotator grows with its targets: start-up, memory, idleness and what a scrape costs, on a real Vault.

For each number of targets the paths are filled once, with keys that are in the middle of their lives. Then, in turn, so
many times: a bare loop reads every path (as many threads, a kept connection each, http.client, nothing is done with the
answer), and a `rotator run` is started and timed until it knows every target. Of the daemon is then measured how much
memory it holds above one without targets, what a minute of idling costs (CPU time, and how often it is woken), and how
long a scrape, the status page and /status.json take. Rows are medians, and lowest to highest; the ratio of start-up is
the median of the pairs' ratios. The vendor is not asked for anything but one list: the keys are in the middle of life.
"""

import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).parents[1]
ROTATOR = Path(sys.executable).parent / "rotator"
SIZES = tuple(int(size) for size in os.environ.get("BENCH_SIZES", "1000,10000,30000").split(","))
WORKERS, REPETITIONS, IDLE = 8, 3, 60.0
LIFE = timedelta(hours=24)


def each(names: list[str], work: Callable[[Callable[..., bytes], str], object], vault: Any) -> float:
    """Have that done for all of them by as many threads as rotator has; the seconds it took."""
    left = deque(names)

    def worker() -> None:
        connection = http.client.HTTPConnection(urlsplit(vault.address).netloc, timeout=30)

        def send(method: str, path: str, body: str | None = None) -> bytes:
            connection.request(method, path, body, {"X-Vault-Token": vault.root_token})
            return connection.getresponse().read()

        while left:
            try:
                work(send, left.popleft())
            except IndexError:
                return

    threads = [threading.Thread(target=worker) for _ in range(WORKERS)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


@dataclass(frozen=True)
class Process:
    """What the kernel says of a process."""

    cpu: float  # seconds
    memory: float  # bytes, resident
    wakes: int  # voluntary context switches of all threads

    @classmethod
    def of(cls, pid: int) -> "Process":
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks = os.sysconf("SC_CLK_TCK")
        wakes = 0
        for status in Path(f"/proc/{pid}/task").glob("*/status"):
            line = next(line for line in status.read_text().splitlines() if line.startswith("voluntary_ctxt"))
            wakes += int(line.split()[1])
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return cls((int(fields[11]) + int(fields[12])) / ticks, resident, wakes)


class Site:
    """A Vault with so many filled paths, and a configuration for them."""

    def __init__(self, vault: Any, respan: str, key: str, folder: Path, size: int) -> None:
        from rotator.model import KeyName, KeyParameters, Record, Secret, Target, compose, place_of

        self.vault, self.mount = vault, vault.new_mount()
        self.names = [f"app-{number:05}" for number in range(size)]
        self._folder, self._key = folder, key
        settings = {
            "owner": "bench",
            "daemon": {"workers": WORKERS},
            "http": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"},
            "providers": {"respan": {"type": "respan", "base_url": respan, "api_key": {"env": "RESPAN_API_KEY"}}},
            "stores": {"vault": {"type": "vault", "address": vault.address, "mount": self.mount}},
            # A grace that is over when the daemon starts: the everyday case, in which each path has one key.
            "defaults": {"ttl": "24h", "renew_before": "8h", "grace_period": "1s"},
            "targets": {name: {"path": f"apps/{name}"} for name in self.names},
        }
        (folder / "rotator.json").write_text(json.dumps(settings))
        cluster = vault.request("GET", "sys/health").json()["cluster_id"]
        now = datetime.now(UTC).replace(microsecond=0)

        def fill(send: Callable[..., bytes], name: str) -> None:
            place = place_of("bench", f"vault/{cluster}//{self.mount}/apps%2F{name}")
            key_name = str(KeyName("bench", name, place, 1, "abcdefgh"))
            text = f"sk_bench_{name}_{'x' * 40}"
            hours = timedelta(hours=24)
            nothing: dict[str, str] = {}
            target = Target(
                name, "", "", "", "api_key", nothing, KeyParameters(), hours, hours / 3, timedelta(seconds=1), hours * 0
            )
            record = Record(
                "bench", name, f"tk_{name}", key_name, now, now + LIFE, target.fingerprint, Secret(text).fingerprint
            )
            data = compose(target, record, Secret(text), {})
            send("POST", f"/v1/{self.mount}/data/apps/{name}", json.dumps({"options": {"cas": 0}, "data": data}))

        each(self.names, fill, vault)

    def bare(self) -> float:
        """Seconds to read all paths, and no more."""
        return each(self.names, lambda send, name: send("GET", f"/v1/{self.mount}/data/apps/{name}"), self.vault)

    @contextmanager
    def daemon(self, *, empty: bool = False) -> "Iterator[Daemon]":
        """A `rotator run` for all of the paths, or for none."""
        config = self._folder / "rotator.json"
        if empty:
            config = self._folder / "empty.json"
            config.write_text(json.dumps({**json.loads((self._folder / "rotator.json").read_text()), "targets": {}}))
        environment = {**os.environ, "RESPAN_API_KEY": self._key, "VAULT_TOKEN": self.vault.root_token}
        log = self._folder / "log"
        began = time.perf_counter()
        with log.open("wb") as output:
            command = [str(ROTATOR), "run", "--config", str(config), "--log-format", "json"]
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        try:
            yield Daemon(process, log, began)
        finally:
            process.terminate()
            process.wait(60)


class Daemon:
    """A running one."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path, began: float) -> None:
        self.process, self.began = process, began
        while '"started"' not in (text := log.read_text()):
            if process.poll() is not None:
                raise SystemExit(text[-2000:])
            time.sleep(0.01)
        started = next(json.loads(line) for line in text.splitlines() if '"event": "started"' in line)
        self._at = {"listen": started["listen"], "admin": started["admin"]}

    def get(self, path: str, *, admin: bool = False) -> bytes:
        connection = http.client.HTTPConnection(self._at["admin" if admin else "listen"], timeout=60)
        connection.request("GET", path)
        return connection.getresponse().read()

    def knows_all(self) -> float:
        """Seconds from the start until no target is unknown."""
        while b'rotator_targets{state="unknown"} 0.0' not in self.get("/metrics"):
            time.sleep(0.25)
        return time.perf_counter() - self.began

    def seconds(self, path: str, *, admin: bool = False) -> float:
        """That a page takes, and is there."""
        began = time.perf_counter()
        assert self.get(path, admin=admin)
        return time.perf_counter() - began

    def usage(self) -> Process:
        return Process.of(self.process.pid)


def row(what: str, values: list[float], unit: str = "") -> None:
    """A line of the report."""
    print(f"  {what:<44} {statistics.median(values):10.3f} ({min(values):.3f} to {max(values):.3f}) {unit}", flush=True)


def measure(site: Site) -> None:
    """All rows for one number of targets."""
    bare, known, cpu, memory, empty = [], [], [], [], []
    pages: Mapping[str, list[float]] = {"/metrics": [], "/": [], "/status.json": []}
    for repetition in range(REPETITIONS):
        bare.append(site.bare())
        with site.daemon(empty=True) as daemon:
            daemon.get("/metrics")
            empty.append(daemon.usage().memory)
        with site.daemon() as daemon:
            known.append(daemon.knows_all())
            time.sleep(2)  # what follows the first looks: the sweep
            usage = daemon.usage()
            cpu.append(usage.cpu)
            memory.append((usage.memory - empty[-1]) / len(site.names))
            for path, taken in pages.items():
                taken.append(daemon.seconds(path, admin=path != "/metrics"))
            if repetition == REPETITIONS - 1:
                before = daemon.usage()
                time.sleep(IDLE)
                after = daemon.usage()
    print(f"{len(site.names)} targets", flush=True)
    row("every path read, bare loop", bare, "s")
    row("every target known after the start", known, "s")
    row("... ratio", [ours / theirs for ours, theirs in zip(known, bare, strict=True)])
    row("... CPU", cpu, "s")
    row("memory above one without targets, a target", memory, "bytes")
    row("idle, share of one CPU", [(after.cpu - before.cpu) / IDLE * 100], "%")
    row("idle, wake-ups a second", [(after.wakes - before.wakes) / IDLE])
    for path, taken in pages.items():
        row(f"GET {path}", taken, "s")


def main() -> None:
    """Set up Vault and the simulator, and measure each size."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from support.vault import dev_vault

    command = [str(ROTATOR), "simulate", "--port", "0", "--requests-per-minute", "0"]
    with dev_vault() as vault, subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as simulator:
        try:
            assert simulator.stdout is not None
            url = simulator.stdout.readline().split('"')[1]
            key = simulator.stdout.readline().strip().partition("=")[2]
            print(f"{WORKERS} threads, {REPETITIONS} repetitions, {os.cpu_count()} CPUs", flush=True)
            for size in SIZES:
                with tempfile.TemporaryDirectory() as folder:
                    measure(Site(vault, url, key, Path(folder), size))
        finally:
            simulator.terminate()


if __name__ == "__main__":
    main()
