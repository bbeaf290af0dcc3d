"""A running simulator with a clock of its own, and raw HTTP to it, for the simulator's own tests."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import httpx

from rotator.simulator import Options, Simulator

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
KEYS = "/api/temporary-keys/"
CHAT = "/api/chat/completions"


class Vendor:
    """A running simulator, its clock, and a client with the organisation key."""

    def __init__(self, sim: Simulator, client: httpx.Client) -> None:
        self.sim, self.client = sim, client
        self.now = START

    def create(self, **body: Any) -> Any:
        answer = self.client.post(KEYS, json=body)
        assert answer.is_success, answer.text
        return answer.json()

    @property
    def port(self) -> int:
        return int(self.sim.url.rpartition(":")[2])

    def at(self, key_id: str) -> str:
        return f"{KEYS}{quote(key_id, safe='')}/"

    def chat(self, text: str) -> int:
        return self.client.post(CHAT, json={}, headers={"Authorization": f"Bearer {text}"}).status_code


@contextmanager
def vendor(**options: Any) -> Iterator[Vendor]:
    options = {"requests_per_minute": None} | options
    sim = Simulator(options=Options(**options), now=lambda: running.now)
    with (
        sim,
        # No TLS verification: reading the certificates takes longer than most tests.
        httpx.Client(
            base_url=sim.url,
            headers={"Authorization": f"Bearer {sim.organisation_key}"},
            verify=False,
            trust_env=False,
        ) as client,
    ):
        running = Vendor(sim, client)
        yield running
