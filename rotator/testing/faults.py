"""A server on loopback that stands in front of a provider's server, passes requests on, and answers wrongly.

It knows nothing of the provider. A fault is a function of one `Exchange`: it forwards the request or does not, sends an
answer or does not, in any order.
"""

import http.client
import json
import socket
import socketserver
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

LIMIT = 64 * 2**20
"""Bytes of a body that has no end, after which the proxy stops all the same."""

WAIT = 7
"""Seconds that a 429 asks for."""

BAD_COUNTERS: tuple[object, ...] = (-1, 10**400, "many", "7", None, True, [])
"""What may stand in the place of a counter."""

_HOP_BY_HOP = frozenset({"connection", "keep-alive", "proxy-connection", "transfer-encoding", "content-length"})


@dataclass(frozen=True, slots=True)
class Request:
    """One request."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer."""

    status: int
    body: bytes = field(default=b"", repr=False)
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)


class Exchange:
    """A request that waits for its answer. Without one, its connection is closed at the end."""

    def __init__(self, proxy: "FaultProxy", connection: socket.socket, request: Request) -> None:
        self.request = request
        self._proxy = proxy
        self._connection = connection

    def forward(self) -> Answer:
        """Send the request to the provider's server, and return its answer."""
        return self._proxy.forward(self.request)

    def send(self, answer: Answer, *, pause: float = 0.0, seconds: float = 0.0) -> None:
        """Send an answer; with a `pause` in seconds byte by byte, headers included, at most for so many seconds."""
        content = _head(answer, ("Content-Length", str(len(answer.body)))) + answer.body
        if not pause:
            self._connection.sendall(content)
            return
        for byte in content[: int(seconds / pause)]:
            self._connection.sendall(bytes([byte]))
            if self._proxy.stopping.wait(pause):
                return

    def send_without_end(self, answer: Answer, part: bytes) -> None:
        """Send an answer and then that part, over and over, until the client closes the connection."""
        self._connection.sendall(_head(answer) + answer.body)
        while self._proxy.sent < LIMIT and not self._proxy.stopping.is_set():
            self._connection.sendall(part)
            self._proxy.sent += len(part)

    def close(self) -> None:
        """Close the connection now."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def wait(self, seconds: float) -> None:
        """Wait, or until the proxy stops."""
        self._proxy.stopping.wait(seconds)


def _head(answer: Answer, *more: tuple[str, str]) -> bytes:
    kept = [(name, value) for name, value in answer.headers if name.lower() not in _HOP_BY_HOP]
    lines = [f"{name}: {value}" for name, value in (*kept, *more, ("Connection", "close"))]
    return "\r\n".join([f"HTTP/1.1 {answer.status} Answer", *lines, "", ""]).encode("latin-1")


Fault = Callable[[Exchange], None]


class FaultProxy:
    """Listens from `with` to its end. Set `fault` at any time; without one it passes everything on."""

    def __init__(self, server: str) -> None:
        """`server` is the URL of the provider's server; its path stays part of `url`."""
        self._server = urlsplit(server)
        self.fault: Fault | None = None
        self.requests: list[Request] = []
        self.sent = 0
        """Bytes of the bodies without an end."""
        self.stopping = threading.Event()
        self._listener = _Listener(("127.0.0.1", 0), partial(_Connection, self))
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.02,), name="fault-proxy")

    @property
    def url(self) -> str:
        """Where it listens, with the path of the provider's URL."""
        return f"http://127.0.0.1:{self._listener.server_address[1]}{self._server.path}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stopping.set()
        self._listener.shutdown()
        self._thread.join()
        self._listener.server_close()

    def forward(self, request: Request) -> Answer:
        """Send a request to the provider's server, and return its answer."""
        is_tls = self._server.scheme == "https"
        connect = http.client.HTTPSConnection if is_tls else http.client.HTTPConnection
        connection = connect(self._server.hostname or "", self._server.port, timeout=30)
        # A server on loopback may make links from the Host header; another may need its own name there.
        dropped = _HOP_BY_HOP | ({"host"} if is_tls else set())
        headers = {name: value for name, value in request.headers if name.lower() not in dropped}
        try:
            connection.request(request.method, request.target, request.body or None, headers)
            answer = connection.getresponse()
            return Answer(answer.status, answer.read(), tuple(answer.getheaders()))
        finally:
            connection.close()


class _Listener(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing: clients give up on these answers."""


class _Connection(socketserver.StreamRequestHandler):
    timeout = 30.0

    def __init__(self, proxy: FaultProxy, *arguments: object) -> None:
        self._proxy = proxy
        super().__init__(*arguments)  # type: ignore[arg-type]

    def handle(self) -> None:
        with suppress(OSError, http.client.HTTPException):
            if (request := self._read()) is None:
                return
            self._proxy.requests.append(request)
            exchange = Exchange(self._proxy, self.connection, request)
            if self._proxy.fault is None:
                exchange.send(exchange.forward())
            else:
                self._proxy.fault(exchange)

    def _read(self) -> Request | None:
        parts = self.rfile.readline(65536).decode("latin-1").split()
        if len(parts) != 3:
            return None
        found = [(name, value) for name, value in http.client.parse_headers(self.rfile).items()]
        length = next((int(value) for name, value in found if name.lower() == "content-length"), 0)
        return Request(parts[0], parts[1], tuple(found), self.rfile.read(length))


# --- the faults ------------------------------------------------------------------------------------------------------


def lost_answer(exchange: Exchange) -> None:
    """The request is done, and its answer is lost."""
    exchange.forward()


def lost_request(exchange: Exchange) -> None:
    """The connection breaks before the request is done."""


def late_request(exchange: Exchange) -> None:
    """The connection breaks, and the request is done a moment later."""
    exchange.close()
    exchange.wait(0.5)
    exchange.forward()


def drip_for(seconds: float) -> Fault:
    """Make an answer that comes byte by byte, at most for so long."""

    def drip(exchange: Exchange) -> None:
        answer = exchange.forward()
        exchange.send(Answer(answer.status, answer.body + b" " * 10_000, answer.headers), pause=0.2, seconds=seconds)

    return drip


def failing(exchange: Exchange) -> None:
    """The request is done, and a gateway answers 502."""
    exchange.forward()
    exchange.send(Answer(502, b'{"detail": "upstream failed"}'))


def html(exchange: Exchange) -> None:
    """A page of HTML comes with status 200, as from a proxy that wants a login."""
    page = b"<!doctype html><html><head><title>Log in</title></head><body>Welcome</body></html>"
    exchange.send(Answer(200, page, (("Content-Type", "text/html"),)))


def too_many_with_header(exchange: Exchange) -> None:
    """Status 429, with the wait in the header Retry-After."""
    exchange.send(Answer(429, b"{}", (("Content-Type", "application/json"), ("Retry-After", str(WAIT)))))


def too_many_with_body(exchange: Exchange) -> None:
    """Status 429, with the wait in the body."""
    exchange.send(Answer(429, b'{"detail": "Too many requests", "retry_after": %d}' % WAIT))


def unauthorised(exchange: Exchange) -> None:
    """Status 401 to every request."""
    exchange.send(Answer(401, b'{"detail": "Invalid credential"}'))


def echo(exchange: Exchange) -> None:
    """Status 422, with an answer that repeats the request and its headers."""
    words = " ".join([*(value for _, value in exchange.request.headers), exchange.request.body.decode("latin-1")])
    body = words.replace("\\", " ").replace('"', " ")
    exchange.send(Answer(422, f'{{"detail": "{body}", "error": {{"message": "{body}"}}}}'.encode("latin-1")))


def oversized(exchange: Exchange) -> None:
    """An answer that has no end."""
    exchange.send_without_end(Answer(200, b"{"), b" " * 65536)


def redirect_to(other: str) -> Fault:
    """Make a redirect to that URL."""

    def redirect(exchange: Exchange) -> None:
        exchange.send(Answer(307, b"", (("Location", f"{other}{exchange.request.target}"),)))

    return redirect


def repeat_first(exchange_of: Callable[[Request], bool]) -> Fault:
    """Answer every such request as the first of them; forward the others."""
    answers: list[Answer] = []

    def repeat(exchange: Exchange) -> None:
        if not exchange_of(exchange.request):
            exchange.send(exchange.forward())
            return
        if not answers:
            answers.append(exchange.forward())
        exchange.send(answers[0])

    return repeat


def bad_counters(known: Collection[str], bad: object) -> Fault:
    """Put nonsense in the place of each 0 that stands beside one of the known texts: a new key has used nothing."""

    def spoil(exchange: Exchange) -> None:
        answer = exchange.forward()
        with suppress(ValueError):
            content = _spoilt(json.loads(answer.body), known, bad, is_near=False)
            answer = replace(answer, body=json.dumps(content).encode())
        exchange.send(answer)

    return spoil


def _spoilt(value: object, known: Collection[str], bad: object, *, is_near: bool) -> object:
    if isinstance(value, dict):
        is_near = is_near or any(isinstance(inner, str) and inner in known for inner in value.values())
        return {name: _spoilt(inner, known, bad, is_near=is_near) for name, inner in value.items()}
    if isinstance(value, list):
        return [_spoilt(inner, known, bad, is_near=is_near) for inner in value]
    is_zero = isinstance(value, int | float) and not isinstance(value, bool) and value == 0
    return bad if is_near and is_zero else value
