"""Copies the configuration's schema into the chart's schema: run it after a change there.

rotator schema > config.schema.json && python deploy/helm/update_schema.py
"""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/rotator/values.schema.json"
CONFIG = ("former_owners", "providers", "stores", "daemon", "sweep", "defaults")
"""The tables that `config` takes, besides http without its addresses. The chart writes the others."""
OF_CHART = ("type", "base_url", "api_key", "requests_per_minute")
"""The options of a provider that the chart takes from `provider` itself."""


def updated() -> str:
    """Return the chart's schema as it should be."""
    configuration = _by_kind(json.loads((ROOT / "config.schema.json").read_text()))
    schema = json.loads(CHART.read_text())
    tables = configuration["properties"]
    # A later values file removes a target with `null`.
    [(name, target)] = tables["targets"]["patternProperties"].items()
    or_null = {"if": {"type": "object"}, "then": target, "else": {"type": "null"}}
    schema["properties"]["targets"] = {**tables["targets"], "patternProperties": {name: or_null}}
    schema["properties"]["notify"] = tables["notify"]
    http = configuration["$defs"]["HttpSettings"]
    rest = {name: option for name, option in http["properties"].items() if name not in ("listen", "admin")}
    schema["properties"]["config"]["properties"] = {
        **{name: tables[name] for name in CONFIG},
        "http": {**http, "properties": rest},
    }
    definitions = schema["$defs"] = configuration["$defs"]
    chart = schema["properties"]
    url = definitions["VaultSettings"]["properties"]["address"]["pattern"]
    chart["provider"]["properties"]["baseUrl"]["pattern"] = url
    chart["vault"]["properties"]["address"]["pattern"] = f"^$|{url}"
    [provider] = tables["providers"]["patternProperties"].values()
    chart["provider"]["allOf"] = [
        {"if": one["if"], "then": {"properties": {"options": _options(definitions[_named(one["then"])])}}}
        for one in provider["allOf"]
    ]
    # Without plugins every type is known here. With plugins the template `rotator.check` compares the types.
    known = {"properties": provider["properties"]}
    provider["properties"] = {"type": {"type": "string"}}
    config = {"properties": {"providers": {"additionalProperties": known}}}
    schema["if"] = {"properties": {"plugins": {"maxItems": 0}}}
    schema["then"] = {"properties": {"provider": known, "config": config}}
    return json.dumps(schema, indent=2) + "\n"


def _by_kind(schema: Any) -> Any:
    """Return a schema in which an option chooses one of several tables.

    With `oneOf` Helm would report what is wrong by each of them.
    """
    if isinstance(schema, list):
        return [_by_kind(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: _by_kind(part) for key, part in schema.items()}
    if "discriminator" not in schema:
        return schema
    del schema["oneOf"]
    choice = schema.pop("discriminator")
    option, tables = choice["propertyName"], choice["mapping"]
    return {
        **schema,
        "type": "object",
        "properties": {option: {"enum": list(tables)}},
        "required": [option],
        "allOf": [
            {"if": {"properties": {option: {"const": kind}}, "required": [option]}, "then": {"$ref": table}}
            for kind, table in tables.items()
        ],
    }


def _named(reference: dict[str, str]) -> str:
    """Return the name of the definition that a schema refers to."""
    return reference["$ref"].rpartition("/")[2]


def _options(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the `provider.options` of a type with these settings. A plugin's type takes any."""
    options = {name: option for name, option in settings["properties"].items() if name not in OF_CHART}
    return {"type": "object", "properties": options, "additionalProperties": False}


if __name__ == "__main__":
    CHART.write_text(updated())
