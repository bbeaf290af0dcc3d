"""How long an application is without a working key because a cap is spent, in simulated time.

The world is that of tests/simulation/spending.py: one target at the default times, whose key allows 100,000 calls. The
application makes half of them until its key is replaced by its expiry, but for one burst of $BENCH_BURST minutes a day,
at a time of its own, at $BENCH_TIMES of that rate. It uses each new key $BENCH_PICKUP minutes after it was published.
Each run lasts $BENCH_DAYS days, in a process of its own: real time decides nothing here.
"""

import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import timedelta
from random import Random

from simulation.spending import DAY, Spending, with_bursts

from benchmarks.common import Results, whole_numbers
from rotator.core.target import CapPolicy

[DAYS], [BURST] = whole_numbers("BENCH_DAYS", "30"), whole_numbers("BENCH_BURST", "120")
PICKUPS, TIMES = whole_numbers("BENCH_PICKUP", "1,5,15,60"), whole_numbers("BENCH_TIMES", "10,30")
MINUTE = timedelta(minutes=1)
LASTS = timedelta(hours=32)
"""How long a key lasts without bursts: twice the time until it is replaced by its expiry."""


@dataclass(frozen=True, slots=True)
class Run:
    """What is simulated. The bursts of all runs begin at the same times."""

    times: int
    pickup: int
    most: int  # early rotations in 24 hours; 0: spent keys are only reported
    looks_alone: bool = True

    @property
    def name(self) -> str:
        """For people."""
        how = f"replace, {self.most} a day" if self.most else "report"
        return f"{self.times} times, {how}{'' if self.looks_alone else ', no look-ups'}"


def run(it: Run) -> tuple[Run, dict[str, tuple[float, str]]]:
    """Let the time pass. Return a day's share of what came of it: values and units by name."""
    rate = with_bursts(LASTS, it.times, BURST * MINUTE, Random(16))
    policy = CapPolicy(replaces=it.most > 0, pickup=it.pickup * MINUTE, max_early_rotations=it.most or 4)
    spending = Spending(rate, policy, looks_alone=it.looks_alone).run(DAYS * DAY)
    requests = spending.requests
    return it, {
        "dead": (spending.refused / MINUTE / DAYS, "min/day"),
        "early rotations": (len(spending.early()) / DAYS, "/day"),
        "look-ups": (requests["retrieve"] / DAYS, "/day"),
        "requests but for the list": ((requests.total() - requests["page"]) / DAYS, "/day"),
    }


def main() -> None:
    """Let it pass for each case, and print what came of it."""
    results = Results("Caps", "pickup, minutes")
    how = [(0, True), (4, True), (12, True), (12, False)]
    runs = [Run(times, pickup, *which) for times in TIMES for which in how for pickup in PICKUPS]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for done in as_completed([pool.submit(run, it) for it in runs]):
            it, rows = done.result()
            print(f"{it.name}, pickup {it.pickup} min", flush=True)
            for name, (value, unit) in rows.items():
                results.add(it.pickup, f"{it.name}: {name}", [value], unit)
    results.end()


if __name__ == "__main__":
    main()
