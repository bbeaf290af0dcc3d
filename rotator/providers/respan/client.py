"""Respan's temporary-keys API as a `Provider`; `responses` reads its answers.

Nothing is decided here about targets, and nothing is logged. No exception that leaves this module holds a key.
"""

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from urllib.parse import quote, unquote, urljoin, urlsplit

import stamina

from rotator.core.errors import (
    ProviderCredentialRefused,
    ProviderError,
    ProviderOutcomeUnknown,
    ProviderRateLimited,
    ProviderUnavailable,
    RotatorError,
)
from rotator.core.keys import CreatedKey, ListedKey, ProviderKey
from rotator.core.ports import NO_CREDENTIAL, Clock, Meter
from rotator.core.secrets import Secret
from rotator.core.target import KeyParameters
from rotator.core.times import timestamp
from rotator.core.traits import Traits
from rotator.providers.answers import Answer, is_id
from rotator.providers.errors import ErrorFactory
from rotator.providers.respan.responses import created_key, is_about, is_revoked, listed_key
from rotator.runtime.breaker import Circuit, Confirmation, Outage
from rotator.runtime.http import TIMEOUT, HttpClient, Response
from rotator.runtime.redact import quoted

TRAITS = Traits(label="Respan", key_pattern=r"[A-Za-z0-9]{8}\.[A-Za-z0-9_-]{32,}")
"""The text of a key is a prefix, a dot, and the secret part."""

LIST_PATH = "/api/temporary-keys/"
MAX_BODY = 2**20  # bytes of an answer, but for a list's
MAX_PAGE_BODY = 8 * 2**20  # bytes; a bare array holds the whole organisation: 24,000 keys
MAX_PAGES = 1000
MAX_LIST = 64 * 2**20  # bytes of all pages
MAX_LIST_SECONDS = 1800.0  # in which all pages have come, without the waits for the budget

_USABLE_KEY = re.compile(r"[!#-&(-\[\]-~]+")  # printable ASCII; no quote and no backslash, which a repr would double
_retrying = stamina.RetryingCaller(attempts=3, timeout=None, wait_initial=0.2, wait_max=1.0, wait_jitter=0.3)


@dataclass(frozen=True, slots=True)
class Probe:
    """A request with a new key, to see that the key works: then the status is one of `accept`."""

    url: str
    method: str
    accept: frozenset[int]


class RespanProvider:
    """Issues keys through Respan.

    `name` is the provider's in the configuration. `organisation_key` is called at the first use and its result kept. It
    is called again after a refusal (if it then returns another key, the refused request is repeated once) and after
    `look_again`. What it raises is passed on. While the key is refused, `circuit` is open: one request now and then
    tries the key again, and all others fail unsent with the same error. `connections` is how many threads call at once.
    `timeout` bounds each read and `deadline` a whole call (a page is a call), in seconds. `rate_limited` is called
    with the seconds to wait after every 429.

    A 401 or 403 to anything but a list may concern that one request alone. A list of one page decides, for all threads
    and for some seconds. `before_confirming` is called before it is sent.
    """

    def __init__(
        self,
        *,
        name: str,
        base_url: str,
        organisation_key: Callable[[], Secret],
        clock: Clock,
        meter: Meter,
        rate_limited: Callable[[float], None],
        before_confirming: Callable[[], object],
        connections: int,
        probe: Probe | None = None,
        timeout: float = 10.0,
        deadline: float = 30.0,
    ) -> None:
        self._keys_url = f"{base_url.rstrip('/')}{LIST_PATH}"
        self._host = urlsplit(base_url).netloc.rpartition("@")[2]
        self._errors = ErrorFactory(name, base_url)
        self.circuit: Circuit[ProviderCredentialRefused] = Circuit(clock)
        self.outage: Outage[ProviderError] = Outage(clock)
        self._organisation_key = organisation_key
        self._probe = probe
        self._clock = clock
        self._meter = meter
        self._rate_limited = rate_limited
        self._before_confirming = before_confirming
        self._confirmation: Confirmation[Secret, ProviderError] = Confirmation(clock, self._may_list)
        self._limits = f"{timeout:g} s for each part, {deadline:g} s in all"
        self._deadline = deadline
        self._key: Secret | None = None
        self._key_is_old = False  # and is to be read again at the next request
        self._key_lock = threading.Lock()
        self._http = HttpClient(clock, timeout=timeout, connections=connections)

    def look_again(self) -> None:
        """Read the organisation key again at the next request; if the key was refused, send that request at once."""
        self._key_is_old = True  # without the lock: that is held while the key is read, from Vault perhaps
        self.circuit.try_now()

    @property
    def traits(self) -> Traits:
        """What Respan can do."""
        return TRAITS

    @property
    def upstream(self) -> str:
        """The host and port, as the clock knows them."""
        return self._host

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    # --- the port ----------------------------------------------------------------------------------------------------

    def create(self, name: str, parameters: KeyParameters, expires_at: datetime) -> CreatedKey:
        """Create one key. Sent once, unless it is refused for an organisation key that was replaced since."""
        body = {"name": name, "expiry_date": timestamp(expires_at), **parameters}
        answer = self._call("create", "POST", self._keys_url, self._by(), body)
        if key := created_key(self._content("create", answer)):
            return key
        raise self._errors.unsettled("create", "gave an answer without a usable id, key and expiry")

    def ready(self) -> None:
        """Raise what `circuit` would raise."""
        self.circuit.look()

    def pages(self, before: Callable[[], object]) -> Iterator[Sequence[ListedKey]]:
        """Yield every unrevoked key. A bare array is a single page; `count` counts one page only, so it is not used."""
        url = self._keys_url
        seen = {url}
        size, seconds = 0, 0.0
        while True:
            page, length, took = self._page(url, before)
            size, seconds = size + length, seconds + took
            entries = page.get("results") if isinstance(page, dict) else page
            following = page.get("next") if isinstance(page, dict) else None
            if not isinstance(entries, list) or not isinstance(following, str | None):
                raise self._errors.unsettled("list", "gave an answer that holds no list")
            yield [listed_key(entry) for entry in entries if not is_revoked(entry)]
            if not following:
                return
            if size > MAX_LIST or seconds > MAX_LIST_SECONDS:
                bound = f"{MAX_LIST} bytes" if size > MAX_LIST else f"{MAX_LIST_SECONDS:g} s of keys"
                raise self._errors.unsettled("list", f"had more than {bound} to show")
            url = self._next_url(url, following)
            if url in seen:
                raise self._errors.unsettled("list", "led in a circle from page to page")
            if len(seen) == MAX_PAGES:
                raise self._errors.unsettled("list", f"had more than {MAX_PAGES} pages to show")
            seen.add(url)

    def retrieve(self, key_id: str) -> ProviderKey | None:
        """Return one key. A text that cannot be an id is not sent, here and in the next two: no key has it."""
        entry = self._read("retrieve", self._key_url(key_id), self._by()) if is_id(key_id) else None
        if not is_about(entry, key_id):
            raise self._errors.unsettled("retrieve", "answered with another key than it was asked about")
        if entry is None or is_revoked(entry):
            return None
        if isinstance(key := listed_key(entry), ProviderKey):
            return key
        raise self._errors.unsettled("retrieve", f"answered with a key that cannot be read ({key})")

    def set_expiry(self, key_id: str, expires_at: datetime) -> ProviderKey | None:
        """Change the expiry alone: an organisation key may not change the limits.

        Any 2xx means that it was changed. An answer that cannot be read shows no expiry.
        """
        if not is_id(key_id):
            return None
        body = {"expiry_date": timestamp(expires_at)}
        answer = self._call("update", "PATCH", self._key_url(key_id), self._by(), body)
        entry = answer.parsed()
        if not is_about(entry, key_id):
            raise self._errors.unsettled("update", "answered with another key than it was asked about")
        if answer.status == 404 or is_revoked(entry):
            return None
        key = listed_key(entry)
        return key if isinstance(key, ProviderKey) else ProviderKey(key_id, "", None)

    def delete(self, key_id: str) -> None:
        """Revoke the key. Any 2xx is a success, whatever its body."""
        if is_id(key_id):
            self._call("delete", "DELETE", self._key_url(key_id), self._by())

    def probe(self, key: Secret) -> None:
        """Send the configured probe once. If the new key is refused, that proves nothing about the organisation key."""
        if self._probe is None:
            return
        probe = self._probe
        body: object = {} if probe.method == "POST" else None
        errors = replace(self._errors, base_url=probe.url)
        answer = self._exchange("probe", probe.method, probe.url, key, self._by(), body, errors)
        if answer.status not in probe.accept:
            raise self._errors.not_accepted(answer, f"{probe.method} {probe.url}")

    # --- one call ----------------------------------------------------------------------------------------------------

    def _by(self) -> float:
        return self._clock.monotonic() + self._deadline

    def _read(self, operation: str, url: str, by: float) -> dict[str, object] | list[object] | None:
        """Return the JSON of a GET, or None for a 404."""
        answer = self._call(operation, "GET", url, by)
        return None if answer.status == 404 else self._content(operation, answer)

    def _page(self, url: str, before: Callable[[], object]) -> tuple[dict[str, object] | list[object], int, float]:
        """Return the page, its bytes, and the seconds that it took.

        Tried up to three times within one deadline, so that one lost answer does not end a list of a hundred pages.
        Repeated once after a 429, since `before` waits until Respan may be asked again. That wait does not count.
        """
        left, was_limited = self._deadline, False

        def once() -> tuple[dict[str, object] | list[object], int]:
            nonlocal left
            before()
            began = self._clock.monotonic()
            try:
                answer = self._call("list", "GET", url, began + left)
                return self._content("list", answer), len(answer.body or b"")
            finally:
                left -= self._clock.monotonic() - began

        def is_worth_another(error: Exception) -> bool:
            nonlocal was_limited
            if isinstance(error, ProviderRateLimited) and not was_limited:
                was_limited = True
                return True
            return isinstance(error, ProviderUnavailable) and left > 0

        return *_retrying(is_worth_another, once), self._deadline - left

    def _content(self, operation: str, answer: Answer) -> dict[str, object] | list[object]:
        parsed = answer.parsed()
        if parsed is None:
            what = answer.words() or "not with the JSON that is due"
            raise self._errors.unsettled(operation, f"answered {answer.status}, but {what}")
        return parsed

    def _call(self, operation: str, method: str, url: str, by: float, body: object = None) -> Answer:
        """Return an answer of 2xx, or the 404 of a key that is gone; raise all else as an error."""
        self.circuit.enter()
        try:
            answer = self._authorised(operation, method, url, by, body)
        except (ProviderUnavailable, ProviderOutcomeUnknown) as error:
            self.outage.failed(error)
            raise
        except ProviderError as error:
            self.outage.answered()
            if isinstance(error, ProviderCredentialRefused):
                self.circuit.failed(error)
            raise
        self.outage.answered()
        self.circuit.worked()
        return answer

    def _authorised(self, operation: str, method: str, url: str, by: float, body: object) -> Answer:
        with self._key_lock:
            if self._key_is_old:
                self._key, self._key_is_old = None, False  # before reading: a later replacement is read again
            key = self._key = self._key or self._read_key(operation)
        answer = self._exchange(operation, method, url, key, by, body)
        if answer.status in (401, 403):
            with self._key_lock:
                if self._key == key:  # else another thread has read it
                    self._key = self._read_key(operation)
                fresh = self._key
            if fresh != key:  # a refused request was not done: even a create may be repeated
                answer = self._exchange(operation, method, url, fresh, by, body)
        gone = answer.status == 404 and operation not in ("create", "list")
        if 200 <= answer.status < 300 or gone:
            return answer
        error = self._refusal(operation, answer)
        if isinstance(error, ProviderCredentialRefused) and operation != "list":
            error = self._errors.confirmed(operation, answer, self._confirmation(answer.key))
        raise error.with_traceback(None)  # it may be shared, and each raise would lengthen the traceback

    def _refusal(self, operation: str, answer: Answer) -> ProviderError:
        error = self._errors.refusal(operation, answer, self._clock.now())
        if isinstance(error, ProviderRateLimited):
            self._rate_limited(error.retry_after)
        return error

    def _may_list(self, key: Secret) -> ProviderError | None:
        """Ask for the first page of the list once; return the error, if any."""
        try:
            self._before_confirming()
            answer = self._exchange("list", "GET", self._keys_url, key, self._by(), None)
            if not 200 <= answer.status < 300:
                return self._refusal("list", answer)
            self._content("list", answer)
        except ProviderError as error:
            return error
        self.circuit.worked()
        return None

    def _read_key(self, operation: str) -> Secret:
        try:
            return self._organisation_key()
        except RotatorError:
            self._meter(operation, NO_CREDENTIAL, 0.0)
            raise

    def _exchange(
        self,
        operation: str,
        method: str,
        url: str,
        key: Secret,
        by: float,
        body: object,
        errors: ErrorFactory | None = None,
    ) -> Answer:
        """Send one request. Return an answer of any status; raise `ProviderError` if none came."""
        errors = errors or self._errors
        if not _USABLE_KEY.fullmatch(key.reveal()):
            self._meter(operation, NO_CREDENTIAL, 0.0)
            raise errors.credential(
                "the organisation key was not sent: it is empty, or holds a character that no key has (a quote?)"
            )
        started = self._clock.monotonic()
        response = self._http.send(
            method,
            url,
            by=by,
            max_body=MAX_PAGE_BODY if operation == "list" else MAX_BODY,
            token=key.reveal(),
            body=body,
            upstream=self.upstream if operation != "probe" else None,  # a probe's answer may be another machine's
        )
        self._meter(operation, response.outcome, self._clock.monotonic() - started)
        if isinstance(response, Response):
            kind, wait = response.headers.get("content-type", ""), response.headers.get("retry-after", "")
            return Answer(response.status, kind, wait, key, response.body, response.flaw)
        words = quoted(response.reason, key.reveal())
        if not response.was_sent:
            raise errors.unreached(words)
        if response.outcome == TIMEOUT:
            raise errors.unsettled(operation, f"did not answer in time ({self._limits})")
        raise errors.unsettled(operation, f"did not answer, for the connection broke ({words})")

    # --- addresses ---------------------------------------------------------------------------------------------------

    def _key_url(self, key_id: str) -> str:
        return f"{self._keys_url}{quote(key_id, safe='')}/"  # one segment: an older id holds $ + / and =

    def _next_url(self, url: str, following: str) -> str:
        """Return the next page's address: the configured list with the query of `following`, and nothing else of it.

        Behind a proxy, Respan names its own scheme, host or path prefix there. The organisation key is sent to none of
        them. Any other path than the list's is refused.
        """
        found = None
        with suppress(ValueError):
            found = urlsplit(urljoin(url, following))
        if found is None or not following.isprintable() or found.scheme not in ("http", "https") or "@" in found.netloc:
            raise self._errors.elsewhere()
        if not unquote(found.path).rstrip("/").endswith(LIST_PATH.rstrip("/")):
            raise self._errors.elsewhere()
        return f"{self._keys_url}?{found.query}" if found.query else self._keys_url
