"""`plan` and `status`: the state of each target. They change nothing."""

from collections.abc import Collection

import typer

from rotator.cli import output
from rotator.cli.command import Common
from rotator.cli.context import Session
from rotator.cli.exit_status import ATTENTION, DONE, NOTHING_TRIED, print_failure, status_of_all
from rotator.cli.remote import ask
from rotator.cli.status_table import print_status
from rotator.cli.streams import print_error, print_json, print_line
from rotator.core.target import Target
from rotator.telemetry.status import UNHEALTHY, status_model, with_unenforced
from rotator.telemetry.status_json import StatusJson


def show_plan(common: Common, *, exit_code: bool, as_json: bool) -> None:
    """Print what would be done now."""
    with Session(common, "warning", as_daemon=True) as session:
        session.leave_half_of_the_budgets()  # each superseded key costs a request
        targets = _targets(session)
        statuses = session.look(targets, confirm=True, use=session.read_use(targets))
        if as_json:
            print_json(session.json([output.plan_json(status) for status in statuses]))
        else:
            for status in statuses:
                for line in output.plan_lines(status):
                    print_line(line)
        if failed := status_of_all([status.error for status in statuses], changed=False):
            raise typer.Exit(failed)
        due = any(status.plan and status.plan.actions for status in statuses)
        raise typer.Exit(ATTENTION if exit_code and due else DONE)


def show_status(common: Common, url: str | None, *, as_json: bool) -> None:
    """Print the state of each target, from the store or from the daemon at `url`."""
    shown = ask(url) if url is not None else _from_the_stores(common, as_json=as_json)
    print_status(shown, as_json=as_json)
    failing = any(target.state in UNHEALTHY for target in shown.targets)
    raise typer.Exit(ATTENTION if failing else DONE)


def _targets(session: Session) -> Collection[Target]:
    """Return all targets. Their absence is printed: an empty result would look as if all were well."""
    targets = session.configuration.targets.values()
    if not targets:
        print_error(f"no target is configured in {session.configuration.file}")
    return targets


def _from_the_stores(common: Common, *, as_json: bool) -> StatusJson:
    with Session(common, "warning", as_daemon=True) as session:
        session.leave_half_of_the_budgets()  # the use of keys with caps costs a list
        targets = _targets(session)
        looked = session.look(targets, confirm=False, use=session.read_use(targets))
        now = session.clock.now()
        statuses = [with_unenforced(status, now) for status in looked]
        shown = status_model(session.configuration.owner, now, statuses)
        if status_of_all([status.error for status in statuses], changed=False) == NOTHING_TRIED:
            if as_json:
                print_json(shown.to_json())
            for error in {status.error.message: status.error for status in statuses if status.error}.values():
                print_failure(error)
            raise typer.Exit(NOTHING_TRIED)
        return shown
