"""What is wrong with a description is found when the configuration is loaded, at its key."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.described import WHOLE, changed

from rotator.config.loader import load
from rotator.core.errors import ConfigurationError
from rotator.core.target import KeyParameters
from rotator.core.traits import Traits
from rotator.providers.http_provider.pointers import Pointer
from rotator.providers.registry import installed_types
from rotator.runtime.key_pattern import parse_key_pattern

ENVIRONMENT = {"ACME_KEY": "management-credential-0123456789"}
EXPIRY = '"{expires_at}", "{expires_unix}", "{ttl}" or "{ttl_seconds}"'
OF_CREATE = "{expires_at}, {expires_unix}, {name}, {param:limit}, {ttl}, {ttl_seconds}"
TOO_MANY_WAYS = (
    "may try too many ways to match: repeat single characters only, and with a bound unless it is at the end, as in "
    '"sk-[A-Za-z0-9]{20,}"'
)

CAP = {"key.limit.is_cap": True}


def configured(description: Mapping[str, Any], key: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {
        "owner": "prod",
        "providers": {"acme": description},
        "stores": {"db": {"type": "sqlite", "file": "keys.db"}},
        "targets": {"a": {"path": "a", "key": key or {}}},
    }


def problems(folder: Path, data: Mapping[str, Any]) -> dict[str, str]:
    """The problems of a configuration by their keys; of a key with several, the last."""
    file = folder / "rotator.json"
    file.write_text(json.dumps(data))
    with pytest.raises(ConfigurationError) as caught:
        load(file, ENVIRONMENT, installed_types())
    return {problem.key.removeprefix("providers.acme."): problem.message for problem in caught.value.problems}


def of_target(folder: Path, description: Mapping[str, Any], key: Mapping[str, Any]) -> KeyParameters:
    file = folder / "rotator.json"
    file.write_text(json.dumps(configured(description, key)))
    return load(file, ENVIRONMENT, installed_types()).targets["a"].parameters


def traits(folder: Path, changes: Mapping[str, Any]) -> Traits:
    file = folder / "rotator.json"
    file.write_text(json.dumps(configured(changed(changes))))
    return load(file, ENVIRONMENT, installed_types()).traits["acme"]


BAD: list[tuple[dict[str, Any], dict[str, str]]] = [
    # templates
    (
        {"create.body.name": "{nmae}"},
        {
            "create.body.name": f"has the unknown variable {{nmae}}: set variables.nmae, or use one of {OF_CREATE}",
            "create": "must send {name}: rotator recognises its keys by their names",
        },
    ),
    (
        {"create.body.more": [{"a": "x {cursor}"}]},
        {
            "create.body.more[0].a": "has the unknown variable {cursor}: set variables.cursor, or use one of "
            f"{OF_CREATE}"
        },
    ),
    (
        {"create.body.more": "{ttl_seconds:float}"},
        {
            "create.body.more": "has the unknown type {ttl_seconds:float}: the variables with a type are "
            "{expires_unix:int} and {ttl_seconds:int}"
        },
    ),
    (
        {"create.body.more": "{name:int}"},
        {
            "create.body.more": "has the unknown type {name:int}: the variables with a type are {expires_unix:int} and "
            "{ttl_seconds:int}"
        },
    ),
    (
        {"create.body.more": "{ttl_seconds:int}s"},
        {"create.body.more": "has {ttl_seconds:int} within a text, which becomes no number: write {ttl_seconds}"},
    ),
    ({"create.body.more": "a } b"}, {"create.body.more": 'has a single "}": write }} for a brace'}),
    (
        {"create.body.more": "{param:speed}"},
        {"create.body.more": "has the unknown variable {param:speed}: describe the option in key.speed"},
    ),
    (
        {"delete.query": {"limit": "{param:limit}"}},
        {
            "delete.query.limit": "has the unknown variable {param:limit}: only create knows the options of a target's"
            " key"
        },
    ),
    ({"create.path": "/a/{param:limit}"}, {"create.path": "must not have {param:limit}, which may have no value"}),
    ({"create.path": "keys"}, {"create.path": 'must begin with "/", and have no empty segment, "." or ".."'}),
    ({"create.path": "/a/../b"}, {"create.path": 'must begin with "/", and have no empty segment, "." or ".."'}),
    ({"create.path": "/a//b"}, {"create.path": 'must begin with "/", and have no empty segment, "." or ".."'}),
    ({"list.path": "/keys?a=b"}, {"list.path": "must not have a query or a fragment: write them under `query`"}),
    ({"create.path": "/ä"}, {"create.path": "must be at most 1000 ASCII characters without a space"}),
    ({"list.body": {"a": 1}}, {"list.body": "must be left out: a GET has no body"}),
    ({"create.method": "post"}, {"create.method": 'must be "GET", "POST", "PUT", "PATCH", "DELETE" or "LIST"'}),
    # pointers
    (
        {"answer.id": "a..b"},
        {"answer.id": 'is no pointer: write "data.hash" or "/data/hash", and the number of an entry as a name'},
    ),
    (
        {"answer.key": "keys[0]"},
        {"answer.key": 'is no pointer: write "data.hash" or "/data/hash", and the number of an entry as a name'},
    ),
    (
        {"answer.name": ["name", "$.name"]},
        {"answer.name": 'is no pointer: write "data.hash" or "/data/hash", and the number of an entry as a name'},
    ),
    ({"list.entries": "/a~2b"}, {"list.entries": "has a ~ that is neither ~0 nor ~1 (RFC 6901)"}),
    ({"create.entry": 5}, {"create.entry": "must be a string in quotes"}),
    ({"create.entry": "a\u0007"}, {"create.entry": "must not contain control characters"}),
    # what is required
    (
        {"label": None, "create": None, "list": None, "delete": None, "answer": None},
        dict.fromkeys(("label", "create", "list", "delete", "answer"), "is required without a preset"),
    ),
    ({"answer.key": None}, {"answer.key": "is required. The text of a new key."}),
    ({"base_url": None}, {"base_url": "is required. The URL of the provider's API; http:// for loopback hosts only."}),
    ({"retrieve.path": "/keys"}, {"retrieve": "must send {id}, the key that it is about"}),
    ({"delete.path": "/keys"}, {"delete": "must send {id}, the key that it is about"}),
    ({"expire.body": {"enabled": False}}, {"expire": f"must send when the key expires: {EXPIRY}"}),
    (
        {"answer.expires_at": None},
        {"answer.expires_at": "is required, since create sends when the key expires"},
    ),
    (
        {"create.body.expires_at": None},
        {"answer.expires_at": f"is of no use, since create does not send when the key expires: {EXPIRY}"},
    ),
    (
        {"create.body.expires_at": None, "answer.expires_at": None},
        {"expire": "is of no use, since create does not send when the key expires"},
    ),
    (
        {"list.ids_only": True, "retrieve": None},
        {"list.ids_only": "needs the table retrieve, by which each id is looked up"},
    ),
    (
        {"list.paging": {"by": "page"}},
        {"list.paging": "must be used: no query and no body of the list has {page}"},
    ),
    (
        {"list.paging": {"by": "cursor", "at": "next"}, "list.query": {"after": "{curser}"}},
        {
            "list.query.after": "has the unknown variable {curser}: set variables.curser, or use one of {cursor}",
            "list.paging": "must be used: no query and no body of the list has {cursor}",
        },
    ),
    ({"list.paging": {"by": "link"}}, {"list.paging.by": 'must be "cursor", "next", "none", "offset" or "page"'}),
    ({"list.paging": {"by": "next"}}, {"list.paging.at": "is required. Where the URL is."}),
    # the header
    ({"header": "{api_key}"}, {"header": 'must be written "Name: value"'}),
    ({"header": "X-Key: secret"}, {"header": "must have {api_key} once in its value, and no other brace"}),
    ({"header": "X-Key: {api_key}{id}"}, {"header": "must have {api_key} once in its value, and no other brace"}),
    ({"header": "Host: {api_key}"}, {"header": "must not be Host, which HTTP needs itself"}),
    # gone
    (
        {"delete.gone": [{"status": 403}]},
        {"delete.gone[0]": "must have when: only 404 and 410 alone show that a key is gone"},
    ),
    ({"delete.gone": [{"status": 500}]}, {"delete.gone[0].status": "must be at most 499"}),
    ({"gone": [{"at": "state"}]}, {"gone[0]": "must have exactly one of equals and contains"}),
    # variables and options of a key
    ({"variables": {"team": "a"}}, {"variables.team": "is used nowhere: no template has {team}"}),
    (
        {"variables": {"id": "a"}},
        {"variables.id": "is the name of a variable that rotator sets"},
    ),
    (
        {"key.speed": {"type": "integer", "description": "Fast."}},
        {"key.speed": "is used nowhere: create must send {param:speed}"},
    ),
    (
        {"key.limit.type": "text"},
        {"key.limit.minimum": 'is for the types "integer" or "number"'},
    ),
    ({"key.limit.choices": ["a"]}, {"key.limit.choices": 'is for the types "text" or "texts"'}),
    ({"key.limit.maximum": 0}, {"key.limit.maximum": "must be at least the minimum"}),
    ({"key.limit.type": "list"}, {"key.limit.type": 'must be "integer", "number", "boolean", "text" or "texts"'}),
    (
        {"key.json": {"type": "integer", "description": "J."}, "create.body.j": "{param:json}"},
        {"key.json": "cannot be the name of an option: rotator uses it itself"},
    ),
    # use
    (
        {"answer.use": {"limit": {"used": "u"}}},
        {"answer.use.limit": "is the use of no cap: set key.limit.is_cap = true"},
    ),
    (
        {"answer.use": {"speed": {"used": "u"}}},
        {"answer.use.speed": "is no option of a target's key: describe it in key.speed"},
    ),
    ({**CAP, "answer.use": {"limit": {"limit": "l"}}}, {"answer.use.limit": "must have used or left"}),
    (
        {**CAP, "answer.use": {"limit": {"left": "l"}}},
        {"answer.use.limit.limit": "is required with left: the difference is used"},
    ),
    (
        {**CAP, "answer.use": {"limit": {"used": "a..b"}}},
        {
            "answer.use.limit.used": 'is no pointer: write "data.hash" or "/data/hash", and the number of an entry '
            "as a name"
        },
    ),
    ({**CAP, "answer.use": {"limit": {"spent": "s"}}}, {"answer.use.limit.spent": "is not a known option here"}),
    ({"answer.last_used_at": 5}, {"answer.last_used_at": "must be a string in quotes"}),
    (
        {"key.limit": {"type": "text", "is_cap": True, "description": "L."}},
        {"key.limit.is_cap": 'is for the types "integer" or "number"'},
    ),
    ({"key.limit.unit": "calls"}, {"key.limit.unit": "is of no use without is_cap = true"}),
    # the pattern of keys
    ({"key_pattern": ".*"}, {"key_pattern": "finds the empty text, so it would hide everything"}),
    (
        {"key_pattern": r"\S+"},
        {"key_pattern": "finds ordinary words, addresses or times, so it would hide what is no key"},
    ),
    (
        {"key_pattern": ".{400,}"},
        {"key_pattern": "finds ordinary words, addresses or times, so it would hide what is no key"},
    ),
    (
        {"key_pattern": "sk-[A-Za-z0-9_-]{16,}"},  # within "risk-assessment-..."
        {"key_pattern": "finds ordinary words, addresses or times, so it would hide what is no key"},
    ),
    ({"key_pattern": "(sk-[a-z]+)+$"}, {"key_pattern": TOO_MANY_WAYS}),
    ({"key_pattern": "sk-["}, {"key_pattern": "is not a regular expression: unterminated character set at position 3"}),
    # a preset
    (
        {"preset": "acme"},
        {
            "preset": 'must be "fireworks", "jupyterhub", "litellm", "openai-admin", "openai-service-account", '
            '"openrouter", "portkey" or "vault-token"'
        },
    ),
]


@pytest.mark.parametrize(("changes", "expected"), BAD, ids=[", ".join(changes) for changes, _ in BAD])
def test_each_mistake_is_found_at_its_key(tmp_path: Path, changes: dict[str, Any], expected: dict[str, str]) -> None:
    assert problems(tmp_path, configured(changed(changes))) == expected


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    changes = {"header": "x", "create.body.a": "{b}", "variables": {"c": "d"}, "delete.path": "/"}
    assert problems(tmp_path, configured(changed(changes))).keys() == {
        "header",
        "create.body.a",
        "variables.c",
        "delete",
    }


@pytest.mark.parametrize("value", ["2026-11-29T00:00:00Z", "inf", "[{ x = nan }]"])
def test_what_is_no_json_is_no_body(tmp_path: Path, value: str) -> None:
    file = tmp_path / "rotator.toml"
    file.write_text(f"""
owner = "prod"
[stores.db]
type = "sqlite"
file = "keys.db"
[providers.acme]
type = "http"
preset = "litellm"
base_url = "https://llm.test"
api_key = {{ env = "ACME_KEY" }}
create.body.since = {value}
""")
    with pytest.raises(ConfigurationError) as caught:
        load(file, ENVIRONMENT, installed_types())
    [problem] = caught.value.problems
    assert problem.key.startswith("providers.acme.create.body.since")
    assert problem.message == "must be a string, a number, a boolean, a list or a table: JSON has nothing else"


def test_a_preset_names_the_variable_that_it_lacks(tmp_path: Path) -> None:
    preset = {"type": "http", "preset": "fireworks", "api_key": {"env": "ACME_KEY"}, "variables": {"account": "a"}}
    assert set(problems(tmp_path, configured(preset)).items()) == {
        (
            "create.path",
            "has the unknown variable {user}: set variables.user, or use one of {account}, {expires_at}, "
            "{expires_unix}, {name}, {ttl}, {ttl_seconds}",
        ),
        ("list.path", "has the unknown variable {user}: set variables.user, or use one of {account}, {cursor}"),
        ("delete.path", "has the unknown variable {user}: set variables.user, or use one of {account}, {id}"),
    }


# --- what follows from a description -------------------------------------------------------------------------------


def test_traits_follow_from_the_description(tmp_path: Path) -> None:
    assert traits(tmp_path, {}) == Traits(label="Acme")
    assert not traits(tmp_path, {"expire": None}).can_set_expiry
    assert not traits(tmp_path, {"can_set_expiry": False}).can_set_expiry
    forever = {"create.body.expires_at": None, "answer.expires_at": None, "expire": None}
    assert traits(tmp_path, forever) == Traits(label="Acme", can_set_expiry=False, keys_expire=False)
    assert traits(tmp_path, {"list.keys_per_page": 20}).keys_per_page == 20
    assert traits(tmp_path, {"list.ids_only": True}).keys_per_page == 1
    assert traits(tmp_path, {"key_pattern": "ac-[a-z]{20}"}).key_pattern == "ac-[a-z]{20}"


OPTIONS = {
    "create.body": {
        "name": "{name}",
        "expires_at": "{expires_at}",
        **{name: f"{{param:{name}}}" for name in ("limit", "share", "is_test", "reset", "models")},
    },
    "key.share": {"type": "number", "minimum": 0, "maximum": 1, "description": "S."},
    "key.is_test": {"type": "boolean", "description": "T."},
    "key.reset": {"type": "text", "choices": ["daily", "weekly"], "description": "R."},
    "key.models": {"type": "texts", "description": "M."},
}


def test_the_options_of_a_target_s_key_are_those_of_the_description(tmp_path: Path) -> None:
    asked = {"limit": 5, "share": 0.5, "is_test": True, "reset": "daily", "models": ["a", "b"]}
    assert of_target(tmp_path, changed(OPTIONS), asked) == asked | {"models": ("a", "b")}
    assert of_target(tmp_path, changed(OPTIONS), {}) == {}


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"speed": 1}, "is not an option of a key of Acme: it has limit, share, is_test, reset, models"),
        ({"limit": 0}, "must be at least 1"),
        ({"limit": "5"}, "must be a whole number"),
        ({"share": 2}, "must be at most 1.0"),
        ({"is_test": 1}, "must be true or false"),
        ({"reset": "hourly"}, 'must be "daily" or "weekly"'),
        ({"models": "a"}, "must be a list"),
    ],
)
def test_an_option_of_a_target_s_key_has_its_type_and_limits(
    tmp_path: Path, asked: dict[str, Any], sentence: str
) -> None:
    [option] = asked
    assert problems(tmp_path, configured(changed(OPTIONS), asked)) == {f"targets.a.key.{option}": sentence}


def test_a_finite_cap_is_warned_of(tmp_path: Path) -> None:
    file = tmp_path / "rotator.json"
    file.write_text(json.dumps(configured(changed({"key.limit.is_cap": True}), {"limit": 5})))
    warnings = [str(warning) for warning in load(file, ENVIRONMENT, installed_types()).warnings]
    assert any("limit" in warning for warning in warnings), warnings


def test_keys_are_not_replaced_for_a_cap_whose_use_no_answer_shows(tmp_path: Path) -> None:
    shown = {"answer.use": {"limit": {"used": "spent"}}, "answer.last_used_at": "seen"}
    for changes, is_refused in (({"answer.last_used_at": "seen"}, True), (shown, False)):
        data = configured(changed({**CAP, **changes}), {"limit": 5})
        data["targets"]["a"]["on_cap"] = "replace"
        if is_refused:
            assert problems(tmp_path, data).keys() == {"targets.a.on_cap"}
        else:
            file = tmp_path / "rotator.json"
            file.write_text(json.dumps(data))
            assert load(file, ENVIRONMENT, installed_types()).targets["a"].caps.replaces


# --- pointers and patterns -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pointer", "value", "found"),
    [
        ("", {"a": 1}, {"a": 1}),
        ("a", {"a": 1}, 1),
        ("a.b", {"a": {"b": 2}}, 2),
        ("a.1.b", {"a": [0, {"b": 3}]}, 3),
        ("/a/b", {"a": {"b": 2}}, 2),
        ("/a.b", {"a.b": 4}, 4),
        ("/a~1b/c~0d", {"a/b": {"c~d": 5}}, 5),
        ("/", {"": 6}, 6),
        ("a", {"a": None}, None),
        ("a.b", {"a": "text"}, None),
        ("a.2", {"a": [0]}, None),
        ("a.-1", {"a": [0]}, None),
        ("a.99999999999999999999", {"a": [0]}, None),
        ("a", [], None),
        ("a", None, None),
    ],
)
def test_a_pointer_finds_what_is_there(pointer: str, value: object, found: object) -> None:
    assert Pointer.parse(pointer).of(value) == found


@pytest.mark.parametrize(
    "pattern",
    [
        r"[A-Za-z0-9]{8}\.[A-Za-z0-9_-]{32,}",
        "sk-or-v1-[0-9a-f]{64}",
        r"(?<![A-Za-z0-9])sk_[A-Za-z0-9_-]{8,}",
        "[a-z]{8,600}+[.]k",
        "sk-[A-Za-z0-9_-]{20,74}T3B[A-Za-z0-9_-]{20,74}",
        "(?:abcd){2,5}k9",
        "sk-(?:live|test)-[0-9]{20}",
    ],
)
def test_a_pattern_that_fails_soon_is_one(pattern: str) -> None:
    assert parse_key_pattern(pattern) == pattern


@pytest.mark.parametrize(
    "pattern",
    [
        "(k9+)+$",
        "(k9|k99)+$",
        "(?:[k-l]{2,5}9?){3,9}z",
        "k9[a-z]+[a-z]+x",
        "k9.*?y",
        r"(k9[a-z]{20})\1",
        "(?=(k9+)+$)k9",
        "k9(?>(?:x+)+y)",
    ],
)
def test_a_pattern_that_may_never_end_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=re.escape("may try too many ways")):
        parse_key_pattern(pattern)


@pytest.mark.parametrize("pattern", [5, "", None])
def test_a_pattern_is_a_text(pattern: object) -> None:
    with pytest.raises(ValueError, match="must be a regular expression in quotes"):
        parse_key_pattern(pattern)


def test_the_description_of_the_other_tests_is_whole() -> None:
    assert WHOLE.keys() >= {"create", "list", "retrieve", "expire", "delete", "answer", "key"}
