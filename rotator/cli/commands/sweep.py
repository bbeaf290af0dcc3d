"""`sweep`: finds orphaned keys, and served keys that the provider does not have."""

from collections.abc import Sequence

import typer

from rotator.cli import output
from rotator.cli.command import Common
from rotator.cli.context import Session
from rotator.cli.exit_status import status_of_all
from rotator.cli.streams import print_json, print_line
from rotator.core.errors import ProviderError, RotatorError
from rotator.core.orphans import Outcome
from rotator.core.request import RotationRequest
from rotator.protocol.sweeper import SweepReport


def sweep_keys(common: Common, *, dry_run: bool, max_orphans: int | None, as_json: bool) -> None:
    """Sweep the keys of all providers, then work on the targets whose served key is gone or wrong."""
    with Session(common, "warning" if dry_run else "info") as session:
        results = session.sweep(dry_run=dry_run, max_orphans=max_orphans)
        to_work = [target for result in results for target in result.to_work]
        errors = _errors(session, results)
        changed = any(orphan.outcome in (Outcome.SHORTENED, Outcome.REMOVED) for r in results for orphan in r.orphans)
        if dry_run:
            statuses = session.look(to_work, confirm=True)
            shown = [output.plan_json(status) for status in statuses]
            lines = [line for status in statuses for line in output.plan_lines(status)]
            errors += [status.error for status in statuses]
        else:
            reports = session.work("replacing and restoring", to_work, RotationRequest(by="command"))
            shown = [output.report_json(report) for report in reports]
            lines = [line for report in reports for line in output.report_lines(report)]
            errors += [report.error for report in reports]
            changed = changed or any(report.rotated for report in reports)
        if as_json:
            print_json({**session.json(shown), "providers": [output.sweep_json(result) for result in results]})
        else:
            for line in [line for result in results for line in output.sweep_lines(result)] + lines:
                print_line(line)
        raise typer.Exit(status_of_all(errors, changed=changed))


def _errors(session: Session, results: Sequence[SweepReport]) -> list[RotatorError | None]:
    """Return the error of each provider and target; None for each target that was swept."""
    errors: list[RotatorError | None] = []
    for result in results:
        failed = list(result.failed.values())
        targets = sum(target.provider == result.provider for target in session.installation.targets.values())
        swept = 0 if isinstance(result.error, ProviderError) else targets - len(failed)
        errors += [*([result.error] if result.error else []), *failed, *[None] * swept]
    return errors
