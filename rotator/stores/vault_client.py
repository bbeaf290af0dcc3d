"""Requests to Vault: the one module that knows hvac. It sends them, logged in, and gives back answers or our errors.

hvac builds each request and its RawAdapter sends it; with `ignore_exceptions` that returns every answer, whatever its
status, so that hvac's own exceptions, which hold the whole answer, never come to be. An error is raised outside of the
`except` that saw a library's exception: those hold the request, and so the token and the key.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

import hvac
import requests
import stamina
import urllib3
from requests.adapters import HTTPAdapter

from rotator.errors import (
    StoreCredentialRefused,
    StoreError,
    StoreOutcomeUnknown,
    StorePermissionDenied,
    StoreRequestRefused,
    StoreUnavailable,
)
from rotator.model import Secret
from rotator.ports import Clock, Meter
from rotator.stores.vault_answers import HEALTH, LOGIN, RENEW, Answer, Operation, parse_object, unsettled
from rotator.stores.vault_login import Grant, Login, LoginRequest, TokenKeeper

T = TypeVar("T")

_retrying = stamina.RetryingCaller(attempts=3, timeout=None, wait_initial=0.1, wait_max=0.5, wait_jitter=0.2).on(
    StoreUnavailable
)


@dataclass(frozen=True, slots=True)
class VaultSettings:
    """Where a KV version 2 mount is, and how to get at it. `timeout` is in seconds; `connections` are used at once."""

    address: str
    mount: str
    login: Login
    namespace: str | None = None
    ca_file: Path | None = None  # None: certifi's
    server_name: str | None = None  # that the certificate must be for; None: the address's
    timeout: float = 5.0
    connections: int = 8


@dataclass(frozen=True, slots=True)
class Request(Generic[T]):
    """One request. `right` is what a policy must allow on `path`; `understand` makes a value of the answer.

    `understand` may trip over an answer that is not what was to be expected, with any error that reading JSON gives.
    """

    operation: Operation
    path: str
    right: str
    send: Callable[[Any], requests.Response] = field(repr=False)  # is given an hvac.Client
    understand: Callable[[Answer], T] = field(repr=False)
    may_be_absent: bool = False  # whether Vault's 404 is an answer to be understood


class VaultClient:
    """Sends requests with a token that it keeps fresh itself. Safe to be used by many threads.

    Of the environment nothing is used: no proxy, no netrc, no VAULT_* variable. Cookies are not kept.
    """

    def __init__(self, settings: VaultSettings, clock: Clock, meter: Meter) -> None:
        self._settings = settings
        self._clock = clock
        self._meter = meter
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = str(settings.ca_file) if settings.ca_file else True
        self._session.headers["Accept-Encoding"] = "identity"
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _Transport(settings, clock))
        self.tokens = TokenKeeper(settings.login, self, clock)

    def read(self, request: Request[T]) -> T:
        """What `send` does, and up to twice more when it raises `StoreUnavailable`: for what changes nothing."""
        return _retrying(self.send, request)

    def send(self, request: Request[T]) -> T:
        """Send it once, logged in. Raises a `StoreError`.

        Only when Vault calls the token invalid is there another login and a second attempt: a 403 was not done.
        """
        try:
            token = self.tokens.token()
            answer = self._exchange(request, self._hvac(token))
            if answer.says_invalid_token:
                answer = self._exchange(request, self._hvac(self.tokens.instead_of(token)))
        except StoreUnavailable as error:  # of the login
            if not request.operation.changes:
                raise
            # Not done, in truth; but a write knows no such error, and to try it again is right in both cases.
            raise StoreOutcomeUnknown(error.message, error.advice) from None
        return _understood(request, answer)

    def close(self) -> None:
        """Give the connections back."""
        self._session.close()

    def health(self) -> Mapping[str, Any]:
        """What sys/health says, whatever the state; asked without token and namespace, which it would not know."""

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
            return _understood(request, answer)

        return _retrying(once)

    # --- what the keeper of the token asks ---------------------------------------------------------------------------

    def log_in(self, credentials: Secret | LoginRequest) -> Grant:
        """Get a token; of one that is there already, ask how long it lives, which its policy may forbid."""
        if isinstance(credentials, Secret):
            return self._look_up(credentials)
        wanted = credentials
        request = Request(
            LOGIN,
            wanted.path,
            "update",
            lambda client: client.adapter.post(f"/v1/{wanted.path}", json=dict(wanted.body)),
            lambda answer: _grant(answer.body["auth"]),
        )
        answer = self._exchange(request, self._hvac(None))
        if answer.status in (400, 401, 403, 404) and answer.errors is not None:
            raise StoreCredentialRefused(
                f"Vault refused the login at {wanted.path} ({answer.said})",
                "Look at the store's auth: the mount, the role, and whether its credentials are still valid.",
            )
        return _understood(request, answer)

    def renew(self, token: Secret) -> Grant:
        """Prolong the token's life."""
        request = Request(
            RENEW,
            "auth/token/renew-self",
            "update",
            lambda client: client.auth.token.renew_self(),
            lambda answer: _grant(answer.body["auth"]),
        )
        answer = self._exchange(request, self._hvac(token))
        if answer.status in (400, 403):
            raise StoreCredentialRefused(f"Vault does not renew the token ({answer.said})")
        return _understood(request, answer)

    def _look_up(self, token: Secret) -> Grant:
        def understand(answer: Answer) -> Grant:
            data = answer.body["data"]
            return Grant(
                token, float(data["ttl"]) or None, data.get("renewable") is True
            )  # the first root token lacks it

        request = Request(
            LOGIN, "auth/token/lookup-self", "read", lambda client: client.auth.token.lookup_self(), understand
        )
        try:
            return _understood(request, self._exchange(request, self._hvac(token)))
        except StorePermissionDenied:
            return Grant(token, None, False)  # the token is good, and its policy lacks even `default`

    # --- one request -------------------------------------------------------------------------------------------------

    def _hvac(self, token: Secret | None, *, in_namespace: bool = True) -> Any:
        """A client for one request (36 µs): hvac's is bound to one token, and threads must not change each other's."""
        return hvac.Client(
            url=self._settings.address,
            token=token.reveal() if token else "",  # None would look into $VAULT_TOKEN and ~/.vault-token
            cert=(),  # None would look into $VAULT_CLIENT_CERT
            verify=self._session.verify,  # None would look into $VAULT_CACERT
            timeout=self._settings.timeout,
            allow_redirects=False,
            session=self._session,
            adapter=hvac.adapters.RawAdapter,
            namespace=self._settings.namespace if in_namespace else None,
            ignore_exceptions=True,
        )

    def _exchange(self, request: Request[Any], client: Any) -> Answer:
        """Send one request. Returns whatever Vault answered; raises a `StoreError` if it did not."""
        failure: StoreError
        started = self._clock.monotonic()
        try:
            response = request.send(client)
        except requests.exceptions.InvalidJSONError:
            outcome = "unsendable"
            failure = StoreRequestRefused(
                f"what is to be written to {request.path} holds a number that JSON does not know; it was not sent",
                "Look at the fields that are there beside the key.",
            )
        except (requests.Timeout, urllib3.exceptions.TimeoutError):
            outcome = "timeout"
            failure = unsettled(
                request.operation,
                request.path,
                f"there was no answer from {self._where} within {self._settings.timeout:g} s",
            )
        except (OSError, urllib3.exceptions.HTTPError) as error:  # requests' own exceptions are OSErrors
            outcome, failure = "connection", self._not_reached(request, error)
        else:
            self._meter(request.operation.name, str(response.status_code), self._clock.monotonic() - started)
            redirect = urlsplit(response.headers.get("Location", "")).netloc.rpartition("@")[2]
            return Answer(response.status_code, parse_object(response.content), redirect, self._time(response))
        self._meter(request.operation.name, outcome, self._clock.monotonic() - started)
        raise failure

    def _not_reached(self, request: Request[Any], error: Exception) -> StoreError:
        return unsettled(
            request.operation,
            request.path,
            f"the connection to {self._where} failed ({_cause(error)})",
            "Look at Vault, at the store's address, ca_file and server_name, at DNS, and at the network policy.",
        )

    @property
    def _where(self) -> str:
        return urlsplit(self._settings.address).netloc.rpartition("@")[2]

    def _time(self, response: requests.Response) -> datetime:
        try:
            return parsedate_to_datetime(response.headers["Date"]).replace(tzinfo=UTC)
        except (KeyError, ValueError):
            return self._clock.now()


class _Transport(HTTPAdapter):
    """Connections enough for all threads, for which any more wait; and a bound for the body of an answer.

    `timeout` bounds each read from the network. A body must also be complete within twice that, counted from the start,
    so that one that drips in does not take for ever. Headers that drip in are not bounded, nor is the host's look-up.
    """

    def __init__(self, settings: VaultSettings, clock: Clock) -> None:
        self._server_name = settings.server_name
        self._timeout = settings.timeout
        self._clock = clock
        super().__init__(pool_connections=1, pool_maxsize=settings.connections, max_retries=0, pool_block=True)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any) -> None:
        """Have the certificate checked for `server_name`, whatever host the address names."""
        if self._server_name:
            pool_kwargs["server_hostname"] = self._server_name
        super().init_poolmanager(connections, maxsize, block, **pool_kwargs)

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Send it, and read the whole answer."""
        until = self._clock.monotonic() + 2 * self._timeout
        response = super().send(request, *args, **{**kwargs, "stream": True})
        body = io.BytesIO()
        while chunk := response.raw.read1():
            body.write(chunk)
            if self._clock.monotonic() > until:
                response.close()
                raise requests.ReadTimeout(request=request)
        response.raw.release_conn()
        body.seek(0)
        response.raw = body
        return response


def _cause(error: BaseException) -> str:
    """What the system or the TLS library said; the libraries above wrap that in many words of their own."""
    link: BaseException | None = error
    while link is not None:
        if words := getattr(link, "verify_message", None) or getattr(link, "strerror", None):
            return str(words)
        link = link.__cause__ or link.__context__
    # Of requests' own errors only the name: their words may be a header.
    return str(error) if type(error) is OSError else type(error).__name__


def _understood(request: Request[T], answer: Answer) -> T:
    if not (answer.is_success or (request.may_be_absent and answer.says_absent)):
        raise answer.refusal(request.operation, request.path, request.right)
    try:
        return request.understand(answer)
    except (AttributeError, KeyError, TypeError, ValueError):
        pass
    raise unsettled(
        request.operation,
        request.path,
        f"the answer ({answer.status}) is not what KV version 2 gives; a proxy's, perhaps",
        "Look at the store's address, and at what answers there.",
    )


def _grant(auth: Mapping[str, Any]) -> Grant:
    if not auth["client_token"]:
        raise ValueError("a login that is not finished, as one that asks for a second factor")
    return Grant(Secret(auth["client_token"]), float(auth["lease_duration"]) or None, auth["renewable"] is True)
