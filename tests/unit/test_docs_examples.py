"""Each configuration in the documentation loads with what it leaves out; the page about consumers is complete."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from rotator.config.loader import load
from rotator.notify.external_secrets import ANNOTATION, LABEL
from rotator.providers.registry import installed_types

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TOML = re.compile(r"(?ms)^```toml\n(.*?)^```$|<<'?TOML'?\n(.*?)^TOML$")
MISSING = {
    "providers": '[providers.respan]\ntype = "respan"\napi_key = { env = "RESPAN_API_KEY" }\n',
    "stores": '[stores.vault]\ntype = "vault"\naddress = "https://vault.test:8200"\n',
    "targets": '[targets.billing-api]\npath = "apps/billing/respan"\n',
}


def examples() -> Iterator[tuple[str, str]]:
    """Yield each configuration, after the name of its page."""
    for page in PAGES:
        for block in ("".join(found) for found in TOML.findall(page.read_text())):
            if "project" not in tomllib.loads(block):  # a plugin's own pyproject.toml
                yield str(page.relative_to(ROOT)), block


@pytest.mark.parametrize(("page", "block"), [*examples()], ids=lambda text: text if text.endswith(".md") else "")
def test_a_configuration_of_the_documentation_loads(page: str, block: str, tmp_path: Path) -> None:
    tables = tomllib.loads(block)
    owner = "" if "owner" in tables else 'owner = "prod-eu"\n'
    file = tmp_path / "rotator.toml"
    file.write_text(owner + block + "".join(text for name, text in MISSING.items() if name not in tables))
    names = {"RESPAN_API_KEY", "VAULT_TOKEN", *re.findall(r'env = "(\w+)"', block)}
    environment = dict.fromkeys(names, "x") | {"VAULT_ADDR": "https://vault.test:8200"}
    assert load(file, environment, installed_types()).targets


def test_the_pages_about_windows_and_consumers_have_examples() -> None:
    assert {"docs/windows.md", "docs/consumers.md", "docs/providers.md"} <= {page for page, _ in examples()}


def table(heading: str) -> list[list[str]]:
    """Return the first table after this heading of the page about consumers, without its head."""
    text = (ROOT / "docs/consumers.md").read_text().partition(f"{heading}\n")[2]
    rows = re.findall(r"(?m)^\|(.*)\|$", text.partition("\n#")[0])
    return [[re.sub(r"[*`]", "", cell).strip() for cell in row.split(" | ")] for row in rows[2:]]


def test_each_kind_of_consumer_has_its_refresh_setting_and_its_default() -> None:
    found = {row[0].partition(",")[0]: row[1:3] for row in table("# How consumers learn of a new key")}
    assert [*found] == [
        "Vault Agent",
        "Vault Secrets Operator",
        "External Secrets",
        "Secrets Store CSI driver",
        "hvac",
    ]
    assert all(setting and default for setting, default in found.values())


def test_each_known_complaint_has_an_answer() -> None:
    complaints = table("## Known complaints")
    assert len(complaints) >= 5
    assert all(complaint and answer for complaint, answer in complaints)


def test_the_nudge_of_external_secrets_and_reloader_are_those_of_the_code_and_of_reloader() -> None:
    text = (ROOT / "docs/consumers.md").read_text()
    assert f"sets the annotation `{ANNOTATION}`" in text
    assert f"{LABEL}: billing-api" in text
    assert 'reloader.stakater.com/auto: "true"' in text
