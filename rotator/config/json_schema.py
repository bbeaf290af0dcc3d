"""The JSON Schema of the main file, as `rotator schema` prints it and `config.schema.json` holds it."""

import ast
import inspect
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from rotator.config import schema


class _WithoutNull(GenerateJsonSchema):
    """An option that may be left out is not null either: TOML has no null, and `files` refuses JSON's."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        inner = super().default_schema(schema)
        return {key: value for key, value in inner.items() if key != "default" or value is not None}

    def field_title_should_be_set(self, schema: object) -> bool:  # noqa: ARG002 - a title would only repeat the key
        return False


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema, with the text under each option as its description."""
    whole = schema.FileSettings.model_json_schema(schema_generator=_WithoutNull)
    descriptions = _descriptions()
    for name, table in (*whole["$defs"].items(), ("FileSettings", whole)):
        for base in getattr(schema, name).__mro__:
            for option, description in descriptions.get(base.__name__, {}).items():
                table["properties"][option] = {"description": description, **table["properties"][option]}
    return {"$schema": GenerateJsonSchema.schema_dialect, **whole, "title": "rotator"}


def _descriptions() -> dict[str, dict[str, str]]:
    """Return the text under each option of each class.

    Pydantic's `use_attribute_docstrings` does the same at each start, and takes longer than building the models.
    """
    found: dict[str, dict[str, str]] = {}
    for table in ast.parse(inspect.getsource(schema)).body:
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
