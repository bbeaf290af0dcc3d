"""What the distribution is called, where it lives, and what its metadata promises."""

import re
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_string
from email.message import Message
from pathlib import Path

import pytest

from rotator import __version__

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SOURCE = PROJECT["urls"]["Source"]
RAW = SOURCE.replace("//github.com/", "//raw.githubusercontent.com/")
ADDRESS = re.compile(
    r"(?:(?:github\.com|raw\.githubusercontent\.com|ghcr\.io)/(?P<owner>[\w-]+)/(?:charts/)?"
    r"|(?P<site>[\w-]+)\.github\.io/)rotator\b"
)
SUFFIXES = {".md", ".toml", ".yaml", ".yml", ".json", ".txt", ".tpl", ".py", ".sh", ".service", ""}


def texts() -> list[Path]:
    """The files that may name the project's address."""
    folders = [ROOT / name for name in (".github", "deploy", "docs", "rotator", "tools")]
    files = [*ROOT.iterdir(), *(file for folder in folders for file in folder.rglob("*"))]
    return [file for file in files if file.is_file() and file.suffix in SUFFIXES and file.name != ".git"]


@pytest.fixture(scope="module")
def metadata(tmp_path_factory: pytest.TempPathFactory) -> Message:
    folder = tmp_path_factory.mktemp("wheel")
    command = (sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder)
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        [name] = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_string(archive.read(name).decode())


def test_every_file_names_the_project_s_address_as_pyproject_does() -> None:
    owner = SOURCE.split("/")[3]
    found = {
        (str(file.relative_to(ROOT)), match["owner"] or match["site"])
        for file in texts()
        for match in ADDRESS.finditer(file.read_text())
    }
    assert ("pyproject.toml", owner) in found
    assert {(file, other) for file, other in found if other != owner} == set()


def test_the_distribution_has_its_own_name_and_the_command_another(metadata: Message) -> None:
    assert (metadata["Name"], metadata["Version"]) == ("vault-key-rotator", __version__)
    assert PROJECT["scripts"] == {"rotator": "rotator.__main__:main"}


def test_the_index_shows_who_where_and_for_which_python(metadata: Message) -> None:
    assert metadata["Author"]
    assert metadata["Keywords"]
    assert metadata["License-Expression"] == "Apache-2.0"
    urls = dict(line.split(", ") for line in metadata.get_all("Project-URL", []))
    assert urls == PROJECT["urls"]
    assert all(url.startswith("https://") for url in urls.values())
    assert metadata["Requires-Python"] == ">=3.11"


def test_every_link_of_the_description_works_outside_of_the_repository(metadata: Message) -> None:
    description = metadata.get_payload()
    assert isinstance(description, str)
    code = re.compile(r"(?ms)^\s*```.*?^\s*```")
    links = re.findall(r"(!?)\[[^\]]*\]\(([^)\s]+)\)", code.sub("", description))
    assert [link for _, link in links if not link.startswith(("https://", "#"))] == []
    assert [link for image, link in links if image and "/blob/" in link] == []
    files = [link for _, link in links if link.startswith((f"{SOURCE}/blob/", f"{RAW}/"))]
    assert len(files) > 5
    assert [link for link in files if f"/v{__version__}/" not in link] == []
