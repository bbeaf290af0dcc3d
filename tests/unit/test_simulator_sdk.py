"""The vendor's own SDK, `respan-api`, against the simulator: an independent reading of the same contract.

What it cannot do, each pinned below: read a list that is a bare array (it accepts the page object alone, and follows no
`next`); name a key whose id holds a slash (it puts ids into the path unencoded); leave a failed POST alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from respan import ForbiddenError, NotFoundError, RespanClient
from respan.core.api_error import ApiError
from respan.temporary_api_keys.client import TemporaryApiKeysClient
from respan.types.api_key_limit_policy_spec import ApiKeyLimitPolicySpec

from rotator.simulator import Fault, Options, Simulator

EXPIRY = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


@contextmanager
def sdk(key: str | None = None, **options: Any) -> Iterator[tuple[Simulator, TemporaryApiKeysClient]]:
    with (
        Simulator(options=Options(**options)) as sim,
        httpx.Client(verify=False, trust_env=False, timeout=10) as transport,
    ):
        token = key or sim.organisation_key
        client = RespanClient(
            base_url=sim.url, authorization=f"Bearer {token}", respan_api_key=token, httpx_client=transport
        )
        yield sim, client.temporary_api_keys


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"create_status": 200, "delete_status": 200, "created_field": "created", "older_fields": True},
        {"id_shape": "tk"},
        {"id_shape": "tmpkey", "plan_rate_limit": 5, "slash": "301"},
    ],
)
def test_the_life_of_a_key(options: dict[str, Any]) -> None:
    with sdk(**options) as (sim, keys):
        created = keys.create_api_key(
            name="billing", expiry_date=EXPIRY, max_usage=-1, rate_limit=100, spending_limit=2.5, is_test=True
        )
        assert created.id is not None
        assert created.api_key == sim.vendor.text_of(created.id)
        assert (created.name, created.expiry_date, created.max_usage) == ("billing", EXPIRY, -1)
        assert (created.spending_limit, created.is_test, created.key_usage) == (2.5, True, 0)
        assert created.rate_limit == options.get("plan_rate_limit", 100)
        assert (created.created is not None) == (options.get("created_field") == "created")

        listed = keys.list_api_keys()
        assert (listed.count, listed.next, listed.current_filters) == (1, None, {})
        assert [key.id for key in listed.results] == [created.id]

        retrieved = keys.retrieve_api_key(created.id)
        assert (retrieved.id, retrieved.prefix, retrieved.expiry_date) == (created.id, created.prefix, EXPIRY)

        updated = keys.update_api_key(created.id, name="b", expiry_date=EXPIRY + timedelta(hours=1))
        assert (updated.name, updated.expiry_date) == ("b", EXPIRY + timedelta(hours=1))

        keys.delete_api_key(created.id)
        assert keys.list_api_keys().results == []
        assert sim.vendor.keys[created.id].revoked_at is not None
        assert [(call.operation, call.status) for call in sim.journal] == [
            ("create", options.get("create_status", 201)),
            ("list", 200),
            ("retrieve", 200),
            ("update", 200),
            ("delete", options.get("delete_status", 204)),
            ("list", 200),
        ]


def test_it_sends_only_what_it_is_given_and_may_send_limit_policies() -> None:
    with sdk() as (_, keys):
        assert keys.create_api_key().expiry_date is None
        policy = ApiKeyLimitPolicySpec(max_value=3, metric="request_count", period="day")
        assert keys.create_api_key(name="limited", limit_policies=[policy]).name == "limited"


def test_refusals_are_what_it_expects_them_to_be() -> None:
    with sdk(auth_status=403, deleted="404") as (sim, keys):
        created = keys.create_api_key()
        assert created.id is not None
        with pytest.raises(ForbiddenError):
            keys.update_api_key(created.id, max_usage=3)
        keys.delete_api_key(created.id)
        with pytest.raises(NotFoundError):
            keys.retrieve_api_key(created.id)
        with pytest.raises(ApiError) as caught:
            keys.create_api_key(name="n" * 51)
        assert (caught.value.status_code, list(caught.value.body["errors"])) == (400, ["name"])
        sim.vendor.organisation_keys.clear()
        with pytest.raises(ForbiddenError):
            keys.list_api_keys()


def test_a_401_is_to_it_an_error_without_a_name() -> None:
    with sdk(key="wrong") as (_, keys), pytest.raises(ApiError) as caught:
        keys.list_api_keys()
    assert caught.value.status_code == 401
    assert type(caught.value) is ApiError


def test_it_reads_one_page_and_leaves_next_to_its_caller() -> None:
    with sdk(page_size=2) as (sim, keys):
        for _ in range(3):
            keys.create_api_key()
        listed = keys.list_api_keys()
        assert (listed.count, listed.next) == (2, f"{sim.url}/api/temporary-keys/?page=2")
        second = keys.list_api_keys(request_options={"additional_query_parameters": {"page": 2}})
        assert (second.count, second.next) == (1, None)


def test_it_cannot_read_a_bare_array() -> None:
    with sdk(list_shape="array") as (sim, keys):
        keys.create_api_key()
        with pytest.raises(Exception, match="ListApiKeysResponse"):
            keys.list_api_keys()
        assert sim.journal[-1].status == 200


def test_it_cannot_name_an_id_with_a_slash_unless_the_caller_encodes_it() -> None:
    with sdk(id_shape="prefix") as (sim, keys):
        key_id = keys.create_api_key().id
        assert key_id is not None
        with pytest.raises(NotFoundError):
            keys.delete_api_key(key_id)
        keys.delete_api_key(key_id.replace("/", "%2F"))
        assert sim.vendor.keys[key_id].revoked_at is not None


def test_it_repeats_a_create_unasked_and_makes_an_unknown_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("respan.core.http_client._retry_timeout", lambda **_: 0.0)
    with sdk() as (sim, keys):
        sim.faults.add(Fault("fail", "create", status=500))
        created = keys.create_api_key(name="once")
        assert [call.status for call in sim.journal] == [500, 201]
        assert [key.id == created.id for key in sim.vendor.listed()] == [True, False]
