"""The protocol's promises, over thousands of schedules. `python -m simulation SEED` (from tests/) replays one."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from simulation.many import pool, run_many
from simulation.run import simulate
from simulation.settings import CONTESTS, MEDDLING

SCHEDULES = int(os.environ.get("ROTATOR_SCHEDULES") or (10_000 if os.environ.get("CI") == "true" else 2_000))
BATCH = 1_000
BATCHES = [range(start, min(start + BATCH, SCHEDULES)) for start in range(0, SCHEDULES, BATCH)]

TO_HAPPEN = [
    *("kill", "freeze", "slow", "refused", "unsent", "lost", "late", "stale", "budget", "lagging list", "odd grant"),
    *(
        "false refusal",
        "mixed-up create",
        "lists for strays",
        "budget queues",
        "election",
        "extended",
        "deployment",
        "reload",
        "restart",
    ),
    *("changed: parameters", "changed: extra field", "changed: field", "changed: name", "changed: owner"),
    "changed: place",
    *("outage", "clock jump", "command", "deed", *MEDDLING.deeds),
    *(
        "rotations",
        "sweeps",
        "path_fenced",
        "key_restored",
        "key_not_removed",
        "publish_conflict",
        "versions_destroyed",
    ),
    *("key_rolled_back", "rotate: done", "rotate --revoke-now: done", "rotate --adopt: done"),
    *("orphan to-shorten: shortened", "orphan to-shorten: held", "orphan settling: left", "orphan over: removed"),
    *("sweep: TooManyOrphans", "sweep: ClockDisagrees", "blind", "sweep: ServedKeysUnknown"),
]
"""What the schedules have to contain, or their promises are worth nothing."""


@pytest.fixture(scope="module")
def executor() -> Iterator[ProcessPoolExecutor]:
    with pool() as executor:
        yield executor


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seeds", BATCHES, ids=lambda seeds: f"{seeds.start}-{seeds.stop - 1}")
def test_no_promise_is_broken(executor: ProcessPoolExecutor, seeds: range) -> None:
    happened: Counter[str] = Counter()
    for found in run_many(executor, seeds):
        if found.failing is not None:
            pytest.fail(
                f"python -m simulation {found.failing} --shortest (from tests/)\n\n{found.trace}", pytrace=False
            )
        happened += found.coverage
    if len(seeds) == BATCH:
        assert not [what for what in TO_HAPPEN if not happened[what]]


@pytest.mark.timeout(600)
def test_no_promise_is_broken_where_two_replicas_have_different_parameters(executor: ProcessPoolExecutor) -> None:
    happened: Counter[str] = Counter()
    for found in run_many(executor, range(100), CONTESTS, share=25):
        if found.failing is not None:
            pytest.fail(f"python -m simulation {found.failing} --profile contests\n\n{found.trace}", pytrace=False)
        happened += found.coverage
    assert happened["drifted"]


@pytest.mark.parametrize("seed", [1, 3, 6])
def test_a_seed_replays_exactly_whatever_the_order_of_hashes(seed: int) -> None:
    tests = Path(__file__).parents[1]
    shown = []
    for hashes in ("1", "2"):
        environment = {"PYTHONHASHSEED": hashes, "PYTHONPATH": str(tests.parent)}
        command = [sys.executable, "-m", "simulation", str(seed), "--all"]
        ran = subprocess.run(command, cwd=tests, env=environment, capture_output=True, text=True, timeout=60)
        assert ran.returncode in (0, 1), ran.stderr
        shown.append(ran.stdout)
    assert shown[0] == shown[1]
    assert len(shown[0].splitlines()) > 100


def test_a_disturbance_can_be_left_out() -> None:
    whole = simulate(3, MEDDLING)
    name = whole.disturbances[0]
    assert name not in simulate(3, MEDDLING, [name]).disturbances
