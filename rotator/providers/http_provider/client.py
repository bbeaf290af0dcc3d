"""A provider whose requests and answers a description defines."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from math import floor

from rotator.config.provider_settings import ProviderSettings
from rotator.config.provider_type import ProviderContext
from rotator.core.keys import CreatedKey, ListedKey, ProviderKey, UnreadableKey
from rotator.core.target import KeyParameters
from rotator.core.times import timestamp
from rotator.core.use import CapUse, KeyUse
from rotator.providers.answers import (
    Answer,
    Content,
    cap_use,
    counted_down,
    created_key,
    is_id,
    key_use,
    shown,
    shown_key,
)
from rotator.providers.client import ApiProvider
from rotator.providers.http_provider import paging
from rotator.providers.http_provider.description import Description, Operation
from rotator.providers.http_provider.tables import CapUseSettings, GoneAnswer
from rotator.providers.http_provider.templates import PARAMETER, Values
from rotator.providers.request import Request

_SHORTEST = 1  # seconds: 0 is never for some providers


class HttpProvider(ApiProvider):
    """Issues keys with the requests of a description."""

    def __init__(self, settings: ProviderSettings, context: ProviderContext, description: Description) -> None:
        self._described = description
        first_page = self._listing(paging.first(description.paging))
        super().__init__(settings, context, description.traits, first_page, description.header)

    def create(self, name: str, parameters: KeyParameters, expires_at: datetime) -> CreatedKey:
        """Create one key. Sent once, unless it is refused for a credential that was replaced since."""
        described, operation = self._described, self._described.create
        options = {f"{PARAMETER}{option}": value for option, value in parameters.items()}
        answer = self._send("create", operation, {"name": name, **self._expiry(expires_at), **options})
        content = self.content("create", answer)
        entry = operation.entry.of(content)
        key, text = self._key(entry), described.answer.key.of(content)
        if answer.credential.reveal() in (text, key.id):
            raise self.errors.unsettled("create", "gave the management credential back as the new key")
        if not self._is_gone(entry) and (created := created_key(key, text)):
            return created
        where = f"id ({described.answer.id} of {operation.entry}) and key ({described.answer.key})"
        raise self.errors.unsettled("create", f"gave an answer without a usable {where}")

    def pages(self, before: Callable[[], object]) -> Iterator[Sequence[ListedKey]]:
        """Yield every unrevoked key, a page at a time; where the list holds ids, a key at a time."""
        reading = _Reading(paging.first(self._described.paging))
        pages = self.list_pages(before, partial(self._keys_on, reading), partial(self._after, reading))
        if not self._described.ids_only:
            yield from pages
            return
        for page in pages:
            for key in page:
                if looked_up := self._looked_up(key, before):
                    yield [looked_up]

    def retrieve(self, key_id: str) -> ProviderKey | None:
        """Return one key, by the list if the provider cannot show one alone."""
        operation = self._described.retrieve
        if not is_id(key_id):
            return None
        if operation is None:
            return self.found(key_id)
        answer = self._send("retrieve", operation, {"id": key_id})
        if answer.is_gone:
            return None
        key = self._shown("retrieve", key_id, operation, self.content("retrieve", answer))
        if key is None or isinstance(key, ProviderKey):
            return key
        raise self.errors.unsettled("retrieve", f"answered with a key that cannot be read ({key})")

    def set_expiry(self, key_id: str, expires_at: datetime) -> ProviderKey | None:
        """Change the expiry. Any 2xx means that it was changed. An answer that cannot be read shows no expiry."""
        operation = self._described.expire
        if operation is None:
            return super().set_expiry(key_id, expires_at)
        if not is_id(key_id):
            return None
        answer = self._send("update", operation, {"id": key_id, **self._expiry(expires_at)})
        if answer.is_gone:
            return None
        key = self._shown("update", key_id, operation, answer.parsed())
        return key if key is None or isinstance(key, ProviderKey) else ProviderKey(key_id, "", None)

    def delete(self, key_id: str) -> None:
        """Revoke the key. Any 2xx is a success, whatever its body."""
        if is_id(key_id):
            self._send("delete", self._described.delete, {"id": key_id})

    # --- requests ----------------------------------------------------------------------------------------------------

    def _send(self, name: str, operation: Operation, values: Values) -> Answer:
        request = operation.request({**self._described.variables, **values})
        return self.call(name, request.method, request.path, request.body, partial(_shows_gone, operation.gone))

    def _listing(self, values: Values) -> Request:
        return self._described.list.request({**self._described.variables, **values})

    def _expiry(self, expires_at: datetime) -> Values:
        left = max(_SHORTEST, floor((expires_at - self._clock.now()).total_seconds()))
        return {
            "expires_at": timestamp(expires_at),
            "expires_unix": int(expires_at.timestamp()),
            "ttl_seconds": left,
            "ttl": f"{left}s",
        }

    # --- lists -------------------------------------------------------------------------------------------------------

    def _keys_on(self, reading: "_Reading", page: Content) -> list[ListedKey]:
        entries = self._described.entries.list_in(page)
        if entries is None:
            raise self.errors.unsettled("list", f"gave an answer that holds no list at {self._described.entries}")
        reading.entries = entries
        if self._described.ids_only:
            return [shown_key(_id_text(entry), None, None) for entry in entries]
        return [self._key(entry) for entry in entries if not self._is_gone(entry)]

    def _after(self, reading: "_Reading", page: Content) -> Request | None:
        following = paging.after(self._described.paging, reading.values, page, reading.entries)
        if isinstance(following, paging.Unclear):
            raise self.errors.unsettled("list", f"gave an answer that {following.flaw}")
        if following is None or isinstance(following, str):
            return self.next_page(following) if following else None
        reading.values = following
        return self._listing(following)

    def _looked_up(self, key: ListedKey, before: Callable[[], object]) -> ListedKey | None:
        operation = self._described.retrieve
        if operation is None or not isinstance(key, ProviderKey):
            return key
        request = operation.request({**self._described.variables, "id": key.id})
        answer = self.look_up(request, before, partial(_shows_gone, operation.gone))
        return None if answer.is_gone else self._shown("retrieve", key.id, operation, answer.parsed())

    # --- keys --------------------------------------------------------------------------------------------------------

    def _shown(self, name: str, key_id: str, operation: Operation, content: object) -> ListedKey | None:
        """Return the key that an answer about `key_id` shows; None if it shows that the key is revoked."""
        entry = operation.entry.of(content)
        found = self._id_in(entry) if operation.id is None else _id_text(operation.id.of(content))
        key = self._key(entry, found)
        if key.id and key.id != key_id:
            raise self.errors.unsettled(name, "answered with another key than it was asked about")
        return None if self._is_gone(entry) else key

    def _is_gone(self, entry: object) -> bool:
        return any(condition.holds_for(entry) for condition in self._described.gone)

    def _id_in(self, entry: object) -> object:
        return _id_text(self._described.answer.id.of(entry))

    def _key(self, entry: object, key_id: object = None) -> ListedKey:
        """Return the key that an entry shows; `key_id` is its id where that stands elsewhere."""
        answer = self._described.answer
        if not isinstance(entry, dict):
            return UnreadableKey("", "", f"which is {shown(entry)}")
        created_at = answer.created_at.of(entry) if answer.created_at else None
        expiry, called = self._shown_expiry(entry)
        found = self._id_in(entry) if key_id is None else key_id
        return shown_key(found, answer.name.of(entry), expiry, created_at, called, self._use(entry))

    def _use(self, entry: object) -> KeyUse | None:
        answer = self._described.answer
        caps = [_cap_use(cap, shown, entry) for cap, shown in answer.use.items()]
        last_used_at = answer.last_used_at.of(entry) if answer.last_used_at else None
        return key_use(caps, last_used_at, self._clock.now())

    def _shown_expiry(self, entry: object) -> tuple[object, str]:
        answer = self._described.answer
        moment = answer.expires_at.of(entry) if answer.expires_at else None
        if moment is not None or answer.expires_in is None:
            return moment, str(answer.expires_at)
        seconds = answer.expires_in.of(entry)
        if isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 < seconds < _LONGEST:
            return timestamp(self._clock.now() + timedelta(seconds=seconds)), str(answer.expires_in)
        return str(seconds) if seconds else None, str(answer.expires_in)


def _cap_use(cap: str, shown: CapUseSettings, entry: object) -> CapUse | None:
    used = shown.used.of(entry) if shown.used else None
    limit = shown.limit.of(entry) if shown.limit else None
    if used is None and shown.left:
        used = counted_down(limit, shown.left.of(entry))
    return cap_use(cap, used, limit)


_LONGEST = 1e10  # seconds: 300 years


@dataclass(slots=True)
class _Reading:
    """How far a list has been read."""

    values: Values
    entries: Sequence[object] = field(default_factory=tuple)


def _shows_gone(gone: tuple[GoneAnswer, ...], answer: Answer) -> bool:
    of_status = [one for one in gone if one.status == answer.status]
    parsed = answer.parsed() if of_status else None
    return any(one.when is None or one.when.holds_for(parsed) for one in of_status)


def _id_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value
