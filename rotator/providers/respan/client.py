"""Respan's temporary-keys API as a `Provider`; `responses` reads its answers."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from functools import cache, partial

from rotator.config.provider_type import ProviderContext
from rotator.core.errors import ProviderError
from rotator.core.keys import CreatedKey, ListedKey, ProviderKey
from rotator.core.target import KeyParameters
from rotator.core.times import timestamp
from rotator.core.use import CapUse
from rotator.providers.answers import Answer, Content, created_key, is_id
from rotator.providers.client import ApiProvider
from rotator.providers.request import Request, segment, with_query
from rotator.providers.respan.responses import PolicyUse, is_about, is_revoked, listed_key, policy_use, with_policies
from rotator.providers.respan.settings import TRAITS, RespanSettings

LIST_PATH = "/api/temporary-keys/"
POLICIES_PATH = "/api/limit-policies/"
MAX_POLICY_PAGES = 100


class RespanProvider(ApiProvider):
    """Issues keys through Respan."""

    def __init__(self, settings: RespanSettings, context: ProviderContext) -> None:
        reads = {"policies": "list the limit policies"}
        super().__init__(settings, context, TRAITS, Request("GET", LIST_PATH), reads=reads)
        self._reads_policies = settings.limit_policies

    def create(self, name: str, parameters: KeyParameters, expires_at: datetime) -> CreatedKey:
        """Create one key. Sent once, unless it is refused for a credential that was replaced since."""
        body = {"name": name, "expiry_date": timestamp(expires_at), **parameters}
        entry = self.content("create", self.call("create", "POST", LIST_PATH, body))
        if isinstance(entry, dict) and (key := created_key(self._key(entry), entry.get("api_key"))):
            return key
        raise self.errors.unsettled("create", "gave an answer without a usable id, key and expiry")

    def pages(self, before: Callable[[], object]) -> Iterator[Sequence[ListedKey]]:
        """Yield every unrevoked key. A bare array is a single page; `count` counts one page only, so it is not used."""
        # Read once, after the first page: an account whose list fails is asked for nothing more.
        policies = cache(partial(self._policies, before)) if self._reads_policies else dict[str, dict[str, CapUse]]
        return self.list_pages(before, lambda page: self._keys_on(page, policies()), self._after)

    def _policies(self, before: Callable[[], object]) -> PolicyUse:
        """Return what policies show of keys' use. An error leaves it unknown: it must not end the list of keys."""
        found: dict[str, dict[str, CapUse]] = {}
        with suppress(ProviderError):
            for key_id, use in filter(None, map(policy_use, self._policy_entries(before))):
                of_key = found.setdefault(key_id, {})
                known = of_key.setdefault(use.cap, use)
                if use.limit is not None and (known.limit is None or use.limit < known.limit):
                    of_key[use.cap] = use
        return found

    def _policy_entries(self, before: Callable[[], object]) -> Iterator[object]:
        previous: object = None
        for number in range(1, MAX_POLICY_PAGES + 1):
            request = Request("GET", with_query(POLICIES_PATH, {"page": number, "page_size": 100}))
            page = self.look_up(request, before, operation="policies").parsed()
            entries = page.get("results") if isinstance(page, dict) else page
            if not isinstance(entries, list) or entries == previous:  # a server may ignore which page it is asked for
                return
            yield from entries
            if not isinstance(page, dict) or not page.get("next"):
                return
            previous = entries

    def _keys_on(self, page: Content, policies: PolicyUse) -> list[ListedKey]:
        entries = page.get("results") if isinstance(page, dict) else page
        if not isinstance(entries, list):
            raise self.errors.unsettled("list", "gave an answer that holds no list")
        return [with_policies(self._key(entry), policies) for entry in entries if not is_revoked(entry)]

    def _after(self, page: Content) -> Request | None:
        following = page.get("next") if isinstance(page, dict) else None
        if not isinstance(following, str | None):
            raise self.errors.unsettled("list", "gave an answer that does not show whether there is another page")
        return self.next_page(following) if following else None

    def retrieve(self, key_id: str) -> ProviderKey | None:
        """Return one key. A text that cannot be an id is not sent, here and in the next two: no key has it."""
        if not is_id(key_id):
            return None
        answer = self.call("retrieve", "GET", _path(key_id))
        if answer.is_gone:
            return None
        entry = self.content("retrieve", answer)
        self._must_be_about(key_id, "retrieve", entry)
        if is_revoked(entry):
            return None
        if isinstance(key := self._key(entry), ProviderKey):
            return key
        raise self.errors.unsettled("retrieve", f"answered with a key that cannot be read ({key})")

    def set_expiry(self, key_id: str, expires_at: datetime) -> ProviderKey | None:
        """Change the expiry alone: an organisation key may not change the limits.

        Any 2xx means that it was changed. An answer that cannot be read shows no expiry.
        """
        if not is_id(key_id):
            return None
        answer: Answer = self.call("update", "PATCH", _path(key_id), {"expiry_date": timestamp(expires_at)})
        entry = answer.parsed()
        self._must_be_about(key_id, "update", entry)
        if answer.is_gone or is_revoked(entry):
            return None
        key = self._key(entry)
        return key if isinstance(key, ProviderKey) else ProviderKey(key_id, "", None)

    def delete(self, key_id: str) -> None:
        """Revoke the key. Any 2xx is a success, whatever its body."""
        if is_id(key_id):
            self.call("delete", "DELETE", _path(key_id))

    def _key(self, entry: object) -> ListedKey:
        return listed_key(entry, self._clock.now())

    def _must_be_about(self, key_id: str, operation: str, entry: object) -> None:
        if not is_about(entry, key_id):
            raise self.errors.unsettled(operation, "answered with another key than it was asked about")


def _path(key_id: str) -> str:
    return f"{LIST_PATH}{segment(key_id)}/"
