"""The CPU time of a start: commands that do no work, each beside an import of Typer alone in the same round."""

import resource
import subprocess
import sys

from benchmarks.common import ROTATOR, Results, ratios, whole_numbers

[REPETITIONS] = whole_numbers("BENCH_REPETITIONS", "15")
BARE = "import typer"
COMMANDS = {
    BARE: [sys.executable, "-c", BARE],
    "rotator --version": [str(ROTATOR), "--version"],
    "rotator --help": [str(ROTATOR), "--help"],
    "rotator schema": [str(ROTATOR), "schema"],
}


def cpu_of(command: list[str]) -> float:
    """Run the command, and return the milliseconds of CPU that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) * 1000


def main() -> None:
    """Measure all in turn, as often as is wanted."""
    results = Results("What a start costs", "runs")
    spent: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(REPETITIONS + 1):
        for name, command in COMMANDS.items():
            used = cpu_of(command)
            if number:  # the first round fills the caches
                spent[name].append(used)
    for name, each in spent.items():
        results.add(REPETITIONS, name, each, "ms of CPU")
        if name != BARE:
            results.add(REPETITIONS, f"{name} / {BARE}", ratios(each, spent[BARE]))
    results.end()


if __name__ == "__main__":
    main()
