"""`rotate` and `rollback`: another key for chosen targets, now."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import typer

from rotator.cli import output
from rotator.cli.command import Common
from rotator.cli.context import Session
from rotator.cli.streams import print_error, print_json, print_line
from rotator.core.events import Event, EventType
from rotator.core.reasons import Reason
from rotator.core.request import RotationRequest
from rotator.protocol.reconciler import Report
from rotator.protocol.rollback import roll_back
from rotator.protocol.rotation import UNPUBLISHED
from rotator.telemetry.logging import log_event
from rotator.telemetry.wording import count


class RevokedKeys:
    """Logs events, and collects the ids of the keys that were revoked, by target: the last plan has them no longer."""

    def __init__(self) -> None:
        self.keys: defaultdict[str, list[str]] = defaultdict(list)

    def __call__(self, event: Event) -> None:
        """Log it."""
        log_event(event)
        if event.what is not EventType.KEY_DELETED:
            return
        if event.fields["reason"] == Reason.REVOKED:
            self.keys[event.target].append(str(event.fields["key_id"]))
        if event.fields["reason"] == UNPUBLISHED:  # the pass may have reported an unknown outcome
            print_error(f"{event.target}: the unused key {event.fields['key_id']} was found and deleted")


def rotate_targets(
    common: Common, targets: Sequence[str] | None, request: RotationRequest, *, every: bool, as_json: bool
) -> None:
    """Rotate the chosen targets."""
    with Session(common, "info") as session:
        session.emit = revoked = RevokedKeys()
        chosen = session.chosen(targets, every)
        if not request.revoke_now and (every or session.is_long(chosen)):
            session.leave_half_of_the_budgets()
        try:
            reports = session.work("rotating", chosen, request)
            if request.revoke_now:
                reports = session.revoke_the_rest(reports, request)
        except KeyboardInterrupt:
            reports = [session.reports[target.name] for target in chosen if target.name in session.reports]
            _print(session, reports, revoked.keys, as_json=as_json, stopped_of=len(chosen))
            raise
        _print(session, reports, revoked.keys, as_json=as_json)
        if request.revoke_now and any(report.error for report in reports):
            print_error("rotator: not every old key is revoked. Correct what failed, and run the command again")
        raise typer.Exit(output.status_of_reports(reports))


def roll_back_target(common: Common, name: str, reason: str) -> None:
    """Serve the target's previous key again."""
    with Session(common, "info") as session:
        target = session.target(name)
        report = roll_back(
            session.installation.reconciler(target), target, RotationRequest(by="command", comment=reason)
        )
        _print(session, [report], {}, as_json=False)
        raise typer.Exit(output.status_of_reports([report]))


def _print(
    session: Session,
    reports: Sequence[Report],
    revoked: Mapping[str, Sequence[str]],
    *,
    as_json: bool,
    stopped_of: int | None = None,
) -> None:
    """Print the outcome of each target; `stopped_of`: of how many, if the command was stopped."""
    if as_json:
        shown = [output.report_json(report, revoked.get(report.target.name, ())) for report in reports]
        print_json({**session.json(shown), **({} if stopped_of is None else {"stopped": True})})
        return
    for report in reports:
        for line in output.report_lines(report, revoked.get(report.target.name, ())):
            print_line(line)
    if stopped_of is not None:
        print_line(f"stopped: {len(reports)} of {count(stopped_of, 'target')} done; the others are unchanged")
