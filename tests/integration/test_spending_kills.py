"""Two daemons, killed and frozen at random, and an application that spends its keys: no promise is broken.

The bound of early rotations holds over all of them, and calls are refused for a spent key only when it is reached.
$ROTATOR_KILLS is how many kills and freezes there are; $KILLS_SEED repeats a run.
"""

import os
import random
import signal
import time
from pathlib import Path

import pytest
from support.installation import Daemon, Installation, on_vault
from support.vault import VaultServer
from support.witness import Witness

KILLS = int(os.environ.get("ROTATOR_KILLS", "6"))
TTL, RENEW_BEFORE, GRACE = 40, 20, 5
FROZEN = 6.0
"""Seconds, at most: longer than an observation may be old."""

CAPS, BOUNDS = {"few": 40, "many": 80}, {"few": 2, "many": 24}
"""The application makes at most five calls a second. After a quarter of a cap the key is replaced; with the rest the
application makes calls for at least six seconds, in which the daemon that is left has time."""

NEVER = ("unexpected_error", "target_foreign", "key_ownership_mismatch", "configuration_refused")


@pytest.mark.timeout(120 + 12 * KILLS)
def test_the_bound_holds_whatever_is_killed_and_nothing_else_explains_a_spent_key(
    vault: VaultServer, tmp_path: Path
) -> None:
    seed = int(os.environ.get("KILLS_SEED", random.randrange(10**6)))
    print(f"KILLS_SEED={seed} ROTATOR_KILLS={KILLS}")  # noqa: T201 - shown when it fails
    with on_vault(tmp_path, vault, tuple(BOUNDS), use_shown="everywhere") as (rotator, paths):
        rotator.config["defaults"] = {
            "ttl": f"{TTL}s",
            "renew_before": f"{RENEW_BEFORE}s",
            "grace_period": f"{GRACE}s",
            "on_cap": "replace",
            "replace_at": "25%",
            "pickup": "2s",
        }
        for name, target in rotator.config["targets"].items():
            target |= {"key": {"max_usage": CAPS[name]}, "max_early_rotations": BOUNDS[name]}
        rotator.config["daemon"] |= {"resync": "3s", "drain": "5s"}
        rotator.config["sweep"] = {"interval": "1s", "min_age": "2s", "max_orphans": 1000}
        served = {name: target["path"] for name, target in rotator.config["targets"].items()}
        with Witness(
            vault, paths.mount, served, rotator.simulator, ttl=TTL, grace=GRACE, every=0.2, has_caps=True
        ) as witness:
            daemons = _break(rotator, witness, random.Random(seed))
            witness.wait_for_no_leftovers(60)

    print(witness.summary())  # noqa: T201
    assert witness.broken == []
    assert [str(event) for daemon in daemons for event in daemon.events() if event["event"] in NEVER] == []
    for name, bound in BOUNDS.items():
        path, early = witness.paths[name], len(witness.paths[name].early())
        assert path.newest
        assert [*path.versions] == [*range(1, path.newest.number + 1)], "each version was seen"
        assert 0 < early <= bound
        assert len(path.newest.early) + (path.newest.why == "nearly-spent") == early, "as the newest record has it"
    assert [spent for spent in witness.spent if spent.early < BOUNDS[spent.target]] == []
    assert "few" in {spent.target for spent in witness.spent}, "its bound was reached"
    assert len(witness.paths["many"].early()) > BOUNDS["few"]


def _break(rotator: Installation, witness: Witness, rng: random.Random) -> list[Daemon]:
    """Kill or freeze one daemon at a time, so that the other works meanwhile. Return all that ran."""
    running = [rotator.start(), rotator.start()]
    daemons = [*running]
    witness.wait_until_served()
    for number in range(KILLS):
        which = number % 2
        daemon, other = running[which], running[1 - which]
        other.wait_for("sweep_completed")
        time.sleep(rng.uniform(0.5, 3))
        if rng.random() < 0.5:
            daemon.process.kill()
            daemon.process.wait()
            running[which] = rotator.start()
            daemons.append(running[which])
        else:
            daemon.signal(signal.SIGSTOP)
            time.sleep(rng.uniform(1, FROZEN))
            daemon.signal(signal.SIGCONT)
    for daemon in running:
        daemon.wait_for("sweep_completed")
        assert daemon.stop() == 0
    running = [rotator.start()]
    return [*daemons, *running]
