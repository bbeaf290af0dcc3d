"""What rotator does with keys of a real server, as tests for each such server: a file has a subclass with its issuer.

The issuers here cannot change an expiry, so a superseded key lives until rotator deletes it. Every test has an
installation of its own on a real Vault, and a proxy between rotator and the issuer.
"""

import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from support.application import Applications
from support.installation import BareInstallation, Daemon, VaultPaths
from support.issuers import Issuer
from support.leaks import RECORDER
from support.process import wait_until
from support.proxy import Proxy
from support.vault import VaultServer

TARGETS = ("billing", "search")
GRACE = timedelta(seconds=2)
AFTER_GRACE = 3.0
"""Seconds: a server's clock is known to a second."""

FOREVER = {"ttl": "1h", "renew_before": "20m", "grace_period": "2s"}
EVERY_TWO_SECONDS = {"ttl": "40s", "renew_before": "38s", "grace_period": "2s"}

TROUBLES = ("swallow", "reset", "cut", "hang")
"""What the proxy does: each loses answers, or lets requests land late."""

BREAKS = (
    ("KILL", "create:1", "after"),
    ("KILL", "write:1", "before"),
    ("KILL", "write:1", "after"),
    ("KILL", "destroy:1", "after"),
    ("KILL", "delete:1", "after"),
    ("STOP", "create:1", "after"),
    ("STOP", "write:1", "before"),
    ("STOP", "delete:1", "before"),
)
"""Where a process is killed, or stopped and overtaken: around everything that changes a key or a path."""


QUICKLY = {"timeout": "1s"}
"""Of the provider, where the network swallows answers."""


@dataclass
class Stage:
    """One installation, with its issuer and its Vault."""

    rotator: BareInstallation
    paths: VaultPaths
    issuer: Issuer
    network: Proxy

    def text(self, target: str) -> str:
        """The key that the path serves."""
        text = str((self.paths.read(f"apps/{target}") or {})["api_key"])
        RECORDER.add_secret("a key", text)
        return text

    def served(self, targets: tuple[str, ...] = TARGETS) -> set[str | None]:
        """The ids of the keys that the paths serve; None for one that does not work."""
        return {self.issuer.accepts(self.text(target)) for target in targets}

    def wait_until_only_served(self, seconds: float = 60) -> None:
        """Return once no other key of this installation lives."""
        wait_until(
            lambda: set(self.issuer.living()) == self.served(),
            f"{self.issuer.living()} to be the keys that are served",
            seconds,
        )


class RotatesOnARealServer:
    """A subclass defines the fixture `issuer`."""

    @pytest.fixture
    def issuer(self) -> Issuer:
        """Keys of this installation alone."""
        raise NotImplementedError

    @pytest.fixture
    def stage(self, issuer: Issuer, vault: VaultServer, tmp_path: Path) -> Iterator[Stage]:
        """An installation without keys."""
        paths = VaultPaths(vault, vault.new_mount())
        store = {"type": "vault", "address": vault.address, "mount": paths.mount}
        with Proxy(issuer.address) as network:
            provider = {
                **issuer.settings,
                "base_url": network.url,
                "requests_per_minute": 100_000,
                "timeout": "60s",  # a process that is stopped for a while has time left
            }
            rotator = BareInstallation(tmp_path, {"issuer": provider}, store, TARGETS)
            rotator.environment |= {"VAULT_TOKEN": paths.token(), **issuer.environment}
            rotator.config["defaults"] = {**FOREVER, "key": dict(issuer.key)}
            rotator.config["sweep"] = {"interval": "2s", "min_age": "1s", "max_orphans": 1000}
            try:
                yield Stage(rotator, paths, issuer, network)
            finally:
                rotator.close()

    def test_a_key_is_replaced_and_deleted_after_its_grace(self, stage: Stage) -> None:
        rotator, issuer = stage.rotator, stage.issuer

        rotator.run("check", "--online", status=0)
        rotator.run("rotate", "--all", status=0)
        first = {target: stage.text(target) for target in TARGETS}
        assert set(issuer.living()) == {issuer.accepts(text) for text in first.values()}
        assert all(name.startswith(f"prod-eu.{target}.") for target, name in zip(TARGETS, _names(stage), strict=True))

        rotator.run("rotate", "--all", status=0)
        assert all(issuer.accepts(text) for text in first.values()), "grace is not over"
        time.sleep(AFTER_GRACE)
        rotator.run("run", "--once", status=0)

        assert not any(issuer.accepts(text) for text in first.values())
        assert set(issuer.living()) == stage.served()
        assert {target["state"] for target in rotator.json("status")["targets"]} == {"ok"}
        for target in TARGETS:
            assert [facts["destroyed"] for facts in stage.paths.versions(f"apps/{target}").values()] == [True, False]

    def test_a_key_that_a_person_revoked_is_replaced(self, stage: Stage) -> None:
        stage.rotator.run("rotate", "--all", status=0)
        ids = {target: stage.issuer.accepts(stage.text(target)) or "" for target in TARGETS}
        newest = max(ids, key=lambda target: (len(ids[target]), ids[target]))  # an issuer may use its id again
        stage.issuer.revoke(ids[newest])

        daemon = stage.rotator.start()
        daemon.wait_for("key_published", target=newest)

        assert None not in stage.served()
        stage.wait_until_only_served()
        assert daemon.stop() == 0

    def test_a_lost_answer_leaves_no_key_behind(self, stage: Stage) -> None:
        stage.rotator.run("rotate", "--all", status=0)
        served = stage.served()

        stage.rotator.config["providers"]["issuer"] |= QUICKLY
        stage.network.mode = "swallow"
        stage.rotator.run("rotate", "--all", status=1)
        assert stage.served() == served
        wait_until(lambda: len(stage.issuer.living()) > len(TARGETS), "the creates to land")
        stage.network.mode = "pass"

        daemon = stage.rotator.start()
        stage.wait_until_only_served()
        assert daemon.stop() == 0
        assert stage.served() == served

    @pytest.mark.timeout(300)
    def test_every_served_key_works_whatever_breaks(self, stage: Stage) -> None:
        rotator = stage.rotator
        rotator.config["providers"]["issuer"] |= QUICKLY
        rotator.config["defaults"] |= EVERY_TWO_SECONDS
        rotator.config["daemon"] |= {"resync": "2s", "drain": "5s"}
        daemon = rotator.start()
        with Applications(stage.paths, stage.issuer, TARGETS, GRACE) as applications:
            wait_until(lambda: len(applications.served()) == len(TARGETS), "every path to hold a key")
            for trouble in TROUBLES:
                stage.network.mode = trouble
                time.sleep(2)
                stage.network.mode = "pass"
                _wait_for_rotation(applications)
            daemon.process.kill()
            daemon.process.wait()
            other = rotator.start()
            _wait_for_rotation(applications)
            other.signal(signal.SIGSTOP)
            last = rotator.start()
            _wait_for_rotation(applications)
            other.signal(signal.SIGCONT)
            _wait_for_rotation(applications)
            rotator.config["defaults"] |= FOREVER  # for the next process
            for running in (other, last):
                assert running.stop() == 0
            calm = rotator.start()
            stage.wait_until_only_served()
            assert calm.stop() == 0

        assert applications.broken == []
        assert applications.calls > 100
        never = ("unexpected_error", "target_foreign", "key_ownership_mismatch", "configuration_refused")
        assert [event for one in (daemon, other, last, calm) for event in one.events() if event["event"] in never] == []

    @pytest.mark.timeout(300)
    def test_nothing_is_lost_where_a_process_is_killed_or_stopped(self, stage: Stage) -> None:
        cases = {f"t{number:02}": case for number, case in enumerate(BREAKS)}
        everything = stage.rotator
        everything.config["targets"] = {name: {"path": f"apps/{name}"} for name in cases}
        for _ in range(2):
            everything.run("rotate", "--all", status=0)
        time.sleep(AFTER_GRACE)
        with (
            Applications(stage.paths, stage.issuer, tuple(cases), GRACE) as applications,
            ThreadPoolExecutor(4) as threads,
        ):
            played = threads.map(lambda case: _play(stage, case[0], *case[1]), cases.items())
            ends = dict(zip(cases, played, strict=True))
            daemon = everything.start()
            with suppress(TimeoutError):
                wait_until(lambda: len(stage.issuer.living()) == len(cases), "one key a target", 90)
            assert daemon.stop() == 0

        assert ends == {target: (-signal.SIGKILL if name == "KILL" else 0) for target, (name, _, _) in cases.items()}
        assert applications.broken == []
        assert set(stage.issuer.living()) == stage.served(tuple(cases))


def _names(stage: Stage) -> list[str]:
    """The names of the served keys, in the order of the targets."""
    living = stage.issuer.living()
    return [living[stage.issuer.accepts(stage.text(target)) or ""] for target in TARGETS]


def _wait_for_rotation(applications: Applications) -> None:
    """Return once every path has a later version than now."""
    before = {target: versions[-1].number for target, versions in applications.versions.items()}
    wait_until(
        lambda: all(versions[-1].number > before[target] for target, versions in applications.versions.items()),
        f"a rotation after {before}",
    )


def _play(stage: Stage, target: str, name: str, step: str, moment: str) -> int:
    """Kill or stop one pass over a target at a step, have another process overtake it, and return how the first ended.

    All there is to do in a pass is due: the first key's grace is over, and the second key is replaced.
    """
    first = _alone(stage, f"{target}-first", target)
    first.config["defaults"] = {**first.config["defaults"], "renew_before": "3598s"}
    first.program = [sys.executable, "-m", "support.killing_rotator"]
    first.environment |= {
        "KILL_AT": f"{step}:{moment}:{name}",
        "STEPS_FILE": str(first.folder / "steps"),
    }
    daemon = first.start("--once")
    try:
        if name == "STOP":
            wait_until(lambda: _stopped(daemon) or daemon.process.poll() is not None, "it to be stopped")
            second = _alone(stage, f"{target}-second", target)
            second.run("rotate", target, status=0)
            time.sleep(AFTER_GRACE)
            second.run("run", "--once", status=0)
            daemon.signal(signal.SIGCONT)
        return daemon.end()
    finally:
        first.close()


def _alone(stage: Stage, folder: str, target: str) -> BareInstallation:
    """An installation of one target, on what all share."""
    made = BareInstallation(stage.rotator.folder / folder, {}, {}, ())
    made.folder.mkdir()
    made.environment = dict(stage.rotator.environment)
    made.config = {**stage.rotator.config, "targets": {target: {"path": f"apps/{target}"}}}
    return made


def _stopped(daemon: Daemon) -> bool:
    """Whether the process stands still."""
    return Path(f"/proc/{daemon.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
