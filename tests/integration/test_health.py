"""/healthz fails when the loop is stuck, and then only: the one thing that a restart mends."""

import sys
from pathlib import Path

from support.installation import installation
from support.process import wait_until

from rotator.simulator import Fault

STUCK = Path(__file__).parents[1] / "support" / "stuck_rotator.py"


def test_a_loop_that_is_stuck_is_no_healthy_one_until_it_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "stuck"
    with installation(tmp_path) as rotator:
        rotator.program = [sys.executable, str(STUCK)]
        rotator.environment["STUCK_WHILE"] = str(file)
        daemon = rotator.start()
        daemon.wait_for("key_published")
        assert daemon.get("/healthz").status_code == 200
        file.touch()
        wait_until(lambda: daemon.get("/healthz").status_code == 503, "it to be told that it is stuck", 10)
        said = daemon.get("/healthz").text
        assert said.startswith("stuck: the agenda was last looked at ")
        assert daemon.get("/metrics").status_code == 200, "one can still see what was known"
        file.unlink()
        wait_until(lambda: daemon.get("/healthz").status_code == 200, "it to be well again", 10)
        assert daemon.stop() == 0


def test_a_vendor_that_is_down_is_no_reason_to_restart(tmp_path: Path) -> None:
    with installation(tmp_path) as rotator:
        rotator.simulator.faults.add(Fault("refuse", status=503, times=None))
        daemon = rotator.start()
        daemon.wait_for("target_failed")
        assert daemon.get("/healthz").status_code == 200
