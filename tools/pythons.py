"""Runs the unit tests on each Python that rotator supports and this machine has (`make test-pythons`).

A Python is found by its name on PATH (`python3.12`), or below pyenv's folder. It must have ensurepip, which is
in a package of its own on Debian: another Python's pip may be too old for it. Each has an environment in
`.venv/pythons` with the locked requirements for the tests, and then an empty one, into which the wheel is installed as
users install it.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SUPPORTED = ("3.11", "3.12", "3.13", "3.14")
ENVIRONMENTS = ROOT / ".venv/pythons"


def find(version: str) -> str | None:
    """Return a Python of this version. A shim on PATH may start none."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    candidates = (shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}.*/bin/python"), reverse=True))
    return next((str(candidate) for candidate in candidates if candidate and version_of(candidate) == version), None)


def version_of(python: str | Path) -> str:
    """Return the version of an interpreter, or "" if it does not start or has no ensurepip."""
    code = "import ensurepip, sys; print(*sys.version_info[:2], sep='.')"
    return subprocess.run((python, "-c", code), capture_output=True, text=True, check=False).stdout.strip()


def environment(python: str, folder: Path) -> tuple[str | Path, ...]:
    """Make an environment, and return the command that installs into it."""
    subprocess.run((python, "-m", "venv", "--clear", folder), check=True)
    return (folder / "bin/python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet")


def passes_tests(python: str, folder: Path) -> bool:
    """Run the unit tests on this interpreter."""
    install = environment(python, folder)
    subprocess.run((*install, "--require-hashes", "-r", "requirements-dev.txt"), cwd=ROOT, check=True)
    subprocess.run((*install, "--no-deps", "--no-build-isolation", "-e", "."), cwd=ROOT, check=True)
    tests = (folder / "bin/python", "-m", "pytest", "-n", "auto", "-p", "no:cacheprovider", "-q", "tests/unit")
    return subprocess.run(tests, cwd=ROOT, check=False).returncode == 0


def runs_from_the_wheel(python: str, folder: Path) -> bool:
    """Install the wheel into an empty environment, and ask the command for its version."""
    install = environment(python, folder)
    wheels = folder / "wheels"
    subprocess.run((sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", wheels), cwd=ROOT, check=True)
    subprocess.run((*install, *wheels.glob("*.whl")), cwd=ROOT, check=True)
    return subprocess.run((folder / "bin/rotator", "--version"), cwd=folder, check=False).returncode == 0


def main() -> int:
    """Run the unit tests on each Python in turn. Return 1 if a test failed anywhere, or no Python was found."""
    results = {}
    for version in SUPPORTED:
        python = find(version)
        if python:
            print(f"Python {version}: {python}", flush=True)
            passed = runs_from_the_wheel(python, ENVIRONMENTS / f"{version}-wheel") and passes_tests(
                python, ENVIRONMENTS / version
            )
            results[version] = "passed" if passed else "failed"
    for version in SUPPORTED:
        print(f"Python {version}: {results.get(version, 'not found, or without ensurepip')}")
    return 0 if results and "failed" not in results.values() else 1


if __name__ == "__main__":
    sys.exit(main())
