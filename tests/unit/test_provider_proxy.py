"""A provider behind a company's proxy: what works, and what each refusal of the proxy means."""

import base64
import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import stamina
import trustme
from support.canned import Reply, canned
from support.egress import Egress, egress
from support.process import free_ports

from rotator.core.errors import ProviderError, ProviderUnavailable, ProxyRefused
from rotator.core.secrets import Secret
from rotator.providers.respan.client import RespanProvider
from rotator.providers.respan.settings import RespanSettings
from rotator.runtime.proxy import Proxy
from rotator.simulator import Options, Simulator
from rotator.testing.suite import context

PASSWORD = "Tr0ub4dor&3-made-up"
CREDENTIALS = f"edge-user:{PASSWORD}"
EXPIRY = datetime(2126, 3, 1, 12, 0, tzinfo=UTC)
EDGE = trustme.CA()

Make = Callable[..., RespanProvider]

OPERATIONS: dict[str, Callable[[RespanProvider], object]] = {
    "create": lambda provider: provider.create("n", {}, EXPIRY),
    "list": lambda provider: list(provider.pages(lambda: None)),
    "delete": lambda provider: provider.delete("a"),
}


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    """Retries without their waits."""
    with stamina.set_testing(True, attempts=3, cap=True):
        yield


@pytest.fixture
def sim() -> Iterator[Simulator]:
    with Simulator(options=Options(requests_per_minute=None, page_size=2)) as sim:
        yield sim


@pytest.fixture
def proxy(sim: Simulator) -> Iterator[Egress]:
    """It opens TLS, with a certificate of the company's own."""
    with egress(sim.url) as proxy:
        proxy.inspects_with = EDGE
        yield proxy


@pytest.fixture
def make(sim: Simulator, proxy: Egress, tmp_path: Path) -> Iterator[Make]:
    file = tmp_path / "edge.pem"
    file.write_bytes(EDGE.cert_pem.bytes())
    with ExitStack() as stack:

        def make(
            base_url: str = "https://api.example", url: str = "", credentials: str | None = None, **options: Any
        ) -> RespanProvider:
            given = {
                "type": "respan",
                "api_key": {"env": "NOT_READ"},
                "base_url": base_url,
                "ca_file": str(file),
                "timeout": "2s",
            }
            secret = Secret(credentials) if credentials else None
            settings = RespanSettings.model_validate({**given, "base_url": base_url, **options})
            through = context("edge", Secret(sim.organisation_key), Proxy(url or proxy.url, secret))
            return stack.enter_context(closing(RespanProvider(settings, through)))

        yield make


def refused(provider: RespanProvider, operation: str = "create") -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        OPERATIONS[operation](provider)
    shown = [*traceback.format_exception(caught.value), repr(vars(caught.value))]
    secrets = (CREDENTIALS, PASSWORD, base64.b64encode(CREDENTIALS.encode()).decode())
    assert not [secret for secret in secrets for text in shown if secret in text]
    return caught.value


@pytest.mark.parametrize("base_url", ["https://api.example", "http://127.0.0.1:9"])
def test_a_key_lives_its_life_behind_a_proxy(make: Make, sim: Simulator, proxy: Egress, base_url: str) -> None:
    proxy.credentials = CREDENTIALS
    provider = make(base_url, credentials=CREDENTIALS)
    made = [provider.create(f"n{number}", {}, EXPIRY) for number in range(3)]
    listed = [key.id for page in provider.pages(lambda: None) for key in page]
    assert sorted(listed) == sorted(key.id for key in made)
    provider.set_expiry(made[0].id, EXPIRY - timedelta(days=1))
    assert sim.vendor.keys[made[0].id].expiry_date == EXPIRY - timedelta(days=1)
    provider.delete(made[0].id)
    assert provider.retrieve(made[0].id) is None


@pytest.mark.parametrize("base_url", ["https://api.example", "http://127.0.0.1:9"])
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("credentials", [None, CREDENTIALS], ids=["none", "wrong"])
def test_a_proxy_that_refuses_the_credentials_is_not_the_provider(
    make: Make, proxy: Egress, base_url: str, operation: str, credentials: str | None
) -> None:
    proxy.credentials = "edge-user:changed"
    error = refused(make(base_url, credentials=credentials), operation)
    assert isinstance(error, ProxyRefused)
    assert error.message.startswith(f"the proxy {proxy.url} wants credentials, or refuses those of rotator (407")
    assert 'proxy_credentials of provider "edge"' in error.advice
    assert error.needs_a_person
    assert error.nothing_tried


def test_wrong_credentials_are_not_tried_again_and_again(make: Make, proxy: Egress) -> None:
    """Many tries may lock the account at the proxy."""
    proxy.credentials = "edge-user:changed"
    provider = make(credentials=CREDENTIALS)
    errors = [refused(provider, operation) for operation in (*OPERATIONS, *OPERATIONS)]
    assert len(set(map(str, errors))) == 1
    assert len(proxy.asked) == 1
    assert provider.error is errors[0]
    with pytest.raises(ProxyRefused):
        provider.ready()
    proxy.credentials = CREDENTIALS
    provider.look_again()
    assert provider.create("n", {}, EXPIRY).id
    assert provider.error is None


def test_a_proxy_that_was_not_configured_may_want_credentials_too(sim: Simulator) -> None:
    reply = Reply(407, "<html><title>Log in</title></html>")
    with canned(lambda _: reply) as server:
        options = {"type": "respan", "api_key": {"env": "NOT_READ"}, "base_url": server.address}
        provider = RespanProvider(RespanSettings.model_validate(options), context("edge", Secret("a-credential")))
        with closing(provider):
            error = refused(provider)
    assert isinstance(error, ProxyRefused)
    assert error.message.startswith(f"the proxy before {server.address} wants credentials")


def test_a_proxy_that_does_not_allow_the_host(make: Make, proxy: Egress) -> None:
    proxy.status = 403
    error = refused(make())
    assert isinstance(error, ProxyRefused)
    assert error.message.startswith(f"the proxy {proxy.url} refuses to connect to https://api.example (403 Whatever)")
    assert "Allow that host" in error.advice


def test_a_proxy_that_reaches_nothing_may_recover(make: Make, proxy: Egress) -> None:
    proxy.status = 502
    provider = make()
    error = refused(provider)
    assert type(error) is ProviderUnavailable
    assert error.message.startswith(f"the proxy {proxy.url} does not connect to https://api.example (502 Whatever)")
    proxy.status = None
    assert provider.create("n", {}, EXPIRY).id


def test_a_proxy_that_is_down(make: Make) -> None:
    [port] = free_ports(1)
    error = refused(make(url=f"http://127.0.0.1:{port}"))
    assert type(error) is ProviderUnavailable
    assert error.message.startswith(f"the proxy http://127.0.0.1:{port} cannot be reached (")
    assert 'proxy of provider "edge"' in error.advice


def test_a_silent_proxy_means_that_nothing_was_sent(make: Make, proxy: Egress) -> None:
    proxy.hangs = True
    error = refused(make(timeout="1s"))
    assert type(error) is ProviderUnavailable  # and not that the key may exist
    assert "cannot be reached (no connection in time)" in error.message


def test_a_proxy_whose_own_certificate_is_not_trusted(make: Make, sim: Simulator) -> None:
    with egress(sim.url, tls=trustme.CA()) as proxy:
        error = refused(make(url=proxy.url))
    assert error.message.startswith(f"the TLS certificate of the proxy {proxy.url} is not trusted")
    assert "ca_file" in error.advice


def test_a_proxy_that_opens_tls_without_its_certificates_in_ca_file(make: Make, proxy: Egress) -> None:
    proxy.inspects_with = trustme.CA()
    error = refused(make())
    assert error.message.startswith("the TLS certificate shown at https://api.example is not trusted")
    assert "If a proxy opens TLS on the way, name a file with its certificates in ca_file" in error.advice


def test_a_proxy_that_repeats_the_credentials_in_its_answer(make: Make, proxy: Egress) -> None:
    proxy.status = 407
    for echo in (CREDENTIALS, base64.b64encode(CREDENTIALS.encode()).decode(), f"user {PASSWORD}"):
        proxy.reason = f"refused {echo}"
        assert "407" in refused(make(credentials=CREDENTIALS)).message


def test_no_credential_is_logged(make: Make, proxy: Egress, sim: Simulator, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    make(credentials=CREDENTIALS).create("n", {}, EXPIRY)
    assert caplog.records
    assert sim.organisation_key not in caplog.text
    assert PASSWORD not in caplog.text
    assert base64.b64encode(CREDENTIALS.encode()).decode() not in caplog.text
