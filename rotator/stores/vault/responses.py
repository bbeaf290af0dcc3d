"""What Vault's answers mean: every status, and the texts that tell one meaning of a status from another, as our errors.

Pure. What is said here of Vault was seen in 1.21 unless it says otherwise. Of an answer only Vault's own list of
errors is ever quoted.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from typing import Any

from rotator.core.errors import (
    CasMismatch,
    StoreCredentialRefused,
    StoreError,
    StoreMountUnusable,
    StoreOutcomeUnknown,
    StorePermissionDenied,
    StoreRateLimited,
    StoreRequestRefused,
    StoreSealed,
    StoreUnavailable,
)
from rotator.runtime.redact import quoted

_CAS_MISMATCH = "check-and-set parameter did not match"
_INVALID_TOKEN = "invalid token"  # noqa: S105 - expired, revoked or used up; a policy's refusal lacks it
_SEALED = "Vault is sealed"
_NO_MOUNT = "no handler for route"
_OTHER_KIND = "unsupported path"  # there is a mount, and it is of another kind
_TOO_LARGE = ("exceeds allowed", "value being too large")  # with a 500: of the listener, and of raft's storage
_MEANINGS = {
    412: "a node was asked that has not yet seen the latest writes",
    472: "a disaster recovery secondary was asked, which serves no requests",
    473: "a performance standby was asked, which does not forward this request",
    500: "Vault failed",
    501: "Vault is not initialised",
    502: "a proxy got no answer from Vault",
    503: "Vault is not ready: it has no active node, or is starting",
    504: "a proxy got no answer from Vault in time",
}


@dataclass(frozen=True, slots=True)
class Operation:
    """A kind of request: its name for the meter, and how messages speak of it."""

    name: str
    verb: str
    rights: tuple[str, ...] = ()  # all that a policy should allow on its path
    changes: bool = False


_ON_DATA = ("create", "read", "update")
METADATA = Operation("metadata", "read", ("read",))
READ = Operation("read", "read", _ON_DATA)
PREFLIGHT = Operation("preflight", "try a write to", _ON_DATA)
WRITE = Operation("write", "write to", _ON_DATA, changes=True)
DESTROY = Operation("destroy", "destroy versions through", ("update",), changes=True)
REVOKE = Operation("revoke", "revoke the token through")
LOGIN = Operation("login", "log in through")
RENEW = Operation("renew", "renew the token through")
MOUNT = Operation("mount", "ask")
HEALTH = Operation("health", "answer at")
CAPABILITIES = Operation("capabilities", "ask", ("update",))


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. `now` is the server's time, or ours if it sent none."""

    status: int
    body: Mapping[str, Any] = field(repr=False)  # the JSON object in it; empty where there is none
    redirect: str  # the host and port that a redirect leads to
    now: datetime
    retry_after: float | None = None  # seconds; None if it names none

    @property
    def is_too_much(self) -> bool:
        """True when Vault, or what stands before it, refused this for the number of requests."""
        return self.status == HTTPStatus.TOO_MANY_REQUESTS

    @property
    def is_success(self) -> bool:
        """True for 2xx."""
        return 200 <= self.status < 300

    @property
    def errors(self) -> Sequence[str] | None:
        """Vault's list of errors; None when there is none, and so perhaps no Vault."""
        errors = self.body.get("errors")
        if isinstance(errors, list) and all(isinstance(error, str) for error in errors):
            return errors
        return None

    @property
    def says_invalid_token(self) -> bool:
        """True when the token was refused, and not what was asked with it."""
        return self.status == HTTPStatus.FORBIDDEN and self._says(_INVALID_TOKEN)

    @property
    def says_absent(self) -> bool:
        """True when Vault itself says that there is no such path, or no data in the version: not some proxy's 404."""
        return self.status == HTTPStatus.NOT_FOUND and (self.errors == [] or "data" in self.body)

    @property
    def said(self) -> str:
        """The status and Vault's words, in one short line."""
        words = quoted("; ".join(self.errors or ()))
        return f"{self.status}: {words}" if words else f"{self.status}"

    def _says(self, words: str) -> bool:
        return any(words in error for error in self.errors or ())

    def refusal(self, operation: Operation, path: str, right: str) -> StoreError:
        """The error that an answer other than success is; `right` is what a policy must allow on `path` for this."""
        match self.status:
            case 300 | 301 | 302 | 303 | 307 | 308:
                return unsettled(
                    operation,
                    path,
                    f"it answered with a redirect to {quoted(self.redirect)}, which is not followed: "
                    "the token would go along",
                    "Set the store's address to where Vault's active node answers; a standby that cannot forward "
                    "redirects to the active node's api_addr.",
                )
            case 400 if operation in (WRITE, PREFLIGHT) and self._says(_CAS_MISMATCH):
                return CasMismatch(f"{path} has another version than the one to follow: another writer was first")
            case 403 if self.says_invalid_token:
                return StoreCredentialRefused(
                    f"Vault calls the token invalid, asked to {operation.verb} {path} ({self.said})",
                    "It is expired, revoked or used up. Replace the credentials that rotator logs in with.",
                )
            case 403:
                return StorePermissionDenied(
                    f"Vault's policy denies `{right}` on {path} ({self.said})", _policy_advice(operation, path, right)
                )
            case 404 if not operation.changes and (self._says(_NO_MOUNT) or self._says(_OTHER_KIND)):
                what = "nothing is mounted" if self._says(_NO_MOUNT) else "something other than KV is mounted"
                return StoreMountUnusable(
                    f"{what} in Vault where {path} would be ({self.said})",
                    "Look at the store's mount and namespace: `vault secrets list` shows what there is.",
                )
            case 429:
                return limited(
                    operation, path, f"a rate limit quota, or a standby that forwards no requests ({self.said})"
                )
            case 503 if self._says(_SEALED) or self.body.get("sealed") is True:
                return StoreSealed(
                    f"Vault is sealed: it did not {operation.verb} {path}, and nothing was changed",
                    "Unseal it (`vault operator unseal` on each node). Keys go on working until they expire.",
                )
            case _ if self._refuses_data(operation):
                return StoreRequestRefused(
                    f"Vault refused to {operation.verb} {path} ({self.said}); nothing was written",
                    "Sending it again will not help. Look at the fields that are beside the key (too large, too many?) "
                    "and at the target's own fields.",
                )
        return self._unclear(operation, path)

    def _refuses_data(self, operation: Operation) -> bool:
        """Return whether Vault refuses what was sent, and not for the moment alone."""
        if operation in (WRITE, PREFLIGHT) and self.status == HTTPStatus.INTERNAL_SERVER_ERROR:
            return any(self._says(words) for words in _TOO_LARGE)
        return operation in (WRITE, PREFLIGHT, DESTROY) and self.status in (400, 413)

    def _unclear(self, operation: Operation, path: str) -> StoreError:
        if self.errors is None and self.status not in _MEANINGS:
            meaning = "something that is not Vault answered, a proxy perhaps"
            if self.status == HTTPStatus.BAD_REQUEST:
                meaning += "; or a Vault whose address begins with https://"
        else:
            meaning = _MEANINGS.get(self.status, "Vault answered what was not to be expected")
        return unsettled(operation, path, f"{meaning} ({self.said})")

    def refused_login(self, path: str, hint: str, *, locks: bool) -> StoreCredentialRefused:
        """The error that a refused login is; `locks`: Vault locks the account after a few of them."""
        advice = f"{hint} " if hint else ""
        advice += (
            "Look at the store's auth: the mount, the role, and whether its credentials are still valid. Changed "
            "credentials are tried at once, the same ones after growing waits."
        )
        if not locks:
            return StoreCredentialRefused(f"Vault refused the login at {path} ({self.said})", advice)
        if self.status != HTTPStatus.FORBIDDEN:
            return StoreCredentialRefused(
                f"Vault refused the login at {path} ({self.said})",
                f"{advice} Vault locks a role for 15 minutes after five refused logins.",
            )
        method = path.removeprefix("auth/").removesuffix("/login")
        return StoreCredentialRefused(
            f"Vault refused the login at {path} ({self.said}): after several refused logins it locks the role, and "
            "then refuses good credentials, too",
            f"`vault read sys/locked-users` shows whether it is locked. Put good credentials in place, and wait 15 "
            f"minutes, or unlock it: `vault write -f sys/locked-users/ACCESSOR/unlock/ROLE_ID`, with the accessor of "
            f"{method}/ from `vault auth list`, and the role id. {advice}",
        )


def parse_object(content: bytes) -> Mapping[str, Any]:
    """The JSON object in a body; empty when it is anything else."""
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}


def unsettled(operation: Operation, path: str, what: str, advice: str = "") -> StoreError:
    """Return the error for an unclear answer: a read failed, a change may have been made."""
    advice = advice or "If it does not pass, look at Vault, and at what is between here and there."
    if operation.changes:
        return StoreOutcomeUnknown(
            f"Vault was asked to {operation.verb} {path}, and whether it did is not known: {what}", advice
        )
    return StoreUnavailable(f"Vault did not {operation.verb} {path}, and nothing was changed: {what}", advice)


def used_up(error: StoreCredentialRefused, uses: int) -> StoreCredentialRefused:
    """A refusal of a token that takes so many requests only: its credentials are good."""
    return StoreCredentialRefused(
        f"{error.message}: a token of this login is good for {uses} request{'s'[: uses != 1]}, and that was used up",
        "Set token_num_uses = 0 on the role that rotator logs in with, or give it a token without num_uses: all its "
        "threads share one token. The credentials themselves work.",
    )


def spent(error: StoreCredentialRefused) -> StoreCredentialRefused:
    """A refusal of a given token that was only refused a right a moment ago, and was used once."""
    return StoreCredentialRefused(
        f"{error.message}: the token was good for one request, as a response-wrapping token is, and is used up",
        "If it was one, what it held is lost: make another, run `vault unwrap` once, and give rotator the token that "
        "comes out. A token with num_uses = 1 cannot be used either.",
    )


def limited(operation: Operation, path: str, what: str) -> StoreError:
    """The error for what Vault was asked too often for. That of a write is left open, as any but a clear answer is."""
    advice = (
        "rotator asks more slowly now. Raise the rate limit quota of the mount (`vault list sys/quotas/rate-limit`), "
        "or look for who else uses it up."
    )
    if operation.changes:
        return unsettled(operation, path, f"it was asked too often: {what}", advice)
    message = f"Vault did not {operation.verb} {path}, and nothing was changed: it was asked too often: {what}"
    return StoreRateLimited(message, advice)


def stanza(path: str, rights: Sequence[str]) -> str:
    """The line of a policy that allows this."""
    wanted = ", ".join(f'"{right}"' for right in rights)
    return f'path "{path}" {{ capabilities = [{wanted}] }}'


def _policy_advice(operation: Operation, path: str, right: str) -> str:
    advice = f"The policy must have: {stanza(path, operation.rights or (right,))}"
    if operation in (WRITE, PREFLIGHT):
        advice += ", and no denied_parameters or allowed_parameters that exclude a field"
    return f"{advice}. A policy newly given to the role counts from the next login."
