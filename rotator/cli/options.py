"""What every command takes, before its name or after it: which configuration, and how log lines look.

What is said after the command's name wins over what is said before it, and that over the environment.
"""

import functools
import inspect
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from rotator.cli.output import complain
from rotator.telemetry.logging import configure, flush

LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]


@dataclass(slots=True)
class Common:
    """What was said, for one run of the program. `as_json`: a failure is told as JSON as well.

    `at_end` is what is to be given back.
    """

    config: Path = Path("rotator.toml")
    log_format: LogFormat | None = None
    log_level: LogLevel | None = None
    as_json: bool = False
    at_end: ExitStack = field(default_factory=ExitStack)

    def begin_to_log(self, level: LogLevel) -> None:
        """Log to standard error, from `level` on if nobody said otherwise."""
        configure(self.log_format, self.log_level or level)
        self.at_end.callback(flush)  # before what is printed last


def _take(context: typer.Context, parameter: typer.CallbackParam, value: Any) -> Any:
    """Put a value where the command finds it; the command's own options come after the program's."""
    common = context.find_root().ensure_object(Common)
    if value is not None:
        setattr(common, str(parameter.name), value)
    return value


def _one_of(words: tuple[str, ...]) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value.lower() not in words:
            raise typer.BadParameter(f"{value!r} is none of {', '.join(words)}")
        return value.lower()

    return parse


FORMATS, LEVELS = get_args(LogFormat), get_args(LogLevel)


def _options(*, environment: bool) -> tuple[inspect.Parameter, ...]:
    """The options; only those of the program itself look at the environment, which must not win over what was said."""

    def option(name: str, kind: Any, help_text: str, **more: Any) -> inspect.Parameter:
        flag = f"--{name.replace('_', '-')}"
        variable = f"ROTATOR_{name.upper()}" if environment else None
        info = typer.Option(
            flag, envvar=variable, show_envvar=False, show_default=False, help=help_text, callback=_take, **more
        )
        annotation = Annotated[kind | None, info]
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)

    def word(name: str, help_text: str, words: tuple[str, ...]) -> inspect.Parameter:
        return option(
            name, str, help_text, metavar="|".join(words), parser=_one_of(words), autocompletion=lambda: list(words)
        )

    look = "How the log looks; else $ROTATOR_LOG_FORMAT, else text on a terminal, JSON in a pipe."
    level = "From which level on; else $ROTATOR_LOG_LEVEL, else info where keys may be changed, warning elsewhere."
    return (
        option("config", Path, "The configuration file; else $ROTATOR_CONFIG, else rotator.toml.", metavar="FILE"),
        word("log_format", look, FORMATS),
        word("log_level", level, LEVELS),
    )


def with_options(function: Callable[..., None], *, environment: bool = False) -> Callable[..., None]:
    """The command, which takes a `Common` first, as typer is to see it: with the options that all have at its end."""
    signature = inspect.signature(function, eval_str=True)
    _, *own = signature.parameters.values()
    added = _options(environment=environment)

    @functools.wraps(function)
    def command(*, context: typer.Context, **given: Any) -> None:
        common = context.find_root().ensure_object(Common)
        common.as_json = bool(given.get("as_json"))
        with common.at_end:
            try:
                function(common, **{parameter.name: given[parameter.name] for parameter in own})
            except KeyboardInterrupt:
                complain("rotator: stopped; what was under way was ended, and nothing more was begun")
                raise

    first = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    ordered = [first, *(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own), *added]
    command.__signature__ = signature.replace(parameters=ordered)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in ordered}
    return command
