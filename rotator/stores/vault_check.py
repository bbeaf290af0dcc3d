"""What `rotator check --online` asks of Vault: the login, the mount, and each right that a target needs. Reads only."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rotator.stores.vault import VaultStore
from rotator.stores.vault_answers import CAPABILITIES, DESTROY, METADATA, WRITE, stanza
from rotator.stores.vault_client import Request

PATHS_PER_REQUEST = 500  # more than that Vault does not answer

_WANTED = {"data": WRITE.rights, "metadata": METADATA.rights, "destroy": DESTROY.rights}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something on one path of Vault's that would keep targets from being rotated, or that is a surprise."""

    path: str
    message: str
    advice: str


def findings(store: VaultStore, paths: Sequence[str]) -> Iterator[Finding]:
    """What is wrong for these targets' paths. Raises a `StoreError` when nothing could be tried."""
    namespace = store.ignored_namespace()
    if namespace:
        yield Finding(
            "sys/health",
            f"this Vault is the open-source one, which ignores the namespace {namespace}",
            "Leave the namespace out, and use another mount for what is meant to be apart.",
        )
    if not paths:
        return
    store.prove_mount(paths[0])
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


def _capabilities(paths: Sequence[str]) -> Request[Mapping[str, Sequence[str]]]:
    return Request(
        CAPABILITIES,
        "sys/capabilities-self",
        "update",
        lambda vault: vault.adapter.post("/v1/sys/capabilities-self", json={"paths": list(paths)}),
        lambda answer: {path: answer.body["data"][path] for path in paths},
    )
