"""Keeps API keys of LLM vendors fresh in HashiCorp Vault."""

__version__ = "0.1.0"
