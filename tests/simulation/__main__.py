"""Replays one schedule (`python -m simulation SEED`), or runs as many as wanted (`python -m simulation --many N`)."""

import argparse
import itertools
import sys
import time

from simulation.many import pool, profile_of, run_many
from simulation.mutations import MUTATIONS, mutated
from simulation.run import shortest, simulate
from simulation.settings import PROFILES, Profile


def main() -> int:
    """0: no promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m simulation", description=__doc__)
    parser.add_argument("seed", type=int, nargs="?", default=0, help="of the schedule, or of the first of many")
    parser.add_argument("--profile", choices=PROFILES, help="another kind of schedule than that number's")
    parser.add_argument("--mutation", choices=MUTATIONS, default="", help="take this rule away first")
    parser.add_argument("--without", nargs="*", default=[], metavar="NAME", help="leave these disturbances out")
    parser.add_argument("--shortest", action="store_true", help="leave all out that can be, if a promise is broken")
    parser.add_argument("--all", action="store_true", help="show passes and sweeps that did nothing, too")
    parser.add_argument("--many", type=int, metavar="N", help="run so many schedules; 0: until it is stopped")
    options = parser.parse_args()
    mutation = MUTATIONS.get(options.mutation)
    profile = PROFILES.get(options.profile or "") or (mutation.schedules if mutation else None)
    if options.many is not None:
        return _many(options.seed, options.many, profile, options.mutation)
    promises = mutation.breaks if mutation else ()
    with mutated(options.mutation):
        outcome = simulate(options.seed, profile or profile_of(options.seed), options.without, promises)
        if options.shortest and outcome.broken:
            outcome = shortest(outcome)
    sys.stdout.write((outcome.trace(outcome.steps) if options.all else str(outcome)) + "\n")
    return 1 if outcome.broken else 0


def _many(first: int, number: int, profile: Profile | None, mutation: str) -> int:
    began, done, failed = time.monotonic(), 0, 0
    batch = 2000
    with pool() as executor:
        for start in itertools.count(first, batch):
            if number and start >= first + number:
                break
            seeds = range(start, min(start + batch, first + number) if number else start + batch)
            for found in run_many(executor, seeds, profile, mutation):
                done += found.schedules
                if found.failing is not None:
                    failed += 1
                    sys.stdout.write(found.trace + "\n\n")
            rate = done / (time.monotonic() - began)
            sys.stdout.write(f"{done} schedules, {failed} failed, {rate:.0f} a second\n")
            sys.stdout.flush()
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
