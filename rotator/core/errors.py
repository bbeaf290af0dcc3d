"""Every error that rotator raises itself.

    RotatorError
    ├── ConfigurationError            what the files say cannot be run; lists every problem at once
    ├── Contested                     another daemon replaces our keys for their parameters, and we its keys
    ├── NoKeyByThisClock              every upstream contradicts the clock, and the served key can wait
    ├── ClockDisagrees                this machine's clock and the others' differ: nothing is ended by it
    ├── LeaseUnusable                 it is not known which Lease, or as whom
    ├── KubernetesUnavailable         the API server gave no answer that can be used
    │   └── KubernetesRefused           until somebody mends the token, the certificates or the rights
    ├── OwnerUnclear                  a key's name does not tell whose it is, and the store cannot be asked
    ├── TooManyOrphans                more than a person allowed to be tidied away at once
    ├── ServedKeysUnknown             the provider does not know most of what is served: another organisation's?
    ├── ProviderError
    │   ├── ProviderCredentialRefused   401, 403: the organisation key
    │   ├── ProviderRequestRefused      400, 404, 422: this request, whoever asks
    │   ├── ProviderKeyNotAccepted      the probe: a new key does not work
    │   ├── ProviderRateLimited         429: not done; `retry_after` says when
    │   ├── ProviderUnavailable         not done: nothing was sent, or only a read failed
    │   ├── KeyUnreadable               the provider's list shows one key in a way that is not understood
    │   └── ProviderOutcomeUnknown      sent, and nobody knows whether it was done
    └── StoreError
        ├── StoreCredentialRefused      the login itself, or an expired token that could not be renewed
        ├── StorePermissionDenied       the policy
        ├── StoreRequestRefused         400, 413, …: this request, whoever asks
        ├── StoreMountUnusable          no mount there, or not KV version 2
        ├── CasMismatch                 somebody else wrote first
        ├── StoreSealed                 definitely not done
        ├── StoreUnavailable            a read failed; nothing was changed
        │   └── StoreRateLimited          429: not done, and nothing is sent for a while
        └── StoreOutcomeUnknown         a write was sent, and nobody knows whether it landed

Adapters turn whatever their library raises into one of these; nothing above an adapter sees another library's
exception. No message ever holds a key, a token or a request's body.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar


class RotatorError(Exception):
    """What failed, in one sentence for a person; `advice` says what that person can do, or is empty."""

    needs_a_person: ClassVar[bool] = False  # it will not heal by itself
    nothing_tried: ClassVar[bool] = False  # out of reach or locked out: nothing else there could be tried either

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a configuration: in which file, at which key ("targets.a.ttl"), and what."""

    file: str
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}: {self.key}: {self.message}" if self.key else f"{self.file}: {self.message}"


class ConfigurationError(RotatorError):
    """The configuration cannot be used; `problems` holds all that is wrong with it, not the first only."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class ClockDisagrees(RotatorError):
    """This machine's clock is too far from what the provider's or the store's answers say."""

    needs_a_person = True

    def __init__(self) -> None:
        super().__init__(
            "this machine's clock does not agree with the provider's or the store's, so no key was ended by it",
            "Look at rotator_clock_skew_seconds, and mend the clock that is off; keys go on being renewed meanwhile.",
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
    """Two daemons with one owner and path and different parameters replace each other's keys."""

    needs_a_person = True

    def __init__(self, target: str, path: str) -> None:
        super().__init__(
            f"two daemons replace each other's keys of {path}: its last keys were made by turns with this "
            "configuration's ttl and key parameters and with others. The served key works and is not replaced for that",
            f"Give {target} the same ttl and key parameters in both configurations, or run one daemon. Then run "
            f'`rotator rotate {target}`. See the runbook, "Two daemons replace each other\'s keys".',
        )


class LeaseUnusable(RotatorError):
    """The configuration wants a Lease, and does not say enough to find it."""

    needs_a_person = True
    nothing_tried = True


class KubernetesUnavailable(RotatorError):
    """The API server gave no answer that can be used: nothing is known of what it was asked about."""


class KubernetesRefused(KubernetesUnavailable):
    """And that lasts until somebody mends the token, the certificates or the rights."""

    needs_a_person = True


class TooManyOrphans(RotatorError):
    """There are so many keys that no version holds that something may be wrong with what is seen."""

    needs_a_person = True

    def __init__(self, found: int, limit: int) -> None:
        super().__init__(
            f"{found} live keys are in no version of their paths, more than max_orphans ({limit}): none was touched, "
            "and they work until they expire",
            "Was a path or a mount restored, moved or emptied? `rotator sweep --dry-run` lists them; if they may go, "
            f"`rotator sweep --max-orphans {found}` lets them end after a grace period.",
        )


class ServedKeysUnknown(RotatorError):
    """The provider does not know most served keys, so that something is wrong with what is seen."""

    needs_a_person = True

    def __init__(self, provider: str, unknown: int, served: int) -> None:
        super().__init__(
            f"{provider} does not know {unknown} of {served} served keys. None of them was replaced, and the "
            "applications keep what they have",
            f"Is the management credential of {provider} (api_key) that of another organisation? Is its list of keys "
            "empty or filtered? Correct that, and the next sweep goes on. If the keys are really gone, or are to move, "
            "replace them: `rotator rotate --all`.",
        )


class ProviderError(RotatorError):
    """The provider did not do what was asked."""


class ProviderCredentialRefused(ProviderError):
    """The organisation key is refused: every target of this provider waits until it is replaced."""

    needs_a_person = True
    nothing_tried = True


class ProviderRequestRefused(ProviderError):
    """The provider understood the request and will not do it."""

    needs_a_person = True


class ProviderKeyNotAccepted(ProviderError):
    """A new key does not work where it was tried."""

    needs_a_person = True


class ProviderRateLimited(ProviderError):
    """Not done, because too much was asked; `retry_after` is in seconds."""

    nothing_tried = True

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ProviderUnavailable(ProviderError):
    """Not done: the provider could not be reached, or only a read failed."""

    nothing_tried = True


class KeyUnreadable(ProviderError):
    """The provider lists a key under a path's name, and shows it in a way that is not understood."""

    needs_a_person = True

    def __init__(self, path: str, entries: Iterable[object]) -> None:
        super().__init__(
            f"the provider lists a key of {path} that cannot be read ({'; '.join(map(str, entries))}): it is left "
            "alone, and what is served stays",
            "Correct the key at the provider, or delete it there if no application uses it.",
        )


_NAME_OF_ANOTHER_PLACE = (
    "Was the path, its mount or its Vault moved? Name where it was: former_paths of the target, or former_locations of "
    'its store (docs/configuration.md, "After a move"). Was the key renamed at the provider? Give it its name back. '
    "Else find out who wrote its record into the path. If the key must go, delete it at the provider by its id."
)
_NO_NAME = (
    "Identity rests on the name, so the provider must show it, in its list and of one key. Does something between here "
    "and there leave it out?"
)


def _called(key_id: str, name: str) -> str:
    return f"{key_id} has the name {name}, which is not one for this path" if name else f"{key_id} is shown nameless"


class GraceNotEnforced(RotatorError):
    """Superseded keys do not have this path's name, so nothing ends them."""

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
        super().__init__(
            f"the served key {_called(key_id, name)} ({path}): it works until its expiry. It is not extended, and does "
            "not end with its grace",
            _NAME_OF_ANOTHER_PLACE if name else _NO_NAME,
        )


class OwnerUnclear(RotatorError):
    """Without the store nothing tells these keys from those of an installation whose owner begins with the same."""

    needs_a_person = True

    def __init__(self, keys: Iterable[str], letters: int) -> None:
        super().__init__(
            f"the store cannot be read, and the names of its keys show only {letters} letters of an owner, so they "
            f"may be another installation's: {'; '.join(keys)}",
            "If they are this installation's, run the command again with --by-name.",
        )


class ProviderOutcomeUnknown(ProviderError):
    """The request was sent; whether it was done is not known."""


class StoreError(RotatorError):
    """The store did not do what was asked."""


class StoreCredentialRefused(StoreError):
    """The login is refused: every target of this store waits until it is mended."""

    needs_a_person = True
    nothing_tried = True


class StorePermissionDenied(StoreError):
    """Logged in, but the policy does not allow this."""

    needs_a_person = True


class StoreRequestRefused(StoreError):
    """The store understood the request and will not do it."""

    needs_a_person = True


class StoreMountUnusable(StoreError):
    """There is no KV version 2 mount there."""

    needs_a_person = True
    nothing_tried = True


class CasMismatch(StoreError):
    """The path's version is not the one this write was meant to follow."""


class StoreSealed(StoreError):
    """The store is sealed: nothing was written, and nothing can be read."""

    nothing_tried = True


class StoreUnavailable(StoreError):
    """A read failed; nothing was changed."""

    nothing_tried = True


class StoreRateLimited(StoreUnavailable):
    """Not done, because too much was asked."""


class StoreOutcomeUnknown(StoreError):
    """A write was sent; whether it landed, or will land later, is not known."""
