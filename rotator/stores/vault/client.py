"""Sends requests to Vault with a login. The one module that knows hvac; its callers get values or our errors.

hvac builds each request, and `transport` sends it: requests, which hvac would use, takes three times the CPU. Our
adapter returns every answer, whatever its status, so that hvac raises none of its exceptions, which hold the whole
answer.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus
from typing import Any, TypeVar

import hvac
import stamina

from rotator import __version__
from rotator.core.errors import (
    StoreCredentialRefused,
    StoreError,
    StoreOutcomeUnknown,
    StorePermissionDenied,
    StoreRateLimited,
    StoreRequestRefused,
    StoreSealed,
    StoreUnavailable,
)
from rotator.core.ports import HELD_BACK, NO_CREDENTIAL, Clock, Meter
from rotator.core.secrets import Secret
from rotator.runtime.breaker import Circuit
from rotator.runtime.redact import register
from rotator.stores.vault.auth import Grant, LoginRequest, TokenKeeper
from rotator.stores.vault.backoff import Pace, Refusals
from rotator.stores.vault.responses import (
    HEALTH,
    LOGIN,
    RENEW,
    REVOKE,
    Answer,
    Request,
    limited,
    spent,
    unsettled,
    used_up,
)
from rotator.stores.vault.transport import NoAnswer, Transport, Unsendable, VaultSettings

T = TypeVar("T")

PATIENCE = 10.0  # seconds that one request waits at most for its turn after a 429

REVOKE_TIMEOUT = 2.0  # seconds for each read while a token is revoked

_retrying = stamina.RetryingCaller(attempts=3, timeout=None, wait_initial=0.1, wait_max=0.5, wait_jitter=0.2).on(
    lambda error: isinstance(error, StoreUnavailable) and not isinstance(error, StoreRateLimited)
)


class VaultClient:
    """Sends requests with a token that it keeps fresh. Safe for many threads.

    It takes nothing from the environment: no proxy, no netrc, no VAULT_* variable. It keeps no cookies.
    """

    def __init__(self, settings: VaultSettings, clock: Clock, meter: Meter) -> None:
        self._settings = settings
        self._clock = clock
        self._meter = meter
        self._transport = Transport(settings, clock)
        self.circuit: Circuit[StoreError] = Circuit(clock)
        self._logged_in: tuple[Secret, Any] | None = None  # the newest token, and the hvac.Client that sends it
        self._unproven = ""  # the fingerprint of a given token that may not look itself up, and was not used yet
        self._refusals = Refusals(clock)
        self._pace = Pace(clock)
        self.tokens = TokenKeeper(self, self, clock)

    def read(self, request: Request[T]) -> T:
        """Send a request that changes nothing, up to three times while that raises `StoreUnavailable`.

        While Vault is down, `circuit` is open: now and then one read is sent, and all others fail unsent.
        """
        self.circuit.enter()
        try:
            value = _tried(lambda: self.send(request))
        except (StoreCredentialRefused, StoreSealed, StoreRateLimited):
            raise  # `send` opens the circuit for those that need it
        except StoreUnavailable as error:
            if self._is_down():
                self.circuit.failed(error)
            elif not isinstance(self.circuit.error, StoreCredentialRefused):
                self.circuit.worked()
            raise
        except StoreError:
            self.circuit.worked()
            raise
        self.circuit.worked()
        return value

    def _is_down(self) -> bool:
        """Return whether Vault is down, after a failed read: one bad path must not stop the others.

        A standby without an active node behind it answers about its own health, and nothing else.
        """
        try:
            return self.health().get("standby") is True
        except StoreError:
            return True

    def send(self, request: Request[T]) -> T:
        """Send a request once, with a login. Raises a `StoreError`.

        Only where Vault calls the token invalid, log in and send it again: Vault did not do what it refused.
        """
        uses = 0
        try:
            token = self.tokens.token()
            answer = self._exchange(request, self._hvac_with(token))
            if answer.is_invalid_token:
                uses = self.tokens.uses
                answer = self._exchange(request, self._hvac_with(self.tokens.instead_of(token)))
            else:
                self._unproven = ""
            return request.value(answer)
        except StoreSealed as error:
            self.circuit.failed(error)
            raise
        except StoreCredentialRefused as error:
            failure = used_up(error, uses) if uses else error
            self.circuit.failed(failure)
            raise failure from None
        except StoreUnavailable as error:
            if not request.operation.changes:
                raise
            # It came from the login, so nothing was written. But a write raises no such error, and its caller retries.
            raise StoreOutcomeUnknown(error.message, error.advice) from None

    def keep_login(self) -> None:
        """Renew the login when it is time. After a refusal, a login that works lets the next request try Vault."""
        had_token = self.tokens.has_token
        self.tokens.keep()
        if not had_token and isinstance(self.circuit.error, StoreCredentialRefused):
            self.circuit.try_now()

    def look_again(self) -> None:
        """Take another token if there is one; if Vault is down, let the next request try it."""
        self.tokens.look_again()
        self.circuit.try_now()

    @property
    def upstream(self) -> str:
        """The host and port: the clock's name for this Vault."""
        return self._transport.upstream

    def close(self) -> None:
        """Close the connections. Requests under way are still answered; later ones fail as if Vault were gone.

        Revoke a token that a login of ours got, if Vault does that soon; else it expires later.
        """
        self._transport.close()
        token = self.tokens.give_back()
        if token is None or self.circuit.error is not None:
            return
        request = Request(
            REVOKE, "auth/token/revoke-self", "update", lambda client: client.auth.token.revoke_self(), bool
        )
        transport = Transport(replace(self._settings, timeout=min(self._settings.timeout, REVOKE_TIMEOUT)), self._clock)
        with suppress(StoreError):
            self._sent(request, self._hvac(token, transport=transport))
        transport.close()

    def health(self) -> Mapping[str, Any]:
        """Return what sys/health shows, in any state of Vault. It takes no token and no namespace."""

        def once() -> Mapping[str, Any]:
            request = Request(
                HEALTH,
                "sys/health",
                "read",
                lambda client: client.sys.read_health_status(method="GET"),
                lambda answer: answer.body,
            )
            answer = self._exchange(request, self._hvac(None, in_namespace=False))
            if "cluster_id" in answer.body:
                return answer.body
            return request.value(answer)

        return _tried(once)

    # --- the login ---------------------------------------------------------------------------------------------------

    def credentials(self) -> Secret | LoginRequest:
        """Return what the login method gives. Where it has nothing to send, the meter counts a failed login."""
        try:
            return self._settings.login.credentials()
        except StoreCredentialRefused:
            self._meter(LOGIN.name, NO_CREDENTIAL, 0.0)
            raise

    def log_in(self, credentials: Secret | LoginRequest) -> Grant:
        """Get a token. For a given one, look up how long it lives, which its policy may forbid.

        Credentials that Vault refused are sent again after growing waits, and others at once: see `Refusals`.
        """
        content = credentials.fingerprint
        if (known := self._refusals.known(content)) is not None:
            self._meter(LOGIN.name, HELD_BACK, 0.0)
            raise known.with_traceback(None)
        counted = False
        try:
            if isinstance(credentials, Secret):
                grant = self._look_up(credentials)
            else:
                request, answer = self._log_in_with(credentials)
                counted = credentials.locks and answer.status == HTTPStatus.BAD_REQUEST
                if answer.status in (400, 401, 403, 404) and answer.errors is not None:
                    raise answer.refused_login(credentials.path, credentials.hint, locks=credentials.locks)
                grant = request.value(answer)
        except StoreCredentialRefused as error:
            self._refusals.refused(content, error, counted=counted)
            raise
        self._refusals.accepted()
        return grant

    def _log_in_with(self, wanted: LoginRequest) -> tuple[Request[Grant], Answer]:
        request = Request(
            LOGIN,
            wanted.path,
            "update",
            lambda client: client.adapter.post(f"/v1/{wanted.path}", json=dict(wanted.body)),
            lambda answer: _grant(answer.body["auth"]),
        )
        # A kept connection has sent the certificate of its time; the file may hold another one by now.
        fresh = Transport(self._settings, self._clock) if self._settings.certificate else None
        try:
            return request, self._exchange(request, self._hvac(None, transport=fresh))
        finally:
            if fresh is not None:
                fresh.close()

    def renew(self, token: Secret) -> Grant:
        """Extend the token's life."""
        request = Request(
            RENEW,
            "auth/token/renew-self",
            "update",
            lambda client: client.auth.token.renew_self(),
            lambda answer: _grant(answer.body["auth"]),
        )
        answer = self._exchange(request, self._hvac(token))
        if answer.status in (400, 403):
            raise StoreCredentialRefused(f"Vault does not renew the token ({answer.summary})")
        grant = request.value(answer)
        if grant.lifetime is None:  # nothing renews a token that never ends: this one has no time left
            raise StoreCredentialRefused("Vault renewed the token by nothing")
        # The same object while it is the same token: `TokenKeeper` compares by identity.
        return replace(grant, token=token) if grant.token == token else grant

    def _look_up(self, token: Secret) -> Grant:
        def understand(answer: Answer) -> Grant:
            data = answer.body["data"]
            renewable = data.get("renewable") is True  # the first root token lacks it
            return Grant(token, float(data["ttl"]) or None, renewable, int(data.get("num_uses") or 0))

        request = Request(
            LOGIN, "auth/token/lookup-self", "read", lambda client: client.auth.token.lookup_self(), understand
        )
        try:
            return request.value(self._exchange(request, self._hvac(token)))
        except StorePermissionDenied:
            self._unproven = token.fingerprint
            return Grant(token, None, False)  # the token works, and its policy lacks even `default`
        except StoreCredentialRefused as error:
            if self._unproven == token.fingerprint:
                raise spent(error) from None
            raise

    # --- one request -------------------------------------------------------------------------------------------------

    def _hvac_with(self, token: Secret) -> Any:
        """Return the one client for this token. It never changes, so all threads may use it."""
        held = self._logged_in
        if held is None or held[0] is not token:
            self._logged_in = held = (token, self._hvac(token))
        return held[1]

    def _hvac(self, token: Secret | None, *, in_namespace: bool = True, transport: Transport | None = None) -> Any:
        headers = {"X-Vault-Request": "true", "Accept-Encoding": "identity", "User-Agent": f"rotator/{__version__}"}
        if token:
            headers["X-Vault-Token"] = token.reveal()
        if in_namespace and self._settings.namespace:
            headers["X-Vault-Namespace"] = self._settings.namespace
        adapter = _Adapter(transport or self._transport, headers)
        # hvac uses none of these values, but would read a missing one from the environment.
        return hvac.Client(self._settings.address, token="", cert=(), verify=True, adapter=lambda **_: adapter)

    def _exchange(self, request: Request[Any], client: Any) -> Answer:
        """Send one request at the pace that Vault allows. Return its answer; raise a `StoreError` if there is none.

        A request that changes nothing is sent again after a 429, for a while. Quotas do not count sys/health.
        """
        if request.operation is HEALTH:
            return self._sent(request, client)
        until = self._clock.monotonic() + PATIENCE
        while True:
            left = self._pace.wait(until - self._clock.monotonic())
            if left:
                raise limited(request.operation, request.path, f"nothing is sent for {left:.0f} s")
            sent_at = self._clock.monotonic()
            answer = self._sent(request, client)
            if not answer.is_too_much:
                self._pace.taken()
                return answer
            self._pace.too_much(answer.retry_after, sent_at)
            if request.operation.changes:
                return answer

    def _sent(self, request: Request[Any], client: Any) -> Answer:
        failure: StoreError
        started = self._clock.monotonic()
        try:
            answer: Answer = request.send(client)
        except Unsendable:
            outcome = "unsendable"
            failure = StoreRequestRefused(
                f"the data for {request.path} hold a number that JSON does not have, so nothing was sent",
                "Check the fields beside the key.",
            )
        except NoAnswer as error:
            outcome = error.outcome
            failure = unsettled(request.operation, request.path, error.what, error.advice)
        else:
            self._meter(request.operation.name, str(answer.status), self._clock.monotonic() - started)
            return answer
        self._meter(request.operation.name, outcome, self._clock.monotonic() - started)
        raise failure


class _Adapter(hvac.adapters.Adapter):  # type: ignore[misc]  # hvac has no types
    """Sends what hvac builds through a `Transport`, with the same headers each time."""

    def __init__(self, transport: Transport, headers: Mapping[str, str]) -> None:
        self._transport = transport
        self._headers = dict(headers)
        self._json_headers = {**headers, "Content-Type": "application/json"}

    def get_login_token(self, response: object) -> str:
        """Satisfy hvac, whose own logins are not used."""
        raise NotImplementedError

    def request(
        self,
        method: str,
        url: str,
        json: object = None,
        params: Mapping[str, object] | None = None,
        **_: object,  # wrap_ttl, which is None, and raise_exception: no status is raised here
    ) -> Answer:
        """Send it once, and return the whole answer."""
        return self._transport.request(method, url, json, params, self._headers if json is None else self._json_headers)


def _tried(once: Callable[[], T]) -> T:
    """Return its value, after at most three attempts. Only failures reach stamina, which costs a tenth of a request."""
    try:
        return once()
    except StoreRateLimited:
        raise  # `_exchange` has waited long enough
    except StoreUnavailable as error:
        first = [error]

    def again() -> T:
        if first:
            raise first.pop()
        return once()

    return _retrying(again)


def _grant(auth: Mapping[str, Any]) -> Grant:
    if not auth["client_token"]:
        raise ValueError("an unfinished login, such as one that asks for a second factor")
    token = register(Secret(auth["client_token"]))
    lifetime, renewable = float(auth["lease_duration"]) or None, auth["renewable"] is True
    return Grant(token, lifetime, renewable, int(auth.get("num_uses") or 0), is_ours=True)
