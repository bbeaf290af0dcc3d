"""Keeps short-lived Respan API keys fresh in HashiCorp Vault."""

__version__ = "0.1.0"
