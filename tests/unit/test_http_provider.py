"""A provider of type http before servers with canned answers: what it sends, and what it makes of the answers."""

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import stamina
from support.canned import Asked, Canned, Reply, canned
from support.clocks import FakeClock
from support.described import CREDENTIAL, WHOLE, answered, changed, listed, made

from rotator.core.errors import (
    ProviderCredentialRefused,
    ProviderError,
    ProviderOutcomeUnknown,
    ProviderRateLimited,
    ProviderRequestRefused,
    ProviderUnavailable,
)
from rotator.core.keys import CreatedKey, ProviderKey, UnreadableKey
from rotator.core.secrets import Secret
from rotator.providers import client as shared
from rotator.providers.http_provider.client import HttpProvider

CLOCK = FakeClock()
NOW = CLOCK.now()
EXPIRY = NOW + timedelta(hours=24)
WRITTEN = EXPIRY.strftime("%Y-%m-%dT%H:%M:%SZ")
LATER = EXPIRY + timedelta(hours=1)
NAME = "prod-eu.billing-ap.abcdefghijkl.12.mnopqrst"
CONTEXT = httpx.create_ssl_context(trust_env=False)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Retries without their waits, and certifi's certificates read once."""
    monkeypatch.setattr(httpx, "create_ssl_context", lambda **_: CONTEXT)
    with stamina.set_testing(True, attempts=3, cap=True):
        yield


def sent(server: Canned, method: str = "POST") -> Any:
    """The JSON of the only request with this method."""
    [asked] = [asked for asked in server.asked if asked.method == method]
    return json.loads(asked.body)


def created(body: object, changes: Mapping[str, Any] | None = None) -> CreatedKey:
    """The key that an answer to create shows."""
    with answered({"POST /keys": Reply(201, body)}, changed(changes or {}), FakeClock()) as (provider, _):
        return provider.create(NAME, {}, EXPIRY)


# --- what is sent ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "is_sent"),
    [
        ({"expires": "{expires_at}"}, {"expires": WRITTEN}),
        ({"expires": "{expires_unix:int}"}, {"expires": int(EXPIRY.timestamp())}),
        ({"expires": "{expires_unix}"}, {"expires": f"{int(EXPIRY.timestamp())}"}),
        ({"expires": "{ttl_seconds:int}"}, {"expires": 86400}),
        ({"expires": "{ttl_seconds}s"}, {"expires": "86400s"}),
        ({"expires": "{ttl}"}, {"expires": "86400s"}),
    ],
)
def test_an_expiry_is_sent_in_each_format(body: dict[str, Any], is_sent: dict[str, Any]) -> None:
    description = changed({"create.body": {"name": "{name}", "limit": "{param:limit}", **body}})
    with answered({"POST /keys": Reply(200, {"id": "a", "key": "b"})}, description, FakeClock()) as (provider, server):
        provider.create(NAME, {}, EXPIRY)
    assert sent(server) == {"name": NAME, **is_sent}


def test_a_key_without_an_expiry_is_asked_for_without_one() -> None:
    description = changed({"create.body.expires_at": None, "answer.expires_at": None, "expire": None})
    with answered({"POST /keys": Reply(200, {"id": "a", "key": "b"})}, description) as (provider, server):
        assert provider.create(NAME, {}, EXPIRY).expires_at is None
    assert sent(server) == {"name": NAME}


def test_the_seconds_until_an_expiry_are_never_none() -> None:
    """Some providers take 0 for never."""
    description = changed({"expire.body": {"ttl": "{ttl_seconds:int}"}})
    with answered({"PATCH /keys/a": Reply(200, {})}, description, FakeClock()) as (provider, server):
        provider.set_expiry("a", NOW - timedelta(hours=1))
    assert sent(server, "PATCH") == {"ttl": 1}


BODY = {
    "name": "{name}",
    "expires_at": "{expires_at}",
    "typed": "{param:limit}",
    "text": "up to {param:limit}",
    "limits": {"kind": "calls", "value": "{param:limit}"},
    "several": [{"unit": "rpm", "value": "{param:limit}"}, "{param:limit}"],
    "meta": {"name": "{name}", "limit": "{param:limit}"},
    "constant": {"a": [1, 2.5, True, "x"]},
    "braces": "{{name}}",
}


def test_options_that_are_set_keep_their_types() -> None:
    replies = {"POST /keys": Reply(200, {"id": "a", "key": "b"})}
    with answered(replies, changed({"create.body": BODY})) as (provider, server):
        provider.create(NAME, {"limit": 5}, EXPIRY)
    assert sent(server) == {
        "name": NAME,
        "expires_at": WRITTEN,
        "typed": 5,
        "text": "up to 5",
        "limits": {"kind": "calls", "value": 5},
        "several": [{"unit": "rpm", "value": 5}, 5],
        "meta": {"name": NAME, "limit": 5},
        "constant": {"a": [1, 2.5, True, "x"]},
        "braces": "{name}",
    }


def test_what_needs_an_option_that_is_left_out_is_left_out() -> None:
    replies = {"POST /keys": Reply(200, {"id": "a", "key": "b"})}
    with answered(replies, changed({"create.body": BODY})) as (provider, server):
        provider.create(NAME, {}, EXPIRY)
    assert sent(server) == {
        "name": NAME,
        "expires_at": WRITTEN,
        "meta": {"name": NAME},
        "constant": {"a": [1, 2.5, True, "x"]},
        "braces": "{name}",
    }


@pytest.mark.parametrize(("value", "text"), [(True, "is true"), (5, "is 5"), (("a", "b"), "is a,b")])
def test_an_option_within_a_text_is_written_out(value: Any, text: str) -> None:
    replies = {"POST /keys": Reply(200, {"id": "a", "key": "b"})}
    with answered(replies, changed({"create.body.limit": "is {param:limit}"})) as (provider, server):
        provider.create(NAME, {"limit": value}, EXPIRY)
    assert sent(server)["limit"] == text


@pytest.mark.parametrize("value", [False, 0, 0.5, ("a", "b"), "text"])
def test_an_option_of_any_type_arrives(value: Any) -> None:
    replies = {"POST /keys": Reply(200, {"id": "a", "key": "b"})}
    with answered(replies) as (provider, server):
        provider.create(NAME, {"limit": value}, EXPIRY)
    assert sent(server)["limit"] == (["a", "b"] if isinstance(value, tuple) else value)


@pytest.mark.parametrize(
    ("header", "name", "value"),
    [
        ("Authorization: Bearer {api_key}", "authorization", f"Bearer {CREDENTIAL}"),
        ("Authorization: token {api_key}", "authorization", f"token {CREDENTIAL}"),
        ("x-portkey-api-key: {api_key}", "x-portkey-api-key", CREDENTIAL),
        ("X-Vault-Token:{api_key}", "x-vault-token", CREDENTIAL),
    ],
)
def test_the_credential_goes_into_its_header(header: str, name: str, value: str) -> None:
    with answered({"DELETE /keys/a": Reply(204)}, changed({"header": header})) as (provider, server):
        provider.delete("a")
    [asked] = server.asked
    assert asked.headers[name] == value
    assert name == "authorization" or "authorization" not in asked.headers


@pytest.mark.parametrize("key_id", ["a/b", "a?b#c", "a%2Fb", "ä b", "$+/="])
def test_an_id_is_one_segment_of_a_path_and_one_value_of_a_query(key_id: str) -> None:
    description = changed({"delete.query": {"also": "{id}"}})
    with answered({}, description) as (provider, server):
        provider.delete(key_id)
    url = httpx.URL(f"http://h{server.asked[0].path}")
    assert server.asked[0].path.count("/") == 2
    assert (url.path, url.params["also"]) == (f"/keys/{key_id}", key_id)


@pytest.mark.parametrize("key_id", ["", "..", "a/../b", "a\nb", "a" * 301])
def test_what_leads_to_another_path_is_the_id_of_no_key(key_id: str) -> None:
    with answered({}) as (provider, server):
        provider.delete(key_id)
        assert provider.retrieve(key_id) is None
        assert provider.set_expiry(key_id, EXPIRY) is None
    assert server.asked == []


def test_variables_are_sent_as_they_are_set() -> None:
    description = changed({"variables": {"team": "a b"}, "delete.path": "/teams/{team}/keys/{id}"})
    with answered({}, description) as (provider, server):
        provider.delete("x")
    assert server.paths("DELETE") == ["/teams/a%20b/keys/x"]


def test_a_key_is_deleted_through_the_body_of_a_post() -> None:
    description = changed({"delete": {"method": "POST", "path": "/keys/delete", "body": {"keys": ["{id}"]}}})
    with answered({"POST /keys/delete": Reply(200, {})}, description) as (provider, server):
        provider.delete("a/b")
    assert sent(server) == {"keys": ["a/b"]}


# --- what an answer shows --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (WRITTEN, EXPIRY),
        (WRITTEN.replace("Z", ".587047747Z"), EXPIRY + timedelta(microseconds=587047)),
        (WRITTEN.replace("Z", "+00:00"), EXPIRY),
        (int(EXPIRY.timestamp()), EXPIRY),
        (EXPIRY.timestamp() * 1000, EXPIRY),
        (None, None),
        ("", None),
        ("never", None),
    ],
)
def test_an_expiry_is_read_in_each_format(shown: object, expected: datetime | None) -> None:
    assert created({"id": "a", "key": "b", "expires_at": shown}).expires_at == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (86400, EXPIRY),
        (86400.5, EXPIRY),
        (0, None),
        (None, None),
        (-5, None),
        ("86400", None),
        (True, None),
        (1e12, None),
    ],
)
def test_seconds_from_now_are_read(seconds: object, expected: datetime | None) -> None:
    assert created({"id": "a", "key": "b", "ttl": seconds}, {"answer.expires_in": "ttl"}).expires_at == expected


def test_a_moment_is_preferred_to_seconds_from_now() -> None:
    body = {"id": "a", "key": "b", "expires_at": WRITTEN, "ttl": 5}
    assert created(body, {"answer.expires_in": "ttl"}).expires_at == EXPIRY


@pytest.mark.parametrize("shown", [86400, "tomorrow", True, [], {"at": WRITTEN}])
def test_an_expiry_in_another_unit_is_not_believed(shown: object) -> None:
    entry = {"id": "a", "name": NAME, "expires_at": shown}
    assert created({**entry, "key": "b"}).expires_at is None
    with answered({"GET /keys/a": Reply(200, entry), "GET /keys": Reply(200, {"data": [entry]})}) as (provider, _):
        with pytest.raises(ProviderUnavailable, match="a key that cannot be read"):
            provider.retrieve("a")
        [listed_one] = listed(provider)
        assert isinstance(listed_one, UnreadableKey)


def test_what_stands_deep_in_an_answer_is_found() -> None:
    body = {"data": {"hash": "a", "of": [{"alias": NAME}], "until": WRITTEN}, "auth": {"text": "b"}}
    changes = {
        "answer": {"id": ["id", "hash"], "key": "/auth/text", "name": "of.0.alias", "expires_at": "until"},
        "create.entry": "data",
    }
    assert created(body, changes) == CreatedKey("a", NAME, Secret("b"), EXPIRY)


def test_a_number_may_be_an_id() -> None:
    assert created({"id": 5, "key": "b"}).id == "5"
    replies = {"GET /keys/5": Reply(200, {"id": 5, "name": "n"}), "GET /keys": Reply(200, {"data": [{"id": 5}]})}
    with answered(replies) as (provider, _):
        assert provider.retrieve("5") == ProviderKey("5", "n", None)
        assert listed(provider) == [ProviderKey("5", "", None)]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"id": "a"},
        {"key": "b"},
        {"id": "a", "key": 5},
        {"id": "a", "key": ""},
        {"id": True, "key": "b"},
        {"id": "a", "key": "a"},
        {"id": "a", "key": "b", "state": "revoked"},
        {"data": {"id": "a", "key": "b"}},
        {"id": "a", "key": "The key was created."},
        {"id": "a", "key": "sk-\u2022\u2022\u2022\u2022abcd"},
        {"id": "a", "key": "b\nc"},
        {"id": "a", "key": CREDENTIAL},
        {"id": CREDENTIAL, "key": "b"},
        [{"id": "a", "key": "b"}],
        "<html>",
    ],
)
def test_a_create_whose_answer_shows_no_key_is_an_unknown_outcome(body: object) -> None:
    with pytest.raises(ProviderOutcomeUnknown, match="whether it was done is not known"):
        created(body, {"gone": [{"at": "state", "equals": "revoked"}]})


def test_an_answer_without_a_key_names_the_pointers() -> None:
    with pytest.raises(ProviderOutcomeUnknown, match=r"without a usable id \(hash or id of data\) and key \(key\)"):
        created({"hash": "a"}, {"answer.id": ["hash", "id"], "create.entry": "data"})


@pytest.mark.parametrize("name", ["default", "", None, 5])
def test_a_provider_that_ignores_the_name_is_noticed_by_those_who_compare_it(name: object) -> None:
    assert created({"id": "a", "key": "b", "name": name}).name == (name if isinstance(name, str) else "")


def test_an_answer_about_another_key_proves_nothing() -> None:
    replies = {"GET /keys/a": Reply(200, {"id": "b"}), "PATCH /keys/a": Reply(200, {"id": "b"})}
    with answered(replies) as (provider, _):
        with pytest.raises(ProviderUnavailable, match="another key"):
            provider.retrieve("a")
        with pytest.raises(ProviderOutcomeUnknown, match="another key"):
            provider.set_expiry("a", EXPIRY)


def test_the_id_may_stand_outside_of_the_entry() -> None:
    entry = {"name": NAME, "expires_at": WRITTEN}
    description = changed({"retrieve.entry": "info", "retrieve.id": "key"})
    right, wrong = {"key": "a", "info": entry}, [{"key": "b", "info": entry}, {"info": {**entry, "id": "b"}}]
    replies = [Reply(200, shown) for shown in (right, *wrong)]
    with answered({"GET /keys/a": replies}, description) as (provider, _):
        assert provider.retrieve("a") == ProviderKey("a", NAME, EXPIRY)
        for _ in wrong:
            with pytest.raises(ProviderUnavailable, match="another key"):
                provider.retrieve("a")


def test_an_answer_to_a_change_that_shows_nothing_shows_no_expiry() -> None:
    with answered({"PATCH /keys/a": [Reply(200, {}), Reply(204), Reply(200, "<html>")]}) as (provider, _):
        for _ in range(3):
            assert provider.set_expiry("a", EXPIRY) == ProviderKey("a", "", None)


def test_what_cannot_be_changed_is_refused_unsent() -> None:
    with answered({}, changed({"can_set_expiry": False})) as (provider, server):
        with pytest.raises(ProviderRequestRefused, match="Acme cannot change the expiry of a key"):
            provider.set_expiry("a", EXPIRY)
        assert server.asked == []


# --- what is gone ----------------------------------------------------------------------------------------------------


GONE = {
    "retrieve.gone": [
        {"status": 410},
        {"status": 400, "when": {"at": "errors.0", "contains": "invalid accessor"}},
        {"status": 200, "when": {"at": "found", "equals": False}},
    ]
}


@pytest.mark.parametrize(
    ("status", "body", "is_gone"),
    [
        (410, "", True),
        (400, {"errors": ["1 error: invalid accessor"]}, True),
        (200, {"found": False}, True),
        (404, {}, False),
        (400, {"errors": ["missing accessor"]}, False),
        (400, "invalid accessor", False),
        (400, {"errors": "invalid accessor"}, False),
        (200, {"found": 0, "id": "a"}, False),
    ],
)
def test_an_answer_shows_that_a_key_is_gone(status: int, body: object, is_gone: bool) -> None:
    with answered({"GET /keys/a": Reply(status, body)}, changed(GONE)) as (provider, _):
        if status == 200:
            assert (provider.retrieve("a") is None) is is_gone
        elif is_gone:
            assert provider.retrieve("a") is None
        else:
            with pytest.raises(ProviderRequestRefused):
                provider.retrieve("a")


def test_a_refusal_that_means_gone_is_no_refusal_of_the_credential() -> None:
    when = {"at": "message", "equals": "no such key"}
    description = changed({"delete.gone": [{"status": 403, "when": when}]})
    with answered({"DELETE /keys/a": Reply(403, {"message": "no such key"})}, description) as (provider, server):
        provider.delete("a")
        assert [asked.path for asked in server.asked] == ["/keys/a"]
        assert provider.error is None


def test_any_other_refusal_is_confirmed_by_the_list() -> None:
    with answered({"DELETE /keys/a": Reply(403, {}), "GET /keys": Reply(401, {})}) as (provider, _):
        with pytest.raises(ProviderCredentialRefused, match="Acme refused the management credential"):
            provider.delete("a")
        assert isinstance(provider.error, ProviderCredentialRefused)
        assert not provider.is_to_be_asked() or provider.error


@pytest.mark.parametrize("field", [{"at": "state", "equals": "deleted"}, {"at": "state", "contains": "delet"}])
def test_an_entry_shows_that_its_key_is_gone(field: dict[str, str]) -> None:
    dead, living = {"id": "a", "state": "deleted"}, {"id": "b", "state": "active"}
    replies = {
        "GET /keys": Reply(200, {"data": [dead, living]}),
        "GET /keys/a": Reply(200, dead),
        "PATCH /keys/a": Reply(200, dead),
    }
    with answered(replies, changed({"gone": [field]})) as (provider, _):
        assert listed(provider) == [ProviderKey("b", "", None)]
        assert provider.retrieve("a") is None
        assert provider.set_expiry("a", EXPIRY) is None


# --- lists -----------------------------------------------------------------------------------------------------------


def entries(*ids: str) -> list[dict[str, str]]:
    return [{"id": key_id} for key_id in ids]


def ids(provider: HttpProvider) -> list[str]:
    return [key.id for key in listed(provider)]


@pytest.mark.parametrize(
    "body", [{"data": entries("a", "b")}, entries("a", "b"), {"keys": {"items": entries("a", "b")}}]
)
def test_a_list_is_in_the_first_of_several_places(body: object) -> None:
    description = changed({"list.entries": ["data", "keys.items", ""]})
    with answered({"GET /keys": Reply(200, body)}, description) as (provider, _):
        assert ids(provider) == ["a", "b"]


@pytest.mark.parametrize("body", [{}, {"data": None}, {"data": {"id": "a"}}, {"items": []}, []])
def test_an_answer_without_a_list_is_no_empty_list(body: object) -> None:
    with (
        answered({"GET /keys": Reply(200, body)}) as (provider, _),
        pytest.raises(ProviderUnavailable, match="holds no list at data"),
    ):
        listed(provider)


PAGINGS: dict[str, tuple[dict[str, Any], list[tuple[str, object]]]] = {
    "next": (
        {"list.paging": {"by": "next", "at": "links.next"}},
        [
            ("/keys", {"data": entries("a", "b"), "links": {"next": "/keys?p=2"}}),
            ("/keys?p=2", {"data": entries("c"), "links": {"next": None}}),
        ],
    ),
    "page and total": (
        {"list.paging": {"by": "page", "pages": "pages"}, "list.query": {"page": "{page}", "full": True}},
        [
            ("/keys?page=1&full=true", {"data": entries("a", "b"), "pages": 2}),
            ("/keys?page=2&full=true", {"data": entries("c"), "pages": 2}),
        ],
    ),
    "page from 0 without a total": (
        {"list.paging": {"by": "page", "first": 0}, "list.query": {"page": "{page}", "size": 2}},
        [
            ("/keys?page=0&size=2", {"data": entries("a", "b")}),
            ("/keys?page=1&size=2", {"data": entries("c")}),
            ("/keys?page=2&size=2", {"data": []}),
        ],
    ),
    "offset": (
        {"list.paging": {"by": "offset"}, "list.query": {"offset": "{offset}"}},
        [
            ("/keys?offset=0", {"data": entries("a", "b")}),
            ("/keys?offset=2", {"data": entries("c")}),
            ("/keys?offset=3", {"data": []}),
        ],
    ),
    "cursor": (
        {"list.paging": {"by": "cursor", "at": "next"}, "list.query": {"after": "{cursor}", "limit": 2}},
        [
            ("/keys?limit=2", {"data": entries("a", "b"), "next": "b&c"}),
            ("/keys?after=b%26c&limit=2", {"data": entries("c"), "next": ""}),
        ],
    ),
    "cursor and more": (
        {
            "list.paging": {"by": "cursor", "at": "last_id", "more": "has_more"},
            "list.query": {"after": "{cursor}"},
        },
        [
            ("/keys", {"data": entries("a", "b"), "last_id": "b", "has_more": True}),
            ("/keys?after=b", {"data": entries("c"), "last_id": "c", "has_more": False}),
        ],
    ),
}


@pytest.mark.parametrize("kind", PAGINGS)
def test_pages_follow_each_other(kind: str) -> None:
    changes, pages = PAGINGS[kind]
    replies: dict[str, Reply | list[Reply]] = {f"GET {path}": Reply(200, body) for path, body in pages}
    with answered(replies, changed(changes)) as (provider, server):
        assert ids(provider) == ["a", "b", "c"]
        assert server.paths("GET") == [path for path, _ in pages]


@pytest.mark.parametrize("kind", PAGINGS)
def test_a_page_is_paid_for_and_tried_again_alone(kind: str) -> None:
    changes, pages = PAGINGS[kind]
    replies: dict[str, Reply | list[Reply]] = {f"GET {path}": Reply(200, body) for path, body in pages}
    last = pages[-1][0]
    replies[f"GET {last}"] = [Reply(503), Reply(200, pages[-1][1])]
    paid: list[object] = []
    with answered(replies, changed(changes)) as (provider, server):
        assert len([key for page in provider.pages(lambda: paid.append(1)) for key in page]) == 3
        assert len(paid) == len(server.asked) == len(pages) + 1


def test_a_list_may_be_asked_for_with_a_body() -> None:
    paging = {"by": "offset"}
    description = changed({"list": {"method": "POST", "path": "/search", "entries": "data", "paging": paging}})
    description["list"]["body"] = {"from": "{offset:int}"}
    replies = [Reply(200, {"data": entries("a")}), Reply(200, {"data": []})]
    with answered({"POST /search": replies}, description) as (provider, server):
        assert ids(provider) == ["a"]
        assert [json.loads(asked.body) for asked in server.asked] == [{"from": 0}, {"from": 1}]


@pytest.mark.parametrize(
    ("changes", "body", "words"),
    [
        ({"list.paging": {"by": "next", "at": "next"}}, {"data": [], "next": ["x"]}, "shows no text at next"),
        ({"list.paging": {"by": "next", "at": "next"}}, {"data": [], "next": "http://other.test/x"}, "not complete"),
        (PAGINGS["page and total"][0], {"data": []}, "shows no number of pages at pages"),
        (PAGINGS["page and total"][0], {"data": [], "pages": "2"}, "shows no number of pages at pages"),
        (PAGINGS["cursor"][0], {"data": [], "next": {}}, "shows no text at next"),
        (PAGINGS["cursor"][0], {"data": [], "next": "x" * 5000}, "shows no text at next"),
        (PAGINGS["cursor and more"][0], {"data": []}, "shows neither true nor false at has_more"),
        (
            PAGINGS["cursor and more"][0],
            {"data": [], "has_more": True},
            "shows that a page follows, and no cursor at last_id",
        ),
    ],
)
def test_where_it_is_not_clear_whether_a_page_follows_the_list_is_not_complete(
    changes: dict[str, Any], body: object, words: str
) -> None:
    with (
        canned(lambda _: Reply(200, body)) as server,
        made(server.address, changed(changes)) as provider,
        pytest.raises(ProviderUnavailable, match=words),
    ):
        listed(provider)


@pytest.mark.parametrize("kind", ["page from 0 without a total", "offset", "cursor"])
def test_a_provider_that_repeats_one_page_is_noticed(kind: str) -> None:
    """It ignores the number, or gives the same cursor again."""
    body = {"data": entries("a", "b"), "next": "a"}
    with canned(lambda _: Reply(200, body)) as server, made(server.address, changed(PAGINGS[kind][0])) as provider:
        with pytest.raises(ProviderUnavailable, match="in a circle"):
            listed(provider)
        assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("bound", "value", "words"), [("MAX_PAGES", 3, "more than 3 pages"), ("MAX_LIST", 100, "more than 100 bytes")]
)
def test_a_list_that_never_ends_ends(monkeypatch: pytest.MonkeyPatch, bound: str, value: int, words: str) -> None:
    monkeypatch.setattr(shared, bound, value)

    def endless(asked: Asked) -> Reply:
        return Reply(200, {"data": entries(asked.path, "x" * 20)})

    description = changed(PAGINGS["offset"][0])
    with canned(endless) as server, made(server.address, description) as provider:
        with pytest.raises(ProviderUnavailable, match=words):
            listed(provider)
        assert len(server.asked) <= 4


# --- lists of ids, and keys that are shown by the list alone ---------------------------------------------------------


IDS_ONLY = {"list.ids_only": True, "list.method": "LIST", "list.entries": "keys"}


def test_each_id_of_a_list_of_ids_is_looked_up_and_paid_for() -> None:
    replies: dict[str, Reply | list[Reply]] = {
        "LIST /keys": Reply(200, {"keys": ["a", "b/c", "gone", 7, None, "d"]}),
        "GET /keys/a": Reply(200, {"id": "a", "name": "n", "expires_at": WRITTEN}),
        "GET /keys/b%2Fc": [Reply(503), Reply(429, {}, {"Retry-After": "1"}), Reply(200, {"id": "b/c"})],
        "GET /keys/7": Reply(200, {"id": 7}),
        "GET /keys/d": Reply(200, {"id": "d", "expires_at": "soon"}),
    }
    paid: list[object] = []
    with answered(replies, changed(IDS_ONLY)) as (provider, server):
        found = [key for page in provider.pages(lambda: paid.append(1)) for key in page]
        assert found == [
            ProviderKey("a", "n", EXPIRY),
            ProviderKey("b/c", "", None),
            ProviderKey("7", "", None),
            UnreadableKey("", "", "whose id is null"),
            UnreadableKey("d", "", 'whose expires_at is "soon"'),
        ]
        assert len(paid) == len(server.asked) == 8


def test_a_look_up_that_fails_proves_nothing_of_the_list() -> None:
    replies = {"LIST /keys": Reply(200, {"keys": ["a"]}), "GET /keys/a": Reply(500)}
    with answered(replies, changed(IDS_ONLY)) as (provider, server):
        with pytest.raises(ProviderUnavailable):
            listed(provider)
        assert len(server.asked) == 4


def test_without_a_way_to_look_up_a_key_it_is_searched_in_the_list() -> None:
    changes, pages = PAGINGS["cursor"]
    replies: dict[str, Reply | list[Reply]] = {f"GET {path}": Reply(200, body) for path, body in pages}
    with answered(replies, changed({**changes, "retrieve": None})) as (provider, server):
        assert provider.retrieve("a") == ProviderKey("a", "", None)
        assert len(server.asked) == 1, "no page more than it needs"
        assert provider.retrieve("c") == ProviderKey("c", "", None)
        assert provider.retrieve("x") is None
        assert len(server.asked) == 5


def test_a_key_that_is_unreadable_in_the_list_is_not_gone() -> None:
    entry = {"id": "a", "expires_at": "soon"}
    with (
        answered({"GET /keys": Reply(200, {"data": [entry]})}, changed({"retrieve": None})) as (provider, _),
        pytest.raises(ProviderUnavailable, match="cannot be read"),
    ):
        provider.retrieve("a")


def test_a_list_that_fails_is_no_proof_that_a_key_is_gone() -> None:
    with (
        answered({"GET /keys": Reply(500)}, changed({"retrieve": None})) as (provider, _),
        pytest.raises(ProviderUnavailable),
    ):
        provider.retrieve("a")


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        {"detail": "No such model."},
        {"message": "No such model"},
        {"error": "No such model"},
        {"error": {"message": "No such model", "code": 5}},
        {"errors": ["No such model"]},
        {"errors": [{"message": "No such model"}]},
        {"errors": {"models": ["No such model"]}},
    ],
)
def test_the_words_of_a_refusal_are_quoted(body: object) -> None:
    with (
        answered({"POST /keys": Reply(422, body)}) as (provider, _),
        pytest.raises(ProviderRequestRefused, match=r"Acme refused to create a key \(422: .*No such model\)"),
    ):
        provider.create(NAME, {}, EXPIRY)


@pytest.mark.parametrize("field", ["api_key", "key", "token", "secret", "client_token", "value"])
@pytest.mark.parametrize("is_nested", [False, True])
def test_the_text_of_a_new_key_in_a_failed_create_is_not_quoted(field: str, is_nested: bool) -> None:
    text = "fresh_key_text"
    body = {"message": f"after {text}", **({"auth": {field: text}} if is_nested else {field: text})}
    with answered({"POST /keys": Reply(500, body)}) as (provider, _), pytest.raises(ProviderOutcomeUnknown) as caught:
        provider.create(NAME, {}, EXPIRY)
    assert "after" in str(caught.value)
    assert text not in str(caught.value)


@pytest.mark.parametrize(
    ("reply", "seconds"),
    [
        (Reply(429, {"retry_after": 17}), 17),
        (Reply(429, {}, {"Retry-After": "17"}), 17),
        (Reply(429, "busy"), 30),
    ],
)
def test_a_429_names_its_wait_in_body_or_header(reply: Reply, seconds: float) -> None:
    with answered({"POST /keys": reply}) as (provider, _), pytest.raises(ProviderRateLimited) as caught:
        provider.create(NAME, {}, EXPIRY)
    assert caught.value.retry_after == seconds


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply(500), ProviderOutcomeUnknown),
        (Reply(302, "", {"Location": "/elsewhere"}), ProviderRequestRefused),
        (Reply(404, {}), ProviderRequestRefused),
        (Reply(400, {}), ProviderRequestRefused),
        (Reply(200, "x" * (2**20 + 1)), ProviderOutcomeUnknown),
        (Reply(200, "<html>hello"), ProviderOutcomeUnknown),
    ],
)
def test_a_create_is_sent_once(reply: Reply, expected: type[ProviderError]) -> None:
    with answered({"POST /keys": reply}) as (provider, server):
        with pytest.raises(expected):
            provider.create(NAME, {}, EXPIRY)
        assert len(server.asked) == 1


OPERATIONS: dict[str, Callable[[HttpProvider], object]] = {
    "list": listed,
    "retrieve": lambda provider: provider.retrieve("a"),
    "update": lambda provider: provider.set_expiry("a", LATER),
    "delete": lambda provider: provider.delete("a"),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_body_that_drips_ends_at_the_deadline(operation: str) -> None:
    reply = Reply(200, {"data": [], "id": "a", "more": "x" * 2000}, drips=True)
    with canned(lambda _: reply) as server, made(server.address, {**WHOLE, "timeout": "1s"}) as provider:
        if operation in ("update", "delete"):
            OPERATIONS[operation](provider)
        else:
            with pytest.raises(ProviderUnavailable, match="the rest of the answer did not come"):
                OPERATIONS[operation](provider)


def test_the_zone_of_the_tests_clock_is_utc() -> None:
    assert EXPIRY.tzinfo is UTC
