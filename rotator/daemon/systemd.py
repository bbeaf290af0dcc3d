"""Notifies systemd that the service has started, is healthy, and stops: sd_notify(3), for `Type=notify`.

Sends nothing if systemd did not start the process.
"""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress

from rotator.core.ports import Clock

READY = "READY=1"
STOPPING = "STOPPING=1"
_ALIVE = "WATCHDOG=1"


class Systemd:
    """The systemd that the environment names."""

    def __init__(self, environment: Mapping[str, str], clock: Clock) -> None:
        path = environment.get("NOTIFY_SOCKET", "")
        self._address = f"\0{path[1:]}" if path.startswith("@") else path
        self._clock = clock
        microseconds = environment.get("WATCHDOG_USEC", "")
        mine = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watched = bool(self._address) and mine and microseconds.isdecimal()
        self._every = int(microseconds) / 4e6 if watched else None  # seconds
        self._alive_at = float("-inf")

    def send(self, message: str) -> None:
        """Send a message, if systemd wants it. Drop what cannot be sent at once, because nothing may wait for it."""
        if not self._address:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(message.encode(), self._address)

    def keep_alive(self) -> None:
        """Reset the watchdog's timer, if a quarter of its time is over. Call this only while all is well."""
        if self._every is not None and self._clock.monotonic() - self._alive_at >= self._every:
            self._alive_at = self._clock.monotonic()
            self.send(_ALIVE)
