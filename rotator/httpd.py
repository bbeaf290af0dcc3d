"""A small HTTP server for pages that only tell: bounded in connections, in bytes and in time.

It knows nothing of keys: what a path answers is given to it. prometheus-client's own server would answer every path
with metrics and 200, so that a probe of /healthz always passes; hence this one.
"""

import contextlib
import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

from rotator.errors import RotatorError
from rotator.events import Event, Level, What
from rotator.ports import Listener

MAX_CONNECTIONS = 32
MAX_HEAD = 16 * 1024  # bytes of request line and headers
DEADLINE = 5.0
"""Seconds for a whole exchange, however slowly the bytes come."""

_SAFE = (
    "Cache-Control: no-store",
    "Content-Security-Policy: default-src 'none'",
    "X-Content-Type-Options: nosniff",
    "Connection: close",
)


@dataclass(frozen=True, slots=True)
class Response:
    """What a path answers."""

    status: int
    content_type: str
    body: bytes


def text(status: int, line: str) -> Response:
    """One line of plain text."""
    return Response(status, "text/plain; charset=utf-8", f"{line}\n".encode())


Routes = Mapping[str, Callable[[], Response]]


class Server:
    """One listener. `address` is where it really listens; `close` ends it and all its connections' threads."""

    def __init__(
        self, listening: socket.socket, routes: Routes, tell: Listener, *, loopback_only_hosts: bool, deadline: float
    ) -> None:
        self._socket, self._routes, self._tell = listening, routes, tell
        self._loopback_only_hosts, self._deadline = loopback_only_hosts, deadline
        self._places = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._threads: set[threading.Thread] = set()
        self._accepting = threading.Thread(target=self._accept, name="http", daemon=True)
        self._accepting.start()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        host, port = self._socket.getsockname()[:2]
        return host, port

    def close(self) -> None:
        """Accept nothing more; what is being answered has its deadline."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for a connection
        self._accepting.join()
        self._socket.close()
        for thread in list(self._threads):
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            if not self._places.acquire(blocking=False):
                connection.close()  # full: the next scrape or probe will find a place
                continue
            thread = threading.Thread(target=self._serve, args=(connection,), name="http", daemon=True)
            self._threads.add(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, contextlib.suppress(OSError):
                ends = time.monotonic() + self._deadline
                head = _read_head(connection, ends)
                if head is not None:
                    answer = self._answer(head)
                    connection.settimeout(max(0.01, ends - time.monotonic()))
                    connection.sendall(answer)
                    connection.shutdown(socket.SHUT_WR)
        finally:
            self._places.release()
            self._threads.discard(threading.current_thread())

    def _answer(self, head: bytes) -> bytes:
        lines = head.decode("latin-1").split("\r\n")
        method, _, rest = lines[0].partition(" ")
        target, _, version = rest.rpartition(" ")
        if not version.startswith("HTTP/1.") or not target:
            return _encode(text(400, "not an HTTP request"), "GET")
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
        }
        if self._loopback_only_hosts and not _is_loopback(headers.get("host", "")):
            # A page of somebody else's, in a browser here, reaches us under its own name (DNS rebinding).
            return _encode(text(421, "this address answers to loopback names only"), method)
        if method not in ("GET", "HEAD"):
            return _encode(text(405, "nothing here can be changed"), method, "Allow: GET, HEAD")
        route = self._routes.get(target.partition("?")[0])
        if route is None:
            return _encode(text(404, f"there is: {', '.join(self._routes)}"), method)
        try:
            return _encode(route(), method)
        except Exception as error:
            fields = {"error": type(error).__name__, "page": target}
            self._tell(Event(What.UNEXPECTED_ERROR, level=Level.ERROR, fields=fields))
            return _encode(text(500, "this page has a fault; the log names it"), method)


def serve(
    host: str, port: int, routes: Routes, *, loopback_only_hosts: bool, tell: Listener, deadline: float = DEADLINE
) -> Server:
    """Listen, and answer from threads of its own. Raises `RotatorError` when the address cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(MAX_CONNECTIONS)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise RotatorError(
            f"cannot listen on {host}:{port}: {error.strerror}",
            "Choose another address under [http] (listen, admin), or stop what uses it.",
        ) from None
    return Server(listening, routes, tell, loopback_only_hosts=loopback_only_hosts, deadline=deadline)


def _read_head(connection: socket.socket, ends: float) -> bytes | None:
    """Everything up to the empty line; None when it does not come in time, or is too long."""
    head = b""
    while b"\r\n\r\n" not in head:
        left = ends - time.monotonic()
        if left <= 0 or len(head) > MAX_HEAD:
            return None
        connection.settimeout(left)
        read = connection.recv(4096)
        if not read:
            return None
        head += read
    return head.partition(b"\r\n\r\n")[0]


def _encode(response: Response, method: str, *headers: str) -> bytes:
    lines = (
        f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}",
        f"Content-Type: {response.content_type}",
        f"Content-Length: {len(response.body)}",
        *_SAFE,
        *headers,
    )
    head = "\r\n".join(lines).encode() + b"\r\n\r\n"
    return head if method == "HEAD" else head + response.body


def _is_loopback(host: str) -> bool:
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
