"""`check --provider-contract`: a provider is held against the contract with one key of its own."""

from collections.abc import Sequence
from functools import partial

import typer

from rotator.cli.command import Common
from rotator.cli.context import Session
from rotator.cli.exit_status import DONE, NOT_ALL_DONE, NOTHING_TRIED, usage_error
from rotator.cli.streams import print_json, print_line
from rotator.config.values import quoted
from rotator.core.renewal import TIDYING
from rotator.runtime.redact import scrub_lines
from rotator.telemetry.wording import count, in_units
from rotator.testing.contract import CHECKS, Outcome, Result, hold
from rotator.testing.trial import LIFETIME, ContractBroken, Trial


def hold_provider(common: Common, name: str | None, *, online: bool, yes: bool, as_json: bool) -> None:
    """Create one key at this provider, hold the provider against the contract, and remove the key."""
    if name is None or online:
        usage_error("--yes belongs to --provider-contract, and --online does not go with that")
    with Session(common, "warning") as session:
        providers = session.configuration.providers
        if name not in providers:
            usage_error(f"--provider-contract must name a provider: {quoted(sorted(providers))}")
        if not yes:
            usage_error(
                f"--provider-contract creates one key at {name} ({providers[name].base_url}), which works for "
                f"{in_units(2 * LIFETIME)} at most, lists all keys, changes the expiry of that one key and "
                "removes it. Add --yes if that is right"
            )
        trial = _trial(session, name)
        results = []
        with session.progress("holding the provider against the contract", len(CHECKS)) as advance, trial:
            for result in hold(trial):
                results.append(result)
                advance()
        if as_json:
            checks = [_json(result) for result in results]
            print_json({"provider": name, "checks": checks, "left_behind": trial.left_behind})
        else:
            _print(name, trial, results)
        raise typer.Exit(_status(results, trial.left_behind))


def _trial(session: Session, name: str) -> Trial:
    """Return a trial whose key may do what the keys of a target may."""
    session.leave_half_of_the_budgets()
    installation = session.installation
    parameters = (target.parameters for target in installation.targets.values() if target.provider == name)
    return Trial(
        installation.providers[name],
        parameters=next(parameters, {}),
        before=partial(installation.budgets[name].take, TIDYING),
        sleep=session.clock.sleep,
    )


def _status(results: Sequence[Result], left_behind: Sequence[str]) -> int:
    if all(result.outcome is Outcome.KEPT for result in results) and not left_behind:
        return DONE
    error = results[-1].error
    is_out_of_reach = error is not None and not isinstance(error, ContractBroken) and error.nothing_tried
    return NOTHING_TRIED if is_out_of_reach and len(results) < len(CHECKS) // 2 else NOT_ALL_DONE


def _print(name: str, trial: Trial, results: Sequence[Result]) -> None:
    for result in results:
        print_line(f"{result.outcome}: {result.check}")
        for line in _error_lines(result):
            print_line(f"  {line}")
    for left in trial.left_behind:
        print_line(f"left behind: the key with the name {left}: delete it at the provider")
    counts = [
        f"{count(number, 'check')} {outcome}"
        for outcome in Outcome
        if (number := sum(result.outcome is outcome for result in results))
    ]
    print_line(f"{name}: {', '.join(counts)}")


def _error_lines(result: Result) -> list[str]:
    if result.error is None:
        return []
    if isinstance(result.error, ContractBroken):
        return [str(result.error)]
    return [line for line in (result.error.message, result.error.advice) if line]


def _json(result: Result) -> dict[str, str]:
    lines = _error_lines(result)
    error = {"error": scrub_lines(lines[0])} if lines else {}
    return {"check": result.check, "outcome": result.outcome, **error, **({"advice": lines[1]} if lines[1:] else {})}
