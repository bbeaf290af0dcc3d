"""The plugin in docs/providers.md, as it stands there: it is held against the contract, on a server of another type."""

import re
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import pytest
from support.openrouter import openrouter

from rotator.core.secrets import Secret
from rotator.providers.registry import GROUP, with_plugins
from rotator.testing import ProviderContract, Server

PAGE = (Path(__file__).parents[2] / "docs" / "providers.md").read_text()
[SOURCE] = re.findall(r'```python\n("""Keys of the Acme.*?)```', PAGE, re.DOTALL)
MOST_LINES = 80

MODULE = ModuleType("acme_rotator")
exec(compile(SOURCE, "acme_rotator.py", "exec"), MODULE.__dict__)


class TestExamplePlugin(ProviderContract):
    provider_type = MODULE.ACME

    @pytest.fixture
    def server(self) -> Iterator[Server]:
        with openrouter(page_size=2) as sim:

            def works(key: Secret) -> bool:
                return sim.accepts(key.reveal())

            yield Server(sim.address, Secret(sim.management_key), works, parameters={"limit": 5.0})
            assert sim.keys == {}


def test_the_example_is_short() -> None:
    assert len(SOURCE.splitlines()) <= MOST_LINES


def test_the_entry_point_of_the_example_is_a_type_of_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "acme_rotator", MODULE)
    [(name, value)] = re.findall(r'(?m)^(acme) = "(acme_rotator:ACME)"$', PAGE)

    types = with_plugins([EntryPoint(name, value, GROUP)])

    assert types.broken == {}
    assert types.usable["acme"] is MODULE.ACME
