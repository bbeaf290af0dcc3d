"""Every built-in provider is held against the public contract."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

import httpx
import pytest
import stamina
from support.openrouter import openrouter
from unit.test_http_respan import DESCRIPTION

from rotator.core.secrets import Secret
from rotator.providers.http_provider.settings import HTTP
from rotator.providers.respan.settings import RESPAN
from rotator.simulator import Options, Simulator
from rotator.testing import ProviderContract, Server

CONTEXT = httpx.create_ssl_context(trust_env=False)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Retries without their waits, and certifi's certificates read once."""
    monkeypatch.setattr(httpx, "create_ssl_context", lambda **_: CONTEXT)
    with stamina.set_testing(True, attempts=3, cap=True):
        yield


@contextmanager
def respan(list_shape: Literal["page", "array"]) -> Iterator[Server]:
    options = Options(list_shape=list_shape, page_size=2, requests_per_minute=None)
    with Simulator(options=options) as sim:
        yield Server(sim.url, Secret(sim.organisation_key), lambda key: sim.vendor.works(key.reveal()))
        assert not [key for key in sim.vendor.keys.values() if key.alive(sim.vendor.now())]


class TestRespan(ProviderContract):
    provider_type = RESPAN

    @pytest.fixture(params=["page", "array"])
    def server(self, request: pytest.FixtureRequest) -> Iterator[Server]:
        with respan(request.param) as server:
            yield server


class TestDescriptionOfRespan(ProviderContract):
    """Type http, with Respan's API in TOML."""

    provider_type = HTTP

    @pytest.fixture(params=["page", "array"])
    def server(self, request: pytest.FixtureRequest) -> Iterator[Server]:
        with respan(request.param) as server:
            yield replace(server, options=DESCRIPTION)


class TestOpenRouter(ProviderContract):
    """Type http with its preset, on a stand-in: offset paging, nested answers, no change of an expiry."""

    provider_type = HTTP

    @pytest.fixture
    def server(self) -> Iterator[Server]:
        with openrouter(page_size=2) as sim:

            def works(key: Secret) -> bool:
                return sim.accepts(key.reveal())

            yield Server(sim.address, Secret(sim.management_key), works, {"preset": "openrouter"}, {"limit": 5.0})
            assert sim.keys == {}
