"""Respan's temporary-keys API as a `Provider`: its HTTP, its traps, and its errors as ours.

What the vendor's references leave open is accepted in every shape that they show; what is said here of "the vendor" is
from the pages create, list, retrieve, update and delete under "Temporary API Keys". Nothing is decided here about
targets, and nothing is logged. No exception that leaves this module holds a key, nor one of httpx's, whose request
does: errors are raised outside of the `except` that saw theirs, so that not even `__context__` leads there.
"""

import json
import math
import re
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from urllib.parse import quote

import httpcore
import httpx
import stamina

from rotator import __version__
from rotator.errors import (
    ProviderCredentialRefused,
    ProviderError,
    ProviderOutcomeUnknown,
    ProviderRateLimited,
    ProviderRequestRefused,
    ProviderUnavailable,
)
from rotator.model import CreatedKey, KeyParameters, Secret, VendorKey, timestamp
from rotator.ports import Clock, Meter

MAX_BODY = 1024 * 1024  # bytes
MAX_PAGES = 1000
MAX_QUOTE = 200  # characters of the vendor's words in a message
MAX_ID = 300  # characters

_ASKED_TO = {
    "create": "create a key",
    "list": "list the keys",
    "retrieve": "look up a key",
    "update": "change a key's expiry",
    "delete": "delete a key",
}
_READS = frozenset({"list", "retrieve"})
_NOTHING_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_USABLE_KEY = re.compile(r"[!#-&(-\[\]-~]+")  # printable ASCII; no quote and no backslash, which a repr would change
_TITLE = re.compile(r"<title[^>]*>([^<]*)", re.IGNORECASE)
_retrying = stamina.RetryingCaller(attempts=3, timeout=None, wait_initial=0.2, wait_max=1.0, wait_jitter=0.3)


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    content_type: str
    retry_after: str
    body: bytes | None = field(repr=False)  # None: it did not arrive whole, and `trouble` says why
    trouble: str


class RespanProvider:
    """Issues keys through Respan.

    `name` is the provider's in the configuration. `organisation_key` is called at the first use and its result kept;
    after a refusal it is called again, and if it then gives another key the refused request is repeated once with that.
    What it raises is passed on. `connections` is how many threads call at once. `timeout` is for each read, in seconds,
    `deadline` for a whole call (a page is a call); only the look-up of the host's name is not bounded by them, and a
    host of several addresses is given `timeout` for each. `rate_limited` is told the seconds after every 429.

    Of the environment nothing is used: no proxy, no netrc, no SSL_CERT_FILE. Certificates are checked against certifi's.
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
        connections: int,
        timeout: float = 10.0,
        deadline: float = 30.0,
    ) -> None:
        self._name = name
        self._base_url = base_url.rstrip("/")
        self._keys_url = f"{self._base_url}/api/temporary-keys/"
        self._organisation_key = organisation_key
        self._clock = clock
        self._meter = meter
        self._rate_limited = rate_limited
        self._timeout = timeout
        self._deadline = deadline
        self._key: Secret | None = None
        self._key_lock = threading.Lock()
        self._until = _Until(clock)
        self._client = httpx.Client(
            transport=_Transport(connections, self._until),
            timeout=timeout,
            trust_env=False,
            follow_redirects=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            # Not compressed: a small answer cannot become a huge one.
            headers={
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "User-Agent": f"rotator/{__version__}",
            },
        )

    def close(self) -> None:
        """End all connections."""
        self._client.close()

    def reread_key(self) -> None:
        """Take the organisation key from its source again. Raises what that raises; the old one is kept then."""
        with self._key_lock:
            self._key = self._organisation_key()

    # --- the port ----------------------------------------------------------------------------------------------------

    def create(self, name: str, parameters: KeyParameters, expires_at: datetime) -> CreatedKey:
        """Create one key. Sent once, but for an organisation key that was refused and has been replaced since."""
        body = {"name": name, "expiry_date": timestamp(expires_at), **parameters.asked()}
        answer = self._call("create", "POST", self._keys_url, self._clock.monotonic() + self._deadline, body)
        entry = self._content("create", answer)
        if isinstance(entry, dict):
            key, text = _vendor_key(entry), entry.get("api_key")
            if key and isinstance(text, str) and text and text.isprintable():
                return CreatedKey(key.id, Secret(text), key.expires_at)
        raise self._not_finished("create", f"gave an answer without a usable id, key and expiry ({answer.status})")

    def pages(self) -> Iterator[Sequence[VendorKey]]:
        """Every unrevoked key. A page may be a bare array; `count` is of one page only, and so of no use."""
        url = self._keys_url
        seen = {url}
        while True:
            page = self._read("list", url)
            entries = page.get("results") if isinstance(page, dict) else page
            if not isinstance(entries, list):
                raise self._not_finished("list", "gave an answer that holds no list")
            unrevoked = [entry for entry in entries if not _is_revoked(entry)]
            keys = [key for entry in unrevoked if (key := _vendor_key(entry))]
            if len(keys) < len(unrevoked):
                raise self._not_finished("list", "listed a key without a usable id and expiry")
            yield keys
            following = page.get("next") if isinstance(page, dict) else None
            if not following:
                return
            url = self._next_url(url, following)
            if url in seen:
                raise self._not_finished("list", "sent us round in a circle from page to page")
            if len(seen) == MAX_PAGES:
                raise self._not_finished("list", f"has more than {MAX_PAGES} pages to show")
            seen.add(url)

    def retrieve(self, key_id: str) -> VendorKey | None:
        """One key. A deleted one is answered with 404 or as revoked; that it is shown as ever is possible, too."""
        if not _is_id(key_id):
            return None
        entry = self._read("retrieve", self._key_url(key_id))
        if entry is None or _is_revoked(entry):
            return None
        if key := _vendor_key(entry):
            return key
        raise self._not_finished("retrieve", "gave an answer without a usable id and expiry")

    def set_expiry(self, key_id: str, expires_at: datetime) -> bool:
        """Change the expiry alone: the limits would need a permission that an organisation key lacks."""
        if not _is_id(key_id):
            return False
        until = self._clock.monotonic() + self._deadline
        answer = self._call("update", "PATCH", self._key_url(key_id), until, {"expiry_date": timestamp(expires_at)})
        return answer.status != httpx.codes.NOT_FOUND and not _is_revoked(_parsed(answer.body))

    def delete(self, key_id: str) -> None:
        """Revoke the key; any 2xx will do, whatever its body."""
        if _is_id(key_id):
            self._call("delete", "DELETE", self._key_url(key_id), self._clock.monotonic() + self._deadline)

    # --- one call ----------------------------------------------------------------------------------------------------

    def _read(self, operation: str, url: str) -> dict[str, object] | list[object] | None:
        """The JSON that a GET gives, or None for a 404. Tried up to three times, within one deadline."""
        until = self._clock.monotonic() + self._deadline

        def once() -> dict[str, object] | list[object] | None:
            answer = self._call(operation, "GET", url, until)
            return None if answer.status == httpx.codes.NOT_FOUND else self._content(operation, answer)

        return _retrying(lambda error: isinstance(error, ProviderUnavailable) and self._clock.monotonic() < until, once)

    def _call(self, operation: str, method: str, url: str, until: float, body: object = None) -> _Answer:
        """An answer of 2xx, or the 404 of a key that is gone; all others are raised as errors."""
        with self._key_lock:
            key = self._key = self._key or self._organisation_key()
        answer = self._exchange(operation, method, url, key, until, body)
        if answer.status in (401, 403):
            with self._key_lock:
                if self._key == key:  # else another thread has asked already
                    self._key = self._organisation_key()
                fresh = self._key
            if fresh != key:
                # What was refused was not done, so that even a create may be repeated.
                key = fresh
                answer = self._exchange(operation, method, url, key, until, body)
        gone = answer.status == httpx.codes.NOT_FOUND and operation not in ("create", "list")
        if 200 <= answer.status < 300 or gone:
            return answer
        raise self._refusal(operation, answer, key)

    def _exchange(self, operation: str, method: str, url: str, key: Secret, until: float, body: object) -> _Answer:
        """Send one request. Returns what came back if a status did. Raises `ProviderError` if none came."""
        if not _USABLE_KEY.fullmatch(key.reveal()):
            raise ProviderCredentialRefused(
                "the organisation key holds characters that no key has (a line's end, a space, a quote?); "
                "it was not sent",
                self._credential_advice(),
            )
        answer: _Answer | None = None
        failure: httpx.HTTPError | None = None
        outcome = ""
        started = self._clock.monotonic()
        self._until.monotonic = until
        try:
            authorization = {"Authorization": f"Bearer {key.reveal()}"}
            with self._client.stream(method, url, headers=authorization, json=body) as response:
                outcome = str(response.status_code)
                headers = (response.headers.get("content-type", ""), response.headers.get("retry-after", ""))
                answer = _Answer(response.status_code, *headers, None, "the rest of its answer did not come")
                content = b""
                for chunk in response.iter_raw():
                    content += chunk
                    if len(content) > MAX_BODY:
                        answer = _Answer(response.status_code, *headers, None, f"its answer is over {MAX_BODY} bytes")
                        break
                else:
                    answer = _Answer(response.status_code, *headers, content, "")
        except httpx.HTTPError as error:
            failure = error
            outcome = "timeout" if isinstance(error, httpx.TimeoutException) else "connection"
        self._meter(operation, outcome, self._clock.monotonic() - started)
        if answer is not None:
            return answer
        words = _quoted(str(failure), key.reveal())
        if isinstance(failure, _NOTHING_SENT):
            raise self._not_reached(words)
        if isinstance(failure, httpx.TimeoutException):
            limits = f"{self._timeout:g} s for each part, {self._deadline:g} s in all"
            raise self._not_finished(operation, f"did not answer in time ({limits})")
        raise self._not_finished(operation, f"did not answer: the connection broke ({words})")

    def _content(self, operation: str, answer: _Answer) -> dict[str, object] | list[object]:
        parsed = _parsed(answer.body)
        if parsed is not None:
            return parsed
        what = answer.trouble or _page(answer) or "it is not the JSON that was to be expected"
        raise self._not_finished(operation, f"answered {answer.status}, but {what}")

    # --- addresses ---------------------------------------------------------------------------------------------------

    def _key_url(self, key_id: str) -> str:
        # One segment, whatever is in it: an older id holds $ + / and =.
        return f"{self._keys_url}{quote(key_id, safe='')}/"

    def _next_url(self, url: str, following: object) -> str:
        """Where the next page is; only at the configured place, for the organisation key goes there too."""
        try:
            found = httpx.URL(url).join(str(following))
            home = httpx.URL(self._base_url)
            same = (found.scheme, found.host, found.port, found.userinfo) == (home.scheme, home.host, home.port, b"")
        except (httpx.InvalidURL, ValueError):
            same = False
        if same:
            return str(found)
        raise ProviderUnavailable(
            "Respan's list goes on at another address than base_url's, where the organisation key is not sent: "
            "the list is not complete",
            f'Compare base_url of provider "{self._name}" ({self._base_url}) with the address that Respan, or a proxy '
            "in front of it, takes itself to have: scheme, host and port must be the same.",
        )

    # --- errors ------------------------------------------------------------------------------------------------------

    def _refusal(self, operation: str, answer: _Answer, key: Secret) -> ProviderError:
        """What an answer with this status means."""
        status, words = answer.status, _vendors_words(answer, key)
        said = f"{status}: {words}" if words else f"{status}"
        asked = _ASKED_TO[operation]
        if status in (401, 403):
            return ProviderCredentialRefused(
                f"Respan refused the organisation key ({said}), asked to {asked}", self._credential_advice()
            )
        if status == httpx.codes.TOO_MANY_REQUESTS:
            seconds = _retry_after(answer, self._clock.now())
            self._rate_limited(seconds)
            return ProviderRateLimited(
                f"Respan was asked too much ({said}) and did not {asked}; it is left in peace for {seconds:g} s",
                seconds,
            )
        if status >= 500 or status in (100, 101, httpx.codes.REQUEST_TIMEOUT):
            return self._not_finished(operation, f"answered {said}")
        if status < 400:
            return ProviderRequestRefused(
                f"Respan answered {status}, a redirect, asked to {asked}; it was not followed, for the organisation key "
                "would have gone with it",
                f'Set base_url of provider "{self._name}" ({self._base_url}) to the address where Respan itself answers, '
                "and look for a proxy that redirects.",
            )
        return ProviderRequestRefused(
            f"Respan refused to {asked} ({said})",
            f'Asking again as it is will not help. Look at base_url of provider "{self._name}" ({self._base_url}) if it '
            "is a 404 or a page of HTML, else at the ttl and the key parameters of the target.",
        )

    def _not_finished(self, operation: str, what: str) -> ProviderError:
        """Something was sent and not settled: a read just failed, of a change nobody knows."""
        asked = _ASKED_TO[operation]
        advice = (
            f"If it does not end by itself, look at Respan's status and at what is between here and {self._base_url}."
        )
        if operation in _READS:
            return ProviderUnavailable(
                f"Respan {what}, asked to {asked}: nothing is known, and nothing changed", advice
            )
        return ProviderOutcomeUnknown(
            f"Respan {what}, asked to {asked}: whether it was done is not known", f"It is found out. {advice}"
        )

    def _not_reached(self, words: str) -> ProviderUnavailable:
        _, mark, why = words.partition("certificate verify failed: ")
        if mark:
            return ProviderUnavailable(
                f"The TLS certificate shown at {self._base_url} is not trusted ({why}); nothing was sent",
                "Look at this machine's clock and at base_url, and for a proxy that opens TLS. An expired certificate "
                "of Respan's own can only be mended by Respan.",
            )
        return ProviderUnavailable(
            f"Respan cannot be reached at {self._base_url} ({words}); nothing was sent",
            f'Look at base_url of provider "{self._name}", at DNS, and at the network policy for what leaves here.',
        )

    def _credential_advice(self) -> str:
        return (
            f'Every target of provider "{self._name}" waits. Put a valid key where its api_key points to: it is read '
            "again after each refusal, without a restart."
        )


# --- what the vendor says ----------------------------------------------------------------------------------------------


def _parsed(body: bytes | None) -> dict[str, object] | list[object] | None:
    """An object or an array, or None when the body is anything else."""
    try:
        value = json.loads(body or b"")
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict | list) else None


def _is_id(value: object) -> bool:
    """Could it be an id, and one that no server or proxy takes for a way to another path?"""
    return (
        isinstance(value, str)
        and 0 < len(value) <= MAX_ID
        and value.isprintable()
        and not {".", ".."} & set(re.split(r"[/\\]", value))
    )


def _is_revoked(entry: object) -> bool:
    return isinstance(entry, dict) and entry.get("revoked") is True


def _vendor_key(entry: object) -> VendorKey | None:
    """Only the id is required, and all other fields come and go; None without a usable id, or with a strange expiry."""
    if not isinstance(entry, dict) or not _is_id(entry.get("id")):
        return None
    name, expiry = entry.get("name"), entry.get("expiry_date")
    try:
        expires_at = datetime.fromisoformat(expiry) if expiry else None
        if expires_at:
            expires_at = (expires_at if expires_at.tzinfo else expires_at.replace(tzinfo=UTC)).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        return None
    return VendorKey(entry["id"], _escaped(name) if isinstance(name, str) else "", expires_at)


def _retry_after(answer: _Answer, now: datetime) -> float:
    """Seconds; the vendor has them in the body, others in the header, as a number or as a date."""
    parsed = _parsed(answer.body)
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


def _vendors_words(answer: _Answer, key: Secret) -> str:
    """Why it was refused, as far as the vendor said so: its `detail` and `errors`, never anything else of the body."""
    parsed = _parsed(answer.body)
    if not isinstance(parsed, dict):
        return _quoted(answer.trouble or _page(answer), key.reveal())
    words = [parsed.get("detail")]
    errors = parsed.get("errors")
    for name, messages in errors.items() if isinstance(errors, dict) else ():
        words += [f"{name}: {text}" for text in (messages if isinstance(messages, list) else [messages])]
    return _quoted("; ".join(text for text in words if isinstance(text, str)), key.reveal(), parsed.get("api_key"))


def _page(answer: _Answer) -> str:
    """What there is to say of an answer that is a page of HTML; empty when it is none."""
    text = (answer.body or b"")[:4096].decode(errors="replace")
    if "html" not in answer.content_type.lower() and not text.lstrip().lower().startswith(("<!doctype", "<html")):
        return ""
    title = _TITLE.search(text)
    return f'an HTML page (a proxy?): "{title[1].strip()}"' if title else "an HTML page (a proxy?)"


def _quoted(text: str, *secrets: object) -> str:
    """Somebody else's words for a message: without these secrets, on one line, and not too long."""
    for secret in secrets:
        if isinstance(secret, str) and secret:
            text = text.replace(secret, "(hidden)")
    return _escaped(text if len(text) <= MAX_QUOTE else f"{text[:MAX_QUOTE]}…")


def _escaped(text: str) -> str:
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


# --- the network, until a deadline -------------------------------------------------------------------------------------


class _Until(threading.local):
    """The monotonic second by which this thread's call must be over."""

    monotonic = 0.0

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def left(self, timeout: float | None, late: type[httpcore.TimeoutException]) -> float:
        """`timeout`, or what is left of the call where that is less; raises `late` when nothing is."""
        seconds = self.monotonic - self._clock.monotonic()
        if seconds <= 0:
            raise late("the deadline of the whole call")
        return seconds if timeout is None else min(timeout, seconds)


class _Transport(httpx.HTTPTransport):
    """httpx's own over a network that knows the deadline: its timeouts are for one read, and drips take for ever."""

    def __init__(self, connections: int, until: _Until) -> None:
        context = httpx.create_ssl_context(trust_env=False)
        super().__init__(verify=context)
        self._pool = httpcore.ConnectionPool(
            ssl_context=context,
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=5.0,
            network_backend=_Network(until),
        )


class _Network(httpcore.SyncBackend):
    def __init__(self, until: _Until) -> None:
        self._until = until

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        left = self._until.left(timeout, httpcore.ConnectTimeout)
        return _Stream(super().connect_tcp(host, port, left, local_address, socket_options), self._until)


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream, until: _Until) -> None:
        self._stream = stream
        self._until = until

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._until.left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._until.left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = self._until.left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, left), self._until)

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)
