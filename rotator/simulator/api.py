"""The vendor's HTTP API over `Vendor`: routes, the order of the checks, faults, and the journal of calls.

A call is authenticated, counted against the organisation's limit, and read before a fault can pick it, so that a
refused call uses up no rule. All of this happens under the vendor's lock, so the journal has the order in which calls
took effect. Waiting and sending come later, in `wire.py`.
"""

import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypeVar

from rotator.simulator.faults import Fault, Faults
from rotator.simulator.vendor import Json, Key, Refusal, Vendor, throttled
from rotator.simulator.wire import Answer, Request, json_answer

JOURNAL_LENGTH = 500_000  # calls; older ones are dropped, so that a simulator can run for weeks

_COLLECTION = {"POST": "create", "GET": "list"}
_ITEM = {"GET": "retrieve", "PATCH": "update", "DELETE": "delete"}
_POLICIES = {"GET": "policies"}
_GATEWAY = {"POST": "chat"}

T = TypeVar("T")

HTML = b"<html><head><title>Bad Gateway</title></head><body><h1>The server is having a nap.</h1></body></html>\n"


@dataclass(frozen=True, slots=True)
class Call:
    """One call in the journal. `operation` is "landed" when a late call took effect."""

    number: int
    at: datetime
    operation: str
    key_id: str | None
    key_name: str | None
    status: int | None  # None: the connection was dropped
    fault: str | None


@dataclass(frozen=True, slots=True)
class _Ask:
    """One call that was read: its operation and its key."""

    operation: str
    key_id: str | None
    body: Json
    name: str
    request: Request


class Api:
    """Answers calls of the vendor's API and of its gateway."""

    def __init__(self, vendor: Vendor, faults: Faults) -> None:
        self._vendor = vendor
        self._faults = faults
        self._journal: deque[Call] = deque(maxlen=JOURNAL_LENGTH)
        self._calls = 0

    @property
    def journal(self) -> list[Call]:
        """Return the calls so far, in the order in which they took effect."""
        with self._vendor.lock:
            return list(self._journal)

    def answer(self, request: Request) -> Answer | None:
        """Return the answer to one request, or None to drop the connection."""
        match request.segments:
            case ["api", "temporary-keys", ""]:
                key_id, operations = None, _COLLECTION
            case ["api", "temporary-keys", str(key_id), ""] if key_id:
                operations = _ITEM
            case ["api", "limit-policies", ""]:
                key_id, operations = None, _POLICIES
            case ["api", "chat", "completions"] | ["api", "chat", "completions", ""]:
                key_id, operations = None, _GATEWAY
            case ["api", "temporary-keys"] | ["api", "temporary-keys", _] if self._vendor.options.slash == "301":
                path, mark, query = request.target.partition("?")
                return json_answer(301, {"detail": "Moved."}, (("Location", f"{path}/{mark}{query}"),))
            case _:
                return json_answer(404, {"detail": "Not found."})
        operation = operations.get(request.method)
        if operation is None:
            return json_answer(405, {"detail": f'Method "{request.method}" not allowed.'})
        with self._vendor.lock:
            answer = self._call(operation, key_id, request)
            if operation != "chat":  # applications call at any time, so late effects must not depend on them
                self._faults.tick()
            return answer

    def _call(self, operation: str, key_id: str | None, request: Request) -> Answer | None:
        name, fault = None, None
        answer: Answer | None
        try:
            if operation == "chat":
                key = self._vendor.key_of(request.bearer or "")
                key_id = key.id if key else None
            else:
                self._admit(operation, request.bearer)
            body = _json_object(request.body) if operation in ("create", "update") else {}
            name = self._name(operation, key_id, body)
            fault = self._faults.pick(operation, name or "")
            ask = _Ask(operation, key_id, body, name or "", request)
            answer, key_id = self._amid(fault, ask) if fault else self._perform(ask)
        except Refusal as refusal:
            answer = self._refused(refusal)
        self._note(operation, key_id, name, answer.status if answer else None, fault.kind if fault else None)
        return answer

    def _admit(self, operation: str, bearer: str | None) -> None:
        vendor = self._vendor
        if operation != "list" or vendor.options.strangers_list == "refused" or vendor.is_organisation(bearer):
            vendor.admit(bearer)

    def _name(self, operation: str, key_id: str | None, body: Json) -> str | None:
        if operation == "create":
            name = body.get("name")
            return name if isinstance(name, str) else None
        key = self._vendor.find(key_id or "")
        return key.name if key else None

    def _note(
        self, operation: str, key_id: str | None, name: str | None, status: int | None, fault: str | None
    ) -> None:
        self._calls += 1
        self._journal.append(Call(self._calls, self._vendor.now(), operation, key_id, name, status, fault))

    # --- doing it ---

    def _perform(self, ask: _Ask, fault: Fault | None = None) -> tuple[Answer, str | None]:
        """Perform the call. Return the answer, and the id of its key."""
        vendor, options, key_id = self._vendor, self._vendor.options, ask.key_id or ""
        try:
            match ask.operation:
                case "create":
                    key = vendor.create(ask.body)
                    return json_answer(options.create_status, vendor.shown(key, "create")), key.id
                case "list":
                    return json_answer(200, self._list(ask.request, fault)), None
                case "policies":
                    page, results = self._page(ask.request, vendor.policies())
                    return json_answer(200, page | {"results": [*results]}), None
                case "retrieve":
                    return json_answer(200, vendor.shown(vendor.retrieve(key_id))), key_id
                case "update":
                    return json_answer(200, vendor.shown(vendor.update(key_id, ask.body))), key_id
                case "delete":
                    key = vendor.delete(key_id)
                    body = b"" if options.delete_status == 204 else json.dumps(vendor.shown(key)).encode()
                    return Answer(options.delete_status, body), key_id
            key = vendor.use(ask.request.bearer)
            return json_answer(200, _completion(key)), key.id
        except Refusal as refusal:
            return self._refused(refusal), ask.key_id

    def _list(self, request: Request, fault: Fault | None) -> object:
        """Return a page (`count` is this page's, `next` an absolute URL), or all keys as a bare array."""
        vendor = self._vendor
        lag_s = fault.seconds if fault and fault.kind == "lag" else 0.0
        keys = vendor.listed(timedelta(seconds=lag_s)) if vendor.is_organisation(request.bearer) else []
        if vendor.options.list_shape == "array":
            return [vendor.shown(key, "list") for key in keys]
        shift = fault.by if fault and fault.kind == "shift" else 0
        page, results = self._page(request, keys, shift)
        return page | {"current_filters": {}, "results": [vendor.shown(key, "list") for key in results]}

    def _page(self, request: Request, entries: Sequence[T], shift: int = 0) -> tuple[Json, Sequence[T]]:
        """Return the page object without its results, and the entries on that page."""
        size = self._vendor.options.page_size
        asked = request.query.get("page", "1")
        page = int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 10 else 0
        pages = max(1, -(-(len(entries) - shift) // size))
        if not 1 <= page <= pages:
            raise Refusal(404, "Invalid page.")
        results = entries[max(0, (page - 1) * size + shift) : page * size + shift]
        # Like the vendor's framework, from the host name that the client used.
        here = f"http://{request.headers.get('host', '')}{request.target.partition('?')[0]}"
        return {
            "count": len(results),
            "next": f"{here}?page={page + 1}" if page < pages else None,
            "previous": f"{here}?page={page - 1}" if page > 1 else None,
        }, results

    def _refused(self, refusal: Refusal) -> Answer:
        body, where = dict(refusal.body), self._vendor.options.retry_after
        headers: tuple[tuple[str, str], ...] = ()
        if "retry_after" in body and where in ("header", "both"):
            headers = (("Retry-After", str(body["retry_after"])),)
        if where in ("header", "none"):
            body.pop("retry_after", None)
        return json_answer(refusal.status, body, headers)

    # --- doing it badly ---

    def _amid(self, fault: Fault, ask: _Ask) -> tuple[Answer | None, str | None]:
        """Perform the call, or not, as the fault requires."""
        match fault.kind:
            case "refuse":
                return _error(fault.answered()), ask.key_id
            case "rate_limit":
                return self._refused(throttled(fault.retry_after)), ask.key_id
            case "html":
                return Answer(fault.answered(), HTML, content_type="text/html"), ask.key_id
            case "redirect":
                headers = (("Location", fault.location),)
                return json_answer(fault.answered(), {"detail": "Moved."}, headers), ask.key_id
            case "drop_before":
                return None, ask.key_id
            case "late":
                self._faults.postpone(self._landing(ask), fault.after)
                return None, ask.key_id
        answer, key_id = self._perform(ask, fault)
        return _spoilt(fault, answer), key_id

    def _landing(self, ask: _Ask) -> Callable[[], None]:
        def land() -> None:
            with self._vendor.lock:
                answer, key_id = self._perform(ask)
                self._note("landed", key_id, ask.name, answer.status, "late")

        return land


def _spoilt(fault: Fault, answer: Answer) -> Answer | None:
    """Return the answer as the fault distorts it."""
    match fault.kind:
        case "drop_after":
            return None
        case "fail":
            return _error(fault.answered())
        case "slow":
            return replace(answer, delay_s=fault.seconds)
        case "drip":
            return replace(answer, drip_s=fault.seconds)
        case "truncate":
            return replace(answer, cut=True)
        case "garble":
            return replace(answer, body=answer.body[: len(answer.body) // 2])
        case "oversize":
            return replace(answer, body=answer.body + b" " * fault.size)
        case "omit" if answer.body:
            return _edited(answer, lambda body: {n: value for n, value in body.items() if n not in fault.fields})
        case "foreign_next" if answer.body:
            return _edited(answer, lambda body: {**body, "next": fault.location})
    return answer


def _edited(answer: Answer, edit: Callable[[Json], Json]) -> Answer:
    body = json.loads(answer.body)
    return replace(answer, body=json.dumps(edit(body) if isinstance(body, dict) else body).encode())


def _error(status: int) -> Answer:
    body: Json = {"detail": "A requested fault."}
    if status in (400, 422):
        body["errors"] = {"non_field_errors": ["A requested fault."]}
    return json_answer(status, body)


def _json_object(body: bytes) -> Json:
    try:
        value = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise Refusal(400, "JSON parse error.", errors={"non_field_errors": ["Not JSON."]}) from None
    if not isinstance(value, dict):
        raise Refusal(400, "Invalid input.", errors={"non_field_errors": ["Expected an object."]})
    return value


def _completion(key: Key) -> Json:
    message = {"role": "assistant", "content": f"You are served with the key {key.prefix}."}
    return {"object": "chat.completion", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
