"""The wire to Vault: what is sent, and that every answer is bounded in time and size."""

import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import chain, repeat
from pathlib import Path

import pytest
import trustme
from support.canned import Canned, Reply, canned
from support.vaultstore import DATA, DENIED, KEY, TOKEN, OpenStore, answering, assert_hides, assert_unsettled, empty

from rotator.core.errors import StoreError, StoreOutcomeUnknown, StoreRequestRefused, StoreUnavailable
from rotator.stores.vault import transport as vault_wire
from rotator.stores.vault.auth import AppRoleLogin

pytestmark = pytest.mark.usefixtures("no_waiting")

OK = b"HTTP/1.1 200 OK\r\n"
TIMEOUT = 0.05  # of one read, in these tests; a whole answer may take twice that


@contextmanager
def raw_server(answer: Callable[[], Iterator[bytes]], pause: float, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """A server on loopback that answers every request with these pieces, and a pause after each."""
    stopped = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            connection = tls.wrap_socket(self.request, server_side=True) if tls else self.request
            with connection, suppress(OSError):  # the client does not wait for the end
                connection.recv(65536)
                for piece in answer():
                    connection.sendall(piece)
                    if stopped.wait(pause):
                        break

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            stopped.set()
            server.shutdown()
            thread.join()


@pytest.fixture
def server() -> Iterator[Canned]:
    with canned(empty) as server:
        yield server


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS, and the file of certificates with which a client trusts it."""
    made, file = trustme.CA(), tmp_path_factory.mktemp("tls") / "ca.pem"
    made.cert_pem.write_to_path(str(file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.issue_cert("127.0.0.1").configure_cert(context)
    return context, file


# --- what is sent ----------------------------------------------------------------------------------------------------


def test_requests_have_only_the_expected_headers_and_bodies(server: Canned, open_store: OpenStore) -> None:
    store = open_store(f"{server.address}/behind/a/proxy/", "kv", TOKEN)
    store.history("app")
    with pytest.raises(StoreOutcomeUnknown):
        store.write("app", DATA, cas=3)

    *_, read, _, write = server.asked  # between them what kind of mount it is

    assert (read.method, read.path) == ("GET", "/behind/a/proxy/v1/kv/metadata/app")
    assert (write.method, write.path) == ("POST", "/behind/a/proxy/v1/kv/data/app")
    always = {"host", "user-agent", "accept-encoding", "x-vault-request", "x-vault-token"}
    assert set(read.headers) == always
    assert set(write.headers) == always | {"content-type", "content-length"}
    for name, value in {"x-vault-request": "true", "accept-encoding": "identity", "x-vault-token": TOKEN}.items():
        assert read.headers[name] == write.headers[name] == value
    assert write.headers["content-type"] == "application/json"
    assert write.body == b'{"options": {"cas": 3}, "data": {"api_key": "%s"}}' % KEY.encode()


def test_requests_is_not_used(server: Canned, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("__init__", "request", "send"):
        monkeypatch.setattr(f"requests.Session.{name}", lambda *_, **__: pytest.fail("requests is used"))

    assert open_store(server.address, "kv", TOKEN).history("app").current_version == 0


def test_a_value_that_json_lacks_is_not_sent(server: Canned, open_store: OpenStore) -> None:
    store = open_store(server.address, "kv", TOKEN)
    for number in (float("nan"), float("inf")):
        with pytest.raises(StoreRequestRefused, match="does not have, so nothing was sent") as raised:
            store.write("app", {**DATA, "n": number}, cas=0)
        assert_hides(raised.value, TOKEN, KEY)

    assert server.paths("POST") == []


def test_a_header_that_cannot_be_sent_is_reported_and_hides_the_token(
    server: Canned, open_store: OpenStore, tmp_path: Path
) -> None:
    file = tmp_path / "secret-id"
    file.write_text("a-secret-id")
    granted = {"lease_duration": 60, "renewable": True}
    for token in (f"{TOKEN}\r\nX-Other: 1", f"{TOKEN}\N{SNOWMAN}"):
        server.answer = lambda _, token=token: Reply(200, {"auth": {**granted, "client_token": token}})  # type: ignore[misc]
        store = open_store(server.address, "kv", AppRoleLogin("role", file))
        with pytest.raises(StoreUnavailable, match="failed") as read:
            store.history("app")
        with pytest.raises(StoreOutcomeUnknown, match="failed") as written:
            store.write("app", DATA, cas=0)
        for raised in (read, written):
            assert_hides(raised.value, TOKEN, KEY)

    assert not any("x-other" in asked.headers or "x-vault-token" in asked.headers for asked in server.asked)


# --- answers that drip -----------------------------------------------------------------------------------------------

DRIPS: dict[str, tuple[bytes, bytes]] = {  # what comes at once, and what comes again and again
    "status": (b"HTTP/1.1 200 ", b"O"),
    "a header": (OK + b"X-Slow: ", b"x"),
    "headers": (OK, b"X: x\r\n"),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "body": (OK + b"Content-Length: 1000000\r\n\r\n", b"x"),
    "body without an end": (OK + b"\r\n", b"x"),
    "chunks": (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "trailer": (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"x"),
}


@pytest.mark.parametrize(("name", "scheme"), [*((name, "http") for name in DRIPS), ("headers", "https")])
def test_an_answer_that_drips_is_given_up_in_time(
    open_store: OpenStore, authority: tuple[ssl.SSLContext, Path], name: str, scheme: str
) -> None:
    first, drop = DRIPS[name]
    context, file = authority
    with raw_server(lambda: chain([first], repeat(drop)), 0.02, context if scheme == "https" else None) as port:
        store = open_store(f"{scheme}://127.0.0.1:{port}", "kv", TOKEN, timeout=TIMEOUT, connections=1, ca_file=file)
        for _ in range(2):  # the one connection is given back
            started = time.monotonic()
            with pytest.raises(StoreOutcomeUnknown, match="no answer from 127") as raised:
                store.write("app", DATA, cas=0)
            assert time.monotonic() - started < 2 * TIMEOUT + 1.0  # a busy machine may take long to get to it
            assert_hides(raised.value, TOKEN, KEY)

    assert store.metered.take() == [("login", "timeout")] * 2


def test_an_answer_that_pauses_and_comes_in_time_is_taken(open_store: OpenStore) -> None:
    pieces = [OK[:9], OK[9:], b"Content-Length: 18\r\n", b"\r\n", b'{"cluster_id":', b'"c"}']
    with raw_server(lambda: iter(pieces), 0.02) as port:
        assert open_store(f"http://127.0.0.1:{port}", "kv", TOKEN).location("app") == "vault/c//kv/app"


# --- answers that are too much, or too little ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "piece"),
    [
        (b"", b"x" * 5000),
        (b"Content-Length: 1000000000\r\n", b"x" * 5000),
        (b"Transfer-Encoding: chunked\r\n", b"1388\r\n" + b"x" * 5000 + b"\r\n"),
        (b"Transfer-Encoding: chunked\r\n", b"FFFFFFFF\r\n" + b"x" * 5000),
    ],
    ids=["without an end", "long", "many chunks", "a long chunk"],
)
def test_a_body_without_end_is_refused(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch, headers: bytes, piece: bytes
) -> None:
    monkeypatch.setattr(vault_wire, "MAX_BODY", 100_000)
    with raw_server(lambda: chain([OK + headers + b"\r\n"], repeat(piece)), 0.0) as port:
        store = open_store(f"http://127.0.0.1:{port}", "kv", TOKEN, timeout=30.0, connections=1)
        for _ in range(2):
            started = time.monotonic()
            with pytest.raises(StoreOutcomeUnknown, match="answered with more than 100000 bytes") as raised:
                store.write("app", DATA, cas=0)
            assert time.monotonic() - started < 10
            assert_hides(raised.value, TOKEN, KEY)

    assert store.metered.take() == [("login", "oversized")] * 2


def test_the_largest_body_is_taken_and_one_byte_more_is_not(server: Canned, open_store: OpenStore) -> None:
    body = '{"cluster_id":"c"}'.ljust(vault_wire.MAX_BODY)

    server.answer = lambda _: Reply(200, body)
    assert open_store(server.address, "kv", TOKEN).location("app")
    server.answer = lambda _: Reply(200, body + " ")
    with pytest.raises(StoreUnavailable, match="answered with more than"):
        open_store(server.address, "kv", TOKEN).location("app")


def test_a_body_that_is_cut_off_is_no_answer(open_store: OpenStore) -> None:
    for headers in (b"Content-Length: 1000\r\n", b"Transfer-Encoding: chunked\r\n"):
        pieces = [OK + headers + b"\r\n", b'12\r\n{"cluster_id":"c"}']
        with raw_server(lambda pieces=pieces: iter(pieces), 0.0) as port:  # type: ignore[misc]
            store = open_store(f"http://127.0.0.1:{port}", "kv", TOKEN)
            assert_unsettled(store, "failed", TOKEN)
            assert {outcome for _, outcome in store.metered.take()} == {"connection"}


@pytest.mark.parametrize("location", ["http://[", "//", "http://redirect-user:secret@elsewhere/", "http://x:y:z/"])
def test_a_redirect_to_nowhere_is_reported_like_any_other(server: Canned, open_store: OpenStore, location: str) -> None:
    server.answer = answering(Reply(307, "", {"Location": location}))

    assert_unsettled(open_store(server.address, "kv", TOKEN), "it answered with a redirect to ", TOKEN, "redirect-user")


def test_a_date_that_is_none_is_our_own(server: Canned, open_store: OpenStore) -> None:
    version = {"created_time": "2026-03-01T12:00:00Z", "deletion_time": "2126-03-01T12:00:00Z", "destroyed": False}
    metadata = {"data": {"current_version": 2, "versions": {"1": version, "2": version}}}
    current = {"data": {"data": {}, "metadata": {**version, "version": 2}}}

    def answer(path: str) -> Reply:
        if "/metadata/" in path:
            return Reply(200, metadata, {"Date": "the day before"})
        return Reply(404, {"errors": []}) if "version=1" in path else Reply(200, current)

    server.answer = lambda asked: answer(asked.path) if "/kv/" in asked.path else DENIED

    assert open_store(server.address, "kv", TOKEN).history("app").current_version == 2
    assert "/v1/kv/data/app?version=1" in server.paths("GET")  # it will be deleted in a hundred years


# --- the connections -------------------------------------------------------------------------------------------------


def test_a_wait_for_a_connection_ends(open_store: OpenStore) -> None:
    with raw_server(lambda: chain([OK], repeat(b"X: x\r\n")), 0.02) as port:
        store = open_store(f"http://127.0.0.1:{port}", "kv", TOKEN, timeout=TIMEOUT, connections=1)

        def ask(_: int) -> str:
            with pytest.raises(StoreError) as raised:
                store.client.health()
            return raised.value.message

        started = time.monotonic()
        with ThreadPoolExecutor(4) as pool:
            answers = pool.map(ask, range(4))
            store.close()  # no connection returns to a closed pool
            assert len(list(answers)) == 4
        assert time.monotonic() - started < 10
