"""Every error that rotator raises, as a tree. Below a provider or a store it answers one question: was it done?

    RotatorError
    ├── ConfigurationError            the configuration cannot be used; lists every problem at once
    ├── Contested                     another daemon replaces our keys for their parameters, and we replace its keys
    ├── NoKeyByThisClock              every upstream contradicts this clock, and the served key can wait
    ├── ClockDisagrees                this clock differs from the upstreams', so no key is ended by it
    ├── LeaseUnusable                 the configuration does not name the Lease, or this replica
    ├── KubernetesUnavailable         the API server gave no answer that can be used
    │   └── KubernetesRefused           retrying does not help: fix the token, the certificates or the rights
    ├── NotificationFailed            a channel did not take a notification, and gets it again
    │   └── NotificationRefused         retrying does not help: fix the receiver, the secret or the rights
    │       └── NotificationUnwanted      410: the receiver wants no more of them
    ├── OwnerUnclear                  a key's name does not show whose it is, and the store cannot be read
    ├── TooManyOrphans                more than one sweep may expire
    ├── ServedKeysUnknown             the provider does not know most served keys: is it another account's?
    ├── GraceNotEnforced              superseded keys have another path's name, so nothing ends them
    ├── ProviderError
    │   ├── ProviderCredentialRefused   401, 403: the management credential
    │   ├── ProviderRequestRefused      400, 404, 422: this request, with any credential
    │   ├── ProviderKeyNotAccepted      the probe: a new key does not work
    │   ├── ProviderRateLimited         429: not done; `retry_after` is when to try again
    │   ├── ProviderUnavailable         not done: nothing was sent, or only a read failed
    │   │   └── ProxyRefused                the proxy refuses: nothing reached the provider
    │   ├── KeyUnreadable               the provider's list shows one key in an unknown form
    │   ├── ServedKeyMisnamed           the provider shows a served key under another path's name
    │   └── ProviderOutcomeUnknown      sent; whether it was done is unknown
    └── StoreError
        ├── StoreCredentialRefused      the login itself, or an expired token that could not be renewed
        ├── StorePermissionDenied       the policy
        ├── StoreRequestRefused         400, 413, …: this request, with any credential
        ├── StoreMountUnusable          no mount there, or not KV version 2
        ├── CasMismatch                 another writer was first
        ├── StoreSealed                 definitely not done
        ├── StoreUnavailable            a read failed; nothing was changed
        │   └── StoreRateLimited          429: not done, and nothing is sent for a while
        └── StoreOutcomeUnknown         a write was sent; whether it landed is unknown

Adapters turn each exception of their library into one of these; no other exception leaves an adapter. No message holds
a key, a token or a request's body.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar


class RotatorError(Exception):
    """What failed and why, in one sentence for a person; `advice` is what to do about it, or empty."""

    needs_a_person: ClassVar[bool] = False  # retrying does not help
    nothing_tried: ClassVar[bool] = False  # out of reach or locked out: any other request would fail too

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice


@dataclass(frozen=True, slots=True)
class Problem:
    """One flaw of a configuration: the file, the key in it ("targets.a.ttl"), and what is wrong."""

    file: str
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}: {self.key}: {self.message}" if self.key else f"{self.file}: {self.message}"


class ConfigurationError(RotatorError):
    """The configuration cannot be used; `problems` holds all its flaws, not only the first."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class ClockDisagrees(RotatorError):
    """This machine's clock is too far from those of the provider or the store."""

    needs_a_person = True

    def __init__(self) -> None:
        super().__init__(
            "this machine's clock differs from the provider's or the store's, so no key is shortened or deleted. Keys "
            "are still renewed",
            "rotator_clock_skew_seconds shows which clock is wrong: correct that one.",
        )


class NoKeyByThisClock(RotatorError):
    """A new key is due, and every upstream that answered contradicts this machine's clock."""

    needs_a_person = True

    def __init__(self, disputed_by: timedelta) -> None:
        """`disputed_by` is how far the clock is ahead."""
        way, how = ("ahead of", "long") if disputed_by > timedelta(0) else ("behind", "short")
        by = f"{abs(disputed_by).total_seconds():.0f} s"
        super().__init__(
            f"this machine's clock is {by} {way} every upstream that answered, so no new key was made: it would live "
            f"too {how}. The served key still works",
            "Correct the clock that is wrong. rotator_clock_skew_seconds shows each upstream's. See the runbook, "
            "RotatorClockSkew.",
        )


class Contested(RotatorError):
    """Two daemons with the same owner and path, but different parameters, replace each other's keys."""

    needs_a_person = True

    def __init__(self, target: str, path: str) -> None:
        super().__init__(
            f"two daemons replace each other's keys of {path}: its last keys were made alternately with this "
            "configuration's ttl and key parameters and with others. The served key works and is not replaced for that",
            f"Give {target} the same ttl and key parameters in both configurations, or run one daemon. Then run "
            f'`rotator rotate {target}`. See the runbook, "Two daemons replace each other\'s keys".',
        )


class LeaseUnusable(RotatorError):
    """The configuration asks for a Lease, and does not name it or this replica."""

    needs_a_person = True
    nothing_tried = True


class KubernetesUnavailable(RotatorError):
    """The API server gave no usable answer."""


class KubernetesRefused(KubernetesUnavailable):
    """Retrying does not help until the token, the certificates or the rights are fixed."""

    needs_a_person = True


class NotificationFailed(RotatorError):
    """A channel did not take a notification."""


class NotificationRefused(NotificationFailed):
    """Retrying does not help until the receiver, the secret or the rights are fixed."""

    needs_a_person = True


class NotificationUnwanted(NotificationRefused):
    """The receiver wants no more notifications, and gets none until a reload."""


class TooManyOrphans(RotatorError):
    """So many keys are in no version that the lists may be wrong."""

    needs_a_person = True

    def __init__(self, found: int, limit: int) -> None:
        super().__init__(
            f"{found} live keys are in no version of their paths, more than max_orphans ({limit}): none was touched, "
            "and they keep working, until they expire if they do",
            "Was a path or a mount restored, moved or emptied? `rotator sweep --dry-run` lists them; if they may go, "
            f"`rotator sweep --max-orphans {found}` ends them after a grace period.",
        )


class ServedKeysUnknown(RotatorError):
    """The provider does not know most served keys, so its answers may be wrong."""

    needs_a_person = True

    def __init__(self, provider: str, unknown: int, served: int) -> None:
        super().__init__(
            f"{provider} does not know {unknown} of {served} served keys. None of them was replaced, and the "
            "applications keep what they have",
            f"Is the management credential of {provider} (api_key) that of another account? Is its list of keys "
            "empty or filtered? Correct that, and the next sweep goes on. If the keys are really gone, or are to move, "
            "replace them: `rotator rotate --all`.",
        )


class ProviderError(RotatorError):
    """The provider did not do what was requested."""


class ProviderCredentialRefused(ProviderError):
    """The management credential is refused: every target of this provider waits until it is replaced."""

    needs_a_person = True
    nothing_tried = True


class ProviderRequestRefused(ProviderError):
    """The provider understood the request and refuses it."""

    needs_a_person = True


class ProviderKeyNotAccepted(ProviderError):
    """A new key does not pass the probe."""

    needs_a_person = True


class ProviderRateLimited(ProviderError):
    """Not done, because there were too many requests; `retry_after` is in seconds."""

    nothing_tried = True

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ProviderUnavailable(ProviderError):
    """Not done: the provider could not be reached, or only a read failed."""

    nothing_tried = True


class ProxyRefused(ProviderUnavailable):
    """The proxy refuses to pass requests on: every target of this provider waits until that is fixed."""

    needs_a_person = True


class KeyUnreadable(ProviderError):
    """The provider lists a key with a path's name, in a form that rotator cannot read."""

    needs_a_person = True

    def __init__(self, path: str, entries: Iterable[object]) -> None:
        super().__init__(
            f"the provider lists a key of {path} that cannot be read ({'; '.join(map(str, entries))}): it is left "
            "alone, and the served key stays",
            "Correct the key at the provider, or delete it there if no application uses it.",
        )


_NAME_OF_ANOTHER_PLACE = (
    "Was the path, its mount or its Vault moved? Name where it was: former_paths of the target, or former_locations of "
    'its store (docs/configuration.md, "After a move"). Was the key renamed at the provider? Give it its name back. '
    "Else find out who wrote its record into the path. If the key must go, delete it at the provider by its id."
)
_NO_NAME = (
    "Identity rests on the name, so the provider must show it in its list and when one key is looked up. Does a proxy "
    "remove it?"
)


def _called(key_id: str, name: str) -> str:
    return f"{key_id} has the name {name}, which is not one for this path" if name else f"{key_id} is shown nameless"


class GraceNotEnforced(RotatorError):
    """Superseded keys do not have this path's name, so nothing expires them after their grace."""

    needs_a_person = True

    def __init__(self, path: str, keys: Iterable[tuple[str, str, str]]) -> None:
        """`keys`: of each the id, the name, and how long it works."""
        keys = tuple(keys)
        which = "; ".join(f"{_called(key_id, name)}, and {works}" for key_id, name, works in keys)
        super().__init__(
            f"the grace of an old key of {path} is not enforced: {which}",
            _NAME_OF_ANOTHER_PLACE if all(name for _, name, _ in keys) else _NO_NAME,
        )


class ServedKeyMisnamed(ProviderError):
    """The provider shows a served key with another name than one for its path."""

    needs_a_person = True

    def __init__(self, path: str, key_id: str, name: str) -> None:
        what = f"the served key {_called(key_id, name)} ({path}): "
        if name:
            message = (
                f"{what}if it was renamed, it works until its expiry; it is not extended, and does not end with its "
                "grace. If the provider gave its id to another key, it is gone, and its applications are refused"
            )
            advice = f"Are they refused? Replace the key: `rotator rotate TARGET`. {_NAME_OF_ANOTHER_PLACE}"
        else:
            message = f"{what}it works until its expiry. It is not extended, and does not end with its grace"
            advice = _NO_NAME
        super().__init__(message, advice)


class OwnerUnclear(RotatorError):
    """Without the store, these keys may be those of another installation whose owner begins with the same letters."""

    needs_a_person = True

    def __init__(self, keys: Iterable[str], letters: int) -> None:
        super().__init__(
            f"the store cannot be read, and the names of its keys show only {letters} letters of an owner, so they "
            f"may be another installation's: {'; '.join(keys)}",
            "If they are this installation's, run the command again with --by-name.",
        )


class ProviderOutcomeUnknown(ProviderError):
    """The request was sent; whether it was done is unknown."""


class StoreError(RotatorError):
    """The store did not do what was requested."""


class StoreCredentialRefused(StoreError):
    """The login is refused: every target of this store waits until it is fixed."""

    needs_a_person = True
    nothing_tried = True


class StorePermissionDenied(StoreError):
    """Logged in, but the policy does not allow this."""

    needs_a_person = True


class StoreRequestRefused(StoreError):
    """The store understood the request and refuses it."""

    needs_a_person = True


class StoreMountUnusable(StoreError):
    """There is no KV version 2 mount there."""

    needs_a_person = True
    nothing_tried = True


class CasMismatch(StoreError):
    """The path is at another version than the one that the write follows."""


class StoreSealed(StoreError):
    """The store is sealed: nothing was written, and nothing can be read."""

    nothing_tried = True


class StoreUnavailable(StoreError):
    """A read failed; nothing was changed."""

    nothing_tried = True


class StoreRateLimited(StoreUnavailable):
    """Not done, because there were too many requests."""


class StoreOutcomeUnknown(StoreError):
    """A write was sent; whether it landed, or will land later, is unknown."""
