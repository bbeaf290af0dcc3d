"""Templates: texts with variables, and the JSON and the queries that are made of them.

`{name}` in a text is replaced by the variable. `{{` and `}}` are braces. A text that is `{name:int}` alone becomes a
number, and one that is `{param:NAME}` alone becomes the target's key option, with its type. What needs a variable that
has no value is left out: a text with it, and a list or a table in which no variable has a value.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from urllib.parse import quote

Value = str | int | float | bool | Sequence[str]
Values = Mapping[str, Value]
Place = tuple[str | int, ...]
"""Where something is in a description: ("create", "body", "name")."""
Report = Callable[[Place, str], None]
"""Takes a mistake in a description."""

PARAMETER = "param:"
NUMBERS = frozenset({"ttl_seconds", "expires_unix", "page", "offset"})
"""The variables that may be written as `{NAME:int}`."""

_PART = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable in a template; `is_typed`: its value keeps its type."""

    name: str
    is_typed: bool = False


@dataclass(frozen=True, slots=True)
class Template:
    """A text with variables."""

    parts: tuple[str | Variable, ...]

    @property
    def names(self) -> Iterator[str]:
        """The variables in it."""
        return (part.name for part in self.parts if isinstance(part, Variable))

    def rendered(self, values: Values) -> Value | None:
        """Return the text, or the typed value; None where a variable has no value."""
        if any(values.get(name) is None for name in self.names):
            return None
        if len(self.parts) == 1 and isinstance(part := self.parts[0], Variable) and part.is_typed:
            return values[part.name]
        return "".join(part if isinstance(part, str) else _text(values[part.name]) for part in self.parts)

    def path(self, values: Values) -> str:
        """Return it as a path, in which each variable is one segment."""
        return "".join(
            part if isinstance(part, str) else quote(_text(values[part.name]), safe="") for part in self.parts
        )


def _text(value: Value) -> str:
    if isinstance(value, bool | int | float | str):
        return str(value).lower() if isinstance(value, bool) else str(value)
    return ",".join(value)


Body = Template | Mapping[str, "Body"] | Sequence["Body"] | int | float | bool
"""JSON whose texts are templates."""


def names_in(body: Body) -> Iterator[str]:
    """Yield the variables in a body."""
    if isinstance(body, Template):
        yield from body.names
    elif isinstance(body, Mapping):
        for value in body.values():
            yield from names_in(value)
    elif isinstance(body, Sequence):
        for value in body:
            yield from names_in(value)


def rendered(body: Body, values: Values) -> object:
    """Return the JSON; None where it holds variables, and none of them has a value."""
    if isinstance(body, Template):
        return body.rendered(values)
    if not isinstance(body, Mapping | Sequence):
        return body
    names = list(names_in(body))
    if names and all(values.get(name) is None for name in names):
        return None
    if isinstance(body, Mapping):
        return {name: value for name, inner in body.items() if (value := rendered(inner, values)) is not None}
    return [value for inner in body if (value := rendered(inner, values)) is not None]


def parse(text: str, known: frozenset[str], place: Place, report: Report) -> Template:
    """Return the template; report a variable that is not known, and a wrong type or brace."""
    parts: list[str | Variable] = []
    at = 0
    for match in _PART.finditer(text):
        parts.append(text[at : match.start()])
        at = match.end()
        if match[0] in ("{{", "}}"):
            parts.append(match[0][0])
        elif match[1] is None:
            report(place, f'has a single "{match[0]}": write {match[0] * 2} for a brace')
        else:
            parts.append(_variable(match[1], match[0] == text, known, place, report))
    parts.append(text[at:])
    return Template(tuple(part for part in parts if part != ""))


def _variable(written: str, is_alone: bool, known: frozenset[str], place: Place, report: Report) -> Variable:
    if written.startswith(PARAMETER):
        if written not in known:
            option = written.removeprefix(PARAMETER)
            report(place, f"has the unknown variable {{{written}}}: " + _parameter_hint(option, known))
        return Variable(written, is_typed=is_alone)
    name, _, kind = written.partition(":")
    if name not in known:
        usable = f", or use one of {', '.join(f'{{{name}}}' for name in sorted(known))}" if known else ""
        report(place, f"has the unknown variable {{{name}}}: set variables.{name}{usable}")
    elif kind and (kind != "int" or name not in NUMBERS):
        numbers = " and ".join(f"{{{name}:int}}" for name in sorted(NUMBERS & known)) or "none here"
        report(place, f"has the unknown type {{{written}}}: the variables with a type are {numbers}")
    elif kind and not is_alone:
        report(place, f"has {{{written}}} within a text, which becomes no number: write {{{name}}}")
    return Variable(name, is_typed=bool(kind))


def _parameter_hint(option: str, known: frozenset[str]) -> str:
    if not any(name.startswith(PARAMETER) for name in known) and "id" in known:
        return "only create knows the options of a target's key"
    return f"describe the option in key.{option}"


def parse_body(value: object, known: frozenset[str], place: Place, report: Report) -> Body:
    """Return the body; report what is no JSON, too."""
    if isinstance(value, str):
        return parse(value, known, place, report)
    if isinstance(value, dict):
        return {name: parse_body(inner, known, (*place, name), report) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [parse_body(inner, known, (*place, number), report) for number, inner in enumerate(value)]
    if isinstance(value, int | float) and isfinite(value):
        return value
    report(place, "must be a string, a number, a boolean, a list or a table: JSON has nothing else")
    return False
