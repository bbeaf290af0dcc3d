"""A process that is killed, or stopped for a while, before or after each single step of its work; another one goes on.

One pass does all there is to do: the target's first key is out of its grace, the second is due for replacement. All
cases share a provider, a Vault and the fixture that does the breaking; each has a target of its own.
"""

import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.installation import Daemon, Installation, VaultPaths
from support.leaks import RECORDER
from support.process import wait_until
from support.vault import VaultServer
from support.witness import Witness

from rotator.simulator import Options, Simulator

pytestmark = pytest.mark.timeout(600)  # the first test waits for the fixture

STEPS = (
    "location:1",
    "history:1",
    "retrieve:1",  # is the first key really this path's?
    "preflight:1",
    "create:1",
    "write:1",
    "retrieve:2",  # and the second?
    "destroy:1",
    "history:2",
    "delete:1",
    "set_expiry:1",
)
"""All that one pass does, in this order; `test_no_step_is_forgotten` holds it up."""

CHANGES = ("create", "write", "destroy", "delete", "set_expiry")

TTL, GRACE = 3600, 1
LIVES = {"ttl": f"{TTL}s", "renew_before": "20m", "grace_period": f"{GRACE}s"}
DUE = LIVES | {"renew_before": f"{TTL - 2}s"}  # the same keys, but two seconds after its birth each is due
TOGETHER = 4  # cases at a time


@dataclass(frozen=True)
class Case:
    """Which signal comes when."""

    target: str
    step: str
    moment: str
    signal: str

    def __str__(self) -> str:
        return f"{self.signal}-{self.moment}-{self.step}".replace(":", "-")


CASES = [
    Case(f"t{number:02}", step, moment, name)
    for number, (name, moment, step) in enumerate(
        (name, moment, step)
        for name in ("KILL", "STOP")
        for step in STEPS
        # After a step that changes nothing is before the next one.
        for moment in ("before", "after")[: 2 if step.startswith(CHANGES) else 1]
    )
]
UNTOUCHED = Case("t99", "nothing:0", "before", "KILL")


@dataclass(frozen=True)
class Outcome:
    """What came of one case."""

    first: int  # the status of the process that was killed or stopped
    errors: str  # its log
    steps: tuple[str, ...]  # that it began
    second: (
        int  # the status of the process that overtook it; after a kill, the daemon that comes last is the second one
    )
    works_meanwhile: bool  # the served key, just after the kill and in the end


class Stage:
    """What all cases share."""

    def __init__(self, folder: Path, vault: VaultServer, simulator: Simulator) -> None:
        self.folder, self.simulator = folder, simulator
        self.paths = VaultPaths(vault, vault.new_mount())
        self._store = {"type": "vault", "address": vault.address, "mount": self.paths.mount}
        self._token = self.paths.token()
        self.made: list[Installation] = []

    def installation(self, name: str, targets: tuple[str, ...]) -> Installation:
        """An installation of its own on what all share."""
        folder = self.folder / name
        folder.mkdir()
        made = Installation(folder, self.simulator, self._store, targets)
        made.environment["VAULT_TOKEN"] = self._token
        made.config["defaults"] = dict(LIVES)
        made.config["sweep"] = {"interval": "2s", "min_age": "1s", "max_orphans": 1000}
        self.made.append(made)
        return made

    def works(self, target: str) -> bool:
        """Does the gateway accept what the target's path holds?"""
        return self.simulator.vendor.works((self.paths.read(f"apps/{target}") or {})["api_key"])

    def held(self, target: str) -> set[str]:
        """The ids of the keys that the readable versions hold; a fence repeats one."""
        held = set()
        for number, facts in self.paths.versions(f"apps/{target}").items():
            if not facts["destroyed"]:
                read = self.paths.vault.request("GET", f"{self.paths.mount}/data/apps/{target}?version={number}")
                key = self.simulator.vendor.key_of(read.json()["data"]["data"]["api_key"])
                held.add(key.id if key else "unknown")
        return held

    def alive(self, target: str) -> set[str]:
        """The ids of the keys that were made for this target and work."""
        now = datetime.now(UTC)
        keys = self.simulator.vendor.keys.values()
        return {key.id for key in keys if key.alive(now) and f".{target}." in key.name}

    def play(self, case: Case) -> Outcome:
        """Break one process, and let another go on."""
        first = self.installation(f"{case.target}-first", (case.target,))
        steps = first.folder / "steps"
        first.config["defaults"] = dict(DUE)
        first.program = [sys.executable, "-m", "support.killing_rotator"]
        first.environment |= {
            "KILL_AT": f"{case.step}:{case.moment}:{case.signal}",
            "STEPS_FILE": str(steps),
        }
        daemon = first.start("--once")
        status = 0
        if case.signal == "STOP":
            wait_until(lambda: stopped(daemon) or daemon.process.poll() is not None, "it to be stopped")
            works = self.works(case.target)
            second = self.installation(f"{case.target}-second", (case.target,))
            # It is overtaken: there is a newer key, and what it meant to tidy away is gone already.
            status = second.run("rotate", case.target).returncode
            time.sleep(GRACE + 1)
            status = max(status, second.run("run", "--once").returncode)
            daemon.signal(signal.SIGCONT)
            end = daemon.end()
        else:
            end = daemon.end()
            works = self.works(case.target)
        works = works and self.works(case.target)
        errors = (first.folder / "stderr.0").read_text()
        return Outcome(end, errors, tuple(steps.read_text().split()), status, works)


def stopped(daemon: Daemon) -> bool:
    """Does the process stand still?"""
    return Path(f"/proc/{daemon.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@dataclass(frozen=True)
class Played:
    """All cases, when everything is over."""

    outcomes: dict[str, Outcome]
    broken: list[str]
    left: list[str]
    stage: Stage


@pytest.fixture(scope="module")
def played(vault: VaultServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    """Plays all cases, some at a time, and then lets a daemon with its sweep make everything well."""
    with Simulator(options=Options(requests_per_minute=None)) as simulator:
        RECORDER.add_simulator(simulator)
        stage = Stage(tmp_path_factory.mktemp("steps"), vault, simulator)
        cases = [UNTOUCHED, *CASES]
        everything = stage.installation("everything", tuple(case.target for case in cases))
        served = {name: str(target["path"]) for name, target in everything.config["targets"].items()}
        try:
            for _ in range(2):
                everything.run("rotate", "--all", status=0)
            time.sleep(GRACE + 1)
            with Witness(vault, stage.paths.mount, served, simulator, ttl=TTL, grace=GRACE, in_flight=0.5) as witness:
                witness.wait_until_served()
                with ThreadPoolExecutor(TOGETHER) as threads:
                    outcomes = dict(zip((case.target for case in cases), threads.map(stage.play, cases), strict=True))
                daemon = everything.start()
                try:
                    witness.wait_for_no_leftovers(30)
                except TimeoutError:
                    left = witness.leftovers()
                else:
                    left = []
                daemon.stop()
            yield Played(outcomes, witness.broken, left, stage)
        finally:
            for made in stage.made:
                made.close()


def test_no_step_is_forgotten(played: Played) -> None:
    assert played.outcomes[UNTOUCHED.target].steps == STEPS


@pytest.mark.parametrize("case", CASES, ids=str)
def test_nothing_is_lost_at_any_step(played: Played, case: Case) -> None:
    outcome = played.outcomes[case.target]

    assert case.step in outcome.steps, outcome.errors
    assert outcome.first == (-signal.SIGKILL if case.signal == "KILL" else 0), outcome.errors
    assert outcome.second == 0
    assert outcome.works_meanwhile
    assert [line for line in played.broken if f"{case.target}:" in line or "witness" in line] == []
    assert [line for line in played.left if f".{case.target}." in line] == []
    assert played.stage.works(case.target)
    # In the end there is one key, neither at the provider nor in the store another.
    assert len(played.stage.held(case.target)) == 1
    assert played.stage.alive(case.target) == played.stage.held(case.target)
