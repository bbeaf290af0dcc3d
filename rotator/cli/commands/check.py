"""`check`: the configuration, and with `--online` what it needs from the providers and the stores."""

from collections.abc import Iterator
from datetime import datetime

import typer

from rotator.cli import output
from rotator.cli.check import OnlineCheck, check_online
from rotator.cli.command import Common
from rotator.cli.context import Session
from rotator.cli.exit_status import DONE, NOT_ALL_DONE, NOTHING_TRIED, problem_json
from rotator.cli.streams import print_json, print_line
from rotator.cli.timetable import pauses, timetables
from rotator.config.loader import Configuration
from rotator.runtime.redact import printable
from rotator.telemetry.wording import count


def check_configuration(common: Common, *, online: bool, as_json: bool) -> None:
    """Check the configuration and print the findings."""
    with Session(common, "warning") as session:
        configuration = session.configuration
        targets, now = configuration.targets.values(), session.clock.now()
        found = OnlineCheck()
        if online:
            session.leave_half_of_the_budgets()  # a list may have many pages
            with session.progress("checking the paths", len(configuration.targets)) as advance:
                found = check_online(session.installation, advance)
        if as_json:
            print_json(
                {
                    "file": str(common.config),
                    "targets": len(configuration.targets),
                    "problems": [],
                    "warnings": [problem_json(warning) for warning in configuration.warnings],
                    "budgets": [output.load_json(load) for load in configuration.loads],
                    "limits": {name: list(traits.limits) for name, traits in configuration.traits.items()},
                    "windows": [one.to_json() for one in timetables(targets, now)],
                    "paused": pauses(targets, now),
                    "findings": [output.finding_json(finding) for finding in found.findings],
                    "locations": found.locations,
                    "shows_use": found.shows_use,
                    "pickups": [pickup.to_json() for pickup in found.pickups],
                }
            )
        else:
            _print(common, session, found, online=online)
        if not found.findings:
            raise typer.Exit(DONE)
        raise typer.Exit(NOTHING_TRIED if any(finding.unreachable for finding in found.findings) else NOT_ALL_DONE)


def _print(common: Common, session: Session, found: OnlineCheck, *, online: bool) -> None:
    configuration = session.configuration
    for line in (*_configuration_lines(configuration, session.clock.now()), *_online_lines(configuration, found)):
        print_line(line)
    counts = f"{count(len(configuration.targets), 'target')}, {count(len(configuration.warnings), 'warning')}"
    result = count(len(found.findings), "finding") if found.findings else "nothing wrong"
    scope = "; credentials, permissions and paths were checked" if online else ""
    print_line(f"{common.config}: {counts}, {result}{scope}")


def _configuration_lines(configuration: Configuration, now: datetime) -> Iterator[str]:
    for warning in configuration.warnings:
        yield f"warning: {warning}"
    for load in configuration.loads:
        yield f"budget: {load}"
    for name, traits in configuration.traits.items():
        for limit in traits.limits:
            yield f"limit: {name}: {limit}"
    targets = configuration.targets.values()
    for one in timetables(targets, now):
        yield f"window: {one}"
    for until, number in pauses(targets, now).items():
        yield f"pause: {count(number, 'target')} until {until}"


def _online_lines(configuration: Configuration, found: OnlineCheck) -> Iterator[str]:
    for name, location in found.locations.items():
        yield output.location_line(name, location)
    capped = {target.provider for target in configuration.targets.values() if target.caps.caps}
    for name, shows in found.shows_use.items():
        if name in capped:
            yield f"use: {name}: its list {'shows' if shows else 'does not show'} what keys have used of their caps"
    for pickup in found.pickups:
        yield printable(f"pickup: {pickup}")
    for finding in found.findings:
        yield f"{finding.where}: {finding.message}"
        if finding.advice:
            yield f"  {finding.advice}"
