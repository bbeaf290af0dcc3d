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

import argparse
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).parents[1]
ROTATOR = Path(sys.executable).parent / "rotator"
WORKERS = 8
KEYS = "/api/temporary-keys/"
NEVER = 2**31 - 1  # a version that no path has: Vault refuses the write after all other rules
FIRST, AGAIN = "run --once", "rotate --all"

Calls = Mapping[str, Counter[tuple[str, ...]]]  # of Vault and of Respan: how often each sequence occurs


# --- the bare loop ---------------------------------------------------------------------------------------------------


def bare(job: dict[str, Any]) -> None:
    """Rotate `job["targets"]`, for the first time or again."""
    names = deque(job["targets"])
    threads = [threading.Thread(target=_bare_worker, args=(job, names)) for _ in range(WORKERS if names else 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _bare_worker(job: dict[str, Any], names: deque[str]) -> None:
    vault = _sender(job["vault"], {"X-Vault-Token": job["token"]})
    respan = _sender(job["respan"], {"Authorization": f"Bearer {job['key']}", "Content-Type": "application/json"})
    again, mount, expires, early = job["again"], job["mount"], job["expires_at"], job["early"]

    def data(cas: int, key_id: str, name: str, key: str) -> str:
        record = (
            f"v=1,owner=bench,target={name},key_id={key_id},key_name=bench.{name}.0123456789.1.abcdefgh,"
            f"issued_at={expires},expires_at={expires},params=0123456789abcdef,key=0123456789abcdef"
        )
        return f'{{"options":{{"cas":{cas}}},"data":{{"api_key":"{key}","rotator":"{record}"}}}}'

    while True:
        try:
            name = names.popleft()
        except IndexError:
            return
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


# --- what both are run on --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One process, from its start to its end. Seconds, and mebibytes at most."""

    wall: float
    cpu: float
    memory: float


class Site:
    """A Vault, a simulator, and the two contestants on them."""

    def __init__(self, vault: Any, respan: str, key: str, folder: Path, targets: int) -> None:
        self.vault, self.folder = vault, folder
        self._respan, self._key = respan, key
        self.names = [f"app-{number:04}" for number in range(targets)]
        self._audit = folder / "audit.log"

    def rotator(self, mount: str, *command: str) -> Run:
        """Run a command of rotator, on all targets."""
        config = self.folder / "rotator.json"
        providers = {"base_url": self._respan, "api_key": {"env": "RESPAN_API_KEY"}, "requests_per_minute": 100_000}
        settings = {
            "owner": "bench",
            "daemon": {"workers": WORKERS},
            "providers": {"respan": {"type": "respan", **providers}},
            "stores": {"vault": {"type": "vault", "address": self.vault.address, "mount": mount}},
            "defaults": {"ttl": "1h", "renew_before": "20m", "grace_period": "10m"},
            "targets": {name: {"path": f"apps/{name}"} for name in self.names},
        }
        config.write_text(json.dumps(settings))
        secrets = {"RESPAN_API_KEY": self._key, "VAULT_TOKEN": self.vault.root_token}
        return self._run([str(ROTATOR), *command, "--config", str(config)], {**os.environ, **secrets})

    def bare(self, mount: str, what: str | None) -> Run:
        """Run the bare loop; over nothing for None."""

        def at(seconds: int) -> str:
            return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))

        job = self.folder / "bare.json"
        wanted = {"vault": self.vault.address, "token": self.vault.root_token, "mount": mount, "again": what == AGAIN}
        wanted |= {"respan": self._respan, "key": self._key, "expires_at": at(3600), "early": at(600)}
        job.write_text(json.dumps({**wanted, "targets": self.names if what else []}))
        return self._run([sys.executable, str(Path(__file__).resolve()), "--bare", str(job)], dict(os.environ))

    def _run(self, command: list[str], environment: dict[str, str]) -> Run:
        with (self.folder / "output.log").open("wb") as output:
            started = time.perf_counter()
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            print((self.folder / "output.log").read_text()[-2000:], file=sys.stderr)
            raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}")
        return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)

    # --- who asked for what ---

    def journal(self, since: int = 0) -> list[dict[str, Any]]:
        """The simulator's calls after that number."""
        ask = _sender(self._respan, {})
        calls: list[dict[str, Any]] = json.loads(ask("GET", f"/_simulator/journal?since={since}"))["calls"]
        return calls

    @contextmanager
    def audited(self, mount: str, calls: dict[str, Counter[tuple[str, ...]]]) -> Iterator[None]:
        """Put into `calls` what is asked of Vault and Respan meanwhile, by path and by key."""
        device = {"type": "file", "options": {"file_path": str(self._audit)}}
        self._audit.unlink(missing_ok=True)
        self.vault.request("PUT", "sys/audit/bench", device).raise_for_status()
        number = len(self.journal())
        yield
        self.vault.request("DELETE", "sys/audit/bench").raise_for_status()
        of_path, of_key = defaultdict(list), defaultdict(list)
        for entry in map(json.loads, self._audit.read_text().splitlines()):
            asked = entry["request"]
            if entry["type"] == "response" and asked["path"].startswith(f"{mount}/"):
                kind, path = asked["path"].removeprefix(f"{mount}/").split("/", 1)
                of_path[path].append(f"{asked['operation']} {kind}" + (" (refused)" if "error" in entry else ""))
        for call in self.journal(number):
            of_key[call["key_name"]].append(f"{call['operation']} {call['status']}")
        calls["Vault, each path"] = Counter(map(tuple, of_path.values()))
        calls["Respan, each key"] = Counter(map(tuple, of_key.values()))


# --- the comparison --------------------------------------------------------------------------------------------------


def verify(site: Site) -> None:
    """One round of each with the audit log on; SystemExit unless both ask for the same."""
    commands = {FIRST: ("run", "--once"), AGAIN: ("rotate", "--all")}
    ours, theirs = site.vault.new_mount(), site.vault.new_mount()
    for what, command in commands.items():
        rotator: dict[str, Counter[tuple[str, ...]]] = {}
        loop: dict[str, Counter[tuple[str, ...]]] = {}
        with site.audited(ours, rotator):
            site.rotator(ours, *command)
        with site.audited(theirs, loop):
            site.bare(theirs, what)
        if rotator != loop:
            raise SystemExit(f"{what}: the calls differ\nrotator: {rotator}\nbare:    {loop}")
        for where, sequences in rotator.items():
            for sequence, count in sequences.items():
                print(f"{what}: {where}: {count} x {', '.join(sequence)}")


def repeat(site: Site, repetitions: int) -> dict[str, list[tuple[Run, Run]]]:
    """Pairs of runs, rotator's and the bare loop's, by what they did."""
    runs: dict[str, list[tuple[Run, Run]]] = {"start-up": [], FIRST: [], AGAIN: []}
    for number in range(repetitions):
        ours, theirs = site.vault.new_mount(), site.vault.new_mount()
        pairs: dict[str, tuple[Callable[[], Run], Callable[[], Run]]] = {
            "start-up": (lambda: site.rotator(ours, "check"), lambda: site.bare(theirs, None)),  # noqa: B023
            FIRST: (lambda: site.rotator(ours, "run", "--once"), lambda: site.bare(theirs, FIRST)),  # noqa: B023
            AGAIN: (lambda: site.rotator(ours, "rotate", "--all"), lambda: site.bare(theirs, AGAIN)),  # noqa: B023
        }
        for what, pair in pairs.items():
            done: dict[int, Run] = {}
            asked = []
            for contestant in (0, 1) if number % 2 else (1, 0):
                before = len(site.journal())
                done[contestant] = pair[contestant]()
                asked.append(Counter((call["operation"], call["status"]) for call in site.journal(before)))
            if asked[0] != asked[1]:
                raise SystemExit(f"{what}: the calls differ: {asked}")
            runs[what].append((done[0], done[1]))
    return runs


def _row(what: str, pairs: Sequence[tuple[float, float]]) -> None:
    def shown(values: list[float]) -> str:
        return f"{statistics.median(values):8.2f} ({min(values):7.2f} to {max(values):7.2f})"

    ratio = [ours / theirs for ours, theirs in pairs]
    ours, theirs = zip(*pairs, strict=True)
    print(f"{what:<46} {shown([*ours])}  {shown([*theirs])}  {shown(ratio)}")


def report(runs: Mapping[str, list[tuple[Run, Run]]], targets: int) -> None:
    """Print medians, and lowest and highest; ratios are medians of each pair's."""
    print(f"\n{'median (lowest to highest)':<46} {'rotator':>30}  {'bare loop':>30}  {'ratio':>30}")
    start = runs["start-up"]
    idle = [
        Run(*(statistics.median(getattr(p[i], f) for p in start) for f in ("wall", "cpu", "memory"))) for i in (0, 1)
    ]
    _row("start-up, seconds", [(a.wall, b.wall) for a, b in start])
    _row("start-up, CPU seconds", [(a.cpu, b.cpu) for a, b in start])
    for what in (FIRST, AGAIN):
        done = runs[what]
        _row(f"{what}: rotations/s", [(targets / a.wall, targets / b.wall) for a, b in done])
        working = [(targets / (a.wall - idle[0].wall), targets / (b.wall - idle[1].wall)) for a, b in done]
        _row(f"{what}: rotations/s without start-up", working)
        _row(f"{what}: CPU ms/rotation", [(a.cpu / targets * 1e3, b.cpu / targets * 1e3) for a, b in done])
        pairs = [((a.cpu - idle[0].cpu) / targets * 1e3, (b.cpu - idle[1].cpu) / targets * 1e3) for a, b in done]
        _row(f"{what}: CPU ms/rotation without start-up", pairs)
        _row(f"{what}: memory at most, MiB", [(a.memory, b.memory) for a, b in done])


def main(targets: int, repetitions: int) -> None:
    """Set up Vault and the simulator, verify, repeat, report."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from support.vault import dev_vault  # here, so that the bare loop need not import it

    command = [str(ROTATOR), "simulate", "--port", "0", "--requests-per-minute", "0"]
    with tempfile.TemporaryDirectory() as folder, dev_vault() as vault:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as simulator:
            try:
                assert simulator.stdout is not None
                url = simulator.stdout.readline().split('"')[1]
                key = simulator.stdout.readline().strip().partition("=")[2]
                site = Site(vault, url, key, Path(folder), targets)
                print(f"{targets} targets, {WORKERS} threads, {repetitions} repetitions, {os.cpu_count()} CPUs")
                verify(site)
                report(repeat(site, repetitions), targets)
            finally:
                simulator.terminate()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bare", type=Path, metavar="JOB", help="be the bare loop, on the job in this file")
    parser.add_argument("--targets", type=int, default=300)
    parser.add_argument("--repetitions", type=int, default=7)
    options = parser.parse_args()
    if options.bare:
        bare(json.loads(options.bare.read_text()))
    else:
        main(options.targets, options.repetitions)
