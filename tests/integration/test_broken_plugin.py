"""An installed plugin that fails in one way or another: it is named, and the other providers' keys are rotated."""

from pathlib import Path

import pytest
from support.installation import installation

PLUGIN = """
from typing import Literal

from rotator.config.provider_settings import ProviderSettings
from rotator.config.provider_type import ProviderType
from rotator.core.traits import Traits

FAULT = "{fault}"


class Settings(ProviderSettings):
    type: Literal["acme"]


class Acme:
    traits = Traits("Acme")
    upstream = "acme.test:443"

    @property
    def error(self):
        if FAULT == "error":
            raise KeyError("no such state")
        return None

    def __getattr__(self, name):
        def method(*arguments):
            if name == FAULT or FAULT == "all":
                raise IndexError("the gateway's list is empty")
            return iter(()) if name == "pages" else None

        return method


def make(settings, context):
    if FAULT == "make":
        raise LookupError("no such region")
    return Acme()


if FAULT == "import":
    raise RuntimeError("built for another version")
ACME = ProviderType(Settings, lambda settings: Traits("Acme"), make)
"""


def plant(folder: Path, fault: str) -> None:
    """Install the plugin in a folder, as pip does."""
    (folder / "acme_plugin.py").write_text(PLUGIN.format(fault=fault))
    metadata = folder / "acme_plugin-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-plugin\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[rotator.providers]\nacme = acme_plugin:ACME\n")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("make", 'the plugin for providers of type "acme" cannot make providers.gateway: LookupError: no such region'),
        ("create", 'the plugin for providers of type "acme" failed in create() of providers.gateway: IndexError: the '),
        ("all", 'the plugin for providers of type "acme" failed in ready() of providers.gateway: IndexError: the '),
        ("error", ""),
    ],
)
def test_a_plugin_that_raises_fails_its_own_targets_alone(tmp_path: Path, fault: str, message: str) -> None:
    plant(tmp_path, fault)
    with installation(tmp_path, targets=("a", "b", "c")) as rotator:
        rotator.environment["PYTHONPATH"] = str(tmp_path)
        gateway = {"type": "acme", "base_url": "https://acme.test", "api_key": {"env": "RESPAN_API_KEY"}}
        rotator.config["providers"]["gateway"] = gateway
        for name, target in rotator.config["targets"].items():
            target["provider"] = "gateway" if name == "a" else "respan"
        daemon = rotator.start()
        for name in "bc":
            daemon.wait_for("key_published", target=name)
        if fault == "make":
            failed = daemon.wait_for("upstream_down", upstream="provider gateway")
        else:
            failed = daemon.wait_for("target_failed", target="a")
        assert message in failed["error"]
        assert ("(acme_plugin.py, line " in failed["error"]) == bool(message)
        daemon.wait_for("sweep_completed", provider="respan")
        if message:
            assert daemon.events("unexpected_error") == []
        assert daemon.stop() == 0


def test_a_plugin_that_cannot_be_imported_is_named_where_it_is_used_and_no_hindrance_where_it_is_not(
    tmp_path: Path,
) -> None:
    plant(tmp_path, "import")
    with installation(tmp_path) as rotator:
        rotator.environment["PYTHONPATH"] = str(tmp_path)
        daemon = rotator.start()
        daemon.wait_for("key_published", target="a")
        assert daemon.stop() == 0
        rotator.config["providers"]["respan"]["type"] = "acme"
        refused = rotator.start()
        assert refused.end() == 2
        assert "the plugin acme (acme_plugin:ACME of acme-plugin 1.0) cannot be used: RuntimeError: built for" in (
            (tmp_path / "stderr.1").read_text()
        )
