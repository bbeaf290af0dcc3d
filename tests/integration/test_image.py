"""The image, without a container engine: the Dockerfile's own steps in a folder, and their result is run.

Of the Dockerfile only what it uses is understood; anything else in it fails here. Packages come from the package index,
as they do for `make install`.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.installation import installation
from support.process import wait_until

from rotator import __version__

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "deploy/Dockerfile"
HADOLINT = Path(sys.executable).parent / "hadolint"
LOCKED = re.compile(r"^[a-z].*?==.*?(?=^[a-z]|\Z)", re.MULTILINE | re.DOTALL)
LARGEST = 40 * 10**6  # bytes, of what comes on top of the base image
UNUSED = {"pygments", "markdown-it-py", "mdurl"}  # rich requires them
IMPORT_ALL = """
import importlib, pkgutil, rotator
for module in pkgutil.walk_packages(rotator.__path__, "rotator."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""


@dataclass
class Stage:
    """What FROM begins."""

    base: str
    name: str = ""
    env: dict[str, str] = field(default_factory=dict)
    steps: list[tuple[str, str]] = field(default_factory=list)  # WORKDIR, COPY and RUN, with what follows
    arguments: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    last: dict[str, str] = field(default_factory=dict)  # of each other instruction the last one


def stages() -> list[Stage]:
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    found: list[Stage] = []
    arguments: dict[str, str] = {}
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        instruction, _, rest = line.strip().partition(" ")
        match instruction:
            case "":
                pass
            case "ARG" if not found:
                argument, _, default = rest.partition("=")
                arguments[f"${{{argument}}}"] = default
            case "FROM":
                base, _, name = rest.partition(" AS ")
                base = arguments.get(base, base)
                found.append(Stage(base, name))
            case "ENV":
                found[-1].env |= dict(pair.split("=", 1) for pair in shlex.split(rest))
            case "ARG":
                found[-1].arguments.append(rest)
            case "LABEL":
                found[-1].labels |= dict(pair.split("=", 1) for pair in shlex.split(rest))
            case "WORKDIR" | "COPY" | "RUN":
                found[-1].steps.append((instruction, rest))
            case "USER" | "EXPOSE" | "ENTRYPOINT" | "CMD":
                found[-1].last[instruction] = rest
            case _:
                raise AssertionError(f"not understood here: {line}")
    return found


class Image:
    """The file systems of all stages in one, below `root`: only what is under /opt, where no two of them disagree."""

    def __init__(self, root: Path) -> None:
        self.root = root
        *_, self.last = made = stages()
        for stage in made:
            self._build(stage)

    def _build(self, stage: Stage) -> None:
        workdir = self.root
        for instruction, rest in stage.steps:
            if instruction == "WORKDIR":
                workdir = self.path(rest)
                workdir.mkdir(parents=True)
            elif instruction == "RUN":
                # Where the path of a folder is written into what is installed there, this folder's is.
                command = re.sub(r"(?<=\s)/opt/", f"{self.root}/opt/", f" {rest}")
                path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # its python3 is the base image's
                done = subprocess.run(
                    ["/bin/sh", "-c", command],
                    cwd=workdir,
                    env={**os.environ, "PATH": path, **stage.env},
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                if "Could not find a version" in done.stderr or "connection" in done.stderr.lower():
                    pytest.skip("no package index can be reached, from which the image could be made")
                assert done.returncode == 0, (command, done.stdout, done.stderr)
            else:
                self._copy(rest.split(), workdir)

    def _copy(self, words: list[str], workdir: Path) -> None:
        *sources, target = words
        if sources[0].startswith("--from="):
            [source] = sources[1:]
            assert source == target  # another stage's, and all stages are one here
            assert self.path(source).is_dir()
            return
        for source in sources:
            assert f"!{source}" in (ROOT / "deploy/Dockerfile.dockerignore").read_text().splitlines()
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, workdir / target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / source, workdir / target)

    def path(self, inside: str) -> Path:
        return self.root / inside.removeprefix("/")

    @property
    def program(self) -> list[str]:
        """ENTRYPOINT, found through the PATH of the image."""
        [name] = json.loads(self.last.last["ENTRYPOINT"])
        folder = self.path(self.last.env["PATH"].split(":")[0])
        return [str(folder / name)]

    def content(self) -> dict[str, tuple[int, int]]:
        stats = {str(file): file.lstat() for file in self.path("/opt/rotator").rglob("*")}
        return {file: (stat.st_size, stat.st_mtime_ns) for file, stat in stats.items()}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    made = Image(tmp_path_factory.mktemp("image"))
    shutil.rmtree(made.path("/opt/source"))  # what the last stage does not copy is not in the image
    shutil.rmtree(made.path("/opt/build"))
    shutil.rmtree(made.path("/opt/wheels"))
    return made


def without_rights(folder: Path) -> list[str]:
    """A prefix to a command that runs it in this folder, root without what lets root write everywhere."""
    drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    return [*drop, "env", f"--chdir={folder}"]


@pytest.mark.timeout(300)  # it downloads what the lock names
def test_the_image_runs_where_it_may_write_nothing(image: Image, tmp_path: Path) -> None:
    read_only = tmp_path / "nothing-can-be-written-here"
    read_only.mkdir(mode=0o555)
    for folder in (image.path("/opt/rotator"), *image.path("/opt/rotator").rglob("*/")):
        folder.chmod(0o555)
    prefix, before = without_rights(read_only), image.content()
    refused = subprocess.run(
        [*prefix, "touch", "file", image.path("/opt/rotator/file")], capture_output=True, check=False
    )
    assert refused.stderr.count(b"Permission denied") == 2  # so the rest of this test means something

    with installation(tmp_path) as rotator:
        rotator.program = [*prefix, *image.program]
        daemon = rotator.start()
        wait_until(lambda: daemon.get("/readyz").status_code == 200, "it to be ready")
        assert daemon.wait_for("started")["version"] == __version__
        daemon.wait_for("key_published", target="a")
        assert daemon.stop() == 0
    assert image.content() == before


def test_only_what_is_locked_and_needed_is_in_it(image: Image) -> None:
    packages = next(image.path("/opt/rotator/lib").glob("python3.*/site-packages"))
    found = {re.split(r"-\d", item.stem)[0].lower().replace("_", "-") for item in packages.glob("*.dist-info")}
    locked = set(re.findall(r"^([a-z][a-z0-9-]*)==", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    assert "vault-key-rotator" in found
    assert found - {"vault-key-rotator"} <= locked - UNUSED
    assert not {"pip", "setuptools", "hatchling"} & found
    assert not {"pygments", "markdown_it", "mdurl"} & {item.name for item in packages.iterdir()}
    assert sum(size for size, _ in image.content().values()) < LARGEST
    assert subprocess.run([*image.program, "--version"], capture_output=True, text=True, check=True).stdout.split() == [
        "rotator",
        __version__,
    ]


def test_rotator_needs_nothing_that_was_left_out(image: Image, tmp_path: Path) -> None:
    python = image.path("/opt/rotator/bin/python")
    subprocess.run([python, "-B", "-c", IMPORT_ALL], check=True, cwd=tmp_path)
    with installation(tmp_path) as rotator:
        rotator.program = image.program
        assert "rotated (first)" in rotator.at_a_terminal("rotate", "--all")  # below a bar
        assert "next rotation" in rotator.at_a_terminal("status")
        assert "published" in rotator.at_a_terminal("events")


def test_its_labels_are_those_of_the_package() -> None:
    *_, last = stages()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert last.arguments == ["BASE", "VERSION=unknown", "REVISION=unknown"]
    assert last.labels == {
        f"org.opencontainers.image.{name}": value
        for name, value in {
            "title": "rotator",
            "description": project["description"],
            "source": project["urls"]["Source"],
            "documentation": project["urls"]["Documentation"],
            "licenses": project["license"],
            "version": "${VERSION}",
            "revision": "${REVISION}",
            "base.name": "${BASE}",
        }.items()
    }


def test_it_runs_unprivileged_and_starts_the_daemon() -> None:
    *builders, last = stages()
    user, _, group = last.last["USER"].partition(":")
    assert int(user) > 0  # a number: Kubernetes cannot check that a name is not root
    assert int(group) > 0
    assert json.loads(last.last["ENTRYPOINT"]) == ["rotator"]
    assert json.loads(last.last["CMD"]) == ["run"]
    assert last.last["EXPOSE"] == "9465"
    assert {stage.base for stage in (*builders, last)} == {"python:3.11-slim"}
    assert [words for words, _ in last.steps] == ["COPY"]


def test_hadolint_accepts_the_dockerfile() -> None:
    done = subprocess.run([HADOLINT, DOCKERFILE], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_nothing_unpinned_is_installed() -> None:
    commands = [rest for stage in stages() for word, rest in stage.steps if word == "RUN"]
    installs = [part for command in commands for part in command.split("&&") if " install " in part]
    assert len(installs) == 3
    assert all("--require-hashes" in install or "--no-index" in install for install in installs)


def test_what_builds_it_is_pinned_as_for_development() -> None:
    def pins(file: str) -> set[str]:
        text = re.sub(r"^ *#.*\n", "", (ROOT / file).read_text(), flags=re.MULTILINE)
        return {match.strip() for match in LOCKED.findall(text)}

    ours = pins("deploy/requirements-build.txt")
    assert len(ours) >= 5
    # If this fails, `make lock` was run: copy the entries of these packages, and of what they need now, from there.
    assert ours <= pins("requirements-dev.txt")
