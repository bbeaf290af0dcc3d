"""`run`: the daemon, or one pass over everything that is due."""

import os
from dataclasses import asdict

import typer

from rotator import __version__
from rotator.app.passes import troubles
from rotator.cli import output
from rotator.cli.command import Common
from rotator.cli.context import Session
from rotator.cli.streams import print_line
from rotator.core.events import Event, EventType, Level
from rotator.core.request import SCHEDULED
from rotator.daemon.signals import SIGNALS
from rotator.runtime.clock import SystemClock
from rotator.telemetry.logging import log_event
from rotator.telemetry.metrics import Metrics


def run_daemon(common: Common) -> None:
    """Run the daemon until a signal stops it."""
    from rotator.daemon.main import Daemon  # APScheduler: `run --once` does without

    common.start_logging("info")
    Daemon(common.config, os.environ, SystemClock(), Metrics(__version__), log_event, SIGNALS).run()


def run_once(common: Common) -> None:
    """Do everything that is due now."""
    with Session(common, "info") as session:
        for warning in session.configuration.warnings:
            session.emit(Event(EventType.CONFIGURATION_WARNING, level=Level.WARNING, fields=asdict(warning)))
        targets, what = session.configuration.targets.values(), "rotating what is due"
        session.read_use(targets)  # into the memory that the passes plan with
        reports = {report.target.name: report for report in session.work(what, targets, SCHEDULED)}
        watches = session.installation.use_watches.values()
        if nearly_spent := [target for watch in watches for target in watch.look(lambda: False)]:
            reports |= {report.target.name: report for report in session.work(what, nearly_spent, SCHEDULED)}
        for report in reports.values():
            for event in troubles(report):
                session.emit(event)
        outcomes = [output.outcome(report) for report in reports.values()]
        words = ("rotated", "unchanged", "foreign", "failed")
        print_line(", ".join(f"{outcomes.count(word)} {word}" for word in words))
        raise typer.Exit(output.status_of_reports([*reports.values()]))
