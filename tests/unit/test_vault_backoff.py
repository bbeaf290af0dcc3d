"""How often Vault is asked after it refused: credentials by their content, and requests that were too many."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.canned import Asked, Canned, Reply, canned
from support.vaultstore import MeteredStore, OpenStore, SetClock, empty, opened_stores

from rotator.errors import StoreCredentialRefused
from rotator.model import Secret
from rotator.stores.vault_login import AppRoleLogin, CertLogin, JwtLogin, Login, TokenFileLogin, TokenLogin

REFUSED = Reply(400, {"errors": ["invalid role or secret ID"]})
DEAD = Reply(403, {"errors": ["permission denied", "invalid token"]})
LOCKED = Reply(403, {"errors": ["permission denied"]})
GRANTED = Reply(200, {"auth": {"client_token": "hvs.granted", "lease_duration": 3600, "renewable": True}})
LOOKED_UP = Reply(200, {"data": {"ttl": 3600, "renewable": True}})
EVERY = 5  # seconds between two looks of the daemon at its login


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "credential"
    file.write_text("wrong")
    return file


@pytest.fixture
def open_store() -> Iterator[OpenStore]:
    with opened_stores() as opened:
        yield opened


METHODS: dict[str, Callable[[Path], Login]] = {
    "token": lambda file: TokenLogin(Secret("wrong")),
    "token_file": TokenFileLogin,
    "approle": lambda file: AppRoleLogin("role", file),
    "jwt": lambda file: JwtLogin("role", file, "jwt"),
    "cert": lambda file: CertLogin(None, file=file),
}


def answer(asked: Asked, refusal: Reply) -> Reply:
    """What a Vault answers that takes nothing but the credential "good"."""
    if asked.path.endswith("/login"):
        return GRANTED if b'"good"' in asked.body else refusal
    if asked.path.endswith("lookup-self"):
        return LOOKED_UP if asked.headers["x-vault-token"] == "good" else DEAD
    return empty(asked)


@pytest.fixture
def vault() -> Iterator[Canned]:
    with canned(lambda asked: answer(asked, REFUSED)) as server:
        yield server


def refusals(store: MeteredStore, clock: SetClock, seconds: int) -> list[float]:
    """When the daemon logged in, in vain, while it looked at its login for so long, and work was tried meanwhile."""
    sent = []
    until = clock.passed + seconds
    while clock.passed < until:
        with pytest.raises(StoreCredentialRefused, match=r"refused|invalid"):
            store.keep_login()
        with pytest.raises(StoreCredentialRefused, match=r"refused|invalid"):
            store.history("app")
        attempts = [outcome for operation, outcome in store.metered.take() if operation == "login"]
        assert attempts, "each is counted, for the alert to see"
        sent += [clock.passed] * sum(outcome.isdecimal() for outcome in attempts)
        clock.sleep(EVERY)
    return sent


@pytest.mark.parametrize("method", METHODS)
def test_refused_credentials_are_shown_rarely(
    vault: Canned, open_store: OpenStore, clock: SetClock, file: Path, method: str
) -> None:
    store = open_store(vault.address, "kv", METHODS[method](file), clock)
    sent = refusals(store, clock, 1800)
    if method == "approle":  # Vault locks a role after five within 15 minutes of each other
        assert sent == [0, 60, 300, 1260]
    else:
        assert sent[:6] == [0, 5, 15, 35, 75, 155]
        assert max(after - before for before, after in itertools.pairwise(sent)) == 300


@pytest.mark.parametrize("method", ["approle", "jwt", "token_file"])
def test_changed_credentials_are_tried_at_once(
    vault: Canned, open_store: OpenStore, clock: SetClock, file: Path, method: str
) -> None:
    store = open_store(vault.address, "kv", METHODS[method](file), clock)
    refusals(store, clock, 600)
    file.write_text("wrong-too")
    with pytest.raises(StoreCredentialRefused):
        store.keep_login()
    assert store.metered.take()[0][1].isdecimal()
    file.write_text("good")
    store.keep_login()
    assert store.metered.take() == [("login", "200")]
    store.history("app")
    assert store.client.circuit.error is None, "the daemon does not wait for its next try"


def test_another_certificate_is_tried_at_once(
    vault: Canned, open_store: OpenStore, clock: SetClock, file: Path
) -> None:
    store = open_store(vault.address, "kv", CertLogin(None, file=file), clock)
    refusals(store, clock, 600)
    file.write_text("another")
    with pytest.raises(StoreCredentialRefused):
        store.keep_login()
    assert store.metered.take() == [("login", "400")]


def test_a_lockout_is_named_with_what_unlocks_it(open_store: OpenStore, clock: SetClock, file: Path) -> None:
    with canned(lambda asked: answer(asked, LOCKED)) as server:
        store = open_store(server.address, "kv", AppRoleLogin("role", file, mount="approles/eu"), clock)
        with pytest.raises(StoreCredentialRefused) as raised:
            store.keep_login()
        assert refusals(store, clock, 60) == [0, 5, 15, 35], "these are not counted, and it may be unlocked"
    assert "locks the role" in raised.value.message
    assert "vault write -f sys/locked-users/ACCESSOR/unlock/ROLE_ID" in raised.value.advice
    assert "approles/eu/" in raised.value.advice
