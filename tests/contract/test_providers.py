"""Every built-in provider is held against the public contract."""

from collections.abc import Iterator

import pytest
import stamina

from rotator.config.provider_settings import ProviderSettings
from rotator.config.provider_type import ConnectedProvider
from rotator.core.secrets import Secret
from rotator.providers.respan.client import RespanProvider
from rotator.simulator import Options, Simulator
from rotator.testing import ProviderContract, Server
from rotator.testing.suite import context


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
        options = {"base_url": url, "api_key": {"env": "NOT_READ"}, "timeout": "1s"}
        return RespanProvider(ProviderSettings.model_validate(options), context("respan", server.credential))
