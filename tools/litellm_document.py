"""Takes the names and types of LiteLLM's key management out of its OpenAPI document: none of its texts.

The result judges every request that the preset for LiteLLM sends in tests (tests/support/litellm.py), because its
server needs a database engine that no package registry has. After a new version of LiteLLM, in an environment of its
own:

    pip install 'litellm[proxy]==1.108.0'
    python -c 'import json; from litellm.proxy.proxy_server import app; print(json.dumps(app.openapi()))' > openapi.json

and here: python -m tools.litellm_document < openapi.json > tests/data/litellm-openapi.json
"""

import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

OPERATIONS = ("POST /key/generate", "GET /key/list", "GET /key/info", "POST /key/update", "POST /key/delete")
MODELS = (
    "GenerateKeyRequest",
    "GenerateKeyResponse",
    "UpdateKeyRequest",
    "KeyRequest",
    "KeyListResponseObject",
    "UserAPIKeyAuth",
    "LiteLLM_VerificationToken",
)

Schema = Mapping[str, Any]


def choices(schema: Schema) -> list[str]:
    """The names of the types that a value may have; "any" when the schema leaves it open."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        return [name if name in MODELS else "object"]
    if "anyOf" in schema:
        return sorted({name for choice in schema["anyOf"] for name in choices(choice)})
    if schema.get("type") == "array":
        return [f"{name}[]" for name in choices(schema.get("items", {}))]
    return ["date-time" if schema.get("format") == "date-time" else str(schema.get("type", "any"))]


def types(schema: Schema) -> str:
    """The same as one text."""
    return " | ".join(choices(schema))


def operation(document: Schema, which: str) -> dict[str, Any]:
    """What one operation takes and answers."""
    method, path = which.split()
    described = document["paths"][path][method.lower()]
    found: dict[str, Any] = {
        "query": {
            parameter["name"]: types(parameter["schema"])
            for parameter in described.get("parameters", ())
            if parameter["in"] == "query"
        }
    }
    if "requestBody" in described:
        found["body"] = types(described["requestBody"]["content"]["application/json"]["schema"])
    found["answer"] = types(described["responses"]["200"]["content"]["application/json"]["schema"])
    return found


def model(document: Schema, name: str) -> dict[str, Any]:
    """The fields of one model, and which of them must be there."""
    schema = document["components"]["schemas"][name]
    fields = {field: types(described) for field, described in sorted(schema["properties"].items())}
    return {"required": schema.get("required", []), "fields": fields}


def main() -> None:
    """Read the OpenAPI document from standard input, and write the extract."""
    document = json.load(sys.stdin)
    extract = {
        "source": f"LiteLLM {document['info']['version']}, OpenAPI {document['openapi']}",
        "read": datetime.now(UTC).date().isoformat(),
        "operations": {which: operation(document, which) for which in OPERATIONS},
        "models": {name: model(document, name) for name in MODELS},
    }
    print(json.dumps(extract, indent=1))


if __name__ == "__main__":
    main()
