"""Reads the status of a running daemon, and informs one of a change.

An answer is validated: anything may listen at that address.
"""

import re
import ssl

from pydantic import ValidationError

from rotator.cli.streams import print_error
from rotator.core.errors import StoreUnavailable
from rotator.runtime.clock import SystemClock
from rotator.runtime.http import HttpClient, NoResponse, Response
from rotator.runtime.redact import quoted
from rotator.telemetry.status_json import DaemonStatusJson

_ADVICE = "The admin address is [http].admin in its configuration; in a cluster, reach it through a port-forward."
_SECONDS = 30.0  # for the whole answer: a daemon with tens of thousands of targets needs a second or two
_MAX_BODY = 256 * 2**20  # bytes; a target takes less than a thousand
_SECONDS_TO_INFORM = 5.0


def ask(url: str) -> DaemonStatusJson:
    """Return the status of the daemon at this address. Raises `StoreUnavailable`, which ends a command with 3."""
    address = _without_credentials(url)
    answer = _send("GET", f"{_address(url)}/status.json", _SECONDS, _MAX_BODY)
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


def request_look(url: str) -> None:
    """Have the daemon at this address read every path, which a command has changed. Print why it does not."""
    answer = _send("POST", f"{_address(url)}/look", _SECONDS_TO_INFORM, max_body=1000)
    if isinstance(answer, Response) and answer.is_success:
        return
    why = answer.reason if isinstance(answer, NoResponse) else f"it answered {answer.status}"
    print_error(
        f"rotator: the daemon at {_without_credentials(url)} was not informed, "
        f"so it shows the change within its [daemon].resync: {quoted(why)}"
    )


def _address(url: str) -> str:
    return (url if "://" in url else f"http://{url}").rstrip("/")


def _without_credentials(url: str) -> str:
    return re.sub("//[^/?#]*@", "//", _address(url))


def _send(method: str, url: str, seconds: float, max_body: int) -> Response | NoResponse:
    clock = SystemClock()
    client = HttpClient(clock, timeout=seconds, context=ssl.create_default_context())
    answer = client.send(method, url, by=clock.monotonic() + seconds, max_body=max_body)
    client.close()
    return answer
