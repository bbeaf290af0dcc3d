"""A stand-in for OpenRouter's key management, written from its public API reference of November 2026 alone.

It knows nothing of rotator. It refuses what the reference does not allow, so that a description of the API with a wrong
name or a wrong type fails here.
"""

import hashlib
import itertools
import json
import re
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from support.canned import Asked, Refused, Reply, canned
from support.leaks import RECORDER

DEFAULT_WORKSPACE = "0df9e665-d932-5740-b2c7-b52af166bc11"
CREATE_FIELDS = {
    "name",
    "limit",
    "limit_reset",
    "expires_at",
    "include_byok_in_limit",
    "workspace_id",
    "creator_user_id",
}
UPDATE_FIELDS = {"name", "limit", "limit_reset", "include_byok_in_limit", "workspace_id", "disabled"}
TYPES: Mapping[str, tuple[type, ...]] = {
    "name": (str,),
    "limit": (int, float, type(None)),
    "limit_reset": (str, type(None)),
    "expires_at": (str, type(None)),
    "include_byok_in_limit": (bool,),
    "workspace_id": (str,),
    "creator_user_id": (str, type(None)),
    "disabled": (bool,),
}
RESETS = ("daily", "weekly", "monthly", None)
UTC_WITH_SECONDS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


@dataclass
class Key:
    """One key, with what the list shows of it."""

    text: str = field(repr=False)
    name: str
    limit: float | None
    limit_reset: str | None
    expires_at: datetime | None
    include_byok_in_limit: bool
    workspace_id: str
    number: int
    created_at: datetime
    updated_at: datetime | None = None
    disabled: bool = False
    usage: float = 0.0
    last_used_at: datetime | None = None

    @property
    def hash(self) -> str:
        """The id."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def expired(self) -> bool:
        """Return whether it has expired."""
        return self.expires_at is not None and self.expires_at <= datetime.now(UTC)

    def shown(self) -> dict[str, Any]:
        """The object that answers show; never with the text."""
        return {
            "hash": self.hash,
            "name": self.name,
            "label": f"{self.text[:12]}...{self.text[-4:]}",
            "disabled": self.disabled,
            "limit": self.limit,
            "limit_remaining": None if self.limit is None else max(0.0, self.limit - self.usage),
            "limit_reset": self.limit_reset,
            "include_byok_in_limit": self.include_byok_in_limit,
            "usage": self.usage,
            "usage_daily": self.usage,
            "usage_weekly": self.usage,
            "usage_monthly": self.usage,
            "byok_usage": 0,
            "byok_usage_daily": 0,
            "byok_usage_weekly": 0,
            "byok_usage_monthly": 0,
            "created_at": _text(self.created_at),
            "updated_at": self.updated_at and _text(self.updated_at),
            "expires_at": self.expires_at and _text(self.expires_at),
            "last_used_at": self.last_used_at and _text(self.last_used_at),
            "creator_user_id": "user_2dHFtVWx2n56w6HkM0000000000",
            "external_user": None,
            "workspace_id": self.workspace_id,
        }


def _text(when: datetime) -> str:
    return when.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class OpenRouter:
    """The server: `address` is the base URL of its API, `management_key` the only credential that manages keys."""

    def __init__(self, page_size: int = 100) -> None:
        self.address = ""
        self.management_key = f"sk-or-v1-{secrets.token_hex(32)}"
        self.keys: dict[str, Key] = {}
        self._page_size = page_size
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        RECORDER.add_secret("an OpenRouter management key", self.management_key)

    def accepts(self, text: str) -> bool:
        """Return whether a key works."""
        return any(key.text == text and not key.disabled and not key.expired() for key in self.keys.values())

    def spend(self, key_hash: str, dollars: float) -> None:
        """Use a key."""
        key = self.keys[key_hash]
        key.usage += dollars
        key.last_used_at = datetime.now(UTC)

    def answer(self, asked: Asked) -> Reply:
        """Answer one request."""
        with self._lock:
            try:
                return self._answer(asked)
            except Refused as refused:
                return Reply(refused.status, {"error": {"code": refused.status, "message": refused.message}})

    def _answer(self, asked: Asked) -> Reply:
        url = urlsplit(asked.path)
        credential = asked.headers.get("authorization", "").removeprefix("Bearer ")
        parts = [unquote(part) for part in url.path.removeprefix("/api/v1/").split("/")]
        if (asked.method, parts) == ("GET", ["key"]):
            return self._key_about_itself(credential)
        if credential != self.management_key:
            raise Refused(401, "Invalid management key")
        match asked.method, parts:
            case "POST", ["keys"]:
                return self._create(_body(asked, CREATE_FIELDS))
            case "GET", ["keys"]:
                return self._list({name: values[-1] for name, values in parse_qs(url.query).items()})
            case "GET", ["keys", key_hash]:
                return Reply(200, {"data": self._find(key_hash).shown()})
            case "PATCH", ["keys", key_hash]:
                return self._update(self._find(key_hash), _body(asked, UPDATE_FIELDS))
            case "DELETE", ["keys", key_hash]:
                del self.keys[self._find(key_hash).hash]
                return Reply(200, {"deleted": True})
        raise Refused(404, "Not Found")

    def _find(self, key_hash: str) -> Key:
        if key_hash not in self.keys:
            raise Refused(404, "API key not found")
        return self.keys[key_hash]

    def _key_about_itself(self, text: str) -> Reply:
        for key in self.keys.values():
            if key.text == text and self.accepts(text):
                return Reply(200, {"data": {name: key.shown()[name] for name in ("label", "usage", "limit")}})
        raise Refused(401, "User not found.")

    def _create(self, body: Mapping[str, Any]) -> Reply:
        if not body.get("name"):
            raise Refused(400, "name is required")
        key = Key(
            text=f"sk-or-v1-{secrets.token_hex(32)}",
            name=body["name"],
            limit=body.get("limit"),
            limit_reset=body.get("limit_reset"),
            expires_at=_expiry(body.get("expires_at")),
            include_byok_in_limit=body.get("include_byok_in_limit", False),
            workspace_id=body.get("workspace_id", DEFAULT_WORKSPACE),
            number=next(self._numbers),
            created_at=datetime.now(UTC),
        )
        RECORDER.add_secret("an OpenRouter key", key.text)
        self.keys[key.hash] = key
        return Reply(201, {"data": key.shown(), "key": key.text})

    def _list(self, query: Mapping[str, str]) -> Reply:
        if not query.get("offset", "0").isdecimal():
            raise Refused(400, "offset must be a number")
        found = [
            key.shown()
            for key in sorted(self.keys.values(), key=lambda key: -key.number)  # the most recent first
            if key.workspace_id == query.get("workspace_id", DEFAULT_WORKSPACE)
            and (not key.disabled or query.get("include_disabled") == "true")
            and (not key.expired() or query.get("include_expired") == "true")
        ]
        offset = int(query.get("offset", "0"))
        return Reply(200, {"data": found[offset : offset + self._page_size]})

    def _update(self, key: Key, body: Mapping[str, Any]) -> Reply:
        for name, value in body.items():
            setattr(key, name, value)
        key.updated_at = datetime.now(UTC)
        return Reply(200, {"data": key.shown()})


def _body(asked: Asked, fields: set[str]) -> dict[str, Any]:
    """The fields of a request's body. Raises `Refused` for those that the reference does not have."""
    if not asked.headers.get("content-type", "").startswith("application/json"):
        raise Refused(400, "The body must be JSON")
    body = json.loads(asked.body)
    if not isinstance(body, dict) or not body.keys() <= fields:
        raise Refused(400, f"Unrecognized fields: {sorted(set(body) - fields)}")
    for name, value in body.items():
        if not isinstance(value, TYPES[name]) or (isinstance(value, bool) and bool not in TYPES[name]):
            raise Refused(400, f"{name} has the wrong type")
    if body.get("limit_reset") not in RESETS:
        raise Refused(400, "limit_reset must be daily, weekly, monthly or null")
    return body


def _expiry(text: str | None) -> datetime | None:
    if text is None:
        return None
    if not UTC_WITH_SECONDS.fullmatch(text):
        raise Refused(400, "expires_at must be UTC, with seconds")
    expiry = datetime.fromisoformat(text)
    if expiry <= datetime.now(UTC):
        raise Refused(400, "expires_at must be in the future")
    return expiry


@contextmanager
def openrouter(page_size: int = 100) -> Iterator[OpenRouter]:
    """Such a server on a free port of loopback."""
    vendor = OpenRouter(page_size)
    with canned(vendor.answer) as server:
        vendor.address = f"{server.address}/api/v1"
        yield vendor
