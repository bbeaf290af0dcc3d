"""HTTP/1.1 on sockets: requests in, answers out, keep-alive, one write per answer. Knows no vendor.

Replaces `http.server`, because it drops, drips and cuts answers, and benchmarks run against it.
"""

import contextlib
import http
import json
import socket
import socketserver
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import format_datetime
from io import BufferedIOBase
from urllib.parse import parse_qs, unquote

MAX_LINE = 16 * 1024
MAX_HEADERS = 100
MAX_BODY = 1024 * 1024
MAX_DISCARD = 16 * MAX_BODY
IDLE_S = 120.0
DRIPS = 50

_PHRASES = {status.value: status.phrase for status in http.HTTPStatus}


@dataclass(frozen=True, slots=True)
class Request:
    """One request. Header names are in lower case. The repr lacks the body, which may hold a secret."""

    method: str
    target: str  # as it was sent
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    peer: str
    keep_alive: bool

    @property
    def segments(self) -> list[str]:
        """Return the path's segments, each percent-decoded on its own, so that %2F does not divide one."""
        return [unquote(part) if "%" in part else part for part in self.target.partition("?")[0].split("/")[1:]]

    @property
    def query(self) -> dict[str, str]:
        """Return the query: the last value of each name, "" for a name without a value."""
        pairs = parse_qs(self.target.partition("?")[2], keep_blank_values=True)
        return {name: values[-1] for name, values in pairs.items()}

    @property
    def bearer(self) -> str | None:
        """Return the bearer token, if any."""
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" else None


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, and the faults of its transport."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = "application/json"
    delay_s: float = 0.0  # before the first byte
    drip_s: float = 0.0  # from the body's first byte to its last
    cut: bool = False  # end the connection halfway through the body, or the head if there is none

    def head(self, now: datetime) -> bytes:
        """Return the status line and headers, with the length of the whole body even if it is cut; `now` is in UTC."""
        status = f"HTTP/1.1 {self.status} {_PHRASES.get(self.status, 'Unknown')}"
        lines = [status, f"Date: {format_datetime(now, usegmt=True)}"]
        if self.status != http.HTTPStatus.NO_CONTENT:
            lines += [f"Content-Type: {self.content_type}", f"Content-Length: {len(self.body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


def json_answer(status: int, body: object, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    """Return an answer of JSON."""
    return Answer(status, json.dumps(body).encode(), headers)


class _Malformed(Exception):
    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def _read(stream: BufferedIOBase, peer: str) -> Request | None:
    """Return the next request, or None at the end. Raises `_Malformed` if the connection is of no use after it."""
    line = stream.readline(MAX_LINE)
    if not line:
        return None
    parts = line.decode("latin-1").split()
    if len(parts) != 3 or not parts[1].startswith("/") or parts[2] not in ("HTTP/1.0", "HTTP/1.1"):
        raise _Malformed(400, "Not an HTTP/1.1 request.")
    headers: dict[str, str] = {}
    for _ in range(MAX_HEADERS):
        line = stream.readline(MAX_LINE)
        if line in (b"\r\n", b"\n"):
            break
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon or not line.endswith(b"\n"):
            raise _Malformed(400, "Malformed header.")
        headers[name.lower()] = value.strip()
    else:
        raise _Malformed(431, "Too many headers.")
    if "transfer-encoding" in headers:
        raise _Malformed(411, "Send a Content-Length.")
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit() and len(length) < 16):
        raise _Malformed(400, "Malformed Content-Length.")
    if int(length) > MAX_BODY:
        # Read it all the same, up to a bound: closing a connection with unread bytes resets it and loses the answer.
        _discard(stream, min(int(length), MAX_DISCARD))
        raise _Malformed(413, "Request body too large.")
    body = stream.read(int(length))
    if len(body) < int(length):
        return None
    keep_alive = parts[2] == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
    return Request(parts[0], parts[1], headers, body, peer, keep_alive)


def _discard(stream: BufferedIOBase, length: int) -> None:
    while length > 0:
        chunk = stream.read(min(length, MAX_BODY))
        if not chunk:
            return
        length -= len(chunk)


class _Connection(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True
    timeout = IDLE_S
    server: "HttpServer"

    def handle(self) -> None:
        # A client that goes away is no error here: the tests make it happen.
        with contextlib.suppress(OSError):
            while self._exchange():
                pass

    def _exchange(self) -> bool:
        """Answer one request. Return whether to keep the connection."""
        try:
            request = _read(self.rfile, self.client_address[0])
        except _Malformed as error:
            self._send(json_answer(error.status, {"detail": str(error)}, (("Connection", "close"),)))
            return False
        if request is None:
            return False
        answer = self.server.respond(request)
        if answer is None:
            return False
        return self._send(answer) and request.keep_alive

    def _send(self, answer: Answer) -> bool:
        if answer.delay_s and self.server.stopping.wait(answer.delay_s):
            return False
        head = answer.head(self.server.now())
        if answer.cut:
            # Without a body, half of the head, because all of it would be a complete answer.
            sent = head + answer.body[: len(answer.body) // 2] if answer.body else head[: len(head) // 2]
            self.connection.sendall(sent)
            return False
        if not answer.drip_s:
            self.connection.sendall(head + answer.body)
            return True
        self.connection.sendall(head)
        step = max(1, -(-len(answer.body) // DRIPS))
        for start in range(0, len(answer.body), step):
            if self.server.stopping.wait(answer.drip_s * step / len(answer.body)):
                return False
            self.connection.sendall(answer.body[start : start + step])
        return True


class HttpServer(socketserver.ThreadingTCPServer):
    """Listens at once, and serves from `start` to `stop` with a thread for each connection. `stop` leaves no thread."""

    allow_reuse_address = True
    request_queue_size = 128

    def __init__(
        self, host: str, port: int, respond: Callable[[Request], Answer | None], now: Callable[[], datetime]
    ) -> None:
        self.respond = respond  # returns None to drop the connection
        self.now = now  # for the answers' Date
        self.stopping = threading.Event()
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        super().__init__((host, port), _Connection)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), name="simulator")

    def start(self) -> None:
        """Serve, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """End every connection, and wait for every thread."""
        self.stopping.set()
        self.shutdown()
        self._thread.join()
        with self._open_lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self.server_close()

    def process_request(self, request: socket.socket, client_address: tuple[str, int]) -> None:  # type: ignore[override]
        """Record a new connection (called by socketserver)."""
        with self._open_lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]
        """Forget a closed connection (called by socketserver)."""
        with self._open_lock:
            self._open.discard(request)
        super().shutdown_request(request)
