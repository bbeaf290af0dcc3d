"""Two daemons, a real Vault and the simulator, killed and frozen at random: no promise is broken.

$ROTATOR_KILLS is how many kills and freezes of daemons there are; faults of the others come on top.
$KILLS_SEED repeats a run: a run that fails prints its seed.
"""

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.installation import Installation, VaultPaths
from support.kills import Chaos
from support.leaks import RECORDER
from support.proxy import Proxy
from support.vault import RaftVault
from support.witness import Witness

from rotator.simulator import Options, Simulator

KILLS = int(os.environ.get("ROTATOR_KILLS", "40"))
TTL, RENEW_BEFORE, GRACE = 120, 115, 5
"""Seconds. A new key every five seconds, and more than all failures in a row may take until a served one ends."""

SETTLE, EVERY = 2, 4
QUIET = 60.0
"""Seconds in which, after the last kill, nothing may be left over: some sweeps, and the grace of what they find."""

TARGETS = ("a", "b", "c", "d", "e", "f")


@pytest.mark.timeout(120 + 8 * KILLS)
def test_no_promise_is_broken_whatever_is_killed(raft_vault: Callable[[], RaftVault], tmp_path: Path) -> None:
    seed = int(os.environ.get("KILLS_SEED", random.randrange(10**6)))
    print(f"KILLS_SEED={seed} ROTATOR_KILLS={KILLS}")  # noqa: T201 - shown when it fails, whatever for
    began = time.monotonic()
    vault = raft_vault()
    RECORDER.add_secret("a Vault root token", vault.root_token)
    paths = VaultPaths(vault, vault.new_mount())
    # Small pages, so that a list takes several and changes meanwhile.
    with (
        Simulator(options=Options(requests_per_minute=None, page_size=5)) as simulator,
        Proxy(vault.address) as network,
    ):
        RECORDER.add_simulator(simulator)
        store = {"type": "vault", "address": network.url, "mount": paths.mount, "timeout": "1s"}
        rotator = Installation(tmp_path, simulator, store, TARGETS)
        rotator.environment["VAULT_TOKEN"] = paths.token()
        rotator.config["defaults"] = {
            "ttl": f"{TTL}s",
            "renew_before": f"{RENEW_BEFORE}s",
            "grace_period": f"{GRACE}s",
        }
        rotator.config["daemon"] |= {"resync": "3s", "drain": "5s"}
        rotator.config["sweep"] = {"interval": f"{EVERY}s", "min_age": f"{SETTLE}s", "max_orphans": 1000}
        served = {name: target["path"] for name, target in rotator.config["targets"].items()}
        try:
            with Witness(vault, paths.mount, served, simulator, ttl=TTL, grace=GRACE) as witness:
                chaos = Chaos(rotator, vault, network, random.Random(seed))
                left: list[str] = []
                try:
                    witness.wait_until_served()
                    chaos.run(KILLS)
                    chaos.roll()
                    witness.wait_for_no_leftovers(QUIET)
                except TimeoutError as error:
                    left = [str(error), *error.__notes__]
        finally:
            rotator.close()

    story = "\n".join(
        [
            f"KILLS_SEED={seed} ROTATOR_KILLS={KILLS}: {time.monotonic() - began:.0f} s",
            f"{chaos.kills} kills and freezes of daemons; in all {dict(chaos.done)}",
            witness.summary(),
        ]
    )
    print(story)  # noqa: T201 - shown when it fails, and with -s
    assert witness.counts["calls"] > KILLS, "the witness has called all the time"
    versions = sum(len(path.versions) for path in witness.paths.values())
    in_vain = len(simulator.vendor.keys) - 2 * versions  # each of the two daemons may make one for each version
    assert in_vain <= sum(chaos.done.values()), "and else only what was disturbed"
    broken = [*witness.broken, *chaos.broken, *chaos.complaints(), *left]
    if broken:
        pytest.fail("\n".join([*broken, "", story, "", *chaos.story]), pytrace=False)
