"""Every built-in provider is held against the public contract."""

from collections.abc import Iterator
from typing import cast

import pytest
import stamina

from rotator.config.provider_type import ConnectedProvider
from rotator.core.secrets import Secret
from rotator.providers.respan.client import RespanProvider
from rotator.runtime.clock import SystemClock
from rotator.simulator import Options, Simulator
from rotator.testing import ProviderContract, Server


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    """Retries without their waits."""
    with stamina.set_testing(True, attempts=3, cap=True):
        yield


class TestRespan(ProviderContract):
    @pytest.fixture(params=["page", "array"])
    def server(self, request: pytest.FixtureRequest) -> Iterator[Server]:
        options = Options(list_shape=request.param, page_size=2, requests_per_minute=None)
        with Simulator(options=options) as sim:
            yield Server(sim.url, Secret(sim.organisation_key), lambda key: sim.vendor.works(key.reveal()))
            assert not [key for key in sim.vendor.keys.values() if key.alive(sim.vendor.now())]

    def make(self, server: Server, url: str) -> ConnectedProvider:
        provider = RespanProvider(
            name="respan",
            base_url=url,
            organisation_key=lambda: server.credential,
            clock=SystemClock(),
            meter=lambda *_: None,
            rate_limited=lambda _: None,
            before_confirming=lambda: None,
            connections=2,
            timeout=1.0,
            deadline=1.0,
        )
        return cast("ConnectedProvider", provider)
