"""The wall clock is set while the daemon runs: the daemon notices, and everything goes on."""

import sys
from pathlib import Path

import pytest
from support.installation import Daemon, Installation, installation
from support.process import wait_until

PROGRAM = Path(__file__).parents[1] / "support" / "set_clock_rotator.py"
YEAR = 365 * 86400


def peak(daemon: Daemon) -> int:
    """Return its peak memory, in MiB."""
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


def started(rotator: Installation, folder: Path) -> tuple[Daemon, Path]:
    rotator.program = [sys.executable, str(PROGRAM)]
    ahead = folder / "ahead"
    rotator.environment |= {"CLOCK_AHEAD": str(ahead), "PYTHONPATH": str(PROGRAM.parents[1])}
    daemon = rotator.start()
    daemon.wait_for("key_published")
    return daemon, ahead


@pytest.mark.parametrize("seconds", [-3600, YEAR])
def test_a_clock_that_is_set_is_reported_once_and_stops_nothing(tmp_path: Path, seconds: int) -> None:
    with installation(tmp_path) as rotator:
        daemon, ahead = started(rotator, tmp_path)
        before = peak(daemon)
        ahead.write_text(str(seconds))
        jumped = daemon.wait_for("clock_jumped")
        assert abs(jumped["seconds"] - seconds) <= 1
        assert jumped["targets"] == 1
        ahead.write_text("0")
        assert abs(daemon.wait_for("clock_jumped", 2)["seconds"] + seconds) <= 1
        daemon.process.send_signal(10)
        daemon.wait_for("key_published", 2)
        wait_until(lambda: daemon.get("/healthz").status_code == 200, "it to be well", 10)
        assert len(daemon.events("clock_jumped")) == 2
        assert peak(daemon) < before + 60
        assert daemon.stop() == 0
