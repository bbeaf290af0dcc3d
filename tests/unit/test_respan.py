"""RespanProvider against the simulator and all its faults, and against servers that answer any bytes at all."""

import json
import socketserver
import ssl
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import pytest
import stamina
import trustme
from support.canned import Reply
from support.canned import canned as recording
from support.clocks import FakeClock
from support.process import free_ports

from rotator.config.provider_settings import ProbeSettings
from rotator.config.provider_type import ProviderContext
from rotator.core.errors import (
    ConfigurationError,
    Problem,
    ProviderCredentialRefused,
    ProviderError,
    ProviderKeyNotAccepted,
    ProviderOutcomeUnknown,
    ProviderRateLimited,
    ProviderRequestRefused,
    ProviderUnavailable,
    RotatorError,
)
from rotator.core.keys import CreatedKey, ListedKey, ProviderKey, UnreadableKey
from rotator.core.renewal import TIDYING
from rotator.core.secrets import Secret
from rotator.providers import client as shared
from rotator.providers.answers import Answer, is_id
from rotator.providers.errors import ErrorFactory
from rotator.providers.respan.client import RespanProvider
from rotator.providers.respan.responses import listed_key
from rotator.providers.respan.settings import RespanSettings
from rotator.runtime import breaker as circuit
from rotator.runtime.breaker import CONFIRMED_FOR, FIRST_WAIT
from rotator.runtime.clock import SystemClock
from rotator.runtime.rate_limit import SlidingWindow
from rotator.simulator import Fault, Options, Simulator

EXPIRY = datetime(2126, 3, 1, 12, 0, tzinfo=UTC)
LATER = EXPIRY + timedelta(days=1)
NONE: dict[str, int] = {}
KEY = "sk_live_made-up.0123456789+/="

Operation = Callable[[RespanProvider, str], Any]
OPERATIONS: dict[str, Operation] = {
    "create": lambda provider, _: provider.create("n", NONE, EXPIRY),
    "list": lambda provider, _: listed(provider),
    "retrieve": lambda provider, key_id: provider.retrieve(key_id),
    "update": lambda provider, key_id: provider.set_expiry(key_id, LATER),
    "delete": lambda provider, key_id: provider.delete(key_id),
}
READS = ("list", "retrieve")
CHANGES = ("create", "update", "delete")


def listed(provider: RespanProvider) -> list[ListedKey]:
    return [key for page in provider.pages(lambda: None) for key in page]


def unsettled(operation: str) -> type[ProviderError]:
    return ProviderUnavailable if operation in READS else ProviderOutcomeUnknown


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Retries without their waits, and certifi's certificates read once."""
    monkeypatch.setattr(httpx, "create_ssl_context", lambda **_: CONTEXT)
    with stamina.set_testing(True, attempts=3, cap=True):
        yield


CONTEXT = httpx.create_ssl_context(trust_env=False)


@dataclass
class Source:
    """A source of the organisation key, which returns `texts` one after the other and then the last one."""

    texts: list[str | RotatorError]
    calls: int = 0

    def __call__(self) -> Secret:
        text = self.texts[min(self.calls, len(self.texts) - 1)]
        self.calls += 1
        if isinstance(text, RotatorError):
            raise text
        return Secret(text)


@dataclass
class Noted:
    """What the provider reported to its listeners."""

    requests: list[tuple[str, str]] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)

    def meter(self, operation: str, outcome: str, seconds: float) -> None:
        assert seconds >= 0
        self.requests.append((operation, outcome))


class Rig:
    """A provider in front of a simulator, with one key there already."""

    def __init__(self, sim: Simulator, stack: ExitStack) -> None:
        self.sim = sim
        self.noted = Noted()
        self._stack = stack
        self.provider = self.another()
        self.key_id = self.provider.create("first", NONE, EXPIRY).id
        self.noted.requests.clear()
        self._before = len(sim.journal)

    def another(self, **arguments: Any) -> RespanProvider:
        given = {"credential": Source([self.sim.organisation_key]), **arguments}
        return self._stack.enter_context(provider_at(self.sim.url, self.noted, **given))

    def calls(self, operation: str) -> list[int | None]:
        """The statuses of the calls since the rig stood, as the simulator saw them."""
        return [call.status for call in self.sim.journal[self._before :] if call.operation == operation]

    def refused(self, operation: str, provider: RespanProvider | None = None) -> RotatorError:
        """The error that an operation ends with, after a look for keys in it."""
        texts = [self.sim.organisation_key, *(key.text for key in self.sim.vendor.keys.values())]
        return refused(lambda: OPERATIONS[operation](provider or self.provider, self.key_id), *texts)


def refused(call: Callable[[], object], *secrets: str) -> RotatorError:
    with pytest.raises(RotatorError) as caught:
        call()
    texts = [*secrets, KEY]
    chain: list[BaseException] = [caught.value]
    for error in chain:
        # No exception of httpx's is chained to it: those hold requests.
        assert type(error).__module__ == "rotator.core.errors"
        chain += [other for other in (error.__cause__, error.__context__) if other is not None]
        shown = [str(error), repr(error), repr(vars(error)), *traceback.format_exception(error)]
        assert not [text for text in texts for words in shown if text in words]
    assert caught.value.message
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 500
    return caught.value


@contextmanager
def provider_at(url: str, noted: Noted, **arguments: Any) -> Iterator[RespanProvider]:
    options: dict[str, Any] = {"base_url": url}
    options |= {name: arguments.pop(name) for name in ("timeout", "probe", "limit_policies") if name in arguments}
    given: dict[str, Any] = {
        "name": "respan",
        "credential": Source([KEY]),
        "clock": SystemClock(),
        "meter": noted.meter,
        "rate_limited": noted.pauses.append,
        "before_confirming": lambda: None,
        "connections": 8,
        **arguments,
    }
    made = RespanProvider(RespanSettings.model_construct(**options), ProviderContext(**given))
    with closing(made) as provider:
        yield provider


@contextmanager
def rigged(**options: Any) -> Iterator[Rig]:
    options = {"requests_per_minute": None} | options
    with ExitStack() as stack:
        yield Rig(stack.enter_context(Simulator(options=Options(**options))), stack)


@pytest.fixture
def rig() -> Iterator[Rig]:
    with rigged() as made:
        yield made


class Canned(socketserver.ThreadingTCPServer):
    """Answers every request with the same bytes, in parts with a pause between; remembers the requests' heads."""

    allow_reuse_address = True

    def __init__(self, *parts: bytes, pause: float = 0.0) -> None:
        self.parts, self.pause = parts, pause
        self.heads: list[bytes] = []
        self.stopping = threading.Event()
        super().__init__(("127.0.0.1", 0), _CannedConnection)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: object) -> None:
        """A client that goes away is what is tested."""


class _CannedConnection(socketserver.StreamRequestHandler):
    server: Canned

    def handle(self) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self.rfile.readline()
            if not line:
                return
            head += line
        self.server.heads.append(head)
        for part in self.server.parts:
            self.wfile.write(part)
            if self.server.stopping.wait(self.server.pause):
                return


@contextmanager
def canned(*parts: bytes, pause: float = 0.0) -> Iterator[Canned]:
    with Canned(*parts, pause=pause) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.stopping.set()
            server.shutdown()
            thread.join()


def response(status: int, body: object, *headers: str, content_type: str = "application/json") -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Type: {content_type}", f"Content-Length: {len(content)}"]
    return "\r\n".join([*lines, "Connection: close", *headers, "", ""]).encode() + content


@contextmanager
def answering(*parts: bytes, **arguments: Any) -> Iterator[tuple[RespanProvider, Canned, Noted]]:
    noted = Noted()
    with canned(*parts) as server, provider_at(server.url, noted, **arguments) as provider:
        yield provider, server, noted


# --- what goes well ---


@pytest.mark.parametrize("id_shape", ["uuid", "tk", "tmpkey", "prefix"])
@pytest.mark.parametrize("list_shape", ["page", "array"])
def test_a_key_lives_its_life_under_every_shape_of_id_and_list(id_shape: str, list_shape: str) -> None:
    with rigged(id_shape=id_shape, list_shape=list_shape, page_size=2) as rig:
        made = [rig.provider.create(f"n{number}", NONE, EXPIRY) for number in range(4)]
        key = made[0]
        assert rig.sim.vendor.works(key.secret.reveal())
        assert key.expires_at == EXPIRY
        assert rig.provider.retrieve(key.id) == ProviderKey(key.id, "n0", EXPIRY)
        assert {found.id for found in listed(rig.provider)} == {rig.key_id, *(key.id for key in made)}
        assert rig.provider.set_expiry(key.id, LATER) == ProviderKey(key.id, "n0", LATER)
        assert rig.sim.vendor.keys[key.id].expiry_date == LATER
        rig.provider.delete(key.id)
        assert not rig.sim.vendor.works(key.secret.reveal())
        assert key.id not in {found.id for found in listed(rig.provider)}
        assert all(rig.sim.vendor.works(key.secret.reveal()) for key in made[1:])


@pytest.mark.parametrize(
    "key_id", ["a/b", "a%2Fb", "%", "a?b#c", "a b", "ä", "$+/=", "a;b", "a:b@c", "..a", "a//b", "/"]
)
def test_any_id_is_one_segment_of_the_path(key_id: str) -> None:
    with answering(response(404, {})) as (provider, server, _):
        provider.delete(key_id)
        [head] = server.heads
    path = head.split()[1].decode()
    assert path.startswith("/api/temporary-keys/")
    assert path.count("/") == 4
    assert httpx.URL(f"http://h{path}").path == f"/api/temporary-keys/{key_id}/"  # decoded once, it is the id


@pytest.mark.parametrize(
    "key_id", ["", ".", "..", "a/..", "../../users", "a/./b", "a\\..\\b", "a\nb", "\ud800", "a" * 301]
)
def test_what_leads_to_another_path_is_the_id_of_no_key_and_is_sent_nowhere(rig: Rig, key_id: str) -> None:
    assert rig.provider.retrieve(key_id) is None
    assert rig.provider.set_expiry(key_id, LATER) is None
    rig.provider.delete(key_id)
    assert rig.noted.requests == []
    assert not is_id(key_id)


def test_only_what_is_configured_is_sent() -> None:
    reply = Reply(200, {"id": "a", "api_key": "b"})
    with recording(lambda _: reply) as server, provider_at(server.address, Noted()) as provider:
        provider.create("n", NONE, EXPIRY + timedelta(microseconds=5))
        provider.create("n", {"rate_limit": 0, "max_usage": -1, "is_test": False}, EXPIRY)
        provider.set_expiry("a", EXPIRY)
    expiry = {"expiry_date": "2126-03-01T12:00:00Z"}
    assert [json.loads(asked.body) for asked in server.asked] == [
        {"name": "n"} | expiry,
        {"name": "n", "rate_limit": 0, "max_usage": -1, "is_test": False} | expiry,
        expiry,
    ]


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b'{"id": "a"}', b'{"id": "a", "expiry_date": "soon"}'],
)
def test_an_answer_to_a_change_that_cannot_be_read_shows_no_expiry(body: bytes) -> None:
    with answering(response(200, body)) as (provider, _, _):
        assert provider.set_expiry("a", LATER) == ProviderKey("a", "", None)


def test_an_expiry_that_the_provider_rounds_is_shown_as_the_provider_keeps_it() -> None:
    with rigged(expiry_round_s=3600) as rig:
        asked = EXPIRY + timedelta(minutes=59)
        assert rig.provider.set_expiry(rig.key_id, asked) == ProviderKey(rig.key_id, "first", EXPIRY)


def test_the_parameters_arrive(rig: Rig) -> None:
    key = rig.provider.create("n", {"rate_limit": 100, "spending_limit": 2.5, "max_usage": 7, "is_test": True}, EXPIRY)
    record = rig.sim.vendor.keys[key.id]
    assert (record.rate_limit, record.spending_limit, record.max_usage, record.is_test) == (100, 2.5, 7, True)


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_any_2xx_is_a_success(status: int) -> None:
    with rigged(create_status=201 if status == 204 else status, delete_status=status) as rig:
        key = rig.provider.create("n", NONE, EXPIRY)
        rig.provider.delete(key.id)
        assert rig.sim.vendor.keys[key.id].revoked_at


@pytest.mark.parametrize("deleted", ["revoked", "404"])
def test_a_deleted_key_is_gone(deleted: str) -> None:
    with rigged(deleted=deleted, older_fields=True, created_field="created") as rig:
        assert rig.provider.retrieve(rig.key_id)
        rig.provider.delete(rig.key_id)
        assert rig.provider.retrieve(rig.key_id) is None
        assert rig.provider.set_expiry(rig.key_id, LATER) is None
        rig.provider.delete(rig.key_id)


def test_an_unknown_key_is_gone(rig: Rig) -> None:
    assert rig.provider.retrieve("unknown") is None
    assert rig.provider.set_expiry("unknown", LATER) is None
    rig.provider.delete("unknown")
    assert rig.noted.requests == [("retrieve", "404"), ("update", "404"), ("delete", "404")]


def test_a_deleted_key_that_is_listed_all_the_same_is_left_out() -> None:
    entries = [{"id": "a", "revoked": True}, {"id": "b", "revoked": False}, {"id": "c", "more": {}}, {"revoked": True}]
    with answering(response(200, entries)) as (provider, _, _):
        assert [key.id for key in listed(provider)] == ["b", "c"]


def test_the_meter_counts_every_request(rig: Rig) -> None:
    for operation in OPERATIONS.values():
        operation(rig.provider, rig.key_id)
    assert rig.noted.requests == [
        ("create", "201"),
        ("list", "200"),
        ("retrieve", "200"),
        ("update", "200"),
        ("delete", "204"),
    ]


def test_many_threads_share_it(rig: Rig) -> None:
    keys: list[CreatedKey] = []
    threads = [
        threading.Thread(target=lambda: keys.extend(rig.provider.create("n", NONE, EXPIRY) for _ in range(5)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({key.id for key in keys}) == 40


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2126-03-01T12:00:00Z", EXPIRY),
        ("2126-03-01T12:00:00+00:00", EXPIRY),
        ("2126-03-01T12:00:00.123456789Z", EXPIRY.replace(microsecond=123456)),
        ("2126-03-01T12:00:00.5", EXPIRY.replace(microsecond=500000)),
        ("2126-03-01T14:00:00+02:00", EXPIRY),
        ("2126-03-01 12:00:00", EXPIRY),
        (EXPIRY.timestamp(), EXPIRY),
        (int(EXPIRY.timestamp()) * 1000, EXPIRY),
        ("9999-12-31T23:59:59-08:00", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("", None),
        ("Never", None),
        (None, None),
    ],
)
def test_times_are_read_in_every_shape(text: object, moment: datetime | None) -> None:
    assert listed_key({"id": "a", "expiry_date": text}, EXPIRY) == ProviderKey("a", "", moment)


def test_a_time_without_a_zone_is_utc_wherever_we_are(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        key = listed_key({"id": "a", "expiry_date": "2126-03-01T12:00:00"}, EXPIRY)
    time.tzset()
    assert key == ProviderKey("a", "", EXPIRY)


@pytest.mark.parametrize(
    ("expiry", "shown"),
    [
        ("soon", '"soon"'),
        (["x"], "an array"),
        ({}, "an object"),
        (True, "true"),
        (0, "0"),
        (-1, "-1"),
        (86400, "86400"),
        (10**400, f"{10**400}"[:200] + "…"),
        (-(10**17), "-1" + "0" * 17),
        ("1772366400000", '"1772366400000"'),
        ("0001-01-01T00:00:00+23:00", '"0001-01-01T00:00:00+23:00"'),
        ("x" * 70_000, "a text of 70000 characters"),
    ],
)
def test_a_time_that_cannot_be_read_is_named_and_a_new_key_can_be_removed_all_the_same(
    expiry: object, shown: str
) -> None:
    with answering(response(200, {"id": "a", "expiry_date": expiry, "api_key": "b"})) as (provider, _, _):
        error = refused(lambda: provider.retrieve("a"))
        assert isinstance(error, ProviderUnavailable)
        assert f"a, whose expiry_date is {shown}" in error.message
        assert provider.create("n", NONE, EXPIRY) == CreatedKey("a", "", Secret("b"), None)


@pytest.mark.parametrize(
    ("entry", "known"),
    [
        (None, UnreadableKey("", "", "which is null")),
        ([], UnreadableKey("", "", "which is an array")),
        ("a", UnreadableKey("", "", 'which is "a"')),
        ({}, UnreadableKey("", "", "whose id is null")),
        ({"id": 5.5, "name": "n"}, UnreadableKey("", "n", "whose id is 5.5")),
        ({"id": "..", "name": 5}, UnreadableKey("", "", 'whose id is ".."')),
        ({"id": "a", "name": "n", "expiry_date": "soon"}, UnreadableKey("a", "n", 'whose expiry_date is "soon"')),
    ],
)
def test_an_entry_that_cannot_be_read_is_listed_as_that_and_spoils_no_other(
    entry: object, known: UnreadableKey
) -> None:
    with answering(response(200, [{"id": "b"}, entry, {"id": "c"}])) as (provider, _, _):
        assert listed(provider) == [ProviderKey("b", "", None), known, ProviderKey("c", "", None)]


def test_a_number_is_no_id() -> None:
    with answering(response(200, [{"id": 5, "name": "n"}])) as (provider, _, _):
        assert listed(provider) == [UnreadableKey("", "n", "whose id is 5")]
    with answering(response(200, {"id": 5, "api_key": "b"})) as (provider, _, _):
        assert isinstance(refused(lambda: provider.create("n", NONE, EXPIRY)), ProviderOutcomeUnknown)
        assert isinstance(refused(lambda: provider.retrieve("5")), ProviderUnavailable)
        assert provider.set_expiry("a", LATER)


def test_nothing_is_taken_from_the_environment(rig: Rig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert listed(rig.another())


def test_cookies_are_not_kept() -> None:
    with answering(response(200, [], "Set-Cookie: session=x; Path=/")) as (provider, server, _):
        listed(provider)
        listed(provider)
        assert not [head for head in server.heads if b"cookie" in head.lower()]


# --- every status, at every operation ---

STATUSES = [
    301,
    302,
    307,
    308,
    400,
    401,
    402,
    403,
    404,
    405,
    408,
    409,
    410,
    413,
    418,
    422,
    429,
    500,
    501,
    502,
    503,
    504,
]


def meaning(operation: str, status: int) -> type[ProviderError] | None:
    """The error that the design demands for a status; None: it is no error."""
    match status:
        case 404 if operation in ("retrieve", "update", "delete"):
            return None
        case 401 | 403 if operation == "list":
            return ProviderCredentialRefused
        case 429:
            return ProviderRateLimited
        case 408:
            return unsettled(operation)
    return unsettled(operation) if status >= 500 else ProviderRequestRefused


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_status_has_its_meaning(rig: Rig, operation: str) -> None:
    for status in STATUSES:
        rig.sim.faults.clear()
        rig.sim.faults.add(Fault("refuse", operation, status=status, times=None))
        rig.noted.requests.clear()
        rig.provider.circuit.worked()  # each status for itself
        expected = meaning(operation, status)
        if expected is None:
            assert not OPERATIONS[operation](rig.provider, rig.key_id)
            continue
        error = rig.refused(operation)
        assert type(error) is expected, status
        assert str(status) in error.message
        assert status < 400 or "A requested fault" in error.message
        assert error.advice or expected is ProviderRateLimited
        assert operation in CHANGES or "the ttl" not in error.advice, "a read depends on no target"
        tries = {ProviderUnavailable: 3, ProviderRateLimited: 2}.get(expected, 1) if operation == "list" else 1
        assert [asked for asked in rig.noted.requests if asked != ("list", "200")] == [(operation, str(status))] * tries


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_proxys_page_is_reported_as_one(rig: Rig, operation: str) -> None:
    for status in (400, 502):
        rig.sim.faults.add(Fault("html", operation, status=status, times=3))
        error = rig.refused(operation)
        assert type(error) is (ProviderRequestRefused if status == 400 else unsettled(operation))
        assert 'an HTML page (a proxy?): "Bad Gateway"' in error.message
        assert "nap" not in error.message
        rig.sim.faults.clear()


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_redirect_is_not_followed(rig: Rig, operation: str) -> None:
    with canned(response(200, [])) as elsewhere:
        for status in (301, 302, 303, 307, 308):
            rig.sim.faults.add(Fault("redirect", operation, status=status, location=f"{elsewhere.url}/"))
            error = rig.refused(operation)
            assert isinstance(error, ProviderRequestRefused)
            assert "redirect" in error.message
            assert "base_url" in error.advice
        assert elsewhere.heads == []


@pytest.mark.parametrize("invalid_status", [400, 422])
def test_the_providers_reason_is_quoted(invalid_status: int) -> None:
    with rigged(invalid_status=invalid_status) as rig:
        error = refused(lambda: rig.provider.create("n" * 51, NONE, EXPIRY))
        assert isinstance(error, ProviderRequestRefused)
        assert (
            error.message == f"Respan refused to create a key ({invalid_status}: Invalid input; "
            "name: Ensure this field has no more than 50 characters)"
        )


@pytest.mark.parametrize("where", ["body", "header", "both"])
def test_a_429_pauses_the_budget(where: str) -> None:
    with rigged(retry_after=where) as rig:
        for operation in OPERATIONS:
            rig.sim.faults.add(Fault("rate_limit", operation, retry_after=17, times=None))
            error = rig.refused(operation)
            assert isinstance(error, ProviderRateLimited)
            assert error.retry_after == 17
        assert rig.noted.pauses == [17] * 6
        assert len(rig.noted.requests) == 6  # and nothing but a page was tried again, once


NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class Clock(SystemClock):
    """A wall clock that stands, and monotonic seconds that a test may move."""

    ahead = 0.0

    def now(self) -> datetime:
        return NOW

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


@pytest.mark.parametrize(
    ("body", "header", "seconds"),
    [
        ({"retry_after": 12}, "99", 12),
        ({"retry_after": "12.5"}, "", 12.5),
        ({}, "99", 99),
        ([], format_datetime(NOW + timedelta(seconds=42), usegmt=True), 42),
        ({}, format_datetime(NOW - timedelta(days=1), usegmt=True), 1),
        ({"retry_after": 0}, "", 1),
        ({"retry_after": -5}, "", 1),
        ({"retry_after": 86400}, "", 300),
        ({"retry_after": None}, "", 30),
        ({"retry_after": True}, "soon", 30),
        ({"retry_after": {}}, "", 30),
        (b'{"retry_after": NaN}', "", 30),
        (b'{"retry_after": 1e999}', "7", 7),
        (b"<html>", "", 30),
    ],
)
def test_how_long_to_wait(body: object, header: str, seconds: float) -> None:
    with answering(response(429, body, f"Retry-After: {header}"), clock=Clock()) as (provider, _, noted):
        error = refused(lambda: provider.retrieve("a"))
        assert isinstance(error, ProviderRateLimited)
        assert error.retry_after == seconds
        assert noted.pauses == [seconds]


# --- answers that are lost, late or broken ---


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("kind", ["drop_before", "drop_after", "late", "truncate", "garble", "oversize", "fail"])
def test_a_lost_or_broken_answer(operation: str, kind: str) -> None:
    with rigged(delete_status=200) as rig:  # with a body to break
        rig.sim.faults.add(Fault(kind, operation, times=None))
        needs_body = operation in (*READS, "create")
        if not needs_body and kind in ("truncate", "garble", "oversize"):
            # The status is the answer; an update shows no expiry, and a delete shows nothing.
            assert OPERATIONS[operation](rig.provider, rig.key_id) in (ProviderKey(rig.key_id, "", None), None)
        else:
            assert type(rig.refused(operation)) is unsettled(operation)
        tries = 3 if operation == "list" else 1
        assert len(rig.calls(operation)) == len(rig.noted.requests) == tries


@pytest.mark.parametrize("kind", ["drop_before", "drop_after", "late", "truncate", "garble", "fail", "refuse", "html"])
def test_a_page_survives_two_failures_and_each_request_is_paid_for(rig: Rig, kind: str) -> None:
    rig.sim.faults.add(Fault(kind, "list", times=2))
    paid: list[bool] = []
    assert list(rig.provider.pages(lambda: paid.append(True)))
    assert len(rig.calls("list")) == len(paid) == 3


def test_a_page_further_on_is_tried_again_alone() -> None:
    with rigged(page_size=1) as rig:
        rig.provider.create("second", NONE, EXPIRY)
        rig.sim.faults.add(Fault("refuse", "list", skip=1, times=2))
        assert len(listed(rig.provider)) == 2
        assert rig.calls("list") == [200, 503, 503, 200]
        rig.sim.faults.add(Fault("refuse", "list", skip=1, times=3))
        pages = rig.provider.pages(lambda: None)
        assert next(pages)
        assert isinstance(refused(lambda: next(pages)), ProviderUnavailable)


def test_a_list_goes_on_after_one_429() -> None:
    with rigged(page_size=1) as rig:
        rig.provider.create("second", NONE, EXPIRY)
        rig.sim.faults.add(Fault("rate_limit", "list", retry_after=17, skip=1, times=1))
        assert len(listed(rig.provider)) == 2
        assert rig.calls("list") == [200, 429, 200]
        assert rig.noted.pauses == [17]


def test_waiting_for_the_budget_takes_nothing_of_a_page_s_time() -> None:
    """As in a sweep, which uses a fifth of sixty requests a minute: a long list takes minutes, each page seconds."""
    clock = FakeClock()
    share = SlidingWindow(12, clock, whole=SlidingWindow(60, clock))
    with rigged(page_size=1) as rig:
        provider = rig.another(clock=clock)
        for number in range(29):
            provider.create(f"key-{number}", NONE, EXPIRY)
        began = clock.monotonic()
        assert len([key for page in provider.pages(lambda: share.take(TIDYING)) for key in page]) == 30
        assert clock.monotonic() - began > 100


@pytest.mark.parametrize(
    "kind",
    [
        "refuse",
        "rate_limit",
        "html",
        "redirect",
        "drop_before",
        "late",
        "drop_after",
        "fail",
        "truncate",
        "garble",
        "oversize",
        "omit",
    ],
)
def test_a_create_is_sent_exactly_once(rig: Rig, kind: str) -> None:
    rig.sim.faults.add(Fault(kind, "create", location="/", times=None))
    rig.refused("create")
    assert len(rig.calls("create")) == 1


def test_of_a_name_no_more_is_kept_than_any_key_of_ours_has() -> None:
    """A page or a log line that shows it searches it for secrets: 700 KB stall it for seconds."""
    key = listed_key({"id": "a", "name": "n" * 700_000}, EXPIRY)
    assert key == ProviderKey("a", "n" * 300, None)


@pytest.mark.parametrize("omitted", ["id", "api_key"])
def test_a_created_key_without_id_or_text_may_exist(rig: Rig, omitted: str) -> None:
    rig.sim.faults.add(Fault("omit", "create", fields=(omitted,)))
    assert isinstance(rig.refused("create"), ProviderOutcomeUnknown)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"17",
        b'"text"',
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"id": "a"',
        b"\xff\xfe",
        b"<html><p>hi",
        b"1" * 5000,
        b'{"id": 5.5, "api_key": 6}',
        b'{"id": "a", "api_key": ""}',
        b'{"id": "", "api_key": "b"}',
        b'{"id": "..", "api_key": "b"}',
        b'{"id": "a", "api_key": "\\ud800"}',
        b'{"id": "a\\n", "api_key": "b"}',
        b'{"id": "%s", "api_key": "b"}' % (b"a" * 301),
        b'{"id": "a", "api_key": "%s"}' % (b"b" * 4097),
        b'{"id": "a", "api_key": "a"}',
    ],
)
def test_a_success_that_makes_no_sense_is_none(body: bytes) -> None:
    with answering(response(200, body)) as (provider, server, _):
        assert isinstance(refused(lambda: provider.create("n", NONE, EXPIRY)), ProviderOutcomeUnknown)
        assert len(server.heads) == 1
        if not body.startswith(b'{"id": "a", '):
            assert isinstance(refused(lambda: provider.retrieve("a")), ProviderUnavailable)  # and not: it is gone
        if body != b"[]":
            assert isinstance(refused(lambda: listed(provider)), ProviderUnavailable)  # and not: there are none
        assert provider.set_expiry("a", LATER)
        provider.delete("a")


@pytest.mark.parametrize("entry", [{"id": "b"}, {"id": "b", "revoked": True}])
def test_an_answer_about_another_key_proves_nothing_about_this_one(entry: object) -> None:
    with answering(response(200, entry)) as (provider, _, _):
        assert isinstance(refused(lambda: provider.retrieve("a")), ProviderUnavailable)  # and not: it is gone
        assert isinstance(refused(lambda: provider.set_expiry("a", LATER)), ProviderOutcomeUnknown)


@pytest.mark.parametrize(("shown", "name"), [({"name": "n"}, "n"), ({"name": "m"}, "m"), ({"name": 5}, ""), ({}, "")])
def test_a_created_key_has_the_name_that_the_answer_shows(shown: dict[str, object], name: str) -> None:
    with answering(response(200, {"id": "a", "api_key": "b", **shown})) as (provider, _, _):
        assert provider.create("n", NONE, EXPIRY).name == name


@pytest.mark.parametrize(
    "page",
    [
        {"results": None},
        {"results": {}},
        {"detail": "no"},
        {"results": [], "next": 5},
        {"results": [], "next": ["x"]},
    ],
)
def test_a_list_that_makes_no_sense_proves_nothing(page: object) -> None:
    with answering(response(200, page)) as (provider, _, _):
        assert isinstance(refused(lambda: listed(provider)), ProviderUnavailable)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_refused_connection(rig: Rig, operation: str) -> None:
    rig.sim.stop()
    error = rig.refused(operation, rig.another())
    assert type(error) is ProviderUnavailable  # nothing was sent, so that this holds for changes too
    assert rig.sim.url in error.message
    assert "base_url" in error.advice
    assert rig.noted.requests == [(operation, "connection")] * (3 if operation == "list" else 1)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b"])
def test_an_unknown_host(host: str) -> None:
    with provider_at(f"http://{host}", Noted()) as provider:
        assert isinstance(refused(lambda: provider.create("n", NONE, EXPIRY)), ProviderUnavailable)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_slow_answer_ends_at_the_timeout(rig: Rig, operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "READ_SECONDS", 0.05)
    rig.sim.faults.add(Fault("slow", operation, seconds=20, times=None))
    error = rig.refused(operation, rig.another())
    assert type(error) is unsettled(operation)
    assert "0.05 s for each part, 30 s in all" in error.message
    assert rig.noted.requests == [(operation, "timeout")] * (3 if operation == "list" else 1)


def test_a_read_that_waits_ends_at_the_deadline_if_that_is_sooner(rig: Rig) -> None:
    rig.sim.faults.add(Fault("slow", "list", seconds=20, times=None))
    began = time.monotonic()
    rig.refused("list", rig.another(timeout=timedelta(seconds=0.1)))
    assert time.monotonic() - began < 3


def test_who_gets_no_connection_has_sent_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "READ_SECONDS", 0.2)
    rig.sim.faults.add(
        Fault("drip", "list", seconds=2)
    )  # in small steps: it holds the one connection till the deadline
    provider = rig.another(connections=1, timeout=timedelta(seconds=0.6))
    pages = provider.pages(lambda: None)
    held = threading.Thread(target=pytest.raises, args=(ProviderUnavailable, pages.__next__))
    held.start()
    while not rig.calls("list"):
        time.sleep(0.005)
    assert isinstance(rig.refused("create", provider), ProviderUnavailable)
    held.join()
    assert rig.calls("create") == []


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_dripped_body_ends_at_the_deadline(operation: str) -> None:
    with rigged(delete_status=200) as rig:
        rig.sim.faults.add(Fault("drip", operation, seconds=20, times=None))
        provider = rig.another(timeout=timedelta(seconds=0.3))
        began = time.monotonic()
        if operation in ("update", "delete"):
            done = OPERATIONS[operation](provider, rig.key_id)  # whatever else it had to show
            assert done in (ProviderKey(rig.key_id, "", None), None)
        else:
            assert type(rig.refused(operation, provider)) is unsettled(operation)
        assert 0.2 < time.monotonic() - began < 3
        assert rig.noted.requests == [(operation, "timeout")]


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 Fine\r\n" + b"X-Drip: 1\r\n" * 200, b"HTTP/1.1 102 Processing\r\n\r\n" * 50]
)
def test_dripped_headers_end_at_the_deadline(head: bytes) -> None:
    noted = Noted()
    with (
        canned(*(head[at : at + 9] for at in range(0, len(head), 9)), pause=0.1) as server,
        provider_at(server.url, noted, timeout=timedelta(seconds=0.3)) as provider,
    ):
        began = time.monotonic()
        assert isinstance(refused(lambda: provider.create("n", NONE, EXPIRY)), ProviderOutcomeUnknown)
        assert time.monotonic() - began < 2
        assert noted.requests == [("create", "timeout")]


def test_a_read_is_not_tried_again_after_the_deadline(rig: Rig) -> None:
    clock = Clock()

    def meter(operation: str, outcome: str, seconds: float) -> None:
        clock.ahead += 20

    rig.sim.faults.add(Fault("refuse", "list", times=None))
    rig.refused("list", rig.another(clock=clock, meter=meter))
    assert len(rig.calls("list")) == 2


def test_after_the_deadline_nothing_is_sent(rig: Rig) -> None:
    clock = Clock()

    def late() -> Secret:
        clock.ahead += 31
        return Secret(rig.sim.organisation_key)

    assert isinstance(rig.refused("create", rig.another(clock=clock, credential=late)), ProviderUnavailable)
    assert rig.calls("create") == []


@pytest.mark.parametrize("status", [200, 400, 401, 404, 429, 500])
def test_a_huge_answer_is_not_read_to_its_end(status: int) -> None:
    huge = [b"x" * 65536] * 4096  # 256 MiB
    head = f"HTTP/1.1 {status} Fine\r\nContent-Type: application/json\r\n\r\n".encode()
    with answering(head, *huge) as (provider, _, _):
        error = refused(lambda: provider.create("n", NONE, EXPIRY))
        refuses = meaning("list" if status == 401 else "create", status)  # the list is answered like that, too
        assert type(error) is (ProviderOutcomeUnknown if status == 200 else refuses)
        assert "with more than 1048576 bytes" in error.message


# --- the list's next page ---


def test_next_may_be_relative() -> None:
    for location in ("?page=2", "/api/temporary-keys/?page=2"):
        with rigged(page_size=1) as rig:
            rig.provider.create("second", NONE, EXPIRY)
            rig.sim.faults.add(Fault("foreign_next", "list", location=location))
            assert len(listed(rig.provider)) == 2


@pytest.mark.parametrize(
    "location",
    [
        "http://{home}/another-service/",
        "/another-service/?page=2",
        "http://u:p@{home}/api/temporary-keys/?page=2",
        "ftp://{home}/api/temporary-keys/?page=2",
        "//{foreign}/x",
        "https://{home}/x",
        "http://127.0.0.1/x",
        "http://localhost:{port}/",
        "http://u:p@{home}/x",
        "http://{home}@{foreign}/x",
        "http://[bad",
        "http://h:port/",
        "ftp://{home}/",
        "mailto:x",
        "http://{home}.evil.example/",
        "http:// /",
        "\x00",
        "\\\\{foreign}\\x\n",
    ],
)
def test_the_organisation_key_goes_to_no_other_path(location: str) -> None:
    with rigged() as rig, canned(response(200, [])) as foreign:
        home = rig.sim.url.removeprefix("http://")
        location = location.format(foreign=foreign.url.removeprefix("http://"), home=home, port=home.partition(":")[2])
        rig.sim.faults.add(Fault("foreign_next", "list", location=location))
        pages = rig.provider.pages(lambda: None)
        assert next(pages)
        error = refused(lambda: next(pages), rig.sim.organisation_key)
        assert isinstance(error, ProviderUnavailable)
        assert "not complete" in error.message
        assert "base_url" in error.advice
        assert foreign.heads == []
        assert len(rig.noted.requests) == 1


@pytest.mark.parametrize(
    "location",
    [
        "http://{foreign}/api/temporary-keys/?page=2",
        "https://{foreign}/api/temporary-keys/?page=2",
        "http://{foreign}/prefix/api/temporary-keys?page=2",
        "http://{home}.evil.example/api/temporary-keys/?page=2",
        "?page=2",
    ],
)
@pytest.mark.parametrize("prefix", ["", "/respan"])
def test_of_next_only_the_query_is_followed_so_that_a_proxy_may_stand_between(location: str, prefix: str) -> None:
    with canned(response(200, [])) as foreign:
        following = location.format(foreign=foreign.url.removeprefix("http://"), home="127.0.0.1")
        first = {"results": [{"id": "a"}], "next": following}
        with answering(response(200, first)) as (_, server, noted), provider_at(server.url + prefix, noted) as provider:
            pages = provider.pages(lambda: None)
            next(pages)
            server.parts = (response(200, {"results": [{"id": "b"}], "next": None}),)
            assert [key.id for page in pages for key in page] == ["b"]
            paths = [head.split()[1].decode() for head in server.heads]
            assert paths == [f"{prefix}/api/temporary-keys/", f"{prefix}/api/temporary-keys/?page=2"]
        assert foreign.heads == []


def test_an_empty_next_ends_the_list() -> None:
    for page in ({"results": [{"id": "a"}], "next": ""}, {"results": [{"id": "a"}]}):
        with answering(response(200, page)) as (provider, _, _):
            assert len(listed(provider)) == 1


@pytest.mark.parametrize("location", ["/api/temporary-keys/", "?page=1&x=1"])
def test_a_list_that_leads_in_a_circle_ends(location: str) -> None:
    page = {"results": [{"id": "a"}], "next": location}
    with answering(response(200, page)) as (provider, server, _):
        assert "circle" in refused(lambda: listed(provider)).message
        assert len(server.heads) <= 2


@pytest.mark.parametrize(
    ("bound", "value", "words", "pages"),
    [
        ("MAX_PAGES", 3, "more than 3 pages", 3),
        ("MAX_LIST", 1000, "more than 1000 bytes", 3),
        ("MAX_LIST_SECONDS", 0.0, "more than 0 s of keys", 1),
    ],
)
def test_a_list_without_end_ends(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, bound: str, value: float, words: str, pages: int
) -> None:
    monkeypatch.setattr(shared, bound, value)
    for number in range(10):
        rig.sim.faults.add(Fault("foreign_next", "list", skip=number, location=f"?page=1&turn={number}"))
    error = rig.refused("list")
    assert isinstance(error, ProviderUnavailable)
    assert words in error.message
    assert len(rig.calls("list")) == pages


def test_a_bare_array_of_the_whole_organisation_is_read() -> None:
    key = {"id": "x" * 300, "name": "n" * 50}
    with answering(response(200, [key] * 4000)) as (provider, _, _):
        assert len(listed(provider)) == 4000


def test_a_bare_array_without_end_is_not_read_to_its_end() -> None:
    entries = [b'{"id": "a"},' * 5000] * 4096  # 240 MiB
    head = b"HTTP/1.1 200 Fine\r\nContent-Type: application/json\r\n\r\n["
    with answering(head, *entries) as (provider, _, _):
        assert "with more than 8388608 bytes" in refused(lambda: listed(provider)).message


# --- the organisation key ---


@pytest.mark.parametrize("auth_status", [401, 403])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_replaced_key_is_read_again_and_the_call_repeated_once(auth_status: int, operation: str) -> None:
    with rigged(auth_status=auth_status) as rig:
        source = Source(["sk_live_outdated", rig.sim.organisation_key])
        OPERATIONS[operation](rig.another(credential=source), rig.key_id)
        assert len(rig.calls(operation)) == len(rig.noted.requests) == 2
        assert rig.calls(operation)[0] == auth_status
        assert source.calls == 2


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_same_key_is_not_sent_again(rig: Rig, operation: str) -> None:
    source = Source(["sk_live_outdated"])
    error = rig.refused(operation, rig.another(credential=source))
    assert isinstance(error, ProviderCredentialRefused)
    assert error.message.startswith("Respan refused the management credential (401: Invalid or missing API key)")
    assert 'Every target of provider "respan" waits' in error.advice
    assert rig.calls(operation) == [401]
    assert source.calls == 2


def test_another_key_that_is_refused_too_ends_it(rig: Rig) -> None:
    source = Source(["sk_live_outdated_1", "sk_live_outdated_2", rig.sim.organisation_key])
    provider = rig.another(credential=source)
    assert isinstance(rig.refused("create", provider), ProviderCredentialRefused)
    assert rig.calls("create") == [401, 401]


def test_while_the_key_is_refused_one_request_now_and_then_tries_whether_it_still_is(rig: Rig) -> None:
    clock = FakeClock()
    source = Source([*["sk_live_outdated"] * 4, rig.sim.organisation_key])
    provider = rig.another(credential=source, clock=clock)
    clock.sleep(100)
    for _ in range(5):
        assert isinstance(rig.refused("retrieve", provider), ProviderCredentialRefused)
    assert len(rig.calls("retrieve")) == 1
    clock.sleep(FIRST_WAIT)
    for _ in range(5):
        assert isinstance(rig.refused("delete", provider), ProviderCredentialRefused)
    assert (len(rig.calls("retrieve")), len(rig.calls("delete"))) == (1, 1)
    clock.sleep(2 * FIRST_WAIT)
    assert isinstance(rig.refused("create", provider), ProviderCredentialRefused)
    clock.sleep(4 * FIRST_WAIT)
    assert provider.create("n", NONE, EXPIRY), "the key was read afresh"
    assert provider.circuit.error is None
    assert provider.create("m", NONE, EXPIRY)


def test_many_refused_at_once_read_the_key_once(rig: Rig) -> None:
    source = Source(["sk_live_outdated", rig.sim.organisation_key])
    provider = rig.another(credential=source)
    threads = [threading.Thread(target=listed, args=(provider,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert source.calls == 2


def test_the_key_is_read_at_first_use_and_kept(rig: Rig) -> None:
    source = Source([rig.sim.organisation_key, "sk_live_other"])
    provider = rig.another(credential=source)
    pages = provider.pages(lambda: None)
    assert source.calls == 0
    assert next(pages)
    listed(provider)
    assert source.calls == 1


def test_what_the_source_of_the_key_raises_is_passed_on(rig: Rig) -> None:
    absent = ConfigurationError((Problem("rotator.toml", "providers.respan.api_key", "no such file"),))
    source = Source([absent, "sk_live_outdated", absent, rig.sim.organisation_key])
    provider = rig.another(credential=source)
    assert rig.refused("create", provider) is absent
    assert rig.calls("create") == []
    assert rig.refused("create", provider) is absent
    assert provider.create("n", NONE, EXPIRY)


@pytest.mark.parametrize(
    "text", ["", "sk_live_a\n", "sk_live_a\r\nX: y", "sk_live a", "sk_live_ä", '"sk_live_a"', "sk\\live"]
)
def test_a_key_that_is_none_is_not_sent(rig: Rig, text: str) -> None:
    error = refused(rig.another(credential=Source([text])).pages(lambda: None).__next__, *filter(None, [text]))
    assert isinstance(error, ProviderCredentialRefused)
    assert rig.noted.requests == [("list", "credential")], "counted, and not sent"


# --- a refusal of one request, or of the organisation key? ---


def test_a_refusal_of_one_request_is_no_refusal_of_the_organisation_key(rig: Rig) -> None:
    """The plan's cap on keys, a limit that is not allowed, a key of another organisation, a right that is missing."""
    for status, operation in product((401, 403), sorted(OPERATIONS.keys() - {"list"})):
        clock = FakeClock()
        provider = rig.another(clock=clock)
        rig.sim.faults.clear()
        rig.sim.faults.add(Fault("refuse", operation, status=status, times=None))
        error = rig.refused(operation, provider)
        assert isinstance(error, ProviderRequestRefused), (status, operation)
        assert f"{status}: A requested fault" in error.message
        assert "list" in error.message
        assert "the list needs no key" in error.advice
        assert provider.circuit.error is None
        assert listed(provider), "all else goes on"


def test_what_a_list_shows_is_shared_for_a_while_and_paid_for(rig: Rig) -> None:
    clock, paid = FakeClock(), list[object]()
    provider = rig.another(clock=clock, before_confirming=lambda: paid.append(None))
    rig.sim.faults.add(Fault("refuse", "retrieve", status=403, times=None))
    with ThreadPoolExecutor(8) as pool:
        errors = list(pool.map(lambda _: rig.refused("retrieve", provider), range(8)))
    assert {type(error) for error in errors} == {ProviderRequestRefused}
    assert (len(rig.calls("list")), len(paid)) == (1, 1)
    clock.sleep(CONFIRMED_FOR)
    rig.refused("retrieve", provider)
    assert (len(rig.calls("list")), len(paid)) == (2, 2)


def test_where_the_list_is_refused_too_the_organisation_key_is(rig: Rig) -> None:
    clock = FakeClock()
    provider = rig.another(clock=clock)
    rig.sim.vendor.organisation_keys = {"sk_live_another_one_that_is_made_up"}
    with ThreadPoolExecutor(8) as pool:
        errors = list(pool.map(lambda _: rig.refused("retrieve", provider), range(8)))
    assert {type(error) for error in errors} == {ProviderCredentialRefused}
    assert len({id(error) for error in errors}) == 1, "the one that is reported of the provider"
    assert provider.circuit.error is errors[0]
    assert len(rig.calls("list")) == 1


def test_a_key_that_is_good_again_is_known_though_the_one_who_tries_is_refused(rig: Rig) -> None:
    clock = FakeClock()
    provider = rig.another(clock=clock)
    good, rig.sim.vendor.organisation_keys = rig.sim.vendor.organisation_keys, {"sk_live_another_one_that_is_made_up"}
    assert isinstance(rig.refused("retrieve", provider), ProviderCredentialRefused)
    rig.sim.vendor.organisation_keys = good
    rig.sim.faults.add(Fault("refuse", "retrieve", status=403, times=None))
    clock.sleep(CONFIRMED_FOR)
    assert isinstance(rig.refused("retrieve", provider), ProviderRequestRefused)
    assert provider.circuit.error is None


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault("refuse", "list", times=None), ProviderUnavailable),
        (Fault("garble", "list", times=None), ProviderUnavailable),
        (Fault("drop_before", "list", times=None), ProviderUnavailable),
        (Fault("redirect", "list", times=None, location="/elsewhere"), ProviderUnavailable),
        (Fault("rate_limit", "list", times=None), ProviderRateLimited),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else "",
)
def test_without_a_list_the_key_is_not_called_refused(rig: Rig, fault: Fault, expected: type[ProviderError]) -> None:
    rig.sim.faults.add(Fault("refuse", "create", status=403, times=None))
    rig.sim.faults.add(fault)
    error = rig.refused("create")
    assert type(error) is expected
    assert error.nothing_tried, "the pass ends here"
    assert rig.provider.circuit.error is None
    assert len(rig.noted.pauses) == (expected is ProviderRateLimited)


# --- quoted text ---


@pytest.mark.parametrize("detail", ["Not what was asked for.", "Not what was asked for. ", "Not what was asked for"])
def test_the_providers_full_stop_does_not_end_our_sentence(detail: str) -> None:
    answer = Answer(503, "application/json", "", Secret(KEY), json.dumps({"detail": detail}).encode())
    error = ErrorFactory("respan", "https://api.respan.ai", "Respan").refusal("list", answer, EXPIRY)
    assert (
        error.message == "Respan answered 503: Not what was asked for, when asked to list the keys; nothing was changed"
    )


ECHOES: list[tuple[int, object, str]] = [
    (400, {"detail": f"You sent {KEY}."}, "application/json"),
    (400, {"detail": "x" * 190 + KEY}, "application/json"),
    (400, {"errors": {"authorization": [f"Bearer {KEY}"], KEY: KEY}}, "application/json"),
    (400, {"detail": KEY.replace("/", "\\/")}, "application/json"),
    (400, json.dumps({"detail": KEY}).replace("/", "\\/").encode(), "application/json"),
    (400, json.dumps({"detail": KEY}).replace("s", "\\u0073").encode(), "application/json"),
    (401, {"detail": f"Invalid API key: {KEY}"}, "application/json"),
    (429, {"detail": KEY, "retry_after": 3}, "application/json"),
    (500, {"detail": f"after {KEY}: made tk_secret_text", "api_key": "tk_secret_text"}, "application/json"),
    (502, f"<html><title>{KEY}</title>{KEY}".encode(), "text/html"),
    (200, f"<html><title>{KEY}</title>{KEY}".encode(), "text/html"),
    (500, f"Authorization: Bearer {KEY}".encode(), "text/plain"),
]


@pytest.mark.parametrize(("status", "body", "content_type"), ECHOES)
def test_an_echoed_key_is_not_quoted(status: int, body: object, content_type: str) -> None:
    with answering(response(status, body, content_type=content_type)) as (provider, _, _):
        for call in (lambda: provider.create("n", NONE, EXPIRY), lambda: listed(provider)):
            error = refused(call, "tk_secret_text", "sk_live", KEY[-20:]) if "\\/" not in str(body) else refused(call)
            assert str(status) in error.message


@pytest.mark.parametrize(
    "bytes_",
    [f"HTTP/1.1 {KEY} OK\r\n\r\n".encode(), f"{KEY}\r\n\r\n".encode(), f"HTTP/1.1 200 OK\r\n{KEY}\r\n\r\n".encode()],
)
def test_a_key_in_broken_http_is_not_quoted(bytes_: bytes) -> None:
    with answering(bytes_) as (provider, _, _):
        assert isinstance(refused(lambda: provider.create("n", NONE, EXPIRY)), ProviderOutcomeUnknown)


@pytest.mark.parametrize(
    ("status", "is_outage"),
    [(200, False), (400, False), (401, False), (404, False), (422, False), (429, False), (500, True), (503, True)],
)
def test_an_outage_is_when_nothing_is_answered_and_a_refusal_is_an_answer(
    status: int, is_outage: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuit, "LASTING", 0.0)
    with answering(response(status, [])) as (provider, _, _), suppress(ProviderError):
        provider.outage.failed(ProviderUnavailable("the last time"))
        listed(provider)
    assert (provider.outage.error is not None) is is_outage
    with provider_at("http://127.0.0.1:1", Noted()) as provider, suppress(ProviderError):
        listed(provider)
    assert provider.outage.error is not None


def test_the_providers_words_are_one_short_line() -> None:
    body = {"detail": "a\r\nb\x1b[31m\u202e\x00", "errors": {"c\n": ["d", 5, {"e": 1}], "f": "g" * 10_000, "h": None}}
    with answering(response(422, body)) as (provider, _, _):
        message = refused(lambda: provider.create("n", NONE, EXPIRY)).message
    assert message.startswith("Respan refused to create a key (422: a b\\x1b[31m\\u202e\\x00; c : d; c : 5; ")
    assert len(message) < 400


def test_a_page_of_unclosed_titles_is_no_trouble() -> None:
    with answering(response(400, b"<html>" + b"<title" * 170_000)) as (provider, _, _):
        began = time.monotonic()
        refused(lambda: provider.create("n", NONE, EXPIRY))
        assert time.monotonic() - began < 2


def test_names_in_the_list_cannot_disturb_a_terminal() -> None:
    with answering(response(200, b'[{"id": "a", "name": "\\u001b[2J\\ud800"}, {"id": "b", "name": 5}]')) as (
        provider,
        _,
        _,
    ):
        assert [key.name for key in listed(provider)] == ["\\x1b[2J\\ud800", ""]


# --- TLS ---


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[Canned]:
    """A server whose certificate ended with the year 2000; `authority.pem` is who signed it."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(
        "127.0.0.1", not_before=datetime(2000, 1, 1, tzinfo=UTC), not_after=datetime(2001, 1, 1, tzinfo=UTC)
    ).configure_cert(context)
    with canned(response(200, [{"id": "a"}])) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        yield server


@pytest.mark.parametrize("trusted", [False, True])
def test_a_bad_certificate_has_words_of_its_own(
    tls: Canned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    context = ssl.create_default_context(cafile=tmp_path / "authority.pem") if trusted else CONTEXT
    monkeypatch.setattr(httpx, "create_ssl_context", lambda **_: context)
    with provider_at(tls.url.replace("http:", "https:"), Noted()) as provider:
        error = refused(lambda: provider.create("n", NONE, EXPIRY))
    assert isinstance(error, ProviderUnavailable)
    assert "is not trusted" in error.message
    assert ("certificate has expired" if trusted else "unable to get local issuer certificate") in error.message
    assert "clock" in error.advice
    assert tls.heads == []


def test_it_speaks_tls_within_the_deadline(tls: Canned, monkeypatch: pytest.MonkeyPatch) -> None:
    unverified = ssl.create_default_context()
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    monkeypatch.setattr(httpx, "create_ssl_context", lambda **_: unverified)
    with provider_at(tls.url.replace("http:", "https:"), Noted()) as provider:
        assert [key.id for key in listed(provider)] == ["a"]


def test_no_tls_where_tls_is_due(rig: Rig) -> None:
    with provider_at(rig.sim.url.replace("http:", "https:"), Noted()) as provider:
        error = refused(lambda: provider.create("n", NONE, EXPIRY))
    assert isinstance(error, ProviderUnavailable)
    assert error.advice.startswith("The server there does not speak TLS: look at base_url")


def test_certificates_are_verified_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    asked: list[dict[str, Any]] = []

    def create(**arguments: Any) -> ssl.SSLContext:
        asked.append(arguments)
        return CONTEXT

    monkeypatch.setattr(httpx, "create_ssl_context", create)
    with provider_at("https://127.0.0.1:1", Noted()):
        assert asked == [{"trust_env": False}]
    assert CONTEXT.verify_mode is ssl.CERT_REQUIRED
    assert CONTEXT.check_hostname


# --- the probe -------------------------------------------------------------------------------------------------------


STRANGE = "tk-that-was-never-made"


def probing(rig: Rig, method: str = "POST", path: str = "/api/chat/completions", accept: int = 200) -> RespanProvider:
    probe = {"url": f"{rig.sim.url}{path}", "method": method, "accept": (accept,)}
    return rig.another(probe=ProbeSettings.model_validate(probe))


def test_a_new_key_is_tried_out_with_itself(rig: Rig) -> None:
    provider = probing(rig)
    created = provider.create("n", NONE, EXPIRY)
    provider.probe(created.secret)
    assert rig.sim.vendor.keys[created.id].key_usage == 1
    assert rig.noted.requests[-1] == ("probe", "200")


def test_without_a_probe_nothing_is_sent(rig: Rig) -> None:
    rig.provider.probe(Secret("tk-anything"))
    assert rig.noted.requests == []


def test_a_refused_key_is_reported_without_its_text_and_the_organisation_key_is_not_suspected(rig: Rig) -> None:
    provider = probing(rig)
    error = refused(lambda: provider.probe(Secret(STRANGE)), STRANGE)
    assert isinstance(error, ProviderKeyNotAccepted)
    assert f"a new key does not work: POST {rig.sim.url}/api/chat/completions was answered with 401" in error.message
    assert "url, method, accept" in error.advice
    assert provider.circuit.error is None


def test_any_status_may_be_the_one_that_shows_that_it_works(rig: Rig) -> None:
    provider = probing(rig, "GET", "/nowhere", accept=404)
    provider.probe(Secret("tk-anything"))
    assert isinstance(
        refused(lambda: probing(rig, "GET", "/nowhere").probe(Secret("tk-anything"))), ProviderKeyNotAccepted
    )


def test_a_probe_without_an_answer_is_not_a_refused_key(rig: Rig) -> None:
    [port] = free_ports(1)
    provider = rig.another(probe=ProbeSettings(url=f"http://127.0.0.1:{port}/"))
    error = refused(lambda: provider.probe(Secret(STRANGE)), STRANGE)
    assert isinstance(error, ProviderUnavailable)
    assert f"127.0.0.1:{port}" in error.message
