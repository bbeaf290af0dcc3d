"""Reads the status of a running daemon. Its answer is validated: anything may listen at that address."""

import ssl

from pydantic import ValidationError

from rotator.core.errors import StoreUnavailable
from rotator.runtime.clock import SystemClock
from rotator.runtime.http import HttpClient, NoResponse
from rotator.runtime.redact import quoted
from rotator.telemetry.status_json import DaemonStatusJson

_ADVICE = "The admin address is [http].admin in its configuration; in a cluster, reach it through a port-forward."
_SECONDS = 30.0  # for the whole answer: a daemon with tens of thousands of targets needs a second or two
_MAX_BODY = 256 * 2**20  # bytes; a target takes less than a thousand


def ask(url: str) -> DaemonStatusJson:
    """Return the status of the daemon at this address. Raises `StoreUnavailable`, which ends a command with 3."""
    address = (url if "://" in url else f"http://{url}").rstrip("/")
    clock = SystemClock()
    client = HttpClient(clock, timeout=_SECONDS, context=ssl.create_default_context())
    answer = client.send("GET", f"{address}/status.json", by=clock.monotonic() + _SECONDS, max_body=_MAX_BODY)
    client.close()
    if isinstance(answer, NoResponse):
        raise StoreUnavailable(f"no daemon answers at {address}: {quoted(answer.reason)}", _ADVICE)
    if not answer.is_success:
        raise StoreUnavailable(
            f"the server at {address} has no status ({answer.status} for /status.json): is it the port of the metrics?",
            _ADVICE,
        )
    if answer.body is None:
        raise StoreUnavailable(f"no daemon answers at {address}: {quoted(answer.flaw)}", _ADVICE)
    try:
        return DaemonStatusJson.model_validate_json(answer.body)
    except ValidationError as error:
        place = ".".join(map(str, error.errors(include_url=False, include_input=False)[0]["loc"])) or "its answer"
        raise StoreUnavailable(
            f"the server at {address} is not rotator, or its version is not compatible: {place} is not as expected",
            _ADVICE,
        ) from None
