"""The errors of a provider."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from rotator.core.errors import (
    ProviderCredentialRefused,
    ProviderError,
    ProviderKeyNotAccepted,
    ProviderOutcomeUnknown,
    ProviderRateLimited,
    ProviderRequestRefused,
    ProviderUnavailable,
    ProxyRefused,
)
from rotator.providers.answers import Answer

_ASKED_TO = {
    "create": "create a key",
    "list": "list the keys",
    "retrieve": "look up a key",
    "update": "change a key's expiry",
    "delete": "delete a key",
    "probe": "accept a new key",
}
_READS = frozenset({"list", "retrieve", "probe"})


@dataclass(frozen=True, slots=True)
class ErrorFactory:
    """Makes the errors of the provider that has this name in the configuration."""

    provider: str
    base_url: str
    label: str
    proxy: str = ""
    """The URL of the proxy, if there is one."""
    reads: Mapping[str, str] = field(default_factory=dict)
    """What the provider's further reads ask it to do, by their operations."""

    def refusal(self, operation: str, answer: Answer, now: datetime) -> ProviderError:
        """Return the error for a status that is no success. A 408 may come from a proxy that gave up on the server."""
        status, reply, asked = answer.status, answer.summary, self._asked_to(operation)
        if status in (401, 403):  # providers differ in which of the two they use
            return self.credential(f"{self.label} refused the management credential ({reply}) when asked to {asked}")
        if status == 407:
            return self._wants_credentials(reply)
        if status == 429:
            seconds = _retry_after(answer, now)
            return ProviderRateLimited(
                f"{self.label} refused to {asked}, because it got too many requests ({reply}); rotator sends it "
                f"none for {seconds:g} s",
                seconds,
            )
        if status < 200 or status == 408 or status >= 500:
            return self.unsettled(operation, f"answered {reply}")
        if status < 400:
            return ProviderRequestRefused(
                f"{self.label} answered {status}, a redirect, when asked to {asked}; it is not followed, "
                "because the management credential would go with it",
                f"{self._base_url()} must be where {self.label} itself answers; look for a proxy that redirects, too.",
            )
        look = f"at {self._base_url()}"
        if operation not in _READS:
            look = f"at the ttl and the key parameters of the target; after a 404, a 405 or a page of HTML, {look}"
        return ProviderRequestRefused(
            f"{self.label} refused to {asked} ({reply})", f"Retrying will not help. Look {look}."
        )

    def confirmed(self, operation: str, answer: Answer, wrong: ProviderError | None) -> ProviderError:
        """Return what a 401 or 403 means after a list was tried with the same key; `wrong` is that list's error."""
        if isinstance(wrong, ProviderCredentialRefused | ProviderRateLimited):
            return wrong
        refused = f"{self.label} refused to {self._asked_to(operation)} ({answer.summary})"
        if wrong is not None:
            return ProviderUnavailable(
                f"{refused}; whether it refuses the management credential is not known, because a list failed: "
                f"{wrong.message}",
                wrong.advice,
            )
        return ProviderRequestRefused(
            f"{refused}, and lists the keys for the same management credential: it refuses this request, not the key",
            "Look at what the management credential may do, at the plan's cap on keys, at the key parameters of the "
            "target, and at its newest version: does the record name a key of another account? If every target "
            "fails like this, the list needs no key, and the management credential is refused after all: replace it.",
        )

    def credential(self, message: str) -> ProviderCredentialRefused:
        """Return the error for a management credential that cannot be used."""
        return ProviderCredentialRefused(
            message,
            f'Every target of provider "{self.provider}" waits. Put a valid key where its api_key points to. '
            "A file, or a path in Vault, is read again after each refusal; a variable only at a restart.",
        )

    def not_accepted(self, answer: Answer, request: str) -> ProviderKeyNotAccepted:
        """Return the error for a probe that was answered with another status than the accepted ones."""
        return ProviderKeyNotAccepted(
            f"a new key does not work: {request} was answered with {answer.summary}; it is removed, and the served key "
            "stays",
            f'Look at the probe of provider "{self.provider}" (url, method, accept), and at the key parameters.',
        )

    def unsettled(self, operation: str, what: str) -> ProviderError:
        """Return the error for a request without a clear outcome: a read failed, a change may have been made."""
        message = f"{self.label} {what}, when asked to {self._asked_to(operation)}"
        advice = (
            f"If the error persists, check {self.label}'s status, and the network and proxies between rotator and "
            f"{self.base_url}."
        )
        if operation in _READS or operation in self.reads:
            return ProviderUnavailable(f"{message}; nothing was changed", advice)
        return ProviderOutcomeUnknown(f"{message}; whether it was done is not known", advice)

    def unreached(self, words: str) -> ProviderUnavailable:
        """Return the error for a missing connection; `words` are the reason."""
        _, mark, why = words.partition("certificate verify failed: ")
        if mark:
            return ProviderUnavailable(
                f"the TLS certificate shown at {self.base_url} is not trusted ({why}); nothing was sent",
                f"Look at this machine's clock and at {self._base_url()}. If a proxy opens TLS on the way, name a file "
                f"with its certificates in ca_file. If it is {self.label}'s own certificate, only {self.label} can fix "
                "it.",
            )
        advice = f"Look at {self._base_url()}, at DNS, and at the network policy for what leaves here."
        if "WRONG_VERSION_NUMBER" in words:
            advice = f"The server there does not speak TLS: look at {self._base_url()}. Is it an http:// address?"
        return ProviderUnavailable(
            f"{self.label} cannot be reached at {self.base_url} ({words}); nothing was sent", advice
        )

    def unproxied(self, words: str, status: int | None) -> ProviderUnavailable:
        """Return the error for a proxy that cannot be reached; with a `status`, for one that does not connect.

        `words` are the reason.
        """
        if status == 407:
            return self._wants_credentials(words)
        if status is not None and 400 <= status < 500:
            return ProxyRefused(
                f"the proxy {self.proxy} refuses to connect to {self.base_url} ({words}), so {self.label} gets no "
                "request; nothing was sent",
                f"Allow that host and port at the proxy, or correct {self._proxy()}. The served keys work until they "
                "expire.",
            )
        if status is not None:
            return ProviderUnavailable(
                f"the proxy {self.proxy} does not connect to {self.base_url} ({words}); nothing was sent",
                f"Look at the proxy, at its DNS and its way to the internet, and at {self._base_url()}.",
            )
        _, mark, why = words.partition("certificate verify failed: ")
        if mark:
            return ProviderUnavailable(
                f"the TLS certificate of the proxy {self.proxy} is not trusted ({why}); nothing was sent",
                f'Name a file with its certificates in ca_file of provider "{self.provider}", and look at this '
                "machine's clock.",
            )
        return ProviderUnavailable(
            f"the proxy {self.proxy} cannot be reached ({words}); nothing was sent",
            f"Look at {self._proxy()}, at DNS, and at the network policy for what leaves here.",
        )

    def _wants_credentials(self, reply: str) -> ProxyRefused:
        return ProxyRefused(
            f"the proxy {self.proxy or f'before {self.base_url}'} wants credentials, or refuses those of rotator "
            f"({reply}), so {self.label} gets no request; nothing was done",
            f'Put user:password where proxy_credentials of provider "{self.provider}" points to, and reload: rotator '
            "reads them then. It sends them as Basic; a proxy that wants NTLM or Kerberos needs a relay. The served "
            "keys work until they expire.",
        )

    def elsewhere(self, path: str) -> ProviderUnavailable:
        """Return the error for a next page at another address than the list's, which has this path."""
        return ProviderUnavailable(
            f"{self.label}'s list continues at another address than {self.base_url}, and the management credential is "
            "not sent there: the list is not complete, so nothing was swept",
            f"Set {self._base_url()} to {self.label}'s own address, or correct the proxy that answers there: the next "
            f"page's address in the answer must end in {path} and the query of the next page.",
        )

    def _asked_to(self, operation: str) -> str:
        return self.reads.get(operation) or _ASKED_TO[operation]

    def _proxy(self) -> str:
        return f'proxy of provider "{self.provider}" ({self.proxy})'

    def _base_url(self) -> str:
        return f'base_url of provider "{self.provider}" ({self.base_url})'


def _retry_after(answer: Answer, now: datetime) -> float:
    """Return seconds, 1 to 300: from the body, where some put them, else from the header, perhaps a date."""
    parsed = answer.parsed()
    for value in (parsed.get("retry_after") if isinstance(parsed, dict) else None, answer.retry_after):
        try:
            seconds = float(str(value))
        except ValueError:
            try:
                seconds = (parsedate_to_datetime(str(value)).astimezone(UTC) - now).total_seconds()
            except (ValueError, OverflowError):
                continue
        if math.isfinite(seconds):
            return min(max(seconds, 1.0), 300.0)
    return 30.0
