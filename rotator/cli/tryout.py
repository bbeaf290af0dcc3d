"""The commands that need no installation: `demo`, `simulate` and `schema`. They import like those of `operate`."""

from typing import Annotated

import typer

from rotator.cli.app import app
from rotator.cli.command import (
    DEFAULT_CONFIG,
    Command,
    Common,
    ConfigOption,
    LogFormatOption,
    LogLevelOption,
    SimulateCommand,
)


@app.command(cls=Command)
def demo(
    vault: Annotated[bool, typer.Option("--vault", help="Keep the keys in the Vault of $VAULT_ADDR.")] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    log_format: LogFormatOption = None,
    log_level: LogLevelOption = None,
) -> None:
    """Watch keys being rotated for 40 seconds.

    The provider is the simulator and the keys are short-lived. One is replaced because its cap is nearly spent. A live
    table shows what happens. Nothing is left behind.

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


@app.command(cls=Command)
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
