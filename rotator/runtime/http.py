"""HTTP with an overall deadline: httpx's timeouts are for one read each, and a dripped answer is many of them.

Without this, headers could drip for days: httpx hands out nothing before the last of them. Only the look-up of the
host's name is not bounded by it.
"""

import ssl
import threading
from collections.abc import Iterable

import httpcore
import httpx

from rotator.core.ports import Clock


class Deadline(threading.local):
    """The monotonic second by which this thread's call must be over."""

    monotonic = 0.0

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def left(self, timeout: float | None, late: type[httpcore.TimeoutException]) -> float:
        """`timeout`, or what is left of the call where that is less; raises `late` when nothing is."""
        seconds = self.monotonic - self._clock.monotonic()
        if seconds <= 0:
            raise late
        return seconds if timeout is None else min(timeout, seconds)


class Transport(httpx.HTTPTransport):
    """httpx's own, on a network that knows the deadline."""

    def __init__(self, context: ssl.SSLContext, connections: int, until: Deadline) -> None:
        super().__init__(verify=context)
        self._pool = httpcore.ConnectionPool(
            ssl_context=context,
            max_connections=connections,
            keepalive_expiry=5.0,
            network_backend=_Network(until),
        )


class _Network(httpcore.SyncBackend):
    def __init__(self, until: Deadline) -> None:
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
        except UnicodeError as error:  # what `socket` says of a name like a..b
            raise httpcore.ConnectError("no such name is possible") from error


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream, until: Deadline) -> None:
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
