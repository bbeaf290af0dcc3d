"""Turns the results of the commands into lines for people and into JSON. Decides nothing."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from rotator.app.passes import adoption_advice, lifetime, served
from rotator.cli.check import OnlineFinding
from rotator.cli.exit_status import DONE, NOT_ALL_DONE, status_of_all
from rotator.config.provider_load import ProviderLoad
from rotator.core.errors import RotatorError
from rotator.core.keys import ProviderKey
from rotator.core.orphans import Orphan, OrphanState, Outcome
from rotator.core.plan import Action, Plan, Retire, Rotate, SetExpiry
from rotator.core.reasons import EARLY_HOLDS, Reason, State
from rotator.core.target import Target
from rotator.core.times import timestamp
from rotator.protocol.extend import ExtendableKey
from rotator.protocol.reconciler import Report
from rotator.protocol.sweeper import SweepReport
from rotator.runtime.redact import scrub_lines, scrub_name
from rotator.telemetry.status import TargetStatus
from rotator.telemetry.wording import count, in_words, use_in_words, verb_of


def error_lines(what: str, error: RotatorError) -> Iterator[str]:
    """Yield what failed and why, and the advice below it."""
    yield f"{what} {error.message}"
    if error.advice:
        yield f"  {error.advice}"


def load_json(load: ProviderLoad) -> dict[str, Any]:
    """Return the planned use of a provider's rate limit, in requests a minute, for `check --json`."""
    return {
        "provider": load.provider,
        "targets": load.targets,
        "requests_per_minute": load.requests_per_minute,
        "rotations": round(load.rotations, 3),
        "sweeps": round(load.sweeps, 3),
        "extensions": round(load.extensions, 3),
        "needed": round(load.needed, 3),
        "share": round(load.share, 4),
    }


def location_line(store: str, location: Mapping[str, str]) -> str:
    """Return where a store's secrets are, as the TOML to add after they move."""
    entry = ", ".join(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in location.items())
    return f"stores.{store}: after a move, add: former_locations = [{{ {entry} }}]"


def finding_json(finding: OnlineFinding) -> dict[str, Any]:
    """Return a finding, for `check --online --json`."""
    advice = {"advice": finding.advice} if finding.advice else {}
    return {"where": finding.where, "message": scrub_lines(finding.message), **advice}


# --- one target ------------------------------------------------------------------------------------------------------


def plan_json(status: TargetStatus) -> dict[str, Any]:
    """Return the status and the actions that are due, for `plan --json`."""
    actions = status.plan.actions if status.plan else ()
    return {**status.to_json(), "actions": [_action_json(action) for action in actions]}


def _action_json(action: Action) -> dict[str, Any]:
    match action:
        case Rotate():
            return {"action": "rotate", "reason": action.reason.value}
        case SetExpiry():
            facts = {"key_id": scrub_name(action.record.key_id), "until": timestamp(action.until)}
            return {"action": verb_of(action), "reason": action.reason.value, **facts}
        case Retire():
            return {"action": "remove", "reason": action.reason.value, "key_id": scrub_name(action.key.key_id)}


_WAITS = {Reason.WINDOW: "due, but waits for its window", Reason.PAUSED: "due, but paused"}


def plan_lines(status: TargetStatus) -> Iterator[str]:
    """Yield what would be done to one target, and when its next rotation is due."""
    name, made = status.target.name, status.plan
    if status.error is not None:
        yield from error_lines(f"{name}: unknown:", status.error)
    if made is None:
        return
    if made.state is State.FOREIGN and not made.actions:
        yield from _foreign_lines(status.target, made)
    if made.use and made.is_nearly_spent:
        yield f"{name}: {use_in_words(made.use.ratio, made.use.cap.option, made.use.spent_at)}"
    if made.reason in EARLY_HOLDS:
        yield f"{name}: not replaced early ({made.reason})"
    for action in made.actions:
        yield f"{name}: {in_words(action)}"
    if not made.actions and made.next_rotation_at is not None and status.error is None:
        window = f", {status.window}" if status.window else ""
        what = _WAITS.get(made.reason, "nothing to do")
        yield f"{name}: {what}; next rotation at {timestamp(made.next_rotation_at)}{window}"
    for record in made.untrusted:
        yield f"{name}: the key {record.key_id} is left alone: its name at the provider is not one of this path"


def _foreign_lines(target: Target, plan: Plan) -> Iterator[str]:
    yield f"{target.name}: left alone: {target.path} holds data that is not ours ({plan.reason})"
    yield f"  {adoption_advice(target, plan.reason)}"


def outcome(report: Report) -> str:
    """Return the outcome of a pass in one word."""
    if report.error is not None:
        return "failed"
    if report.plan is not None and report.plan.state is State.FOREIGN:
        return "foreign"
    if report.rotated:
        return "rotated"
    return "rolled-back" if report.rolled_back else "lost" if report.attempted else "unchanged"


def status_of_reports(reports: Sequence[Report]) -> int:
    """Return the exit status of a command that made these passes."""
    errors = [report.error for report in reports]
    if status := status_of_all(errors, changed=any(report.rotated or report.rolled_back for report in reports)):
        return status
    return NOT_ALL_DONE if any(outcome(report) == "foreign" for report in reports) else DONE


def report_json(report: Report, revoked: Sequence[str] = ()) -> dict[str, Any]:
    """Return the status after a pass and its outcome, for `rotate --json` and `sweep --json`."""
    shown = TargetStatus(report.target, report.plan, report.error).to_json()
    advice = report.error.advice if report.error else ""
    return {
        **shown,
        "outcome": outcome(report),
        "attempted": report.attempted.value if report.attempted else None,
        "revoked": [scrub_name(key_id) for key_id in revoked],
        **({"advice": advice} if advice else {}),
    }


def report_lines(report: Report, revoked: Sequence[str] = ()) -> Iterator[str]:
    """Yield what a pass did, until when the old key works, and what failed."""
    yield from _outcome_lines(report)
    for key_id in revoked:
        yield f"  the old key {key_id} is revoked: it no longer works"


def _outcome_lines(report: Report) -> Iterator[str]:
    name, made = report.target.name, report.plan
    word = outcome(report)
    if word == "foreign" and made is not None:
        yield from _foreign_lines(report.target, made)
        return
    if report.error is not None:
        done = "rotated, but" if report.rotated else "rolled back, but" if report.rolled_back else "failed:"
        yield f"{name}: {done} {report.error.message}"
        yield f"  the applications have {served(made)}"
        if report.error.advice:
            yield f"  {report.error.advice}"
        return
    if made is None or made.current is None:
        return
    key = f"key {made.current.key_id}, {lifetime(made.current, made)}"
    if word == "rotated":
        yield f"{name}: rotated ({report.attempted}): {key}"
        if report.attempted is Reason.ADOPTED:
            yield "  rotator revokes no key of others: revoke the one that was here at the provider, once it is unused"
    elif word == "rolled-back":
        yield f"{name}: rolled back: {key}"
    elif word == "lost":
        yield f"{name}: another writer published first, and its key is served: {key}"
    else:
        yield f"{name}: {'fixed' if report.tidied else 'nothing to do'}: {key}"
    for old in made.superseded:
        works = f"works until {timestamp(until)}" if (until := old.works_until) else "never expires"
        yield f"  the old key {old.key_id} {works}"


def extension_lines(one: ExtendableKey, result: datetime | RotatorError) -> Iterator[str]:
    """Yield when an extended key expires now, or why it could not be extended."""
    guess = " (recognised by its name alone: the store could not be read)" if one.by_slug else ""
    key = f"{one.target.name}: the key {one.key.id}"  # "token: tk_..." would be taken for a secret
    if isinstance(result, RotatorError):
        yield from error_lines(f"{key}{guess} could not be extended:", result)
    else:
        yield f"{key}{guess} works until {timestamp(result)}"


# --- a sweep ---------------------------------------------------------------------------------------------------------


def sweep_json(swept: SweepReport) -> dict[str, Any]:
    """Return one provider's part of `sweep --json`."""
    errors = {name: scrub_lines(error.message) for name, error in swept.failed.items()}
    return {
        "provider": swept.provider,
        "listed": swept.listed,
        "orphans": [
            {
                "target": orphan.target.name,
                **_key_json(orphan.key),
                "state": orphan.state.value,
                "outcome": orphan.outcome.value,
                "until": timestamp(orphan.until) if orphan.until else None,
            }
            for orphan in swept.orphans
        ],
        "unclaimed": [_key_json(key) for key in swept.unclaimed],
        "unclear": [_key_json(key) for key in swept.unclear],
        "others": swept.others,
        "unknown": [target.name for target in swept.unknown],
        "failed": errors,
        "error": scrub_lines(swept.error.message) if swept.error else None,
    }


def _key_json(key: ProviderKey) -> dict[str, Any]:
    return {
        "key_id": scrub_name(key.id),
        "key_name": scrub_name(key.name),
        "expires_at": timestamp(key.expires_at) if key.expires_at else None,
    }


def sweep_lines(swept: SweepReport) -> Iterator[str]:
    """Yield what a sweep found at one provider, and what it did or would do."""
    for orphan in swept.orphans:
        happens = _what_happens(orphan, dry_run=swept.dry_run)
        yield f"{orphan.target.name}: orphan {orphan.key.id} ({orphan.key.name}) {happens}"
    for key in swept.unclaimed:
        yield f"{swept.provider}: {key.id} ({key.name}) has no configured target: left alone; it {_expires(key)}"
    for key in swept.unclear:
        whose = "has no configured target, or belongs to another installation with a similar owner"
        yield f"{swept.provider}: {key.id} ({key.name}) {whose}: left alone; it {_expires(key)}"
    for target in swept.unknown:
        yield f"{target.name}: {swept.provider} does not know the served key: left alone"
    for name, error in swept.failed.items():
        yield from error_lines(f"{name}: not swept:", error)
    if swept.error is not None:
        yield from error_lines(f"{swept.provider}:", swept.error)
    if swept.listed or swept.error is None:
        found = f"{count(len(swept.orphans), 'orphan')}, {len(swept.unclaimed)} without a configured target"
        yield f"{swept.provider}: {count(swept.listed, 'key')} listed, {found}, {swept.others} of others"


_LEFT_ALONE = {
    OrphanState.SETTLING: "is so young that it may still be published: left alone",
    OrphanState.EMPTIED: "belongs to a path that is absent (emptied?): it expires a grace period after the path has a "
    "key",
}


def _what_happens(orphan: Orphan, *, dry_run: bool) -> str:
    match orphan.outcome:
        case Outcome.SHORTENED:
            return f"expires at {timestamp(orphan.until)}" if orphan.until else "never expires"
        case Outcome.REMOVED:
            return "is deleted: its grace period is over"
        case Outcome.HELD:
            return f"is left alone; it {_expires(orphan.key)}"
        case Outcome.FAILED:
            return "could not be shortened or deleted; the next sweep tries again"
    if orphan.state in _LEFT_ALONE:
        return _LEFT_ALONE[orphan.state]
    if orphan.state is OrphanState.ENDING:
        return _expires(orphan.key)
    if orphan.state is OrphanState.IN_GRACE and orphan.until:
        return f"is deleted when its grace period is over, at {timestamp(orphan.until)}"
    if not dry_run:
        return "is left alone: its path changed meanwhile; the next sweep looks again"
    return _what_would_happen(orphan)


def _what_would_happen(orphan: Orphan) -> str:
    if orphan.state is OrphanState.OVER:
        return "has expired: its record would be deleted"
    if orphan.state is OrphanState.GRACE_OVER:
        return "would be deleted: its grace period is over"
    fence = ", after a fence (the served data is written again)" if orphan.ahead else ""
    ends = "be deleted" if orphan.state is OrphanState.TO_FENCE else "expire"
    return f"would {ends} after a grace period{fence}"


def _expires(key: ProviderKey) -> str:
    return f"expires at {timestamp(key.expires_at)}" if key.expires_at else "never expires"
