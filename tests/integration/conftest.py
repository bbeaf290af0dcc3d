"""Fixtures for the tests of what talks to a real Vault."""

from collections.abc import Iterator

import pytest
import stamina
import support.kube as kubes
from support.kube import KubeServer, OwnKubeServer
from support.vaultstore import OpenStore, opened_stores


@pytest.fixture
def open_store() -> Iterator[OpenStore]:
    """Makes a `VaultStore` of an address, a mount and a login."""
    with opened_stores() as open_store:
        yield open_store


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """Retries come at once, and as many of them as ever."""
    with stamina.set_testing(True, attempts=3):
        yield


@pytest.fixture(scope="session")
def own_kube() -> Iterator[OwnKubeServer]:
    """A real kube-apiserver, shared by all tests, that may be stopped and frozen: leave it running."""
    if not kubes.find_programs():
        pytest.skip(kubes.NO_KUBE)
    with kubes.own_kube() as server:
        yield server


@pytest.fixture(scope="session")
def kube(request: pytest.FixtureRequest) -> Iterator[KubeServer]:
    """A real kube-apiserver, shared by all tests: take a namespace of your own from it."""
    if running := kubes.running_kube():
        with running:
            yield running
    else:
        own: OwnKubeServer = request.getfixturevalue("own_kube")
        yield own
