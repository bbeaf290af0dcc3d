"""`rotator`, whose loop is stuck while the file $STUCK_WHILE is there. It is run as a program: the shipped code has no
hook for it. That is noticed after half a second, and not after half a minute.
"""

import os
import time
from pathlib import Path

import rotator.daemon.dispatcher
import rotator.daemon.main
from rotator.cli.main import main
from rotator.daemon.dispatcher import Dispatcher

if __name__ == "__main__":
    rotator.daemon.main.TICK, rotator.daemon.main.WATCH_HEALTH, rotator.daemon.dispatcher.STUCK = 0.1, 0.1, 0.5
    file = Path(os.environ["STUCK_WHILE"])
    begin_what_is_due = Dispatcher._begin_what_is_due

    def begin(dispatcher: Dispatcher) -> None:
        """Hang, as with a lock that is never released."""
        while file.exists():
            time.sleep(0.02)
        begin_what_is_due(dispatcher)

    setattr(Dispatcher, begin_what_is_due.__name__, begin)
    main()
