"""How late keys are replaced, in simulated time, by the real schedule, budget, planner and reconciler.

The world around them is that of tests/simulation/fleet.py: a week of $BENCH_TARGETS targets at the default times, which
use half of the provider's limit, 95 percent, or all of it. A second week at 95 percent has an outage of the provider of
half a `renew_before` after two days; in a week at 80 percent a reload changes all targets after two days. In a week at
20 percent keys are replaced in windows alone, which are open for two of eight hours. All targets are new when the week
begins. A key is late when it is replaced after its margin (`renew_before`) has begun; jitter and levelling replace keys
before that, so most are early. Each week runs in a process of its own and is printed when it ends: real time decides
nothing here.
"""

import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import timedelta

from simulation.fleet import Fleet
from simulation.windows import Repeated
from support.world import START

from benchmarks.common import Results, whole_numbers

[TARGETS], [DAYS] = whole_numbers("BENCH_TARGETS", "10000"), whole_numbers("BENCH_DAYS", "7")
BEFALLS_AT = timedelta(days=2)
IN_TIME = timedelta(minutes=1)  # a rotation that begins in a window may wait for its requests, and end after it
EVERY, IS_OPEN = timedelta(hours=8), timedelta(hours=2)
"""When windows open, and for how long: the gap is three quarters of `renew_before`, the longest that is allowed."""


@dataclass(frozen=True, slots=True)
class Week:
    """What is simulated."""

    used: float  # of the budget, about: the limit is a whole number
    outage: bool = False
    changed: bool = False  # every target, at once
    windows: bool = False

    @property
    def name(self) -> str:
        """For people."""
        what = ", half a renew_before of outage" if self.outage else ", all targets changed" if self.changed else ""
        return f"{self.used:.0%} of the budget{', in windows' if self.windows else what}"

    @property
    def prefix(self) -> str:
        """What the names of its rows begin with."""
        return "outage: " if self.outage else "windows: " if self.windows else ""


def run(week: Week) -> tuple[Week, str, dict[str, tuple[float, str]]]:
    """Let it pass. Returns what it was, in words, and its rows: values and units by name."""
    began = time.perf_counter()
    of_one = Fleet(1000, 1.0).targets / 1000  # that a limit of one request a minute is enough for
    limit = max(1, round(TARGETS / of_one / week.used))
    used = min(
        (TARGETS + 0.5) / of_one / limit, 1.0
    )  # of a whole budget all, and not more: the limit is a whole number
    fleet = Fleet(limit, used, changed_at=BEFALLS_AT if week.changed else None)
    if week.windows:
        fleet.windows = (Repeated(EVERY, IS_OPEN),)
    down = (BEFALLS_AT, BEFALLS_AT + fleet.renew_before / 2)
    calls = fleet.run(timedelta(days=DAYS), (down,) if week.outage else ())
    late = sorted(one.late for one in fleet.replaced)
    left = min((one.expires_at - one.at).total_seconds() for one in fleet.replaced)
    cuts = statistics.quantiles(late, n=100, method="inclusive")
    margin = fleet.renew_before.total_seconds()
    rows = {
        "rotations": (float(len(late)), ""),
        "lateness, p50": (statistics.median(late), "s"),
        "lateness, p99": (cuts[98], "s"),
        "lateness, worst": (late[-1], "s"),
        "replaced more than a minute late": (100 * sum(one > 60 for one in late) / len(late), "%"),
        "worst margin left": (left / 3600, "h"),
        "worst margin left, of renew_before": (100 * left / margin, "%"),
        "expired before they were replaced": (float(sum(one.at >= one.expires_at for one in fleet.replaced)), ""),
    }
    if week.windows:
        outside = sum((one.at - START) % EVERY > IS_OPEN + IN_TIME for one in fleet.replaced)
        rows["replaced outside of a window"] = (float(outside), "")
    if week.outage:
        after = [one.at - fleet.began - down[1] for one in fleet.replaced if one.late > 60]
        rows["backlog worked off after"] = (max(after).total_seconds() / 3600 if after else 0.0, "h")
    made = fleet.first + len(fleet.replaced)
    del calls["probe"]  # none is configured
    rows |= {f"{what}, a rotation": (count / made, "") for what, count in sorted(calls.items())}
    to_vendor = sum(count for what, count in calls.items() if what.startswith("provider."))
    rows["all to the provider, a rotation"] = (to_vendor / made, "")
    seconds = time.perf_counter() - began
    words = f"{fleet.targets} targets, {limit} requests a minute, {fleet.used:.1%} used, {DAYS} days in {seconds:.0f} s"
    return week, words, rows


def main() -> None:
    """Let the weeks pass, and print what came of them."""
    results = Results("Lateness", "percent of the budget")
    weeks = [Week(1.0), Week(0.95, outage=True), Week(0.95), Week(0.8, changed=True), Week(0.5)]  # the longest first
    weeks.append(Week(0.2, windows=True))
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for done in as_completed([pool.submit(run, week) for week in weeks]):
            week, words, rows = done.result()
            print(f"{week.name}: {words}", flush=True)
            for name, (value, unit) in rows.items():
                results.add(round(100 * week.used), f"{week.prefix}{name}", [value], unit)
    results.end()


if __name__ == "__main__":
    main()
