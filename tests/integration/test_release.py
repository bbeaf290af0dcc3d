"""A release: built twice and equal, refused where it must be, installed in a clean environment, signed and verified."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from rotator import __version__
from tools.build_servers import CYCLONEDX, HELM
from tools.release import RefusedError, release_notes

ROOT = Path(__file__).resolve().parents[2]
STEM = f"vault_key_rotator-{__version__}"
WHEEL = f"{STEM}-py3-none-any.whl"
HEADING, RELEASED = rf"(?m)^## {re.escape(__version__)}\b.*$", f"## {__version__}, 2026-12-01"
COMMITTED_AT = "2026-12-01T12:00:00Z"


class Clone:
    """A repository with the files of this one, whose only commit has a time of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        files = subprocess.check_output(
            ("git", "ls-files", "-z", "-c", "-o", "--exclude-standard"), cwd=ROOT, text=True
        )
        for name in filter(None, files.split("\0")):
            if (ROOT / name).exists():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        changelog = folder / "CHANGELOG.md"
        changelog.write_text(re.sub(HEADING, RELEASED, changelog.read_text()))
        self.git("init", "--quiet")
        self.commit()

    def replace(self, file: str, old: str, new: str) -> None:
        text = (self.folder / file).read_text()
        (self.folder / file).write_text(text.replace(old, new))

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("-c", "user.name=a", "-c", "user.email=a@b.test", "commit", "--quiet", "--message=Release")

    def git(self, *arguments: str) -> None:
        dates = {"GIT_AUTHOR_DATE": COMMITTED_AT, "GIT_COMMITTER_DATE": COMMITTED_AT}
        subprocess.run(("git", *arguments), cwd=self.folder, check=True, env={**os.environ, **dates})

    def release(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = (sys.executable, "-m", "tools.release", *arguments)
        return subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )

    @property
    def files(self) -> Path:
        return self.folder / "dist" / __version__


def new_key(file: Path) -> Path:
    """Make a key; `file`.signers has what verifies its signatures."""
    subprocess.run(("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", file), check=True)
    file.with_suffix(".signers").write_text(f"releases@rotator {file.with_suffix('.pub').read_text()}")
    return file


def verified(signature: Path, text: bytes, signers: Path) -> bool:
    command = ("ssh-keygen", "-Y", "verify", "-n", "file", "-I", "releases@rotator", "-f", signers, "-s", signature)
    return subprocess.run(command, input=text, capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def new_clone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Clone]:
    return lambda: Clone(tmp_path_factory.mktemp("clone"))


@pytest.fixture(scope="module")
def released(new_clone: Callable[[], Clone]) -> Clone:
    """A clone with a release that was built without a key."""
    if not HELM.find() or not CYCLONEDX.find():
        pytest.skip("no helm or no cyclonedx-py: run `make servers`")
    clone = new_clone()
    done = clone.release()
    assert done.returncode == 0, done.stderr
    assert "NOT SIGNED" in done.stdout
    return clone


def test_the_checksums_name_every_file(released: Clone) -> None:
    names = {file.name for file in released.files.iterdir()}
    assert names == {
        *(WHEEL, f"{STEM}.tar.gz", f"{STEM}-requirements.txt", f"{STEM}.cdx.json"),
        *(f"rotator-{__version__}.tgz", "RELEASE_NOTES.md", "SHA256SUMS"),
    }
    done = subprocess.run(
        ("sha256sum", "--check", "--strict", "SHA256SUMS"),
        cwd=released.files,
        capture_output=True,
        text=True,
        check=True,
    )
    assert {line.partition(":")[0] for line in done.stdout.splitlines()} == names - {"SHA256SUMS"}


def test_another_clone_builds_the_same_and_signs_it(
    released: Clone, new_clone: Callable[[], Clone], tmp_path: Path
) -> None:
    clone = new_clone()
    done = clone.release("--key", new_key(tmp_path / "ours"))
    assert (done.returncode, "NOT SIGNED" in done.stdout) == (0, False), done.stderr
    sums = (clone.files / "SHA256SUMS").read_bytes()
    assert sums == (released.files / "SHA256SUMS").read_bytes()

    new_key(tmp_path / "another")
    signature = clone.files / "SHA256SUMS.sig"
    assert verified(signature, sums, tmp_path / "ours.signers")
    assert not verified(signature, sums, tmp_path / "another.signers")
    assert not verified(signature, sums + b" ", tmp_path / "ours.signers")


def test_the_times_in_the_files_are_those_of_the_commit(released: Clone) -> None:
    for name in (f"{STEM}.tar.gz", f"rotator-{__version__}.tgz"):
        with tarfile.open(released.files / name) as archive:
            assert {member.mtime for member in archive} == {1796126400}  # COMMITTED_AT


def test_the_wheel_runs_in_a_clean_environment(released: Clone, tmp_path: Path) -> None:
    subprocess.run((sys.executable, "-m", "venv", "--without-pip", tmp_path), check=True)
    pip = (sys.executable, "-m", "pip", "--python", tmp_path / "bin/python", "--quiet", "--disable-pip-version-check")
    done = subprocess.run(
        (*pip, "install", "--no-compile", released.files / WHEEL),
        capture_output=True,
        text=True,
        check=False,
    )
    if "Could not find a version" in done.stderr or "connection" in done.stderr.lower():
        pytest.skip("no package index can be reached, from which the dependencies could be installed")
    assert done.returncode == 0, done.stderr
    version = subprocess.check_output((tmp_path / "bin/rotator", "--version"), cwd=tmp_path, text=True)
    assert version.split() == ["rotator", __version__]


def test_the_sdist_builds_the_same_wheel(released: Clone, tmp_path: Path) -> None:
    subprocess.run(("tar", "-xzf", released.files / f"{STEM}.tar.gz", "-C", tmp_path), check=True)
    command = (sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path)
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1796126400"}
    subprocess.run(command, cwd=tmp_path / STEM, env=environment, check=True, capture_output=True)
    assert (tmp_path / WHEEL).read_bytes() == (released.files / WHEEL).read_bytes()


def test_helm_installs_the_packaged_chart(released: Clone) -> None:
    package = released.files / f"rotator-{__version__}.tgz"
    program = HELM.find()
    assert program
    render = (program, "template", "rotator", "--values", ROOT / "tests/data/values-minimal.yaml")
    packed = subprocess.check_output((*render, package), text=True)
    assert packed == subprocess.check_output((*render, ROOT / "deploy/helm/rotator"), text=True)


def test_the_sbom_has_each_locked_package_with_its_hashes(released: Clone) -> None:
    sbom = json.loads((released.files / f"{STEM}.cdx.json").read_text())
    lock = (ROOT / "requirements.txt").read_text()
    pinned = {*re.findall(r"(?m)^\S+==\S+", lock), *re.findall(r"--hash=sha256:(\w+)", lock)}
    listed = set()
    for component in sbom["components"]:
        [source] = component["externalReferences"]
        hashes = {each["content"] for each in source["hashes"] if each["alg"] == "SHA-256"}
        listed |= {f"{component['name']}=={component['version']}", *hashes}
    assert sbom["bomFormat"] == "CycloneDX"
    assert sbom["metadata"]["component"]["purl"] == f"pkg:pypi/vault-key-rotator@{__version__}"
    assert listed == pinned


def test_the_notes_are_the_changelog_s_section(released: Clone) -> None:
    notes = (released.files / "RELEASE_NOTES.md").read_text()
    assert notes in (ROOT / "CHANGELOG.md").read_text()
    assert notes.startswith("- **Rotation**")
    assert "##" not in notes


@pytest.mark.parametrize(
    ("changelog", "refusal"),
    [
        ("## 0.9.0, 2026-12-01\n\n- x\n", "no section"),
        ("## 1.0.01, 2026-12-01\n\n- x\n", "no section"),
        ("## 1.0.0, not released yet\n\n- x\n", "no date"),
    ],
)
def test_a_version_without_a_dated_section_has_no_notes(changelog: str, refusal: str) -> None:
    with pytest.raises(RefusedError, match=refusal):
        release_notes(changelog, "1.0.0")


def test_the_notes_end_where_the_next_version_begins() -> None:
    assert release_notes("# C\n\n## 1.0.1, 2026-12-02\n\n- y\n\n## 1.0.0, 2026-12-01\n\n- x\n", "1.0.1") == "- y\n"


def test_a_tree_that_is_not_what_the_commit_holds_is_refused(new_clone: Callable[[], Clone]) -> None:
    clone = new_clone()
    (clone.folder / "new.txt").write_text("")
    done = clone.release()
    assert (done.returncode, clone.files.exists()) == (1, False)
    assert "not committed" in done.stderr
    assert "new.txt" in done.stderr


def test_a_chart_of_another_version_is_refused(new_clone: Callable[[], Clone]) -> None:
    clone = new_clone()
    clone.replace("deploy/helm/rotator/Chart.yaml", f"version: {__version__}", "version: 0.0.9")
    clone.commit()
    done = clone.release()
    assert (done.returncode, clone.files.exists()) == (1, False)
    assert "0.0.9" in done.stderr


def test_a_missing_key_is_refused(new_clone: Callable[[], Clone], tmp_path: Path) -> None:
    clone = new_clone()
    done = clone.release("--key", tmp_path / "missing")
    assert (done.returncode, clone.files.exists()) == (1, False)
    assert "there is no key" in done.stderr
