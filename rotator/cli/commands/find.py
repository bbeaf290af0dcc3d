"""`find`: which target holds a key, whether it still works, and its revocation."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import typer

from rotator.app.passes import in_threads
from rotator.cli import output
from rotator.cli.command import Common
from rotator.cli.commands.rotate import RevokedKeys
from rotator.cli.context import TRIES_AFTER_429, Session
from rotator.cli.exit_status import DONE, NOT_ALL_DONE, status_of_all
from rotator.cli.key_input import read_keys
from rotator.cli.streams import print_json, print_line
from rotator.core.errors import ProviderError, ProviderRateLimited, RotatorError, StoreError
from rotator.core.holding import Holding, holdings, is_dead
from rotator.core.request import RotationRequest
from rotator.core.target import Target
from rotator.core.times import timestamp
from rotator.protocol.reconciler import Report
from rotator.runtime.redact import scrub_lines, scrub_name
from rotator.telemetry.wording import count

Found = Mapping[int, Sequence[Holding]]
"""What holds the key of each line, by the line's number."""

Unread = Mapping[str, RotatorError]
"""Why the paths of these targets could not be searched."""

REVOKE = RotationRequest(revoke_now=True, by="command", comment="rotator find --revoke-now")


def find_keys(common: Common, *, revoke_now: bool, as_json: bool) -> None:
    """Find the keys of standard input."""
    with Session(common, "info" if revoke_now else "warning") as session:
        session.emit = revoked = RevokedKeys()
        keys = read_keys()  # held to the end: output hides them for as long as they live
        held, unread = _search(session, {key.fingerprint for key in keys.values()})
        reports = _revoke(session, held) if revoke_now else []
        if reports:
            held = _looked_at_again(session, held, reports, revoked)
        found = {line: [one for one in held if one.fingerprint == key.fingerprint] for line, key in keys.items()}
        now = session.clock.now()
        if as_json:
            passes = [output.report_json(report, revoked.keys[report.target.name]) for report in reports]
            print_json({**session.json(passes), **_found_json(found, unread, now)})
        else:
            for report in reports:
                for line in output.report_lines(report, revoked.keys[report.target.name]):
                    print_line(line)
            for line in _found_lines(found, unread, len(session.installation.targets), now, revoke_now=revoke_now):
                print_line(line)
        errors = [report.error for report in reports] + [one.error for one in held] + [*unread.values()]
        was_read = [None] * (len(session.installation.targets) - len(unread))
        if status := status_of_all([*errors, *was_read], changed=bool(reports)):
            raise typer.Exit(status)
        is_done = all(is_dead(one, now) if revoke_now else any(h.record for h in one) for one in found.values())
        left = any(output.outcome(report) == "foreign" for report in reports)
        raise typer.Exit(DONE if is_done and not left else NOT_ALL_DONE)


def _search(session: Session, fingerprints: Collection[str]) -> tuple[list[Holding], Unread]:
    """Read the history of each target once, and look up at the provider what was found."""
    targets = session.installation.targets

    def one(target: Target) -> tuple[str, list[Holding] | RotatorError]:
        try:
            observation = session.installation.observer(target).observe(target)
        except StoreError as error:
            return target.name, error
        return target.name, [_look_up(session, holding) for holding in holdings(observation, fingerprints)]

    results: dict[str, list[Holding] | RotatorError] = {}
    with session.progress("searching", len(targets)) as advance:
        for name, result in in_threads(
            session.configuration.daemon.workers, targets.values(), one, session.stop_waiting
        ):
            results[name] = result
            advance()
    held = [holding for name in targets if isinstance(found := results[name], list) for holding in found]
    return held, {name: error for name in targets if isinstance(error := results[name], RotatorError)}


def _look_up(session: Session, holding: Holding) -> Holding:
    """Look up the key at the provider, by the id in its record."""
    observer = session.installation.observer(holding.target)
    for _ in range(1 + TRIES_AFTER_429 if holding.record else 0):
        assert holding.record is not None  # noqa: S101 - for the type checker
        try:
            return holding.looked_up(observer.look_up(holding.observation, holding.record, observer.ports.budget))
        except ProviderError as error:
            holding = holding.looked_up(holding.observation, error)
            if not isinstance(error, ProviderRateLimited):
                break
    return holding


def _revoke(session: Session, held: Sequence[Holding]) -> list[Report]:
    """Revoke, as `rotate --revoke-now` does, the keys of the targets that hold one. Replace those that are served."""
    now = session.clock.now()
    ours = [one for one in held if one.is_ours and (one.is_current or one.works(now) is not False)]
    served = {one.target.name: one.target for one in ours if one.is_current}
    others = {one.target.name: one.target for one in ours if one.target.name not in served}
    reports = session.work("rotating", served.values(), replace(REVOKE, rotate=True))
    reports += session.work("revoking", others.values(), REVOKE)
    return session.revoke_the_rest(reports, REVOKE)


def _looked_at_again(
    session: Session, held: Sequence[Holding], reports: Sequence[Report], revoked: RevokedKeys
) -> list[Holding]:
    """Return what holds the keys after the revocation, and look up each key that was not deleted by it."""
    deleted = {(one.target.provider, key_id) for one in reports for key_id in revoked.keys[one.target.name]}
    again = []
    for one in held:
        if one.record is not None and (one.target.provider, one.record.key_id) in deleted:
            again.append(replace(one, is_revoked=True, error=None))
        else:
            again.append(one if one.works(session.clock.now()) is False else _look_up(session, one))
    return again


# --- what is printed -------------------------------------------------------------------------------------------------


def _found_json(found: Found, unread: Unread, now: datetime) -> dict[str, Any]:
    keys = [{"line": line, "found": [_holding_json(one, now) for one in held]} for line, held in found.items()]
    return {"keys": keys, "unread": {name: scrub_lines(error.message) for name, error in unread.items()}}


def _holding_json(holding: Holding, now: datetime) -> dict[str, Any]:
    until = holding.works_until
    return {
        "target": holding.target.name,
        "path": holding.target.path,
        "versions": list(holding.versions),
        "key_id": scrub_name(holding.record.key_id) if holding.record else None,
        "state": "current" if holding.is_current else "superseded",
        "ours": holding.is_ours,
        "works": holding.works(now),
        "until": timestamp(until) if until else None,
        "error": scrub_lines(holding.error.message) if holding.error else None,
    }


def _found_lines(found: Found, unread: Unread, targets: int, now: datetime, *, revoke_now: bool) -> Iterator[str]:
    for name, error in unread.items():
        yield from output.error_lines(f"{name}: not searched:", error)
    for line, held in found.items():
        for one in held:
            yield from _holding_lines(f"line {line}: {one.target.name}:", one, now)
        if not held:
            unless = f"; {count(len(unread), 'target')} could not be searched" if unread else ""
            yield f"line {line}: not found in any version of {count(targets - len(unread), 'target')}{unless}"
            yield (
                "  Its version may be destroyed, because its grace is over, or another program made the key. If it may "
                "work, look for it at the provider."
            )
        elif revoke_now and not is_dead(held, now):
            yield f"line {line}: not revoked"
            yield "  Correct what failed and run the command again, or delete the key at the provider."


def _holding_lines(what: str, holding: Holding, now: datetime) -> Iterator[str]:
    numbers = ", ".join(map(str, holding.versions))
    state = "current" if holding.is_current else "superseded"
    whose = "" if holding.is_ours else ", not written by rotator for this target"
    where = f"{what} {'version' if len(holding.versions) == 1 else 'versions'} {numbers} ({state}{whose})"
    if holding.record is None:
        yield f"{where}: no version of this path has the id of the key, so it is unknown whether the key works"
        return
    key = f"{where}: the key {holding.record.key_id}"
    if holding.error is not None:
        yield from output.error_lines(f"{key} could not be looked up:", holding.error)
        return
    yield f"{key} {_state_in_words(holding, now)}"
    if holding.other_name is not None and holding.is_ours:
        yield f"  Its name at the provider is not one for this path: {holding.other_name}"


def _state_in_words(holding: Holding, now: datetime) -> str:
    label, shown, until = holding.observation.traits.label, holding.shown, holding.works_until
    if holding.is_revoked:
        return "is revoked: it no longer works"
    if holding.is_unknown:
        return f"is so new that {label} may not show it yet: it most likely works"
    if shown is None:
        return f"no longer works: {label} does not have it"
    if shown.expires_by(now):
        return f"no longer works: it has expired at {label}"
    if until is None:
        return "works and never expires"
    return f"works until {timestamp(until)}" if until > now else "works, although its grace is over"
