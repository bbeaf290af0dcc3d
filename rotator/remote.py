"""Asks a running daemon how its targets stand. What answers may be anything: it is looked at before it is believed."""

import json
import urllib.request
from http.client import HTTPException
from typing import Any

from pydantic import BaseModel, ValidationError

from rotator.errors import StoreUnavailable
from rotator.plan import State

_ADVICE = "The admin address is [http].admin in its configuration; in a cluster, reach it through a port-forward."
_TIMEOUT = 10.0  # seconds


class _Superseded(BaseModel):
    key_id: str
    until: str


class _Target(BaseModel):
    name: str
    state: str
    key_id: str | None
    issued_at: str | None
    expires_at: str | None
    next_rotation_at: str | None
    reason: str | None
    superseded: list[_Superseded]
    last_error: str | None


class _Daemon(BaseModel):
    version: str
    replica: str | None
    leads: bool
    holder: str | None
    budgets_used: dict[str, float]
    logins_end: dict[str, str | None]
    down: dict[str, str]
    clock_trusted: bool


class _Event(BaseModel):
    at: str
    level: str
    event: str
    target: str | None
    fields: dict[str, str | int | float | bool]


class _Answer(BaseModel):
    """What is shown of an answer; a newer version may tell more."""

    at: str
    targets: list[_Target]
    daemon: _Daemon
    events: list[_Event]


def ask(url: str) -> dict[str, Any]:
    """A running daemon's status. Raises `StoreUnavailable` when there is none, which ends a command in status 3."""
    address = (url if "://" in url else f"http://{url}").rstrip("/")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{address}/status.json", timeout=_TIMEOUT) as answer:
            shown = json.load(answer)
    except (OSError, ValueError, HTTPException, RecursionError) as error:
        raise StoreUnavailable(f"no daemon answers at {address}: {error}", _ADVICE) from None
    try:
        _Answer.model_validate(shown, strict=True)
    except ValidationError as error:
        place = ".".join(map(str, error.errors(include_url=False, include_input=False)[0]["loc"])) or "its answer"
        raise StoreUnavailable(
            f"what answers at {address} is no rotator, or one of another version than this: {place} is not as expected",
            _ADVICE,
        ) from None
    known = set(State)
    # A state that only a newer version has is none that anybody here could tell apart.
    targets = [{**t, "state": t["state"] if t["state"] in known else State.UNKNOWN.value} for t in shown["targets"]]
    return {**shown, "targets": targets}
