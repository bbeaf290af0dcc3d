"""`rotator` on a machine whose wall clock is ahead by the seconds in the file $CLOCK_AHEAD. Run as a program."""

import os
import threading
import time
from datetime import timedelta
from pathlib import Path

import rotator.daemon.main  # noqa: F401 - so that it is there to be set
from rotator.cli.main import main
from support.wall import Wall

if __name__ == "__main__":
    wall, file = Wall(), Path(os.environ["CLOCK_AHEAD"])

    def follow() -> None:
        """Set the clock when the file holds another time."""
        while True:
            wall.ahead = timedelta(seconds=float(file.read_text() or 0) if file.exists() else 0)
            time.sleep(0.05)

    for place, clock in wall.install():
        module, _, name = place.rpartition(".")
        setattr(__import__("sys").modules[module], name, clock)
    threading.Thread(target=follow, daemon=True).start()
    main()
