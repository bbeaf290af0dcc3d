"""One HTTP request, within a deadline and a number of bytes: the one module that knows httpx.

httpx's timeouts are for one read each, and a dripped answer is many of them: headers could drip for days, since httpx
hands out nothing before the last of them. So the network below httpx knows the deadline.

Nothing is taken from the environment: no proxy, no netrc, no SSL_CERT_FILE. No redirect is followed, for a credential
would go with it. What comes of a request is a value and not an exception: httpx's exceptions hold the request, and so a
credential.

All this holds through a proxy, too: in a tunnel (CONNECT) to an https:// server, and for a request that it forwards to
an http:// one.
"""

import base64
import ssl
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any

import httpcore
import httpx

from rotator import __version__
from rotator.core.ports import Clock
from rotator.runtime import files
from rotator.runtime.proxy import Proxy
from rotator.runtime.redact import register

TIMEOUT = "timeout"
"""The outcome of a request that was not answered in time."""

MAX_ERROR_BODY = 2**20  # bytes of an answer that is no success

_NOTHING_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.InvalidURL,
    ValueError,  # of a URL or a header that cannot be sent
)


class CertificatesUnusable(Exception):
    """A file of certificates cannot be used; the text is the reason."""


@dataclass(frozen=True, slots=True)
class Response:
    """A status, and what came with it. `outcome` is a meter's word."""

    status: int
    headers: Mapping[str, str]  # by lower-case name
    outcome: str
    body: bytes | None = field(default=None, repr=False)  # None: it did not arrive whole
    flaw: str = "the rest of the answer did not come"  # why there is no body

    @property
    def is_success(self) -> bool:
        """Whether the status is a success, 200 to 299."""
        return 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class NoResponse:
    """No status came. `outcome` is a meter's word. `reason` may quote the request, so search it for secrets."""

    was_sent: bool  # the server may have done what was asked
    outcome: str
    reason: str = field(repr=False)
    at_proxy: bool = False  # the proxy cannot be reached, or does not connect to the server
    proxy_status: int | None = None  # with which the proxy refused to connect to the server


class HttpClient:
    """Connections to servers, kept and used by many threads."""

    def __init__(
        self,
        clock: Clock,
        *,
        timeout: float,
        connections: int = 1,
        context: ssl.SSLContext | None = None,
        ca_file: Path | None = None,
        proxy: Proxy | None = None,
    ) -> None:
        """`timeout` is for each read, in seconds. Certificates are verified with those of `ca_file`, else certifi's.

        `timeout` bounds a connection to each address of a host, too; only the look-up of the host's name has no bound.
        `context` replaces `ca_file`. `ca_file` is read now. Raises `CertificatesUnusable`.
        """
        self._clock = clock
        self._deadline = _Deadline(clock)
        self._is_proxied = proxy is not None
        self._client = httpx.Client(
            transport=_Transport(context or _context(ca_file), connections, self._deadline, proxy),
            timeout=timeout,
            trust_env=False,
            follow_redirects=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            headers={
                "Accept": "application/json",
                "Accept-Encoding": "identity",  # a small answer cannot unfold into a huge one
                "User-Agent": f"rotator/{__version__}",
            },
        )

    def send(
        self,
        method: str,
        url: str,
        *,
        by: float,
        max_body: int,
        headers: Mapping[str, str] | None = None,
        body: object = None,
        upstream: str | None = None,
    ) -> Response | NoResponse:
        """Send one request, once. It is over `by` a monotonic second.

        `body` becomes JSON; bytes are sent as they are. A success of more than `max_body` bytes is not read to its
        end. The answer's date is recorded as the `upstream`'s.
        """
        if self._client.is_closed:
            return NoResponse(False, "connection", "the connections were closed")
        response: Response | None = None
        started = self._clock.monotonic()
        self._deadline.monotonic = by
        progress = _Progress() if self._is_proxied else None
        extensions = {"trace": progress} if progress else None
        content, data = (body, None) if isinstance(body, bytes) else (None, body)
        try:
            with self._client.stream(
                method, url, headers=headers, content=content, json=data, extensions=extensions
            ) as answer:
                response = Response(answer.status_code, dict(answer.headers), str(answer.status_code))
                if upstream is not None:
                    self._clock.record_date(upstream, answer.headers.get("date"), started)
                arrived, most = bytearray(), max_body if response.is_success else MAX_ERROR_BODY
                for chunk in answer.iter_raw():
                    arrived += chunk
                    if len(arrived) > most:
                        return replace(response, flaw=f"with more than {most} bytes")
                return replace(response, body=bytes(arrived))
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, RuntimeError) as error:
            failure = _failure(error, progress)
        return failure if response is None else replace(response, outcome=failure.outcome)

    def close(self) -> None:
        """End all connections."""
        self._client.close()


class _Progress:
    """How far a request through a proxy has come. httpcore calls it with the name of each step."""

    was_sent = False
    is_past_proxy = False

    def __call__(self, step: str, info: Mapping[str, Any]) -> None:
        if step == "proxy.start_tls.started":
            self.is_past_proxy = True
        elif step == "http11.send_request_headers.started" and info["request"].method != b"CONNECT":
            self.is_past_proxy = self.was_sent = True


def _failure(error: Exception, progress: _Progress | None) -> NoResponse:
    was_sent = not isinstance(error, _NOTHING_SENT) and (progress is None or progress.was_sent)
    at_proxy = progress is not None and not progress.is_past_proxy and not isinstance(error, httpx.PoolTimeout)
    if isinstance(error, httpx.TimeoutException):
        reason = "no answer in time" if was_sent else "no connection in time"
        return NoResponse(was_sent, TIMEOUT, reason, at_proxy)
    if isinstance(error, httpx.ProxyError):  # its text is the status line
        return NoResponse(was_sent, "proxy", str(error), at_proxy, int(str(error)[:3]))
    return NoResponse(was_sent, "connection", str(error) or type(error).__name__, at_proxy)


# --- certificates ----------------------------------------------------------------------------------------------------


def _context(ca_file: Path | None) -> ssl.SSLContext:
    if ca_file is None:
        return httpx.create_ssl_context(trust_env=False)
    try:
        text = files.read(ca_file).decode("ascii", "ignore")  # comments may be in any encoding
    except OSError as error:
        raise CertificatesUnusable(error.strerror) from None
    if not text.strip():  # with no text, `ssl` would trust the certificates of the operating system
        raise CertificatesUnusable("it is empty")
    try:
        return ssl.create_default_context(cadata=text)
    except ssl.SSLError as error:
        raise CertificatesUnusable(f"it does not hold certificates in PEM form ({error.reason or error})") from None


# --- the network -----------------------------------------------------------------------------------------------------


class _Deadline(threading.local):
    """The monotonic second by which this thread's request must be over."""

    monotonic = 0.0

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def left(self, timeout: float | None, late: type[httpcore.TimeoutException]) -> float:
        """Return `timeout`, or what is left until the deadline if that is less; raise `late` when nothing is."""
        seconds = self.monotonic - self._clock.monotonic()
        if seconds <= 0:
            raise late
        return seconds if timeout is None else min(timeout, seconds)


class _Transport(httpx.HTTPTransport):
    """httpx's own, on a network that knows the deadline."""

    def __init__(self, context: ssl.SSLContext, connections: int, until: _Deadline, proxy: Proxy | None) -> None:
        super().__init__(verify=context)
        options: dict[str, Any] = {
            "ssl_context": context,
            "max_connections": connections,
            "keepalive_expiry": 5.0,
            "network_backend": _Network(until),
        }
        if proxy is None:
            self._pool = httpcore.ConnectionPool(**options)
            return
        if proxy.url.startswith("https:"):
            context.sslsocket_class = _tls_socket(until)
            options["proxy_ssl_context"] = context
        if proxy.credentials is not None:
            encoded = base64.b64encode(register(proxy.credentials).reveal().encode())
            options["proxy_headers"] = {"Proxy-Authorization": b"Basic " + encoded}
        self._pool = httpcore.HTTPProxy(proxy.url, **options)


def _tls_socket(until: _Deadline) -> type[ssl.SSLSocket]:
    """Return a socket for TLS inside TLS: httpcore reads it until a whole record of the inner TLS is there."""

    class TlsSocket(ssl.SSLSocket):
        def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
            self.settimeout(until.left(self.gettimeout(), httpcore.ReadTimeout))
            return super().recv(buflen, flags)

        def send(self, data: Any, flags: int = 0) -> int:
            self.settimeout(until.left(self.gettimeout(), httpcore.WriteTimeout))
            return super().send(data, flags)

    return TlsSocket


class _Network(httpcore.SyncBackend):
    def __init__(self, until: _Deadline) -> None:
        self._until = until

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        left = self._until.left(timeout, httpcore.ConnectTimeout)
        try:
            return _Stream(super().connect_tcp(host, port, left, local_address, socket_options), self._until)
        except UnicodeError as error:  # `socket` raises it for a name like a..b
            raise httpcore.ConnectError("no such name is possible") from error


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream, until: _Deadline) -> None:
        self._stream = stream
        self._until = until

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._until.left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._until.left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = self._until.left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, left), self._until)
