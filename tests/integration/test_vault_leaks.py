"""What must not leak to others than the Vault that was meant: tokens, keys, cookies; connections, and TLS."""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.canned import Canned, Reply, canned
from support.process import Process, free_ports
from support.vault import VaultServer, vault_program
from support.vaultstore import KEY, TOKEN, MeteredStore, OpenStore, all_methods, answering, assert_unsettled, empty

from rotator.core.errors import StoreCredentialRefused, StoreError, StoreUnavailable
from rotator.stores.vault.auth import AppRoleLogin, TokenFileLogin

pytestmark = pytest.mark.usefixtures("no_waiting")


@pytest.fixture
def server() -> Iterator[Canned]:
    with canned(lambda _: Reply(500)) as server:
        yield server


@pytest.fixture
def store(server: Canned, open_store: OpenStore) -> MeteredStore:
    return open_store(server.address, "kv", TOKEN)


def test_a_redirect_to_another_host_gets_no_token(
    server: Canned, store: MeteredStore, open_store: OpenStore, tmp_path: Path
) -> None:
    file = tmp_path / "secret-id"
    file.write_text("a-secret-id-of-this-test")
    with canned(lambda _: Reply(200, {"data": {}})) as elsewhere:
        for status in (301, 302, 303, 307, 308):
            location = f"{elsewhere.address}/v1/steal"
            server.answer = answering(Reply(status, "", {"Location": location}))
            assert_unsettled(store, "a redirect to 127.0.0.1", TOKEN)
            server.answer = lambda _, status=status, location=location: Reply(status, "", {"Location": location})  # type: ignore[misc]
            with pytest.raises(StoreUnavailable, match="a redirect to"):
                open_store(server.address, "kv", AppRoleLogin("role", file)).keep_login()

        assert elsewhere.asked == []
    assert all(asked.headers.get("x-vault-token", TOKEN) == TOKEN for asked in server.asked)


def test_nothing_of_the_environment_is_used(
    server: Canned, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login user password netrc-password\n")
    (tmp_path / ".vault-token").write_text("hvs.a-token-of-the-home-folder")
    with canned(lambda _: Reply(500)) as proxy:
        for name, value in {
            "HOME": str(tmp_path),
            "NETRC": str(tmp_path / ".netrc"),
            "HTTP_PROXY": proxy.address,
            "http_proxy": proxy.address,
            "ALL_PROXY": proxy.address,
            "VAULT_TOKEN": "hvs.a-token-of-the-environment",
            "VAULT_ADDR": proxy.address,
            "VAULT_NAMESPACE": "environment",
        }.items():
            monkeypatch.setenv(name, value)
        server.answer = lambda asked: (
            Reply(200, {"cluster_id": "c"}) if "health" in asked.path else Reply(404, {"errors": []})
        )
        file = tmp_path / "secret-id"
        file.write_text("a-secret-id")
        store = open_store(server.address, "kv", AppRoleLogin("role", file))
        store.location("app")
        with pytest.raises(StoreCredentialRefused):
            store.history("app")

        assert proxy.asked == []
    for asked in server.asked:
        assert not {"authorization", "x-vault-token", "x-vault-namespace"} & set(asked.headers)


def test_health_is_asked_without_token_and_namespace_and_all_else_with_them(
    server: Canned, open_store: OpenStore
) -> None:
    server.answer = answering(Reply(200, {"cluster_id": "c"}))
    store = open_store(server.address, "kv", TOKEN, namespace="team/a")
    store.location("app")
    store.destroy("app", [1])

    health, login, destroy = server.asked

    assert not {"x-vault-token", "x-vault-namespace"} & set(health.headers)
    for asked in (login, destroy):
        assert (asked.headers["x-vault-token"], asked.headers["x-vault-namespace"]) == (TOKEN, "team/a")


def test_cookies_are_not_kept(server: Canned, store: MeteredStore) -> None:
    server.answer = lambda asked: replace(empty(asked), headers={"Set-Cookie": "session=1; Path=/"})
    for _ in range(2):
        store.history("app")

    assert not any("cookie" in asked.headers for asked in server.asked)


def test_a_token_is_in_no_log_and_in_no_repr(
    server: Canned, store: MeteredStore, open_store: OpenStore, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    server.answer = answering(Reply(500, {"errors": ["internal error"]}))
    for method in all_methods(store).values():
        with pytest.raises(StoreError):
            method()

    texts = caplog.text + repr(vars(store)) + repr(vars(store.client)) + repr(vars(store.client.tokens))
    assert TOKEN not in texts
    assert KEY not in texts
    assert "hidden" in repr(vars(store.client))
    assert TOKEN not in repr(TokenFileLogin(tmp_path).file)


# --- connections -----------------------------------------------------------------------------------------------------


def test_more_threads_than_connections_wait_for_one(
    vault: VaultServer, open_store: OpenStore, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(vault.address, vault.new_mount(), vault.root_token, connections=4)
    caplog.set_level(logging.DEBUG, "urllib3")

    def rotate(number: int) -> None:
        store.write(f"app-{number}", {"n": "1"}, cas=0)
        assert store.history(f"app-{number}").current_version == 1

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(rotate, range(128)))

    assert "pool is full" not in caplog.text
    assert caplog.text.count("Starting new HTTP connection") <= 4


# --- TLS -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tls_vault(vault: VaultServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a Vault with TLS, and the certificate of its authority. Its root token is "root"."""
    folder = tmp_path_factory.mktemp("tls-vault")
    [port] = free_ports(1)
    command = [str(vault_program()), "server", "-dev-tls", f"-dev-tls-cert-dir={folder}", "-dev-no-store-token"]
    process = Process(
        [*command, "-dev-root-token-id=root", f"-dev-listen-address=127.0.0.1:{port}"],
        folder,
    )
    output = folder / "output.log"
    try:
        process.start(lambda: "Development mode should NOT be used" in output.read_text())
        yield f"https://127.0.0.1:{port}", folder / "vault-ca.pem"
    finally:
        process.stop()


def test_a_vault_with_tls_is_checked_against_the_given_authority(
    tls_vault: tuple[str, Path], open_store: OpenStore
) -> None:
    address, authority = tls_vault

    for settings in ({}, {"server_name": "localhost"}):
        store = open_store(address, "secret", "root", ca_file=authority, **settings)
        assert store.location("app")
        store.preflight("app", {"n": "1"})


def test_a_certificate_that_is_not_right_is_not_accepted(
    tls_vault: tuple[str, Path], open_store: OpenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, authority = tls_vault
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    monkeypatch.setenv("VAULT_CACERT", str(authority))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority))
    wrong: list[tuple[dict[str, Any], str]] = [
        ({}, "certificate"),
        ({"ca_file": authority, "server_name": "vault.example.com"}, "vault.example.com"),
        ({"ca_file": tmp_path / "missing.pem"}, "missing.pem"),
        ({"ca_file": empty}, "no certificate or crl found"),
    ]

    for settings, words in wrong:
        assert_unsettled(open_store(address, "secret", TOKEN, **settings), words, TOKEN)
    with pytest.raises(StoreUnavailable) as raised:
        open_store(address, "secret", TOKEN, ca_file=empty).history("app")
    assert raised.value.advice.startswith(f"{empty}, the store's ca_file or $VAULT_CACERT,")


def test_http_to_a_port_with_tls_is_reported(tls_vault: tuple[str, Path], open_store: OpenStore) -> None:
    address, _ = tls_vault

    store = open_store(address.replace("https", "http"), "secret", TOKEN)

    with pytest.raises(StoreUnavailable, match=r"is not Vault.s; .* or the address of this Vault begins with https://"):
        store.history("app")


def test_https_to_a_port_without_tls_is_reported(vault: VaultServer, open_store: OpenStore) -> None:
    store = open_store(vault.address.replace("http", "https"), "secret", TOKEN)

    with pytest.raises(StoreUnavailable) as raised:
        store.history("app")
    assert raised.value.advice == "The server there does not speak TLS: is it an http:// address?"
