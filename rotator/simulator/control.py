"""The control endpoint `/_simulator/…`, for other processes on this machine. It never shows a key's text.

GET     state[?fingerprints]   every record; on request with 16 hex digits of the text's SHA-256
GET     journal[?since=N]      the calls after number N
GET     faults                 the rules in force, and how many calls each has counted
POST    faults                 adds one: an object with the fields of `Fault`
DELETE  faults                 removes them
POST    release                executes the calls that wait to land late
"""

import ipaddress
import json
from dataclasses import asdict

from rotator.simulator.api import Api
from rotator.simulator.faults import Fault, Faults
from rotator.simulator.vendor import Json, Vendor, timestamp
from rotator.simulator.wire import Answer, Request, json_answer

PREFIX = "/_simulator/"


class Control:
    """Answers requests under `/_simulator/`, from loopback only."""

    def __init__(self, vendor: Vendor, faults: Faults, api: Api) -> None:
        self._vendor = vendor
        self._faults = faults
        self._api = api

    def answer(self, request: Request) -> Answer:
        """Return the answer to one request."""
        if not ipaddress.ip_address(request.peer).is_loopback:
            return json_answer(403, {"detail": "From loopback only."})
        match request.method, request.segments[1:]:
            case "GET", ["state"]:
                return json_answer(200, self._state(fingerprints="fingerprints" in request.query))
            case "GET", ["journal"]:
                since = request.query.get("since", "0")
                return json_answer(200, self._calls(int(since) if since.isascii() and since.isdigit() else 0))
            case "GET", ["faults"]:
                rules = [{**asdict(fault), "seen": seen} for fault, seen in self._faults.rules()]
                return json_answer(200, {"faults": rules})
            case "POST", ["faults"]:
                return self._add(request.body)
            case "DELETE", ["faults"]:
                self._faults.clear()
                return Answer(204)
            case "POST", ["release"]:
                return json_answer(200, {"landed": self._faults.release()})
        return json_answer(404, {"detail": "Not found."})

    def _state(self, *, fingerprints: bool) -> Json:
        keys: list[Json] = []
        for key in self._vendor.keys.values():
            shown: Json = {
                "id": key.id,
                "name": key.name,
                "created_at": timestamp(key.created_at),
                "expiry_date": timestamp(key.expiry_date),
                "revoked": key.revoked_at is not None,
                "key_usage": key.key_usage,
            }
            keys.append({**shown, "fingerprint": key.fingerprint()} if fingerprints else shown)
        return {"now": timestamp(self._vendor.now()), "keys": keys}

    def _calls(self, since: int) -> Json:
        calls = [call for call in self._api.journal if call.number > since]
        return {"calls": [{**asdict(call), "at": timestamp(call.at)} for call in calls]}

    def _add(self, body: bytes) -> Answer:
        try:
            rule = json.loads(body)
            if not isinstance(rule, dict):
                raise TypeError("a fault is an object")  # noqa: TRY301
            fault = Fault.from_json(rule)
        except (TypeError, ValueError, RecursionError) as error:
            return json_answer(400, {"detail": str(error)})
        self._faults.add(fault)
        return json_answer(201, asdict(fault))
