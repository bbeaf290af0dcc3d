"""The commands behind a company's proxy that opens TLS and wants credentials."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from support.egress import Egress, egress
from support.installation import Installation, installation
from support.leaks import RECORDER

CREDENTIALS = "edge-user:Tr0ub4dor-made-up"
EDGE = trustme.CA()


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[tuple[Installation, Egress]]:
    with installation(tmp_path) as made, egress(made.simulator.url) as proxy:
        RECORDER.add_secret("a proxy's credentials", CREDENTIALS)
        RECORDER.add_secret("a proxy's password", CREDENTIALS.partition(":")[2])
        proxy.credentials, proxy.inspects_with = CREDENTIALS, EDGE
        (tmp_path / "edge.pem").write_bytes(EDGE.cert_pem.bytes())
        (tmp_path / "edge").write_text(f"{CREDENTIALS}\n")
        made.config["providers"]["respan"] |= {
            "base_url": "https://api.respan.example",
            "ca_file": "edge.pem",
            "proxy": proxy.url,
            "proxy_credentials": {"file": "edge"},
        }
        yield made, proxy


def test_keys_are_rotated_through_the_proxy(proxy: tuple[Installation, Egress]) -> None:
    made, edge = proxy
    made.run("check", "--online", status=0)
    made.run("run", "--once", status=0)
    made.run("rotate", "a", status=0)
    assert len(made.simulator.vendor.keys) == 2
    assert {line.split()[1] for line in edge.asked} == {"api.respan.example:443"}


def test_credentials_that_the_proxy_refuses_are_named_as_such(proxy: tuple[Installation, Egress]) -> None:
    made, edge = proxy
    edge.credentials = "edge-user:changed"
    ended = made.run("check", "--online", "--json", status=3)
    [finding] = json.loads(ended.stdout)["findings"]
    assert finding["where"] == "providers.respan"
    assert finding["message"].startswith(f"the proxy {edge.url} wants credentials, or refuses those of rotator (407")
    assert "proxy_credentials" in finding["advice"]
    assert "wants credentials" in made.run("rotate", "a", status=3).stdout


@pytest.mark.parametrize(("file", "key"), [("edge.pem", "ca_file"), ("edge", "proxy_credentials")])
def test_a_missing_file_ends_a_command_with_3(proxy: tuple[Installation, Egress], file: str, key: str) -> None:
    made, edge = proxy
    (made.folder / file).unlink()
    ended = made.run("run", "--once", status=3)
    assert f"which providers.respan.{key} names, cannot be" in ended.stderr
    assert "rotator sends nothing to this provider" in ended.stderr
    assert edge.asked == []
