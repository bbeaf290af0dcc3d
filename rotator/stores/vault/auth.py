"""How to log in to Vault, and when: the login methods, and the keeper of the token that they give. No HTTP here.

A method is one small class that reads its credentials afresh for each login.
"""

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from rotator.core.errors import StoreCredentialRefused, StoreError
from rotator.core.ports import Clock
from rotator.core.secrets import Secret
from rotator.runtime import files
from rotator.runtime.redact import register

RETRY_AFTER = 60.0  # seconds at most between two attempts to keep a token that still works

# --- the methods -----------------------------------------------------------------------------------------------------


VAULT_TOKENS = ("hvs.", "s.")
"""How Vault's own tokens begin, since version 1.10 and before."""

WRAPPED = (
    "It looks like a response-wrapping token, which holds the credential and is not the credential: run `vault unwrap` "
    "once, and put what comes out there."
)


@dataclass(frozen=True, slots=True)
class LoginRequest:
    """What to POST, and where, to get a token."""

    path: str
    body: Mapping[str, str] = field(repr=False)
    proof: str = field(default="", repr=False)  # the fingerprint of what is sent beside the body
    locks: bool = False  # whether Vault locks the account after a few refusals
    secret: Secret | None = None  # the one in the body: redaction knows it while this lives

    @property
    def fingerprint(self) -> str:
        """The fingerprint of all that is sent: other credentials have another one."""
        return Secret(json.dumps([self.path, dict(self.body), self.proof])).fingerprint

    @property
    def hint(self) -> str:
        """What to add to a refusal where the secret looks like a token of Vault, which it should not be."""
        looks_odd = self.secret is not None and self.secret.reveal().startswith(VAULT_TOKENS)
        return WRAPPED if looks_odd else ""


class Login(Protocol):
    """One way to log in."""

    def credentials(self) -> Secret | LoginRequest:
        """Return a token, or the request that gets one. Raises `StoreCredentialRefused`."""


@dataclass(frozen=True, slots=True)
class TokenLogin:
    """A token, as from $VAULT_TOKEN."""

    token: Secret

    def credentials(self) -> Secret:
        """Return the token."""
        return _checked(self.token.reveal(), "the token that was given for Vault")


@dataclass(frozen=True, slots=True)
class TokenFileLogin:
    """A token in a file that another process keeps fresh, such as Vault Agent's sink."""

    file: Path

    def credentials(self) -> Secret:
        """Return the token that is in the file now."""
        return _read(self.file, "Vault's token")


@dataclass(frozen=True, slots=True)
class AppRoleLogin:
    """An AppRole; `mount` is that of the auth method."""

    role_id: str
    secret_id_file: Path
    mount: str = "approle"

    def credentials(self) -> LoginRequest:
        """Return the login, with the secret id that is in the file now."""
        secret_id = _read(self.secret_id_file, "the AppRole's secret id")
        body = {"role_id": self.role_id, "secret_id": secret_id.reveal()}
        return LoginRequest(f"auth/{self.mount}/login", body, locks=True, secret=secret_id)


@dataclass(frozen=True, slots=True)
class JwtLogin:
    """A JSON Web Token in a file that another process keeps fresh; a pod's service account logs in the same way."""

    role: str
    token_file: Path
    mount: str

    def credentials(self) -> LoginRequest:
        """Return the login, with the token that is in the file now."""
        token = _read(self.token_file, "the token to log in to Vault with")
        return LoginRequest(f"auth/{self.mount}/login", {"role": self.role, "jwt": token.reveal()}, secret=token)


@dataclass(frozen=True, slots=True)
class CertLogin:
    """A client certificate, sent in the TLS handshake. Without a role, Vault takes any whose certificate fits."""

    role: str | None
    mount: str = "cert"
    file: Path | None = None  # the certificate

    def credentials(self) -> LoginRequest:
        """Return the login; the connection proves it."""
        try:
            shown = Secret(files.read(self.file).decode(errors="replace")).fingerprint if self.file else ""
        except OSError:
            shown = ""  # the connection will fail and report it
        return LoginRequest(f"auth/{self.mount}/login", {"name": self.role} if self.role else {}, shown)


def _read(file: Path, what: str) -> Secret:
    try:
        text = files.read(file).decode(errors="replace")
    except OSError as error:
        raise StoreCredentialRefused(
            f"the file {file}, which should hold {what}, cannot be read: {error.strerror}",
            "Put it there, readable for the user that rotator runs as; every login reads it again.",
        ) from None
    return _checked(text, f"the file {file}, which should hold {what},")


def _checked(text: str, where: str) -> Secret:
    text = text.strip()
    if text.startswith("{"):
        raise _not_the_text(text, where)
    if text and all("!" <= character <= "~" for character in text):
        return register(Secret(text))
    fault = "holds characters that cannot be in one" if text else "is empty"
    raise StoreCredentialRefused(f"{where} {fault}; nothing was sent", "Replace it; every login reads it again.")


def _not_the_text(text: str, where: str) -> StoreCredentialRefused:
    """Return the error for the JSON that `vault … -format=json` prints, or an agent's wrapped sink writes."""
    if '"wrap_info"' in text or '"wrapped_accessor"' in text or '"creation_path"' in text:
        return StoreCredentialRefused(f"{where} holds a wrapped answer of Vault in JSON; nothing was sent", WRAPPED)
    return StoreCredentialRefused(f"{where} holds JSON; nothing was sent", "Put only the token or secret id there.")


# --- the token -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Grant:
    """A token as Vault gave it. `lifetime` is in seconds; None when it never ends, or the policy hides it."""

    token: Secret
    lifetime: float | None
    renewable: bool
    uses: int = 0  # how many requests Vault accepts with it; 0: no limit is known
    is_ours: bool = False  # a login of ours got it, and nothing else uses it


class TokenService(Protocol):
    """What the keeper needs Vault for. Both raise `StoreCredentialRefused`, `StoreUnavailable` or `StoreSealed`."""

    def log_in(self, credentials: Secret | LoginRequest) -> Grant:
        """Log in. For a given token, look up how long it lives."""

    def renew(self, token: Secret) -> Grant:
        """Extend the token's life."""


@dataclass(frozen=True, slots=True)
class _Held:
    grant: Grant
    due: float | None  # monotonic; when to renew it, or to log in again
    ends: float | None  # monotonic
    expires_at: datetime | None


class TokenKeeper:
    """Logs in at first use, and keeps the token fresh. One thread logs in for all that wait."""

    def __init__(self, login: Login, service: TokenService, clock: Clock) -> None:
        self._login = login
        self._service = service
        self._clock = clock
        self._lock = threading.Lock()  # held while Vault is asked about the token
        self._held: _Held | None = None
        self._uses = 0  # of the last token
        self._attempts = 0
        self._failure: StoreError | None = None  # of the last attempt

    @property
    def has_token(self) -> bool:
        """Whether there is a token, which worked when Vault gave it."""
        return self._held is not None

    @property
    def expires_at(self) -> datetime | None:
        """When the token expires. None: there is none, or it never does."""
        held = self._held
        return held.expires_at if held else None

    @property
    def ends_at(self) -> datetime | None:
        """When a given token that cannot be renewed expires. None where rotator can renew it or get another."""
        held = self._held
        return held.expires_at if held and not (held.grant.renewable or held.grant.is_ours) else None

    @property
    def uses(self) -> int:
        """How many requests Vault accepts with a token of this login; 0 when no limit is known."""
        return self._uses

    def give_back(self) -> Secret | None:
        """Forget the token. Return it if a login of ours got it, so that it can be revoked; else None."""
        held, self._held = self._held, None
        return held.grant.token if held and held.grant.is_ours else None

    def token(self) -> Secret:
        """Return the token to send. Raises what `TokenService.log_in` raises."""
        held = self._held
        return held.grant.token if held else self.instead_of(None)

    def instead_of(self, refused: Secret | None) -> Secret:
        """Return another token than this one, which Vault called invalid. Raises what `TokenService.log_in` raises."""
        attempts = self._attempts
        with self._lock:
            held = self._held
            if held and held.grant.token is not refused:
                return held.grant.token
            if self._failure and self._attempts > attempts:  # made by another thread, while this one waited
                raise self._failure
            self._held = None
            return self._log_in().token

    def keep(self) -> None:
        """Renew the token after two thirds of its life, or log in again where it cannot be renewed.

        Before that, do nothing. After a failure the token stays in use, and a later call tries again. Raises what
        `TokenService.log_in` raises.
        """
        with self._lock:
            held = self._held
            if held and (held.due is None or self._clock.monotonic() < held.due):
                return
            try:
                if held is None or not self._renewed(held.grant):
                    self._log_in()
            except StoreError:
                if held and held.ends is not None:
                    now = self._clock.monotonic()
                    self._held = replace(held, due=now + min(max(held.ends - now, 0.0) / 3, RETRY_AFTER))
                raise

    def look_again(self) -> None:
        """If the source holds another token now, have the next `keep` take it; use this one until then.

        Credentials that only get a token change all the time, which is no reason to log in.
        """
        if not self._lock.acquire(blocking=False):
            return  # another thread reads the credentials now
        try:
            held = self._held
            found = self._login.credentials() if held else None
            if held and isinstance(found, Secret) and found != held.grant.token:
                grant = replace(held.grant, renewable=False)
                self._held = replace(held, grant=grant, due=self._clock.monotonic())
        except StoreCredentialRefused:
            return  # the next login reports it
        finally:
            self._lock.release()

    def _renewed(self, grant: Grant) -> bool:
        """Renew the token. Return False when that fails, or gives less time than before: its maximum is near."""
        if not grant.renewable or grant.lifetime is None:
            return False
        try:
            renewed = self._service.renew(grant.token)
        except StoreCredentialRefused:
            return False
        if renewed.lifetime is not None and renewed.lifetime < grant.lifetime:
            return False
        self._hold(replace(renewed, uses=grant.uses, is_ours=grant.is_ours))
        return True

    def _log_in(self) -> Grant:
        self._failure = None
        try:
            grant = self._service.log_in(self._login.credentials())
        except StoreError as error:
            self._failure = type(error)(error.message, error.advice)  # without the traceback, and all that hangs on it
            raise
        finally:
            self._attempts += 1
        self._hold(grant)
        return grant

    def _hold(self, grant: Grant) -> None:
        self._uses = grant.uses
        if grant.lifetime is None:
            self._held = _Held(grant, None, None, None)
            return
        now = self._clock.monotonic()
        ends = self._clock.now() + timedelta(seconds=grant.lifetime)
        self._held = _Held(grant, now + grant.lifetime * 2 / 3, now + grant.lifetime, ends)
