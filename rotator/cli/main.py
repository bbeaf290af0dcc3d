"""The command line: every command with its options and its help.

A command imports its implementation when it runs, so that `--help` and `--version` start fast.
Exit status: 0 done; 1 something could not be done; 2 usage or configuration; 3 provider or store unreachable or
refused, so that nothing could be tried; 4 as the command's help describes; 130 after SIGINT; 143 after SIGTERM.
"""

import resource
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, NoReturn

import typer

from rotator import __version__
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
    SimulateCommand,
    TargetsArgument,
)
from rotator.cli.exit_status import ATTENTION, DONE, NOT_ALL_DONE
from rotator.core.request import RotationRequest

app = typer.Typer(
    name="rotator",
    help="Rotate API keys of Respan and other LLM vendors in HashiCorp Vault.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,  # they print local variables, keys included
)


def _command(name: str | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return app.command(name, cls=Command)


def main() -> None:
    """Run the console script. No core dump ever holds a key."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    execute()


def execute(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command: by default the one of this process. Exit with its status.

    A result that could not be written turns a status of success into 1.
    """
    from rotator.cli import streams

    streams.reset()
    status: str | int | None = None
    try:
        app(arguments, prog_name="rotator")
    except SystemExit as ended:
        status = ended.code
    except OSError as error:  # of what Typer and rich print
        streams.fail(error)
    if (failure := streams.failure()) is not None:
        if not isinstance(failure, BrokenPipeError):  # the reader closed the pipe on purpose
            streams.print_error(f"rotator: standard output cannot be written: {failure.strerror}")
        status = NOT_ALL_DONE if status in (None, DONE, ATTENTION) else status
    sys.exit(status)


@_command()
def run(
    once: Annotated[bool, typer.Option("--once", help="Do all that is due now, open no port, and exit.")] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    log_format: LogFormatOption = None,
    log_level: LogLevelOption = None,
) -> None:
    """Run the daemon: rotate each key before it expires.

    Signals: TERM or INT finishes the work under way and stops; a second one stops at once. HUP reloads the
    configuration. USR1 rotates every target now.

    \b
    Example: rotator run --config /etc/rotator/rotator.toml
    """
    from rotator.cli.commands.run import run_daemon, run_once

    common = Common(config, log_format, log_level)
    run_once(common) if once else run_daemon(common)


@_command()
def rotate(
    targets: TargetsArgument = None,
    every: AllOption = False,
    revoke_now: RevokeNowOption = False,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Take over a path that holds data rotator did not write.")
    ] = False,
    reason: ReasonOption = "",
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
    log_format: LogFormatOption = None,
    log_level: LogLevelOption = None,
) -> None:
    """Give targets a new key now. Old keys keep working for their grace period.

    TARGET is the name of a target. Name one or more, or use --all.

    Large runs use at most half of the provider's rate limit, so that a running daemon can keep rotating. With
    --revoke-now they use all of it.

    \b
    Example: rotator rotate billing-api --reason "the key was in a screenshot" --revoke-now
    """
    from rotator.cli.commands.rotate import rotate_targets

    request = RotationRequest(rotate=True, revoke_now=revoke_now, adopt=adopt, by="command", comment=reason)
    rotate_targets(Common(config, log_format, log_level), targets, request, every=every, as_json=as_json)


@_command()
def rollback(
    target: Annotated[str, typer.Argument(metavar="TARGET", hidden=True)],
    reason: ReasonOption = "",
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

    roll_back_target(Common(config, log_format, log_level), target, reason)


@_command()
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
    config: ConfigOption = DEFAULT_CONFIG,
    log_format: LogFormatOption = None,
    log_level: LogLevelOption = None,
) -> None:
    """Break glass: extend the lives of keys while the store is down.

    TARGET is the name of a target. Name one or more, or use --all.

    Extends every unexpired key of the targets, found by the provider's list alone, in the order of their expiry. Use
    it when the store cannot be written for a long time. Once it can be, the daemon replaces the keys as usual. If the
    store uses $VAULT_TOKEN, the variable must be set; any text will do.

    Without the store, rotator recognises a key by its name, which shows 8 letters of the owner. Keys that may belong
    to another installation with a similar owner are listed and left alone. --by-name confirms that they are yours.

    \b
    Example: rotator extend --all --for 24h
    """
    from rotator.cli.commands.extend import extend_keys

    extend_keys(Common(config, log_format, log_level), lifetime, targets, every=every, by_name=by_name, reason=reason)


@_command()
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


@_command()
def status(
    url: Annotated[str | None, typer.Option(metavar="URL", help="Ask a running daemon at its admin address.")] = None,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
    log_format: LogFormatOption = None,
    log_level: LogLevelOption = None,
) -> None:
    """Show the state of each target, worst first.

    Exits with 4 if any target is failing, foreign, missing or unknown.
    Reads the store. With --url it asks a running daemon, which also knows recent errors and events.

    \b
    Example: rotator status --url http://127.0.0.1:9466
    """
    from rotator.cli.commands.look import show_status

    show_status(Common(config, log_format, log_level), url, as_json=as_json)


@_command()
def check(
    online: Annotated[bool, typer.Option("--online", help="Also check credentials, permissions and paths.")] = False,
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


@_command()
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

    sweep_keys(Common(config, log_format, log_level), dry_run=dry_run, max_orphans=max_orphans, as_json=as_json)


@_command()
def find(
    revoke_now: RevokeNowOption = False,
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
    from rotator.cli.commands.find import find_keys

    find_keys(Common(config, log_format, log_level), revoke_now=revoke_now, as_json=as_json)


@_command()
def demo(
    vault: Annotated[bool, typer.Option("--vault", help="Keep the keys in the Vault of $VAULT_ADDR.")] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    log_format: LogFormatOption = None,
    log_level: LogLevelOption = None,
) -> None:
    """Watch keys being rotated for 40 seconds.

    The provider is the simulator and the keys are short-lived. A live table shows what happens. Nothing is left
    behind.

    With --vault, the token in $VAULT_TOKEN needs create, read and update on secret/data/rotator-demo-*, read and delete
    on secret/metadata/rotator-demo-*, and update on secret/destroy/rotator-demo-*.

    \b
    Example: rotator demo
    """
    from rotator.cli.commands.simulated import run_demo

    run_demo(Common(config, log_format, log_level), vault=vault)


@app.command(cls=SimulateCommand)
def simulate(
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="PORT", help="The port to listen on; 0 takes a free one.")
    ] = 8765,
    switches: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            show_default=False,
            help="How Respan behaves where its documents disagree; see below. May be repeated.",
        ),
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    log_format: LogFormatOption = None,
    log_level: LogLevelOption = None,
) -> None:
    """Run the Respan simulator until it is stopped.

    Faults are requested over HTTP from this machine: see docs/simulator.md.

    \b
    Example: rotator simulate --port 8765 --set list_shape=array --set auth_status=403
    """
    from rotator.cli.commands.simulated import run_simulator

    run_simulator(Common(config, log_format, log_level), port, switches or ())


@_command()
def schema(
    config: ConfigOption = DEFAULT_CONFIG,
    log_format: LogFormatOption = None,
    log_level: LogLevelOption = None,
) -> None:
    """Print the JSON Schema of the configuration.

    \b
    Example: rotator schema > config.schema.json
    """
    from rotator.cli.streams import print_json
    from rotator.config.json_schema import json_schema
    from rotator.providers.registry import installed_types

    Common(config, log_format, log_level).start_logging("warning")
    print_json(json_schema(installed_types()))


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rotator {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass
