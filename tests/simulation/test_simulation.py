"""The protocol's promises, over thousands of schedules. `python -m simulation SEED` (from tests/) replays one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from simulation.many import run_some
from simulation.run import simulate
from simulation.settings import (
    BLIND_PAUSES,
    CONTESTS,
    MEDDLING,
    PAUSES,
    STEADY,
    USE,
    USE_IN_WINDOWS,
    WINDOWS,
    Profile,
)

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
    *("orphan in-grace: left", "orphan grace-over: removed"),
    *("sweep: TooManyOrphans", "sweep: ClockDisagrees", "blind", "sweep: ServedKeysUnknown"),
    *("early rotations", "key_extended", "use changes", "targets to work on"),
]
"""What the schedules have to contain, or their promises are worth nothing."""


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seeds", BATCHES, ids=lambda seeds: f"{seeds.start}-{seeds.stop - 1}")
def test_no_promise_is_broken(seeds: range) -> None:
    found = run_some(seeds)
    if found.failing is not None:
        pytest.fail(f"python -m simulation {found.failing} --shortest (from tests/)\n\n{found.trace}", pytrace=False)
    assert found.schedules == len(seeds)
    if len(seeds) == BATCH:
        assert not [what for what in TO_HAPPEN if not found.coverage[what]]


def test_a_grace_that_once_began_again_does_not() -> None:
    assert simulate(900_234, USE).broken is None


@pytest.mark.timeout(600)
def test_no_promise_is_broken_where_two_replicas_have_different_parameters() -> None:
    found = run_some(range(100), CONTESTS)
    if found.failing is not None:
        pytest.fail(f"python -m simulation {found.failing} --profile contests\n\n{found.trace}", pytrace=False)
    assert found.coverage["drifted"]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("profile", "happens"),
    [
        (WINDOWS, "rotated_outside_window"),
        (PAUSES, "key_extended"),
        (BLIND_PAUSES, "sweep: ServedKeysUnknown"),
        (USE_IN_WINDOWS, "early rotations"),
    ],
)
def test_no_promise_is_broken_where_scheduled_rotations_wait(profile: Profile, happens: str) -> None:
    found = run_some(range(200), profile)
    if found.failing is not None:
        pytest.fail(f"python -m simulation {found.failing} --profile {profile.name}\n\n{found.trace}", pytrace=False)
    assert found.coverage[happens]


@pytest.mark.timeout(600)
def test_no_served_key_of_a_steady_consumer_is_spent() -> None:
    found = run_some(range(100), STEADY)
    if found.failing is not None:
        pytest.fail(f"python -m simulation {found.failing} --profile steady\n\n{found.trace}", pytrace=False)
    assert found.coverage["early rotations"]


@pytest.mark.parametrize("seed", [1, 3, 4, 6])
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
