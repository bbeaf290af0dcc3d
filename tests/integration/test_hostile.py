"""Slow and hostile clients on both ports of a running daemon: rotation goes on, and no client learns anything."""

import contextlib
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from support.installation import Daemon, Installation, installation
from support.leaks import RECORDER
from support.process import wait_until

CONNECTIONS = 1000  # on each of the two ports
TO_ANSWER = 3.0  # seconds in which a probe must be answered
ANSWERS = 400, 403, 404, 405, 408, 414, 421, 431


@pytest.fixture
def rotator(tmp_path: Path) -> Iterator[Installation]:
    with installation(tmp_path) as made:
        # A new key every two seconds: one that does not come is missed at once.
        made.config["defaults"] = {"ttl": "60s", "renew_before": "58s", "grace_period": "10s"}
        yield made


@pytest.fixture
def daemon(rotator: Installation) -> Daemon:
    daemon = rotator.start()
    daemon.wait_for("key_published")
    return daemon


@pytest.fixture
def _many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * CONNECTIONS + 500
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.fail(f"this machine allows {hard} open files, and the test needs {wanted}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def addresses(daemon: Daemon) -> list[tuple[str, int]]:
    urls = [daemon.url(), daemon.url(admin=True)]
    return [("127.0.0.1", int(url.rpartition(":")[2])) for url in urls]


def goes_on(daemon: Daemon) -> None:
    """Wait for two more keys, and for answers of both ports; fail on an unexpected error."""
    keys = len(daemon.events("key_published"))
    daemon.wait_for("key_published", keys + 2)
    assert daemon.events("unexpected_error") == []
    for path, admin in (("/healthz", False), ("/metrics", False), ("/", True), ("/status.json", True)):
        answers: list[int] = []

        def answered(path: str = path, admin: bool = admin, answers: list[int] = answers) -> bool:
            with contextlib.suppress(httpx.HTTPError):
                answers.append(daemon.get(path, admin=admin).status_code)
            return answers[-1:] == [200]

        wait_until(answered, f"{path} to be answered")


def probes_are_answered(daemon: Daemon) -> None:
    """Check that requests as of Kubernetes and Prometheus are answered soon, at the first attempt."""
    for path in ("/healthz", "/readyz", "/metrics"):
        began = time.monotonic()
        assert daemon.get(path).status_code == 200, path
        assert time.monotonic() - began < TO_ANSWER, path


@pytest.mark.usefixtures("_many_files")
def test_a_thousand_silent_or_dripping_connections_on_each_port(daemon: Daemon) -> None:
    stop = threading.Event()
    with ExitStack() as stack:
        sockets: list[socket.socket] = []
        for address in addresses(daemon):
            for number in range(CONNECTIONS):
                with contextlib.suppress(OSError):  # refused is as good
                    connection = stack.enter_context(socket.create_connection(address, timeout=2))
                    if number % 2:
                        connection.sendall(b"GET /metrics HTTP/1.1\r\nX-Slow: ")
                        sockets.append(connection)

        def drip() -> None:
            while not stop.wait(0.2):
                for connection in sockets:
                    with contextlib.suppress(OSError):
                        connection.send(b"a")

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            keys = len(daemon.events("key_published"))
            for _ in range(5):
                probes_are_answered(daemon)
                assert daemon.get("/status.json", admin=True).status_code == 200
            daemon.wait_for("key_published", keys + 2)
            threads = int(
                (Path("/proc") / str(daemon.process.pid) / "status").read_text().split("Threads:")[1].split()[0]
            )
            assert threads < 200, "the number of threads is bounded"
        finally:
            stop.set()
            dripping.join()
    goes_on(daemon)
    assert daemon.stop() == 0


HOSTILE = {
    "huge headers": b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * 100_000 + b"\r\n\r\n",
    "many headers": b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: a\r\n" * 10_000 + b"\r\n",
    "a huge path": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a path traversal": b"GET /../../../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "an encoded traversal": b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a post": b"POST /status.json HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1000,
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 100,
    "a method that is none": b"ROTATE / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
    "blanks without end": b"GET / HTTP/1.1\r\nHost:" + b" " * 8100 + b"\x01\r\n\r\n",
    "smuggling": b"GET /no HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\nGET",
}


def ask(address: tuple[str, int], request: bytes) -> bytes:
    """Return all that comes back."""
    answer = b""
    with contextlib.suppress(OSError), socket.create_connection(address, timeout=10) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(request)
        while read := connection.recv(65536):
            answer += read
    RECORDER.record("a hostile request", answer.decode(errors="replace"))
    return answer


def test_hostile_requests(daemon: Daemon) -> None:
    for address in addresses(daemon):
        for what, request in HOSTILE.items():
            answer = ask(address, request)
            if answer:  # else the connection was just closed
                status = int(answer.split(b" ", 2)[1])
                assert status in ANSWERS, (what, answer[:200])
                assert b"root:" not in answer, what
            probes_are_answered(daemon)
    goes_on(daemon)


def test_probes_are_answered_while_hostile_requests_are_being_read(daemon: Daemon) -> None:
    stop = threading.Event()

    def bother(address: tuple[str, int], request: bytes) -> None:
        while not stop.is_set():
            ask(address, request)

    worst = (HOSTILE["blanks without end"], HOSTILE["huge headers"], HOSTILE["a post"])
    botherers = [threading.Thread(target=bother, args=(address, raw)) for address in addresses(daemon) for raw in worst]
    for botherer in botherers:
        botherer.start()
    try:
        for _ in range(5):
            probes_are_answered(daemon)
    finally:
        stop.set()
        for botherer in botherers:
            botherer.join()
    goes_on(daemon)


def test_a_page_that_was_rebound_to_loopback_is_shown_nothing(daemon: Daemon) -> None:
    _, admin = addresses(daemon)
    for path in (b"/", b"/status.json"):
        answer = ask(admin, b"GET " + path + b" HTTP/1.1\r\nHost: evil.example:9466\r\n\r\n")
        assert int(answer.split(b" ", 2)[1]) in ANSWERS
        assert b"apps/a" not in answer


def test_a_head_has_the_headers_and_no_body(daemon: Daemon) -> None:
    for address, path in zip(addresses(daemon), (b"/metrics", b"/"), strict=True):
        head, _, body = ask(address, b"HEAD " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n").partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"Content-Length: " in head
        assert body == b""
