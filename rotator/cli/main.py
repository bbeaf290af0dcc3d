"""The console script: run one command of `operate` or `tryout`, and exit with its status.

Exit status: 0 done; 1 something could not be done; 2 usage or configuration; 3 provider or store unreachable or
refused, so that nothing could be tried; 4 as the command's help describes; 130 after SIGINT; 143 after SIGTERM.
"""

import resource
import sys
from collections.abc import Sequence
from typing import NoReturn

from rotator.cli import operate, tryout
from rotator.cli.app import app
from rotator.cli.exit_status import ATTENTION, DONE, NOT_ALL_DONE

__all__ = ["app", "execute", "main", "operate", "tryout"]
"""The commands register with the application when their modules are imported."""


def main() -> None:
    """Run the console script. No core dump ever holds a key.

    A limit of 0 stops only a dump to a file. Where `core_pattern` is a program, Linux ignores each limit but 1, which
    stops both.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    most = hard if hard == 0 else 1
    resource.setrlimit(resource.RLIMIT_CORE, (most, most))
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
