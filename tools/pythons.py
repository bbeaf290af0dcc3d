"""Runs the unit tests on each Python that rotator supports and this machine has (`make test-pythons`).

A Python is found by its name on PATH (`python3.12`), or below pyenv's folder. Each has an environment of its own in
`.venv/pythons`, with the locked requirements.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SUPPORTED = ("3.11", "3.12", "3.13", "3.14")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


def find(version: str) -> str | None:
    """Return a Python of this version. A shim on PATH may start none."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    candidates = (shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}.*/bin/python"), reverse=True))
    return next((str(candidate) for candidate in candidates if candidate and version_of(candidate) == version), None)


def version_of(python: str | Path) -> str:
    """Return the version of an interpreter, or "" if it does not start."""
    code = "import sys; print(*sys.version_info[:2], sep='.')"
    return subprocess.run((python, "-c", code), capture_output=True, text=True, check=False).stdout.strip()


def run_tests(python: str, version: str) -> int:
    """Run the unit tests on this interpreter, and return pytest's exit status."""
    environment = ROOT / ".venv/pythons" / version
    # Debian's interpreters have no ensurepip: the environment gets no pip, and ours installs into it.
    subprocess.run((python, "-m", "venv", "--without-pip", environment), check=True)
    install = (*PIP, "--python", environment, "install", "--quiet")
    subprocess.run((*install, "--require-hashes", "-r", "requirements-dev.txt"), cwd=ROOT, check=True)
    subprocess.run((*install, "--no-deps", "--no-build-isolation", "-e", "."), cwd=ROOT, check=True)
    tests = (environment / "bin/python", "-m", "pytest", "-n", "auto", "-p", "no:cacheprovider", "-q", "tests/unit")
    return subprocess.run(tests, cwd=ROOT, check=False).returncode


def main() -> int:
    """Run the unit tests on each Python in turn. Return 1 if a test failed anywhere, or no Python was found."""
    results = {}
    for version in SUPPORTED:
        python = find(version)
        if python:
            print(f"Python {version}: {python}", flush=True)
            results[version] = "failed" if run_tests(python, version) else "passed"
    for version in SUPPORTED:
        print(f"Python {version}: {results.get(version, 'not found')}")
    return 0 if results and "failed" not in results.values() else 1


if __name__ == "__main__":
    sys.exit(main())
