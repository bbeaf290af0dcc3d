"""What `rotator check --online` asks Vault: the login, the mount, and each right that a target needs. It only reads."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import quote

from rotator.config.values import parse_go_seconds
from rotator.core.errors import StorePermissionDenied
from rotator.core.times import timestamp
from rotator.stores.vault.responses import CAPABILITIES, DESTROY, METADATA, WRITE, Operation, Request, stanza
from rotator.stores.vault.store import VaultStore

PATHS_PER_REQUEST = 500  # Vault does not answer about more

_CONFIG = Operation("config", "read", ("read",))
_WANTED = {"data": WRITE.rights, "metadata": METADATA.rights, "destroy": DESTROY.rights}


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong on one path of Vault: it keeps targets from being rotated, or soon will."""

    path: str
    message: str
    advice: str


SHORT = timedelta(hours=1)
"""A given token that cannot be renewed is reported when it expires within this time."""


def login_end(store: VaultStore, now: datetime) -> Finding | None:
    """Return the finding for a given token that expires soon."""
    ends_at = store.client.tokens.ends_at
    if ends_at is None or ends_at - now > SHORT:
        return None
    left = max(int((ends_at - now).total_seconds()), 0)
    return Finding(
        "token",
        f"the Vault token expires in {left} s ({timestamp(ends_at)}) and cannot be renewed: after that nothing is read "
        "or published, and the applications work until their keys expire",
        "Set a token that lives longer or can be renewed where this one comes from ($VAULT_TOKEN needs a restart).",
    )


def findings(store: VaultStore, paths: Sequence[str]) -> Iterator[Finding]:
    """Yield what would keep these paths from being rotated. Raises a `StoreError` when nothing could be tried."""
    namespace = store.ignored_namespace()
    if namespace:
        yield Finding(
            "sys/health",
            f"this Vault is an open-source server, which ignores the namespace {namespace}",
            "Remove the namespace, and use another mount instead.",
        )
    if not paths:
        return
    store.prove_mount(paths[0])
    if uses := store.client.tokens.uses:
        yield Finding(
            "auth/token/lookup-self",
            f"a token of this login allows only {uses} requests, and all threads of rotator share one token",
            "Set token_num_uses = 0 on the role, or give rotator a token without num_uses.",
        )
    wanted = {f"{store.mount}/{kind}/{path}": rights for path in paths for kind, rights in _WANTED.items()}
    asked = list(wanted)
    for start in range(0, len(asked), PATHS_PER_REQUEST):
        granted = store.client.read(_capabilities(asked[start : start + PATHS_PER_REQUEST]))
        for path, held in granted.items():
            missing = [] if "root" in held else [right for right in wanted[path] if right not in held]
            if missing:
                names = ", ".join(f"`{right}`" for right in missing)
                advice = f"It must have: {stanza(path, wanted[path])}"
                yield Finding(path, f"Vault's policy does not allow {names}", advice)


@dataclass(frozen=True, slots=True)
class Lifetime:
    """After how many seconds Vault deletes a version, and the command that stops that.

    Negative seconds of a mount: never, whatever the path's own metadata say.
    """

    seconds: int
    where: str
    remedy: str


def mount_lifetime(store: VaultStore) -> Lifetime | None:
    """Return the mount's lifetime. None if it has none, or the policy does not let us read it: few do."""
    try:
        value = store.client.read(_delete_version_after(_CONFIG, f"{store.mount}/config"))
    except StorePermissionDenied:
        return None
    seconds = -1 if value.startswith("-") else parse_go_seconds(value)
    remedy = f"vault write {store.mount}/config delete_version_after=0s"
    return Lifetime(seconds, f"the mount {store.mount}", remedy) if seconds else None


def path_lifetime(store: VaultStore, path: str) -> Lifetime | None:
    """Return the lifetime in a path's own metadata; None if they have none."""
    value = store.client.read(_delete_version_after(METADATA, f"{store.mount}/metadata/{path}"))
    remedy = f"vault kv metadata patch -mount={store.mount} -delete-version-after=0s {path}"
    seconds = parse_go_seconds(value)
    return Lifetime(seconds, "the path's metadata", remedy) if seconds else None


def _delete_version_after(operation: Operation, path: str) -> Request[str]:
    return Request(
        operation,
        path,
        "read",
        lambda vault: vault.adapter.get(f"/v1/{quote(path)}"),
        lambda answer: str(answer.body["data"].get("delete_version_after", "")) if answer.is_success else "",
        may_be_absent=True,
    )


def _capabilities(paths: Sequence[str]) -> Request[Mapping[str, Sequence[str]]]:
    return Request(
        CAPABILITIES,
        "sys/capabilities-self",
        "update",
        lambda vault: vault.adapter.post("/v1/sys/capabilities-self", json={"paths": list(paths)}),
        lambda answer: {path: answer.body["data"][path] for path in paths},
    )
