"""Every built-in provider is held against the public contract."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any, Literal

import httpx
import pytest
import stamina
from support.issuers import Issuer, JupyterHubIssuer, VaultTokenIssuer
from support.jupyterhub import JupyterHub
from support.litellm import litellm
from support.openrouter import openrouter
from support.vault import VaultServer
from unit.test_http_respan import DESCRIPTION

from rotator.core.keys import ProviderKey
from rotator.core.secrets import Secret
from rotator.core.target import KeyParameters
from rotator.core.use import KeyUse
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
def respan(list_shape: Literal["page", "array"], **options: Any) -> Iterator[Server]:
    options = {"page_size": 2, "requests_per_minute": None, "use_shown": "everywhere", **options}
    with Simulator(options=Options(list_shape=list_shape, **options)) as sim:
        yield Server(
            sim.url,
            Secret(sim.organisation_key),
            lambda key: sim.vendor.works(key.reveal()),
            lambda key: sim.vendor.use(key.reveal()),
            parameters={"max_usage": 5},
        )
        assert not [key for key in sim.vendor.keys.values() if key.alive(sim.vendor.now())]


class ShowsUse(ProviderContract):
    """Beside the contract, which allows that use stays unknown."""

    __test__ = False

    def test_use_is_shown(self, server: Server) -> None:
        with self.trial(server) as trial:
            assert trial.use is not None
            trial.use(trial.key.secret)

            def shown() -> list[KeyUse]:
                found = [trial.retrieve(), *trial.named(trial.name)]
                return [key.use for key in found if isinstance(key, ProviderKey) and key.use is not None]

            uses = trial.until(shown, bool)
            assert uses
            for use in uses:
                assert any(cap.used for cap in use.caps) or use.last_used_at


class TestRespan(ShowsUse):
    __test__ = True
    provider_type = RESPAN

    @pytest.fixture(params=["page", "array"])
    def server(self, request: pytest.FixtureRequest) -> Iterator[Server]:
        with respan(request.param) as server:
            yield server


class TestRespanWithPolicies(ShowsUse):
    """Use is in the limit policies alone."""

    __test__ = True
    provider_type = RESPAN

    @pytest.fixture
    def server(self) -> Iterator[Server]:
        with respan("page", use_shown="none", limit_policies="on") as server:
            yield replace(server, options={"limit_policies": True})


class TestDescriptionOfRespan(ShowsUse):
    """Type http, with Respan's API in TOML."""

    __test__ = True
    provider_type = HTTP

    @pytest.fixture(params=["page", "array"])
    def server(self, request: pytest.FixtureRequest) -> Iterator[Server]:
        with respan(request.param) as server:
            yield replace(server, options=DESCRIPTION)


class TestOpenRouter(ShowsUse):
    """Type http with its preset, on a stand-in: offset paging, nested answers, no change of an expiry."""

    __test__ = True
    provider_type = HTTP

    @pytest.fixture
    def server(self) -> Iterator[Server]:
        with openrouter(page_size=2) as sim:

            def works(key: Secret) -> bool:
                return sim.accepts(key.reveal())

            def use(key: Secret) -> None:
                sim.spend(next(one.hash for one in sim.keys.values() if one.text == key.reveal()), 0.5)

            options = {"preset": "openrouter"}
            yield Server(sim.address, Secret(sim.management_key), works, use, options, {"limit": 5.0})
            assert sim.keys == {}


class TestLiteLLM(ShowsUse):
    """Type http with its preset, on a stand-in that LiteLLM's OpenAPI document judges."""

    __test__ = True
    provider_type = HTTP

    @pytest.fixture
    def server(self) -> Iterator[Server]:
        every_option: KeyParameters = {
            "max_budget": 5.0,
            "budget_duration": "30d",
            "rpm_limit": 60,
            "tpm_limit": 10_000,
            "max_parallel_requests": 4,
            "models": ("a-model",),
            "team_id": "a-team",
        }
        with litellm() as sim:

            def works(key: Secret) -> bool:
                return sim.accepts(key.reveal())

            def use(key: Secret) -> None:
                sim.spend(next(one.token for one in sim.keys if one.text == key.reveal()), 0.5)

            yield Server(sim.address, Secret(sim.master_key), works, use, {"preset": "litellm"}, every_option)
            assert sim.flaws == []
            assert not [key for key in sim.keys if key.works()]


def on(issuer: Issuer) -> Iterator[Server]:
    """A real server."""
    options = {name: value for name, value in issuer.settings.items() if name not in ("type", "api_key")}
    [credential] = issuer.environment.values()

    def works(key: Secret) -> bool:
        return issuer.accepts(key.reveal()) is not None

    yield Server(issuer.address, Secret(credential), works, works, options, issuer.key)
    assert issuer.living() == {}


class TestJupyterHub(ShowsUse):
    """Type http with its preset, on the server itself."""

    __test__ = True
    provider_type = HTTP
    timeout = timedelta(seconds=2)

    @pytest.fixture
    def server(self, jupyterhub: JupyterHub) -> Iterator[Server]:
        yield from on(JupyterHubIssuer(jupyterhub))


class TestVaultTokens(ProviderContract):
    """Type http with its preset, on the server itself: a list of ids, each of which is looked up."""

    provider_type = HTTP

    @pytest.fixture
    def server(self, vault: VaultServer) -> Iterator[Server]:
        yield from on(VaultTokenIssuer(vault))
