"""Asks a running daemon how its targets stand. What answers may be anything: it is looked at before it is believed."""

import json
import ssl
from typing import Any

from pydantic import BaseModel, ValidationError

from rotator.core.errors import StoreUnavailable
from rotator.core.plan import State
from rotator.runtime.clock import SystemClock
from rotator.runtime.http import HttpClient, NoResponse
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
    clock = SystemClock()
    client = HttpClient(clock, timeout=_SECONDS, context=ssl.create_default_context())
    answer = client.send("GET", f"{address}/status.json", by=clock.monotonic() + _SECONDS, max_body=_MAX_BODY)
    client.close()
    if isinstance(answer, NoResponse):
        raise StoreUnavailable(f"no daemon answers at {address}: {quoted(answer.reason)}", _ADVICE)
    if not answer.is_success:
        raise StoreUnavailable(
            f"the status of a daemon is not at {address} ({answer.status} for /status.json): is it the port of the "
            "metrics?",
            _ADVICE,
        )
    try:
        shown = json.loads(answer.body or b"")
    except (ValueError, RecursionError) as error:
        why = quoted(str(error)) if answer.body is not None else answer.flaw
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
