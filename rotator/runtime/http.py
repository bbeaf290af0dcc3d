"""One HTTP request, within a deadline and a number of bytes: the one module that knows httpx.

httpx's timeouts are for one read each, and a dripped answer is many of them: headers could drip for days, since httpx
hands out nothing before the last of them. So the network below httpx knows the deadline.

Nothing is taken from the environment: no proxy, no netrc, no SSL_CERT_FILE. No redirect is followed, for a credential
would go with it. What comes of a request is a value and not an exception: httpx's exceptions hold the request, and so a
credential.
"""

import ssl
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpcore
import httpx

from rotator import __version__
from rotator.core.ports import Clock

TIMEOUT = "timeout"
"""The outcome of a request that was not answered in time."""

MAX_ERROR_BODY = 2**20  # bytes of an answer that is no success

_NOTHING_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)


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
        """Whether the status says that it was done."""
        return 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class NoResponse:
    """No status came. `outcome` is a meter's word. `reason` may quote the request, so search it for secrets."""

    was_sent: bool  # the server may have done what was asked
    outcome: str
    reason: str = field(repr=False)


class HttpClient:
    """Connections to servers, kept and used by many threads."""

    def __init__(
        self, clock: Clock, *, timeout: float, connections: int = 1, context: ssl.SSLContext | None = None
    ) -> None:
        """`timeout` is for each read, in seconds; without a `context` certificates are verified with certifi's.

        `timeout` bounds a connection to each address of a host, too; only the look-up of the host's name has no bound.
        """
        self._clock = clock
        self._deadline = _Deadline(clock)
        context = context or httpx.create_ssl_context(trust_env=False)
        self._client = httpx.Client(
            transport=_Transport(context, connections, self._deadline),
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
        token: str | None = None,
        body: object = None,
        upstream: str | None = None,
    ) -> Response | NoResponse:
        """Send one request, once. It is over `by` a monotonic second.

        `token` is a bearer token, and `body` becomes JSON. A success of more than `max_body` bytes is not read to its
        end. The answer's date is recorded as the `upstream`'s.
        """
        response: Response | None = None
        started = self._clock.monotonic()
        self._deadline.monotonic = by
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        try:
            with self._client.stream(method, url, headers=headers, json=body) as answer:
                response = Response(answer.status_code, dict(answer.headers), str(answer.status_code))
                if upstream is not None:
                    self._clock.record_date(upstream, answer.headers.get("date"), started)
                content, most = bytearray(), max_body if response.is_success else MAX_ERROR_BODY
                for chunk in answer.iter_raw():
                    content += chunk
                    if len(content) > most:
                        return replace(response, flaw=f"with more than {most} bytes")
                return replace(response, body=bytes(content))
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            failure = _failure(error)
        return failure if response is None else replace(response, outcome=failure.outcome)

    def close(self) -> None:
        """End all connections."""
        self._client.close()


def _failure(error: Exception) -> NoResponse:
    was_sent = isinstance(error, httpx.HTTPError) and not isinstance(error, _NOTHING_SENT)
    if isinstance(error, httpx.TimeoutException):
        return NoResponse(was_sent, TIMEOUT, "no answer in time" if was_sent else "no connection in time")
    return NoResponse(was_sent, "connection", str(error) or type(error).__name__)


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

    def __init__(self, context: ssl.SSLContext, connections: int, until: _Deadline) -> None:
        super().__init__(verify=context)
        self._pool = httpcore.ConnectionPool(
            ssl_context=context,
            max_connections=connections,
            keepalive_expiry=5.0,
            network_backend=_Network(until),
        )


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
