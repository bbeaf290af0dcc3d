"""The exit status of a command, and how a failure is printed."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NoReturn

import typer

from rotator.core.errors import ConfigurationError, Problem, RotatorError

DONE, NOT_ALL_DONE, USAGE, NOTHING_TRIED, ATTENTION = 0, 1, 2, 3, 4


class UsageError(typer.BadParameter):
    """A command line that cannot be used."""

    def format_message(self) -> str:
        """Return the message without Typer's "Invalid value:"."""
        return self.message


def usage_error(message: str) -> NoReturn:
    """End the command with status 2 and this message."""
    raise UsageError(message)


def status_of(error: RotatorError) -> int:
    """Return the exit status of a command that this error ended."""
    if isinstance(error, ConfigurationError):
        return USAGE
    return NOTHING_TRIED if error.nothing_tried else NOT_ALL_DONE


def status_of_all(errors: Sequence[RotatorError | None], *, changed: bool) -> int:
    """Return the exit status of work on several targets, each with its error; `changed`: something was changed."""
    failed = [error for error in errors if error is not None]
    if not failed:
        return DONE
    nothing_tried = len(failed) == len(errors) and all(error.nothing_tried for error in failed)
    return NOTHING_TRIED if nothing_tried and not changed else NOT_ALL_DONE


def print_failure(error: RotatorError, *, as_json: bool = False) -> None:
    """Print the error and its advice to standard error; with `as_json` also print it as the command's result."""
    from rotator.cli.streams import print_error, print_json

    if as_json:
        print_json(_failure_json(error))
    if isinstance(error, ConfigurationError):
        number = len(error.problems)
        print_error(f"The configuration cannot be used ({number} {'problem' if number == 1 else 'problems'}):")
        for problem in error.problems:
            print_error(f"  {problem}")
        return
    print_error(f"rotator: {error.message}")
    if error.advice:
        print_error(f"  {error.advice}")


def _failure_json(error: RotatorError) -> dict[str, Any]:
    from rotator.runtime.redact import scrub_lines

    if isinstance(error, ConfigurationError):
        return {"problems": [problem_json(problem) for problem in error.problems]}
    return {"error": scrub_lines(error.message), **({"advice": error.advice} if error.advice else {})}


def problem_json(problem: Problem) -> dict[str, Any]:
    """Return a problem or a warning of the configuration, for `--json`."""
    from rotator.runtime.redact import scrub_lines

    return {name: scrub_lines(text) for name, text in asdict(problem).items()}
