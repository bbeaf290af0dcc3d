"""Real servers that issue keys, in the one shape that the tests of all of them use."""

import secrets
from collections.abc import Mapping
from typing import Any, Protocol

from support.jupyterhub import JupyterHub
from support.leaks import RECORDER
from support.vault import VaultServer


class Issuer(Protocol):
    """A server that issues keys to one installation, with what a person and an application do there."""

    address: str
    """The server."""
    settings: Mapping[str, Any]
    """The provider's options, without `base_url`."""
    key: Mapping[str, Any]
    """What the keys may do, as a target's `key`."""
    environment: Mapping[str, str]
    """What the options refer to."""

    def accepts(self, text: str) -> str | None:
        """Return the id of a key that works, or None when the server refuses it."""

    def living(self) -> dict[str, str]:
        """Return the names of the keys that this installation made and that live, by their ids."""

    def revoke(self, key_id: str) -> None:
        """What a person does by hand."""


class JupyterHubIssuer:
    """Tokens of one user, who belongs to this installation alone."""

    def __init__(self, hub: JupyterHub) -> None:
        self._hub, self._user = hub, hub.new_user()
        self.address = hub.address
        self.key: Mapping[str, Any] = {"scopes": [f"access:servers!user={self._user}"]}
        self.settings: Mapping[str, Any] = {
            "type": "http",
            "preset": "jupyterhub",
            "api_key": {"env": "JUPYTERHUB_TOKEN"},
            "variables": {"user": self._user},
        }
        self.environment: Mapping[str, str] = {"JUPYTERHUB_TOKEN": hub.credential}

    def accepts(self, text: str) -> str | None:
        return self._hub.accepts(text)

    def living(self) -> dict[str, str]:
        return {token["id"]: token["note"] for token in self._hub.tokens(self._user)}

    def revoke(self, key_id: str) -> None:
        self._hub.delete_token(self._user, key_id)


RIGHTS = """
path "auth/token/create/{role}" {{ capabilities = ["update"] }}
path "auth/token/accessors" {{ capabilities = ["list", "sudo"] }}
path "auth/token/lookup-accessor" {{ capabilities = ["update"] }}
path "auth/token/revoke-accessor" {{ capabilities = ["update"] }}
"""


class VaultTokenIssuer:
    """Tokens of one role, which belongs to this installation alone. Their list holds all tokens of the server."""

    def __init__(self, vault: VaultServer) -> None:
        self._vault = vault
        role = f"rotated-{secrets.token_hex(4)}"
        policy = vault.new_policy('path "secret/data/app" { capabilities = ["read"] }')
        limits = {"allowed_policies": [policy, "default"], "orphan": True, "renewable": False}
        vault.request("POST", f"auth/token/roles/{role}", limits).raise_for_status()
        credential = vault.policy_token(RIGHTS.format(role=role))
        RECORDER.add_secret("a Vault token", credential)
        self._creates = f"auth/token/create/{role}"
        self.address = vault.address
        self.key: Mapping[str, Any] = {"policies": [policy, "default"]}
        self.settings: Mapping[str, Any] = {
            "type": "http",
            "preset": "vault-token",
            "api_key": {"env": "ISSUER_TOKEN"},
            "variables": {"role": role},
        }
        self.environment: Mapping[str, str] = {"ISSUER_TOKEN": credential}

    def accepts(self, text: str) -> str | None:
        answer = self._vault.request("GET", "auth/token/lookup-self", token=text)
        return str(answer.json()["data"]["accessor"]) if answer.is_success else None

    def living(self) -> dict[str, str]:
        listed = self._vault.request("LIST", "auth/token/accessors").raise_for_status().json()["data"]["keys"]
        answers = [
            self._vault.request("POST", "auth/token/lookup-accessor", {"accessor": accessor}) for accessor in listed
        ]
        tokens = [answer.json()["data"] for answer in answers if answer.is_success]
        return {token["accessor"]: token["meta"]["name"] for token in tokens if token["path"] == self._creates}

    def revoke(self, key_id: str) -> None:
        self._vault.request("POST", "auth/token/revoke-accessor", {"accessor": key_id}).raise_for_status()
