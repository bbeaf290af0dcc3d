"""What the benchmarks share: the servers, the kernel's figures of a process, and how results are printed and kept."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
ROTATOR = Path(sys.executable).parent / "rotator"

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def whole_numbers(variable: str, otherwise: str) -> tuple[int, ...]:
    """The numbers, separated by commas, that the environment names, or else these."""
    return tuple(int(number) for number in os.environ.get(variable, otherwise).split(","))


# --- processes -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Usage:
    """The kernel's present figures of a process."""

    cpu: float  # seconds, of all threads
    memory: int  # bytes, resident
    threads: int
    files: int  # descriptors
    wakes: dict[int, int]  # by thread, how often it gave the CPU up to wait for something

    @classmethod
    def of(cls, pid: int) -> "Usage":
        """Raises FileNotFoundError if it has ended."""
        here = Path(f"/proc/{pid}")
        wakes = {}
        for status in here.glob("task/*/status"):
            line = next(line for line in status.read_text().splitlines() if line.startswith("voluntary_ctxt"))
            wakes[int(status.parent.name)] = int(line.split()[1])
        resident = int((here / "statm").read_text().split()[1]) * PAGE
        return cls(cpu_of(pid), resident, len(wakes), len(list((here / "fd").iterdir())), wakes)

    def wakes_since(self, before: "Usage") -> int:
        """Of the threads that are still there."""
        return sum(count - before.wakes.get(thread, 0) for thread, count in self.wakes.items())


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat that follow the name, the state first."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def cpu_of(pid: int) -> float:
    """Seconds of CPU time that a process has taken, threads that ended included; 0 for none (pid 0)."""
    fields = _stat(pid) if pid else ["0"] * 13
    return (int(fields[11]) + int(fields[12])) / TICKS


def children() -> set[int]:
    """The processes that this one has started."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int(_stat(int(entry.name))[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            if parent == os.getpid():
                found.add(int(entry.name))
    return found


# --- servers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Vault:
    """A Vault in memory. `pid` is 0 where it is not ours (the environment names one)."""

    server: Any
    pid: int


@contextmanager
def running_vault() -> Iterator[Vault]:
    """Yield a dev server of our own, or the one that the environment names for the tests."""
    from support.vault import dev_vault  # here: a benchmark without Vault must not need it

    before = children()
    with dev_vault() as server:
        started = children() - before
        yield Vault(server, started.pop() if len(started) == 1 else 0)


@dataclass(frozen=True, slots=True)
class Vendor:
    """The simulator, a process of its own, without a limit on requests."""

    url: str
    key: str
    pid: int


@contextmanager
def running_vendor() -> Iterator[Vendor]:
    """A new one."""
    command = [str(ROTATOR), "simulate", "--port", "0", "--set", "requests_per_minute=none"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split('"')[1]
            key = process.stdout.readline().strip().partition("=")[2]
            yield Vendor(url, key, process.pid)
        finally:
            process.terminate()


# --- results ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Row:
    """One thing that was measured, at some values of x, several times each."""

    name: str
    unit: str
    plot: str = ""  # the plot that it belongs on
    points: dict[int, list[float]] = field(default_factory=dict)
    exponent: float | None = None  # of x, where a power of it was fitted

    def medians(self) -> dict[int, float]:
        """By x."""
        return {x: statistics.median(values) for x, values in self.points.items()}


@dataclass(slots=True)
class Results:
    """Rows over one x. Each is printed when it is added, and all are kept in $BENCH_OUT, if that names a file."""

    title: str
    x: str
    rows: dict[str, Row] = field(default_factory=dict)

    def add(self, at: int, name: str, values: Sequence[float], unit: str = "", plot: str = "") -> None:
        """Keep and print a row's values at one x."""
        self.rows.setdefault(name, Row(name, unit, plot)).points[at] = list(values)
        print(f"  {name:<56} {shown(values)} {unit}", flush=True)

    def end(self) -> None:
        """Print all rows again, as a Markdown table, and save them."""
        columns = sorted({x for row in self.rows.values() for x in row.points})
        fitted = any(row.exponent is not None for row in self.rows.values())
        heads = [self.x, *(f"{x:,}" for x in columns), *(["exponent"] if fitted else [])]
        print(f"\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
        for row in self.rows.values():
            cells = [brief(row.points[x]) if x in row.points else "" for x in columns]
            if fitted:
                cells.append("" if row.exponent is None else f"{row.exponent:.2f}")
            print(f"| {row.name}{row.unit and ', '}{row.unit} | {' | '.join(cells)} |", flush=True)
        self.save()

    def save(self) -> None:
        """Write all to the file."""
        if file := os.environ.get("BENCH_OUT"):
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            about = {"at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", "cpus": os.cpu_count()}
            about |= {"python": sys.version.split()[0], "title": self.title, "x": self.x}
            rows = [asdict(row) for row in self.rows.values()]
            Path(file).write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


def shown(values: Sequence[float]) -> str:
    """Return the median, with the lowest and the highest of several values."""
    if len(values) == 1:
        return f"{values[0]:10.3f}"
    return f"{statistics.median(values):10.3f} ({min(values):.3f} to {max(values):.3f})"


def brief(values: Sequence[float]) -> str:
    """Return the same to three digits, for a table; equal values are one number."""
    middle, *ends = (_digits(value) for value in (statistics.median(values), min(values), max(values)))
    return middle if len(set(values)) == 1 else f"{middle} ({ends[0]} to {ends[1]})"


def _digits(value: float) -> str:
    size = abs(value)
    return (
        f"{value:,.0f}"
        if size >= 100
        else f"{value:.1f}"
        if size >= 10
        else f"{value:.2f}"
        if size >= 1
        else f"{value:.3f}"
    )


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Of each pair."""
    return [one / other for one, other in zip(ours, theirs, strict=True)]
