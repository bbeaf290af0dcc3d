"""Copies the configuration's schema into the chart's schema: run it after a change there.

rotator schema > config.schema.json && python deploy/helm/update_schema.py
"""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/rotator/values.schema.json"
CONFIG = ("former_owners", "providers", "stores", "daemon", "sweep", "defaults")
"""The tables that `config` takes, besides http without its addresses. The chart writes the others."""


def updated() -> str:
    """Return the chart's schema as it should be."""
    configuration = json.loads((ROOT / "config.schema.json").read_text())
    schema = json.loads(CHART.read_text())
    tables = configuration["properties"]
    schema["properties"]["targets"] = {**tables["targets"], "additionalProperties": False}
    schema["properties"]["notify"] = tables["notify"]
    http = configuration["$defs"]["HttpSettings"]
    rest = {name: option for name, option in http["properties"].items() if name not in ("listen", "admin")}
    schema["properties"]["config"]["properties"] = {
        **{name: tables[name] for name in CONFIG},
        "http": {**http, "properties": rest},
    }
    schema["$defs"] = configuration["$defs"]
    return json.dumps(schema, indent=2) + "\n"


if __name__ == "__main__":
    CHART.write_text(updated())
