"""`rotator` with a slow start: an import waits while the file $STARTS_WHILE is there, and notes that it does.

And a reload waits while the file $RELOADS_WHILE is there, as for a file system that does not answer. Run as a program,
by way of the entry point that is installed.
"""

import importlib
import os
import sys
import time
import tomllib
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

GATE, RELOADS = Path(os.environ["STARTS_WHILE"]), Path(os.environ["RELOADS_WHILE"])


def wait(gate: Path) -> None:
    """Wait until the file is gone; leave a note beside it."""
    if gate.exists():
        gate.with_suffix(".waits").touch()
    while gate.exists():
        time.sleep(0.02)


class Slow(MetaPathFinder):
    """Import typer, the first heavy package, slowly."""

    def find_spec(self, name: str, *_: object) -> None:
        """Find nothing: the next finder does."""
        if name == "typer":
            wait(GATE)
        if name == "rotator.daemon.dispatcher":  # `rotator.daemon.main` imports it before `rotator.daemon.reload`
            from rotator.config import loader as config

            load = config.load

            def slow_load(*arguments: Any) -> Any:
                wait(RELOADS)
                return load(*arguments)

            setattr(config, load.__name__, slow_load)


if __name__ == "__main__":
    scripts = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, name = scripts["rotator"].partition(":")
    sys.meta_path.insert(0, Slow())
    getattr(importlib.import_module(module), name)()
