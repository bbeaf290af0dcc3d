"""Fixtures that many tests use, and CI's rule that nothing is skipped unnoticed."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import astuple
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import support.jupyterhub as hubs
import support.vault as vaults
from support.jupyterhub import JupyterHub
from support.leaks import RECORDER, Leak
from support.recorded_events import RecordedEvents, flaws_of_lines
from support.vault import RaftVault, VaultServer

from tools.build_servers import JUPYTERHUB

pytest.register_assert_rewrite("support.rotating")
signal.signal(
    signal.SIGINT, signal.default_int_handler
)  # a shell's background job ignores it, and its children would inherit that
hypothesis.settings.register_profile("patient", deadline=None)  # no test fails because the machine is busy
hypothesis.settings.load_profile("patient")


@pytest.fixture(scope="session")
def vault() -> Iterator[VaultServer]:
    """A real Vault, shared by all tests: take a mount of your own from it."""
    if vaults.ADDRESS_VARIABLE not in os.environ and not vaults.find_vault():
        pytest.skip(vaults.NO_VAULT)
    with vaults.dev_vault() as server:
        yield server


@pytest.fixture(scope="module")
def raft_vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], RaftVault]]:
    """Return a function that starts a real Vault for a test to break; all stop at the end of the module."""
    if not vaults.find_vault():
        pytest.skip(vaults.NO_VAULT)
    with ExitStack() as stack:
        yield lambda: stack.enter_context(vaults.raft_vault(tmp_path_factory.mktemp("raft-vault")))


@pytest.fixture(scope="session")
def jupyterhub() -> Iterator[JupyterHub]:
    """A real JupyterHub, shared by all tests: take a user of your own from it, and leave it running."""
    if not JUPYTERHUB.find():
        pytest.skip(hubs.NO_JUPYTERHUB)
    with hubs.jupyterhub() as hub:
        yield hub


LEAKS = pytest.StashKey[list[Leak]]()
FLAWS = pytest.StashKey[list[str]]()
WORKERS_LEAKS: list[Leak] = []
WORKERS_FLAWS: set[str] = set()


def unexpected_skips(config: pytest.Config) -> list[str]:
    """Return the skipped tests that CI does not allow; none outside CI."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") != "true" or reporter is None:
        return []
    lines = (Path(__file__).parent / "allowed-skips.txt").read_text().splitlines()
    allowed = {line.partition("#")[0].strip() for line in lines}
    return [report.nodeid for report in reporter.stats.get("skipped", []) if report.nodeid not in allowed]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Collect what one of pytest-xdist's workers found; a worker that crashed reports nothing, and its test fails."""
    found = getattr(node, "workeroutput", {})
    WORKERS_LEAKS.extend(Leak(*leak) for leak in found.get("leaks", ()))
    WORKERS_FLAWS.update(found.get("flaws", ()))


def pytest_sessionfinish(session: pytest.Session) -> None:
    leaks = [*RECORDER.scan(), *WORKERS_LEAKS]  # by now every process of the tests has ended
    flaws = sorted(WORKERS_FLAWS.union(RecordedEvents.all_flaws, flaws_of_lines(text for _, text in RECORDER.texts)))
    session.config.stash[LEAKS], session.config.stash[FLAWS] = leaks, flaws
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output.update(leaks=[astuple(leak) for leak in leaks], flaws=flaws)
    if leaks or flaws or unexpected_skips(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if skips := unexpected_skips(config):
        terminalreporter.section("CI does not allow these skips (tests/allowed-skips.txt)", red=True)
        for nodeid in skips:
            terminalreporter.line(nodeid)
    if flaws := config.stash.get(FLAWS, []):
        terminalreporter.section("events differ from tools/event_catalogue.py", red=True)
        for flaw in flaws:
            terminalreporter.line(flaw)
    if leaks := config.stash.get(LEAKS, []):
        terminalreporter.section("secrets were found in rotator's output", red=True)
        for leak in leaks:
            terminalreporter.line(f"{leak.source}: {leak.kind}, after {leak.around!r}")
