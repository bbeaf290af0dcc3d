"""What the commands print: tables on a terminal, plain lines in a pipe, JSON where it was asked for.

Nothing is decided here. Results go to standard output, everything else (logs, progress, errors) to standard error.
"""

import contextlib
import errno
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from rotator.app.passes import adoption_advice, served
from rotator.cli.check import OnlineFinding
from rotator.config.provider_load import ProviderLoad
from rotator.core.errors import ConfigurationError, Problem, RotatorError
from rotator.core.keys import ProviderKey
from rotator.core.orphans import Orphan, OrphanState, Outcome
from rotator.core.plan import Action, Reason, Retire, Rotate, SetExpiry, State
from rotator.core.times import timestamp
from rotator.protocol.extend import ExtendableKey
from rotator.protocol.reconciler import Report
from rotator.protocol.sweeper import SweepReport
from rotator.runtime.redact import printable, scrub_lines, scrub_name
from rotator.telemetry.log_writer import Stderr
from rotator.telemetry.status import TargetStatus
from rotator.telemetry.wording import count, in_words


class Stdout(io.TextIOWrapper):
    """Standard output, which writes each line at once. What it does not take is lost: no work stops half-way for it."""

    lost: OSError | None = None  # why something could not be written

    def write(self, text: str) -> int:
        """Write it, or note why that cannot be."""
        try:
            return super().write(text)
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        """Write what is left, or note why that cannot be."""
        try:
            super().flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        self.lost = self.lost or error
        with contextlib.suppress(OSError, ValueError):  # what cannot be written goes nowhere from now on
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())


class NoStdout(io.TextIOBase):
    """Stands for a standard output that was closed before we began."""

    lost = OSError(errno.EBADF, os.strerror(errno.EBADF))

    def write(self, text: str) -> int:
        """Lose it."""
        return len(text)


def lost() -> OSError | None:
    """Why standard output did not take all that was written to it; None where it did."""
    return sys.stdout.lost if isinstance(sys.stdout, Stdout | NoStdout) else None


def take_stdout() -> None:
    """Have the process's standard output be one of the above."""
    if sys.stdout is None:
        sys.stdout = NoStdout()
    elif isinstance(sys.stdout, io.TextIOWrapper):
        encoding, errors = sys.stdout.encoding, sys.stdout.errors
        sys.stdout = Stdout(sys.stdout.detach(), encoding, errors, line_buffering=True)


def say(line: str) -> None:
    """One line of a command's result; what others wrote in it (a key's id, a vendor's error) commands no terminal.

    Nor does it tell a secret: somebody may answer with what he was sent.
    """
    sys.stdout.write(scrub_lines(line) + "\n")


def complain(line: str) -> None:
    """One line for a person, beside the result, if there is anywhere to write it."""
    with contextlib.suppress(OSError):
        Stderr().write(scrub_lines(line) + "\n")


def say_json(value: Any) -> None:
    """A command's result for a program, as it is: an id that looks like a token must reach it whole.

    So what is in it must be safe: ids by `scrub_name`, what others wrote by `scrub_lines`, each as a value of its own.
    """
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def say_row(cells: Iterable[str]) -> None:
    """One line of a result for a program that reads lines; what holds for `say_json` holds here."""
    sys.stdout.write("\t".join(map(printable, cells)) + "\n")


def failure_json(error: RotatorError) -> dict[str, Any]:
    """What a program is told where there is nothing else to tell."""
    if isinstance(error, ConfigurationError):
        return {"problems": [problem_json(problem) for problem in error.problems]}
    return {"error": scrub_lines(error.message), **({"advice": error.advice} if error.advice else {})}


def problem_json(problem: Problem) -> dict[str, Any]:
    """For `check --json`: what is wrong with a configuration, and where, or what may surprise."""
    return {**asdict(problem), "message": scrub_lines(problem.message)}


def load_json(load: ProviderLoad) -> dict[str, Any]:
    """For `check --json`: what a provider is asked for, in requests a minute."""
    return {
        "provider": load.provider,
        "targets": load.targets,
        "requests_per_minute": load.requests_per_minute,
        "rotations": round(load.rotations, 3),
        "sweeps": round(load.sweeps, 3),
        "needed": round(load.needed, 3),
        "share": round(load.share, 4),
    }


def location_line(store: str, location: Mapping[str, str]) -> str:
    """For `check --online`: where a store's secrets are, as one would write it in TOML after a move."""
    entry = ", ".join(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in location.items())
    return f"stores.{store}: after a move from here: former_locations = [{{ {entry} }}]"


def finding_json(finding: OnlineFinding) -> dict[str, Any]:
    """For `check --online --json`."""
    advice = {"advice": finding.advice} if finding.advice else {}
    return {"where": finding.where, "message": scrub_lines(finding.message), **advice}


# --- one line a target -----------------------------------------------------------------------------------------------


def plan_json(status: TargetStatus) -> dict[str, Any]:
    """For `plan --json`: the status, and what would be done now."""
    actions = status.plan.actions if status.plan else ()
    return {**status.to_json(), "actions": [_action_json(action) for action in actions]}


def _action_json(action: Action) -> dict[str, Any]:
    match action:
        case Rotate():
            return {"action": "rotate", "reason": action.reason.value}
        case SetExpiry():
            verb = "restore" if action.reason is Reason.RESTORED else "shorten"
            facts = {"key_id": scrub_name(action.record.key_id), "until": timestamp(action.until)}
            return {"action": verb, "reason": action.reason.value, **facts}
        case Retire():
            return {"action": "remove", "reason": action.reason.value, "key_id": scrub_name(action.key.key_id)}


def plan_lines(status: TargetStatus) -> Iterator[str]:
    """For `plan`: what would be done to one target, and when it is due next."""
    name, made = status.target.name, status.plan
    if status.error is not None:
        yield f"{name}: not known: {status.error.message}"
        if status.error.advice:
            yield f"  {status.error.advice}"
    if made is None:
        return
    if made.state is State.FOREIGN and not made.actions:
        yield f"{name}: left alone: {status.target.path} holds data that is not ours ({made.reason})"
        yield f"  {adoption_advice(status.target)}"
    for action in made.actions:
        yield f"{name}: {in_words(action)}"
    if not made.actions and made.next_rotation_at is not None and status.error is None:
        yield f"{name}: nothing to do; next rotation at {timestamp(made.next_rotation_at)}"
    for record in made.untrusted:
        left = f"the key {record.key_id} is left alone"
        yield f"{name}: {left}: the provider knows it under a name that is not this path's"


def outcome(report: Report) -> str:
    """In one word, what came of a pass."""
    if report.error is not None:
        return "failed"
    if report.plan is not None and report.plan.state is State.FOREIGN:
        return "foreign"
    if report.rotated:
        return "rotated"
    return "rolled-back" if report.rolled_back else "lost" if report.attempted else "unchanged"


def report_json(report: Report, revoked: Sequence[str] = ()) -> dict[str, Any]:
    """For `rotate --json` and `sweep --json`: the status after the pass, and what came of it."""
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
    """What a pass did, until when the old key works, and what went wrong, for a person."""
    yield from _what_came(report)
    for key_id in revoked:
        yield f"  the old key {key_id} is revoked: it does not work any more"


def _what_came(report: Report) -> Iterator[str]:
    name, made = report.target.name, report.plan
    word = outcome(report)
    if word == "foreign" and made is not None:
        yield f"{name}: left alone: {report.target.path} holds data that is not ours ({made.reason})"
        yield f"  {adoption_advice(report.target)}"
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
    key = f"key {made.current.key_id}, until {timestamp(made.current.expires_at)}"
    if word == "rotated":
        yield f"{name}: rotated ({report.attempted}): {key}"
    elif word == "rolled-back":
        yield f"{name}: rolled back: {key}"
    elif word == "lost":
        yield f"{name}: another writer was first and its key is served: {key}"
    else:
        yield f"{name}: {'put right' if report.tidied else 'nothing to do'}: {key}"
    for old in made.superseded:
        works = f"works until {timestamp(until)}" if (until := old.works_until) else "never expires"
        yield f"  the old key {old.key_id} {works}"


def extension_lines(one: ExtendableKey, ends: datetime | RotatorError) -> Iterator[str]:
    """For `extend`: when one key expires now, or why it could not be extended."""
    error = ends if isinstance(ends, RotatorError) else None
    became = (
        f"could not be extended: {ends.message}" if isinstance(ends, RotatorError) else f"lives until {timestamp(ends)}"
    )
    guess = " (told by its name's slugs alone: the store could not be read)" if one.by_slug else ""
    yield f"{one.target.name}: the key {one.key.id} {became}{guess}"  # "token: tk_…" would be taken for a secret
    if error and error.advice:
        yield f"  {error.advice}"


def left_lines(target: str, error: RotatorError) -> Iterator[str]:
    """For `extend`: why keys that may be this target's are left as they are."""
    yield f"{target}: not extended: {error.message}"
    if error.advice:
        yield f"  {error.advice}"


# --- a sweep ---------------------------------------------------------------------------------------------------------


def sweep_json(swept: SweepReport) -> dict[str, Any]:
    """For `sweep --json`: one provider's part."""
    errors = {name: scrub_lines(error.message) for name, error in swept.failed.items()}
    return {
        "provider": swept.provider,
        "listed": swept.listed,
        "orphans": [
            {
                "target": orphan.target.name,
                **_key_json(orphan.key),
                "fate": orphan.state.value,
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
    """For `sweep`: what was found at one provider, and what was done about it or would be."""
    for orphan in swept.orphans:
        became = _became(orphan, dry_run=swept.dry_run)
        yield f"{orphan.target.name}: orphan {orphan.key.id} ({orphan.key.name}) {became}"
    for key in swept.unclaimed:
        yield f"{swept.provider}: {key.id} ({key.name}) is of no configured target: left alone, {_end(key.expires_at)}"
    for key in swept.unclear:
        whose = "of no configured target, or of another installation whose owner begins with the same letters"
        yield f"{swept.provider}: {key.id} ({key.name}) is {whose}: left alone, {_end(key.expires_at)}"
    for target in swept.unknown:
        yield f"{target.name}: {swept.provider} does not know the served key: left alone"
    for name, error in swept.failed.items():
        yield f"{name}: not swept: {error.message}"
        if error.advice:
            yield f"  {error.advice}"
    if swept.error is not None:
        yield f"{swept.provider}: {swept.error.message}"
        if swept.error.advice:
            yield f"  {swept.error.advice}"
    if swept.listed or swept.error is None:
        found = f"{count(len(swept.orphans), 'orphan')}, {len(swept.unclaimed)} of no configured target"
        yield f"{swept.provider}: {count(swept.listed, 'key')} listed, {found}, {swept.others} of others"


def _became(orphan: Orphan, *, dry_run: bool) -> str:
    match orphan.outcome:
        case Outcome.SHORTENED:
            return f"is let end: {_end(orphan.until)}"
        case Outcome.REMOVED:
            return "is removed: its time was over"
        case Outcome.HELD:
            return f"is left alone, {_end(orphan.key.expires_at)}"
        case Outcome.FAILED:
            return "could not be let end; the next sweep tries again"
        case Outcome.LEFT:
            pass
    match orphan.state:
        case OrphanState.SETTLING:
            return "is so young that it may still be on its way: left alone"
        case OrphanState.EMPTIED:
            return (
                "was made for a path that is absent now (emptied?): it expires after a grace period once that has a key"
            )
        case OrphanState.ENDING:
            return f"{_end(orphan.key.expires_at)} by itself"
        case _ if not dry_run:
            return "is left alone: its path changed meanwhile; the next sweep looks again"
        case OrphanState.OVER:
            return "has ended: its record would be removed"
        case OrphanState.TO_SHORTEN:
            fence = ", after the served data was written once more" if orphan.ahead else ""
            return f"would be let end after a grace period{fence}"


def _end(moment: datetime | None) -> str:
    return f"it ends at {timestamp(moment)}" if moment else "it never ends"
