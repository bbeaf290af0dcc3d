"""A receiver of webhooks, which verifies signatures with the library's own verifier and may misbehave."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook

from support.leaks import RECORDER

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
FORMER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


@dataclass(frozen=True, slots=True)
class Delivery:
    headers: dict[str, str]
    body: bytes
    path: str

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def verified(self, secret: str = SECRET) -> dict[str, Any]:
        """Return the body. Raise `WebhookVerificationError` unless this secret signed it."""
        verified: dict[str, Any] = Webhook(secret).verify(self.body, self.headers)
        return verified


@dataclass
class Receiver:
    url: str = ""
    status: int = 204
    answer: bytes = b""
    location: str = ""
    seconds: float = 0.0  # before it answers
    drops: bool = False  # the connection, instead of answering
    deliveries: list[Delivery] = field(default_factory=list)

    def bodies(self, *kinds: str) -> list[dict[str, Any]]:
        """Return the bodies of these types, verified, in the order in which they came first; each id once."""
        first = {delivery.id: delivery for delivery in reversed(self.deliveries)}
        bodies = [delivery.verified() for delivery in reversed(first.values())]
        return [body for body in bodies if not kinds or body["type"] in kinds]


@contextmanager
def receiving(host: str = "127.0.0.1") -> Iterator[Receiver]:
    """Yield a running receiver."""
    receiver = Receiver()
    RECORDER.add_secret("a webhook's secret", SECRET)
    RECORDER.add_secret("a webhook's former secret", FORMER)
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            RECORDER.record("a webhook", f"{headers} {body.decode()} {self.path}")
            receiver.deliveries.append(Delivery(headers, body, self.path))
            ended.wait(receiver.seconds)
            if receiver.drops:
                self.close_connection = True
                return
            with suppress(OSError):
                self.send_response(receiver.status)
                if receiver.location:
                    self.send_header("Location", receiver.location)
                self.send_header("Content-Length", str(len(receiver.answer)))
                self.end_headers()
                self.wfile.write(receiver.answer)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer((host, 0), Handler)
    server.daemon_threads = True
    receiver.url = f"http://{host}:{server.server_address[1]}/hooks/"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield receiver
    finally:
        ended.set()
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def never_reading() -> Iterator[str]:
    """Yield the URL of a receiver that takes connections and reads nothing."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(100)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
