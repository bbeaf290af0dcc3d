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
    configuration = json.loads((ROOT / "config.schema.json").read_text())
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
    [(name, provider)] = tables["providers"]["patternProperties"].items()
    types = {kind: {"$ref": reference} for kind, reference in provider["discriminator"]["mapping"].items()}
    any_type = {"type": "object", "properties": {"type": {"type": "string"}}, "required": ["type"]}
    by_type = {**any_type, "allOf": [_of_type(kind, settings) for kind, settings in types.items()]}
    chart["config"]["properties"]["providers"] = {**tables["providers"], "patternProperties": {name: by_type}}
    chart["provider"]["allOf"] = [
        _of_type(kind, {"properties": {"options": _options(definitions[settings["$ref"].rpartition("/")[2]])}})
        for kind, settings in types.items()
    ]
    # Without plugins every type is known here. With plugins the template `rotator.check` compares the types.
    known = {"properties": {"type": {"enum": list(types)}}}
    config = {"properties": {"providers": {"additionalProperties": known}}}
    schema["if"] = {"properties": {"plugins": {"maxItems": 0}}}
    schema["then"] = {"properties": {"provider": known, "config": config}}
    return json.dumps(schema, indent=2) + "\n"


def _of_type(kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return what holds for one type of provider. A plugin's type takes any options."""
    return {"if": {"properties": {"type": {"const": kind}}, "required": ["type"]}, "then": settings}


def _options(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the `provider.options` of a type with these settings."""
    options = {name: option for name, option in settings["properties"].items() if name not in OF_CHART}
    return {"type": "object", "properties": options, "additionalProperties": False}


if __name__ == "__main__":
    CHART.write_text(updated())
