"""`extend`: longer lives for keys by the provider's list alone."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import typer

from rotator.cli import output
from rotator.cli.command import Common
from rotator.cli.context import Session
from rotator.cli.exit_status import print_failure, status_of_all, usage_error
from rotator.cli.streams import print_line
from rotator.config.values import parse_duration
from rotator.core.errors import ProviderError, RotatorError
from rotator.core.keys import ListedKey
from rotator.core.target import Target
from rotator.core.times import timestamp
from rotator.protocol.extend import ExtendableKey, extendable, misnamed
from rotator.protocol.observer import list_keys

Lists = Mapping[str, Sequence[ListedKey] | None]
"""Each provider's keys by its name; None: they could not be listed."""

Errors = list[RotatorError | None]
"""An error for each key or target that was not extended, and None for each one that was."""


def extend_keys(
    common: Common,
    lifetime: str,
    targets: Sequence[str] | None,
    *,
    every: bool,
    by_name: bool,
    reason: str,
) -> None:
    """Extend the keys of the chosen targets."""
    try:
        duration = parse_duration(lifetime)
    except ValueError as error:
        usage_error(f"--for: {error}")
    with Session(common, "info") as session:
        chosen = session.chosen(targets, every)
        lists, errors = _lists(session, chosen)
        # The provider enforces the expiry, so its time counts where it contradicts this clock.
        until = (session.clock.now() - session.clock.disputed_by() + duration).replace(microsecond=0)
        found = _keys_to_extend(session, chosen, lists, errors, until, by_name=by_name)
        with session.progress("extending", len(found)) as advance:
            for one in sorted(found, key=lambda one: one.key.expires_at or until):
                result = one.extend(until, reason)
                errors.append(result if isinstance(result, RotatorError) else None)
                for line in output.extension_lines(one, result):
                    print_line(line)
                advance()
        for observer, group in session.installation.groups(chosen):
            keys = lists[group[0].provider] or ()
            _print_left(misnamed(observer, keys, group, until), errors)
        raise typer.Exit(status_of_all(errors, changed=any(error is None for error in errors)))


def _lists(session: Session, chosen: Sequence[Target]) -> tuple[Lists, Errors]:
    """List each provider's keys once."""
    errors: Errors = []
    lists: dict[str, Sequence[ListedKey] | None] = {}
    with session.progress("listing the keys for targets", len(chosen)) as advance:
        for observer, group in session.installation.groups(chosen):
            provider = group[0].provider
            if provider not in lists:
                lists[provider] = None
                try:
                    lists[provider] = list_keys(observer.ports)
                except ProviderError as error:
                    errors.append(error)
                    print_failure(error)
            for _ in group:
                advance()
    return lists, errors


def _keys_to_extend(
    session: Session, chosen: Sequence[Target], lists: Lists, errors: Errors, until: datetime, *, by_name: bool
) -> list[ExtendableKey]:
    """Return the keys to extend. Print the targets that have none, and add to `errors` for each of these."""
    found: list[ExtendableKey] = []
    for observer, group in session.installation.groups(chosen):
        keys = lists[group[0].provider]
        if keys is None:
            continue
        ours, left = extendable(observer, keys, group, until, by_name=by_name)
        found += ours
        _print_left(left, errors)
        for name in sorted({target.name for target in group} - {one.target.name for one in ours} - left.keys()):
            print_line(f"{name}: no key expires before {timestamp(until)}")
            errors.append(None)
    return found


def _print_left(left: Mapping[str, RotatorError], errors: Errors) -> None:
    """Print why keys of these targets are left alone, and add to `errors`."""
    for name, error in left.items():
        errors.append(error)
        for line in output.error_lines(f"{name}: not extended:", error):
            print_line(line)
