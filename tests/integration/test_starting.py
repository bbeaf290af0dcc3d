"""Signals that come while the daemon is still starting, or while it waits for a file system that does not answer."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.installation import Daemon, Installation, installation
from support.process import wait_until

PROGRAM = Path(__file__).parents[1] / "support" / "starting_rotator.py"


@pytest.fixture
def rotator(tmp_path: Path) -> Iterator[Installation]:
    with installation(tmp_path) as it:
        it.program = [sys.executable, str(PROGRAM)]
        it.environment |= {"STARTS_WHILE": str(tmp_path / "start"), "RELOADS_WHILE": str(tmp_path / "reload")}
        yield it


def starting(rotator: Installation) -> tuple[Daemon, Path]:
    gate = rotator.folder / "start"
    gate.touch()
    daemon = rotator.start()
    wait_until(gate.with_suffix(".waits").exists, "it to start")
    return daemon, gate


def test_what_comes_while_it_starts_is_obeyed_once_it_runs(rotator: Installation) -> None:
    daemon, gate = starting(rotator)
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGHUP):
        daemon.signal(number)
    gate.unlink()
    assert daemon.wait_for("rotation_requested")["by"] == "signal"
    daemon.wait_for("configuration_loaded")
    daemon.wait_for("key_published")
    assert daemon.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_daemon_that_is_starting_ends_well(rotator: Installation, number: signal.Signals) -> None:
    daemon, _ = starting(rotator)
    daemon.signal(number)
    assert daemon.end() == 0
    assert rotator.calls() == []


def test_a_reload_that_hangs_holds_up_nothing(rotator: Installation) -> None:
    daemon = rotator.start()
    daemon.wait_for("key_published")
    gate = rotator.folder / "reload"
    gate.touch()
    daemon.signal(signal.SIGHUP)
    wait_until(gate.with_suffix(".waits").exists, "the reload to hang")
    daemon.signal(signal.SIGUSR1)
    daemon.wait_for("key_published", 2)
    assert daemon.get("/healthz").status_code == 200
    assert daemon.stop() == 0
    assert daemon.events("stopped", drained=True)
