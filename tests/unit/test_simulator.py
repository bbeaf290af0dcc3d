"""The simulator against the vendor's reference: each call, each trap, each switch, as raw HTTP.

The server as such is tried in `test_simulator_server.py`, faults in `test_simulator_faults.py`.
"""

import re
from datetime import datetime, timedelta

import httpx
import pytest
from support.simulated import CHAT, KEYS, START, vendor

DOCUMENTED = {"id", "name", "prefix", "is_test", "expiry_date", "max_usage", "rate_limit", "spending_limit"}


# --- create ---


def test_create_answers_with_the_key_and_shows_its_text_only_this_once() -> None:
    with vendor() as v:
        body = {
            "name": "billing",
            "expiry_date": "2026-03-02T12:00:00Z",
            "max_usage": 5,
            "rate_limit": 100,
            "spending_limit": 50.5,
            "is_test": True,
            "limit_policies": [{"metric": "cost", "max_value": 1, "period": "day"}],
            "nonsense": 1,
        }
        answer = v.client.post(KEYS, json=body)
        assert answer.status_code == 201
        created = answer.json()
        assert created.keys() == DOCUMENTED | {"created_at", "api_key", "key_usage"}
        assert {name: created[name] for name in body if name in DOCUMENTED} == {
            name: value for name, value in body.items() if name in DOCUMENTED
        }
        assert created["created_at"] == "2026-03-01T12:00:00Z"
        text = created["api_key"]
        assert len(text) > 40
        assert text.startswith(created["prefix"])
        assert v.sim.vendor.text_of(created["id"]) == text
        for later in (v.client.get(KEYS), v.client.get(v.at(created["id"]))):
            assert text not in later.text
        assert text not in repr(v.sim.vendor.keys)


def test_create_needs_no_field_and_then_the_key_never_expires() -> None:
    with vendor() as v:
        created = v.create()
        assert created["expiry_date"] is None
        assert created["max_usage"] == -1
        assert created["rate_limit"] is None
        assert created["spending_limit"] is None
        assert created["is_test"] is False
        v.now += timedelta(days=36500)
        assert v.chat(created["api_key"]) == 200


def test_create_is_not_idempotent() -> None:
    with vendor() as v:
        assert v.create(name="same")["id"] != v.create(name="same")["id"]
        assert len(v.sim.vendor.keys) == 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "n" * 51),
        ("name", 7),
        ("expiry_date", "tomorrow"),
        ("expiry_date", 1767225600),
        ("expiry_date", "0001-01-01T00:00:00+14:00"),
        ("max_usage", "many"),
        ("max_usage", True),
        ("rate_limit", 1.5),
        ("spending_limit", "1"),
        ("is_test", "yes"),
    ],
)
@pytest.mark.parametrize("status", [400, 422])
def test_a_body_that_does_not_pass_is_refused_with_errors_by_field(field: str, value: object, status: int) -> None:
    with vendor(invalid_status=status) as v:
        answer = v.client.post(KEYS, json={field: value})
        assert answer.status_code == status
        assert isinstance(answer.json()["detail"], str)
        assert list(answer.json()["errors"]) == [field]
        assert not v.sim.vendor.keys


def test_a_name_of_fifty_characters_passes() -> None:
    with vendor() as v:
        assert v.create(name="n" * 50)["name"] == "n" * 50


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b'"text"', b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    with vendor() as v:
        answer = v.client.post(KEYS, content=body)
        assert answer.status_code == 400
        assert answer.json().keys() == {"detail", "errors"}


def test_the_success_status_of_create_is_a_switch() -> None:
    with vendor(create_status=200) as v:
        assert v.client.post(KEYS, json={}).status_code == 200


def test_the_plan_overrides_the_rate_limit_asked() -> None:
    with vendor(plan_rate_limit=10) as v:
        assert v.create(rate_limit=100)["rate_limit"] == 10
        assert v.create()["rate_limit"] == 10


@pytest.mark.parametrize(
    ("options", "granted"),
    [
        ({"expiry_shift_s": 3600}, "2026-03-02T13:34:56Z"),
        ({"expiry_shift_s": -3600}, "2026-03-02T11:34:56Z"),
        ({"expiry_round_s": 60}, "2026-03-02T12:34:00Z"),
        ({"expiry_round_s": 86400}, "2026-03-02T00:00:00Z"),
    ],
)
def test_another_expiry_may_be_granted_than_was_asked(options: dict[str, float], granted: str) -> None:
    with vendor(**options) as v:
        created = v.create(expiry_date="2026-03-02T12:34:56Z")
        assert created["expiry_date"] == granted
        patched = v.client.patch(v.at(created["id"]), json={"expiry_date": "2026-03-02T13:34:56+01:00"}).json()
        assert patched["expiry_date"] == granted
        v.now = datetime.fromisoformat(granted)
        assert v.chat(created["api_key"]) == 401
        v.now -= timedelta(microseconds=1)
        assert v.chat(created["api_key"]) == 200


# --- list ---


def test_a_page_counts_its_own_keys_and_next_is_an_absolute_url() -> None:
    with vendor(page_size=2) as v:
        ids = [v.create()["id"] for _ in range(5)]
        url: str | None = v.sim.url + KEYS
        pages = []
        while url:
            pages.append(v.client.get(url).json())
            url = pages[-1]["next"]
        assert [page["count"] for page in pages] == [2, 2, 1]
        assert [key["id"] for page in pages for key in page["results"]] == ids[::-1]
        assert [page["previous"] for page in pages] == [None] + [f"{v.sim.url}{KEYS}?page={n}" for n in (1, 2)]
        assert all(page["current_filters"] == {} for page in pages)
        assert pages[0]["results"][0].keys() == DOCUMENTED | {"created_at"}
        for page in ("0", "4", "x"):
            assert v.client.get(KEYS, params={"page": page}).status_code == 404


def test_an_empty_organisation_lists_an_empty_page() -> None:
    with vendor() as v:
        page = v.client.get(KEYS).json()
        assert page == {"count": 0, "next": None, "previous": None, "current_filters": {}, "results": []}


def test_a_bare_array_holds_every_key() -> None:
    with vendor(list_shape="array", page_size=2) as v:
        ids = [v.create()["id"] for _ in range(5)]
        assert [key["id"] for key in v.client.get(KEYS).json()] == ids[::-1]


def test_only_unrevoked_keys_are_listed() -> None:
    with vendor() as v:
        gone, kept = v.create()["id"], v.create()["id"]
        v.client.delete(v.at(gone))
        assert [key["id"] for key in v.client.get(KEYS).json()["results"]] == [kept]


@pytest.mark.parametrize("listed", [True, False])
def test_whether_expired_keys_are_listed_is_a_switch(listed: bool) -> None:
    with vendor(expired_listed=listed) as v:
        v.create(expiry_date="2026-03-01T12:00:01Z")
        assert v.client.get(KEYS).json()["count"] == 1
        v.now += timedelta(seconds=1)
        assert v.client.get(KEYS).json()["count"] == (1 if listed else 0)


# --- retrieve, update, delete ---


def test_retrieve_shows_the_key_and_404_when_unknown() -> None:
    with vendor() as v:
        created = v.create(name="a")
        answer = v.client.get(v.at(created["id"]))
        assert answer.status_code == 200
        assert answer.json() == {name: value for name, value in created.items() if name not in ("api_key", "key_usage")}
        for unknown in ("unknown", "a b", "%2F"):
            answer = v.client.get(v.at(unknown))
            assert answer.status_code == 404
            assert answer.json().keys() == {"detail"}


def test_update_changes_name_and_expiry_in_both_directions() -> None:
    with vendor() as v:
        created = v.create(name="a", expiry_date="2026-03-01T13:00:00Z")
        for expiry in ("2026-03-01T12:00:30Z", "2026-03-01T18:00:00Z"):
            answer = v.client.patch(v.at(created["id"]), json={"name": "b", "expiry_date": expiry})
            assert answer.status_code == 200
            assert (answer.json()["name"], answer.json()["expiry_date"]) == ("b", expiry)
            assert "api_key" not in answer.json()
        v.now += timedelta(hours=5)
        assert v.chat(created["api_key"]) == 200
        assert v.client.patch(v.at(created["id"]), json={"name": "n" * 51}).status_code == 400
        assert v.client.patch(v.at("unknown"), json={}).status_code == 404


@pytest.mark.parametrize("limit", ["max_usage", "rate_limit", "spending_limit"])
def test_changing_limits_needs_a_permission(limit: str) -> None:
    with vendor() as v:
        answer = v.client.patch(v.at(v.create()["id"]), json={"name": "changed", limit: 3})
        assert answer.status_code == 403
        assert [key.name for key in v.sim.vendor.keys.values()] == [""]
    with vendor(limits_permission=True) as v:
        assert v.client.patch(v.at(v.create()["id"]), json={limit: 3}).json()[limit] == 3


def test_delete_revokes_and_keeps_the_record() -> None:
    with vendor() as v:
        created = v.create(expiry_date="2026-03-02T12:00:00Z")
        answer = v.client.delete(v.at(created["id"]))
        assert (answer.status_code, answer.content) == (204, b"")
        assert v.chat(created["api_key"]) == 401
        assert v.client.get(v.at(created["id"])).json()["revoked"] is True
        later = v.client.patch(v.at(created["id"]), json={"expiry_date": "2027-03-02T12:00:00Z"})
        assert later.json()["revoked"] is True
        assert v.chat(created["api_key"]) == 401
        assert v.client.delete(v.at(created["id"])).status_code == 204
        assert v.client.delete(v.at("unknown")).status_code == 404
        assert v.sim.vendor.keys[created["id"]].revoked_at == START


def test_a_deleted_key_may_look_like_any_other() -> None:
    with vendor(deleted="plain") as v:
        created = v.create()
        v.client.delete(v.at(created["id"]))
        answer = v.client.get(v.at(created["id"]))
        assert answer.status_code == 200
        assert "revoked" not in answer.json()


def test_a_deleted_key_may_be_unknown() -> None:
    with vendor(deleted="404") as v:
        created = v.create()
        assert v.client.delete(v.at(created["id"])).status_code == 204
        assert v.client.get(v.at(created["id"])).status_code == 404
        assert v.client.patch(v.at(created["id"]), json={"name": "a"}).status_code == 404
        assert v.client.delete(v.at(created["id"])).status_code == 404
        assert len(v.sim.vendor.keys) == 1


def test_delete_may_answer_with_a_body() -> None:
    with vendor(delete_status=200) as v:
        answer = v.client.delete(v.at(v.create()["id"]))
        assert answer.status_code == 200
        assert answer.json()["revoked"] is True


# --- shapes ---


@pytest.mark.parametrize(
    ("shape", "pattern"),
    [
        ("uuid", r"[0-9a-f-]{36}"),
        ("tk", r"tk_[0-9a-f]+"),
        ("tmpkey", r"tmpkey_[0-9a-f]+"),
        ("prefix", r"[0-9a-f]{8}\.\S*\$\S*\+\S*/\S*=\S*"),
    ],
)
def test_an_id_of_any_shape_is_one_path_segment(shape: str, pattern: str) -> None:
    with vendor(id_shape=shape) as v:
        created = v.create()
        assert v.client.get(v.at(created["id"])).json()["id"] == created["id"]
        if shape == "prefix":
            assert v.client.get(f"{KEYS}{created['id']}/").status_code == 404, "a bare / must divide segments"
        assert v.client.delete(v.at(created["id"])).status_code == 204
        assert re.fullmatch(pattern, created["id"])


def test_the_creation_time_has_two_names() -> None:
    with vendor(created_field="created") as v:
        created = v.create()
        assert created["created"] == "2026-03-01T12:00:00Z"
        assert "created_at" not in created


def test_older_answers_show_more() -> None:
    with vendor(older_fields=True) as v:
        created = v.create()
        v.chat(created["api_key"])
        shown = v.client.get(v.at(created["id"])).json()
        assert shown.keys() == DOCUMENTED | {
            "created_at",
            "revoked",
            "last_used",
            "spending_in_period",
            "is_temporary",
        }
        assert (shown["revoked"], shown["last_used"]) == (False, "2026-03-01T12:00:00Z")


def test_paths_end_in_a_slash() -> None:
    with vendor() as v:
        created = v.create()
        for path in (KEYS, v.at(created["id"])):
            assert v.client.get(path.rstrip("/")).status_code == 404
    with vendor(slash="301") as v:
        answer = v.client.get(KEYS.rstrip("/"), params={"page": 1})
        assert (answer.status_code, answer.headers["location"]) == (301, f"{KEYS}?page=1")


@pytest.mark.parametrize("path", ["/", "/api/", "/api/temporary-keys//", "/api/temporary-keys/a/b/", "/nowhere"])
def test_unknown_paths_are_404_in_json(path: str) -> None:
    with vendor() as v:
        answer = v.client.get(path)
        assert (answer.status_code, answer.json()) == (404, {"detail": "Not found."})


def test_other_methods_are_405() -> None:
    with vendor() as v:
        assert v.client.put(KEYS).status_code == 405
        assert v.client.post(v.at("a")).status_code == 405
        assert v.client.get(CHAT).status_code == 405


# --- authentication and limits ---


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_organisation_key(status: int) -> None:
    with vendor(auth_status=status) as v:
        for header in ({"Authorization": "Bearer wrong"}, {"Authorization": v.sim.organisation_key}):
            answer = v.client.get(KEYS, headers=header)
            assert answer.status_code == status
            assert answer.json().keys() == {"detail"}
        assert httpx.get(v.sim.url + KEYS, trust_env=False, verify=False).status_code == status


def test_organisation_keys_change_at_run_time() -> None:
    with vendor() as v:
        v.sim.vendor.organisation_keys = {"another"}
        assert v.client.get(KEYS).status_code == 401
        assert v.client.get(KEYS, headers={"Authorization": "Bearer another"}).status_code == 200
        v.sim.vendor.organisation_keys.add(v.sim.organisation_key)
        assert v.client.get(KEYS).status_code == 200


def test_a_temporary_key_may_not_list() -> None:
    with vendor() as v:
        text = v.create()["api_key"]
        assert v.client.get(KEYS, headers={"Authorization": f"Bearer {text}"}).status_code == 403


@pytest.mark.parametrize("where", ["body", "header", "both", "none"])
def test_sixty_requests_a_minute_and_how_long_to_wait(where: str) -> None:
    with vendor(requests_per_minute=60, retry_after=where) as v:
        text = v.create()["api_key"]
        v.now += timedelta(seconds=20)
        assert [v.client.get(KEYS).status_code for _ in range(59)] == [200] * 59
        answer = v.client.get(KEYS)
        assert answer.status_code == 429
        assert answer.json().get("retry_after") == (40 if where in ("body", "both") else None)
        assert isinstance(answer.json()["detail"], str)
        assert answer.headers.get("retry-after") == ("40" if where in ("header", "both") else None)
        assert v.chat(text) == 200, "the gateway is not counted"
        v.now += timedelta(seconds=40)
        assert [v.client.get(KEYS).status_code for _ in range(2)] == [200, 429]
        v.now += timedelta(seconds=20)
        assert [v.client.get(KEYS).status_code for _ in range(60)] == [200] * 59 + [429]


def test_a_list_may_answer_every_caller_with_nothing() -> None:
    with vendor(strangers_list="empty", requests_per_minute=2) as v:
        created = v.create()
        for token in ("wrong", created["api_key"]):
            headers = {"Authorization": f"Bearer {token}"}
            assert v.client.get(KEYS, headers=headers).json()["results"] == []
            assert v.client.get(v.at(created["id"]), headers=headers).status_code in (401, 403)
        assert httpx.get(v.sim.url + KEYS, trust_env=False, verify=False).json()["results"] == []
        assert len(v.client.get(KEYS).json()["results"]) == 1, "and strangers are not counted"


# --- the gateway ---


def test_the_gateway_accepts_a_key_while_it_lives() -> None:
    with vendor() as v:
        created = v.create(expiry_date="2026-03-01T12:01:00Z")
        text = created["api_key"]
        assert v.chat("unknown") == 401
        assert v.chat(v.sim.organisation_key) == 401
        assert v.client.post(CHAT, headers={"Authorization": ""}).status_code == 401
        assert v.chat(text) == 200
        assert v.sim.vendor.works(text)
        v.now += timedelta(minutes=1)
        assert v.chat(text) == 401
        assert not v.sim.vendor.works(text)
        assert v.sim.vendor.keys[created["id"]].key_usage == 1


def test_the_gateway_counts_max_usage() -> None:
    with vendor() as v:
        text = v.create(max_usage=2)["api_key"]
        assert [v.chat(text) for _ in range(3)] == [200, 200, 429]
        assert v.chat(v.create(max_usage=0)["api_key"]) == 429


def test_the_gateway_keeps_a_keys_rate_limit_in_a_sliding_minute() -> None:
    with vendor() as v:
        text, other = (v.create(rate_limit=2)["api_key"] for _ in range(2))
        assert v.chat(text) == 200
        v.now += timedelta(seconds=40)
        assert [v.chat(text) for _ in range(2)] == [200, 429]
        answer = v.client.post(CHAT, json={}, headers={"Authorization": f"Bearer {text}"})
        assert answer.json()["retry_after"] == 20
        assert v.chat(other) == 200, "each key has its own"
        v.now += timedelta(seconds=20)
        assert [v.chat(text) for _ in range(2)] == [200, 429], "refused calls are not counted"
    with vendor(plan_rate_limit=1) as v:
        text = v.create(rate_limit=100)["api_key"]
        assert [v.chat(text) for _ in range(2)] == [200, 429]


def test_the_gateway_counts_what_a_key_spends() -> None:
    with vendor(call_cost_usd=0.5, older_fields=True) as v:
        created = v.create(spending_limit=1)
        assert [v.chat(created["api_key"]) for _ in range(3)] == [200, 200, 429]
        assert v.client.get(v.at(created["id"])).json()["spending_in_period"] == 1.0
        v.now += timedelta(days=1)
        assert v.chat(created["api_key"]) == 429
