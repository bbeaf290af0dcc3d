"""The workflows of the public repository, which have not run: their syntax, their pins and their rights."""

import re
import subprocess
from pathlib import Path

import pytest

from tools.build_servers import ACTIONLINT

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def named(file: Path) -> str:
    return file.name


def test_actionlint_accepts_them() -> None:
    program = ACTIONLINT.find()
    if not program:
        pytest.skip("no actionlint: put it on PATH, or install Go and run `make servers`")
    done = subprocess.run((program, *WORKFLOWS), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("file", WORKFLOWS, ids=named)
def test_every_action_is_pinned_by_a_commit(file: Path) -> None:
    uses = re.findall(r"(?m)^\s*(?:- )?uses: (.*)$", file.read_text())
    pinned = r"(?:[\w-]+/[\w-]+@[0-9a-f]{40}  # v[\d.]+|\./\.github/workflows/\w+\.yml)"
    assert [each for each in uses if not re.fullmatch(pinned, each)] == []


@pytest.mark.parametrize("file", WORKFLOWS, ids=named)
def test_each_may_only_read_unless_a_job_asks_for_more(file: Path) -> None:
    assert re.search(r"(?m)^permissions:\n  contents: read\n\n", file.read_text())


@pytest.mark.parametrize("file", WORKFLOWS, ids=named)
def test_each_states_that_it_has_not_run(file: Path) -> None:
    assert file.read_text().startswith("# Linted, and never run yet: ")


def test_no_workflow_was_forgotten() -> None:
    assert {file.name for file in WORKFLOWS} == {"ci.yml", "image.yml", "publish.yml", "release.yml"}
