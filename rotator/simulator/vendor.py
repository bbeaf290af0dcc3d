"""The simulated vendor's state: keys, organisation keys and limits. No HTTP: that is `api.py` and `wire.py`.

Thread-safe. A caller may hold the lock around several calls to make them one consistent step. Time comes from `now`
alone. The behaviour follows the pages create, list, retrieve, update and delete of the vendor's reference.
"""

import base64
import hashlib
import math
import secrets
import threading
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Literal

from rotator.simulator.options import Options
from rotator.simulator.policies import Policy, of_life, specified
from rotator.simulator.use import EPOCH, Counter

Json = dict[str, object]
Where = Literal["create", "list", "retrieve"]

LIMITS = ("max_usage", "rate_limit", "spending_limit", "limit_policies")
MINUTE = timedelta(minutes=1)


class Refusal(Exception):
    """The vendor's error: its `status` and its JSON `body`."""

    def __init__(self, status: int, detail: str, **more: object) -> None:
        super().__init__(detail)
        self.status = status
        self.body: Json = {"detail": detail, **more}


@dataclass(frozen=True, slots=True)
class Key:
    """One temporary key's record at one moment. Its repr lacks the text."""

    id: str
    text: str = field(repr=False)
    name: str
    prefix: str
    created_at: datetime
    expiry_date: datetime | None = None  # create: without one, the key never expires
    max_usage: int = -1
    rate_limit: int | None = None
    spending_limit: float | None = None
    is_test: bool = False
    key_usage: int = 0  # all calls, whatever answers show
    last_used: datetime | None = None
    revoked_at: datetime | None = None

    def alive(self, now: datetime) -> bool:
        """Return whether the gateway would accept it, apart from its usage."""
        return self.revoked_at is None and (self.expiry_date is None or now < self.expiry_date)

    def fingerprint(self) -> str:
        """Return the first 16 hex digits of its text's SHA-256: enough to distinguish keys."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


def utc_now() -> datetime:
    """Return the wall clock."""
    return datetime.now(UTC)


def timestamp(at: datetime | None) -> str | None:
    """Return a time in the vendor's format: ISO 8601 in UTC with a Z."""
    return None if at is None else at.astimezone(UTC).isoformat().replace("+00:00", "Z")


class Vendor:
    """The keys of one organisation. Methods raise `Refusal` where the vendor answers with an error."""

    def __init__(self, options: Options, now: Callable[[], datetime] = utc_now) -> None:
        self.options = options
        self.now = now
        self.lock = threading.RLock()
        self.organisation_keys: set[str] = set()  # the accepted ones; callers may change it
        self._keys: dict[str, Key] = {}  # oldest first; deleted ones stay: delete "retains the key record"
        self._id_of_text: dict[str, str] = {}
        self._admitted: deque[datetime] = deque()  # the requests of the last minute
        self._used: dict[str, deque[datetime]] = {}  # the calls of the last minute, by id, of keys with a rate_limit
        self._counters: dict[str, Counter] = {}  # by id
        self._policies: dict[str, list[Policy]] = {}  # by id

    # --- for tests and demos ---

    @property
    def keys(self) -> dict[str, Key]:
        """Return every record by id, oldest first, with deleted ones."""
        with self.lock:
            return dict(self._keys)

    def find(self, key_id: str) -> Key | None:
        """Return one record by id, even if clients cannot see it."""
        return self._keys.get(key_id)

    def text_of(self, key_id: str) -> str:
        """Return a key's text, for leak scans. Raises KeyError."""
        return self._keys[key_id].text

    def key_of(self, text: str) -> Key | None:
        """Return the record of the key with this text."""
        with self.lock:
            key_id = self._id_of_text.get(text)
            return None if key_id is None else self._keys[key_id]

    def works(self, text: str) -> bool:
        """Return whether the gateway would accept this key now. Counts no use."""
        key = self.key_of(text)
        return key is not None and key.alive(self.now())

    # --- the vendor's operations ---

    def is_organisation(self, token: str | None) -> bool:
        """Return whether this is an accepted organisation key."""
        with self.lock:
            return token in self.organisation_keys

    def admit(self, token: str | None) -> None:
        """Authenticate one request and count it. Refuses with 401 or 403, and over the minute's limit with 429."""
        with self.lock:
            if token is None or token not in self.organisation_keys:
                if token is not None and self.works(token):
                    raise Refusal(403, "You do not have permission to perform this action.")
                raise Refusal(self.options.auth_status, "Invalid or missing API key.")
            if self.options.requests_per_minute is None:
                return
            now = self.now()
            _count(self._admitted, now, self.options.requests_per_minute)

    def create(self, body: Mapping[str, object]) -> Key:
        """Create a key (page create). Fields are optional, unknown ones are ignored, and no request is idempotent."""
        changes = self._checked(body)
        prefix = secrets.token_hex(4)
        text = f"{prefix}.{secrets.token_urlsafe(32)}"
        key = Key(id=self._new_id(prefix), text=text, name="", prefix=prefix, created_at=self.now())
        key = replace(key, **{"rate_limit": self.options.plan_rate_limit, **changes})  # type: ignore[arg-type]
        counter = Counter(key.created_at, timedelta(seconds=self.options.use_period_s), self._lag)
        policies = self._made_policies(key, counter, body) if self.options.limit_policies == "on" else None
        with self.lock:
            self._keys[key.id] = key
            self._id_of_text[text] = key.id
            self._counters[key.id] = counter
            if policies is not None:
                self._policies[key.id] = policies
        return key

    def listed(self, ago: timedelta = timedelta()) -> list[Key]:
        """Return the unrevoked keys, newest first (page list), as of some time ago, because a list may lag."""
        with self.lock:
            now = self.now()
            keys = list(self._keys.values())
        seen = now - ago
        return [
            key
            for key in reversed(keys)
            if key.created_at <= seen
            and (key.revoked_at is None or key.revoked_at > seen)
            and (self.options.expired_listed or key.expiry_date is None or key.expiry_date > now)
        ]

    def retrieve(self, key_id: str) -> Key:
        """Return one key's record (page retrieve): 404 if unknown, and a deleted one by `Options.deleted`."""
        key = self.find(key_id)
        if key is None or (key.revoked_at is not None and self.options.deleted == "404"):
            raise Refusal(404, "Not found.")
        return key

    def update(self, key_id: str, body: Mapping[str, object]) -> Key:
        """Change a key's name and expiry (page update). Limits need a permission: 403. A deleted key stays deleted."""
        with self.lock:
            key = self.retrieve(key_id)
            if not self.options.limits_permission and any(limit in body for limit in LIMITS):
                raise Refusal(403, "Changing limits needs the limit_policies permission.")
            changes = self._checked({name: value for name, value in body.items() if name != "is_test"})
            key = self._keys[key_id] = replace(key, **changes)  # type: ignore[arg-type]
            return key

    def delete(self, key_id: str) -> Key:
        """Revoke a key and keep its record (page delete)."""
        with self.lock:
            key = self.retrieve(key_id)
            if key.revoked_at is None:
                key = self._keys[key_id] = replace(key, revoked_at=self.now())
            return key

    def use(self, text: str | None, calls: int = 1, usd: float | None = None) -> Key:
        """Call the gateway with a temporary key: 401 unless it is alive, an error if it has reached one of its limits.

        Refused calls are not counted. Tests may count several calls as one, and set what they cost.
        """
        with self.lock:
            key = None if text is None else self.key_of(text)
            now = self.now()
            if key is None or not key.alive(now):
                raise Refusal(401, "Invalid, revoked or expired API key.")
            counter = self._counters[key.id]
            policies = [one for one in self._policies.get(key.id, []) if one.period is not None]
            used = counter.seen(now)
            if 0 <= key.max_usage <= used.calls:
                raise Refusal(self.options.spent_status, "This key has reached its maximum usage.")
            if key.spending_limit is not None and used.usd >= key.spending_limit:
                raise Refusal(429, "This key has reached its spending limit.")
            if spent := [policy for policy in policies if policy.is_spent(now)]:
                for policy in spent:
                    policy.count_refused(now)
                raise Refusal(429, "This key has reached the cap of a limit policy.")
            if key.rate_limit is not None:
                _count(self._used.setdefault(key.id, deque()), now, key.rate_limit)
            cost = self.options.call_cost_usd * calls if usd is None else usd
            for one in (counter, *(policy.counter for policy in policies)):
                one.add(now, calls, cost)
            key = self._keys[key.id] = replace(key, key_usage=key.key_usage + calls, last_used=now)
            return key

    def policies(self) -> list[Json]:
        """Return the limit policies of all unrevoked keys, with their counters: 403 or 404 if they are not on."""
        match self.options.limit_policies:
            case "off":
                raise Refusal(404, "Not found.")
            case "refused":
                raise Refusal(403, "You do not have permission to perform this action.")
        with self.lock:
            return [
                policy.shown(self.now() - self._lag)
                for key_id, policies in self._policies.items()
                for policy in policies
                if self._keys[key_id].revoked_at is None
            ]

    def shown(self, key: Key, where: Where = "retrieve") -> Json:
        """Return a key as the vendor answers it. The answer to create is the only one with the text."""
        options = self.options
        shown: Json = {
            "id": key.id,
            "name": key.name,
            "prefix": key.prefix,
            "is_test": key.is_test,
            "expiry_date": timestamp(key.expiry_date),
            "max_usage": key.max_usage,
            "rate_limit": key.rate_limit,
            "spending_limit": key.spending_limit,
            options.created_field: timestamp(key.created_at),
        }
        if options.older_fields or (key.revoked_at is not None and options.deleted == "revoked"):
            shown["revoked"] = key.revoked_at is not None
        if options.older_fields:
            shown["is_temporary"] = True
        if where == "create":
            shown["api_key"] = key.text
            if options.limit_policies == "on":
                shown["limit_policies"] = [policy.shown(self.now()) for policy in self._policies[key.id]]
        return shown | self._shown_use(key, where)

    # --- within ---

    @property
    def _lag(self) -> timedelta:
        return timedelta(seconds=self.options.use_lag_s)

    def _shown_use(self, key: Key, where: Where) -> Json:
        options = self.options
        seen = self._counters[key.id].seen(self.now() - self._lag)
        never = EPOCH if options.never_used == "1970" else None
        is_asked = options.use_shown in (where, "everywhere")
        shown: Json = {}
        if is_asked or (where == "create" and options.use_shown != "none"):
            shown["key_usage"] = seen.calls
        if (is_asked and where != "create") or (options.older_fields and options.use_shown != "none"):
            shown |= {"last_used": timestamp(seen.last_at or never), "spending_in_period": seen.usd}
        return shown

    def _made_policies(self, key: Key, counter: Counter, body: Mapping[str, object]) -> list[Policy]:
        """Return the policies that a create asks for, and those that its limits are kept as."""
        asked = body.get("limit_policies") or []
        try:
            made = [specified(key.id, spec, self._lag) for spec in asked] if isinstance(asked, list) else []
        except (TypeError, ValueError) as error:
            errors = {"limit_policies": [str(error)]}
            raise Refusal(self.options.invalid_status, "Invalid input.", errors=errors) from None
        if key.max_usage >= 0:
            made.append(of_life(key.id, "request_count", key.max_usage, counter))
        if key.spending_limit is not None:
            made.append(of_life(key.id, "cost", key.spending_limit, counter))
        return made

    def _checked(self, body: Mapping[str, object]) -> Json:
        """Return the known fields of a create or update, or refuse with every invalid one."""
        changes: Json = {}
        errors: dict[str, list[str]] = {}
        for name, check in (
            ("name", self._name),
            ("expiry_date", self._expiry),
            ("max_usage", _integer),
            ("rate_limit", self._rate_limit),
            ("spending_limit", _number),
            ("is_test", _boolean),
        ):
            if body.get(name) is not None:
                try:
                    changes[name] = check(body[name])
                except (TypeError, ValueError, OverflowError) as error:
                    errors[name] = [str(error)]
        if errors:
            raise Refusal(self.options.invalid_status, "Invalid input.", errors=errors)
        return changes

    def _name(self, value: object) -> str:
        if not isinstance(value, str):
            raise TypeError("Not a valid string.")
        if len(value) > self.options.name_max:
            raise ValueError(f"Ensure this field has no more than {self.options.name_max} characters.")
        return value

    def _expiry(self, value: object) -> datetime:
        if not isinstance(value, str):
            raise TypeError("Datetime has wrong format. Use ISO 8601.")
        asked = datetime.fromisoformat(value)
        if asked.tzinfo is None:
            asked = asked.replace(tzinfo=UTC)
        granted = asked.astimezone(UTC) + timedelta(seconds=self.options.expiry_shift_s)
        if self.options.expiry_round_s:
            granted -= (granted - datetime.min.replace(tzinfo=UTC)) % timedelta(seconds=self.options.expiry_round_s)
        return granted

    def _rate_limit(self, value: object) -> int:
        asked = _integer(value)
        return asked if self.options.plan_rate_limit is None else self.options.plan_rate_limit

    def _new_id(self, prefix: str) -> str:
        match self.options.id_shape:
            case "tk":
                return f"tk_{secrets.token_hex(12)}"
            case "tmpkey":
                return f"tmpkey_{secrets.token_hex(12)}"
            case "prefix":
                digest = base64.b64encode(secrets.token_bytes(30)).decode()
                return f"{prefix}.pbkdf2_sha256$600000${secrets.token_hex(6)}${digest}+/="
        return str(uuid.uuid4())


def _count(calls: deque[datetime], now: datetime, limit: int) -> None:
    """Count a call in the sliding window of the last minute, or refuse it."""
    while calls and now - calls[0] >= MINUTE:
        calls.popleft()
    if len(calls) >= limit:
        wait = MINUTE - (now - calls[0]) if calls else MINUTE
        raise throttled(max(1, math.ceil(wait.total_seconds())))
    calls.append(now)


def throttled(retry_after: int) -> Refusal:
    """Return the refusal of too many requests. The body has the seconds to wait."""
    return Refusal(429, "Request was throttled.", retry_after=retry_after)


def _integer(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise TypeError("A valid integer is required.")
    return int(value)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError("A valid number is required.")
    return float(value)


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError("Must be a valid boolean.")
    return value
