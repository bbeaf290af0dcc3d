"""The login on a real Vault: how it is obtained, kept and replaced; its timing, with a clock that the test moves."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.clocks import FakeClock
from support.installation import LEAST_RIGHTS
from support.process import wait_until
from support.vault import VaultServer
from support.vaultstore import MeteredStore, OpenStore, assert_hides

from rotator.core.errors import StoreCredentialRefused, StorePermissionDenied
from rotator.stores.vault.auth import (
    AppRoleLogin,
    TokenFileLogin,
)
from rotator.stores.vault.check import findings

pytestmark = pytest.mark.usefixtures("no_waiting")

# What `default` allows a token to do with itself.
OF_ITSELF = """
path "auth/token/lookup-self" { capabilities = ["read"] }
path "auth/token/renew-self" { capabilities = ["update"] }
"""


@pytest.fixture
def mount(vault: VaultServer) -> str:
    return vault.new_mount()


@pytest.fixture
def policy(mount: str) -> str:
    return LEAST_RIGHTS.format(mount=mount) + OF_ITSELF


def revoke(vault: VaultServer, token: str) -> None:
    vault.request("POST", "auth/token/revoke", {"token": token}).raise_for_status()


def approle(vault: VaultServer, policy: str, folder: Path, **parameters: object) -> AppRoleLogin:
    role_id, secret_id = vault.approle(policy, **parameters)
    file = folder / "secret-id"
    file.write_text(f"{secret_id}\n")
    return AppRoleLogin(role_id, file)


def operations(store: MeteredStore) -> list[str]:
    return [operation for operation, _ in store.metered.take()]


# --- logging in ------------------------------------------------------------------------------------------------------


def test_nothing_is_sent_before_the_first_use(vault: VaultServer, mount: str, open_store: OpenStore) -> None:
    store = open_store(vault.address, mount, vault.root_token)
    assert store.metered.take() == []

    store.history("app")
    store.history("app")

    assert operations(store) == ["login", "metadata", "mount", "metadata"]
    assert store.token_expires_at is None  # root's never expires


def test_an_approle_logs_in(vault: VaultServer, mount: str, policy: str, open_store: OpenStore, tmp_path: Path) -> None:
    clock = FakeClock(datetime.now(UTC))
    store = open_store(vault.address, mount, approle(vault, policy, tmp_path, token_ttl="60s"), clock)

    assert store.write("app", {"n": "1"}, cas=0).number == 1

    assert operations(store) == ["login", "write"]
    assert store.token_expires_at == clock.start + timedelta(seconds=60)


def test_the_end_of_a_given_token_is_asked_for(
    vault: VaultServer, mount: str, policy: str, open_store: OpenStore
) -> None:
    clock = FakeClock(datetime.now(UTC))
    store = open_store(vault.address, mount, vault.policy_token(policy, ttl="100s"), clock)

    store.keep_login()

    assert store.token_expires_at is not None
    assert timedelta(seconds=90) < store.token_expires_at - clock.start <= timedelta(seconds=100)


def test_of_many_threads_one_logs_in(
    vault: VaultServer, mount: str, policy: str, open_store: OpenStore, tmp_path: Path
) -> None:
    store = open_store(vault.address, mount, approle(vault, policy, tmp_path))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: store.history(f"app-{number}"), range(32)))

    assert operations(store).count("login") == 1


def missing(file: Path) -> None:
    file.unlink(missing_ok=True)


def empty(file: Path) -> None:
    file.write_text("\n")


def two_lines(file: Path) -> None:
    file.write_text("hvs.first-token-text\nhvs.second-token-text\n")


def binary(file: Path) -> None:
    file.write_bytes(b"hvs.\xff\xfe\x00first-token-text")


@pytest.mark.parametrize(
    ("prepare", "words"),
    [(missing, "No such file"), (empty, "is empty"), (two_lines, "cannot be in one"), (binary, "cannot be in one")],
)
@pytest.mark.parametrize("of", [TokenFileLogin, lambda file: AppRoleLogin("role", file)], ids=["token", "approle"])
def test_a_file_without_a_credential_is_named_and_nothing_is_sent(
    vault: VaultServer,
    mount: str,
    open_store: OpenStore,
    tmp_path: Path,
    prepare: Callable[[Path], None],
    words: str,
    of: Callable[[Path], TokenFileLogin | AppRoleLogin],
) -> None:
    file = tmp_path / "credential"
    prepare(file)
    store = open_store(vault.address, mount, of(file))

    with pytest.raises(StoreCredentialRefused, match=words) as raised:
        store.write("app", {"n": "1"}, cas=0)

    assert str(file) in raised.value.message
    assert store.metered.take() == [("login", "credential")], "counted, for alerts to see"
    assert_hides(raised.value, "first-token-text", "second-token-text")


def test_a_refused_approle_is_named(
    vault: VaultServer, mount: str, policy: str, open_store: OpenStore, tmp_path: Path
) -> None:
    login = approle(vault, policy, tmp_path)
    login.secret_id_file.write_text("a-wrong-secret-id")

    for of in (login, AppRoleLogin(login.role_id, login.secret_id_file, mount="elsewhere")):
        with pytest.raises(StoreCredentialRefused, match=f"refused the login at auth/{of.mount}/login") as raised:
            open_store(vault.address, mount, of).write("app", {"n": "1"}, cas=0)
        assert_hides(raised.value, "a-wrong-secret-id")


def test_a_wrong_secret_id_never_locks_the_role(
    vault: VaultServer, mount: str, policy: str, open_store: OpenStore, tmp_path: Path
) -> None:
    """Vault's clock stands still here: so it is stricter than in the twenty minutes that seem to pass."""
    login, clock = approle(vault, policy, tmp_path), FakeClock(datetime.now(UTC))
    good = login.secret_id_file.read_text()
    login.secret_id_file.write_text("a-wrong-secret-id")
    store = open_store(vault.address, mount, login, clock)
    while clock.passed < 1200:
        with pytest.raises(StoreCredentialRefused, match="invalid role or secret ID"):
            store.keep_login()
        clock.sleep(5)

    login.secret_id_file.write_text(good)
    store.keep_login()

    assert store.is_logged_in


def test_a_locked_role_is_named_and_can_be_unlocked_by_the_errors_advice(
    vault: VaultServer, mount: str, policy: str, open_store: OpenStore, tmp_path: Path
) -> None:
    login, clock = approle(vault, policy, tmp_path), FakeClock(datetime.now(UTC))
    wrong = {"role_id": login.role_id, "secret_id": "a-wrong-secret-id"}
    for _ in range(6):  # another client, which does not wait
        vault.request("POST", "auth/approle/login", wrong, token="")
    store = open_store(vault.address, mount, login, clock)
    with pytest.raises(StoreCredentialRefused, match="locks the role") as raised:
        store.keep_login()
    assert "vault write -f sys/locked-users/ACCESSOR/unlock/ROLE_ID" in raised.value.advice

    accessor = vault.request("GET", "sys/auth").json()["data"]["approle/"]["accessor"]
    vault.request("POST", f"sys/locked-users/{accessor}/unlock/{login.role_id}").raise_for_status()
    clock.sleep(5)
    store.keep_login()

    assert store.is_logged_in


# --- healing ---------------------------------------------------------------------------------------------------------


def test_a_revoked_token_is_replaced_from_its_file(
    vault: VaultServer, mount: str, policy: str, open_store: OpenStore, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    first, second = vault.policy_token(policy), vault.policy_token(policy)
    file.write_text(first)
    store = open_store(vault.address, mount, TokenFileLogin(file))
    store.write("app", {"n": "1"}, cas=0)
    store.metered.take()

    revoke(vault, first)
    file.write_text(f"{second}\n")

    assert store.write("app", {"n": "2"}, cas=1).number == 2
    assert store.metered.take() == [("write", "403"), ("login", "200"), ("write", "200")]


def test_a_revoked_token_is_replaced_by_another_login(
    vault: VaultServer, mount: str, policy: str, open_store: OpenStore, tmp_path: Path
) -> None:
    store = open_store(vault.address, mount, approle(vault, policy, tmp_path))
    for cas in range(3):
        store.write("app", {"n": str(cas)}, cas)
        revoke(vault, store.client.tokens.token().reveal())

    assert store.history("app").current_version == 3
    assert operations(store) == [
        "login",
        "write",
        *["write", "login", "write"] * 2,
        "metadata",
        "login",
        *["metadata"],
        *["read"] * 3,
    ]


def test_an_expired_token_is_replaced_by_another_login(
    vault: VaultServer, mount: str, policy: str, open_store: OpenStore, tmp_path: Path
) -> None:
    store = open_store(vault.address, mount, approle(vault, policy, tmp_path, token_ttl="1s"))
    store.history("app")
    token = store.client.tokens.token().reveal()
    wait_until(
        lambda: vault.request("GET", "auth/token/lookup-self", token=token).status_code == 403, "the token's end", 10
    )

    store.preflight("app", {"n": "1"})

    assert operations(store) == ["login", "metadata", "mount", "preflight", "login", "preflight"]


def test_of_many_threads_with_a_revoked_token_one_logs_in(
    vault: VaultServer, mount: str, policy: str, open_store: OpenStore, tmp_path: Path
) -> None:
    store = open_store(vault.address, mount, approle(vault, policy, tmp_path), connections=16)
    store.history("app")
    revoke(vault, store.client.tokens.token().reveal())
    store.metered.take()

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: store.write(f"app-{number}", {}, cas=0), range(64)))

    assert operations(store).count("login") == 1


def test_a_dead_token_that_nothing_replaces_is_a_refused_credential(
    vault: VaultServer, mount: str, policy: str, open_store: OpenStore, tmp_path: Path
) -> None:
    token, file = vault.policy_token(policy), tmp_path / "token"
    file.write_text(token)
    stores = [open_store(vault.address, mount, token), open_store(vault.address, mount, TokenFileLogin(file))]
    for store in stores:
        store.history("app")
    revoke(vault, token)

    for store in stores:
        store.metered.take()
        for attempt in (partial(store.history, "app"), partial(store.write, "app", {}, cas=0), store.keep_login):
            with pytest.raises(StoreCredentialRefused, match="invalid") as raised:
                attempt()
            assert_hides(raised.value, token)
        assert store.token_expires_at is None
        assert operations(store) == ["metadata", "login", "login", "login"]


def test_a_refusal_of_the_policy_is_no_reason_to_log_in(
    vault: VaultServer, mount: str, open_store: OpenStore, tmp_path: Path
) -> None:
    store = open_store(
        vault.address, mount, approle(vault, f'path "{mount}/x" {{ capabilities = ["read"] }}', tmp_path)
    )

    for _ in range(2):
        with pytest.raises(StorePermissionDenied):
            store.write("app", {"n": "1"}, cas=0)

    assert operations(store) == ["login", "write", "write"]


# --- keeping ---------------------------------------------------------------------------------------------------------


def test_a_token_is_renewed_at_two_thirds_of_its_life(
    vault: VaultServer, mount: str, policy: str, open_store: OpenStore, tmp_path: Path
) -> None:
    clock = FakeClock(datetime.now(UTC))
    store = open_store(vault.address, mount, approle(vault, policy, tmp_path, token_ttl="60s"), clock)
    store.keep_login()
    clock.sleep(39)
    store.keep_login()
    assert operations(store) == ["login"]

    clock.sleep(2)
    store.keep_login()
    store.keep_login()

    assert operations(store) == ["renew"]
    assert store.token_expires_at == clock.start + timedelta(seconds=41 + 60)


def test_a_token_near_its_last_day_is_replaced(
    vault: VaultServer, mount: str, policy: str, open_store: OpenStore, tmp_path: Path
) -> None:
    # A renewal that gives less than before: Vault's clock has not moved, but its bound for this token is below its ttl.
    login = approle(vault, policy, tmp_path, token_ttl="60s", token_explicit_max_ttl="61s")
    clock = FakeClock(datetime.now(UTC))
    store = open_store(vault.address, mount, login, clock)
    store.keep_login()
    first = store.client.tokens.token().reveal()
    wait_until(
        lambda: vault.request("GET", "auth/token/lookup-self", token=first).json()["data"]["ttl"] < 58,
        "two seconds",
        10,
    )

    clock.sleep(41)
    store.keep_login()

    assert operations(store) == ["login", "renew", "login"]
    assert store.client.tokens.token().reveal() != first


def test_a_token_that_is_not_renewable_is_replaced(
    vault: VaultServer, mount: str, policy: str, open_store: OpenStore, tmp_path: Path
) -> None:
    clock = FakeClock(datetime.now(UTC))
    login = approle(vault, policy, tmp_path, token_ttl="60s", token_type="batch")
    store = open_store(vault.address, mount, login, clock)
    store.keep_login()

    clock.sleep(41)
    store.keep_login()

    assert operations(store) == ["login", "login"]


# --- revoking it --------------------------------------------------------------------------------------------------


def is_good(vault: VaultServer, token: str) -> bool:
    return vault.request("POST", "auth/token/lookup", {"token": token}).is_success


def test_a_token_that_a_login_got_is_revoked_at_the_end(
    vault: VaultServer, mount: str, policy: str, open_store: OpenStore, tmp_path: Path
) -> None:
    clock = FakeClock(datetime.now(UTC))
    store = open_store(vault.address, mount, approle(vault, policy, tmp_path, token_ttl="60s"), clock)
    store.history("app")
    token = store.client.tokens.token().reveal()
    clock.sleep(41)
    store.keep_login()  # it is renewed, and is still ours
    assert is_good(vault, token)
    store.metered.take()

    store.close()

    assert not is_good(vault, token)
    assert store.metered.take() == [("revoke", "204")]


def test_a_given_token_is_never_revoked(
    vault: VaultServer, mount: str, policy: str, open_store: OpenStore, tmp_path: Path
) -> None:
    token, file = vault.policy_token(policy, ttl="60s"), tmp_path / "token"
    file.write_text(token)
    for login in (token, TokenFileLogin(file)):
        clock = FakeClock(datetime.now(UTC))
        store = open_store(vault.address, mount, login, clock)
        store.history("app")
        clock.sleep(50)
        store.keep_login()  # it is renewed, with an answer like that to a login
        assert operations(store)[-1] == "renew"

        store.close()

        assert operations(store) == []
        assert is_good(vault, token)


def test_a_refusal_to_revoke_is_no_error(
    vault: VaultServer, mount: str, policy: str, open_store: OpenStore, tmp_path: Path
) -> None:
    for parameters in ({"token_no_default_policy": True}, {"token_type": "batch"}):
        store = open_store(vault.address, mount, approle(vault, policy, tmp_path, **parameters))
        store.history("app")
        store.metered.take()
        store.close()
        [(operation, status)] = store.metered.take()
        assert operation == "revoke"
        assert status in ("400", "403")


# --- odd credentials -------------------------------------------------------------------------------------------------


def test_a_login_whose_tokens_are_soon_used_up_is_named(
    vault: VaultServer, mount: str, policy: str, open_store: OpenStore, tmp_path: Path
) -> None:
    """Of eight threads with one token of three uses most are refused, and so is what they do next."""
    store = open_store(vault.address, mount, approle(vault, policy, tmp_path, token_num_uses=3))
    [found] = [finding for finding in findings(store, ["app"]) if "allows only 3 requests" in finding.message]
    assert "token_num_uses = 0" in found.advice
    errors: list[StoreCredentialRefused] = []

    def ask(number: int) -> None:
        try:
            store.history(f"app-{number}")
        except StoreCredentialRefused as error:
            errors.append(error)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(64)))

    assert errors
    for error in errors:
        assert "allows 3 requests, and all were used" in error.message
        assert "token_num_uses = 0" in error.advice
        assert "Replace the credentials" not in error.advice


def test_a_given_token_that_is_used_up_is_named(
    vault: VaultServer, mount: str, policy: str, open_store: OpenStore
) -> None:
    store = open_store(vault.address, mount, vault.policy_token(policy, num_uses=4))

    def use_up() -> None:
        for _ in range(4):
            store.history("app")

    with pytest.raises(StoreCredentialRefused, match="all were used") as raised:
        use_up()
    assert "num_uses" in raised.value.advice


def wrapped(vault: VaultServer, path: str, body: object = None) -> dict[str, str]:
    """The answer to a request whose answer is wrapped."""
    headers = {"X-Vault-Token": vault.root_token, "X-Vault-Wrap-TTL": "60s"}
    answer = httpx.post(f"{vault.address}/v1/{path}", headers=headers, json=body, trust_env=False)
    made: dict[str, str] = answer.raise_for_status().json()
    return made


def test_a_wrapped_secret_id_is_recognised(
    vault: VaultServer, mount: str, policy: str, open_store: OpenStore, tmp_path: Path
) -> None:
    login = approle(vault, policy, tmp_path)
    role = next(name for name in vault.request("LIST", "auth/approle/role").json()["data"]["keys"])
    answer: Any = wrapped(vault, f"auth/approle/role/{role}/secret-id")
    for content, words in (
        (answer["wrap_info"]["token"], "refused the login"),
        (json.dumps(answer), "holds a wrapped answer of Vault in JSON"),
        (json.dumps(answer["wrap_info"]), "holds a wrapped answer of Vault in JSON"),
    ):
        login.secret_id_file.write_text(content)
        with pytest.raises(StoreCredentialRefused, match=words) as raised:
            open_store(vault.address, mount, login).keep_login()
        assert "`vault unwrap`" in raised.value.advice
        assert_hides(raised.value, answer["wrap_info"]["token"])
    login.secret_id_file.write_text('{"secret_id": "x"}')
    with pytest.raises(StoreCredentialRefused, match="holds JSON"):
        open_store(vault.address, mount, login).keep_login()


def test_a_wrapping_token_as_the_token_is_recognised(
    vault: VaultServer, mount: str, policy: str, open_store: OpenStore, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    answer: Any = wrapped(vault, "auth/token/create", {"policies": [vault.new_policy(policy)]})
    file.write_text(answer["wrap_info"]["token"])
    store = open_store(vault.address, mount, TokenFileLogin(file))
    with pytest.raises(StoreCredentialRefused, match="response-wrapping token") as raised:
        store.history("app")
    assert "`vault unwrap`" in raised.value.advice
    assert_hides(raised.value, answer["wrap_info"]["token"])


def test_a_token_without_the_default_policy_that_ends_is_not_taken_for_a_wrapping_one(
    vault: VaultServer, mount: str, open_store: OpenStore
) -> None:
    token = vault.policy_token(LEAST_RIGHTS.format(mount=mount))
    store = open_store(vault.address, mount, token)
    store.history("app")
    revoke(vault, token)
    with pytest.raises(StoreCredentialRefused, match="invalid") as raised:
        store.history("app")
    assert "wrapping" not in raised.value.message
