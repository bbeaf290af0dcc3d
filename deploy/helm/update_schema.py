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
    [provider] = tables["providers"]["patternProperties"].values()
    chart["provider"]["allOf"] = [
        _options_of(kind, definitions[reference.rpartition("/")[2]])
        for kind, reference in provider["discriminator"]["mapping"].items()
    ]
    return json.dumps(schema, indent=2) + "\n"


def _options_of(kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return which `provider.options` a type of provider takes. A plugin's type takes any."""
    options = {name: option for name, option in settings["properties"].items() if name not in OF_CHART}
    table = {"type": "object", "properties": options, "additionalProperties": False}
    return {
        "if": {"properties": {"type": {"const": kind}}, "required": ["type"]},
        "then": {"properties": {"options": table}},
    }


if __name__ == "__main__":
    CHART.write_text(updated())
