"""HttpClient through a proxy of a company's edge, with certificates of the company's own, and after its end."""

import base64
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import trustme
from support.canned import Canned, Reply, canned
from support.egress import Egress, egress, tls_front
from support.process import free_ports

from rotator.core.secrets import Secret
from rotator.runtime.clock import SystemClock
from rotator.runtime.http import TIMEOUT, CertificatesUnusable, HttpClient, NoResponse, Response
from rotator.runtime.proxy import Proxy

PASSWORD = "Tr0ub4dor&3-made-up"
CREDENTIALS = f"edge-user:{PASSWORD}"
TOKEN = "a-management-credential-0123456789"

AUTHORITY = trustme.CA()
"""Of the server's certificate."""
EDGE = trustme.CA()
"""Of the proxy's own certificate, and of those it shows for servers when it opens TLS."""


@pytest.fixture
def server() -> Iterator[Canned]:
    with canned(lambda _: Reply(200, {"it": "worked"})) as server:
        yield server


@pytest.fixture
def ca_file(tmp_path: Path) -> Path:
    file = tmp_path / "ca.pem"
    pems = (one.cert_pem.bytes() for one in (AUTHORITY, EDGE))
    file.write_bytes(b"\n".join([*pems, "# Főtanúsítvány\n".encode()]))
    return file


@pytest.fixture
def get(ca_file: Path) -> Iterator[Callable[..., Response | NoResponse]]:
    """Send one GET through a new client."""
    with ExitStack() as stack:

        def get(proxy: Egress | str, url: str, *, seconds: float = 5.0, **options: Any) -> Response | NoResponse:
            address = proxy.url if isinstance(proxy, Egress) else proxy
            made = Proxy(address, **options)
            client = HttpClient(SystemClock(), timeout=5.0, connections=2, ca_file=ca_file, proxy=made)
            stack.enter_context(closing(client))
            return client.send(
                "GET", url, by=time.monotonic() + seconds, max_body=1000, headers={"Authorization": f"Bearer {TOKEN}"}
            )

        yield get


def worked(response: Response | NoResponse) -> bool:
    return isinstance(response, Response) and response.status == 200 and response.body == b'{"it": "worked"}'


Get = Callable[..., Response | NoResponse]

# --- what goes well --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_tls", [False, True], ids=["http-proxy", "https-proxy"])
@pytest.mark.parametrize("credentials", [None, CREDENTIALS])
def test_an_https_server_is_reached_through_a_tunnel(
    server: Canned, get: Get, is_tls: bool, credentials: str | None
) -> None:
    with (
        tls_front(server.address, AUTHORITY, "api.example") as front,
        egress(front, tls=EDGE if is_tls else None) as proxy,
    ):
        proxy.credentials = credentials
        given = {"credentials": Secret(credentials)} if credentials else {}
        assert worked(get(proxy, "https://api.example/keys", **given))
    assert proxy.asked == ["CONNECT api.example:443 HTTP/1.1"]
    assert "authorization" not in proxy.headers[0]
    [asked] = server.asked
    assert asked.headers["authorization"] == f"Bearer {TOKEN}"
    assert "proxy-authorization" not in asked.headers


@pytest.mark.parametrize("is_tls", [False, True], ids=["http-proxy", "https-proxy"])
def test_a_request_to_an_http_server_is_forwarded(server: Canned, get: Get, is_tls: bool) -> None:
    with egress(server.address, tls=EDGE if is_tls else None) as proxy:
        proxy.credentials = CREDENTIALS
        assert worked(get(proxy, "http://api.example/keys?page=2", credentials=Secret(CREDENTIALS)))
    assert proxy.asked == ["GET http://api.example/keys?page=2 HTTP/1.1"]
    [asked] = server.asked
    assert (asked.path, asked.headers["host"]) == ("/keys?page=2", "api.example")


def test_connections_to_loopback_go_through_the_proxy_as_well(server: Canned, get: Get) -> None:
    with egress(server.address) as proxy:
        assert worked(get(proxy, server.address))
    assert len(proxy.asked) == 1


def test_a_tunnel_is_used_again(server: Canned, ca_file: Path) -> None:
    with tls_front(server.address, AUTHORITY, "api.example") as front, egress(front) as proxy:
        client = HttpClient(SystemClock(), timeout=5.0, ca_file=ca_file, proxy=Proxy(proxy.url))
        with closing(client):
            for _ in range(3):
                assert worked(client.send("GET", "https://api.example", by=time.monotonic() + 5, max_body=1000))
    assert len(proxy.asked) == 1


def test_a_proxy_that_opens_tls_needs_its_authority_in_ca_file(server: Canned, get: Get, ca_file: Path) -> None:
    with egress(server.address) as proxy:
        proxy.inspects_with = EDGE
        assert worked(get(proxy, "https://api.example/keys"))
        ca_file.write_bytes(AUTHORITY.cert_pem.bytes())
        answer = get(proxy, "https://api.example/keys")
    assert isinstance(answer, NoResponse)
    assert (answer.was_sent, answer.at_proxy) == (False, False)  # the certificate is shown in the server's name
    assert "certificate verify failed" in answer.reason


# --- a proxy that does not connect -----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [407, 403, 502, 302])
def test_a_refused_tunnel_is_the_proxys_answer_and_nothing_was_sent(server: Canned, get: Get, status: int) -> None:
    with egress(server.address) as proxy:
        proxy.status = status
        answer = get(proxy, "https://api.example/keys")
    assert answer == NoResponse(False, "proxy", f"{status} Whatever", at_proxy=True, proxy_status=status)
    assert server.asked == []


@pytest.mark.parametrize("given", [{}, {"credentials": Secret("edge-user:another-password")}], ids=["none", "wrong"])
def test_credentials_that_the_proxy_refuses(server: Canned, get: Get, given: dict[str, Secret]) -> None:
    with egress(server.address) as proxy:
        proxy.credentials = CREDENTIALS
        tunnel = get(proxy, "https://api.example/keys", **given)
        forwarded = get(proxy, "http://api.example/keys", **given)
    assert isinstance(tunnel, NoResponse)
    assert tunnel.proxy_status == 407
    assert isinstance(forwarded, Response)
    assert forwarded.status == 407
    assert server.asked == []


@pytest.mark.parametrize("url", ["https://api.example", "http://api.example"])
def test_a_proxy_that_is_down(get: Get, url: str) -> None:
    [port] = free_ports(1)
    answer = get(f"http://127.0.0.1:{port}", url)
    assert isinstance(answer, NoResponse)
    assert (answer.was_sent, answer.outcome, answer.at_proxy) == (False, "connection", True)
    assert "refused" in answer.reason


def test_a_proxy_whose_own_certificate_is_not_trusted(server: Canned, get: Get, ca_file: Path) -> None:
    ca_file.write_bytes(AUTHORITY.cert_pem.bytes())
    with egress(server.address, tls=EDGE) as proxy:
        answer = get(proxy, "https://api.example")
    assert isinstance(answer, NoResponse)
    assert (answer.was_sent, answer.at_proxy) == (False, True)
    assert "certificate verify failed" in answer.reason


def test_a_server_that_breaks_the_tunnel_may_have_taken_the_request(server: Canned, get: Get) -> None:
    with tls_front(server.address, AUTHORITY, "api.example") as front, egress(front) as proxy:
        server.answer = lambda _: Reply(200, {"it": "worked"}, {"Content-Length": "999"})
        answer = get(proxy, "https://api.example", seconds=0.5)
    assert isinstance(answer, Response)
    assert answer.body is None
    assert len(server.asked) == 1


# --- time and size ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["https://api.example", "http://api.example"])
@pytest.mark.parametrize("is_tls", [False, True], ids=["http-proxy", "https-proxy"])
def test_a_silent_proxy_ends_with_the_deadline(server: Canned, get: Get, url: str, is_tls: bool) -> None:
    with egress(server.address, tls=EDGE if is_tls else None) as proxy:
        proxy.hangs = True
        began = time.monotonic()
        answer = get(proxy, url, seconds=0.5)
        assert time.monotonic() - began < 1.5
    assert isinstance(answer, NoResponse)
    assert answer.outcome == TIMEOUT
    assert answer.was_sent is url.startswith("http:")  # only the forwarded request may have been handed on
    assert answer.at_proxy is not answer.was_sent


@pytest.mark.parametrize("is_tls", [False, True], ids=["http-proxy", "https-proxy"])
@pytest.mark.parametrize("what", ["answer to CONNECT", "handshake", "answer"])
def test_a_dripping_proxy_ends_with_the_deadline(server: Canned, get: Get, is_tls: bool, what: str) -> None:
    with (
        tls_front(server.address, AUTHORITY, "api.example") as front,
        egress(front, tls=EDGE if is_tls else None) as proxy,
    ):
        proxy.drip = {"answer to CONNECT": 0.05, "handshake": 0.002, "answer": 0.0}[what]

        def answer_slowly(_: object) -> Reply:
            proxy.drip = 0.05
            return Reply(200, "x" * 900)

        server.answer = answer_slowly
        began = time.monotonic()
        answer = get(proxy, "https://api.example", seconds=0.4)
        assert time.monotonic() - began < 1.2
    assert answer.outcome == TIMEOUT
    assert isinstance(answer, NoResponse)
    assert answer.was_sent is (what == "answer")
    assert answer.at_proxy is (what == "answer to CONNECT")


@pytest.mark.parametrize("url", ["https://api.example", "http://api.example"])
def test_an_answer_through_a_proxy_is_bounded(server: Canned, get: Get, url: str) -> None:
    server.answer = lambda _: Reply(200, "x" * 100_000)
    with egress(server.address) as proxy:
        proxy.inspects_with = EDGE
        answer = get(proxy, url)
    assert isinstance(answer, Response)
    assert answer.body is None
    assert answer.flaw == "with more than 1000 bytes"


# --- no credential is shown ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [None, 403, 407])
@pytest.mark.parametrize("url", ["https://api.example", "http://api.example"])
def test_the_proxys_credentials_are_in_no_result_log_or_repr(
    server: Canned, get: Get, url: str, status: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with egress(server.address) as proxy:
        proxy.inspects_with, proxy.status = EDGE, status
        answer = get(proxy, url, credentials=Secret(CREDENTIALS))
    secrets = (CREDENTIALS, PASSWORD, base64.b64encode(CREDENTIALS.encode()).decode(), TOKEN)
    sent = f"Basic {secrets[2]}"
    assert all(headers["proxy-authorization"] == sent for headers in proxy.headers)
    shown = (caplog.text, str(answer), repr(answer), repr(Proxy(proxy.url, Secret(CREDENTIALS))))
    assert caplog.records  # of the libraries
    assert not [secret for secret in secrets for text in shown if secret in text]


# --- certificates ----------------------------------------------------------------------------------------------------


def certificates(file: Path) -> str:
    with pytest.raises(CertificatesUnusable) as caught:
        HttpClient(SystemClock(), timeout=5.0, ca_file=file)
    assert caught.value.__cause__ is None
    return str(caught.value)


def test_after_close_nothing_is_sent(server: Canned, tmp_path: Path) -> None:
    client = HttpClient(SystemClock(), timeout=5.0)
    client.close()
    answer = client.send("POST", server.address, by=time.monotonic() + 5, max_body=1000)
    assert answer == NoResponse(False, "connection", "the connections were closed")
    assert server.asked == []


def test_certificates_that_cannot_be_used(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    assert certificates(file) == "No such file or directory"
    file.write_text("\n")
    assert certificates(file) == "it is empty"
    file.write_bytes(AUTHORITY.cert_pem.bytes()[:-200])
    assert certificates(file).startswith("it does not hold certificates in PEM form")
    file.write_bytes(trustme.CA().issue_cert("a").private_key_pem.bytes())
    assert certificates(file).startswith("it does not hold certificates in PEM form")
    file.write_bytes(b"\x30\x82\x01\x0a" * 50)
    assert certificates(file).startswith("it does not hold certificates in PEM form")
    assert certificates(tmp_path) == "Is a directory"


def test_only_the_certificates_of_ca_file_are_trusted(server: Canned, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_bytes(AUTHORITY.cert_pem.bytes())
    for authority, is_trusted in ((AUTHORITY, True), (EDGE, False)):
        client = HttpClient(SystemClock(), timeout=5.0, ca_file=file)
        with tls_front(server.address, authority) as url, closing(client):
            answer = client.send("GET", url, by=time.monotonic() + 5, max_body=1000)
        assert worked(answer) is is_trusted
