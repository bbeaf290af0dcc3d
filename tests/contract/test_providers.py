"""Every built-in provider is held against the public contract."""

from collections.abc import Iterator

import pytest
import stamina

from rotator.core.secrets import Secret
from rotator.providers.respan.settings import RESPAN
from rotator.simulator import Options, Simulator
from rotator.testing import ProviderContract, Server


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    """Retries without their waits."""
    with stamina.set_testing(True, attempts=3, cap=True):
        yield


class TestRespan(ProviderContract):
    provider_type = RESPAN

    @pytest.fixture(params=["page", "array"])
    def server(self, request: pytest.FixtureRequest) -> Iterator[Server]:
        options = Options(list_shape=request.param, page_size=2, requests_per_minute=None)
        with Simulator(options=options) as sim:
            yield Server(sim.url, Secret(sim.organisation_key), lambda key: sim.vendor.works(key.reveal()))
            assert not [key for key in sim.vendor.keys.values() if key.alive(sim.vendor.now())]
