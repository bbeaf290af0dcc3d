"""The pages about Kubernetes name values that the chart has, and files name pages that exist."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "deploy/helm/rotator/values.schema.json").read_text())
PAGES = ("gitops", "kubernetes", "kubernetes-large", "kubernetes-operations", "migration", "openshift")


def resolves(value: str) -> bool:
    """Whether the schema has this value; below a table of any keys, every name is one."""
    table = SCHEMA
    for name in value.split("."):
        if name not in table.get("properties", {}):
            return "properties" not in table
        table = table["properties"][name]
    return True


@pytest.mark.parametrize("page", PAGES)
def test_every_value_that_a_page_names_is_one_of_the_chart(page: str) -> None:
    text = (ROOT / f"docs/{page}.md").read_text()
    tops = "|".join(SCHEMA["properties"])
    named = re.findall(rf"`((?:{tops})\.[\w.]+)", text)
    assert [value.rstrip(".") for value in named if not resolves(value.rstrip("."))] == []


def test_some_values_are_named() -> None:
    assert resolves("rotateJob.activeDeadlineSeconds")
    assert not resolves("rotateJob.deadline")
    assert "`rotateJob.activeDeadlineSeconds`" in (ROOT / "docs/kubernetes-operations.md").read_text()


def test_every_page_that_a_file_names_exists() -> None:
    files = [*ROOT.glob("deploy/**/*"), *ROOT.glob("rotator/**/*.py"), ROOT / "config.example.toml"]
    names = {name for file in files if file.is_file() for name in re.findall(r"\bdocs/[\w-]+\.md", file.read_text())}
    assert names
    assert [name for name in sorted(names) if not (ROOT / name).exists()] == []
