"""`check`: the configuration, and with `--online` what it needs from the providers and the stores."""

import typer

from rotator.cli import output
from rotator.cli.check import OnlineFinding, online_findings, present_locations
from rotator.cli.command import Common
from rotator.cli.context import Session
from rotator.cli.exit_status import DONE, NOT_ALL_DONE, NOTHING_TRIED, problem_json
from rotator.cli.streams import print_json, print_line
from rotator.cli.timetable import pauses, timetables
from rotator.telemetry.wording import count


def check_configuration(common: Common, *, online: bool, as_json: bool) -> None:
    """Check the configuration and print the findings."""
    with Session(common, "warning") as session:
        configuration = session.configuration
        targets, now = configuration.targets.values(), session.clock.now()
        findings: list[OnlineFinding] = []
        locations: dict[str, dict[str, str]] = {}
        if online:
            session.leave_half_of_the_budgets()  # a list may have many pages
            with session.progress("checking the paths", len(configuration.targets)) as advance:
                findings = online_findings(session.installation, advance)
            locations = present_locations(session.installation)
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
                    "findings": [output.finding_json(finding) for finding in findings],
                    "locations": locations,
                }
            )
        else:
            _print(common, session, findings, locations, online=online)
        if not findings:
            raise typer.Exit(DONE)
        raise typer.Exit(NOTHING_TRIED if any(finding.unreachable for finding in findings) else NOT_ALL_DONE)


def _print(
    common: Common,
    session: Session,
    findings: list[OnlineFinding],
    locations: dict[str, dict[str, str]],
    *,
    online: bool,
) -> None:
    configuration = session.configuration
    for warning in configuration.warnings:
        print_line(f"warning: {warning}")
    for load in configuration.loads:
        print_line(f"budget: {load}")
    for name, traits in configuration.traits.items():
        for limit in traits.limits:
            print_line(f"limit: {name}: {limit}")
    targets, now = configuration.targets.values(), session.clock.now()
    for one in timetables(targets, now):
        print_line(f"window: {one}")
    for until, number in pauses(targets, now).items():
        print_line(f"pause: {count(number, 'target')} until {until}")
    for name, location in locations.items():
        print_line(output.location_line(name, location))
    for finding in findings:
        print_line(f"{finding.where}: {finding.message}")
        if finding.advice:
            print_line(f"  {finding.advice}")
    counts = f"{count(len(configuration.targets), 'target')}, {count(len(configuration.warnings), 'warning')}"
    result = count(len(findings), "finding") if findings else "nothing wrong"
    scope = "; credentials, permissions and paths were checked" if online else ""
    print_line(f"{common.config}: {counts}, {result}{scope}")
