"""Turn what pydantic reports into problems: the option as TOML writes it, and a sentence.

A sentence never repeats the value, which may be a misplaced secret.
"""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from rotator.config.files import key_path
from rotator.config.json_schema import json_schema
from rotator.config.provider_type import ProviderTypes
from rotator.config.values import quoted
from rotator.core.errors import Problem

Place = tuple[str | int, ...]
"""Where an option is in the files: ("targets", "a", "ttl")."""

_SENTENCES = {
    "string_type": "must be a string in quotes",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
    "tuple_type": "must be a list",
}

_NAMED = {"providers", "stores", "targets"}
"""The tables of tables with names. `[stores]` alone is a likely mistake."""


def describe(
    error: ValidationError,
    file: Path,
    origins: Mapping[str, Path],
    variables: Mapping[Place, str],
    types: ProviderTypes,
) -> list[Problem]:
    """Return one problem for each finding; `variables` names the environment variable that a value came from."""
    problems = []
    found = error.errors(include_url=False, include_input=False)
    for finding in found:
        if finding["type"] == "too_short" and any(_is_in(other["loc"], finding["loc"]) for other in found):
            continue  # pydantic counts only the elements that are valid
        place, siblings, node = _locate(finding, json_schema(types))
        sentence = sentence_for(finding, siblings, node)
        if finding["type"] == "union_tag_invalid" and place[0] == "providers" and place[2:] == ("type",):
            sentence = types.broken.get(finding["ctx"]["tag"], f"must be {quoted(types.names)}")
        if sentence == _SENTENCES["model_type"] and place[0] in _NAMED and len(place) == 2:
            sentence += f": write [{place[0]}.NAME] above its options"
        if place in variables:
            sentence = f"${variables[place]} {sentence}"
        origin = origins.get(str(place[1]), file) if place[:1] == ("targets",) and len(place) > 1 else file
        problems.append(Problem(str(origin), key_path(*place), sentence))
    return problems


def _is_in(place: Place, other: Place) -> bool:
    return len(place) > len(other) and place[: len(other)] == other


def _locate(finding: ErrorDetails, schema: dict[str, Any]) -> tuple[Place, list[str], dict[str, Any]]:
    """Return where a finding is, without pydantic's marks, which options its table has, and its part of the schema."""
    node = schema
    place: Place = ()
    siblings: list[str] = []
    location = finding["loc"]
    for part in location[:-1] if location[1:] and location[-1] == "[key]" else location:
        if "discriminator" in node:
            node = _resolved({"$ref": node["discriminator"]["mapping"][part]}, schema)
        else:
            place = (*place, part)
            siblings = list(node.get("properties", ()))
            several = [*node.get("patternProperties", {}).values(), node.get("additionalProperties"), node.get("items")]
            node = _resolved(node.get("properties", {}).get(part) or next(filter(None, several), {}), schema)
    if finding["type"].startswith("union_tag"):
        place = (*place, node["discriminator"]["propertyName"])
    return place, siblings, node


def _resolved(node: Any, schema: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(node, dict):
        return {}
    name = node.get("$ref", "").rpartition("/")[2]
    return {**schema["$defs"].get(name, {}), **node}


def sentence_for(finding: ErrorDetails, siblings: Sequence[str], node: Mapping[str, Any]) -> str:
    """Return what is wrong. `siblings` are the options of its table, and `node` is its part of the JSON Schema."""
    context = finding.get("ctx", {})
    match finding["type"]:
        case "missing":
            return f"is required. {node.get('description', '')}".rstrip()
        case "too_short":
            return f"must not be empty. {node['description']}"
        case "extra_forbidden":
            close = _closest(str(finding["loc"][-1]), siblings)
            return "is not a known option here" + (f"; did you mean {quoted(close)}?" if close else "")
        case "value_error":
            return str(context["error"])
        case "literal_error":
            choices = node.get("enum") or [node["const"]] if {"enum", "const"} & node.keys() else ()
            return f"must be {quoted(choices) if choices else context['expected'].replace(chr(39), chr(34))}"
        case "union_tag_invalid":
            return f"must be {quoted(list(node['discriminator']['mapping']))}"
        case "union_tag_not_found":
            return f"is required: {quoted(list(node['discriminator']['mapping']))}"
        case "string_pattern_mismatch":
            return f"must have the form {context['pattern'].removeprefix('^').removesuffix('$')}"
        case kind if kind in _SENTENCES:
            return _SENTENCES[kind].format(**context)
    return finding["msg"]


def _closest(name: str, options: Sequence[str]) -> Sequence[str]:
    """Return the option that is most likely meant: one with the whole word in it, else one that is spelled alike."""
    with_the_word = [option for option in options if name in option.split("_")]
    return with_the_word[:1] or difflib.get_close_matches(name, options, n=1)
