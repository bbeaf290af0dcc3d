"""Rotations per second, and CPU time per rotation, of rotator's one-shot commands against a bare loop.

Compared are `rotator run --once` on new targets and `rotator rotate --all` on the same ones (every key is superseded)
with a loop written to win: this file with `--bare`. It has as many threads, two kept connections each, http.client,
bodies from templates, and no checks, retries, logins, clocks, logs or metrics.

Both are processes of their own, in turn, on the same real Vault (a dev server) and the same simulator (a process of its
own, without a rate limit); who is first alternates. Each run has a mount of its own. Bodies are of about equal length.
That both make the same requests is verified, not assumed: first each runs once with Vault's audit log on, which is
compared with the simulator's journal path by path; after each timed run the journal is compared again. A difference
ends the benchmark with status 1. Start-up (interpreter, imports, configuration) is timed apart, by `rotator check` and
by a bare loop over nothing, and rates are given with and without it. CPU time and memory are what the kernel says of
each process as it ends, children of its own included; those of Vault and the simulator are not in it.
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
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).parents[1]
ROTATOR = Path(sys.executable).parent / "rotator"
TARGETS, WORKERS, REPETITIONS = 300, 8, 7
KEYS = "/api/temporary-keys/"
NEVER = 2**31 - 1  # a version that no path has: Vault refuses the write after all other rules
START_UP, FIRST, AGAIN = "check", "run --once", "rotate --all"  # rotator's commands


def bare(job: dict[str, Any]) -> None:
    """Rotate `job["targets"]`, for the first time or again; the process ends with the last thread."""
    names = deque([*job["targets"], *[None] * WORKERS])
    for _ in range(WORKERS if job["targets"] else 0):
        threading.Thread(target=_bare_worker, args=(job, names)).start()


def _bare_worker(job: dict[str, Any], names: deque[str | None]) -> None:
    vault = _sender(job["vault"], {"X-Vault-Token": job["token"]})
    respan = _sender(job["respan"], {"Authorization": f"Bearer {job['key']}", "Content-Type": "application/json"})
    again, mount, expires, early = job["again"], job["mount"], job["expires_at"], job["early"]

    def data(cas: int, key_id: str, name: str, key: str) -> str:
        record = (
            f"v=1,owner=bench,target={name},key_id={key_id},key_name=bench.{name}.0123456789.1.abcdefgh,"
            f"issued_at={expires},expires_at={expires},params=0123456789abcdef,key=0123456789abcdef"
        )
        return f'{{"options":{{"cas":{cas}}},"data":{{"api_key":"{key}","rotator":"{record}"}}}}'

    while name := names.popleft():
        path = f"/v1/{mount}/data/apps/{name}"
        base, old = 0, ""
        vault("GET", f"/v1/{mount}/metadata/apps/{name}")
        if again:
            current = json.loads(vault("GET", path))["data"]
            base = current["metadata"]["version"]
            old = KEYS + current["data"]["rotator"].partition("key_id=")[2].partition(",")[0] + "/"
        vault("POST", path, data(NEVER, "x" * 64, name, "x" * 128))
        body = f'{{"name":"bench.{name}.0123456789.{base + 1}.abcdefgh","expiry_date":"{expires}"}}'
        made = json.loads(respan("POST", KEYS, body))
        vault("POST", path, data(base, made["id"], name, made["api_key"]))
        if again:
            respan("GET", old)
            respan("PATCH", old, f'{{"expiry_date":"{early}"}}')


def _sender(url: str, headers: Mapping[str, str]) -> Callable[..., bytes]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)

    def send(method: str, path: str, body: str | None = None) -> bytes:
        connection.request(method, path, body, headers)
        return connection.getresponse().read()

    return send


@dataclass(frozen=True)
class Run:
    """One process, from its start to its end. Seconds, and mebibytes at most."""

    wall: float
    cpu: float
    memory: float


class Site:
    """A Vault, a simulator, and the two contestants on them."""

    def __init__(self, vault: Any, respan: str, key: str, folder: Path) -> None:
        self.vault = vault
        self._folder, self._respan, self._key = folder, respan, key
        self._names = [f"app-{number:04}" for number in range(TARGETS)]

    def run(self, contestant: int, what: str, mount: str) -> Run:
        """Let rotator (0) or the bare loop (1) do its part, on all targets."""
        return (self._bare if contestant else self._rotator)(what, mount)

    def _rotator(self, what: str, mount: str) -> Run:
        provider = {"type": "respan", "base_url": self._respan, "api_key": {"env": "RESPAN_API_KEY"}}
        settings = {
            "owner": "bench",
            "daemon": {"workers": WORKERS},
            "providers": {"respan": {**provider, "requests_per_minute": 100_000}},
            "stores": {"vault": {"type": "vault", "address": self.vault.address, "mount": mount}},
            "defaults": {"ttl": "1h", "renew_before": "20m", "grace_period": "10m"},
            "targets": {name: {"path": f"apps/{name}"} for name in self._names},
        }
        config = self._folder / "rotator.json"
        config.write_text(json.dumps(settings))
        secrets = {"RESPAN_API_KEY": self._key, "VAULT_TOKEN": self.vault.root_token}
        return self._run([str(ROTATOR), *what.split(), "--config", str(config)], {**os.environ, **secrets})

    def _bare(self, what: str, mount: str) -> Run:
        expires_at, early = (f"{datetime.now(UTC) + timedelta(minutes=m):%Y-%m-%dT%H:%M:%SZ}" for m in (60, 10))
        job = {"vault": self.vault.address, "token": self.vault.root_token, "mount": mount, "again": what == AGAIN}
        job |= {"respan": self._respan, "key": self._key, "expires_at": expires_at, "early": early}
        job["targets"] = [] if what == START_UP else self._names
        file = self._folder / "bare.json"
        file.write_text(json.dumps(job))
        return self._run([sys.executable, __file__, "--bare", str(file)], dict(os.environ))

    def _run(self, command: list[str], environment: dict[str, str]) -> Run:
        log = self._folder / "output.log"
        with log.open("wb") as output:
            started = time.perf_counter()
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{log.read_text()[-2000:]}\n{' '.join(command)} ended with status {process.returncode}")
        return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)

    def journal(self, since: int = 0) -> list[dict[str, Any]]:
        """The simulator's calls after that number."""
        answer = _sender(self._respan, {})("GET", f"/_simulator/journal?since={since}")
        return list(json.loads(answer)["calls"])

    def audited(self, contestant: int, what: str, mount: str) -> dict[str, Counter[tuple[str, ...]]]:
        """Run it, and tell what is asked of Vault for each path, of Respan for each key: how often each sequence."""
        audit = self._folder / "audit.log"
        audit.unlink(missing_ok=True)
        device = {"type": "file", "options": {"file_path": str(audit)}}
        self.vault.request("PUT", "sys/audit/bench", device).raise_for_status()
        before = len(self.journal())
        self.run(contestant, what, mount)
        self.vault.request("DELETE", "sys/audit/bench").raise_for_status()
        of_path, of_key = defaultdict(list), defaultdict(list)
        for entry in map(json.loads, audit.read_text().splitlines()):
            asked = entry["request"]
            if entry["type"] == "response" and asked["path"].startswith(f"{mount}/"):
                _, kind, path = asked["path"].split("/", 2)
                of_path[path].append(f"{asked['operation']} {kind}" + (" (refused)" if "error" in entry else ""))
        for call in self.journal(before):
            of_key[call["key_name"]].append(f"{call['operation']} {call['status']}")
        counted = {"Vault, a path": of_path, "Respan, a key": of_key}
        return {where: Counter(map(tuple, found.values())) for where, found in counted.items()}


def verify(site: Site) -> None:
    """One round of each with the audit log on; SystemExit unless both ask for the same."""
    mounts = [site.vault.new_mount(), site.vault.new_mount()]
    for what in (FIRST, AGAIN):
        ours, theirs = (site.audited(contestant, what, mounts[contestant]) for contestant in (0, 1))
        if ours != theirs:
            raise SystemExit(f"{what}: the calls differ\nrotator: {ours}\nbare:    {theirs}")
        for where, sequences in ours.items():
            for sequence, count in sequences.items():
                print(f"{what}: {where}: {count} x {', '.join(sequence)}")


def repeat(site: Site) -> dict[str, list[tuple[Run, Run]]]:
    """Pairs of runs, rotator's and the bare loop's, by what they did."""
    runs: dict[str, list[tuple[Run, Run]]] = {START_UP: [], FIRST: [], AGAIN: []}
    for number in range(REPETITIONS):
        mounts = [site.vault.new_mount(), site.vault.new_mount()]
        for what, pairs in runs.items():
            done: dict[int, Run] = {}
            asked: list[Counter[tuple[str, int]]] = []
            for contestant in (0, 1) if number % 2 else (1, 0):
                before = len(site.journal())
                done[contestant] = site.run(contestant, what, mounts[contestant])
                asked.append(Counter((call["operation"], call["status"]) for call in site.journal(before)))
            if asked[0] != asked[1]:
                raise SystemExit(f"{what}: the calls differ: {asked}")
            pairs.append((done[0], done[1]))
    return runs


def report(runs: Mapping[str, list[tuple[Run, Run]]]) -> None:
    """Print medians, and lowest and highest; ratios are medians of each pair's."""

    def row(what: str, values: list[list[float]]) -> None:
        columns = [*values, [ours / theirs for ours, theirs in zip(*values, strict=True)]]
        shown = [f"{statistics.median(column):9.2f} ({min(column):6.2f} to {max(column):6.2f})" for column in columns]
        print(f"{what:<42}", *shown)

    print(f"\n{'median (lowest to highest)':<42} {'rotator':>28} {'bare loop':>28} {'ratio':>28}")
    wall, cpu = ([[getattr(p[i], f) for p in runs[START_UP]] for i in (0, 1)] for f in ("wall", "cpu"))
    row("start-up: seconds", wall)
    row("start-up: CPU seconds", cpu)
    for what in (FIRST, AGAIN):
        sides = list(zip(*runs[what], strict=True))
        for words, share in (("", 0), (" without start-up", 1)):
            idle = [(share * statistics.median(wall[i]), share * statistics.median(cpu[i])) for i in (0, 1)]
            row(f"{what}: rotations/s{words}", [[TARGETS / (r.wall - idle[i][0]) for r in sides[i]] for i in (0, 1)])
            costs = [[(run.cpu - idle[i][1]) / TARGETS * 1000 for run in sides[i]] for i in (0, 1)]
            row(f"{what}: CPU ms/rotation{words}", costs)
        row(f"{what}: memory at most, MiB", [[run.memory for run in side] for side in sides])


def main() -> None:
    """Set up Vault and the simulator, verify, repeat, report."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from support.vault import dev_vault  # here, so that the bare loop need not import it

    command = [str(ROTATOR), "simulate", "--port", "0", "--requests-per-minute", "0"]
    with (
        tempfile.TemporaryDirectory() as folder,
        dev_vault() as vault,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as simulator,
    ):
        try:
            assert simulator.stdout is not None
            url = simulator.stdout.readline().split('"')[1]
            key = simulator.stdout.readline().strip().partition("=")[2]
            print(f"{TARGETS} targets, {WORKERS} threads, {REPETITIONS} repetitions, {os.cpu_count()} CPUs")
            site = Site(vault, url, key, Path(folder))
            verify(site)
            report(repeat(site))
        finally:
            simulator.terminate()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--bare"]:
        bare(json.loads(Path(sys.argv[2]).read_text()))
    else:
        main()
