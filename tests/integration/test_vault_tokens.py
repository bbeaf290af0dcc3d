"""Tokens of a real Vault, rotated into its KV engine."""

import pytest
from support.issuers import Issuer, VaultTokenIssuer
from support.rotating import RotatesOnARealServer
from support.vault import VaultServer


class TestVaultTokens(RotatesOnARealServer):
    @pytest.fixture
    def issuer(self, vault: VaultServer) -> Issuer:
        return VaultTokenIssuer(vault)
