"""How rotator grows with its targets: start-up, memory, idling, pages, reload and sweep, on a real Vault.

For each number of targets the servers are new. Each path holds a key of the simulator that is between one and twelve of
its 24 hours old, so nothing is due, and the provider's list holds the same keys as the paths. Each repetition runs, in
turn: a bare loop that reads every path (as many threads, a kept connection each, http.client, no use of the answer); a
daemon without targets; and a daemon with all of them, timed until /readyz is ok and every target is known, with its
first sweep beside that. Memory and the pages are measured after the sweep and some scrapes. The last of these daemons
then idles at the default resync and reloads with one target changed. Another daemon idles with resync = 24h: the
difference is the cost of the resync. Its second sweep, with nothing beside it, is timed.

The budget does not limit them (100,000 requests a minute). benchmarks/README.md has the arithmetic of a sweep at 60.
"""

import json
import math
import os
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.bare import KEYS, sender
from benchmarks.common import Results, Vault, Vendor, ratios, running_vault, running_vendor, whole_numbers
from benchmarks.daemon import Daemon, running
from rotator.core.keys import KeyName, place_of
from rotator.core.secrets import Secret
from rotator.core.target import Target
from rotator.core.versions import Record, compose

SIZES = whole_numbers("BENCH_SIZES", "1000,10000,30000")
[REPETITIONS], [IDLE] = whole_numbers("BENCH_REPETITIONS", "3"), whole_numbers("BENCH_IDLE", "60")
WORKERS, WINDOWS = 8, 2
SETTLING = 15.0
"""Seconds after the first sweep: from then on nothing goes on but ticks and the resync."""

LIFE, YOUNGEST, OLDEST = (timedelta(hours=hours) for hours in (24, 1, 12))
READS, CALLS = "rotator_store_requests_total", "rotator_provider_requests_total"


def each(names: Sequence[str], work: Callable[[Callable[..., bytes], str], object], vault: Any) -> float:
    """Have that done for all of them by as many threads as rotator has; the seconds it took."""
    left: deque[str | None] = deque([*names, *[None] * WORKERS])

    def worker() -> None:
        send = sender(vault.address, {"X-Vault-Token": vault.root_token})
        while name := left.popleft():
            work(send, name)

    threads = [threading.Thread(target=worker) for _ in range(WORKERS)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


class Site:
    """A Vault with so many filled paths, the keys in them at the simulator, and configurations for them."""

    def __init__(self, vault: Vault, vendor: Vendor, folder: Path, size: int) -> None:
        self.vault, self.mount = vault.server, vault.server.new_mount()
        self.names = [f"app-{number:05}" for number in range(size)]
        self._folder, self._vendor = folder, vendor
        self._cluster = self.vault.request("GET", "sys/health").json()["cluster_id"]
        self._began = datetime.now(UTC).replace(microsecond=0)
        self._vendors = threading.local()
        each(self.names, self._fill, self.vault)

    def _fill(self, send: Callable[..., bytes], name: str) -> None:
        """Make a key, and write it as rotator would have."""
        if not hasattr(self._vendors, "send"):
            headers = {"Authorization": f"Bearer {self._vendor.key}", "Content-Type": "application/json"}
            self._vendors.send = sender(self._vendor.url, headers)
        age = YOUNGEST + (OLDEST - YOUNGEST) * (int(name.rpartition("-")[2]) / len(self.names))
        issued_at = (self._began - age).replace(microsecond=0)
        place = place_of("bench", f"vault/{self._cluster}//{self.mount}/apps%2F{name}")
        key_name = str(KeyName("bench", name, place, 1, "abcdefgh"))
        asked = {"name": key_name, "expiry_date": f"{issued_at + LIFE:%Y-%m-%dT%H:%M:%SZ}"}
        made = json.loads(self._vendors.send("POST", KEYS, json.dumps(asked)))
        key, nothing, grace = Secret(made["api_key"]), dict[str, str](), timedelta(seconds=1)
        target = Target(name, "", "", "", "api_key", nothing, {}, LIFE, LIFE / 3, grace, jitter=timedelta(0))
        record = Record(
            "bench", name, made["id"], key_name, issued_at, issued_at + LIFE, target.fingerprint, key.fingerprint
        )
        body = {"options": {"cas": 0}, "data": compose(target, record, key, {})}
        send("POST", f"/v1/{self.mount}/data/apps/{name}", json.dumps(body))

    def bare(self) -> float:
        """Seconds to read all paths, and no more."""
        return each(self.names, lambda send, name: send("GET", f"/v1/{self.mount}/data/apps/{name}"), self.vault)

    def configure(self, *, empty: bool = False, changed: bool = False, **daemon: Any) -> Path:
        """A file with all targets or with none; `changed` is one of them. `daemon`: resync, sweep_every."""
        provider = {"type": "respan", "base_url": self._vendor.url, "api_key": {"env": "RESPAN_API_KEY"}}
        targets: dict[str, dict[str, str]] = {} if empty else {name: {"path": f"apps/{name}"} for name in self.names}
        if changed:
            targets[self.names[0]]["grace_period"] = "2s"
        settings = {
            "owner": "bench",
            "daemon": {"workers": WORKERS, "resync": daemon.get("resync", "10m")},
            "sweep": {"interval": daemon.get("sweep_every", "15m")},
            "http": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"},
            "providers": {"respan": {**provider, "requests_per_minute": 100_000}},
            "stores": {"vault": {"type": "vault", "address": self.vault.address, "mount": self.mount}},
            # A grace that is over when the daemon starts: the everyday case, in which each path has one key.
            "defaults": {"ttl": "24h", "renew_before": "8h", "grace_period": "1s"},
            "targets": targets,
        }
        file = self._folder / "rotator.json"
        file.write_text(json.dumps(settings))
        return file

    @contextmanager
    def daemon(self, **settings: Any) -> Iterator[Daemon]:
        """A `rotator run`, configured so."""
        secrets = {"RESPAN_API_KEY": self._vendor.key, "VAULT_TOKEN": self.vault.root_token}
        with running(self.configure(**settings), secrets) as daemon:
            yield daemon


class Scale:
    """The measurements at one number of targets."""

    def __init__(self, site: Site, results: Results) -> None:
        self._site, self._results = site, results
        self._size = len(site.names)

    def row(self, name: str, values: Sequence[float], unit: str = "", plot: str = "") -> None:
        """Keep and print it."""
        self._results.add(self._size, name, values, unit, plot)

    def start_ups(self) -> float:
        """And what can be seen at once of a daemon that has started; the seconds that it took to know all targets."""
        site = self._site
        rows: dict[str, list[float]] = {}
        pages = {"/metrics": False, "/": True, "/status.json": True}
        for repetition in range(REPETITIONS):
            found = {"bare": site.bare()}
            with site.daemon(empty=True) as daemon:
                found["empty"] = daemon.is_ready()
                time.sleep(1)
                empty = daemon.usage()
            with site.daemon() as daemon:
                found["ready"] = daemon.is_ready()
                found["known"] = daemon.knows_all(self._size)
                found["cpu"], found["asking"] = daemon.usage().cpu - empty.cpu, daemon.asking
                found["requests"] = daemon.sums(READS)[READS] / self._size
                daemon.event("sweep_completed")
                time.sleep(2)
                found["memory"] = (daemon.usage().memory - empty.memory) / self._size
                for name, value in found.items():
                    rows.setdefault(name, []).append(value)
                for page, admin in pages.items():
                    rows.setdefault(page, []).extend(daemon.seconds(page, admin=admin) for _ in range(3))
                if repetition == REPETITIONS - 1:
                    self._report_start(rows, tuple(pages))
                    time.sleep(SETTLING)
                    self._idle(daemon, "resync = 10m", self._size / 600)
                    self._reloads(daemon)
        return max(rows["known"])

    def _report_start(self, rows: dict[str, list[float]], pages: Sequence[str]) -> None:
        without = [known - empty for known, empty in zip(rows["known"], rows["empty"], strict=True)]
        self.row("every path read, bare loop", rows["bare"], "s", "Start-up")
        self.row("an empty daemon ready", rows["empty"], "s")
        self.row("ready", rows["ready"], "s")
        self.row("every target known", rows["known"], "s", "Start-up")
        self.row("every target known: of it waiting for /metrics to show it", rows["asking"], "s")
        self.row("every target known / bare loop", ratios(rows["known"], rows["bare"]))
        self.row("every target known, less an empty start", without, "s", "Start-up")
        self.row("every target known, less an empty start / bare loop", ratios(without, rows["bare"]))
        self.row("every target known, less an empty start: CPU", rows["cpu"], "s")
        self.row("every target known: requests to Vault, a target", rows["requests"])
        self.row("memory above an empty daemon's, a target", rows["memory"], "bytes", "Memory")
        for page in pages:
            self.row(f"GET {page}", rows[page], "s", "Pages, reload and sweep")

    def _idle(self, daemon: Daemon, what: str, evenly: float = 0.0) -> float:
        """Look at so many windows; returns the lowest share of a CPU. `evenly`: the reads a second to be expected."""
        shares, wakes, reads = [], [], []
        for _ in range(WINDOWS):
            asked = daemon.sums(READS)
            before = daemon.usage()
            time.sleep(IDLE)
            after = daemon.usage()
            shares.append((after.cpu - before.cpu) / IDLE * 100)
            wakes.append(after.wakes_since(before) / IDLE)
            reads.append((daemon.sums(READS)[READS] - asked[READS]) / IDLE)
        self.row(f"idle, CPU: {what}", shares, "% of one CPU", "Idle: CPU")
        self.row(f"idle, wake-ups: {what}", wakes, "/s", "Idle: wake-ups")
        self.row(f"idle, reads of Vault: {what}", reads, "/s")
        if evenly:
            self.row(f"idle, reads / evenly spread ones: {what}", [read / evenly for read in reads])
        return min(shares)

    def _reloads(self, daemon: Daemon) -> None:
        taken, costs = [], []
        for number in range(REPETITIONS):
            self._site.configure(changed=number % 2 == 0)
            before, began = daemon.usage().cpu, time.perf_counter()
            daemon.reload()
            daemon.event("configuration_loaded", number + 1)
            taken.append(time.perf_counter() - began)
            costs.append(daemon.usage().cpu - before)
            time.sleep(3)  # so that the check of the files every 2 s does not find them changed again
        self.row("reload with one target changed", taken, "s", "Pages, reload and sweep")
        self.row("reload: CPU", costs, "s")

    def sweeps(self, known: float) -> None:
        """A daemon that does not resync: idling, and then a sweep that nothing else goes on beside."""
        every = math.ceil(5 * known + SETTLING + WINDOWS * (IDLE + 2) + 15)
        with self._site.daemon(resync="24h", sweep_every=f"{every}s") as daemon:
            daemon.event("sweep_completed")
            time.sleep(SETTLING)
            idle = self._idle(daemon, "resync = 24h")
            before, cpu, at = daemon.sums(READS, CALLS), daemon.usage().cpu, time.perf_counter()
            taken = daemon.seconds_until("sweep_completed", 2, every)
            cost = daemon.usage().cpu - cpu - idle / 100 * (time.perf_counter() - at)
            after = daemon.sums(READS, CALLS)
        self.row("sweep", [taken], "s", "Pages, reload and sweep")
        self.row("sweep: CPU", [cost], "s")
        self.row("sweep: CPU, spread over the 15 minutes between two", [cost / 900 * 100], "% of one CPU")
        self.row("sweep: requests to Vault, a target", [(after[READS] - before[READS]) / self._size])
        self.row("sweep: requests to the provider", [after[CALLS] - before[CALLS]])


def fit(points: dict[int, float]) -> float:
    """The exponent, by least squares: the slope of log(value) over log(targets)."""
    xs, ys = [math.log(size) for size in points], [math.log(value) for value in points.values()]
    middle_x, middle_y = sum(xs) / len(xs), sum(ys) / len(ys)
    slope = sum((x - middle_x) * (y - middle_y) for x, y in zip(xs, ys, strict=True))
    return slope / sum((x - middle_x) ** 2 for x in xs)


def main() -> None:
    """Measure each size, and print how each row grows."""
    results = Results("How rotator grows", "targets")
    print(
        f"{WORKERS} threads, {REPETITIONS} repetitions, {os.cpu_count()} CPUs; median (lowest to highest)", flush=True
    )
    for size in SIZES:
        with running_vault() as vault, running_vendor() as vendor, tempfile.TemporaryDirectory() as folder:
            print(f"{size} targets", flush=True)
            scale = Scale(Site(vault, vendor, Path(folder), size), results)
            scale.sweeps(scale.start_ups())
        results.save()
    for row in results.rows.values():
        if len(row.points) == len(SIZES) > 1 and min(row.medians().values()) > 0:
            row.exponent = fit(row.medians())
    results.end()


if __name__ == "__main__":
    main()
