"""The JSON Schema of the main file, as `rotator schema` prints it and `config.schema.json` holds it."""

import ast
import inspect
import sys
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import Any, get_args

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from rotator.config.fields import Settings
from rotator.config.provider_type import ProviderTypes
from rotator.config.schema import file_settings


class _WithoutNull(GenerateJsonSchema):
    """An option that may be left out is not null either: TOML has no null, and `files` refuses JSON's."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        inner = super().dict_schema(schema)
        return {**inner, "additionalProperties": False} if "patternProperties" in inner else inner

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        inner = super().default_schema(schema)
        return {key: value for key, value in inner.items() if key != "default" or value is not None}

    def field_title_should_be_set(self, schema: object) -> bool:  # noqa: ARG002 - a title would only repeat the key
        return False


@lru_cache
def json_schema(types: ProviderTypes) -> dict[str, Any]:
    """Return the JSON Schema with these types of providers, and the text under each option as its description."""
    whole = _described(file_settings(types))
    keys = [one.fixed_key_model for one in types.usable.values() if one.fixed_key_model.model_fields]
    definitions = {**whole["$defs"], **{key.__name__: _described(key) for key in keys}}
    for table in ("Changeable", "TargetSettings"):  # a description may define options of a key too: any are possible
        key = definitions[table]["properties"]["key"]
        any_options = {"type": key.pop("type"), "additionalProperties": key.pop("additionalProperties")}
        key["anyOf"] = [*({"$ref": f"#/$defs/{model.__name__}"} for model in keys), any_options]
    whole["$defs"] = dict(sorted(definitions.items()))
    return {"$schema": GenerateJsonSchema.schema_dialect, **whole, "title": "rotator"}


def _described(model: type[Settings]) -> dict[str, Any]:
    whole = model.model_json_schema(schema_generator=_WithoutNull)
    tables = {table.__name__: table for table in _tables_in(model)}
    for name, table in (*whole.get("$defs", {}).items(), (model.__name__, whole)):
        bases = [base for base in tables[name].__mro__ if issubclass(base, Settings)] if name in tables else []
        for base in bases:
            for option, description in _descriptions(base.__module__).get(base.__name__, {}).items():
                if option in table["properties"]:
                    table["properties"][option] = {"description": description, **table["properties"][option]}
    return whole


def _tables_in(annotation: Any) -> Iterator[type[Settings]]:
    """Yield the tables that a type is made of. A plugin's class of the same name is none of them."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        yield annotation
        for field in annotation.model_fields.values():
            yield from _tables_in(field.annotation)
    else:
        for part in get_args(annotation):
            yield from _tables_in(part)


@cache
def _descriptions(module: str) -> dict[str, dict[str, str]]:
    """Return the text under each option of each class of a module.

    Pydantic's `use_attribute_docstrings` does the same at each start, and takes longer than building the models.
    """
    found: dict[str, dict[str, str]] = {}
    try:
        source = inspect.getsource(sys.modules[module])
    except (KeyError, OSError, TypeError):  # a plugin may come without its source
        return found
    for table in ast.parse(source).body:
        if isinstance(table, ast.ClassDef):
            found[table.name] = {
                option.target.id: " ".join(text.value.value.split())
                for option, text in zip(table.body, table.body[1:], strict=False)
                if isinstance(option, ast.AnnAssign)
                and isinstance(option.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
                and isinstance(text.value.value, str)
            }
    return found
