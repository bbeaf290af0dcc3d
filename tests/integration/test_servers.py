"""The real servers behave as the other tests assume."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from support.vault import RaftVault, VaultServer


def test_kv_v2_keeps_versions_and_refuses_a_write_that_expects_another(vault: VaultServer) -> None:
    mount = vault.new_mount()
    for number in (0, 1):
        written = vault.request("POST", f"{mount}/data/app", {"data": {"n": str(number)}, "options": {"cas": number}})
        assert written.json()["data"]["version"] == number + 1

    refused = vault.request("POST", f"{mount}/data/app", {"data": {"n": "late"}, "options": {"cas": 1}})

    assert refused.status_code == 400
    assert "check-and-set parameter did not match" in refused.text
    assert vault.request("GET", f"{mount}/data/app").json()["data"]["data"] == {"n": "1"}
    assert vault.request("GET", f"{mount}/data/app?version=1").json()["data"]["data"] == {"n": "0"}


def test_kv_v1_has_no_versions(vault: VaultServer) -> None:
    mount = vault.new_mount(version=1)
    vault.request("POST", f"{mount}/app", {"n": "1"}).raise_for_status()

    assert vault.request("GET", f"{mount}/app").json()["data"] == {"n": "1"}
    assert vault.request("GET", f"sys/internal/ui/mounts/{mount}/app").json()["data"]["options"] == {"version": "1"}


def test_a_policy_token_may_do_what_its_policy_allows_and_nothing_else(vault: VaultServer) -> None:
    mine, other = vault.new_mount(), vault.new_mount()
    token = vault.policy_token(f'path "{mine}/data/*" {{ capabilities = ["create", "update"] }}')

    assert vault.request("POST", f"{mine}/data/app", {"data": {}}, token).status_code == 200
    assert vault.request("GET", f"{mine}/data/app", token=token).status_code == 403
    assert vault.request("POST", f"{other}/data/app", {"data": {}}, token).status_code == 403
    assert vault.request("GET", "auth/token/lookup-self", token=token).status_code == 403


def test_an_approle_logs_in_to_its_policy(vault: VaultServer) -> None:
    mount = vault.new_mount()
    role_id, secret_id = vault.approle(f'path "{mount}/data/*" {{ capabilities = ["create"] }}', token_ttl="60s")

    login = vault.request("POST", "auth/approle/login", {"role_id": role_id, "secret_id": secret_id}).json()["auth"]

    assert login["lease_duration"] == 60
    assert vault.request("POST", f"{mount}/data/app", {"data": {}}, login["client_token"]).status_code == 200
    assert vault.request("GET", f"{mount}/data/app", token=login["client_token"]).status_code == 403


def test_kubernetes_auth_can_be_enabled(vault: VaultServer) -> None:
    vault.request("POST", "sys/auth/kubernetes-test", {"type": "kubernetes"}).raise_for_status()

    vault.request("DELETE", "sys/auth/kubernetes-test").raise_for_status()


@pytest.fixture(scope="module")
def own_vault(raft_vault: Callable[[], RaftVault]) -> RaftVault:
    return raft_vault()


@pytest.mark.parametrize("end", [RaftVault.kill, RaftVault.stop])
def test_raft_storage_survives_the_end_of_the_server(own_vault: RaftVault, end: Callable[[RaftVault], None]) -> None:
    mount = own_vault.new_mount()
    own_vault.request("POST", f"{mount}/data/app", {"data": {"n": "1"}}).raise_for_status()

    end(own_vault)
    with pytest.raises(httpx.ConnectError):
        own_vault.request("GET", f"{mount}/data/app")
    own_vault.start()
    own_vault.unseal()

    assert own_vault.request("GET", f"{mount}/data/app").json()["data"]["data"] == {"n": "1"}


def test_a_sealed_vault_answers_503(own_vault: RaftVault) -> None:
    mount = own_vault.new_mount()

    own_vault.seal()
    answer = own_vault.request("GET", f"{mount}/data/app")
    own_vault.unseal()

    assert answer.status_code == 503
    assert "sealed" in answer.text
    assert own_vault.request("GET", f"{mount}/config").status_code == 200


def test_a_frozen_vault_answers_when_it_thaws(own_vault: RaftVault) -> None:
    mount = own_vault.new_mount()

    own_vault.freeze()
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(own_vault.request, "POST", f"{mount}/data/app", {"data": {"n": "late"}})
        with pytest.raises(TimeoutError):
            answer.result(timeout=0.2)
        own_vault.thaw()

    assert answer.result().status_code == 200
    assert own_vault.request("GET", f"{mount}/data/app").json()["data"]["data"] == {"n": "late"}
