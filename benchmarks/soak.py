"""No growth over a long run: a daemon on SQLite whose keys live for seconds, against the simulator.

Each target's key is replaced every ten seconds: five minutes are thirty lives of each, which take three weeks at the
default times. The benchmark samples memory, threads and file descriptors every second, and requests /metrics and the
pages as a Prometheus and a person would. After the start it compares the medians of the first and the last third of the
run. Then it reloads the daemon $BENCH_RELOADS times, each time with one changed target and a tenth of them replaced.
It compares again. It exits with status 1 if a rotation failed, or memory or threads grew by a fifth.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.common import Results, Usage, Vendor, running_vendor, whole_numbers
from benchmarks.daemon import Daemon, running

[SECONDS], [TARGETS] = whole_numbers("BENCH_SOAK", "300"), whole_numbers("BENCH_TARGETS", "300")
[RELOADS] = whole_numbers("BENCH_RELOADS", "20")
START = 30.0
"""Seconds to leave out: the first keys of all targets, and one-time imports and allocations."""

ASK_EVERY, AFTER_RELOADS = 5, 30.0
TOO_MUCH = 1.2
ROTATIONS = "rotator_rotations_total"


def configure(folder: Path, vendor: Vendor, generation: int = 0) -> Path:
    """Write a configuration with short lives. Each generation changes one target and replaces a tenth of them."""
    staying = TARGETS - TARGETS // 10
    names = [f"app-{number}" if number < staying else f"app-{number}-{generation}" for number in range(TARGETS)]
    targets: dict[str, dict[str, str]] = {name: {"path": f"apps/{name}"} for name in names}
    targets["app-0"]["grace_period"] = f"{3 + generation % 2}s"
    provider = {"type": "respan", "base_url": vendor.url, "api_key": {"env": "RESPAN_API_KEY"}}
    settings = {
        "owner": "bench",
        "daemon": {"resync": "20s"},
        "sweep": {"interval": "20s", "min_age": "10s"},
        "http": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"},
        "providers": {"respan": {**provider, "requests_per_minute": 100_000}},
        "stores": {"sqlite": {"type": "sqlite", "file": str(folder / "keys.db")}},
        "defaults": {"ttl": "30s", "renew_before": "20s", "grace_period": "5s"},
        "targets": targets,
    }
    file = folder / "rotator.json"
    file.write_text(json.dumps(settings))
    return file


def watch(daemon: Daemon, seconds: float) -> list[Usage]:
    """Sample its usage each second."""
    seen: list[Usage] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        if len(seen) % ASK_EVERY == 0:
            for page, admin in (("/metrics", False), ("/", True), ("/status.json", True)):
                daemon.get(page, admin=admin)
        time.sleep(1)
        seen.append(daemon.usage())
    return seen


def failures(daemon: Daemon) -> int:
    """Return how many rotations failed."""
    lines = daemon.get("/metrics")[1].decode().splitlines()
    counted = [line for line in lines if line.startswith(ROTATIONS) and 'outcome="failure"' in line]
    return int(sum(float(line.rpartition(" ")[2]) for line in counted))


def main() -> None:
    """Run, compare, reload, compare."""
    results = Results("A soak", "seconds")
    with running_vendor() as vendor, tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with running(configure(folder, vendor), {"RESPAN_API_KEY": vendor.key}) as daemon:
            time.sleep(START)
            began, before = time.perf_counter(), daemon.sums(ROTATIONS)[ROTATIONS]
            cpu = daemon.usage().cpu
            seen = watch(daemon, SECONDS)
            rotations = daemon.sums(ROTATIONS)[ROTATIONS] - before
            elapsed, cpu = time.perf_counter() - began, daemon.usage().cpu - cpu
            for number in range(RELOADS):
                configure(folder, vendor, number + 1)
                daemon.reload()
                daemon.event("configuration_loaded", number + 1)
                time.sleep(0.2)
            reloaded = watch(daemon, AFTER_RELOADS)[5:]
            failed = failures(daemon)
    grown = []
    third = max(1, len(seen) // 3)
    print(f"{TARGETS} targets, {SECONDS} s, {rotations / elapsed:.1f} rotations a second, {failed} failed", flush=True)
    results.add(SECONDS, "rotations", [rotations])
    results.add(SECONDS, "CPU", [cpu / elapsed * 100], "% of one CPU")
    for name, unit, scale in (("memory", "MiB", 2.0**20), ("threads", "", 1.0), ("files", "", 1.0)):
        first, last, after = (
            [getattr(usage, name) / scale for usage in part] for part in (seen[:third], seen[-third:], reloaded)
        )
        results.add(SECONDS, f"{name}, first third", first, unit)
        results.add(SECONDS, f"{name}, last third", last, unit)
        ratios = {
            "last / first third": statistics.median(last) / statistics.median(first),
            "after / before the reloads": statistics.median(after) / statistics.median(last),
        }
        results.add(SECONDS, f"{name}, after {RELOADS} reloads", after, unit)
        for of, ratio in ratios.items():
            results.add(SECONDS, f"{name}, {of}", [ratio])
            if ratio > TOO_MUCH and name != "files":  # these are the connections of the moment, and come and go
                grown.append(f"{name}, {of}: {ratio:.2f}")
    results.end()
    if failed or grown:
        raise SystemExit(f"{failed} rotations failed; grown by more than a fifth: {', '.join(grown) or 'nothing'}")


if __name__ == "__main__":
    main()
