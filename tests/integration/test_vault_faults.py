"""A Vault that is sealed, gone, frozen, restarted, or not Vault at all; and what must not leak on the way."""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.canned import Asked, Canned, Reply, canned
from support.process import Process, free_ports, wait_until
from support.vault import RaftVault, VaultServer, vault_program
from support.vaultstore import MeteredStore, OpenStore, assert_hides

from rotator.errors import (
    StoreCredentialRefused,
    StoreError,
    StoreOutcomeUnknown,
    StorePermissionDenied,
    StoreRequestRefused,
    StoreSealed,
    StoreUnavailable,
)
from rotator.stores.vault_login import AppRoleLogin, TokenFileLogin

pytestmark = pytest.mark.usefixtures("no_waiting")

TOKEN = "hvs.the-token-of-this-test"
KEY = "the-key-of-this-test"
DATA = {"api_key": KEY}


def all_methods(store: MeteredStore) -> dict[str, Callable[[], object]]:
    """Every method of the port that talks to Vault."""
    return {
        "history": lambda: store.history("app"),
        "prove": lambda: store.prove("app", DATA),
        "write": lambda: store.write("app", DATA, cas=0),
        "destroy": lambda: store.destroy("app", [1]),
        "location": lambda: store.location("app"),
    }


READS = ("history", "prove", "location")
CHANGES = ("write", "destroy")


def assert_unsettled(store: MeteredStore, words: str, *secrets: str, but: tuple[str, ...] = ()) -> None:
    """Reads are unavailable, of changes nobody knows, all in clear words."""
    for name, method in all_methods(store).items():
        if name in but:
            continue
        with pytest.raises(StoreError) as raised:
            method()
        assert type(raised.value) is (StoreOutcomeUnknown if name in CHANGES else StoreUnavailable), name
        assert words in raised.value.message
        assert raised.value.advice
        assert_hides(raised.value, KEY, *secrets)


# --- a real one that is broken ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_vault(raft_vault: Callable[[], RaftVault]) -> RaftVault:
    return raft_vault()


def test_a_sealed_vault_does_nothing_and_says_so(own_vault: RaftVault, open_store: OpenStore) -> None:
    mount = own_vault.new_mount()
    used = open_store(own_vault.address, mount, own_vault.root_token)
    used.history("app")
    fresh = open_store(own_vault.address, mount, own_vault.root_token)

    own_vault.seal()
    try:
        for store in (used, fresh):
            for method in all_methods(store).values():
                with pytest.raises(StoreSealed, match="Vault is sealed") as raised:
                    method()
                assert_hides(raised.value, KEY, own_vault.root_token)
    finally:
        own_vault.unseal()

    for store in (used, fresh):
        assert store.history("app").current_version == 0
    assert used.location("app") == fresh.location("app")


def test_a_vault_that_was_restarted_is_used_on(own_vault: RaftVault, open_store: OpenStore) -> None:
    store = open_store(own_vault.address, own_vault.new_mount(), own_vault.root_token)
    location = store.location("app")
    store.write("app", DATA, cas=0)

    own_vault.stop()
    assert_unsettled(store, "Connection refused", own_vault.root_token, but=("location",))
    assert {outcome for _, outcome in store.metered.take()} == {"200", "connection"}
    own_vault.start()
    with pytest.raises(StoreSealed):
        store.history("app")
    own_vault.unseal()

    assert store.history("app").current_version == 1
    assert open_store(own_vault.address, store.mount, own_vault.root_token).location("app") == location


def freeze(vault: RaftVault) -> None:
    """Freeze it, and wait until it is: what was under way may still be answered."""
    vault.freeze()

    def is_frozen() -> bool:
        try:
            httpx.get(f"{vault.address}/v1/sys/health", timeout=0.1, trust_env=False)
        except httpx.TimeoutException:
            return True
        return False

    wait_until(is_frozen, "Vault to stand still")


def test_a_frozen_vault_is_given_up_in_time(own_vault: RaftVault, open_store: OpenStore) -> None:
    store = open_store(own_vault.address, own_vault.new_mount(), own_vault.root_token, timeout=0.1)
    store.keep_login()

    freeze(own_vault)
    try:
        assert_unsettled(store, "no answer from 127.0.0.1", own_vault.root_token)
    finally:
        own_vault.thaw()

    assert {outcome for _, outcome in store.metered.take()} == {"200", "timeout"}


def test_a_write_to_a_frozen_vault_lands_later(own_vault: RaftVault, open_store: OpenStore) -> None:
    store = open_store(own_vault.address, own_vault.new_mount(), own_vault.root_token, timeout=0.2)
    store.keep_login()
    store.close()  # on a connection that is open already, Vault would notice that nobody waits, and might not write

    freeze(own_vault)
    try:
        with pytest.raises(StoreOutcomeUnknown):
            store.write("app", DATA, cas=0)
    finally:
        own_vault.thaw()

    patient = open_store(own_vault.address, store.mount, own_vault.root_token)
    wait_until(lambda: patient.history("app").current_version == 1, "the late write")


def test_data_over_the_storages_own_limit_is_definitely_refused(own_vault: RaftVault, open_store: OpenStore) -> None:
    store = open_store(own_vault.address, own_vault.new_mount(), own_vault.root_token)
    large = {"a": "x" * 900_000, "b": "x" * 900_000}
    store.prove("app", large)  # the one refusal that cannot be foreseen

    with pytest.raises(StoreRequestRefused, match="value being too large"):
        store.write("app", large, cas=0)

    assert store.history("app").current_version == 0


def test_a_vault_that_is_not_there_is_named(open_store: OpenStore) -> None:
    [port] = free_ports(1)
    store = open_store(f"http://127.0.0.1:{port}", "secret", TOKEN)

    assert_unsettled(store, f"the connection to 127.0.0.1:{port} failed (Connection refused)", TOKEN)
    with pytest.raises(StoreUnavailable, match="Connection refused"):
        store.keep_login()


def test_a_host_that_has_no_address_is_named(open_store: OpenStore) -> None:
    store = open_store("http://vault.invalid:8200", "secret", TOKEN)

    with pytest.raises(StoreUnavailable, match=r"the connection to vault\.invalid:8200 failed"):
        store.history("app")


# --- what is not quite Vault -----------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[Canned]:
    with canned(lambda _: Reply(500)) as server:
        yield server


@pytest.fixture
def store(server: Canned, open_store: OpenStore) -> MeteredStore:
    return open_store(server.address, "kv", TOKEN)


DENIED = Reply(403, {"errors": ["1 error occurred:\n\t* permission denied\n\n"]})


def answering(reply: Reply) -> Callable[[Asked], Reply]:
    """Logs in whoever asks, and answers this to all else."""
    return lambda asked: DENIED if asked.path == "/v1/auth/token/lookup-self" else reply


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(412, {"errors": ["required index state not present"]}), "not yet seen the latest writes"),
        (Reply(429, {"errors": ['request path "kv": rate limit quota exceeded']}), "rate limit quota"),
        (Reply(429, ""), "a standby was asked that does not forward"),
        (Reply(472, ""), "a disaster recovery secondary was asked"),
        (Reply(473, ""), "a performance standby was asked"),
        (Reply(500, {"errors": ["internal error"]}), "Vault failed (500: internal error)"),
        (
            Reply(500, {"errors": ["local node not active but active cluster node not found"]}),
            "active cluster node not found",
        ),
        (
            Reply(503, {"errors": ["Vault is not ready"]}),
            "has no active node, or is starting (503: Vault is not ready)",
        ),
        (Reply(503, "<html>no healthy upstream"), "Vault is not ready"),
        (Reply(502, "<html>Bad Gateway"), "a proxy got no answer from Vault"),
        (Reply(504, "<html>Gateway Timeout"), "a proxy got no answer from Vault in time"),
        (Reply(200, "<html>Please log in"), "a proxy"),
        (Reply(200, {"data": {"versions": 7}}), "a proxy"),
        (Reply(200, "[1]"), "a proxy"),
        (Reply(404, "<html>Not Found"), "something that is not Vault answered"),
        (Reply(404, {"message": "no such route"}), "something that is not Vault answered"),
        (Reply(418, {"errors": ["teapot"]}), "not to be expected (418: teapot)"),
        (Reply(302, "", {"Location": "https://sso.example.com/login?next=x"}), "a redirect to sso.example.com"),
        (Reply(200, "x" * 1000, drips=True), "no answer from 127.0.0.1"),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Reply) else value[:20],
)
def test_what_is_not_a_clear_answer_is_unsettled_in_clear_words(
    server: Canned, open_store: OpenStore, reply: Reply, words: str
) -> None:
    server.answer = answering(reply)
    store = open_store(server.address, "kv", TOKEN, timeout=0.2 if reply.drips else 2.0)
    # A 204 or an empty 200 is all that Vault says to a destroy; sys/health is judged by what is in it.
    but = ("location", "destroy") if reply.status == 200 and not reply.drips else ()

    assert_unsettled(store, words, TOKEN, but=but)

    asked = [asked.path for asked in server.asked if asked.method == "POST" and "/kv/" in asked.path]
    assert len(asked) == (2 if "destroy" not in but else 1)  # changes are sent once; a proof not without a mount


def test_reads_are_tried_three_times_and_changes_once(server: Canned, store: MeteredStore) -> None:
    server.answer = answering(Reply(500, {"errors": ["internal error"]}))
    for method in all_methods(store).values():
        with pytest.raises(StoreError):
            method()

    asked = [request for request in store.metered.take() if request[0] != "login"]

    assert asked == [
        *[("metadata", "500")] * 3,
        *[("mount", "500")] * 3,
        ("write", "500"),
        ("destroy", "500"),
        *[("health", "500")] * 3,
    ]


def test_a_read_that_fails_once_is_no_failure(server: Canned, store: MeteredStore) -> None:
    answers = iter([Reply(503, "<html>no healthy upstream"), Reply(404, {"errors": []})])
    server.answer = lambda asked: DENIED if asked.path.endswith("lookup-self") else next(answers)

    assert store.history("app").current_version == 0


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(413, "<html>Request Entity Too Large"), StoreRequestRefused),
        (Reply(400, {"errors": ["missing data"]}), StoreRequestRefused),
        (Reply(403, "<html>Forbidden"), StorePermissionDenied),
        (Reply(503, {"errors": ["Vault is sealed"]}), StoreSealed),
    ],
)
def test_a_definite_refusal_of_a_write_is_told_as_one(
    server: Canned, store: MeteredStore, reply: Reply, error: type[StoreError]
) -> None:
    server.answer = answering(reply)

    with pytest.raises(error) as raised:
        store.write("app", DATA, cas=0)

    assert_hides(raised.value, TOKEN, KEY)


def test_a_write_whose_login_cannot_be_tried_is_unknown(server: Canned, store: MeteredStore) -> None:
    server.answer = lambda _: Reply(500, {"errors": ["internal error"]})

    with pytest.raises(StoreOutcomeUnknown, match="log in through auth/token/lookup-self"):
        store.write("app", DATA, cas=0)

    assert server.paths("POST") == []


def test_only_vaults_own_words_are_quoted_and_not_many(server: Canned, store: MeteredStore) -> None:
    words = "bad\x1b[31m thing\n\n" + "x" * 1000
    server.answer = answering(Reply(400, {"errors": [words], "data": {"echo": KEY}}))

    with pytest.raises(StoreRequestRefused) as raised:
        store.write("app", DATA, cas=0)

    assert "bad\\x1b[31m thing xxx" in raised.value.message
    assert len(raised.value.message) < 400
    assert_hides(raised.value, KEY, TOKEN)


def test_a_dripping_answer_gives_its_connection_back(server: Canned, open_store: OpenStore) -> None:
    server.answer = answering(Reply(200, "x" * 1000, drips=True))
    store = open_store(server.address, "kv", TOKEN, timeout=0.1, connections=1)

    for _ in range(3):
        with pytest.raises(StoreOutcomeUnknown, match="no answer"):
            store.write("app", DATA, cas=0)


# --- what must not leak ----------------------------------------------------------------------------------------------


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
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login somebody password netrc-password\n")
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
    server.answer = answering(Reply(404, {"errors": []}, {"Set-Cookie": "session=1; Path=/"}))
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

    said = caplog.text + repr(vars(store)) + repr(vars(store.client)) + repr(vars(store.client.tokens))
    assert TOKEN not in said
    assert KEY not in said
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
        store.prove("app", {"n": "1"})


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


def test_http_to_a_port_with_tls_is_told(tls_vault: tuple[str, Path], open_store: OpenStore) -> None:
    address, _ = tls_vault

    store = open_store(address.replace("https", "http"), "secret", TOKEN)

    with pytest.raises(StoreUnavailable, match="not Vault answered"):
        store.history("app")
