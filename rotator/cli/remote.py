"""Asks a running daemon how its targets stand. What answers may be anything: it is looked at before it is believed."""

import json
import ssl
from typing import Any

import httpx
from pydantic import BaseModel, ValidationError

from rotator.core.errors import StoreUnavailable
from rotator.core.plan import State
from rotator.runtime.clock import SystemClock
from rotator.runtime.http import Deadline, Transport
from rotator.runtime.redact import quoted

_ADVICE = "The admin address is [http].admin in its configuration; in a cluster, reach it through a port-forward."
_SECONDS = 30.0  # for all of it: of tens of thousands of targets it is made for a second or two
_MAX_BODY = 256 * 2**20  # bytes; a target takes less than a thousand


class _Superseded(BaseModel):
    key_id: str
    until: str | None


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
    logins_failing: list[str] = []
    configuration_refused: str | None = None


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
    try:
        shown = json.loads(_answer(f"{address}/status.json"))
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        raise StoreUnavailable(
            f"what answers at {address} has no status to show ({status} for /status.json): the port of the metrics?",
            _ADVICE,
        ) from None
    except (OSError, ValueError, httpx.HTTPError, httpx.InvalidURL, RecursionError) as error:
        why = quoted(str(error)) or type(error).__name__
        raise StoreUnavailable(f"no daemon answers at {address}: {why}", _ADVICE) from None
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


def _answer(url: str) -> bytes:
    clock = SystemClock()
    until = Deadline(clock)
    until.monotonic = clock.monotonic() + _SECONDS
    content = b""
    transport = Transport(ssl.create_default_context(), 1, until)
    client = httpx.Client(transport=transport, trust_env=False, headers={"Accept-Encoding": "identity"})
    with client, client.stream("GET", url, timeout=_SECONDS) as answer:
        for chunk in answer.raise_for_status().iter_raw():
            content += chunk
            if len(content) > _MAX_BODY:
                raise ValueError(f"its answer has more than {_MAX_BODY} bytes")
    return content
