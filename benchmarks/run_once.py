"""Rotations per second, and CPU time per rotation, of rotator's one-shot commands against three other ways to do it.

Compared are `rotator run --once` on new targets and `rotator rotate --all` on the same ones (every key is superseded)
with bare.py, a loop that makes the same requests and is written to win, with libraries.py, which makes them through
rotator's own libraries, httpx and hvac, and with script.py: the provider's SDK and hvac, without safety and so with
fewer requests. All at each number of workers.

Each contestant is a process of its own, in turn, on the same real Vault (a dev server) and the same simulator (a
process of its own, without a rate limit, new for each number of workers); the order changes each time. Each has
mounts of its own. Bodies are of about equal length. That rotator and both loops make the same requests is verified,
not assumed: first each runs once with Vault's audit log on, which is compared with the simulator's journal path by
path; after each timed run the journal is compared again. A difference ends the benchmark with status 1. Start-up
(interpreter, imports, configuration) is timed apart, by `rotator check` and by the others over nothing, and rates are
given with and without it. CPU time and memory are the kernel's figures for each process at its end, with its children.
Those of Vault and the simulator are separate: together with the bare loop at twice the threads they show whether the
servers could have done more.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.bare import sender
from benchmarks.common import (
    ROOT,
    ROTATOR,
    Results,
    Vault,
    Vendor,
    cpu_of,
    ratios,
    running_vault,
    running_vendor,
    whole_numbers,
)

[TARGETS], [REPETITIONS] = whole_numbers("BENCH_TARGETS", "500"), whole_numbers("BENCH_REPETITIONS", "7")
WORKERS = whole_numbers("BENCH_WORKERS", "1,4,8,16")
START_UP, FIRST, AGAIN = "check", "run --once", "rotate --all"  # rotator's commands
OURS, BARE, LIBRARIES, SCRIPT = "rotator", "bare loop", "httpx and hvac loop", "script"
DOUBLE = "bare loop, twice the threads"
PROGRAMS = {BARE: "bare.py", LIBRARIES: "libraries.py", SCRIPT: "script.py", DOUBLE: "bare.py"}
COMPARED = (OURS, BARE, LIBRARIES, SCRIPT)
SAME = (BARE, LIBRARIES)
"""The contestants that must make the same requests as rotator."""
CONTESTANTS = (*COMPARED, DOUBLE)


@dataclass(frozen=True, slots=True)
class Run:
    """One process, from its start to its end. Seconds, and mebibytes at most."""

    wall: float
    cpu: float
    memory: float
    vault: float  # CPU seconds of the servers meanwhile
    vendor: float


Runs = dict[str, list[Run]]  # by contestant, one for each repetition


class Site:
    """A Vault, a simulator, and the contestants on them, each with so many threads."""

    def __init__(self, vault: Vault, vendor: Vendor, folder: Path, workers: int) -> None:
        self.vault = vault.server
        self._pids = vault.pid, vendor.pid
        self._folder, self._vendor, self._workers = folder, vendor, workers
        self._names = [f"app-{number:04}" for number in range(TARGETS)]
        self._journal = sender(vendor.url, {})
        self._seen = 0

    def run(self, contestant: str, what: str, mount: str) -> Run:
        """Let it do its part, on all targets."""
        if contestant == OURS:
            return self._rotator(what, mount)
        threads = self._workers * (2 if contestant == DOUBLE else 1)
        return self._other(PROGRAMS[contestant], threads, what, mount)

    def _rotator(self, what: str, mount: str) -> Run:
        provider = {"type": "respan", "base_url": self._vendor.url, "api_key": {"env": "RESPAN_API_KEY"}}
        settings = {
            "owner": "bench",
            "daemon": {"workers": self._workers},
            "providers": {"respan": {**provider, "requests_per_minute": 100_000}},
            "stores": {"vault": {"type": "vault", "address": self.vault.address, "mount": mount}},
            "defaults": {"ttl": "1h", "renew_before": "20m", "grace_period": "10m"},
            "targets": {name: {"path": f"apps/{name}"} for name in self._names},
        }
        config = self._folder / "rotator.json"
        config.write_text(json.dumps(settings))
        secrets = {"RESPAN_API_KEY": self._vendor.key, "VAULT_TOKEN": self.vault.root_token}
        return self._run([str(ROTATOR), *what.split(), "--config", str(config)], {**os.environ, **secrets})

    def _other(self, program: str, threads: int, what: str, mount: str) -> Run:
        expires_at, early = (f"{datetime.now(UTC) + timedelta(minutes=m):%Y-%m-%dT%H:%M:%SZ}" for m in (60, 10))
        job = {"vault": self.vault.address, "token": self.vault.root_token, "mount": mount, "again": what == AGAIN}
        job |= {"respan": self._vendor.url, "key": self._vendor.key, "expires_at": expires_at, "early": early}
        job |= {"threads": threads, "targets": [] if what == START_UP else self._names}
        file = self._folder / "job.json"
        file.write_text(json.dumps(job))
        return self._run([sys.executable, str(ROOT / "benchmarks" / program), str(file)], dict(os.environ))

    def _run(self, command: list[str], environment: dict[str, str]) -> Run:
        log = self._folder / "output.log"
        with log.open("wb") as output:
            servers = [cpu_of(pid) for pid in self._pids]
            started = time.perf_counter()
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - started
            vault, vendor = (cpu_of(pid) - before for pid, before in zip(self._pids, servers, strict=True))
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{log.read_text()[-2000:]}\n{' '.join(command)} ended with status {process.returncode}")
        return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, vault, vendor)

    def journal(self) -> list[dict[str, Any]]:
        """Return the simulator's calls since the last call of this method."""
        calls = list(json.loads(self._journal("GET", f"/_simulator/journal?since={self._seen}"))["calls"])
        self._seen = calls[-1]["number"] if calls else self._seen
        return calls

    def audited(self, contestant: str, what: str, mount: str) -> dict[str, Counter[tuple[str, ...]]]:
        """Run it, and return how often each sequence of requests occurs: to Vault for a path, to Respan for a key."""
        audit = self._folder / "audit.log"
        audit.unlink(missing_ok=True)
        device = {"type": "file", "options": {"file_path": str(audit)}}
        self.vault.request("PUT", "sys/audit/bench", device).raise_for_status()
        self.journal()
        self.run(contestant, what, mount)
        self.vault.request("DELETE", "sys/audit/bench").raise_for_status()
        of_path, of_key = defaultdict(list), defaultdict(list)
        for entry in map(json.loads, audit.read_text().splitlines()):
            asked = entry["request"]
            if entry["type"] == "response" and asked["path"].startswith(f"{mount}/"):
                _, kind, path = asked["path"].split("/", 2)
                of_path[path].append(f"{asked['operation']} {kind}" + (" (refused)" if "error" in entry else ""))
        for call in self.journal():
            of_key[call["key_name"]].append(f"{call['operation']} {call['status']}")
        counted = {"Vault, a path": of_path, "Respan, a key": of_key}
        return {where: Counter(map(tuple, found.values())) for where, found in counted.items()}


def verify(site: Site) -> None:
    """One round of each with the audit log on; SystemExit unless rotator and both loops ask for the same."""
    mounts = {contestant: site.vault.new_mount() for contestant in COMPARED}
    for what in (FIRST, AGAIN):
        asked = {contestant: site.audited(contestant, what, mount) for contestant, mount in mounts.items()}
        for other in SAME:
            if asked[OURS] != asked[other]:
                raise SystemExit(f"{what}: the calls differ\n{OURS}: {asked[OURS]}\n{other}: {asked[other]}")
        for contestant in (OURS, SCRIPT):
            for where, sequences in asked[contestant].items():
                for sequence, count in sequences.items():
                    print(f"{contestant}: {what}: {where}: {count} x {', '.join(sequence)}", flush=True)


def repeat(site: Site) -> dict[str, Runs]:
    """What each contestant's runs took, by what they did."""
    runs: dict[str, Runs] = {what: defaultdict(list) for what in (START_UP, FIRST, AGAIN)}
    site.journal()
    for number in range(REPETITIONS):
        first = number % len(CONTESTANTS)
        order = (*CONTESTANTS[first:], *CONTESTANTS[:first])[:: -1 if number % 2 else 1]
        mounts = {contestant: site.vault.new_mount() for contestant in CONTESTANTS}
        for what, of in runs.items():
            asked = {}
            for contestant in order:
                of[contestant].append(site.run(contestant, what, mounts[contestant]))
                asked[contestant] = Counter((call["operation"], call["status"]) for call in site.journal())
            if not asked[OURS] == asked[BARE] == asked[LIBRARIES] == asked[DOUBLE]:
                raise SystemExit(f"{what}: the calls differ: {asked}")
    return runs


def report(workers: int, runs: Mapping[str, Runs], results: Results) -> None:
    """Print medians, and lowest and highest; ratios are medians of each repetition's."""

    def rows(what: str, values: Mapping[str, Sequence[float]], unit: str, plot: str = "") -> None:
        for contestant in COMPARED:
            results.add(workers, f"{what}: {contestant}", values[contestant], unit, plot)
        for other in (*SAME, SCRIPT):
            results.add(workers, f"{what}: rotator / {other}", ratios(values[OURS], values[other]))

    started = runs[START_UP]
    rows("start-up", {who: [run.wall for run in of] for who, of in started.items()}, "s")
    rows("start-up, CPU", {who: [run.cpu for run in of] for who, of in started.items()}, "s")
    wall, cpu, vault, vendor = (
        {who: statistics.median(getattr(run, measured) for run in of) for who, of in started.items()}
        for measured in ("wall", "cpu", "vault", "vendor")
    )
    for what in (FIRST, AGAIN):
        of = runs[what]
        for words, share in (("", 0), (", without start-up", 1)):
            plot = what if share else ""
            rates = {who: [TARGETS / (run.wall - share * wall[who]) for run in of[who]] for who in CONTESTANTS}
            rows(f"{what}{words}", rates, "rotations/s", plot and f"Rate of `{plot}`, without start-up")
            costs = {who: [(r.cpu - share * cpu[who]) / TARGETS * 1000 for r in of[who]] for who in CONTESTANTS}
            rows(f"{what}{words}, CPU", costs, "ms/rotation", plot and f"CPU time of `{plot}`, without start-up")
        results.add(workers, f"{what}{words}: {DOUBLE}", rates[DOUBLE], "rotations/s")
        results.add(workers, f"{what}{words}: {DOUBLE} / {BARE}", ratios(rates[DOUBLE], rates[BARE]))
        rows(f"{what}, memory at most", {who: [run.memory for run in of[who]] for who in CONTESTANTS}, "MiB")
        for who in CONTESTANTS:
            for server, idle in (("vault", vault), ("vendor", vendor)):
                shares = [(getattr(r, server) - idle[who]) / (r.wall - wall[who]) * 100 for r in of[who]]
                results.add(workers, f"{what}: CPU of the {server} meanwhile: {who}", shares, "% of one CPU")


@contextmanager
def sites(workers: int) -> Iterator[Site]:
    """A site on new servers."""
    with tempfile.TemporaryDirectory() as folder, running_vault() as vault, running_vendor() as vendor:
        yield Site(vault, vendor, Path(folder), workers)


def main() -> None:
    """For each number of workers: set up the servers, verify, repeat, report."""
    results = Results("Rotating against a bare loop and a script", "workers")
    print(
        f"{TARGETS} targets, {REPETITIONS} repetitions, {os.cpu_count()} CPUs; median (lowest to highest)", flush=True
    )
    for workers in WORKERS:
        with sites(workers) as site:
            verify(site)
            print(f"{workers} workers", flush=True)
            report(workers, repeat(site), results)
        results.save()
    results.end()


if __name__ == "__main__":
    main()
