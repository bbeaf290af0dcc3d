"""Sends requests to Vault: the one module that knows urllib3.

Each request is sent once, and its whole answer read within a bound of time and of bytes. `client` logs in, and reads
the answers. An error is raised outside of the `except` that caught a library's exception: those hold the request, and
so the token and the key.
"""

import http.client
import io
import json as jsonlib
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import certifi
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from rotator.core.ports import Clock
from rotator.runtime.clock import http_date
from rotator.runtime.redact import quoted
from rotator.stores.vault.auth import Login
from rotator.stores.vault.responses import Answer, parse_object

MAX_BODY = 8 * 2**20
"""Bytes of an answer: an entry has at most 1 MiB in storage, and as JSON four or five times that."""

_json = jsonlib.JSONEncoder(allow_nan=False).encode
_LATE = (urllib3.exceptions.TimeoutError, urllib3.exceptions.EmptyPoolError)


@dataclass(frozen=True, slots=True)
class FormerLocation:
    """Where a store's data were before; None: where they are now."""

    cluster_id: str | None = None
    namespace: str | None = None
    mount: str | None = None


@dataclass(frozen=True, slots=True)
class VaultSettings:
    """Where a KV version 2 mount is, and how to reach it. `timeout` is in seconds, `connections` are the most."""

    address: str
    mount: str
    login: Login
    namespace: str | None = None
    ca_file: Path | None = None  # None: certifi's
    server_name: str | None = None  # the certificate must be for this name; None: the address's
    timeout: float = 5.0
    connections: int = 8
    certificate: tuple[Path, Path] | None = None  # ours and its private key, for the login
    former_locations: tuple[FormerLocation, ...] = ()


class Unsendable(Exception):
    """The body has no JSON form."""


class NoAnswer(Exception):
    """No answer came, or none that is read: why, in our words. `outcome` is the meter's word for it."""

    def __init__(self, outcome: str, what: str, advice: str = "") -> None:
        super().__init__(what)
        self.outcome = outcome
        self.what = what
        self.advice = advice


class _TooLarge(Exception):
    """The body has more than `MAX_BODY` bytes."""


class Transport:
    """Connections to one Vault, kept and used by many threads."""

    def __init__(self, settings: VaultSettings, clock: Clock) -> None:
        self.upstream = _host_and_port(settings.address)
        self._timeout = settings.timeout
        self._ca_file = settings.ca_file
        self._prefix = urlsplit(settings.address).path.rstrip("/")
        self._pool = _pool(settings, clock)
        self._clock = clock

    def close(self) -> None:
        """Close the connections. Requests under way are still answered; later ones fail as if Vault were gone."""
        self._pool.close()

    def request(
        self, method: str, url: str, body: object, params: Mapping[str, object] | None, headers: Mapping[str, str]
    ) -> Answer:
        """Send a request once, and return the whole answer, whatever its status. Raises `Unsendable` or `NoAnswer`."""
        encoded = None if body is None else _encoded(body)
        try:
            return self._exchange(method, f"{url}?{urlencode(params)}" if params else url, encoded, headers)
        except (urllib3.exceptions.HTTPError, OSError, ValueError, _TooLarge) as error:
            failure = self._failure(error)
        raise failure

    def _exchange(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        sent_at = self._clock.monotonic()
        response = self._pool.urlopen(
            method.upper(),
            f"{self._prefix}{url}",
            body=body,
            headers=headers,
            redirect=False,
            pool_timeout=2 * self._timeout,  # type: ignore[arg-type]  # a float is as good
            preload_content=False,
            decode_content=False,
        )
        self._clock.record_date(self.upstream, response.headers.get("Date"), sent_at)
        content = b""
        for chunk in response.stream():
            content += chunk
            if len(content) > MAX_BODY:
                response.close()
                response.release_conn()
                raise _TooLarge
        response.release_conn()
        now = http_date(response.headers.get("Date", "")) or self._clock.now()
        redirect = _host_and_port(response.headers.get("Location", ""))
        waits = response.headers.get("Retry-After", "")
        return Answer(
            response.status, parse_object(content), redirect, now, float(waits) if waits.isdecimal() else None
        )

    def _failure(self, error: Exception) -> NoAnswer:
        """Return our error. Of the library's it holds only the words of `_cause`."""
        if isinstance(error, _TooLarge):
            return NoAnswer("oversized", f"{self.upstream} answered with more than {MAX_BODY} bytes")
        if isinstance(error, _LATE) and not isinstance(error, urllib3.exceptions.NewConnectionError):
            return NoAnswer("timeout", f"there was no answer from {self.upstream} within {self._timeout:g} s")
        cause = _cause(error)
        advice = "Check Vault, the store's address, ca_file and server_name, DNS, and the network policy."
        if "WRONG_VERSION_NUMBER" in cause:
            advice = "The server there does not speak TLS: is it an http:// address?"
        if "NO_CERTIFICATE_OR_CRL_FOUND" in cause:
            advice = f"{self._ca_file}, the store's ca_file or $VAULT_CACERT, must hold certificates in PEM form."
        return NoAnswer("connection", f"the connection to {self.upstream} failed ({cause})", advice)


def _encoded(value: object) -> bytes:
    try:
        return _json(value).encode()
    except ValueError:
        pass
    raise Unsendable


def _host_and_port(url: str) -> str:
    try:
        return urlsplit(url).netloc.rpartition("@")[2]
    except ValueError:
        return "an address that is no URL"


def _pool(settings: VaultSettings, clock: Clock) -> urllib3.HTTPConnectionPool:
    """Make the connections for all threads; a thread that finds none free waits. It retries and redirects nothing."""
    is_tls = urlsplit(settings.address).scheme == "https"
    tls = {
        "cert_reqs": "CERT_REQUIRED",
        "ca_certs": str(settings.ca_file or certifi.where()),
        "cert_file": settings.certificate and str(settings.certificate[0]),
        "key_file": settings.certificate and str(settings.certificate[1]),
        "server_hostname": settings.server_name,  # the certificate must be for it, whatever host the address names
    }
    pool = urllib3.connection_from_url(
        settings.address,
        maxsize=settings.connections,
        block=True,
        timeout=settings.timeout,
        retries=urllib3.Retry(False),
        seconds=settings.timeout,
        clock=clock,
        **(tls if is_tls else {}),
    )
    pool.ConnectionCls = _TlsConnection if is_tls else _Connection
    return pool


class _Connection(HTTPConnection):
    """A connection on which a whole answer, headers and body, must arrive within twice the time for one read.

    The time counts from the request. urllib3's timeouts are for one read each, so an answer could drip in for days.
    The look-up of the host has no bound, and the connection to each of its addresses may take one read's time.
    """

    def __init__(self, *args: Any, seconds: float, clock: Clock, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._seconds = seconds
        self._clock = clock
        self._until = 0.0

    def request(self, *args: Any, **kwargs: Any) -> None:
        """Send the request, and start the time for its answer."""
        self._until = self._clock.monotonic() + 2 * self._seconds
        super().request(*args, **kwargs)

    def response_class(  # type: ignore[override]  # what http.client calls to make a response; here it is a method
        self, sock: socket.socket, *args: Any, **kwargs: Any
    ) -> http.client.HTTPResponse:
        """Return http.client's own response, which reads through a `_Reader`."""
        response = http.client.HTTPResponse(sock, *args, **kwargs)
        response.fp = io.BufferedReader(_Reader(response.fp.detach(), sock, self._left))
        return response

    def _left(self) -> float:
        left = self._until - self._clock.monotonic()
        if left <= 0:
            raise TimeoutError
        return min(left, self._seconds)


class _TlsConnection(_Connection, HTTPSConnection):
    def connect(self) -> None:
        """Connect with the certificates that are in the file now."""
        Path(self.ca_certs or "").open("rb").close()  # an error of `ssl` does not name the file that it could not read
        super().connect()


class _Reader(io.RawIOBase):
    """Reads from a socket, and sets before each read how long it may take."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, left: Callable[[], float]) -> None:
        self._raw = raw
        self._sock = sock
        self._left = left

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._left())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


def _cause(error: BaseException) -> str:
    """Return the words of the system or the TLS library, from inside the exceptions of the libraries above."""
    link: BaseException | None = error
    while link is not None:
        if words := getattr(link, "verify_message", None) or getattr(link, "strerror", None):
            file = getattr(link, "filename", None)
            return quoted(f"{words}: {file}" if file else str(words))
        link = link.__cause__ or link.__context__
    return type(error).__name__  # not its words, which may hold a header
