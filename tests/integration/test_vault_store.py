"""Vault's own behaviour, on a real one: mounts, policies, versions, limits. The contract is in tests/contract."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from support.clocks import FakeClock
from support.installation import LEAST_RIGHTS
from support.vault import VaultServer
from support.vaultstore import MeteredStore, OpenStore

from rotator.config.values import VaultReference
from rotator.core.errors import (
    CasMismatch,
    StoreMountUnusable,
    StoreOutcomeUnknown,
    StorePermissionDenied,
    StoreRequestRefused,
    StoreUnavailable,
)
from rotator.stores.vault.check import PATHS_PER_REQUEST, Finding, findings

pytestmark = pytest.mark.usefixtures("no_waiting")


@pytest.fixture
def mount(vault: VaultServer) -> str:
    return vault.new_mount()


@pytest.fixture
def store(vault: VaultServer, mount: str, open_store: OpenStore) -> MeteredStore:
    return open_store(vault.address, mount, vault.root_token)


def put(vault: VaultServer, path: str, body: object = None) -> Any:
    answer = vault.request("POST", path, body).raise_for_status()
    return answer.json() if answer.content else None


# --- the mount -------------------------------------------------------------------------------------------------------


def test_a_foreign_secret_in_kv_version_1_is_not_harmed(vault: VaultServer, open_store: OpenStore) -> None:
    mount = vault.new_mount(version=1)
    for path in ("app", "data/app"):
        put(vault, f"{mount}/{path}", {"password": "theirs"})
    store = open_store(vault.address, mount, vault.root_token)
    unusable = "KV version 1, which ignores compare-and-set and would overwrite"

    for look in (store.history, store.newest):
        with pytest.raises(StoreMountUnusable, match=unusable):  # it looks like an empty version 2
            look("absent")
    for _ in range(2):
        with pytest.raises(StoreMountUnusable, match=unusable):
            store.preflight("app", {"api_key": "placeholder"})

    for path in ("app", "data/app"):
        assert vault.request("GET", f"{mount}/{path}").json()["data"] == {"password": "theirs"}
    assert {operation for operation, _ in store.metered.take()} == {"login", "metadata", "read", "mount"}


def test_a_mount_that_is_not_there_is_named(vault: VaultServer, open_store: OpenStore) -> None:
    store = open_store(vault.address, "kv-nowhere", vault.root_token)

    with pytest.raises(StoreMountUnusable, match="kv-nowhere/metadata/app"):
        store.history("app")
    with pytest.raises(StoreMountUnusable, match="no mount kv-nowhere"):
        store.preflight("app", {})


def test_a_mount_of_another_kind_is_named(vault: VaultServer, open_store: OpenStore) -> None:
    store = open_store(vault.address, "sys", vault.root_token)

    with pytest.raises(StoreMountUnusable, match="of type system, not KV"):
        store.preflight("app", {})
    for look in (store.history, store.newest):
        with pytest.raises(StoreMountUnusable, match="something other than KV is mounted in Vault where sys/"):
            look("app")


def test_a_longer_name_than_the_mount_has_is_found_out(vault: VaultServer, mount: str, open_store: OpenStore) -> None:
    with pytest.raises(StoreMountUnusable, match=f"the mount is {mount}/ in Vault, not {mount}/team"):
        open_store(vault.address, f"{mount}/team", vault.root_token).preflight("app", {})


def test_the_mount_is_looked_up_once(store: MeteredStore) -> None:
    for path in ("app", "app", "other"):
        store.preflight(path, {"n": "1"})

    assert [request for request in store.metered.take() if request[0] == "mount"] == [("mount", "200")]


# --- policies --------------------------------------------------------------------------------------------------------


def test_the_least_rights_suffice_for_everything(vault: VaultServer, mount: str, open_store: OpenStore) -> None:
    store = open_store(vault.address, mount, vault.policy_token(LEAST_RIGHTS.format(mount=mount)))
    path = "team/app"

    assert list(findings(store, [path])) == []
    assert store.location(path)
    for cas in range(3):
        assert store.history(path).current_version == cas
        store.preflight(path, {"n": "?"})
        store.write(path, {"n": str(cas)}, cas)
    store.destroy(path, [1])
    assert [version.data for version in store.history(path).versions] == [None, {"n": "1"}, {"n": "2"}]
    store.keep_login()
    assert store.token_expires_at is None  # even to ask for that is a right
    assert {outcome for _, outcome in store.metered.take()} == {"200", "204", "404", "400", "403"}


def rules(mount: str, **more: str) -> str:
    """A policy with these capabilities on data, metadata and destroy; rules with denied parameters are given whole."""
    wanted = {"data": '"create", "read", "update"', "metadata": '"read"', "destroy": '"update"'} | more
    return "\n".join(
        f'path "{mount}/{kind}/*" {{ capabilities = [{capabilities}] }}' for kind, capabilities in wanted.items()
    )


def test_each_missing_right_is_named(vault: VaultServer, mount: str, open_store: OpenStore) -> None:
    put(vault, f"{mount}/data/app", {"data": {"n": "1"}})

    def limited(**more: str) -> MeteredStore:
        return open_store(vault.address, mount, vault.policy_token(rules(mount, **more)))

    attempts: list[tuple[MeteredStore, str, tuple[Any, ...], str]] = [
        (limited(metadata='"list"'), "history", ("app",), f"`read` on {mount}/metadata/app"),
        (limited(data='"create"'), "history", ("app",), f"`read` on {mount}/data/app"),
        (limited(data='"create", "read"'), "write", ("app", {}, 1), f"`update` on {mount}/data/app"),
        (limited(data='"read", "update"'), "write", ("new", {}, 0), f"`create` on {mount}/data/new"),
        (limited(data='"read"'), "preflight", ("app", {}), f"`create` or `update` on {mount}/data/app"),
        (limited(destroy='"deny"'), "destroy", ("app", [1]), f"`update` on {mount}/destroy/app"),
    ]

    for store, method, arguments, words in attempts:
        with pytest.raises(StorePermissionDenied) as raised:
            getattr(store, method)(*arguments)
        assert words in raised.value.message
        assert f'path "{words.partition(" on ")[2]}" {{ capabilities = [' in raised.value.advice
        assert "login" not in [operation for operation, _ in store.metered.take()[1:]]  # a policy is no bad token

    current = vault.request("GET", f"{mount}/data/app").json()["data"]
    assert (current["data"], current["metadata"]["version"]) == ({"n": "1"}, 1)


def test_denied_parameters_are_found_before_a_key_is_created(
    vault: VaultServer, mount: str, open_store: OpenStore
) -> None:
    policy = (
        rules(mount).replace('"update"] }', '"update"] denied_parameters = { "options" = [] } }', 1)
        + '\npath "sys/capabilities-self" { capabilities = ["update"] }'
    )
    store = open_store(vault.address, mount, vault.policy_token(policy))
    assert list(findings(store, ["app"])) == []  # capabilities do not show it

    with pytest.raises(StorePermissionDenied) as raised:
        store.preflight("app", {"n": "1"})

    assert "denied_parameters" in raised.value.advice


# --- versions --------------------------------------------------------------------------------------------------------


def test_nanoseconds_are_read_to_the_microsecond(vault: VaultServer, mount: str, store: MeteredStore) -> None:
    written = store.write("app", {"n": "1"}, cas=0)
    store.write("app", {"n": "2"}, cas=1)

    assert written.vanishes_at is None
    text = vault.request("GET", f"{mount}/metadata/app").json()["data"]["versions"]["1"]["created_time"]

    assert len(text) > len("2026-01-01T00:00:00.123456Z") or text.endswith("0Z")
    assert written.created_at == store.history("app").versions[0].created_at
    assert written.created_at.isoformat(timespec="microseconds")[:26] == text[:26]


def test_a_version_that_will_be_deleted_later_is_alive(vault: VaultServer, mount: str, store: MeteredStore) -> None:
    put(vault, f"{mount}/metadata/app", {"delete_version_after": "1h"})
    written = [store.write("app", {"n": str(cas)}, cas) for cas in range(2)]
    assert [version.vanishes_at for version in written] == [
        version.created_at + timedelta(hours=1) for version in written
    ]
    metadata = vault.request("GET", f"{mount}/metadata/app").json()["data"]
    assert all(version["deletion_time"] for version in metadata["versions"].values())

    read = store.history("app").versions
    assert [version.data for version in read] == [{"n": "0"}, {"n": "1"}]
    assert [version.vanishes_at for version in read] == [version.vanishes_at for version in written]


def test_vaults_clock_decides_whether_a_version_is_deleted(
    vault: VaultServer, mount: str, open_store: OpenStore
) -> None:
    put(vault, f"{mount}/metadata/app", {"delete_version_after": "1h"})
    clock = FakeClock(datetime.now(UTC) + timedelta(days=1))
    store = open_store(vault.address, mount, vault.root_token, clock)
    for cas in range(2):
        store.write("app", {"n": str(cas)}, cas)

    assert [version.data for version in store.history("app").versions] == [{"n": "0"}, {"n": "1"}]


def test_only_readable_versions_are_asked_for(vault: VaultServer, mount: str, store: MeteredStore) -> None:
    for cas in range(4):
        store.write("app", {"n": str(cas)}, cas)
    store.destroy("app", [1])
    put(vault, f"{mount}/delete/app", {"versions": [2]})
    store.metered.take()

    history = store.history("app")

    assert [(version.data, version.destroyed) for version in history.versions] == [
        (None, True),
        (None, False),
        ({"n": "2"}, False),
        ({"n": "3"}, False),
    ]
    # Vault's dates have whole seconds: a version deleted within this second is read in vain.
    asked = [request for request in store.metered.take() if request != ("read", "404")]
    assert asked == [("metadata", "200"), ("read", "200"), ("read", "200")]


def test_versions_beyond_max_versions_are_forgotten(vault: VaultServer, mount: str, store: MeteredStore) -> None:
    put(vault, f"{mount}/metadata/app", {"max_versions": 2})
    for cas in range(4):
        store.write("app", {"n": str(cas)}, cas)

    history = store.history("app")

    assert [version.number for version in history.versions] == [3, 4]
    assert history.current_version == 4


def test_a_path_with_metadata_alone_is_at_version_0(vault: VaultServer, mount: str, store: MeteredStore) -> None:
    put(vault, f"{mount}/metadata/app", {"custom_metadata": {"team": "billing"}})

    history = store.history("app")

    assert (history.current_version, history.versions) == (0, ())
    store.preflight("app", {"n": "1"})
    assert store.write("app", {"n": "1"}, cas=0).number == 1


def test_a_path_that_changes_while_it_is_read_is_read_again(
    vault: VaultServer, mount: str, store: MeteredStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write("app", {"n": "0"}, cas=0)
    interruptions: list[int] = []
    read = store.client.read

    def read_and_interrupt(request: Any) -> Any:
        value = read(request)
        if request.operation.name == "metadata" and len(interruptions) < wanted:
            put(vault, f"{mount}/data/app", {"data": {"n": str(len(interruptions) + 1)}})
            interruptions.append(1)
        return value

    monkeypatch.setattr(store.client, "read", read_and_interrupt)
    wanted = 2
    history = store.history("app")
    assert (history.current_version, history.current and history.current.data) == (3, {"n": "2"})

    interruptions.clear()
    wanted = 10
    with pytest.raises(StoreUnavailable, match="changed 3 times while it was being read"):
        store.history("app")


# --- what is too large -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"n": "x" * 1_100_000}, "JSON string value exceeds allowed length"),
        ({str(number): "x" for number in range(20_000)}, "JSON object exceeds allowed entry count"),
        ({str(number): "x" * 900_000 for number in range(40)}, "http: request body too large"),
        ({"n": float("inf")}, "a number that JSON does not have"),
    ],
    ids=["long", "many", "large", "infinite"],
)
def test_what_vault_does_not_take_is_refused_before_a_key_is_created(
    store: MeteredStore, data: dict[str, Any], words: str
) -> None:
    with pytest.raises(StoreRequestRefused, match=words) as refused:
        store.preflight("app", data)
    assert len(refused.value.message) < 500
    with pytest.raises((StoreRequestRefused, StoreOutcomeUnknown)) as raised:
        store.write("app", data, cas=0)
    # Vault may close the connection before it has read a large body: the write is then unsettled.
    assert words in raised.value.message or isinstance(raised.value, StoreOutcomeUnknown)
    assert len(raised.value.message) < 500
    assert store.history("app").current_version == 0


def test_numbers_that_vault_does_not_keep_exactly_are_carried_as_it_gives_them(
    vault: VaultServer, mount: str, store: MeteredStore
) -> None:
    body = b'{"data": {"a": 12345678901234567890, "b": 1e3, "c": 123456789012345678901234567890.5, "d": 0.1}}'
    headers = {"X-Vault-Token": vault.root_token}
    httpx.post(f"{vault.address}/v1/{mount}/data/app", content=body, headers=headers).raise_for_status()
    before = vault.request("GET", f"{mount}/data/app").content

    current = store.history("app").current
    assert current is not None
    store.write("app", current.data or {}, cas=1)

    after = vault.request("GET", f"{mount}/data/app").content
    begin, end = b'"data":{"data":', b',"metadata"'
    assert after.partition(begin)[2].partition(end)[0] == before.partition(begin)[2].partition(end)[0] != b""


# --- reading one secret ----------------------------------------------------------------------------------------------


def test_a_secret_of_another_mount_is_read(vault: VaultServer, store: MeteredStore) -> None:
    other = vault.new_mount()
    put(vault, f"{other}/data/respan/org", {"data": {"api_key": " organisation-key\n"}})

    secret = store.read_secret(VaultReference(other, "respan/org", "api_key"))

    assert secret.reveal() == "organisation-key"


def test_a_secret_that_is_not_there_is_named(vault: VaultServer, mount: str, store: MeteredStore) -> None:
    put(vault, f"{mount}/data/org", {"data": {"number": 1, "blank": " "}})
    put(vault, f"{mount}/data/gone", {"data": {"api_key": "x"}})
    vault.request("DELETE", f"{mount}/data/gone").raise_for_status()

    for path, field in (("org", "api_key"), ("org", "number"), ("org", "blank"), ("gone", "api_key"), ("no", "x")):
        with pytest.raises(StoreRequestRefused, match=f"{mount}/data/{path}") as raised:
            store.read_secret(VaultReference(mount, path, field))
        assert f"-mount={mount} {path} {field}=" in raised.value.advice


# --- check --online --------------------------------------------------------------------------------------------------


def test_the_check_names_each_missing_right(vault: VaultServer, mount: str, open_store: OpenStore) -> None:
    policy = (
        rules(mount, data='"read", "update"', destroy='"deny"')
        + '\npath "sys/capabilities-self" { capabilities = ["update"] }'
    )
    store = open_store(vault.address, mount, vault.policy_token(policy))

    assert list(findings(store, ["app"])) == [
        Finding(
            f"{mount}/data/app",
            "Vault's policy does not allow `create`",
            f'It must have: path "{mount}/data/app" {{ capabilities = ["create", "read", "update"] }}',
        ),
        Finding(
            f"{mount}/destroy/app",
            "Vault's policy does not allow `update`",
            f'It must have: path "{mount}/destroy/app" {{ capabilities = ["update"] }}',
        ),
    ]


def test_the_check_asks_for_many_paths_in_few_requests(store: MeteredStore) -> None:
    paths = [f"team/app-{number}" for number in range(400)]

    assert list(findings(store, paths)) == []

    asked = [request for request in store.metered.take() if request[0] == "capabilities"]
    assert asked == [("capabilities", "200")] * (-(-3 * len(paths) // PATHS_PER_REQUEST))


def test_the_check_reports_that_the_rights_cannot_be_read(
    vault: VaultServer, mount: str, open_store: OpenStore
) -> None:
    store = open_store(vault.address, mount, vault.policy_token(rules(mount)))

    with pytest.raises(StorePermissionDenied, match="`update` on sys/capabilities-self"):
        list(findings(store, ["app"]))


def test_the_check_reports_that_a_namespace_is_ignored(vault: VaultServer, mount: str, open_store: OpenStore) -> None:
    store = open_store(vault.address, mount, vault.root_token, namespace="team/a")

    [finding] = findings(store, ["app"])

    assert "ignores the namespace team/a" in finding.message
    assert store.location("app") != open_store(vault.address, mount, vault.root_token).location("app")


def test_the_check_leaves_a_version_1_mount_alone(vault: VaultServer, open_store: OpenStore) -> None:
    store = open_store(vault.address, vault.new_mount(version=1), vault.root_token)

    with pytest.raises(StoreMountUnusable, match="KV version 1"):
        list(findings(store, ["app"]))


def test_the_late_write_that_proves_is_never_taken(vault: VaultServer, mount: str, store: MeteredStore) -> None:
    put(vault, f"{mount}/config", {"cas_required": True})

    store.preflight("app", {"n": "1"})
    store.write("app", {"n": "1"}, cas=0)
    store.preflight("app", {"n": "2"})
    with pytest.raises(CasMismatch):
        store.write("app", {"n": "2"}, cas=0)
