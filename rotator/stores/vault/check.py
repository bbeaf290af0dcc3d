"""What `rotator check --online` asks of Vault: the login, the mount, and each right that a target needs. Reads only."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import quote

from rotator.config.values import parse_go_seconds
from rotator.core.errors import StorePermissionDenied
from rotator.core.times import timestamp
from rotator.stores.vault.request import Request
from rotator.stores.vault.responses import CAPABILITIES, DESTROY, METADATA, WRITE, Operation, stanza
from rotator.stores.vault.store import VaultStore

PATHS_PER_REQUEST = 500  # more than that Vault does not answer

_CONFIG = Operation("config", "read", ("read",))
_WANTED = {"data": WRITE.rights, "metadata": METADATA.rights, "destroy": DESTROY.rights}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something on one path of Vault's that would keep targets from being rotated, or that is a surprise."""

    path: str
    message: str
    advice: str


SHORT = timedelta(hours=1)
"""A given token that ends within this, and cannot be renewed, is a person's business now."""


def login_end(store: VaultStore, now: datetime) -> Finding | None:
    """What to do about a token that was given to us and ends soon."""
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
            f"this Vault is the open-source one, which ignores the namespace {namespace}",
            "Leave the namespace out, and use another mount to keep things apart.",
        )
    if not paths:
        return
    store.prove_mount(paths[0])
    if uses := store.client.tokens.uses:
        yield Finding(
            "auth/token/lookup-self",
            f"a token of this login is good for {uses} requests only, and all threads of rotator share one",
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

    Negative for a mount: never, whatever the path's own metadata have.
    """

    seconds: int
    where: str
    remedy: str


def mount_lifetime(store: VaultStore) -> Lifetime | None:
    """Return the mount's; None if it has none, or the policy does not allow the question: few do."""
    try:
        said = store.client.read(_delete_version_after(_CONFIG, f"{store.mount}/config"))
    except StorePermissionDenied:
        return None
    seconds = -1 if said.startswith("-") else parse_go_seconds(said)
    remedy = f"vault write {store.mount}/config delete_version_after=0s"
    return Lifetime(seconds, f"the mount {store.mount}", remedy) if seconds else None


def path_lifetime(store: VaultStore, path: str) -> Lifetime | None:
    """Return that of a path's own metadata; None if they have none."""
    said = store.client.read(_delete_version_after(METADATA, f"{store.mount}/metadata/{path}"))
    remedy = f"vault kv metadata patch -mount={store.mount} -delete-version-after=0s {path}"
    seconds = parse_go_seconds(said)
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
