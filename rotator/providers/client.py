"""What every provider behind an HTTP API shares. A provider, a plugin's too, is a subclass of `ApiProvider`.

Nothing is decided here about targets, and nothing is logged. No exception that leaves this module holds a key.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from urllib.parse import unquote, urljoin, urlsplit

import stamina

from rotator.config.provider_settings import ProbeSettings, ProviderSettings
from rotator.config.provider_type import ProviderContext
from rotator.core.errors import (
    ProviderCredentialRefused,
    ProviderError,
    ProviderOutcomeUnknown,
    ProviderRateLimited,
    ProviderRequestRefused,
    ProviderUnavailable,
    ProxyRefused,
)
from rotator.core.keys import CreatedKey, ListedKey, ProviderKey
from rotator.core.ports import NO_CREDENTIAL
from rotator.core.secrets import Secret
from rotator.core.target import KeyParameters
from rotator.core.traits import Traits
from rotator.providers.answers import Answer, Content, is_not_found
from rotator.providers.credential import ManagementCredential
from rotator.providers.errors import ErrorFactory
from rotator.providers.request import BEARER, CredentialHeader, Request
from rotator.runtime.breaker import Circuit, Confirmation, Outage
from rotator.runtime.http import TIMEOUT, HttpClient, Response
from rotator.runtime.redact import quoted

READ_SECONDS = 10.0  # for each part of an answer; `timeout` bounds the whole
MAX_BODY = 2**20  # bytes of an answer, but for a list's
MAX_PAGE_BODY = 8 * 2**20  # bytes; a bare array holds all keys, 24,000 for example
MAX_PAGES = 1000
MAX_LIST = 64 * 2**20  # bytes of all pages
MAX_LIST_SECONDS = 1800.0  # in which all pages have come, without the waits for the budget

_USABLE = re.compile(r"[!#-&(-\[\]-~]+")  # printable ASCII; no quote and no backslash, which a repr would double
_retrying = stamina.RetryingCaller(attempts=3, timeout=None, wait_initial=0.2, wait_max=1.0, wait_jitter=0.3)


class ApiProvider(ABC):
    """Issues keys through an HTTP API whose answers are JSON. Safe for many threads.

    A subclass defines `create`, `pages`, `retrieve` and `delete`, and `set_expiry` if the provider can change an
    expiry. It calls `call` for one request, `content` for the JSON of its answer, `list_pages` for a list, `found` for
    one key by the list, and raises what `errors` makes. It keeps no state.

    `first_page` is the request for the first page of the list, and `header` holds the management credential. `reads`
    completes the sentence "asked to ..." for each operation of its own that it calls `look_up` with.

    The credential is read at the first use and kept. It is read again after a refusal (if it then is another one, the
    refused request is repeated once) and after `look_again`. What reading it raises is passed on. While it is refused,
    or the proxy refuses, `circuit` is open: one request now and then tries again, and all others fail unsent with the
    same error.

    A 401 or 403 to anything but a list may concern that one request alone. A list of one page decides, for all threads
    and for some seconds.
    """

    def __init__(
        self,
        settings: ProviderSettings,
        context: ProviderContext,
        traits: Traits,
        first_page: Request,
        header: CredentialHeader = BEARER,
        reads: Mapping[str, str] = {},
    ) -> None:
        self.traits = traits
        proxy = context.proxy
        self.errors = ErrorFactory(context.name, settings.base_url, traits.label, proxy.url if proxy else "", reads)
        self.circuit: Circuit[ProviderCredentialRefused | ProxyRefused] = Circuit(context.clock)
        self.outage: Outage[ProviderError] = Outage(context.clock)
        self._base_url = settings.base_url.rstrip("/")
        self._host = urlsplit(settings.base_url).netloc.rpartition("@")[2]
        self._first_page = first_page
        self._header = header
        self.credential = ManagementCredential(context.credential, context.meter)
        self._context = context
        self._clock = context.clock
        self._probe: ProbeSettings | None = settings.probe
        self._confirmation: Confirmation[Secret, ProviderError] = Confirmation(context.clock, self._may_list)
        self._deadline = settings.timeout.total_seconds()
        part = min(READ_SECONDS, self._deadline)
        self._limits = f"{part:g} s for each part, {self._deadline:g} s in all"
        self._http = HttpClient(
            context.clock, timeout=part, connections=context.connections, ca_file=settings.ca_file, proxy=proxy
        )

    def look_again(self) -> None:
        """Read the credential again at the next request; if it was refused, send that request at once."""
        self.credential.read_again()
        self.circuit.try_now()

    @property
    def upstream(self) -> str:
        """The host and port, as the clock knows them."""
        return self._host

    @property
    def error(self) -> ProviderError | None:
        """The error that callers get while the provider is down or refuses the credential."""
        return self.circuit.error or self.outage.error

    def is_to_be_asked(self) -> bool:
        """Return whether one request is due that shows if the provider is still down."""
        return self.circuit.error is not None or self.outage.is_to_be_asked()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    # --- the port ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def create(self, name: str, parameters: KeyParameters, expires_at: datetime) -> CreatedKey:
        """Create one key, with one `call`. See `ports.Provider`, here and in the next four."""

    @abstractmethod
    def pages(self, before: Callable[[], object]) -> Iterator[Sequence[ListedKey]]:
        """Yield every unrevoked key, a page at a time."""

    @abstractmethod
    def retrieve(self, key_id: str) -> ProviderKey | None:
        """Return one key, or None when it is unknown or revoked."""

    @abstractmethod
    def delete(self, key_id: str) -> None:
        """Revoke one key. One that is gone already is a success."""

    def set_expiry(self, key_id: str, expires_at: datetime) -> ProviderKey | None:  # noqa: ARG002 - for subclasses
        """Refuse: it is only called where the trait `can_set_expiry` is true."""
        raise ProviderRequestRefused(
            f"{self.traits.label} cannot change the expiry of a key, so {key_id} keeps its own"
        )

    def ready(self) -> None:
        """Raise what `circuit` would raise."""
        self.circuit.look()

    def probe(self, key: Secret) -> None:
        """Send the configured probe once. If the new key is refused, that proves nothing about the credential."""
        if self._probe is None:
            return
        probe = self._probe
        body: object = {} if probe.method == "POST" else None
        errors = replace(self.errors, base_url=probe.url)
        answer = self._exchange("probe", Request(probe.method, probe.url, body), BEARER, key, self._by(), errors)
        if answer.status not in probe.accept:
            raise self.errors.not_accepted(answer, f"{probe.method} {probe.url}")

    # --- for subclasses ----------------------------------------------------------------------------------------------

    def call(
        self,
        operation: str,
        method: str,
        path: str,
        body: object = None,
        gone: Callable[[Answer], bool] = is_not_found,
    ) -> Answer:
        """Send one request; return an answer of 2xx, or one about a key that is `gone`. Raise all else as an error.

        `operation` is "create", "retrieve", "update" or "delete". No answer to a create is about a key that is gone.
        """
        return self._call(operation, Request(method, path, body), self._by(), gone)

    def content(self, operation: str, answer: Answer) -> Content:
        """Return the JSON of an answer of 2xx."""
        parsed = answer.parsed()
        if parsed is None:
            what = answer.words() or "not with the JSON that is due"
            raise self.errors.unsettled(operation, f"answered {answer.status}, but {what}")
        return parsed

    def list_pages(
        self,
        before: Callable[[], object],
        keys_on: Callable[[Content], Sequence[ListedKey]],
        after: Callable[[Content], Request | None],
    ) -> Iterator[Sequence[ListedKey]]:
        """Yield the keys on each page. `after` returns the request for the page after this one, or None at the end.

        The list has bounds: pages, bytes and seconds. A list that leads back to a page is an error.
        """
        request = self._first_page
        seen = {str(request)}
        size, seconds = 0, 0.0
        previous: Content | None = None
        while True:
            page, length, took = self._page(request, before)
            size, seconds = size + length, seconds + took
            keys = keys_on(page)
            if keys and page == previous:  # the provider ignores which page it is asked for
                raise self.errors.unsettled("list", "led in a circle from page to page")
            previous = page
            yield keys
            following = after(page)
            if following is None:
                return
            if size > MAX_LIST or seconds > MAX_LIST_SECONDS:
                bound = f"{MAX_LIST} bytes" if size > MAX_LIST else f"{MAX_LIST_SECONDS:g} s of keys"
                raise self.errors.unsettled("list", f"had more than {bound} to show")
            request = following
            if str(request) in seen:
                raise self.errors.unsettled("list", "led in a circle from page to page")
            if len(seen) == MAX_PAGES:
                raise self.errors.unsettled("list", f"had more than {MAX_PAGES} pages to show")
            seen.add(str(request))

    def next_page(self, following: str) -> Request:
        """Return the request for the page at this URL: the configured list with the URL's query.

        Behind a proxy, a provider names its own scheme, host or path prefix there. The credential is sent to none of
        them. Any other path than the list's is refused.
        """
        found, path = None, self._first_page.path.partition("?")[0]
        with suppress(ValueError):
            found = urlsplit(urljoin(f"{self._base_url}{path}", following))
        if found is None or not following.isprintable() or found.scheme not in ("http", "https") or "@" in found.netloc:
            raise self.errors.elsewhere(path)
        if not unquote(found.path).rstrip("/").endswith(unquote(path).rstrip("/")):
            raise self.errors.elsewhere(path)
        return replace(self._first_page, path=f"{path}?{found.query}" if found.query else path)

    def found(self, key_id: str) -> ProviderKey | None:
        """Look for one key in the list, for a provider that shows no key alone. The first page has been paid for."""
        is_first = True

        def before() -> None:
            nonlocal is_first
            if not is_first:
                self._context.before_confirming()
            is_first = False

        for key in (key for page in self.pages(before) for key in page if key.id == key_id):
            if isinstance(key, ProviderKey):
                return key
            raise self.errors.unsettled("list", f"shows a key that cannot be read ({key})")
        return None

    def look_up(
        self,
        request: Request,
        before: Callable[[], object],
        gone: Callable[[Answer], bool] = is_not_found,
        operation: str = "retrieve",
    ) -> Answer:
        """Send a request for what a page of the list lacks, such as one key, as often as one for such a page."""
        return self._repeated(operation, request, before, gone)[0]

    # --- one call ----------------------------------------------------------------------------------------------------

    def _by(self) -> float:
        return self._clock.monotonic() + self._deadline

    def _page(self, request: Request, before: Callable[[], object]) -> tuple[Content, int, float]:
        """Return the page, its bytes, and the seconds that it took."""
        answer, content, took = self._repeated("list", request, before)
        return content, len(answer.body or b""), took

    def _repeated(
        self,
        operation: str,
        request: Request,
        before: Callable[[], object],
        gone: Callable[[Answer], bool] = is_not_found,
    ) -> tuple[Answer, Content, float]:
        """Return an answer, its content, and the seconds that it took.

        Tried up to three times within one deadline, so that one lost answer does not end a list of a hundred pages.
        Repeated once after a 429, since `before` waits until the provider may be asked again. That wait does not count.
        """
        left, was_limited = self._deadline, False

        def once() -> tuple[Answer, Content]:
            nonlocal left
            before()
            began = self._clock.monotonic()
            try:
                answer = self._call(operation, request, began + left, gone)
                return answer, [] if answer.is_gone else self.content(operation, answer)
            finally:
                left -= self._clock.monotonic() - began

        def is_worth_another(error: Exception) -> bool:
            nonlocal was_limited
            if isinstance(error, ProviderRateLimited) and not was_limited:
                was_limited = True
                return True
            return isinstance(error, ProviderUnavailable) and left > 0

        return *_retrying(is_worth_another, once), self._deadline - left

    def _call(
        self, operation: str, request: Request, by: float, gone: Callable[[Answer], bool] = is_not_found
    ) -> Answer:
        self.circuit.enter()
        try:
            answer = self._authorised(operation, request, by, gone)
        except ProviderError as error:
            if isinstance(error, ProviderUnavailable | ProviderOutcomeUnknown):
                self.outage.failed(error)
            else:
                self.outage.answered()
            if isinstance(error, ProviderCredentialRefused | ProxyRefused):  # many tries may lock an account
                self.circuit.failed(error)
            raise
        self.outage.answered()
        self.circuit.worked()
        return answer

    def _authorised(self, operation: str, request: Request, by: float, gone: Callable[[Answer], bool]) -> Answer:
        credential = self.credential.current(operation)
        may_be_gone = operation not in ("create", "list")
        answer = self._exchange(operation, request, self._header, credential, by)
        if answer.status in (401, 403) and not (may_be_gone and gone(answer)):
            fresh = self.credential.after(credential, operation)
            if fresh != credential:  # a refused request was not done: even a create may be repeated
                answer = self._exchange(operation, request, self._header, fresh, by)
        if may_be_gone and gone(answer):
            return replace(answer, is_gone=True)
        if answer.is_success:
            return answer
        error = self._refusal(operation, answer)
        if isinstance(error, ProviderCredentialRefused) and operation != "list":
            error = self.errors.confirmed(operation, answer, self._confirmation(answer.credential))
        raise error.with_traceback(None)  # it may be shared, and each raise would lengthen the traceback

    def _refusal(self, operation: str, answer: Answer) -> ProviderError:
        error = self.errors.refusal(operation, answer, self._clock.now())
        if isinstance(error, ProviderRateLimited):
            self._context.rate_limited(error.retry_after)
        return error

    def _may_list(self, credential: Secret) -> ProviderError | None:
        """Ask for the first page of the list once; return the error, if any."""
        try:
            self._context.before_confirming()
            answer = self._exchange("list", self._first_page, self._header, credential, self._by())
            if not answer.is_success:
                return self._refusal("list", answer)
            self.content("list", answer)
        except ProviderError as error:
            return error
        self.circuit.worked()
        return None

    def _exchange(
        self,
        operation: str,
        request: Request,
        header: CredentialHeader,
        credential: Secret,
        by: float,
        errors: ErrorFactory | None = None,
    ) -> Answer:
        """Send one request. Return an answer of any status; raise `ProviderError` if none came."""
        errors = errors or self.errors
        if not _USABLE.fullmatch(credential.reveal()):
            self._context.meter(operation, NO_CREDENTIAL, 0.0)
            raise errors.credential(
                "the management credential was not sent: it is empty, or holds a character that no key has (a quote?)"
            )
        is_probe = operation == "probe"  # its URL may be another machine's
        started = self._clock.monotonic()
        response = self._http.send(
            request.method,
            request.path if is_probe else f"{self._base_url}{request.path}",
            by=by,
            max_body=MAX_PAGE_BODY if operation == "list" else MAX_BODY,
            headers=header.of(credential),
            body=request.body,
            upstream=None if is_probe else self.upstream,
        )
        self._context.meter(operation, response.outcome, self._clock.monotonic() - started)
        if isinstance(response, Response):
            kind, wait = response.headers.get("content-type", ""), response.headers.get("retry-after", "")
            return Answer(response.status, kind, wait, credential, response.body, response.flaw)
        words = quoted(response.reason, credential.reveal())
        if response.at_proxy:
            raise errors.unproxied(words, response.proxy_status)
        if not response.was_sent:
            raise errors.unreached(words)
        if response.outcome == TIMEOUT:
            raise errors.unsettled(operation, f"did not answer in time ({self._limits})")
        raise errors.unsettled(operation, f"did not answer, for the connection broke ({words})")
