"""/healthz fails only when the process is stuck, so that a restart helps. systemd gets the same report."""

import socket
import sys
import time
from pathlib import Path

from support.installation import installation
from support.process import wait_until

from rotator.simulator import Fault

STUCK = Path(__file__).parents[1] / "support" / "stuck_rotator.py"


def test_a_stuck_loop_is_unhealthy_until_it_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "stuck"
    with installation(tmp_path) as rotator:
        rotator.program = [sys.executable, str(STUCK)]
        rotator.environment["STUCK_WHILE"] = str(file)
        daemon = rotator.start()
        daemon.wait_for("key_published")
        assert daemon.get("/healthz").status_code == 200
        file.touch()
        wait_until(lambda: daemon.get("/healthz").status_code == 503, "/healthz to report that it is stuck", 10)
        body = daemon.get("/healthz").text
        assert body.startswith("stuck: the schedule was last looked at ")
        assert daemon.get("/metrics").status_code == 200, "the last state is still shown"
        file.unlink()
        wait_until(lambda: daemon.get("/healthz").status_code == 200, "it to be well again", 10)
        assert daemon.stop() == 0


def test_a_provider_that_is_down_is_no_reason_to_restart(tmp_path: Path) -> None:
    with installation(tmp_path) as rotator:
        rotator.simulator.faults.add(Fault("refuse", status=503, times=None))
        daemon = rotator.start()
        daemon.wait_for("target_failed")
        assert daemon.get("/healthz").status_code == 200


def test_systemd_gets_keep_alives_until_the_loop_is_stuck(tmp_path: Path) -> None:
    file, sent = tmp_path / "stuck", list[bytes]()
    with installation(tmp_path) as rotator, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        rotator.program = [sys.executable, str(STUCK)]
        rotator.environment |= {
            "STUCK_WHILE": str(file),
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
            "WATCHDOG_USEC": "800000",
        }

        def received() -> list[bytes]:
            """Return all messages since the last call."""
            found = []
            try:
                while True:
                    found.append(manager.recv(100))
            except BlockingIOError:
                sent.extend(found)
                return found

        daemon = rotator.start()
        daemon.wait_for("started")
        wait_until(lambda: bool(received()) and sent.count(b"WATCHDOG=1") > 2, "the watchdog to be kept quiet")
        assert b"READY=1" in sent[:2], "only once it listens"
        file.touch()
        stuck = daemon.wait_for("stuck")
        assert stuck["problems"].startswith("the schedule was last looked at ")
        received()
        time.sleep(1.5)
        assert received() == [], "systemd restarts it"
        file.unlink()
        daemon.wait_for("unstuck")
        wait_until(lambda: b"WATCHDOG=1" in received(), "it to be well again")
        assert daemon.stop() == 0
        received()
        assert sent[-1] == b"STOPPING=1"
        assert sent.count(b"READY=1") == 1
