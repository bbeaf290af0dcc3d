"""An HTTP server that gives a test's answers, and records the requests."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DRIP = 0.02  # seconds between two bytes of an answer that drips


class Refused(Exception):
    """The request is answered with this status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    headers: Mapping[str, str]  # names in lower case
    body: bytes


@dataclass(frozen=True)
class Reply:
    """One answer. A `body` other than text becomes JSON."""

    status: int
    body: object = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    drips: bool = False


class Canned:
    """The server: `answer` makes the answers, `asked` holds all requests."""

    def __init__(self, answer: Callable[[Asked], Reply]) -> None:
        self.answer = answer
        self.asked: list[Asked] = []
        self.address = ""

    def paths(self, method: str) -> list[str]:
        """Return the paths of the requests with this method, in order."""
        return [asked.path for asked in self.asked if asked.method == method]


@contextmanager
def canned(answer: Callable[[Asked], Reply]) -> Iterator[Canned]:
    """Run the server on a free port of loopback."""
    state = Canned(answer)
    stopped = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
            pass

        def _handle(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", 0)))
            asked = Asked(self.command, self.path, headers, body)
            state.asked.append(asked)
            reply = state.answer(asked)
            is_text = isinstance(reply.body, str)
            content = str(reply.body).encode() if is_text else json.dumps(reply.body).encode()
            self.send_response_only(reply.status)  # without a Date, which the reply may have
            for name, value in {
                "Content-Type": "text/html" if is_text else "application/json",
                "Content-Length": str(len(content)),
                **reply.headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            with suppress(OSError):  # the client may not wait for the end
                if not reply.drips:
                    self.wfile.write(content)
                    return
                for byte in content:
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                    if stopped.wait(DRIP):
                        return

        do_GET = do_PATCH = do_POST = do_PUT = do_DELETE = do_LIST = _handle

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield state
    finally:
        stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()
