"""Vault's KV version 2 as a `Store`: the requests of each method, and what their answers mean.

`client` and `transport` send a request, `responses` turns a refusal into an error, `auth` logs in, and `check` answers
`rotator check --online`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

from rotator.config.values import VaultReference
from rotator.core.errors import (
    CasMismatch,
    StoreError,
    StoreMountUnusable,
    StorePermissionDenied,
    StoreRequestRefused,
    StoreUnavailable,
)
from rotator.core.ports import Clock, Meter
from rotator.core.secrets import Secret
from rotator.core.versions import History, Version, key_in
from rotator.runtime.redact import register
from rotator.stores.vault.client import VaultClient
from rotator.stores.vault.responses import DESTROY, METADATA, MOUNT, PREFLIGHT, READ, WRITE, Answer, Request
from rotator.stores.vault.transport import VaultSettings

NEVER_CURRENT = 2**31 - 1  # no path has this version: Vault applies all rules to a write after it, and refuses it
LARGEST_ENTRY = 1_000_000  # bytes: raft takes 1 MiB by default, and Vault adds a few
ATTEMPTS = 3  # to see a path's metadata and its current version at one moment


@dataclass(frozen=True, slots=True)
class _Metadata:
    """A path's metadata. `readable` are the versions that are neither deleted nor destroyed."""

    current_version: int
    versions: Mapping[int, Version]  # without data
    readable: frozenset[int]


class VaultStore:
    """Keeps versions under one KV version 2 mount."""

    def __init__(self, settings: VaultSettings, clock: Clock, meter: Meter) -> None:
        self.client = VaultClient(settings, clock, meter)
        self.mount = settings.mount.strip("/")
        self.namespace = (settings.namespace or "").strip("/")
        self._former_locations = settings.former_locations
        self._clock = clock
        self._cluster: str | None = None
        self._mount_is_proved = False

    @property
    def is_logged_in(self) -> bool:
        """Whether there is a login that Vault has not refused."""
        return self.client.tokens.has_token

    @property
    def token_expires_at(self) -> datetime | None:
        """When the login expires. None: there is none, or it never does."""
        return self.client.tokens.expires_at

    def keep_login(self) -> None:
        """Renew the login, or log in again, when it is time. Call this every few seconds.

        Raises `StoreCredentialRefused`, `StoreUnavailable` or `StoreSealed`. The old login stays in use while it lasts.
        """
        self.client.keep_login()

    def look_again(self) -> None:
        """Take another token if there is one; if Vault is down, let the next request try it."""
        self.client.look_again()

    @property
    def upstream(self) -> str:
        """The host and port: the clock's name for this Vault."""
        return self.client.upstream

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    # --- the port ----------------------------------------------------------------------------------------------------

    def location(self, path: str) -> str:
        """Return the cluster's own id, the namespace, the mount and the path."""
        return _location(self.cluster_id(), self.namespace, self.mount, path)

    def former_locations(self, path: str) -> Sequence[str]:
        """Return the same for each configured former place. What such a place leaves out is as it is now."""
        return [
            _location(
                self.cluster_id() if former.cluster_id is None else former.cluster_id,
                self.namespace if former.namespace is None else former.namespace,
                self.mount if former.mount is None else former.mount,
                path,
            )
            for former in self._former_locations
        ]

    def cluster_id(self) -> str:
        """Return the cluster's own id, which is read once. Raises what `location` raises."""
        if self._cluster is None:
            self.client.circuit.enter()
            try:
                cluster = self.client.health().get("cluster_id")
            except StoreError as error:
                self.client.circuit.failed(error)
                raise
            if not cluster:
                raise StoreUnavailable("Vault shows no cluster_id in sys/health; nothing was changed")
            self._cluster = str(cluster)
        return self._cluster

    def history(self, path: str) -> History:
        """Read the metadata first, then the readable versions, the current one last and without its number."""
        for _ in range(ATTEMPTS):
            observed_at = self._clock.monotonic()
            metadata = self.client.read(self._metadata(path))
            if metadata is None:
                return self._nothing(path, observed_at)
            versions = dict(metadata.versions)
            for number in sorted(metadata.readable - {metadata.current_version}):
                version = self.client.read(self._data(path, number))
                # After a deletion of the metadata meanwhile, another version has this number.
                if version and version.created_at == versions[number].created_at:
                    versions[number] = version
            observed_at = self._clock.monotonic()
            current = self.client.read(self._data(path, None))
            if current is not None:
                versions[current.number] = current
            elif metadata.current_version in versions:
                continue  # it was deleted meanwhile
            if current is None or current.number == metadata.current_version:
                ordered = tuple(versions[number] for number in sorted(versions))
                return History(metadata.current_version, ordered, observed_at)
        raise StoreUnavailable(
            f"{self.mount}/data/{path} in Vault changed {ATTEMPTS} times while it was being read",
            "Another writer keeps writing there, or the nodes of Vault disagree. If this continues, check both.",
        )

    def newest(self, path: str) -> History:
        """Read the current version, without its number."""
        observed_at = self._clock.monotonic()
        current = self.client.read(self._data(path, None))
        return History(current.number, (current,), observed_at) if current else self._nothing(path, observed_at)

    def _nothing(self, path: str, observed_at: float) -> History:
        """Return an empty history, once the mount is known to be of version 2: one of version 1 always looks empty."""
        if not self._mount_is_proved:
            self.prove_mount(path)
        return History(0, (), observed_at)

    def preflight(self, path: str, data: Mapping[str, Any]) -> None:
        """Check once that the mount is KV version 2. Then send a write that the compare-and-set must refuse.

        Vault applies all its other rules before that; only its storage checks the size afterwards, so this does, too.
        """
        if not self._mount_is_proved:
            self.prove_mount(path)
        try:
            self.client.send(self._write(path, data, NEVER_CURRENT, trial=True))
        except CasMismatch:
            self._prove_size(path, data)
            return
        self._mount_is_proved = False
        raise StoreMountUnusable(
            f"Vault took a write to {path} that it had to refuse: the mount {self.mount} ignores compare-and-set",
            f"Is a proxy between rotator and Vault, or was the mount replaced? Check {path}, which was overwritten.",
        )

    def _prove_size(self, path: str, data: Mapping[str, Any]) -> None:
        size = len(json.dumps(data, ensure_ascii=False).encode(errors="replace"))
        if size > LARGEST_ENTRY:
            raise StoreRequestRefused(
                f"the data for {self.mount}/data/{path} have {size} bytes, and Vault's storage takes 1 MiB at most",
                "Check the fields beside the key, and the target's extra_fields. No key was created.",
            )

    def write(self, path: str, data: Mapping[str, Any], cas: int) -> Version:
        """Send one POST with the compare-and-set."""
        key = key_in(data)
        if key is not None:
            register(key)  # while this runs: an answer may quote the request
        return self.client.send(self._write(path, data, cas))

    def destroy(self, path: str, versions: Sequence[int]) -> None:
        """Send one POST. Vault accepts versions, and paths, that it does not have."""
        if versions:
            self.client.send(
                Request(
                    DESTROY,
                    f"{self.mount}/destroy/{path}",
                    "update",
                    lambda vault: vault.secrets.kv.v2.destroy_secret_versions(path, list(versions), self.mount),
                    lambda _: None,
                )
            )

    # --- beyond the port ---------------------------------------------------------------------------------------------

    def prove_mount(self, path: str) -> None:
        """Return only if the mount is KV version 2: one of version 1 looks like an empty one of version 2.

        Raises `StoreMountUnusable`, or what a read raises.
        """
        asked = f"sys/internal/ui/mounts/{self.mount}/{path}"
        request = Request(
            MOUNT,
            asked,
            "read",
            lambda vault: vault.adapter.get(f"/v1/{quote(asked)}"),
            lambda answer: (
                str(answer.body["data"]["type"]),
                str((answer.body["data"].get("options") or {}).get("version", "1")),
                str(answer.body["data"]["path"]),
            ),
        )
        advice = "Check the store's mount and namespace: `vault secrets list -detailed` lists the mounts."
        try:
            kind, version, where = self.client.read(request)
        except StorePermissionDenied as error:
            # Vault gives one answer in both cases, so that a token learns nothing of mounts that it may not see.
            raise StoreMountUnusable(
                f"there is no mount {self.mount} in Vault, or no policy allows anything at {self.mount}/data/{path} "
                f"({error.message})",
                advice,
            ) from None
        if where.strip("/") != self.mount:
            raise StoreMountUnusable(f"the mount is {where} in Vault, not {self.mount}", advice)
        if kind != "kv":
            raise StoreMountUnusable(f"the mount {self.mount} is of type {kind}, not KV", advice)
        if version != "2":
            raise StoreMountUnusable(
                f"the mount {self.mount} is KV version {version}, which ignores compare-and-set and would overwrite",
                f"Configure another mount, or upgrade this one: `vault kv enable-versioning {self.mount}`.",
            )
        self._mount_is_proved = True

    def read_secret(self, reference: VaultReference) -> Secret:
        """Return one field of any KV version 2 secret. Raises `StoreRequestRefused` without it, or a read's error."""
        version = self.client.read(self._data(reference.path, None, reference.mount))
        where = f"{reference.mount}/data/{reference.path}"
        if version is None or version.data is None:
            raise StoreRequestRefused(
                f"there is no secret at {where} in Vault, or its newest version is deleted",
                f"Write it: `vault kv put -mount={reference.mount} {reference.path} {reference.field}=…`.",
            )
        value = version.data.get(reference.field)
        if not isinstance(value, str) or not value.strip():
            raise StoreRequestRefused(
                f"the secret at {where} in Vault has no field {reference.field} that holds a text",
                f"Add it: `vault kv patch -mount={reference.mount} {reference.path} {reference.field}=…`.",
            )
        return register(Secret(value.strip()))

    def ignored_namespace(self) -> str | None:
        """Return the configured namespace, if this Vault is an open-source server, which silently ignores it."""
        return self.namespace if self.namespace and self.client.health().get("enterprise") is False else None

    def forget(self, path: str) -> None:
        """Remove a path with its whole history, for the demo. Needs a right of its own."""
        self.client.send(
            Request(
                DESTROY,
                f"{self.mount}/metadata/{path}",
                "delete",
                lambda vault: vault.secrets.kv.v2.delete_metadata_and_all_versions(path, self.mount),
                lambda _: None,
            )
        )

    # --- requests ----------------------------------------------------------------------------------------------------

    def _metadata(self, path: str) -> Request[_Metadata | None]:
        return Request(
            METADATA,
            f"{self.mount}/metadata/{path}",
            "read",
            lambda vault: vault.secrets.kv.v2.read_secret_metadata(path, self.mount),
            _read_metadata,
            may_be_absent=True,
        )

    def _data(self, path: str, number: int | None, mount: str = "") -> Request[Version | None]:
        mount = mount or self.mount
        return Request(
            READ,
            f"{mount}/data/{path}",
            "read",
            lambda vault: vault.secrets.kv.v2.read_secret_version(path, number, mount, raise_on_deleted_version=False),
            _read_version,
            may_be_absent=True,
        )

    def _write(self, path: str, data: Mapping[str, Any], cas: int, *, trial: bool = False) -> Request[Version]:
        def understand(answer: Answer) -> Version:
            written = answer.body["data"]
            created_at = datetime.fromisoformat(written["created_time"])
            return Version(int(written["version"]), created_at, dict(data), vanishes_at=_deletion(written))

        return Request(
            PREFLIGHT if trial else WRITE,
            f"{self.mount}/data/{path}",
            "create` or `update" if trial else "update" if cas else "create",
            lambda vault: vault.secrets.kv.v2.create_or_update_secret(path, dict(data), cas, self.mount),
            understand,
        )


def _location(*parts: str) -> str:
    return "/".join(quote(part, safe="") for part in ("vault", *parts))


def _read_metadata(answer: Answer) -> _Metadata | None:
    if not answer.is_success:
        return None
    data = answer.body["data"]
    versions, readable = {}, set()
    for text, facts in data["versions"].items():
        number, destroyed, deletion = int(text), facts["destroyed"] is True, facts["deletion_time"]
        created_at = datetime.fromisoformat(facts["created_time"])
        versions[number] = Version(number, created_at, None, destroyed, _deletion(facts))
        # With delete_version_after, a live version has a deletion time as well: in the future.
        if not destroyed and (not deletion or datetime.fromisoformat(deletion) > answer.now):
            readable.add(number)
    return _Metadata(int(data["current_version"]), versions, frozenset(readable))


def _read_version(answer: Answer) -> Version | None:
    """Return a version, with data None when it is deleted or destroyed; None when Vault's 404 shows no such version."""
    if not answer.is_success and "data" not in answer.body:
        return None
    facts = answer.body["data"]["metadata"]
    data = answer.body["data"]["data"]
    if data is not None and not isinstance(data, dict):
        raise ValueError("the data of a version is an object")
    created_at = datetime.fromisoformat(facts["created_time"])
    return Version(int(facts["version"]), created_at, data, facts["destroyed"] is True, _deletion(facts))


def _deletion(facts: Mapping[str, Any]) -> datetime | None:
    return datetime.fromisoformat(facts["deletion_time"]) if facts.get("deletion_time") else None
