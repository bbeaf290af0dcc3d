"""Builds a release from the committed files (`make release`); docs/releasing.md has the steps around it.

Each file is built twice, in two folders, and the release is refused if the results differ in a byte. The times in the
files are those of the commit. That makes them equal on another machine too, if it has the same versions of the locked
tools, of helm and of zlib.
"""

import argparse
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from rotator import __version__
from tools.build_servers import CYCLONEDX, HELM, Server, build

ROOT = Path(__file__).resolve().parents[1]
CHART = Path("deploy/helm/rotator")
SUMS = "SHA256SUMS"
PURPOSE = "file"
"""The namespace of the signature, without which it verifies nothing."""


class RefusedError(Exception):
    """There is no release to build, or it is not what it should be."""


def main(arguments: list[str]) -> int:
    """Build the release into a folder. Return 1 if that was refused or failed."""
    parser = argparse.ArgumentParser(prog="python -m tools.release", description="Build a release.")
    parser.add_argument("--key", type=Path, help="sign with this SSH key; the public half, if an agent has the key")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="the folder for a folder of the release")
    options = parser.parse_args(arguments)
    try:
        notes = checked_notes(options.key)
        folder = options.output.absolute() / __version__
        build_twice(folder, notes, options.key)
    except (RefusedError, OSError) as error:  # an OSError names the program or the folder that is missing
        print(f"No release was built: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"{error.stderr or ''}\nNo release was built: {error}", file=sys.stderr)
        return 1
    print("\n".join((f"{folder}:", *sorted(f"  {file.name}" for file in folder.iterdir()))))
    print(f"Signed with {options.key}." if options.key else "NOT SIGNED, because no key was given (--key FILE).")
    return 0


# --- what is refused -------------------------------------------------------------------------------------------------


def checked_notes(key: Path | None) -> str:
    """Return the release's notes. Raise RefusedError if the tree is not fit for a release, or there is no such key."""
    if key and not key.expanduser().exists():
        raise RefusedError(f"there is no key {key}")
    if changed := git("status", "--porcelain"):
        raise RefusedError(f"these files are not committed:\n{changed}")
    chart = (ROOT / CHART / "Chart.yaml").read_text()
    if found := {version for version in re.findall(r"(?m)^(?:appV|v)ersion: (.*)$", chart) if version != __version__}:
        raise RefusedError(f"{CHART}/Chart.yaml has {', '.join(found)}, and rotator/__init__.py has {__version__}")
    return release_notes((ROOT / "CHANGELOG.md").read_text(), __version__)


def release_notes(changelog: str, version: str) -> str:
    """Return the changelog's section of a version. Raise RefusedError if it has none, or none with a date."""
    section = re.search(rf"(?ms)^## {re.escape(version)}\b(?P<date>.*?)$\n+(?P<text>.*?)(?=^## |\Z)", changelog)
    if section is None:
        raise RefusedError(f"CHANGELOG.md has no section `## {version}`")
    if not re.fullmatch(r", \d{4}-\d\d-\d\d", section["date"]):
        raise RefusedError(f"CHANGELOG.md has no date of release: write `## {version}, YYYY-MM-DD`")
    return section["text"].strip() + "\n"


# --- what is built ---------------------------------------------------------------------------------------------------


def build_twice(folder: Path, notes: str, key: Path | None) -> None:
    """Build every file of the release into this folder. Raise RefusedError if a second build differs."""
    with tempfile.TemporaryDirectory(prefix="release-") as one, tempfile.TemporaryDirectory(prefix="again-") as two:
        first, second = (build_once(Path(place), notes) for place in (one, two))
        sums = checksums(first)
        if different := set(sums.splitlines()) ^ set(checksums(second).splitlines()):
            names = sorted({line.split()[-1] for line in different})
            raise RefusedError(f"a second build differs in {', '.join(names)}")
        (first / SUMS).write_text(sums)
        if key:
            sign(first / SUMS, key)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(first, folder)


def build_once(place: Path, notes: str) -> Path:
    """Build every file from a copy of the commit in this place, and return their folder."""
    tree, folder = place / "tree", place / "release"
    tree.mkdir()
    packed = subprocess.check_output(("git", "-c", "tar.umask=0022", "archive", "HEAD"), cwd=ROOT)
    subprocess.run(("tar", "-xp", "-C", tree), input=packed, check=True)  # Python 3.11.2's tarfile has no filter
    folder.mkdir()
    time = int(git("log", "-1", "--format=%ct"))
    stem = f"vault_key_rotator-{__version__}"
    run(sys.executable, "-m", "hatchling", "build", "-d", folder, cwd=tree, time=time)
    package_chart(tree / CHART, folder, time)
    shutil.copyfile(tree / "requirements.txt", folder / f"{stem}-requirements.txt")
    write_sbom(tree, folder / f"{stem}.cdx.json", time)
    (folder / "RELEASE_NOTES.md").write_text(notes)
    return folder


def package_chart(chart: Path, folder: Path, time: int) -> None:
    """Package the chart. helm writes the time of day into the archive, so this packs what helm packed again."""
    run(program(HELM), "package", chart, "-d", folder, cwd=folder, time=time)
    [package] = folder.glob("*.tgz")
    packed = io.BytesIO()
    with tarfile.open(package) as old, tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as new:
        for member in sorted(old.getmembers(), key=lambda each: each.name):
            member.mtime = time
            new.addfile(member, old.extractfile(member))
    package.write_bytes(gzip.compress(packed.getvalue(), mtime=time))


def write_sbom(tree: Path, file: Path, time: int) -> None:
    """Write what the lock pins, with its hashes, in CycloneDX's JSON."""
    run(
        *(program(CYCLONEDX), "requirements", tree / "requirements.txt", "--pyproject", tree / "pyproject.toml"),
        *("--output-reproducible", "--output-format", "JSON", "--output-file", file),
        cwd=tree,
        time=time,
    )
    sbom = json.loads(file.read_text())
    root = sbom["metadata"]["component"]  # its version is not in pyproject.toml
    root |= {"version": __version__, "purl": f"pkg:pypi/{root['name']}@{__version__}"}
    file.write_text(json.dumps(sbom, indent=2) + "\n")


def checksums(folder: Path) -> str:
    """Return a line for each file, as `sha256sum --check` reads them."""
    files = sorted(folder.iterdir())
    return "".join(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files)


def sign(file: Path, key: Path) -> None:
    """Sign a file; the signature stands beside it."""
    # ssh-keygen asks for the key's passphrase, so it keeps the terminal.
    subprocess.run(("ssh-keygen", "-Y", "sign", "-f", key.expanduser(), "-n", PURPOSE, file), check=True)


# --- how commands are run --------------------------------------------------------------------------------------------


def git(*arguments: str) -> str:
    """Return what git prints."""
    return subprocess.check_output(("git", *arguments), cwd=ROOT, text=True).rstrip()


def run(*command: str | Path, cwd: Path, time: int) -> None:
    """Run a command for which it is `time`. Raise CalledProcessError if it fails."""
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(time)}
    subprocess.run(command, cwd=cwd, env=environment, check=True, capture_output=True, text=True)


def program(server: Server) -> Path:
    """Return the program of a tool, which is built first if this machine lacks it."""
    found = server.find()
    if found is None:
        build(server)
        found = server.folder / server.name
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
