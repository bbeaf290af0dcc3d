"""A small HTTP server for a few fixed pages, on a port that strangers can reach.

Connections, bytes and time are bounded: one deadline covers a whole connection, not each read. The server answers one
GET, HEAD or POST per connection. It reads no body and writes no access log.
"""

import re
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus

from rotator.config.values import Address, is_loopback
from rotator.core.errors import RotatorError
from rotator.core.ports import Listener
from rotator.runtime.threads import start
from rotator.telemetry.logging import unexpected

TEXT_POLICY = "default-src 'none'; frame-ancestors 'none'"
"""The content security policy of a page without a style."""

MAX_HEAD = 8192  # bytes of a request's line and headers together
MAX_REST = 65536  # bytes read and ignored after an answer, because closing earlier could lose the answer
SHORT_DEADLINE = 0.5  # seconds, for steps that may not take a connection's whole deadline
MIN_WAIT = 0.05  # seconds that a silent client keeps its place if others wait for one

_ALWAYS = (
    "Connection: close\r\n"
    "Cache-Control: no-store\r\n"
    "Cross-Origin-Opener-Policy: same-origin\r\n"
    "Cross-Origin-Resource-Policy: same-origin\r\n"
    "Referrer-Policy: no-referrer\r\n"
    "X-Content-Type-Options: nosniff\r\n"
    "X-Frame-Options: DENY\r\n"
)
# No two neighbouring parts of a pattern match the same character. Otherwise a run of blanks could take the cube of its
# length to match, and that holds the interpreter's lock.
_REQUEST = re.compile(r"([A-Z]{1,16}) ([!-~]+) HTTP/1\.[01]")
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\t -~\x80-\xff]*)")
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.-]+))(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Response:
    """An answer. A HEAD gets the same headers without the body."""

    status: int
    content_type: str
    body: bytes
    policy: str = TEXT_POLICY  # the content security policy


Routes = Mapping[str, Callable[[str], Response]]
"""Pages by path. A path matches exactly: nothing is decoded, resolved or read from a disk.

A page gets the query as the client sent it (the printable ASCII after the first question mark), or "".
"""

Posts = Mapping[str, Callable[[], Response]]
"""What a POST without a body does, by path."""


class Shared:
    """A costly page: all requests that arrive while it is made share the next one.

    Otherwise a few clients that repeat their request could shut out the probes.
    """

    def __init__(self, make: Callable[[], Response]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._begun = 0
        self._made: tuple[int, Response] | None = None

    def __call__(self, _query: str) -> Response:
        """Return a page that was made after this call began."""
        asked = self._begun
        with self._lock:
            if self._made is None or self._made[0] <= asked:
                self._begun += 1
                self._made = self._begun, self._make()
            return self._made[1]


class Server:
    """Listens and answers, in threads, until `close`. `address` holds the real port."""

    def __init__(
        self,
        address: Address,
        routes: Routes,
        *,
        option: str,
        loopback_only_hosts: bool,
        emit: Listener,
        connections: int = 32,
        deadline: float = 5.0,
        posts: Posts | None = None,
    ) -> None:
        """Start to listen. `option` is the configuration's name for the address.

        With `loopback_only_hosts`, the Host header must name this host, so that a page elsewhere whose name resolves to
        this address is refused (DNS rebinding). At most `connections` are open at once, each for at most `deadline`
        seconds. Raises `RotatorError` if the address cannot be used.
        """
        self._listener = _listen(address, option)
        self._listener.setblocking(False)
        self.address = Address(address.host, self._listener.getsockname()[1])
        self._routes, self._posts = routes, posts or {}
        self._loopback_only_hosts = loopback_only_hosts
        self._emit = emit
        self._deadline = deadline
        self._free = threading.BoundedSemaphore(connections)
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self._waiting: dict[socket.socket, float] = {}  # since when each waits for its client; oldest first
        self._stopping = False
        self._wake, self._woken = socket.socketpair()
        self._acceptor = start(threading.Thread(target=self._accept, name=f"http {self.address}", daemon=True))

    def problems(self) -> Iterator[str]:
        """Yield a problem if the thread that listens has ended and should not have."""
        if not self._stopping and not self._acceptor.is_alive():
            yield f"the thread that listens on {self.address} has ended"

    def close(self) -> None:
        """Stop listening, close all connections and wait for the threads. A second call does nothing."""
        with self._lock:
            if self._stopping:
                return
            self._stopping = True
        self._wake.send(b"x")
        self._acceptor.join()
        with self._lock:
            for connection in self._open:
                _hang_up(connection)
        for thread in self._threads:
            thread.join(self._deadline)
        for end in (self._listener, self._wake, self._woken):
            end.close()

    # --- connections -----------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        with selectors.DefaultSelector() as ready:
            ready.register(self._listener, selectors.EVENT_READ)
            ready.register(self._woken, selectors.EVENT_READ)
            while not self._stopping:
                ready.select()
                try:
                    connection, _ = self._listener.accept()
                except BlockingIOError:
                    continue
                except OSError:  # no file descriptor is left, or the client gave up
                    time.sleep(0.05)
                    continue
                connection.setblocking(False)
                if self._room():
                    self._start(connection)
                else:
                    _refuse(connection)

    def _room(self) -> bool:
        """Wait for a free place, and return whether there is one.

        The connection that has waited longest for its client loses its place: at once if all of them wait, otherwise
        after `MIN_WAIT`. Otherwise silent clients could shut out the probes, and Kubernetes would restart the pod.
        """
        if self._free.acquire(blocking=False):
            return True
        gives_up = time.monotonic() + 2 * SHORT_DEADLINE
        while (now := time.monotonic()) < gives_up and not self._stopping:
            with self._lock:
                oldest, since = next(iter(self._waiting.items()), (None, now))
                all_wait = len(self._waiting) == len(self._open)
                if oldest is not None and (all_wait or now - since >= MIN_WAIT):
                    del self._waiting[oldest]
                    _hang_up(oldest)
                    since = now
            if self._free.acquire(timeout=since + MIN_WAIT - now):
                return True
        return False

    def _start(self, connection: socket.socket) -> None:
        until = time.monotonic() + self._deadline
        with self._lock:
            self._open.add(connection)
            self._waiting[connection] = time.monotonic()
        try:
            name = f"http {self.address} connection"
            thread = start(threading.Thread(target=self._serve, args=(connection, until), name=name, daemon=True))
        except RotatorError:  # no thread is left, so the thread that listens answers, quickly
            self._serve(connection, time.monotonic() + SHORT_DEADLINE)
        else:
            self._threads = [other for other in self._threads if other.is_alive()] + [thread]

    def _serve(self, connection: socket.socket, until: float) -> None:
        try:
            head = _read_head(connection, until)
            if head is not None:
                with self._lock:
                    self._waiting.pop(connection, None)
                answer = self._answer(head)
                with self._lock:
                    self._waiting[connection] = time.monotonic()
                _limit(connection, until)
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)
                _read_rest(connection, min(until, time.monotonic() + SHORT_DEADLINE))
        except OSError:
            pass  # the client is gone or too slow
        finally:
            self._end(connection)

    def _end(self, connection: socket.socket) -> None:
        with self._lock:
            self._waiting.pop(connection, None)
            self._open.discard(connection)
            connection.close()
        self._free.release()

    # --- requests --------------------------------------------------------------------------------------------------

    def _answer(self, head: bytes) -> bytes:
        if len(head) > MAX_HEAD:
            return _rendered(text_response(431, "the headers are too long"))
        first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        request = _REQUEST.fullmatch(first)
        headers = [_HEADER.fullmatch(line) for line in lines]
        if request is None or None in headers:
            return _rendered(text_response(400, "this is not HTTP/1.1"))
        method, target = request.groups()
        path, _, query = target.partition("?")
        allowed = ("POST",) if path in self._posts else ("GET", "HEAD")
        if method not in allowed:
            refusal = text_response(405, f"only {' and '.join(allowed)}")
            return _rendered(refusal, f"Allow: {', '.join(allowed)}\r\n", with_body=method != "HEAD")
        fields = [(found[1].lower(), found[2].strip(" \t")) for found in headers if found]
        hosts = [value for name, value in fields if name == "host"]
        if self._loopback_only_hosts and not (len(hosts) == 1 and _names_loopback(hosts[0])):
            page = text_response(421, "ask for localhost here, through a port-forward")
        elif method == "POST":
            page = _flaw_of_post(fields) or self._made(path, self._posts[path])
        else:
            page = self._page(path, query)
        return _rendered(page, with_body=method != "HEAD")

    def _page(self, path: str, query: str) -> Response:
        route = self._routes.get(path)
        if route is None:
            return text_response(404, f"not found; this port answers {', '.join(self._routes)}")
        return self._made(path, lambda: route(query))

    def _made(self, path: str, make: Callable[[], Response]) -> Response:
        try:
            return make()
        except Exception as error:  # the next request still needs an answer
            self._emit(unexpected(f"answering {path}", error))
            return text_response(500, "this page failed; the log has the reason")


def _flaw_of_post(fields: Sequence[tuple[str, str]]) -> Response | None:
    """Return the refusal of a POST from a browser, where any page could have sent it, or with a body."""
    if any(name in ("origin", "sec-fetch-site") for name, _ in fields):
        return text_response(403, "not from a browser")
    if any(name == "transfer-encoding" or (name == "content-length" and value != "0") for name, value in fields):
        return text_response(413, "send no body")
    return None


def _listen(address: Address, option: str) -> socket.socket:
    host = address.host
    try:
        return socket.create_server(
            (host, address.port),
            family=socket.AF_INET6 if ":" in host else socket.AF_INET,
            backlog=128,
            dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6(),
        )
    except (OSError, UnicodeError) as error:
        why = str(getattr(error, "strerror", error)).partition(" (while")[0]
        raise RotatorError(
            f"cannot listen on {address}: {why}",
            f"Set another address or port in {option}, or stop the program that uses this one.",
        ) from None


def _names_loopback(host: str) -> bool:
    found = _HOST.fullmatch(host)
    return found is not None and is_loopback((found[1] or found[2]).lower())


def text_response(status: int, text: str) -> Response:
    """Return one line of plain text."""
    return Response(status, "text/plain; charset=utf-8", f"{text}\n".encode())


def _rendered(response: Response, headers: str = "", *, with_body: bool = True) -> bytes:
    head = (
        f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}\r\n"
        f"Content-Type: {response.content_type}\r\nContent-Length: {len(response.body)}\r\n"
        f"Content-Security-Policy: {response.policy}\r\n{headers}{_ALWAYS}\r\n"
    )
    return head.encode() + (response.body if with_body else b"")


# --- bytes -----------------------------------------------------------------------------------------------------------


def _limit(connection: socket.socket, until: float) -> None:
    """Bound the next call on the socket by this moment. Raise TimeoutError if it has passed."""
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    connection.settimeout(left)


def _read_head(connection: socket.socket, until: float) -> bytes | None:
    """Return the bytes up to the empty line: more than `MAX_HEAD` if they lack one, None if the client hung up."""
    head = b""
    while len(head) <= MAX_HEAD:
        _limit(connection, until)
        chunk = connection.recv(MAX_HEAD + 1 - len(head))
        if not chunk:
            return None
        head += chunk
        end = head.find(b"\r\n\r\n", max(0, len(head) - len(chunk) - 3))
        if end >= 0:
            return head[: end + 4]
    return head


def _read_rest(connection: socket.socket, until: float) -> None:
    left = MAX_REST
    while left > 0:
        _limit(connection, until)
        chunk = connection.recv(left)
        if not chunk:
            return
        left -= len(chunk)


def _refuse(connection: socket.socket) -> None:
    """Answer that there is no place, if the client reads it at once, and close."""
    with connection, suppress(OSError):
        connection.send(_rendered(text_response(503, "too many connections"), "Retry-After: 1\r\n"))


def _hang_up(connection: socket.socket) -> None:
    with suppress(OSError):  # it is closed already
        connection.shutdown(socket.SHUT_RDWR)
