"""What all commands share: their options, and how a failure or a signal ends them.

Nothing heavy is imported here: `--help` and `--version` need this module.
"""

import signal
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from rotator.cli.exit_status import print_failure, status_of, usage_error
from rotator.core.errors import RotatorError

LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Common:
    """The values of the options that every command takes."""

    config: Path
    log_format: LogFormat | None
    log_level: LogLevel | None
    url: str | None = None  # of a daemon to inform of what the command changed

    def start_logging(self, default_level: LogLevel) -> None:
        """Log to standard error, from `default_level` on unless the user chose a level."""
        from rotator.telemetry.logging import configure

        configure(self.log_format, self.log_level or default_level)


DEFAULT_CONFIG = Path("rotator.toml")

ConfigOption = Annotated[
    Path,
    typer.Option("--config", metavar="FILE", envvar="ROTATOR_CONFIG", help="The configuration file."),
]
LogFormatOption = Annotated[
    LogFormat | None,
    typer.Option(
        metavar="FORMAT",
        case_sensitive=False,
        envvar="ROTATOR_LOG_FORMAT",
        help="text or json. Default: text on a terminal, otherwise json.",
    ),
]
LogLevelOption = Annotated[
    LogLevel | None,
    typer.Option(
        metavar="LEVEL",
        case_sensitive=False,
        envvar="ROTATOR_LOG_LEVEL",
        help="debug, info, warning or error. Default: info for commands that change keys, otherwise warning.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
# Each command's text describes TARGET: Typer's list of arguments shows Python types.
TargetsArgument = Annotated[list[str] | None, typer.Argument(metavar="TARGET", hidden=True)]
RevokeNowOption = Annotated[
    bool,
    typer.Option(
        "--revoke-now", help="Revoke the old keys at once. Applications that still use them fail until they reload."
    ),
]
UrlOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        envvar="ROTATOR_URL",
        help="A running daemon's admin address. It shows the changes at once, and otherwise within [daemon].resync.",
    ),
]
AllOption = Annotated[bool, typer.Option("--all", help="Every configured target.")]


def _one_line(text: str) -> str:
    if len(text) > 200 or not text.isprintable():
        usage_error("--reason must be one line of at most 200 characters")
    return text


ReasonOption = Annotated[
    str,
    typer.Option("--reason", metavar="TEXT", help="Why, for the log.", callback=_one_line, show_default=False),
]


class Terminated(KeyboardInterrupt):
    """The process received SIGTERM."""


def stop_on_sigterm() -> None:
    """Stop on SIGTERM as on Ctrl-C: finish the work under way, and start nothing new."""

    def stop(_number: int, _frame: object) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, stop)


class Command(TyperCommand):
    """A command that ends every failure with a message and an exit status."""

    def collect_usage_pieces(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]  # Typer makes the context
        """Return "TARGET" where Typer writes a required argument as "{TARGET}"."""
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run the command."""
        try:
            return super().invoke(ctx)
        except RotatorError as error:
            print_failure(error, as_json=bool(ctx.params.get("as_json")))
            raise typer.Exit(status_of(error)) from None
        except KeyboardInterrupt as interrupt:
            from rotator.cli.streams import print_error

            print_error("rotator: stopped. Work under way was finished, and nothing new was started.")
            number = signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT
            raise typer.Exit(128 + number) from None


class SimulateCommand(Command):
    """`simulate`, whose help lists the switches of the simulator."""

    def get_help(self, ctx: typer.Context) -> str:  # type: ignore[override]
        """Return the help, with the switches at its end."""
        from rotator.simulator import described

        return "\n".join(
            [
                super().get_help(ctx),
                "",
                "Values of --set, the default first:",
                *wrap("  ".join(described()), 78, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False),
            ]
        )
