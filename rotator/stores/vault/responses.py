"""What Vault's answers mean: the value of each, or our error. The texts here distinguish two meanings of a status.

Pure. All statements about Vault were seen in 1.21 unless they name another version. Messages quote nothing of an answer
but Vault's own list of errors.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from typing import Any, Generic, TypeVar

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

T = TypeVar("T")

_CAS_MISMATCH = "check-and-set parameter did not match"
_INVALID_TOKEN = "invalid token"  # noqa: S105 - expired, revoked or used up; a refusal by policy lacks it
_SEALED = "Vault is sealed"
_NO_MOUNT = "no handler for route"
_OTHER_KIND = "unsupported path"  # a mount of another kind
_TOO_LARGE = ("exceeds allowed", "value being too large")  # with a 500: of the listener, and of raft's storage
_MEANINGS = {
    412: "the node has not seen the latest writes yet",
    472: "a disaster recovery secondary answered, which serves no requests",
    473: "a performance standby answered, which does not forward this request",
    500: "Vault failed",
    501: "Vault is not initialised",
    502: "a proxy got no answer from Vault",
    503: "Vault is not ready: it has no active node, or is starting",
    504: "a proxy got no answer from Vault in time",
}


@dataclass(frozen=True, slots=True)
class Operation:
    """A kind of request: its name for the meter, and its verb in messages."""

    name: str
    verb: str
    rights: tuple[str, ...] = ()  # what a policy should allow on its path
    changes: bool = False


_ON_DATA = ("create", "read", "update")
METADATA = Operation("metadata", "read", ("read",))
READ = Operation("read", "read", _ON_DATA)
PREFLIGHT = Operation("preflight", "try a write to", _ON_DATA)
WRITE = Operation("write", "write to", _ON_DATA, changes=True)
DESTROY = Operation("destroy", "destroy versions through", ("update",), changes=True)
REVOKE = Operation("revoke", "revoke the token through")
LOGIN = Operation("login", "let rotator log in through")
RENEW = Operation("renew", "renew the token through")
MOUNT = Operation("mount", "show the mount at")
HEALTH = Operation("health", "answer at")
CAPABILITIES = Operation("capabilities", "show the rights at", ("update",))


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer. `now` is the server's time, or ours if it sent none."""

    status: int
    body: Mapping[str, Any] = field(repr=False)  # the JSON object in it; empty where there is none
    redirect: str  # the host and port of a redirect
    now: datetime
    retry_after: float | None = None  # seconds; None if it names none

    @property
    def is_too_much(self) -> bool:
        """Whether Vault, or a proxy before it, limits the rate."""
        return self.status == HTTPStatus.TOO_MANY_REQUESTS

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    @property
    def errors(self) -> Sequence[str] | None:
        """Vault's list of errors. None: there is none, so it may not be Vault's answer."""
        errors = self.body.get("errors")
        if isinstance(errors, list) and all(isinstance(error, str) for error in errors):
            return errors
        return None

    @property
    def is_invalid_token(self) -> bool:
        """Whether Vault refused the token, and not the request."""
        return self.status == HTTPStatus.FORBIDDEN and self._has_error(_INVALID_TOKEN)

    @property
    def is_absent(self) -> bool:
        """Whether Vault itself, and no proxy, answers that there is no such path, or no data in the version."""
        return self.status == HTTPStatus.NOT_FOUND and (self.errors == [] or "data" in self.body)

    @property
    def summary(self) -> str:
        """The status and Vault's words in one short line."""
        words = quoted("; ".join(self.errors or ()))
        return f"{self.status}: {words}" if words else f"{self.status}"

    def _has_error(self, words: str) -> bool:
        return any(words in error for error in self.errors or ())

    def refusal(self, operation: Operation, path: str, right: str) -> StoreError:
        """Return the error for an answer without success; `right` is what a policy must allow on `path`."""
        match self.status:
            case 300 | 301 | 302 | 303 | 307 | 308:
                return unsettled(
                    operation,
                    path,
                    f"it answered with a redirect to {quoted(self.redirect)}, which is not followed: "
                    "the token would go there",
                    "Set the store's address to where Vault's active node answers; a standby that cannot forward "
                    "redirects to the active node's api_addr.",
                )
            case 400 if operation in (WRITE, PREFLIGHT) and self._has_error(_CAS_MISMATCH):
                return CasMismatch(f"{path} is at another version: another writer was first")
            case 403 if self.is_invalid_token:
                return StoreCredentialRefused(
                    f"Vault calls the token invalid ({self.summary}); it did not {operation.verb} {path}",
                    "It is expired, revoked or used up. Replace the credentials that rotator logs in with.",
                )
            case 403:
                return StorePermissionDenied(
                    f"Vault's policy denies `{right}` on {path} ({self.summary})",
                    _policy_advice(operation, path, right),
                )
            case 404 if not operation.changes and (self._has_error(_NO_MOUNT) or self._has_error(_OTHER_KIND)):
                what = "nothing is mounted" if self._has_error(_NO_MOUNT) else "something other than KV is mounted"
                return StoreMountUnusable(
                    f"{what} in Vault where {path} would be ({self.summary})",
                    "Check the store's mount and namespace: `vault secrets list` lists the mounts.",
                )
            case 429:
                return limited(
                    operation, path, f"a rate limit quota, or a standby that forwards no requests ({self.summary})"
                )
            case 503 if self._has_error(_SEALED) or self.body.get("sealed") is True:
                return StoreSealed(
                    f"Vault is sealed: it did not {operation.verb} {path}, and nothing was changed",
                    "Unseal it (`vault operator unseal` on each node). The keys work until they expire.",
                )
            case _ if self._refuses_data(operation):
                return StoreRequestRefused(
                    f"Vault refused to {operation.verb} {path} ({self.summary}); nothing was written",
                    "Retrying will not help. Check the fields beside the key (too large, too many?) and the target's "
                    "extra_fields.",
                )
        return self._unclear(operation, path)

    def _refuses_data(self, operation: Operation) -> bool:
        """Return whether Vault refuses this data for good."""
        if operation in (WRITE, PREFLIGHT) and self.status == HTTPStatus.INTERNAL_SERVER_ERROR:
            return any(self._has_error(words) for words in _TOO_LARGE)
        return operation in (WRITE, PREFLIGHT, DESTROY) and self.status in (400, 413)

    def _unclear(self, operation: Operation, path: str) -> StoreError:
        if self.errors is None and self.status not in _MEANINGS:
            meaning = "the answer is not Vault's; it may be a proxy's"
            if self.status == HTTPStatus.BAD_REQUEST:
                meaning += ", or the address of this Vault begins with https://"
        else:
            meaning = _MEANINGS.get(self.status, "Vault gave an unexpected answer")
        return unsettled(operation, path, f"{meaning} ({self.summary})")

    def refused_login(self, path: str, hint: str, *, locks: bool) -> StoreCredentialRefused:
        """Return the error for a refused login; `locks`: Vault locks the account after a few of them."""
        advice = f"{hint} " if hint else ""
        advice += (
            "Check the store's auth: the mount, the role, and whether its credentials are still valid. Changed "
            "credentials are tried at once, the same ones after growing waits."
        )
        if not locks:
            return StoreCredentialRefused(f"Vault refused the login at {path} ({self.summary})", advice)
        if self.status != HTTPStatus.FORBIDDEN:
            return StoreCredentialRefused(
                f"Vault refused the login at {path} ({self.summary})",
                f"{advice} Vault locks a role for 15 minutes after five refused logins.",
            )
        method = path.removeprefix("auth/").removesuffix("/login")
        return StoreCredentialRefused(
            f"Vault refused the login at {path} ({self.summary}): after several refused logins it locks the role, and "
            "then refuses valid credentials, too",
            f"`vault read sys/locked-users` shows whether it is locked. Replace the credentials, and wait 15 "
            f"minutes, or unlock it: `vault write -f sys/locked-users/ACCESSOR/unlock/ROLE_ID`, with the accessor of "
            f"{method}/ from `vault auth list`, and the role id. {advice}",
        )


@dataclass(frozen=True, slots=True)
class Request(Generic[T]):
    """One request. `right` is what a policy must allow on `path`; `understand` makes a value of the answer.

    `understand` may raise any error that reading unexpected JSON raises.
    """

    operation: Operation
    path: str
    right: str
    send: Callable[[Any], Answer] = field(repr=False)  # takes an hvac.Client
    understand: Callable[[Answer], T] = field(repr=False)
    may_be_absent: bool = False  # `understand` takes Vault's 404, too

    def value(self, answer: Answer) -> T:
        """Return the value of the answer. Raises the `StoreError` for an answer that has none."""
        if not (answer.is_success or (self.may_be_absent and answer.is_absent)):
            raise answer.refusal(self.operation, self.path, self.right)
        try:
            return self.understand(answer)
        except (AttributeError, KeyError, TypeError, ValueError):
            pass
        raise unsettled(
            self.operation,
            self.path,
            f"the answer ({answer.status}) is not one of KV version 2; it may be a proxy's",
            "Check the store's address, and what answers there.",
        )


def parse_object(content: bytes) -> Mapping[str, Any]:
    """Return the JSON object in a body; an empty one for anything else."""
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}


def unsettled(operation: Operation, path: str, what: str, advice: str = "") -> StoreError:
    """Return the error for an unclear answer: a read failed, a change may have been made."""
    advice = advice or "If this continues, check Vault, and any proxy before it."
    if operation.changes:
        return StoreOutcomeUnknown(
            f"Vault was asked to {operation.verb} {path}, and the outcome is unknown: {what}", advice
        )
    return StoreUnavailable(f"Vault did not {operation.verb} {path}, and nothing was changed: {what}", advice)


def used_up(error: StoreCredentialRefused, uses: int) -> StoreCredentialRefused:
    """Return the error for a token that has made all the requests it may: its credentials are valid."""
    return StoreCredentialRefused(
        f"{error.message}: a token of this login allows {uses} request{'s'[: uses != 1]}, and all were used",
        "Set token_num_uses = 0 on the role that rotator logs in with, or give it a token without num_uses: all its "
        "threads share one token. The credentials themselves work.",
    )


def spent(error: StoreCredentialRefused) -> StoreCredentialRefused:
    """Return the error for a given token that worked once, a moment ago: for a look-up that its policy denied."""
    return StoreCredentialRefused(
        f"{error.message}: the token allowed one request, as a response-wrapping token does, and that was used",
        "If it was one, its content is lost: create another, run `vault unwrap` once, and give rotator the token that "
        "comes out. rotator cannot use a token with num_uses = 1 either.",
    )


def limited(operation: Operation, path: str, what: str) -> StoreError:
    """Return the error for a 429. After a change it is an unknown outcome: a proxy may have given that answer."""
    advice = (
        "rotator sends more slowly now. Raise the rate limit quota of the mount (`vault list sys/quotas/rate-limit`), "
        "or find what else uses it up."
    )
    if operation.changes:
        return unsettled(operation, path, f"there were too many requests: {what}", advice)
    message = f"Vault did not {operation.verb} {path}, and nothing was changed: there were too many requests: {what}"
    return StoreRateLimited(message, advice)


def stanza(path: str, rights: Sequence[str]) -> str:
    """Return the line of a policy that allows this."""
    wanted = ", ".join(f'"{right}"' for right in rights)
    return f'path "{path}" {{ capabilities = [{wanted}] }}'


def _policy_advice(operation: Operation, path: str, right: str) -> str:
    advice = f"The policy must have: {stanza(path, operation.rights or (right,))}"
    if operation in (WRITE, PREFLIGHT):
        advice += ", and no denied_parameters or allowed_parameters that exclude a field"
    return f"{advice}. A policy newly attached to the role applies from the next login."
