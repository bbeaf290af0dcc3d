"""`demo` and `simulate`: rotator and the Respan simulator without an outside service."""

import contextlib
import os
from collections.abc import Sequence

import typer

from rotator.cli import streams
from rotator.cli.command import Common, stop_on_sigterm
from rotator.cli.exit_status import NOT_ALL_DONE, usage_error
from rotator.core.errors import RotatorError
from rotator.simulator import Options, Simulator, with_switches


def run_demo(common: Common, *, vault: bool) -> None:
    """Run the demo."""
    from rotator.cli.status_table import status_table  # with httpx, hvac and rich, which the simulator does not need
    from rotator.demo import show

    if vault and (unset := [f"${name}" for name in ("VAULT_ADDR", "VAULT_TOKEN") if not os.environ.get(name)]):
        usage_error(f"--vault needs {' and '.join(unset)} in the environment")
    common.start_logging("warning")
    stop_on_sigterm()
    raise typer.Exit(show(vault=vault, environment=os.environ, table=status_table))


def run_simulator(common: Common, port: int, switches: Sequence[str]) -> None:
    """Run the simulator until a signal stops it."""
    common.start_logging("warning")
    try:
        options = with_switches(Options(), switches)
    except ValueError as error:
        usage_error(f"--set: {error}")
    simulator = Simulator(port=port, options=options)
    try:
        simulator.start()
    except OSError as error:
        raise RotatorError(
            f"the simulator cannot listen on port {port}: {error.strerror}",
            "Choose another port with --port; 0 takes a free one.",
        ) from None
    try:
        streams.print_line(f'base_url = "{simulator.url}"')
        # Not redacted: this key is made up, and the user needs it.
        streams.write(f"export RESPAN_API_KEY={simulator.organisation_key}\n")
        if streams.failure() is not None:
            raise typer.Exit(NOT_ALL_DONE)
        stop_on_sigterm()
        with contextlib.suppress(KeyboardInterrupt):
            simulator.serve_forever()
    finally:
        simulator.stop()
