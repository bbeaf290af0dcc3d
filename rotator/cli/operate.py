"""The commands for an installation, with their options and help: `run` to `find`.

A command imports its implementation when it runs, so that `--help` and `--version` start fast.
"""

from typing import Annotated

import typer

from rotator.cli.app import app
from rotator.cli.command import (
    DEFAULT_CONFIG,
    AllOption,
    Command,
    Common,
    ConfigOption,
    JsonOption,
    LogFormatOption,
    LogLevelOption,
    ReasonOption,
    RevokeNowOption,
    TargetsArgument,
    UrlOption,
)
from rotator.cli.exit_status import usage_error
from rotator.core.request import RotationRequest


@app.command(cls=Command)
def run(
    once: Annotated[bool, typer.Option("--once", help="Do all that is due now, open no port, and exit.")] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    log_format: LogFormatOption = None,
    log_level: LogLevelOption = None,
) -> None:
    """Run the daemon: rotate each key before it expires.

    Signals: TERM or INT finishes the work under way and stops; a second one stops at once. HUP reloads the
    configuration and reads every path again. USR1 rotates every target now.

    \b
    Example: rotator run --config /etc/rotator/rotator.toml
    """
    from rotator.cli.commands.run import run_daemon, run_once

    common = Common(config, log_format, log_level)
    run_once(common) if once else run_daemon(common)


@app.command(cls=Command)
def rotate(
    targets: TargetsArgument = None,
    every: AllOption = False,
    revoke_now: RevokeNowOption = False,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Take over a path that holds data rotator did not write.")
    ] = False,
    reason: ReasonOption = "",
    url: UrlOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
    log_format: LogFormatOption = None,
    log_level: LogLevelOption = None,
) -> None:
    """Give targets a new key now. Old keys keep working for their grace period.

    TARGET is the name of a target, or a pattern such as 'billing-*'. Name one or more, or use --all.

    Large runs use at most half of the provider's rate limit, so that a running daemon can keep rotating. With
    --revoke-now they use all of it.

    \b
    Example: rotator rotate billing-api --reason "the key was in a screenshot" --revoke-now
    """
    from rotator.cli.commands.rotate import rotate_targets

    request = RotationRequest(rotate=True, revoke_now=revoke_now, adopt=adopt, by="command", comment=reason)
    rotate_targets(Common(config, log_format, log_level, url), targets, request, every=every, as_json=as_json)


@app.command(cls=Command)
def rollback(
    target: Annotated[str, typer.Argument(metavar="TARGET", hidden=True)],
    reason: ReasonOption = "",
    url: UrlOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    log_format: LogFormatOption = None,
    log_level: LogLevelOption = None,
) -> None:
    """Serve a target's previous key again, if that key still works.

    TARGET is the name of a target. If the previous key does not work, nothing changes.

    \b
    Example: rotator rollback billing-api
    """
    from rotator.cli.commands.rotate import roll_back_target

    roll_back_target(Common(config, log_format, log_level, url), target, reason)


@app.command(cls=Command)
def extend(
    lifetime: Annotated[str, typer.Option("--for", metavar="DURATION", help='New lifetime from now on, as "24h".')],
    targets: TargetsArgument = None,
    every: AllOption = False,
    by_name: Annotated[
        bool,
        typer.Option(
            "--by-name",
            help="If the store cannot be read: also extend keys whose names show only the first 8 letters of the "
            "owner.",
        ),
    ] = False,
    reason: ReasonOption = "",
    url: UrlOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    log_format: LogFormatOption = None,
    log_level: LogLevelOption = None,
) -> None:
    """Break glass: extend the lives of keys while the store is down.

    TARGET is the name of a target, or a pattern such as 'billing-*'. Name one or more, or use --all.

    Extends every unexpired key of the targets, found by the provider's list alone, in the order of their expiry. Use
    it when the store cannot be written for a long time. Once it can be, the daemon replaces the keys as usual. If the
    store uses $VAULT_TOKEN, the variable must be set; any text will do.

    Without the store, rotator recognises a key by its name, which shows 8 letters of the owner. Keys that may belong
    to another installation with a similar owner are listed and left alone. --by-name confirms that they are yours.

    \b
    Example: rotator extend --all --for 24h
    """
    from rotator.cli.commands.extend import extend_keys

    common = Common(config, log_format, log_level, url)
    extend_keys(common, lifetime, targets, every=every, by_name=by_name, reason=reason)


@app.command(cls=Command)
def plan(
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit with 4 if anything is due or drifted.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
    log_format: LogFormatOption = None,
    log_level: LogLevelOption = None,
) -> None:
    """Show what rotator would do now. Changes nothing.

    \b
    Example: rotator plan --exit-code
    """
    from rotator.cli.commands.look import show_plan

    show_plan(Common(config, log_format, log_level), exit_code=exit_code, as_json=as_json)


@app.command(cls=Command)
def status(
    url: Annotated[str | None, typer.Option(metavar="URL", help="Ask a running daemon at its admin address.")] = None,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
    log_format: LogFormatOption = None,
    log_level: LogLevelOption = None,
) -> None:
    """Show the state of each target, worst first.

    Exits with 4 if any target is failing, foreign, missing, spent or unknown.
    Reads the store. With --url it asks a running daemon, which also knows recent errors and events.

    \b
    Example: rotator status --url http://127.0.0.1:9466
    """
    from rotator.cli.commands.look import show_status

    show_status(Common(config, log_format, log_level), url, as_json=as_json)


@app.command(cls=Command)
def check(
    online: Annotated[bool, typer.Option("--online", help="Also check credentials, rights, paths, webhooks.")] = False,
    provider_contract: Annotated[
        str | None, typer.Option(metavar="NAME", help="Hold this provider against the contract, with a key of its own.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Let --provider-contract create its key.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
    log_format: LogFormatOption = None,
    log_level: LogLevelOption = None,
) -> None:
    """Check the configuration. Changes nothing, except with --provider-contract.

    With --online also check what it needs from the providers and the stores: credentials, permissions, paths.

    \b
    Example: rotator check --online
    """
    common = Common(config, log_format, log_level)
    if provider_contract is None and not yes:
        from rotator.cli.commands.check import check_configuration

        check_configuration(common, online=online, as_json=as_json)
        return
    from rotator.cli.commands.contract import hold_provider

    hold_provider(common, provider_contract, online=online, yes=yes, as_json=as_json)


@app.command(cls=Command)
def sweep(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done. Change nothing.")] = False,
    max_orphans: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="NUMBER",
            help="If there are more orphans, change none of them. Default: [sweep].max_orphans.",
        ),
    ] = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
    log_format: LogFormatOption = None,
    log_level: LogLevelOption = None,
) -> None:
    """Find orphaned keys and let them expire.

    An orphan is a key of a configured target that no version holds. It expires after a grace period. Served keys that
    the provider no longer has are replaced. Other keys are reported and never touched.

    \b
    Example: rotator sweep --dry-run
    """
    from rotator.cli.commands.sweep import sweep_keys

    sweep_keys(Common(config, log_format, log_level, url), dry_run=dry_run, max_orphans=max_orphans, as_json=as_json)


@app.command(cls=Command, context_settings={"allow_extra_args": True})  # else Typer prints them, as unexpected
def find(
    context: typer.Context,
    revoke_now: RevokeNowOption = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
    log_format: LogFormatOption = None,
    log_level: LogLevelOption = None,
) -> None:
    """Find the target of a leaked key.

    Reads up to 100 keys from standard input, one a line. Shows the target and the version of each, and whether it
    works. Exits with 1 if a key is in no version or could not be revoked.

    --revoke-now works as in `rotate`: it also revokes all old keys of the target. A key that is served is replaced.

    \b
    Example: rotator find --revoke-now < leaked-keys.txt
    """
    if context.args:
        usage_error("find takes no argument, which others could read in the list of processes: write the keys to stdin")
    from rotator.cli.commands.find import find_keys

    find_keys(Common(config, log_format, log_level, url), revoke_now=revoke_now, as_json=as_json)


@app.command(cls=Command)
def events(
    targets: TargetsArgument = None,
    since: Annotated[str, typer.Option("--since", metavar="DURATION", help='How far back, as "24h".')] = "24h",
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
    log_format: LogFormatOption = None,
    log_level: LogLevelOption = None,
) -> None:
    """Show what happened to the keys of each target. Changes nothing.

    TARGET is the name of a target, or a pattern such as 'billing-*'. Default: every target.

    Reads the version histories and the providers' lists, oldest event first. ">=" precedes the earliest possible time
    of an event without a date. The log has more: who asked for a key, and each change of an expiry.

    \b
    Example: rotator events --since 24h
    """
    from rotator.cli.commands.events import show_events

    show_events(Common(config, log_format, log_level), targets, since, as_json=as_json)
