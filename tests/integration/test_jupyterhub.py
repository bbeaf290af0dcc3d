"""Tokens of a real JupyterHub, rotated into a real Vault. Its ids may come back: SQLite counts on from the largest."""

import pytest
from support.issuers import Issuer, JupyterHubIssuer
from support.jupyterhub import JupyterHub
from support.rotating import RotatesOnARealServer


class TestJupyterHub(RotatesOnARealServer):
    @pytest.fixture
    def issuer(self, jupyterhub: JupyterHub) -> Issuer:
        return JupyterHubIssuer(jupyterhub)
