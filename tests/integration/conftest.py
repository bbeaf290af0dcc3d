"""Fixtures for the tests of what talks to a real Vault."""

from collections.abc import Iterator

import pytest
import stamina
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
