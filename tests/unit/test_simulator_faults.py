"""Every kind of fault that the simulator has, as raw HTTP, and the control endpoint for other processes."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from support.simulated import CHAT, KEYS, Vendor, vendor

from rotator.simulator import Fault
from rotator.simulator.faults import DONE, KINDS, LIST_KINDS, NOT_DONE
from rotator.simulator.wire import Request

EXPIRY = {"expiry_date": "2026-03-02T12:00:00Z"}


@pytest.fixture
def v() -> Iterator[Vendor]:
    with vendor(page_size=2) as running:
        yield running


def names(v: Vendor) -> list[str]:
    """The names of all unrevoked keys, read page by page."""
    found, url = [], v.sim.url + KEYS
    while url:
        page = v.client.get(url).json()
        found += [key["name"] for key in page["results"]]
        url = page["next"]
    return found


# --- which call ---


def test_a_rule_picks_the_nth_matching_call_and_the_next_few(v: Vendor) -> None:
    v.sim.faults.add(Fault("refuse", "create", skip=1, times=2))
    v.client.get(KEYS)
    assert [v.client.post(KEYS, json={}).status_code for _ in range(4)] == [201, 503, 503, 201]
    assert [call.fault for call in v.sim.journal] == [None, None, "refuse", "refuse", None]


def test_a_rule_may_be_about_keys_of_a_name(v: Vendor) -> None:
    v.sim.faults.add(Fault("refuse", name="billing", times=None))
    other = v.create(name="other")
    assert v.client.post(KEYS, json={"name": "x.billing.y"}).status_code == 503
    assert v.client.delete(v.at(other["id"])).status_code == 204
    v.sim.faults.clear()
    billing = v.create(name="billing")
    v.sim.faults.add(Fault("refuse", name="billing"))
    assert v.client.get(v.at(billing["id"])).status_code == 503


def test_the_first_rule_decides_and_the_others_count(v: Vendor) -> None:
    v.sim.faults.add(Fault("refuse", "list", status=500))
    v.sim.faults.add(Fault("refuse", "list", status=501, times=2))
    assert [v.client.get(KEYS).status_code for _ in range(3)] == [500, 501, 200]
    assert [seen for _, seen in v.sim.faults.rules()] == [3, 3]


def test_a_rule_for_any_operation_spares_the_gateway(v: Vendor) -> None:
    text = v.create()["api_key"]
    v.sim.faults.add(Fault("refuse", times=None))
    assert v.chat(text) == 200
    v.sim.faults.add(Fault("refuse", "chat"))
    assert [v.chat(text), v.chat(text)] == [503, 200]


def test_a_refused_organisation_key_uses_up_no_rule(v: Vendor) -> None:
    v.sim.faults.add(Fault("refuse"))
    assert v.client.get(KEYS, headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert [v.client.get(KEYS).status_code for _ in range(2)] == [503, 200]


# --- done or not ---

ARGUMENTS: dict[str, dict[str, Any]] = {
    "redirect": {"location": "http://elsewhere.invalid/"},
    "slow": {"seconds": 0.01},
    "drip": {"seconds": 0.01},
}


@pytest.mark.parametrize("kind", sorted(NOT_DONE | DONE))
@pytest.mark.parametrize("operation", ["create", "update", "delete"])
def test_whether_the_call_was_done(v: Vendor, kind: str, operation: str) -> None:
    created = v.create(name="before")
    v.sim.faults.add(Fault(kind, operation, **ARGUMENTS.get(kind, {})))
    sends: dict[str, Callable[[], httpx.Response]] = {
        "create": lambda: v.client.post(KEYS, json={"name": "after"}),
        "update": lambda: v.client.patch(v.at(created["id"]), json={"name": "after"}),
        "delete": lambda: v.client.delete(v.at(created["id"])),
    }
    answer: httpx.Response | None = None
    if kind in ("late", "drop_before", "drop_after", "truncate"):
        with pytest.raises(httpx.RemoteProtocolError):
            sends[operation]()
    else:
        answer = sends[operation]()
    done = {"create": ["after", "before"], "update": ["after"], "delete": []}[operation]
    assert names(v) == (done if kind in DONE else ["before"])
    call = next(call for call in v.sim.journal if call.fault)
    assert (call.operation, call.fault) == (operation, kind)
    if answer is not None:
        assert call.status == answer.status_code


def test_every_kind_is_done_or_not_or_about_lists() -> None:
    assert len(KINDS) == len(DONE) + len(NOT_DONE) + len(LIST_KINDS)


# --- what is answered ---


def test_refused_with_any_status(v: Vendor) -> None:
    for status in (400, 401, 403, 422, 500, 503):
        v.sim.faults.add(Fault("refuse", "create", status=status))
        answer = v.client.post(KEYS, json={})
        v.sim.faults.clear()
        assert answer.status_code == status
        assert answer.json().keys() == ({"detail", "errors"} if status in (400, 422) else {"detail"})


def test_done_and_answered_with_any_status(v: Vendor) -> None:
    v.sim.faults.add(Fault("fail", "create", status=504))
    assert v.client.post(KEYS, json={"name": "a"}).status_code == 504
    assert names(v) == ["a"]


def test_a_429_on_request(v: Vendor) -> None:
    v.sim.faults.add(Fault("rate_limit", retry_after=7))
    answer = v.client.get(KEYS)
    assert (answer.status_code, answer.json()["retry_after"]) == (429, 7)
    assert "retry-after" not in answer.headers
    with vendor(retry_after="both") as w:
        w.sim.faults.add(Fault("rate_limit", retry_after=7))
        assert w.client.get(KEYS).headers["retry-after"] == "7"


def test_a_proxy_answers_html(v: Vendor) -> None:
    v.sim.faults.add(Fault("html", times=1))
    v.sim.faults.add(Fault("html", status=200, skip=1))
    for status in (502, 200):
        answer = v.client.get(KEYS)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "text/html")
        assert answer.text.startswith("<html>")


def test_a_redirect_to_elsewhere(v: Vendor) -> None:
    v.sim.faults.add(Fault("redirect", location="http://elsewhere.invalid/api/", status=308))
    answer = v.client.get(KEYS)
    assert (answer.status_code, answer.headers["location"]) == (308, "http://elsewhere.invalid/api/")


def test_spoilt_bodies(v: Vendor) -> None:
    v.sim.faults.add(Fault("garble", "create"))
    answer = v.client.post(KEYS, json={})
    assert answer.status_code == 201
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        answer.json()
    v.sim.faults.add(Fault("oversize", "list", size=3_000_000))
    answer = v.client.get(KEYS)
    assert len(answer.content) > 3_000_000
    assert answer.json()["count"] == 1
    v.sim.faults.add(Fault("truncate", "list"))
    with pytest.raises(httpx.RemoteProtocolError, match="peer closed connection"):
        v.client.get(KEYS)


def test_answers_without_a_field(v: Vendor) -> None:
    v.sim.faults.add(Fault("omit", "create"))
    v.sim.faults.add(Fault("omit", "create", fields=("api_key", "id"), skip=1))
    assert "id" not in v.create(name="a")
    assert not {"id", "api_key"} & v.create(name="b").keys()
    assert names(v) == ["b", "a"]


def test_a_slow_answer_comes_after_the_deed(v: Vendor) -> None:
    v.sim.faults.add(Fault("slow", "create", seconds=30))
    with pytest.raises(httpx.ReadTimeout):
        v.client.post(KEYS, json={"name": "a"}, timeout=0.1)
    assert names(v) == ["a"]


def test_a_dripped_body_outlives_a_timeout_per_read(v: Vendor) -> None:
    v.sim.faults.add(Fault("drip", "list", seconds=0.5))
    begun = time.monotonic()
    assert v.client.get(KEYS, timeout=0.2).json()["count"] == 0
    assert time.monotonic() - begun > 0.4


@pytest.mark.parametrize("kind", ["slow", "drip"])
def test_a_slow_answer_does_not_hold_up_the_stop(v: Vendor, kind: str) -> None:
    v.sim.faults.add(Fault(kind, "list", seconds=600))
    errors: list[Exception] = []

    def read() -> None:
        try:
            v.client.get(KEYS)
        except httpx.TransportError as error:
            errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    while not v.sim.journal:
        time.sleep(0.001)
    v.sim.stop()
    reader.join(10)
    assert len(errors) == 1


# --- late ---


def test_a_create_lands_after_further_calls(v: Vendor) -> None:
    text = v.create(name="first")["api_key"]
    v.sim.faults.add(Fault("late", "create", after=2))
    with pytest.raises(httpx.RemoteProtocolError):
        v.client.post(KEYS, json={"name": "late"})
    v.chat(text)
    counts = [v.client.get(KEYS).json()["count"] for _ in range(3)]
    assert counts == [1, 1, 2]
    calls = [(call.operation, call.key_name, call.status) for call in v.sim.journal if call.fault == "late"]
    assert calls == [("create", "late", None), ("landed", "late", 201)]


def test_calls_land_when_released(v: Vendor) -> None:
    created = v.create(name="a", **EXPIRY)
    for operation in ("create", "update", "delete"):
        v.sim.faults.add(Fault("late", operation))
    with pytest.raises(httpx.RemoteProtocolError):
        v.client.post(KEYS, json={"name": "late"})
    with pytest.raises(httpx.RemoteProtocolError):
        v.client.patch(v.at(created["id"]), json={"name": "b"})
    with pytest.raises(httpx.RemoteProtocolError):
        v.client.delete(v.at(created["id"]))
    assert [names(v) for _ in range(5)] == [["a"]] * 5
    v.sim.faults.clear()
    assert v.sim.faults.release() == 3
    assert names(v) == ["late"]
    assert v.sim.vendor.keys[created["id"]].name == "b"
    assert v.sim.faults.release() == 0


# --- wrong lists ---


def test_a_list_that_lags(v: Vendor) -> None:
    old = v.create(name="old")
    v.create(name="kept")
    v.now += timedelta(minutes=10)
    v.create(name="new")
    v.client.delete(v.at(old["id"]))
    v.now += timedelta(seconds=30)
    v.sim.faults.add(Fault("lag", seconds=60))
    assert names(v) == ["kept", "old"]
    assert names(v) == ["new", "kept"]


def test_pages_that_shift_while_they_are_read(v: Vendor) -> None:
    for name in "edcba":
        v.create(name=name)
    v.sim.faults.add(Fault("shift", skip=1, times=None))
    assert names(v) == ["a", "b", "d", "e"], "c is missed, as if a or b had been deleted meanwhile"
    v.sim.faults.clear()
    v.sim.faults.add(Fault("shift", by=-1, skip=1, times=None))
    assert names(v) == ["a", "b", "b", "c", "d", "e"], "b is doubled, as if a key had been created meanwhile"


def test_next_may_point_anywhere(v: Vendor) -> None:
    v.sim.faults.add(Fault("foreign_next", location="https://elsewhere.invalid/api/temporary-keys/?page=2"))
    assert v.client.get(KEYS).json()["next"] == "https://elsewhere.invalid/api/temporary-keys/?page=2"
    assert v.client.get(KEYS).json()["next"] is None


# --- rules that make no sense ---


@pytest.mark.parametrize(
    "rule",
    [
        {"kind": "nonsense"},
        {"kind": "refuse", "operation": "PUT"},
        {"kind": "lag", "operation": "create"},
        {"kind": "late", "operation": "chat"},
        {"kind": "redirect"},
        {"kind": "foreign_next"},
    ],
)
def test_rules_that_cannot_happen_are_refused(v: Vendor, rule: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"no such|cannot happen|needs a location"):
        Fault(**rule)  # type: ignore[arg-type]
    assert v.client.post("/_simulator/faults", json=rule).status_code == 400


# --- the control endpoint ---


def test_faults_over_the_control_endpoint(v: Vendor) -> None:
    rule = {"kind": "omit", "operation": "create", "fields": ["id", "api_key"], "times": None}
    assert v.client.post("/_simulator/faults", json=rule).status_code == 201
    assert "id" not in v.create()
    (shown,) = v.client.get("/_simulator/faults").json()["faults"]
    assert (shown["kind"], shown["fields"], shown["times"], shown["seen"]) == ("omit", ["id", "api_key"], None, 1)
    assert v.client.delete("/_simulator/faults").status_code == 204
    assert "id" in v.create()


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"kind":"refuse","nonsense":1}', b'{"kind":"slow","seconds":"long"}', b'{"kind":1}']
)
def test_a_bad_rule_over_the_control_endpoint(v: Vendor, body: bytes) -> None:
    answer = v.client.post("/_simulator/faults", content=body)
    assert answer.status_code == 400
    assert answer.json()["detail"]
    assert v.sim.faults.rules() == []


def test_late_effects_are_released_over_the_control_endpoint(v: Vendor) -> None:
    v.sim.faults.add(Fault("late"))
    with pytest.raises(httpx.RemoteProtocolError):
        v.client.post(KEYS, json={"name": "late"})
    assert v.client.post("/_simulator/release").json() == {"landed": 1}
    assert names(v) == ["late"]


def test_the_state_and_the_journal_never_show_a_key(v: Vendor) -> None:
    gone, kept = v.create(name="gone", **EXPIRY), v.create(name="kept")
    v.client.delete(v.at(gone["id"]))
    v.chat(kept["api_key"])
    state = v.client.get("/_simulator/state")
    assert [list(key.values()) for key in state.json()["keys"]] == [
        [gone["id"], "gone", "2026-03-01T12:00:00Z", "2026-03-02T12:00:00Z", True, 0],
        [kept["id"], "kept", "2026-03-01T12:00:00Z", None, False, 1],
    ]
    marked = v.client.get("/_simulator/state?fingerprints")
    assert [key["fingerprint"] for key in marked.json()["keys"]] == [
        key.fingerprint() for key in v.sim.vendor.keys.values()
    ]
    journal = v.client.get("/_simulator/journal", params={"since": 2})
    assert [(call["operation"], call["status"]) for call in journal.json()["calls"]] == [("delete", 204), ("chat", 200)]
    for answer in (state, marked, journal, v.client.get("/_simulator/journal")):
        for created in (gone, kept):
            assert created["api_key"] not in answer.text
            assert created["api_key"].partition(".")[2] not in answer.text
    assert v.client.get("/_simulator/nowhere").status_code == 404
    assert len(v.sim.journal) == 4, "control requests are not calls"


def test_the_control_endpoint_is_for_loopback_only() -> None:
    with vendor() as v:
        request = Request("GET", "/_simulator/state", {}, b"", "192.0.2.1", keep_alive=True)
        answer = v.sim._respond(request)
        assert answer is not None
        assert answer.status == 403
        assert v.client.post(CHAT).status_code == 401
