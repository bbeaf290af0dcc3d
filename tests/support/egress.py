"""An HTTP proxy on loopback as companies have them at their edge, and a TLS front for a server that speaks none."""

import base64
import select
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import trustme


@dataclass
class Egress:
    """How the proxy behaves, and what came to it. All may be changed while it runs."""

    server: str  # the URL that every connection leads to, whatever host it names
    credentials: str | None = None  # user:password, without which it answers 407
    status: int | None = None  # of its answer, in place of a connection
    reason: str = "Whatever"
    inspects_with: trustme.CA | None = None  # opens TLS, and shows certificates of its own
    drip: float = 0.0  # seconds between two bytes of what it sends to the client
    hangs: bool = False  # accepts connections, and answers nothing
    url: str = ""
    asked: list[str] = field(default_factory=list)  # request lines
    headers: list[dict[str, str]] = field(default_factory=list)  # of each request, names in lower case


@contextmanager
def egress(server: str, *, tls: trustme.CA | None = None) -> Iterator[Egress]:
    """Run a proxy; `tls` makes it an https:// one."""
    state = Egress(server)
    context = _server_side(tls, "127.0.0.1") if tls else None

    class Connection(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                client = context.wrap_socket(self.request, server_side=True) if context else self.request
                with client:
                    _serve(state, client, stopping)

    with _listening(Connection) as (port, stopping):
        state.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        yield state


@contextmanager
def tls_front(server: str, authority: trustme.CA, host: str = "127.0.0.1") -> Iterator[str]:
    """Open TLS, with a certificate for `host`, in front of an http:// server; yield the https:// URL."""
    context = _server_side(authority, host)

    class Connection(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with (
                suppress(OSError),
                context.wrap_socket(self.request, server_side=True) as client,
                _connected(server) as behind,
            ):
                _relay(client, behind, Egress(server), stopping)

    with _listening(Connection) as (port, stopping):
        yield f"https://127.0.0.1:{port}"


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True

    def handle_error(self, *_: object) -> None:
        """A client that goes away is what is tested."""


@contextmanager
def _listening(handler: type[socketserver.BaseRequestHandler]) -> Iterator[tuple[int, threading.Event]]:
    stopping = threading.Event()
    with _Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="egress")
        thread.start()
        try:
            yield server.server_address[1], stopping
        finally:
            stopping.set()
            server.shutdown()
            thread.join()


def _server_side(authority: trustme.CA, host: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host, key_type=trustme.KeyType.ECDSA).configure_cert(context)
    return context


def _connected(url: str) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname or "", parts.port or 0), 10)


def _serve(state: Egress, client: socket.socket, stopping: threading.Event) -> None:
    head = _head(client)
    if not head:
        return
    request_line, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines) if value}
    state.asked.append(request_line)
    state.headers.append(headers)
    if state.hangs:
        stopping.wait()
        return
    status = state.status
    if state.credentials is not None:
        expected = f"Basic {base64.b64encode(state.credentials.encode()).decode()}"
        status = status if headers.get("proxy-authorization") == expected else 407
    if status is not None:
        answer = (
            f'HTTP/1.1 {status} {state.reason}\r\nProxy-Authenticate: Basic realm="edge"\r\nContent-Length: 0\r\n\r\n'
        )
        _send(client, answer.encode(), state, stopping)
        return
    method, target, _ = request_line.split(" ")
    if method == "CONNECT":
        _send(client, b"HTTP/1.1 200 Connection established\r\n\r\n", state, stopping)
        with _connected(state.server) as server:
            if state.inspects_with is None:
                _relay(client, server, state, stopping)
                return
            context = _server_side(state.inspects_with, target.rpartition(":")[0])
            with context.wrap_socket(client, server_side=True) as opened:
                _relay(opened, server, state, stopping)
        return
    parts = urlsplit(target)
    path = f"{parts.path}?{parts.query}" if parts.query else parts.path
    kept = [line for line in lines if not line.lower().startswith(("proxy-authorization:", "connection:"))]
    with _connected(state.server) as server:
        server.sendall("\r\n".join([f"{method} {path} HTTP/1.1", "Connection: close", *kept]).encode("latin-1"))
        rest = int(headers.get("content-length", "0"))
        while rest > 0 and (part := client.recv(rest)):
            server.sendall(part)
            rest -= len(part)
        status_line = _line(server)  # the rest is relayed, and then both connections end
        _send(client, status_line + b"Connection: close\r\n", state, stopping)
        _relay(client, server, state, stopping)


def _head(client: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        part = client.recv(1)
        if not part:
            return b""
        head += part
    return head


def _line(server: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\r\n") and (part := server.recv(1)):
        line += part
    return line


def _send(client: socket.socket, part: bytes, state: Egress, stopping: threading.Event) -> None:
    if not state.drip:
        client.sendall(part)
        return
    for byte in part:
        client.sendall(bytes([byte]))
        if stopping.wait(state.drip):
            raise OSError


def _relay(client: socket.socket, server: socket.socket, state: Egress, stopping: threading.Event) -> None:
    """Carry bytes in both directions until either end is closed. One thread: a TLS connection is not for two."""
    while not stopping.is_set():
        pending = isinstance(client, ssl.SSLSocket) and client.pending()
        readable = [client] if pending else select.select([client, server], [], [], 0.05)[0]
        for source in readable:
            part = source.recv(65536)
            if not part:
                return
            if source is client:
                server.sendall(part)
            else:
                _send(client, part, state, stopping)
