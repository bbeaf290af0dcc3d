"""How often Vault is asked after it refused: credentials by their content, and requests that were too many."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.canned import Asked, Canned, Reply, canned
from support.clocks import FakeClock
from support.vaultstore import MeteredStore, OpenStore, empty, opened_stores

from rotator.core.errors import StoreCredentialRefused, StoreOutcomeUnknown, StoreRateLimited
from rotator.core.secrets import Secret
from rotator.stores.vault.auth import AppRoleLogin, CertLogin, JwtLogin, Login, TokenFileLogin, TokenLogin
from rotator.stores.vault.backoff import FIRST_PAUSE, Pace

REFUSED = Reply(400, {"errors": ["invalid role or secret ID"]})
DEAD = Reply(403, {"errors": ["permission denied", "invalid token"]})
LOCKED = Reply(403, {"errors": ["permission denied"]})
GRANTED = Reply(200, {"auth": {"client_token": "hvs.granted", "lease_duration": 3600, "renewable": True}})
LOOKED_UP = Reply(200, {"data": {"ttl": 3600, "renewable": True}})
EVERY = 5  # seconds between the daemon's checks of its login


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


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
    """Answer as a Vault that accepts only the credential "good"."""
    if asked.path.endswith("/login"):
        return GRANTED if b'"good"' in asked.body else refusal
    if asked.path.endswith("lookup-self"):
        return LOOKED_UP if asked.headers["x-vault-token"] == "good" else DEAD
    return empty(asked)


@pytest.fixture
def vault() -> Iterator[Canned]:
    with canned(lambda asked: answer(asked, REFUSED)) as server:
        yield server


def refusals(store: MeteredStore, clock: FakeClock, seconds: int) -> list[float]:
    """Check the daemon's login for `seconds` while work is tried; return when a login was sent."""
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
    vault: Canned, open_store: OpenStore, clock: FakeClock, file: Path, method: str
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
    vault: Canned, open_store: OpenStore, clock: FakeClock, file: Path, method: str
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
    vault: Canned, open_store: OpenStore, clock: FakeClock, file: Path
) -> None:
    store = open_store(vault.address, "kv", CertLogin(None, file=file), clock)
    refusals(store, clock, 600)
    file.write_text("another")
    with pytest.raises(StoreCredentialRefused):
        store.keep_login()
    assert store.metered.take() == [("login", "400")]


def test_a_lockout_is_named_with_what_unlocks_it(open_store: OpenStore, clock: FakeClock, file: Path) -> None:
    with canned(lambda asked: answer(asked, LOCKED)) as server:
        store = open_store(server.address, "kv", AppRoleLogin("role", file, mount="approles/eu"), clock)
        with pytest.raises(StoreCredentialRefused) as raised:
            store.keep_login()
        assert refusals(store, clock, 60) == [0, 5, 15, 35], "these are not counted, and it may be unlocked"
    assert "locks the role" in raised.value.message
    assert "vault write -f sys/locked-users/ACCESSOR/unlock/ROLE_ID" in raised.value.advice
    assert "approles/eu/" in raised.value.advice


# --- too many requests -----------------------------------------------------------------------------------------------


class Quota:
    """Accept so many requests a second, as a rate limit quota of Vault does, and refuse the rest."""

    def __init__(self, clock: FakeClock, rate: int, headers: dict[str, str]) -> None:
        self._clock, self._rate, self._headers = clock, rate, headers
        self._second, self._taken = 0, 0
        self.refused = 0

    def __call__(self, asked: Asked) -> Reply:
        if (second := int(self._clock.passed)) != self._second:
            self._second, self._taken = second, 0
        if self._taken == self._rate:
            self.refused += 1
            words = f'request path "{asked.path}": rate limit quota exceeded'
            return Reply(429, {"errors": [words]}, self._headers)
        self._taken += 1
        return empty(asked)


@pytest.mark.parametrize("headers", [{}, {"Retry-After": "1"}], ids=["silent", "retry-after"])
def test_reads_go_on_at_the_pace_that_vault_accepts(
    open_store: OpenStore, clock: FakeClock, headers: dict[str, str]
) -> None:
    quota = Quota(clock, 20, headers)
    with canned(quota) as server:
        store = open_store(server.address, "kv", "good", clock)
        for number in range(100):
            store.history(f"app-{number}")
    assert quota.refused < 12, "before, each of them was refused three times"
    assert clock.passed < 2 * 2 * 100 / 20
    assert store.client.circuit.error is None


@pytest.mark.parametrize("seconds", [1, 7])
def test_nothing_is_sent_for_the_time_in_retry_after(open_store: OpenStore, clock: FakeClock, seconds: int) -> None:
    sent_at: list[float] = []

    def refuse_once(asked: Asked) -> Reply:
        sent_at.append(clock.passed)
        return Reply(429, {"errors": []}, {"Retry-After": str(seconds)}) if len(sent_at) == 2 else empty(asked)

    with canned(refuse_once) as server:
        open_store(server.address, "kv", "good", clock).history("app")
    assert sent_at == [0, 0, seconds, pytest.approx(seconds, abs=0.02)]


def test_a_caller_that_would_wait_too_long_fails_and_the_others_send_nothing(
    open_store: OpenStore, clock: FakeClock
) -> None:
    refusal = Reply(429, {"errors": ["rate limit quota exceeded"]}, {"Retry-After": "30"})
    with canned(lambda asked: empty(asked) if "lookup" in asked.path else refusal) as server:
        store = open_store(server.address, "kv", "good", clock)
        for _ in range(5):
            with pytest.raises(StoreRateLimited) as raised:
                store.history("app")
        assert clock.passed == 0
        with pytest.raises(StoreRateLimited):
            store.preflight("app", {})
        assert len(server.paths("GET")) == 2, "the login and one read"
        assert store.client.circuit.error is None, "it is no outage"
    assert "nothing is sent for 30 s" in raised.value.message
    assert "sys/quotas/rate-limit" in raised.value.advice


def test_a_refused_write_is_sent_once_and_left_open(open_store: OpenStore, clock: FakeClock) -> None:
    """The quota's answer shows that nothing was done; but a proxy before Vault may answer 429 as well."""
    refusal = Reply(429, {"errors": ["rate limit quota exceeded"]})
    with canned(lambda asked: refusal if asked.method == "POST" else empty(asked)) as server:
        store = open_store(server.address, "kv", "good", clock)
        with pytest.raises(StoreOutcomeUnknown, match="the outcome is unknown: there were too many requests"):
            store.write("app", {"n": "1"}, cas=0)
        assert len(server.paths("POST")) == 1
        store.history("app")
    assert clock.passed == pytest.approx(FIRST_PAUSE, abs=0.02), "the read waited"


def test_the_pause_grows_while_all_is_refused_and_all_threads_share_it(clock: FakeClock) -> None:
    pace = Pace(clock)
    assert [pace.wait(0) for _ in range(3)] == [0, 0, 0], "nothing happened yet"
    waits = []
    for _ in range(9):
        for _ in range(8):  # that were under way at once
            pace.too_much(None, clock.passed)
        waits.append(pace.wait(0))
        assert pace.wait(0) == waits[-1], "for the next one, too"
        clock.sleep(waits[-1])
    assert waits == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    before = clock.passed
    for _ in range(4):
        assert pace.wait(10) == 0
    assert clock.passed - before == pytest.approx(3 * 1.0), "one after the other"
    for _ in range(1000):
        pace.taken()
    before = clock.passed
    assert [pace.wait(10) for _ in range(3)][1:] == [0, 0]
    assert clock.passed - before <= 1.0, "as if nothing had been"
