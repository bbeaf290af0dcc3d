"""Raft's own limit on one entry comes after the compare-and-set: a proof that Vault alone made would not see it."""

from collections.abc import Callable

import pytest
from support.vault import RaftVault

from rotator.core.errors import StoreRequestRefused
from rotator.core.secrets import Secret
from rotator.runtime.clock import SystemClock
from rotator.stores.vault.auth import TokenLogin
from rotator.stores.vault.store import VaultStore
from rotator.stores.vault.transport import VaultSettings


def test_what_raft_would_refuse_after_the_key_exists_is_refused_before(raft_vault: Callable[[], RaftVault]) -> None:
    vault = raft_vault()
    settings = VaultSettings(vault.address, vault.new_mount(), TokenLogin(Secret(vault.root_token)))
    store = VaultStore(settings, SystemClock(), lambda *_: None)
    nearly = {f"field{number}": "x" * 199_000 for number in range(5)}
    store.preflight("app", nearly)
    store.write("app", nearly, 0)  # what is let through does fit
    too_much = {**nearly, "one_more": "x" * 60_000}
    with pytest.raises(StoreRequestRefused, match="1 MiB at most"):
        store.preflight("app", too_much)
    store.close()
