"""What the distribution is called, where it lives, and what its metadata promises."""

import os
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
from tools.pythons import SUPPORTED, find

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


def test_the_classifiers_are_the_pythons_that_the_tests_run_on() -> None:
    python = "Programming Language :: Python :: 3."
    named = [each.rpartition(" ")[2] for each in PROJECT["classifiers"] if each.startswith(python)]
    assert tuple(named) == SUPPORTED


def script(file: Path, *lines: str) -> Path:
    file.write_text("\n".join(("#!/bin/sh", *lines, "")))
    file.chmod(0o755)
    return file


def test_a_python_is_found_on_the_path_and_below_pyenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shims, version = tmp_path / "shims", ".".join(map(str, sys.version_info[:2]))
    shims.mkdir()
    monkeypatch.setenv("PATH", f"{shims}:/usr/bin:/bin")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    script(shims / "python3.99", "echo 'pyenv: command not found' >&2", "exit 127")
    assert find("3.99") is None

    (below := tmp_path / "versions/3.99.1/bin").mkdir(parents=True)
    script(below / "python", "echo 3.99")
    assert find("3.99") == str(below / "python")

    (shims / f"python{version}").symlink_to(sys.executable)
    assert find(version) == str(shims / f"python{version}")

    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "ensurepip.py").write_text("raise ImportError")
    assert find(version) is None, "it cannot make an environment with a pip"


def test_make_install_names_the_python_that_it_needs_in_one_line(tmp_path: Path) -> None:
    def make(python: Path) -> str:
        command = ("make", "install", f"VENV={tmp_path / 'venv'}", f"PYTHON={python}")
        alone = {
            name: value for name, value in os.environ.items() if not name.startswith("MAKE")
        }  # not below `make test`
        done = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, (tmp_path / "venv").exists()) == (2, "", False)
        return done.stderr.strip().splitlines()[-1]

    code = "import sys; sys.version_info, sys.version = (3, 10, 13), '3.10.13 (main)'; exec(sys.argv[2])"
    old = script(tmp_path / "old", f'exec "{sys.executable}" -c "{code}" "$@"')
    assert f"rotator needs Python 3.11 or later, and {old} is 3.10.13: name another" in make(old)
    assert "none is missing: name another" in make(tmp_path / "none")


@pytest.mark.parametrize(
    ("row", "module"),
    [
        ("Vault", "vault/go.mod github.com/hashicorp/vault"),
        ("Kubernetes", "kube-apiserver/go.mod k8s.io/kubernetes"),
        ("Helm", "helm/go.mod helm.sh/helm/v3"),
        ("Helm", "helm4/go.mod helm.sh/helm/v4"),
        ("Prometheus", "prometheus-operator-crds/go.mod github.com/prometheus-operator/prometheus-operator"),
        ("External Secrets", "external-secrets-crds/go.mod github.com/external-secrets/external-secrets"),
    ],
)
def test_the_table_of_versions_has_those_that_the_tests_use(row: str, module: str) -> None:
    file, _, name = module.partition(" ")
    [version] = re.findall(rf"(?m)^(?:require |\t){re.escape(name)} v(\S+)", (ROOT / "tools" / file).read_text())
    [line] = re.findall(rf"(?m)^\| {row}.*$", (ROOT / "docs/install.md").read_text())
    assert version in line
