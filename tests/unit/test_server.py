"""The small HTTP server: what it answers, and that no client can stall it, crowd it out or get more from it."""

import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import httpx
import pytest
from support.process import wait_until
from support.starved import no_new_threads

from rotator.config.values import Address
from rotator.core.errors import RotatorError
from rotator.core.events import Event, EventType, Level
from rotator.web.server import MAX_HEAD, Response, Server, Shared

SECRET = "sk_live_0123456789abcdef"
METRICS = Response(200, "text/plain; version=0.0.4; charset=utf-8", b"up 1\n")
GET = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"


def ignore(event: Event) -> None:
    """Ignore the event."""


def fail(query: str) -> Response:
    raise ValueError(f"a fault with {SECRET}")


def long_page(query: str) -> Response:
    return Response(200, "text/plain", b"x" * 32_000_000)


class Site:
    """A server, the events that it emitted, and ways to talk to it."""

    def __init__(self, server: Server, events: list[Event]) -> None:
        self.server, self.events = server, events
        self.to = (server.address.host, server.address.port)

    def url(self, path: str) -> str:
        return f"http://{self.server.address}{path}"

    def ask(self, method: str = "GET", path: str = "/metrics", **more: Any) -> httpx.Response:
        with httpx.Client(trust_env=False, verify=False) as client:
            return client.request(method, self.url(path), **more)

    def connect(self) -> socket.socket:
        return socket.create_connection(self.to, timeout=5)

    def send(self, raw: bytes) -> bytes:
        with self.connect() as connection:
            connection.sendall(raw)
            return read(connection)


def read(connection: socket.socket) -> bytes:
    """All until the other side closes; what came before a reset counts."""
    received = b""
    try:
        while chunk := connection.recv(65536):
            received += chunk
    except ConnectionError:
        pass
    return received


def status(answer: bytes) -> int | None:
    return int(answer.split()[1]) if answer else None


def threads_of(site: Site) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if str(site.server.address) in thread.name]


@contextmanager
def serving(host: str = "127.0.0.1", **more: Any) -> Iterator[Site]:
    events: list[Event] = []

    def emit(event: Event) -> None:
        events.append(event)

    pages: Mapping[str, Callable[[str], Response]] = {
        "/metrics": lambda _: METRICS,
        "/status.json": lambda _: Response(200, "application/json", b"{}"),
        "/broken": fail,
        "/long": long_page,
        "/not-ready": lambda _: Response(503, "text/plain; charset=utf-8", b"not yet\n"),
    }
    options: dict[str, Any] = {"routes": pages, "option": "[http].listen", "loopback_only_hosts": False, **more}
    server = Server(Address(host, 0), emit=emit, **options)
    site = Site(server, events)
    try:
        yield site
    finally:
        server.close()
        assert threads_of(site) == [], "a thread is left"


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as site:
        yield site


@pytest.fixture
def admin() -> Iterator[Site]:
    with serving(loopback_only_hosts=True) as site:
        yield site


# --- answers ---------------------------------------------------------------------------------------------------------


def test_a_page_is_answered_with_all_headers_and_no_others(site: Site) -> None:
    answer = site.ask()
    assert (answer.status_code, answer.content) == (200, METRICS.body)
    assert dict(answer.headers) == {
        "content-type": METRICS.content_type,
        "content-length": "5",
        "connection": "close",
        "cache-control": "no-store",
        "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
    }


def test_a_pages_own_status_is_passed_on_and_a_query_is_no_part_of_its_path(site: Site) -> None:
    assert site.ask(path="/not-ready?a=b").status_code == 503
    assert site.ask(path="/metrics?name[]=up").content == METRICS.body


@pytest.mark.parametrize(
    ("path", "query"),
    [("/", ""), ("/?", ""), ("/?a=b&c=%3F?d", "a=b&c=%3F?d"), ("/?<script>", "<script>"), ("/??/metrics", "?/metrics")],
)
def test_a_page_gets_the_query_as_the_client_sent_it(path: str, query: str) -> None:
    asked: list[str] = []

    def page(query: str) -> Response:
        asked.append(query)
        return METRICS

    with serving(routes={"/": page}) as site:
        assert status(site.send(f"GET {path} HTTP/1.1\r\n\r\n".encode())) == 200
    assert asked == [query]


def test_a_page_may_have_a_policy_of_its_own() -> None:
    with serving(routes={"/": lambda _: Response(200, "text/html", b"", "style-src 'self'")}) as site:
        assert site.ask(path="/").headers.get_list("content-security-policy") == ["style-src 'self'"]


def test_head_is_get_without_the_body(site: Site) -> None:
    got, head = site.send(GET), site.send(GET.replace(b"GET", b"HEAD"))
    assert got == head + METRICS.body


def test_head_has_no_body_where_it_is_refused_either(admin: Site) -> None:
    for raw in (b"HEAD /metrics HTTP/1.1\r\nHost: evil\r\n\r\n", b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n"):
        assert admin.send(raw).endswith(b"\r\n\r\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "FOO"])
def test_other_methods_are_refused(site: Site, method: str) -> None:
    answer = site.ask(method)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


def test_a_body_is_not_waited_for_and_does_not_tear_up_the_answer(site: Site) -> None:
    with site.connect() as connection:
        connection.sendall(b"POST /metrics HTTP/1.1\r\nContent-Length: 50000\r\n\r\n")
        for _ in range(5):
            time.sleep(0.02)
            connection.sendall(b"x" * 10_000)  # the server takes none of it
        assert status(read(connection)) == 405
    assert status(site.send(b"GET /metrics HTTP/1.1\r\nContent-Length: 99999\r\n\r\n")) == 200


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "",
        "/metrics/",
        "/METRICS",
        "//metrics",
        "/metrics%00",
        "/%6detrics",
        "/x/../metrics",
        "/../../../../etc/passwd",
        "/..%2f..%2fetc%2fpasswd",
        "http://localhost/metrics",
        "*",
    ],
)
def test_anything_but_a_page_to_the_letter_is_not_found(site: Site, path: str) -> None:
    answer = site.send(f"GET {path or '?'} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert status(answer) == 404
    assert b"root:" not in answer
    assert b"this port answers /metrics, /status.json" in answer


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n",
        b"\r\n\r\n",
        b"GET /metrics\r\n\r\n",
        b"GET /metrics HTTP/2\r\n\r\n",
        b"GET  /metrics HTTP/1.1\r\n\r\n",
        b"GET /metrics HTTP/1.1 \r\n\r\n",
        b"get /metrics HTTP/1.1\r\n\r\n",
        b"GET /met\xffrics HTTP/1.1\r\n\r\n",
        b"GET /met\x00rics HTTP/1.1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nA: b\r\n folded\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nA : b\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nA: \x00\r\n\r\n",
        b"GET /metrics HTTP/1.1\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
)
def test_what_is_not_http_is_refused(site: Site, raw: bytes) -> None:
    assert status(site.send(raw)) == 400
    assert site.events == []


@pytest.mark.parametrize("split", [1, 2, 3, 4, 10])
def test_a_request_may_come_in_pieces(site: Site, split: int) -> None:
    with site.connect() as connection:
        connection.sendall(GET[:-split])
        time.sleep(0.01)
        connection.sendall(GET[-split:])
        assert status(read(connection)) == 200


def test_a_second_request_on_a_connection_is_not_answered(site: Site) -> None:
    assert site.send(GET * 3).count(b"HTTP/1.1 200") == 1


def test_a_fault_is_answered_without_details_and_emitted(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    answer = site.ask(path="/broken")
    assert answer.status_code == 500
    assert SECRET not in str(answer.headers) + answer.text
    assert "ValueError" not in answer.text
    (event,) = site.events
    assert (event.what, event.level) == (EventType.UNEXPECTED_ERROR, Level.ERROR)
    assert event.fields["where"] == "answering /broken"
    assert "ValueError" in str(event.fields["traceback"])
    assert site.ask().status_code == 200
    assert capfd.readouterr() == ("", "")


# --- DNS rebinding ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "LocalHost", "[::1]", "127.0.0.1:1", "localhost:9466", "[::1]:65535", "127.0.0.53"],
)
def test_the_admin_port_answers_to_this_host(admin: Site, host: str) -> None:
    assert status(admin.send(f"GET /status.json HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())) == 200


@pytest.mark.parametrize(
    "headers",
    [
        "",
        "Host:\r\n",
        "Host: evil.example\r\n",
        "Host: evil.example:9466\r\n",
        "Host: localhost.evil.example\r\n",
        "Host: 127.0.0.1.evil.example\r\n",
        "Host: evil@localhost\r\n",
        "Host: localhost evil\r\n",
        "Host: localhost.\r\n",
        "Host: ::1\r\n",
        "Host: [::1\r\n",
        "Host: [::1].evil\r\n",
        "Host: 10.0.0.1\r\n",
        "Host: 0.0.0.0\r\n",
        "Host: [::]\r\n",
        "Host: 2130706433\r\n",
        "Host: localhost:port\r\n",
        "Host: localhost\r\nHost: evil.example\r\n",
        "Host: evil.example\r\nX-Forwarded-Host: localhost\r\n",
    ],
)
def test_the_admin_port_refuses_any_other_host(admin: Site, headers: str) -> None:
    answer = admin.send(f"GET /status.json HTTP/1.1\r\n{headers}\r\n".encode())
    assert status(answer) == 421
    assert not answer.endswith(b"{}")


def test_the_open_port_does_not_care(site: Site) -> None:
    assert site.ask(headers={"Host": "10.1.2.3:9465"}).status_code == 200


# --- a POST ----------------------------------------------------------------------------------------------------------

POST = "POST /look HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture
def looks() -> list[str]:
    return []


@pytest.fixture
def posted(looks: list[str]) -> Iterator[Site]:
    """An admin port on which POST /look does something."""

    def look() -> Response:
        looks.append("look")
        return Response(202, "text/plain", b"soon\n")

    with serving(loopback_only_hosts=True, posts={"/look": look}) as site:
        yield site


@pytest.mark.parametrize("path", ["/look", "/look?a=b"])
@pytest.mark.parametrize("more", ["", "Content-Length: 0\r\n", "Content-Type: text/plain\r\n"])
def test_a_post_without_a_body_is_done(posted: Site, looks: list[str], path: str, more: str) -> None:
    assert status(posted.send(f"{POST.replace('/look', path)}{more}\r\n".encode())) == 202
    assert looks == ["look"]


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (POST.replace("localhost", "evil.example"), 421),
        ("POST /look HTTP/1.1\r\n", 421),
        (POST.replace("POST", "GET"), 405),
        (POST.replace("POST", "HEAD"), 405),
        (POST.replace("POST", "PUT"), 405),
        (POST.replace("POST", "OPTIONS"), 405),
        (POST.replace("/look", "/status.json"), 405),
        (POST.replace("/look", "/look/"), 405),
        (f"{POST}Content-Length: 50000\r\n", 413),
        (f"{POST}Content-Length: 0\r\nContent-Length: 5\r\n", 413),
        (f"{POST}Transfer-Encoding: chunked\r\n", 413),
        # what a browser sends for a page elsewhere, for one at this address, and for a page in a sandbox
        (f"{POST}Origin: http://evil.example\r\n", 403),
        (f"{POST}Origin: http://localhost\r\n", 403),
        (f"{POST}Origin: null\r\n", 403),
        (f"{POST}Sec-Fetch-Site: cross-site\r\n", 403),
        (f"{POST}A: {'b' * MAX_HEAD}\r\n", 431),
    ],
)
def test_any_other_post_does_nothing(posted: Site, looks: list[str], request_: str, answer: int) -> None:
    assert status(posted.send(f"{request_}\r\n".encode())) == answer
    assert looks == []
    assert posted.ask(path="/status.json").status_code == 200


def test_a_get_of_what_takes_a_post_names_the_method(posted: Site) -> None:
    answer = posted.ask(path="/look")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def test_a_post_that_fails_shows_nothing_of_the_reason() -> None:
    def look() -> Response:
        raise ValueError(f"a fault with {SECRET}")

    with serving(posts={"/look": look}) as site:
        answer = site.ask("POST", "/look")
        assert (answer.status_code, SECRET in answer.text) == (500, False)
        assert [event.what for event in site.events] == [EventType.UNEXPECTED_ERROR]


# --- bounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slow", ["nothing", "a byte at a time", "half a request"])
def test_a_slow_client_is_cut_off_at_the_deadline_of_the_connection(slow: str) -> None:
    with serving(deadline=0.3) as site, site.connect() as connection:
        began = time.monotonic()
        if slow == "half a request":
            connection.sendall(GET[:-2])
        if slow == "a byte at a time":
            for byte in GET[:-1]:
                try:
                    connection.sendall(bytes([byte]))
                except ConnectionError:
                    break
                time.sleep(0.05)
                if time.monotonic() - began > 2:
                    break
        assert read(connection) == b""
        assert 0.25 < time.monotonic() - began < 1.5


def test_a_client_that_reads_no_answer_is_cut_off_as_well() -> None:
    with serving(deadline=0.3) as site, site.connect() as connection:
        connection.sendall(GET.replace(b"/metrics", b"/long"))
        wait_until(lambda: len(threads_of(site)) == 2, "a connection", 5)
        wait_until(lambda: len(threads_of(site)) == 1, "its end", 5)
        assert len(read(connection)) < 32_000_000


def test_a_client_that_stays_after_the_answer_is_not_waited_for(site: Site) -> None:
    with site.connect() as connection:
        connection.sendall(GET)
        assert status(read(connection)) == 200
        wait_until(lambda: len(threads_of(site)) == 1, "the connection's end", 3)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * MAX_HEAD,
        b"GET /metrics HTTP/1.1\r\nA: " + b"b" * MAX_HEAD,
        b"GET /metrics HTTP/1.1\r\n" + b"A: b\r\n" * MAX_HEAD,
        b"\x00" * 60_000,
    ],
)
def test_long_heads_are_refused_and_not_read_to_their_end(site: Site, head: bytes) -> None:
    assert status(site.send(head)) == 431
    assert site.ask().status_code == 200


@pytest.mark.parametrize(
    ("begin", "repeated", "end"),
    [
        (b"A:", b" ", b"\x01"),
        (b"A:", b"\t", b"\x7f"),
        (b"A:", b" \t", b"\x00"),
        (b"A:", b" a", b"\x01"),
        (b"A:", b":", b"\x01"),
        (b"A:", b"\xa0", b"\x01"),
        (b"", b"A", b""),
        (b"", b"A:", b"\x01"),
        (b"Host:", b" ", b"x"),
        (b"Host: ", b"a.", b":"),
        (b"Host: [", b":", b""),
        (b"Host: ", b"1.", b""),
    ],
)
def test_no_header_keeps_the_process_busy(admin: Site, begin: bytes, repeated: bytes, end: bytes) -> None:
    for length in (500, 1000, 2000, 4000, 8000):  # where time grows with the cube, this ends before it is hours
        line = begin + repeated * (length // len(repeated)) + end
        spent = time.process_time()
        assert status(admin.send(b"GET / HTTP/1.1\r\n" + line + b"\r\n\r\n")) in (400, 421)
        assert time.process_time() - spent < 0.5


@pytest.mark.parametrize("value", ["localhost", "  localhost", "\tlocalhost \t", "localhost  "])
def test_white_space_around_a_headers_value_is_none_of_it(admin: Site, value: str) -> None:
    assert status(admin.send(f"GET /status.json HTTP/1.1\r\nHost:{value}\r\n\r\n".encode())) == 200


def test_a_head_may_be_as_long_as_allowed(site: Site) -> None:
    head = b"GET /metrics HTTP/1.1\r\nA: "
    assert status(site.send(head + b"b" * (MAX_HEAD - len(head) - 4) + b"\r\n\r\n")) == 200
    assert status(site.send(head + b"b" * (MAX_HEAD - len(head) - 3) + b"\r\n\r\n")) == 431


def test_a_hundred_at_once_are_answered_or_refused_within_the_bound() -> None:
    at_once = 0
    most = 0
    lock = threading.Lock()

    def page(query: str) -> Response:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.02)
        with lock:
            at_once -= 1
        return METRICS

    with serving(routes={"/metrics": page}, connections=8) as site:
        answers: list[int | None] = []
        everybody = threading.Barrier(100)

        def ask() -> None:
            with site.connect() as connection:
                everybody.wait()
                with suppress(ConnectionError):
                    connection.sendall(GET)
                answers.append(status(read(connection)))

        askers = [threading.Thread(target=ask) for _ in range(100)]
        for asker in askers:
            asker.start()
        while any(asker.is_alive() for asker in askers):
            assert len(threads_of(site)) <= 8 + 1 + 8  # those that have just ended may still be counted
            time.sleep(0.005)
        assert len(answers) == 100
        assert set(answers) <= {200, 503, None}
        assert most <= 8
        assert site.ask().status_code == 200


def test_silent_connections_do_not_shut_out_a_probe() -> None:
    with serving(connections=4) as site, ExitStack() as stack:
        silent = [stack.enter_context(site.connect()) for _ in range(4)]
        wait_until(lambda: len(threads_of(site)) == 5, "all connections", 5)
        began = time.monotonic()
        assert site.ask().status_code == 200
        assert time.monotonic() - began < 2  # and not after their deadline
        assert read(silent[0]) == b""  # the oldest had to leave


def test_a_stream_of_silent_connections_does_not_shut_out_a_probe() -> None:
    """A hundred a second, which never ask for anything: each has its place only until the next one comes."""
    over = threading.Event()
    with serving(connections=8) as site, ExitStack() as stack:

        def flood() -> None:
            while not over.wait(0.01):
                with suppress(OSError):
                    stack.enter_context(site.connect())

        flooding = threading.Thread(target=flood)
        flooding.start()
        try:
            wait_until(lambda: len(threads_of(site)) >= 9, "all connections", 5)
            began = time.monotonic()
            answered = 0
            for _ in range(10):
                with suppress(httpx.HTTPError):  # a probe slower than the stream may lose its place as well
                    answered += site.ask().status_code == 200
            took = time.monotonic() - began
        finally:
            over.set()
            flooding.join()
    assert answered >= 8
    assert took < 5


def test_when_all_are_being_answered_a_further_one_is_refused() -> None:
    may_end = threading.Event()

    def page(query: str) -> Response:
        may_end.wait(10)
        return METRICS

    with serving(routes={"/metrics": page}, connections=2) as site, ExitStack() as stack:
        busy = [stack.enter_context(site.connect()) for _ in range(2)]
        for connection in busy:
            connection.sendall(GET)
        wait_until(lambda: site.server._waiting == {} and len(site.server._open) == 2, "two that wait", 5)
        with site.connect() as further:
            assert status(read(further)) == 503
        may_end.set()
        assert [status(read(connection)) for connection in busy] == [200, 200]


def test_probes_are_answered_while_many_ask_for_a_costly_page_again_and_again() -> None:
    """A page that takes 0.1 s, and 32 clients that repeat their request: one page after the other takes seconds."""
    made: list[float] = []

    def make() -> Response:
        made.append(time.monotonic())
        time.sleep(0.1)
        return METRICS

    routes = {"/metrics": Shared(make), "/healthz": lambda _: METRICS}
    over = threading.Event()
    answers: list[int | None] = []
    with serving(routes=routes, connections=8) as site:

        def ask() -> None:
            while not over.is_set():
                with suppress(OSError), site.connect() as connection:
                    connection.sendall(GET)
                    answers.append(status(read(connection)))

        askers = [threading.Thread(target=ask) for _ in range(32)]
        for asker in askers:
            asker.start()
        try:
            wait_until(lambda: len(made) > 3, "the page to be made a few times", 10)
            for _ in range(2):
                assert site.ask(path="/healthz").status_code == 200
        finally:
            over.set()
            for asker in askers:
                asker.join()
    assert answers.count(200) > 2 * len(made), "many share one"


def test_a_shared_page_is_made_anew_for_a_later_request() -> None:
    made = itertools.count()
    page = Shared(lambda: Response(200, "text/plain", f"{next(made)}".encode()))
    assert [page("").body for _ in range(3)] == [b"0", b"1", b"2"]


def test_requests_while_a_page_is_being_made_share_the_next_one() -> None:
    made = itertools.count()
    begun, go_on = threading.Event(), threading.Event()

    def make() -> Response:
        number = next(made)
        if number == 0:
            begun.set()
            go_on.wait(10)
        return Response(200, "text/plain", f"{number}".encode())

    page = Shared(make)
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(page, "")
        assert begun.wait(10)
        others = [pool.submit(page, "") for _ in range(8)]
        time.sleep(0.05)  # so that they have asked; what they get is the same if one has not
        go_on.set()
        assert first.result().body == b"0"
        assert {other.result().body for other in others} == {b"1"}


def test_without_a_thread_for_it_a_request_is_answered_all_the_same(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    with no_new_threads(monkeypatch):
        with site.connect() as silent:
            assert site.ask().status_code == 200
            assert read(silent) == b""
        assert site.ask().status_code == 200
    assert site.ask().status_code == 200


def test_a_client_that_hangs_up_early_is_no_event(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    for raw in (b"", b"GET", GET):
        site.connect().close()
        with site.connect() as connection:
            connection.sendall(raw)
    assert site.ask().status_code == 200
    assert site.events == []
    assert capfd.readouterr() == ("", "")


# --- listening and stopping ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "::1", "::"])
def test_every_kind_of_address_is_listened_on(host: str) -> None:
    if ":" in host and not ipv6():
        pytest.skip("this machine has no IPv6")
    with serving(host) as site:
        assert site.server.address.port > 0
        assert str(site.server.address) == (f"[{host}]" if ":" in host else host) + f":{site.server.address.port}"
        assert site.ask().content == METRICS.body
        if host == "::":
            with socket.create_connection(("127.0.0.1", site.server.address.port), timeout=5) as connection:
                connection.sendall(GET)
                assert status(read(connection)) == 200


def ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def test_a_taken_port_is_a_clear_error(site: Site) -> None:
    with pytest.raises(RotatorError) as caught:
        Server(Address(*site.to), {}, option="[http].admin", loopback_only_hosts=True, emit=ignore)
    assert caught.value.message == f"cannot listen on {site.server.address}: Address already in use"
    assert "[http].admin" in caught.value.advice


@pytest.mark.parametrize("host", ["192.0.2.1", "a" * 64 + ".invalid"])
def test_an_address_that_is_not_ours_is_a_clear_error(host: str) -> None:
    with pytest.raises(RotatorError, match=f"cannot listen on {host}:8080: [^(]+"):
        Server(Address(host, 8080), {}, option="[http].listen", loopback_only_hosts=False, emit=ignore)


def test_after_a_stop_the_port_can_be_had_again_at_once() -> None:
    with serving() as site:
        assert site.ask().status_code == 200
    Server(Address(*site.to), {}, option="", loopback_only_hosts=False, emit=ignore).close()


def test_a_stop_does_not_wait_for_silent_clients_and_may_be_repeated() -> None:
    with serving() as site, site.connect() as connection:
        wait_until(lambda: len(threads_of(site)) == 2, "the connection", 5)
        began = time.monotonic()
        site.server.close()
        site.server.close()
        assert time.monotonic() - began < 1
        assert threads_of(site) == []
        assert read(connection) == b""
        with pytest.raises(OSError, match="refused"):
            site.connect()


def test_a_stop_waits_for_the_page_that_is_being_made() -> None:
    began, ended = threading.Event(), []

    def page(query: str) -> Response:
        began.set()
        time.sleep(0.05)
        ended.append(True)
        return METRICS

    with serving(routes={"/metrics": page}) as site, site.connect() as connection:
        connection.sendall(GET)
        assert began.wait(5)
        site.server.close()
        assert ended == [True]


def test_both_ports_may_be_served_at_once() -> None:
    with serving() as one, serving(loopback_only_hosts=True) as other:
        assert one.server.address != other.server.address
        assert one.ask().status_code == 200
        assert json.loads(other.ask(path="/status.json").content) == {}
