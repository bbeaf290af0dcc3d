"""The Typer application that the commands register with, and `--version`."""

from typing import Annotated

import typer

from rotator import __version__

app = typer.Typer(
    name="rotator",
    help="Rotate API keys of Respan and other LLM vendors in HashiCorp Vault.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,  # they print local variables, keys included
)


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
