"""HashiCorp Vault's KV version 2 as a `Store`, and what `check --online` wants to know of it.

How a request is sent is in `vault_client`, what an answer means in `vault_answers`, how to log in in `vault_login`.
"""

import re
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rotator.errors import (
    CasMismatch,
    StoreMountUnusable,
    StorePermissionDenied,
    StoreRequestRefused,
    StoreSealed,
    StoreUnavailable,
)
from rotator.model import History, Secret, Version
from rotator.ports import Clock, Meter
from rotator.stores.vault_answers import (
    CAPABILITIES,
    DESTROY,
    METADATA,
    MOUNT,
    PROVE,
    READ,
    WRITE,
    Answer,
)
from rotator.stores.vault_client import Request, VaultClient, VaultSettings

__all__ = ["Finding", "VaultSettings", "VaultStore"]

IMPOSSIBLE_CAS = 2147483647
"""No path ever has that many versions: a write that follows it is checked in every respect, and never done."""

PATHS_A_CALL = 500
"""How many paths are asked about in one request for capabilities."""

_RIGHTS = {"data": ("create", "read", "update"), "metadata": ("read",), "destroy": ("update",)}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that `check --online` found, on one path of Vault's."""

    path: str
    message: str
    advice: str


@dataclass(frozen=True, slots=True)
class _Meta:
    """A version without its data."""

    number: int
    created_at: datetime
    destroyed: bool
    readable: bool


class VaultStore:
    """One KV version 2 mount. Safe to be used by many threads; logs in at first use."""

    def __init__(self, settings: VaultSettings, clock: Clock, meter: Meter) -> None:
        self._settings = settings
        self._clock = clock
        self._client = VaultClient(settings, clock, meter)
        self._lock = threading.Lock()
        self._cluster: str | None = None
        self._is_version_2 = False

    # --- the contract ------------------------------------------------------------------------------------------------

    def location(self, path: str) -> str:
        """The cluster, the namespace, the mount and the path; the cluster's id is asked once."""
        with self._lock:
            if self._cluster is None:
                health = self._client.health()
                cluster = health.get("cluster_id")
                if not cluster:
                    raise StoreSealed(
                        "Vault does not say which cluster it is: it is sealed, or not initialised",
                        "Unseal it (`vault operator unseal` on each node). Keys go on working until they expire.",
                    )
                self._cluster = str(cluster)
        # A newline is in none of the parts: paths and namespaces with control characters are refused at load.
        return "\n".join((self._cluster, self._settings.namespace or "", self._settings.mount, path))

    def history(self, path: str) -> History:
        """Metadata first, the current data last: what makes the counter true is the newest thing that was read."""
        for _ in range(3):
            current, metas = self._metadata(path)
            older = [self._version(path, meta) for meta in metas if meta.number != current]
            observed_at = self._clock.monotonic()
            number, newest = self._read(path, None)
            if number == current:
                return History(current, (*older, *([newest] if newest else [])), observed_at)
        raise StoreUnavailable(
            f"{self._at('data', path)} changes faster than it can be read",
            "Find out who writes to it: rotator should be the only one.",
        )

    def prove(self, path: str, data: Mapping[str, Any]) -> None:
        """Make sure that it is KV version 2, once; then send a write that can only be refused for its version."""
        if not self._is_version_2:
            self._check_version(path)
            self._is_version_2 = True
        try:
            self._client.send(self._write_request(PROVE, path, data, IMPOSSIBLE_CAS))
        except CasMismatch:
            return
        raise StoreMountUnusable(
            f"{self._at('data', path)} took a write that compare-and-set should have refused",
            "The mount does not behave like KV version 2. Nothing was minted; look at the path, it was overwritten.",
        )

    def write(self, path: str, data: Mapping[str, Any], cas: int) -> Version:
        """One request, and never a second unless the first was refused for its token."""
        return self._client.send(self._write_request(WRITE, path, data, cas))

    def destroy(self, path: str, versions: Sequence[int]) -> None:
        """One request for all of them."""
        self._client.send(
            Request(
                DESTROY,
                self._at("destroy", path),
                "update",
                lambda client: client.secrets.kv.v2.destroy_secret_versions(
                    path, list(versions), mount_point=self._settings.mount
                ),
                lambda _answer: None,
            )
        )

    # --- what only Vault has -----------------------------------------------------------------------------------------

    @property
    def token_expires_at(self) -> datetime | None:
        """When the login ends; None when it does not, or there is none yet."""
        return self._client.tokens.expires_at

    def keep_login(self) -> None:
        """Renew the login when it is time, or log in again. Cheap when it is not. Raises a `StoreError`."""
        self._client.tokens.keep()

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    def read_secret(self, reference: str) -> Secret:
        """A field of any KV version 2 secret, "mount/path#field"; the first segment is the mount."""
        where, _, field = reference.rpartition("#")
        mount, _, path = where.partition("/")
        request = Request(
            READ,
            f"{mount}/data/{path}",
            "read",
            lambda client: client.secrets.kv.v2.read_secret_version(
                path, mount_point=mount, raise_on_deleted_version=False
            ),
            lambda answer: (answer.body.get("data") or {}).get("data") or {},
            may_be_absent=True,
        )
        value = self._client.read(request).get(field)
        if not isinstance(value, str) or not value:
            raise StoreRequestRefused(f"{mount}/data/{path} has no text in a field {field!r}", "Look at the reference.")
        return Secret(value)

    def forget(self, path: str) -> None:
        """Remove a path with all its versions: for the demo, which leaves nothing behind. Needs more rights."""
        self._client.send(
            Request(
                DESTROY,
                self._at("metadata", path),
                "delete",
                lambda client: client.secrets.kv.v2.delete_metadata_and_all_versions(
                    path, mount_point=self._settings.mount
                ),
                lambda _answer: None,
            )
        )

    def check(self, paths: Collection[str]) -> Iterator[Finding]:
        """What would keep these paths from being rotated. Reads only. Raises a `StoreError` when it cannot be tried."""
        health = self._client.health()
        if self._settings.namespace and health.get("enterprise") is False:
            yield Finding(
                "sys/health",
                f"this Vault is the open-source one: it ignores the namespace {self._settings.namespace!r}",
                "Leave the namespace out, or use another mount: what is meant to be apart is not.",
            )
        if paths:
            try:
                self._check_version(next(iter(paths)))
            except StoreMountUnusable as error:
                yield Finding(self._settings.mount, error.message, error.advice)
                return
        yield from self._missing_rights(sorted(paths))

    # --- requests ----------------------------------------------------------------------------------------------------

    def _at(self, kind: str, path: str) -> str:
        return f"{self._settings.mount}/{kind}/{path}"

    def _metadata(self, path: str) -> tuple[int, tuple[_Meta, ...]]:
        def understand(answer: Answer) -> tuple[int, tuple[_Meta, ...]]:
            if not answer.is_success:
                return 0, ()
            data = answer.body["data"]
            metas = (_meta(int(number), entry, answer.now) for number, entry in data["versions"].items())
            return int(data["current_version"]), tuple(sorted(metas, key=lambda meta: meta.number))

        return self._client.read(
            Request(
                METADATA,
                self._at("metadata", path),
                "read",
                lambda client: client.secrets.kv.v2.read_secret_metadata(path, mount_point=self._settings.mount),
                understand,
                may_be_absent=True,
            )
        )

    def _version(self, path: str, meta: _Meta) -> Version:
        """One older version, with its data if it has any."""
        if not meta.readable:
            return Version(meta.number, meta.created_at, None, meta.destroyed)
        _, version = self._read(path, meta.number)
        # A counter that was reset meanwhile gives another version of this number: then it is not the one asked for.
        return (
            version
            if version and version.created_at == meta.created_at
            else Version(meta.number, meta.created_at, None)
        )

    def _read(self, path: str, number: int | None) -> tuple[int, Version | None]:
        def understand(answer: Answer) -> tuple[int, Version | None]:
            if not answer.is_success and "data" not in answer.body:
                return 0, None
            found = answer.body["data"]
            meta = _meta(int(found["metadata"]["version"]), found["metadata"], answer.now)
            data = found["data"] if meta.readable else None
            return meta.number, Version(meta.number, meta.created_at, data, meta.destroyed)

        return self._client.read(
            Request(
                READ,
                self._at("data", path),
                "read",
                lambda client: client.secrets.kv.v2.read_secret_version(
                    path, version=number, mount_point=self._settings.mount, raise_on_deleted_version=False
                ),
                understand,
                may_be_absent=True,
            )
        )

    def _write_request(self, operation: Any, path: str, data: Mapping[str, Any], cas: int) -> Request[Version]:
        def understand(answer: Answer) -> Version:
            written = answer.body["data"]
            return Version(int(written["version"]), _moment(written["created_time"]), data)

        return Request(
            operation,
            self._at("data", path),
            "create" if cas == 0 else "update",
            lambda client: client.secrets.kv.v2.create_or_update_secret(
                path, dict(data), cas=cas, mount_point=self._settings.mount
            ),
            understand,
        )

    def _check_version(self, path: str) -> None:
        """A KV version 1 mount looks like an empty version 2 one, ignores `cas`, and overwrites."""
        asked = f"sys/internal/ui/mounts/{self._settings.mount}/{path}"
        try:
            mount = self._client.read(
                Request(
                    MOUNT,
                    asked,
                    "read",
                    lambda client: client.adapter.get(f"/v1/{asked}"),
                    lambda answer: answer.body["data"],
                )
            )
        except StorePermissionDenied:
            raise StoreMountUnusable(
                f"there is no mount {self._settings.mount!r} in this Vault, or the policy allows nothing on {path}",
                "`vault secrets list` shows the mounts, `rotator check --online` the rights that are missing.",
            ) from None
        kind, options = mount.get("type"), mount.get("options") or {}
        if kind != "kv" or options.get("version") != "2":
            what = (
                "is KV version 1, which ignores compare-and-set and would overwrite" if kind == "kv" else f"is {kind!r}"
            )
            raise StoreMountUnusable(
                f"the mount {self._settings.mount!r} {what}; nothing was written and no key was created",
                "Name a KV version 2 mount, or upgrade this one: `vault kv enable-versioning`.",
            )

    def _missing_rights(self, paths: Sequence[str]) -> Iterator[Finding]:
        wanted = {self._at(kind, path): rights for path in paths for kind, rights in _RIGHTS.items()}
        asked = list(wanted)
        for start in range(0, len(asked), PATHS_A_CALL):
            part = asked[start : start + PATHS_A_CALL]
            granted = self._capabilities(part)
            for path in part:
                missing = set(wanted[path]) - set(granted.get(path, ()))
                if missing and "root" not in granted.get(path, ()):
                    rights = ", ".join(f'"{right}"' for right in wanted[path])
                    yield Finding(
                        path,
                        f"the policy does not allow {', '.join(sorted(missing))}",
                        f'Its policy must have: path "{path}" {{ capabilities = [{rights}] }}',
                    )

    def _capabilities(self, paths: Sequence[str]) -> Mapping[str, Sequence[str]]:
        return self._client.read(
            Request(
                CAPABILITIES,
                "sys/capabilities-self",
                "update",
                lambda client: client.adapter.post("/v1/sys/capabilities-self", json={"paths": list(paths)}),
                lambda answer: answer.body["data"],
            )
        )


_NANOSECONDS = re.compile(r"(\.\d{6})\d+")


def _moment(text: str) -> datetime:
    """Vault writes nanoseconds, Python reads microseconds."""
    return datetime.fromisoformat(_NANOSECONDS.sub(r"\1", text)).astimezone(UTC)


def _meta(number: int, entry: Mapping[str, Any], now: datetime) -> _Meta:
    """With `delete_version_after` a live version has a deletion time, too: in the future."""
    ends = entry["deletion_time"]  # empty when there is none
    deleted = ends != "" and _moment(ends) <= now
    return _Meta(number, _moment(entry["created_time"]), entry["destroyed"], not entry["destroyed"] and not deleted)
