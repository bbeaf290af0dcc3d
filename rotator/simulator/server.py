"""The whole simulator: one organisation's vendor, its faults, and the HTTP server in front of them."""

import secrets
from collections.abc import Callable
from datetime import datetime
from typing import Self

from rotator.simulator.api import Api, Call
from rotator.simulator.control import PREFIX, Control
from rotator.simulator.faults import Faults
from rotator.simulator.options import Options
from rotator.simulator.vendor import Vendor, utc_now
from rotator.simulator.wire import Answer, HttpServer, Request


class Simulator:
    """A Respan on a port of its own, and a context manager. `stop` and `start` make an outage.

    An outage keeps state and port. Use a simulator for each organisation.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        options: Options | None = None,
        now: Callable[[], datetime] = utc_now,
        organisation_key: str | None = None,
    ) -> None:
        self.organisation_key = organisation_key or f"sk_live_simulated_{secrets.token_urlsafe(24)}"
        self.vendor = Vendor(options or Options(), now)
        self.vendor.organisation_keys.add(self.organisation_key)
        self.faults = Faults()
        self._api = Api(self.vendor, self.faults)
        self._control = Control(self.vendor, self.faults, self._api)
        self._host, self._port = host, port
        self._server: HttpServer | None = None

    @property
    def url(self) -> str:
        """Return the base URL without a last slash. Its port is known after the start."""
        return f"http://{self._host}:{self._port}"

    @property
    def journal(self) -> list[Call]:
        """Return the calls so far, in the order in which they took effect."""
        return self._api.journal

    def start(self) -> None:
        """Listen and serve, in threads. Raises OSError if the port is taken."""
        self._server = HttpServer(self._host, self._port, self._respond, self.vendor.now)
        self._port = self._server.server_address[1]
        self._server.start()

    def stop(self) -> None:
        """End every connection and thread, and keep state and port. A second call does nothing."""
        server, self._server = self._server, None
        if server is not None:
            server.stop()

    def serve_forever(self) -> None:
        """Wait until another thread calls `stop`, or for KeyboardInterrupt."""
        if self._server is not None:
            self._server.stopping.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _respond(self, request: Request) -> Answer | None:
        return self._control.answer(request) if request.target.startswith(PREFIX) else self._api.answer(request)
