"""Watches the promises from outside while a test breaks things: what Vault serves, and what the provider shows of it.

It shares no code with what it watches: it reads Vault and calls the provider's gateway as an application does, and the
simulator's records show when a key really ended. Keys' texts stay in here; reports name ids only.
"""

import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Self
from urllib.parse import unquote

import httpx

from rotator.simulator import Simulator
from support.process import wait_until
from support.vault import VaultServer

EXACT = timedelta(seconds=0.2)
"""How much earlier than recorded a key may end: there is one clock, so this covers rounding only."""

IN_FLIGHT = 2.0
"""How many seconds of its grace a key may have used up when it is read: Vault stamps a version before it is visible,
and may be frozen in between. The tests freeze it for less."""

NEVER = datetime.min.replace(tzinfo=UTC)

MOST = 20  # reports that are kept: a broken promise is broken at every look


@dataclass(frozen=True, slots=True)
class Served:
    """One version of a path, and the key in it."""

    number: int
    created_at: datetime
    key_id: str
    expires_at: datetime
    why: str  # the key was made
    early: frozenset[datetime]  # when keys of the path were made early before, as the record has it
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Spent:
    """A call that was refused because the key had reached its cap."""

    at: datetime
    target: str
    key_id: str
    early: int  # keys of the path that had been made early by then


@dataclass(slots=True)
class Path:
    """The observations of one path."""

    path: str
    versions: dict[int, Served] = field(default_factory=dict)
    newest: Served | None = None
    asked_at: datetime = NEVER  # when the read began that last saw `newest`

    def early(self) -> set[str]:
        """The keys that were made because a cap was nearly spent."""
        return {version.key_id for version in self.versions.values() if version.why == "nearly-spent"}

    def guaranteed(self, grace: timedelta) -> dict[str, datetime]:
        """Until when each key that was ever served here must work, as known now."""
        until: dict[str, datetime] = {}
        later: Served | None = None  # the next version that holds another key
        following: Served | None = None
        for version in sorted(self.versions.values(), key=lambda version: version.number, reverse=True):
            if following and following.key_id != version.key_id:
                later = following
            following = version
            if version.key_id not in until:
                end = later.created_at if later else self.asked_at
                until[version.key_id] = min(version.expires_at, end + grace)
        return until


class Witness:
    """Looks every `every` seconds, in a thread of its own, from `with` to its end; `broken` lists what was broken."""

    def __init__(
        self,
        vault: VaultServer,
        mount: str,
        paths: Mapping[str, str],
        simulator: Simulator,
        *,
        ttl: float,
        grace: float,
        every: float = 0.05,
        in_flight: float = IN_FLIGHT,
        has_caps: bool = False,
    ) -> None:
        """`paths` are those of the targets, by name. `has_caps`: keys may be spent, which is kept in `spent`."""
        self._vault, self._mount, self._simulator = vault, mount, simulator
        self.paths = {name: Path(path) for name, path in paths.items()}
        self._ttl, self._grace, self._every = timedelta(seconds=ttl), timedelta(seconds=grace), every
        self._in_flight, self._has_caps = timedelta(seconds=in_flight), has_caps
        self._client = httpx.Client(timeout=0.4, trust_env=False, verify=False)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="witness")
        self.broken: list[str] = []
        self.spent: list[Spent] = []
        self.counts = dict.fromkeys(("looks", "reads", "unread", "calls", "refused", "unanswered"), 0)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()
        self._client.close()

    def summary(self) -> str:
        """Return the observations in one line."""
        keys = self._simulator.vendor.keys.values()
        versions = sum(len(path.versions) for path in self.paths.values())
        counted = ", ".join(f"{count} {what}" for what, count in self.counts.items())
        return f"{len(keys)} keys made, {versions} versions seen; {counted}"

    # --- what is left over -------------------------------------------------------------------------------------------

    def leftovers(self, slack: float = 1.0) -> list[str]:
        """Return the live keys that are neither current nor in their grace, with `slack` seconds for tidying."""
        now = datetime.now(UTC)
        accounted: set[str] = set()
        published: set[str] = set()
        for path in self.paths.values():
            published |= {version.key_id for version in list(path.versions.values())}  # the thread adds to them
            accounted |= {path.newest.key_id} if path.newest else set()
            ends = path.guaranteed(self._grace).items()
            accounted |= {key_id for key_id, end in ends if end + timedelta(seconds=slack) > now}
        return [
            f"{key.id} ({key.name}, until {key.expiry_date}), {'superseded' if key.id in published else 'never seen'}"
            for key in self._simulator.vendor.keys.values()
            if key.alive(now) and key.id not in accounted
        ]

    def wait_for_no_leftovers(self, seconds: float) -> None:
        """Return as soon as every live key is current or in grace. Raises TimeoutError with those that are not."""
        try:
            wait_until(lambda: not self.leftovers(), "no key to be left over", seconds)
        except TimeoutError as error:
            error.add_note("\n".join(self.leftovers()))
            raise

    def wait_until_served(self, seconds: float = 30) -> None:
        """Return once every path has a key."""
        wait_until(lambda: all(path.newest for path in self.paths.values()), "every path to hold a key", seconds)

    # --- looking -----------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._ending.wait(self._every):
            try:
                self._look()
            except Exception as error:  # a witness that is dead must not look like one that saw nothing
                self._report(f"the witness failed: {type(error).__name__}: {error}")
                return

    def _look(self) -> None:
        self.counts["looks"] += 1
        reachable = True
        for name, path in self.paths.items():
            if reachable:  # with Vault down, one attempt a look is enough
                reachable = self._read(path)
                self.counts["reads" if reachable else "unread"] += 1
            self._call(name, path)
        self._examine()

    def _get(self, what: str) -> httpx.Response | None:
        with suppress(httpx.TransportError):
            headers = {"X-Vault-Token": self._vault.root_token}
            answer = self._client.get(f"{self._vault.address}/v1/{self._mount}/{what}", headers=headers)
            if answer.status_code in (200, 404):
                return answer
        return None

    def _read(self, path: Path) -> bool:
        """Look at the newest version, and at those that came and went since the last look; False: Vault is down."""
        asked_at = datetime.now(UTC)
        answer = self._get(f"data/{path.path}")
        if answer is None or answer.status_code == httpx.codes.NOT_FOUND:
            return answer is not None
        newest = _served(answer)
        before = path.newest.number if path.newest else 0
        if newest is None or newest.number < before:
            self._report(f"{path.path}: version {newest.number if newest else '?'} came after {before}")
            return True
        for number in range(before + 1, newest.number):
            missed = self._get(f"data/{path.path}?version={number}")
            if missed is not None and (version := _served(missed)):
                path.versions[number] = version
        path.versions[newest.number] = path.newest = newest
        path.asked_at = asked_at
        return True

    def _call(self, name: str, path: Path) -> None:
        """Use the key that was last read; with Vault down, an application has no other."""
        if path.newest is None:
            return
        headers = {"Authorization": f"Bearer {path.newest.text}"}
        try:
            status = self._client.post(
                f"{self._simulator.url}/api/chat/completions", json={}, headers=headers
            ).status_code
        except httpx.TransportError:
            self.counts["unanswered"] += 1
            return
        self.counts["calls"] += 1
        if status == httpx.codes.OK:
            return
        self.counts["refused"] += 1
        if self._has_caps and status == httpx.codes.TOO_MANY_REQUESTS:
            self.spent.append(Spent(datetime.now(UTC), name, path.newest.key_id, len(path.early())))
        else:
            answered_at = datetime.now(UTC)
            if answered_at < path.asked_at + self._grace - self._in_flight:
                ran_out = ", which had run out" if path.newest.expires_at <= answered_at else ""
                self._report(
                    f"{name}: {status} for key {path.newest.key_id}{ran_out}, read as version {path.newest.number} "
                    f"at {path.asked_at.time()}, called until {answered_at.time()}"
                )

    def _examine(self) -> None:
        """Compare the provider's records with the promises."""
        keys = self._simulator.vendor.keys
        for key in keys.values():
            if key.expiry_date is None or key.expiry_date > key.created_at + self._ttl + timedelta(seconds=1):
                self._report(f"the key {key.id} ({key.name}) lives longer than its ttl: until {key.expiry_date}")
        for name, path in self.paths.items():
            for key_id, until in path.guaranteed(self._grace).items():
                key = keys[key_id]
                ends = [moment for moment in (key.revoked_at, key.expiry_date) if moment]
                if min(ends) < until - EXACT:
                    how = "revoked" if key.revoked_at and key.revoked_at == min(ends) else "shortened"
                    self._report(
                        f"{name}: key {key_id} ({key.name}) is {how} at {min(ends)}, was promised until {until}"
                    )

    def _report(self, what: str) -> None:
        if len(self.broken) < MOST:
            self.broken.append(f"{datetime.now(UTC).time()} {what}")


def _served(answer: httpx.Response) -> Served | None:
    """Return the version of Vault's answer; None when it is deleted or destroyed, or holds no record."""
    body = answer.json()["data"] if answer.content else None
    if not body or not body.get("data"):
        return None
    facts, data = body["metadata"], body["data"]
    record = {name: unquote(value) for name, _, value in (part.partition("=") for part in data["rotator"].split(","))}
    return Served(
        int(facts["version"]),
        datetime.fromisoformat(facts["created_time"]),
        record["key_id"],
        datetime.fromisoformat(record["expires_at"]),
        record.get("why", ""),
        frozenset(datetime.fromtimestamp(int(at), UTC) for at in record.get("early", "").split(".") if at),
        data["api_key"],
    )
