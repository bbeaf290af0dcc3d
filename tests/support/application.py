"""Applications that use what Vault serves, and see whether the issuer accepts it.

They read Vault and call the issuer themselves, so they share no code with rotator. Keys' texts stay in here; what they
report names versions only.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Self
from urllib.parse import unquote

from support.installation import VaultPaths
from support.issuers import Issuer
from support.leaks import RECORDER

ROUNDING = timedelta(seconds=0.3)
"""How much earlier than promised a key may be refused: an expiry is in whole seconds at some issuers."""


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a path, and the key in it."""

    number: int
    created_at: datetime
    expires_at: datetime
    key_id: str
    text: str = field(repr=False)


class Applications:
    """One for each path, in a thread of their own, from `with` to its end; `broken` lists what was refused."""

    def __init__(self, paths: VaultPaths, issuer: Issuer, targets: Sequence[str], grace: timedelta) -> None:
        self._paths, self._issuer, self._grace = paths, issuer, grace
        self.versions: dict[str, list[Version]] = {target: [] for target in targets}
        self.broken: list[str] = []
        self.calls = 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._use, name="applications")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def served(self) -> set[str]:
        """The ids of the keys in the newest versions."""
        return {versions[-1].key_id for versions in self.versions.values() if versions}

    def _use(self) -> None:
        try:
            while not self._ending.wait(0.1):
                for target, versions in self.versions.items():
                    self._look(target, versions)
        except Exception as error:  # an application that is dead must not look like one that was never refused
            self.broken.append(f"the applications failed: {type(error).__name__}: {error}")
            raise

    def _look(self, target: str, versions: list[Version]) -> None:
        read_at = datetime.now(UTC)
        newest = self._read(target)
        if newest is None:
            return
        known = versions[-1].number if versions else 0
        versions += [missed for number in range(known + 1, newest.number) if (missed := self._read(target, number))]
        if newest.number > known:
            versions.append(newest)
        for version, following in zip(versions, [*versions[1:], None], strict=True):
            # The newest may be superseded at any time after it was read, and works for its grace then.
            until = min(version.expires_at, (following.created_at if following else read_at) + self._grace)
            if datetime.now(UTC) > until - ROUNDING:
                continue
            self.calls += 1
            if self._issuer.accepts(version.text) != version.key_id and datetime.now(UTC) < until - ROUNDING:
                self.broken.append(f"{target}: the key of version {version.number} was refused before {until}")

    def _read(self, target: str, number: int = 0) -> Version | None:
        """Return a version, the newest by default; None when it is destroyed, or there is none."""
        answer = self._paths.vault.request("GET", f"{self._paths.mount}/data/apps/{target}?version={number}")
        body = answer.json().get("data")
        if not body or not body["data"]:
            return None
        pairs = (part.partition("=") for part in body["data"]["rotator"].split(","))
        record = {name: unquote(value) for name, _, value in pairs}
        RECORDER.add_secret("a key", body["data"]["api_key"])
        return Version(
            int(body["metadata"]["version"]),
            datetime.fromisoformat(body["metadata"]["created_time"]),
            datetime.fromisoformat(record["expires_at"]),
            record["key_id"],
            body["data"]["api_key"],
        )
