"""A stand-in for LiteLLM's key management that its own OpenAPI document judges (tests/data/litellm-openapi.json).

Every request and every answer must have the document's names and types: `flaws` lists the requests that do not, and an
answer that does not is an error of this file. What the document leaves open follows LiteLLM's source, which it came
with: the id of a key is the SHA-256 of its text, an alias is unique, and a deleted key is still shown, as deleted.
"""

import hashlib
import json
import re
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from support.canned import Asked, Refused, Reply, canned
from support.leaks import RECORDER

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class Document:
    """The names and types of LiteLLM's key management."""

    def __init__(self) -> None:
        file = Path(__file__).parents[1] / "data" / "litellm-openapi.json"
        read = json.loads(file.read_text())
        self.operations: Mapping[str, Any] = read["operations"]
        self._models: Mapping[str, Any] = read["models"]

    def flaws(self, where: str, types: str, value: object) -> list[str]:
        """Return how a value differs from all of these types, written as "null | string"."""
        found = [self._flaws(where, name, value) for name in types.split(" | ")]
        return [] if [] in found else max(found, key=len)

    def _flaws(self, where: str, name: str, value: object) -> list[str]:
        if name.endswith("[]"):
            if not isinstance(value, list):
                return [f"{where} is no list"]
            return [flaw for entry in value for flaw in self._flaws(f"{where}[]", name[:-2], entry)]
        if name in self._models:
            return self._flaws_of_fields(where, self._models[name], value)
        return [] if _is_of(name, value) else [f"{where} is no {name}: {value!r}"]

    def _flaws_of_fields(self, where: str, model: Mapping[str, Any], value: object) -> list[str]:
        if not isinstance(value, dict):
            return [f"{where} is no object"]
        flaws = [f"{where} lacks {name}" for name in model["required"] if name not in value]
        for name, inner in value.items():
            if name in model["fields"]:
                flaws += self.flaws(f"{where}.{name}", model["fields"][name], inner)
            else:
                flaws.append(f"{where} has the unknown field {name}")
        return flaws


def _is_of(name: str, value: object) -> bool:
    match name:
        case "any":
            return True
        case "null":
            return value is None
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "string":
            return isinstance(value, str)
        case "date-time":
            return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
        case "object":
            return isinstance(value, dict)
    raise ValueError(f"the document has the new type {name}")


@dataclass
class Key:
    """One key."""

    text: str = field(repr=False)
    options: Mapping[str, Any]
    expires: datetime | None
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    spend: float = 0.0
    last_active: datetime | None = None
    deleted: bool = False

    @property
    def token(self) -> str:
        """The id."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def works(self) -> bool:
        """Return whether a request with it is accepted."""
        return not self.deleted and (self.expires is None or self.expires > datetime.now(UTC))

    def row(self) -> dict[str, Any]:
        """The fields that every answer about it has."""
        return {
            "token": self.token,
            "key_name": f"sk-...{self.text[-4:]}",
            "key_alias": self.options.get("key_alias"),
            "expires": self.expires and self.expires.isoformat(),
            "max_budget": self.options.get("max_budget"),
            "budget_duration": self.options.get("budget_duration"),
            "rpm_limit": self.options.get("rpm_limit"),
            "tpm_limit": self.options.get("tpm_limit"),
            "models": self.options.get("models", []),
            "metadata": self.options.get("metadata", {}),
            "spend": self.spend,
            "created_at": self.created_at.isoformat(),
            "updated_at": self.created_at.isoformat(),
        }


class LiteLLM:
    """The server: `address` is its base URL, `master_key` the only credential that manages keys."""

    def __init__(self) -> None:
        self.address = ""
        self.master_key = f"sk-{secrets.token_urlsafe(16)}"
        self.keys: list[Key] = []
        self.flaws: list[str] = []
        self._document = Document()
        self._lock = threading.Lock()
        RECORDER.add_secret("a LiteLLM master key", self.master_key)

    def accepts(self, text: str) -> bool:
        """Return whether a key works."""
        return any(key.text == text and key.works() for key in self.keys)

    def spend(self, token: str, dollars: float) -> None:
        """Use a key."""
        key = self._find(token)
        key.spend += dollars
        key.last_active = datetime.now(UTC)

    def answer(self, asked: Asked) -> Reply:
        """Answer one request."""
        with self._lock:
            try:
                return Reply(200, self._answer(asked))
            except Refused as refused:
                error = {"message": refused.message, "type": "", "param": None, "code": str(refused.status)}
                return Reply(refused.status, {"error": error})

    def _answer(self, asked: Asked) -> object:
        url = urlsplit(asked.path)
        which = f"{asked.method} {url.path}"
        if which not in self._document.operations:
            self.flaws.append(f"there is no {which}")
            raise Refused(404, "Not Found")
        if asked.headers.get("authorization") != f"Bearer {self.master_key}":
            raise Refused(401, "Authentication Error, Invalid proxy server token passed.")
        query = {name: _parsed(values[-1]) for name, values in parse_qs(url.query).items()}
        body = json.loads(asked.body) if asked.body else None
        if flaws := self._flaws(which, query, body):
            self.flaws += flaws
            raise Refused(422, "; ".join(flaws))
        answer, model = self._do(which, query, body or {})
        assert not (wrong := self._document.flaws(f"the answer to {which}", model, answer)), wrong
        return answer

    def _flaws(self, which: str, query: Mapping[str, Any], body: object) -> list[str]:
        """Return how a request differs from the document."""
        operation = self._document.operations[which]
        flaws = self._document.flaws(which, operation["body"], body) if "body" in operation else []
        for name, value in query.items():
            if name in operation["query"]:
                flaws += self._document.flaws(f"{which}?{name}", operation["query"][name], value)
            else:
                flaws.append(f"{which} has the unknown parameter {name}")
        return flaws

    def _do(self, which: str, query: Mapping[str, Any], body: Mapping[str, Any]) -> tuple[Any, str]:
        """Return the answer, and the type that the document or the source gives it."""
        match which:
            case "POST /key/generate":
                return self._generate(body), "GenerateKeyResponse"
            case "GET /key/list":
                return self._list(query), "KeyListResponseObject"
            case "GET /key/info":
                return self._info(str(query["key"])), "object"
            case "POST /key/update":
                key = self._find(body["key"])
                key.expires = _after(body.get("duration"))
                return {"key": key.token, **self._shown(key, "LiteLLM_VerificationToken")}, "object"
            case _:
                for token in body["keys"]:
                    self._find(token).deleted = True
                return {"deleted_keys": body["keys"]}, "object"

    def _find(self, token: str) -> Key:
        for key in self.keys:
            if key.token == token and not key.deleted:
                return key
        raise Refused(404, "No keys found")

    def _shown(self, key: Key, model: str) -> dict[str, Any]:
        row = key.row() | {"last_active": key.last_active and key.last_active.isoformat(), "blocked": None}
        assert not (wrong := self._document.flaws("the row of a key", model, row)), wrong
        return row

    def _generate(self, body: Mapping[str, Any]) -> dict[str, Any]:
        alias = body.get("key_alias")
        if alias is not None and any(key.options.get("key_alias") == alias and not key.deleted for key in self.keys):
            raise Refused(400, f"Key with alias '{alias}' already exists.")
        key = Key(f"sk-{secrets.token_urlsafe(16)}", body, _after(body.get("duration")))
        RECORDER.add_secret("a LiteLLM key", key.text)
        self.keys.append(key)
        return {**key.row(), "key": key.text, "token_id": key.token}

    def _list(self, query: Mapping[str, Any]) -> dict[str, Any]:
        page, size = query.get("page", 1), query.get("size", 10)
        if not isinstance(page, int) or not isinstance(size, int) or page < 1 or not 1 <= size <= 100:
            raise Refused(422, "page or size is out of range")
        living = [key for key in reversed(self.keys) if not key.deleted]
        shown = living[(page - 1) * size : page * size]
        return {
            "keys": [
                self._shown(key, "UserAPIKeyAuth") if query.get("return_full_object") else key.token for key in shown
            ],
            "total_count": len(living),
            "current_page": page,
            "total_pages": -(-len(living) // size),
        }

    def _info(self, token: str) -> dict[str, Any]:
        for key in self.keys:
            if key.token == token:
                row = self._shown(key, "LiteLLM_VerificationToken")
                del row["token"]
                row["status"] = "deleted" if key.deleted else "active" if key.works() else "expired"
                return {"key": token, "info": row}
        raise Refused(404, "Key not found in database")


def _parsed(text: str) -> object:
    """What FastAPI makes of a text in a query: a number or a boolean where it can be one."""
    return {"true": True, "false": False}.get(text, int(text) if text.isdecimal() and len(text) < 10 else text)


def _after(duration: str | None) -> datetime | None:
    """When a duration from now is over, as LiteLLM reads one: by its first number and unit alone."""
    if duration in (None, "-1"):
        return None
    match = re.match(r"(\d+)([smhdw])", str(duration))
    if not match:
        raise Refused(400, f"Unsupported duration unit, passed duration: {duration}")
    return datetime.now(UTC) + timedelta(seconds=int(match[1]) * UNITS[match[2]])


@contextmanager
def litellm() -> Iterator[LiteLLM]:
    """Such a server on a free port of loopback."""
    vendor = LiteLLM()
    with canned(vendor.answer) as server:
        vendor.address = server.address
        yield vendor
