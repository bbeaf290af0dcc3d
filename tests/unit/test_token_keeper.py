"""When the token is obtained, renewed and replaced, with a clock that the test moves. The rest: tests/integration."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from support.clocks import FakeClock
from support.process import wait_until

from rotator.core.errors import StoreCredentialRefused, StoreError, StoreUnavailable
from rotator.core.secrets import Secret
from rotator.stores.vault.auth import (
    RETRY_AFTER,
    Grant,
    JwtLogin,
    LoginRequest,
    TokenFileLogin,
    TokenKeeper,
    TokenLogin,
)


def running(function: str) -> int:
    """Return how many threads are in a function of this name, and not in a function that it calls."""
    return [frame.f_code.co_name for frame in sys._current_frames().values()].count(function)


class Service:
    """A `TokenService` that behaves as a test sets it; every login gives the next token."""

    def __init__(self, lifetime: float | None = 90.0) -> None:
        self.lifetime = lifetime
        self.fails: StoreError | None = None
        self.asked: list[str] = []
        self.entered = threading.Semaphore(0)
        self.may_go = threading.Event()
        self.may_go.set()

    def _grant(self, what: str) -> Grant:
        self.asked.append(what)
        self.entered.release()
        assert self.may_go.wait(30)
        if self.fails:
            raise self.fails
        return Grant(Secret(f"token-{len(self.asked)}"), self.lifetime, renewable=True)

    def log_in(self, credentials: Secret | LoginRequest) -> Grant:
        return self._grant("log in")

    def renew(self, token: Secret) -> Grant:
        return self._grant("renew")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def keeper(service: Service, clock: FakeClock) -> TokenKeeper:
    return TokenKeeper(TokenLogin(Secret("given")), service, clock)


def test_a_failed_renewal_is_retried_before_the_expiry_and_the_token_stays_in_use(
    keeper: TokenKeeper, service: Service, clock: FakeClock
) -> None:
    keeper.keep()
    token, ends = keeper.token(), keeper.expires_at
    service.fails = StoreUnavailable("no answer")
    attempts = []
    while clock.passed < 90:
        clock.sleep(1)
        try:
            keeper.keep()
        except StoreUnavailable:
            attempts.append(clock.passed)
        assert keeper.token() is token
    assert keeper.expires_at == ends
    assert attempts[:3] == [60, 70, 77]  # a third of what is left each time
    assert len(attempts) < 15

    service.fails = None
    clock.sleep(1)
    keeper.keep()

    assert keeper.expires_at == clock.now() + timedelta(seconds=90)


def test_a_long_lived_token_is_retried_soon(keeper: TokenKeeper, service: Service, clock: FakeClock) -> None:
    service.lifetime = 30 * 86400.0
    keeper.keep()
    clock.sleep(20 * 86400)
    service.fails = StoreUnavailable("no answer")
    with pytest.raises(StoreUnavailable):
        keeper.keep()

    service.fails = None
    clock.sleep(RETRY_AFTER)
    keeper.keep()

    assert service.asked == ["log in", "renew", "renew"]


def test_a_token_that_never_expires_is_left_alone(keeper: TokenKeeper, service: Service, clock: FakeClock) -> None:
    service.lifetime = None
    for _ in range(3):
        keeper.keep()
        clock.sleep(10**9)

    assert service.asked == ["log in"]
    assert keeper.expires_at is None


def test_a_failed_login_is_not_repeated_by_the_threads_that_waited_for_it(
    keeper: TokenKeeper, service: Service
) -> None:
    service.fails = StoreCredentialRefused("refused", "fix it")
    service.may_go.clear()
    with ThreadPoolExecutor(8) as pool:
        attempts = [pool.submit(keeper.token) for _ in range(8)]
        service.entered.acquire()
        wait_until(lambda: running("instead_of") == 7, "all others to wait for the one login")
        service.may_go.set()
        errors = [attempt.exception(30) for attempt in attempts]

    assert [str(error) for error in errors] == ["refused"] * 8
    assert service.asked == ["log in"]

    service.fails = None
    assert keeper.token().reveal() == "token-2"


def test_a_renewal_under_way_delays_no_request(keeper: TokenKeeper, service: Service, clock: FakeClock) -> None:
    keeper.keep()
    token = keeper.token()
    clock.sleep(61)
    service.may_go.clear()
    with ThreadPoolExecutor(1) as pool:
        renewal = pool.submit(keeper.keep)
        service.entered.acquire()
        service.entered.acquire()
        assert keeper.token() is token
        service.may_go.set()
        renewal.result(30)


def test_the_expiry_is_shown_in_utc(keeper: TokenKeeper, clock: FakeClock) -> None:
    keeper.keep()

    assert isinstance(keeper.expires_at, datetime)
    assert keeper.expires_at.utcoffset() == timedelta(0)


class Lookup(Service):
    """Logging in yields a token that exists already."""

    def log_in(self, credentials: Secret | LoginRequest) -> Grant:
        grant = super().log_in(credentials)
        return Grant(credentials, grant.lifetime, renewable=True) if isinstance(credentials, Secret) else grant


@pytest.mark.parametrize("lifetime", [90.0, None])
def test_another_token_in_the_file_is_taken_and_the_old_one_used_until_then(
    tmp_path: Path, clock: FakeClock, lifetime: float | None
) -> None:
    service = Lookup(lifetime)
    file = tmp_path / "token"
    file.write_text("one")
    keeper = TokenKeeper(TokenFileLogin(file), service, clock)
    keeper.look_again()
    assert service.asked == [], "nothing was needed so far"
    keeper.keep()
    for unchanged in ("one", ""):
        file.write_text(unchanged)
        keeper.look_again()
        keeper.keep()
    assert service.asked == ["log in"]

    file.write_text("two")
    service.fails = StoreUnavailable("no answer")
    keeper.look_again()
    with pytest.raises(StoreUnavailable):
        keeper.keep()
    assert keeper.token().reveal() == "one"
    service.fails = None
    clock.sleep(60)
    keeper.keep()
    assert keeper.token().reveal() == "two"


def test_a_changed_credential_costs_no_login(tmp_path: Path, clock: FakeClock, service: Service) -> None:
    """A projected token does so all the time."""
    file = tmp_path / "token"
    file.write_text("one")
    keeper = TokenKeeper(JwtLogin("role", file, "kubernetes"), service, clock)
    keeper.keep()
    file.write_text("two")
    keeper.look_again()
    keeper.keep()
    assert service.asked == ["log in"]


class Given(Service):
    """A token that an operator provides, and that nothing prolongs."""

    def log_in(self, credentials: Secret | LoginRequest) -> Grant:
        return replace(super().log_in(credentials), renewable=False)


def test_only_a_given_token_that_cannot_be_renewed_ends(clock: FakeClock, service: Service) -> None:
    given = TokenKeeper(TokenLogin(Secret("given")), Given(), clock)
    kept = TokenKeeper(TokenLogin(Secret("given")), service, clock)
    assert given.ends_at is kept.ends_at is None
    given.keep()
    kept.keep()
    assert given.ends_at == given.expires_at
    assert kept.ends_at is None
