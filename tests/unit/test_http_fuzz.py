"""Whatever a description holds, and whatever a provider answers, comes to an error with words for a person."""

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import stamina
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.clocks import FakeClock
from support.described import WHOLE, changed, listed, made
from unit.test_presets import EXPIRY, NAME, preset

from rotator.config.loader import load
from rotator.core.errors import ConfigurationError, ProviderError
from rotator.core.keys import CreatedKey, ProviderKey
from rotator.providers.http_provider.client import HttpProvider
from rotator.providers.registry import installed_types
from rotator.runtime.http import HttpClient, NoResponse, Response

CONTEXT = httpx.create_ssl_context(trust_env=False)

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(
        ["a", "..", "{name}", "{id}", "{param:limit}", "{", "2126-03-01T12:00:00Z", "", "data", "data.0.id"]
    )
)
NAMES = st.sampled_from(["id", "key", "name", "data", "expires_at", "next", "state", "meta", "errors", "message", "x"])
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=5))
STATUSES = st.sampled_from([200, 201, 204, 301, 400, 401, 403, 404, 408, 410, 422, 429, 500, 503])
LIMITS = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

DESCRIPTIONS = [
    WHOLE,
    changed({"list.entries": ["data", ""], "gone": [{"at": "state", "equals": "x"}], "answer.expires_in": "meta"}),
    changed({"list.paging": {"by": "next", "at": "next"}, "create.entry": "data", "retrieve.id": "key"}),
    changed({"list.paging": {"by": "cursor", "at": "next", "more": "meta"}, "list.query": {"c": "{cursor}"}}),
    changed({"list.paging": {"by": "page", "pages": "meta"}, "list.query": {"p": "{page}"}}),
    changed(
        {
            "key.limit.is_cap": True,
            "answer.use": {"limit": {"used": ["meta", "x"], "left": "next", "limit": ["key", "state"]}},
            "answer.last_used_at": ["x", "meta"],
        }
    ),
    changed({"list.paging": {"by": "offset"}, "list.query": {"o": "{offset}"}, "list.ids_only": True}),
    changed({"retrieve": None, "delete.gone": [{"status": 403, "when": {"at": "message", "contains": "a"}}]}),
]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Retries without their waits, and certifi's certificates read once."""
    monkeypatch.setattr(httpx, "create_ssl_context", lambda **_: CONTEXT)
    with stamina.set_testing(True, attempts=2, cap=True):
        yield


def outcomes(provider: HttpProvider) -> None:
    """Do each operation; it returns what the port has, or raises one of its errors."""
    errors: list[ProviderError] = []
    for operation, kind in (
        (lambda: provider.create(NAME, {"limit": 5}, EXPIRY), CreatedKey),
        (lambda: listed(provider), list),
        (lambda: provider.retrieve("a"), ProviderKey | None),
        (lambda: provider.set_expiry("a", EXPIRY), ProviderKey | None),
        (lambda: provider.delete("a"), None),
    ):
        provider.circuit.worked()
        try:
            found = operation()
        except ProviderError as error:
            errors.append(error)
        else:
            assert found is None if kind is None else isinstance(found, kind)
    for raised in errors:
        assert re.fullmatch(r"[^\x00-\x1f\x7f]{10,600}", raised.message), raised.message


@pytest.mark.parametrize("number", range(len(DESCRIPTIONS)))
@LIMITS
@given(data=st.data())
def test_any_answer_is_read_or_is_an_error(number: int, data: st.DataObject, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(*_: object, **__: object) -> Response | NoResponse:
        if data.draw(st.integers(0, 9)) == 0:
            return NoResponse(data.draw(st.booleans()), "connection", data.draw(st.text(max_size=50)))
        body = data.draw(JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=20))
        status = data.draw(STATUSES)
        return Response(status, {"content-type": "application/json"}, str(status), body)

    with monkeypatch.context() as patch, made("http://127.0.0.1:1", DESCRIPTIONS[number], FakeClock()) as provider:
        patch.setattr(HttpClient, "send", answer)
        outcomes(provider)


def places(value: Any, place: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every place in a description."""
    if place:
        yield place
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in inner:
        yield from places(below, (*place, key))


@pytest.mark.parametrize("name", ["", "litellm", "vault-token"])
@LIMITS
@given(data=st.data())
def test_any_description_loads_or_is_refused_at_an_option(name: str, data: st.DataObject, tmp_path: Path) -> None:
    """One place of it holds anything at all."""
    description = copy.deepcopy(preset(name) if name else dict(DESCRIPTIONS[1]))
    description["base_url"] = "https://provider.test"
    if name:
        description |= {"create": {"body": {"x": "{name}"}}, "list": {"paging": {"by": "none"}}, "gone": []}
    *above, last = data.draw(st.sampled_from(list(places(description))))
    table: Any = description
    for key in above:
        table = table[key]
    table[last] = data.draw(JSON.filter(lambda value: value is not None))
    file = tmp_path / "rotator.json"
    stores = {"db": {"type": "sqlite", "file": "keys.db"}}
    file.write_text(json.dumps({"owner": "prod", "providers": {"acme": description}, "stores": stores, "targets": {}}))
    try:
        load(file, {"ACME_KEY": "management-credential-0123456789"}, installed_types())
    except ConfigurationError as error:
        problems = error.problems
    else:
        return
    assert problems
    for problem in problems:
        assert problem.key.startswith("providers.acme"), problem
        assert not problem.message.startswith(("Input", "Value error")), problem
