"""A TCP proxy on loopback that spoils what goes through it, connections that are open already included.

Modes:

    pass     everything goes through at once
    delay    every part of an answer comes `seconds` late
    drip     an answer comes byte by byte, `seconds` apart
    cut      half of the first part of an answer comes, then the connection is reset
    swallow  requests go through, and nothing comes back: the answer is lost
    hang     connections are accepted, and nothing goes through in either direction; what was asked meanwhile goes
             through afterwards, even if the client no longer waits for the answer: it lands late
    reset    connections are accepted and reset at once, open ones at their next byte
    refuse   no listener; open connections are reset at their next byte
"""

import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit

from support.process import free_ports

MODES = ("delay", "drip", "cut", "swallow", "hang", "reset", "refuse")
_LOOK = 0.05  # seconds between looks at the mode, where nothing else happens

_STUCK = 10.0  # seconds after which an upstream that takes nothing is given up


class Proxy:
    """Listens from `with` to its end; `mode` and `seconds` may be changed at any time."""

    def __init__(self, upstream: str) -> None:
        """`upstream` is a URL."""
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname, parts.port)
        self.mode = "pass"
        self.seconds = 0.0
        self.waits: list[float] = []  # seconds from each request to its answer, or to its connection's end
        self._ending = threading.Event()
        self._threads: list[threading.Thread] = []
        [self._port] = free_ports(1)
        self._listener = self._listen()

    @property
    def url(self) -> str:
        """Where it listens, as a URL."""
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _listen(self) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", self._port))
        listener.settimeout(_LOOK)
        return listener

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, name="proxy")
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._ending.is_set():
            if self.mode == "refuse":
                self._listener.close()
                while self.mode == "refuse" and not self._ending.wait(_LOOK):
                    pass
                self._listener = self._listen()
                continue
            try:
                client, _ = self._listener.accept()
            except OSError:  # no connection came
                continue
            self._start(self._carry, client)

    # --- one connection ----------------------------------------------------------------------------------------------

    def _carry(self, client: socket.socket) -> None:
        """Carry bytes in both directions until either end is closed, or the mode has it reset."""
        with client, suppress(OSError), socket.create_connection(self._upstream) as server:
            for end in (client, server):
                end.settimeout(_STUCK)
            asked_at: float | None = None  # when the request came that is not answered yet
            held = b""  # the client's bytes while nothing goes through
            gone = False  # the client, while its bytes are held
            try:
                while not self._ending.is_set():
                    hangs = self.mode == "hang"
                    if held and not hangs:
                        server.sendall(held)
                        held = b""
                    if gone and not held:
                        server.recv(65536)  # else the server might see the end first, and not do it
                        return
                    readable, _, _ = select.select(_ends(client, server, hangs, gone), [], [], _LOOK)
                    if self.mode == "reset" or (self.mode == "refuse" and readable):
                        _reset_when_closed(client)
                        return
                    for source in readable:
                        part = source.recv(65536)
                        if not part and source is client and held:
                            gone = True
                            self._waited(asked_at)
                            asked_at = None
                        elif not part:
                            return
                        elif source is client:
                            asked_at = asked_at or time.monotonic()
                            held += part
                        elif self._answer(client, part):
                            self._waited(asked_at)
                            asked_at = None
            finally:
                self._waited(asked_at)

    def _waited(self, asked_at: float | None) -> None:
        if asked_at is not None:
            self.waits.append(time.monotonic() - asked_at)

    def _answer(self, client: socket.socket, part: bytes) -> bool:
        """Hand on a part of an answer, as the mode has it; False when it is lost. Raises OSError at a reset."""
        if self.mode == "swallow":
            return False
        if self.mode == "cut":
            client.sendall(part[: len(part) // 2])
            self._ending.wait(_LOOK)  # so that it arrives before the reset does
            _reset_when_closed(client)
            raise OSError
        if self.mode == "delay":
            self._ending.wait(self.seconds)
        while part and self.mode == "drip" and not self._ending.is_set():
            client.sendall(part[:1])
            part = part[1:]
            self._ending.wait(self.seconds)
        client.sendall(part)
        return True


def _ends(client: socket.socket, server: socket.socket, hangs: bool, gone: bool) -> list[socket.socket]:
    """Those from which something may be taken."""
    return [*([] if gone else [client]), *([] if hangs else [server])]


def _reset_when_closed(end: socket.socket) -> None:
    """Let it be closed as by a crash: the other side gets a reset, not an end."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
