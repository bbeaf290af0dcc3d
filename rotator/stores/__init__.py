"""The places that keep keys, behind `ports.Store`: Vault's KV version 2, and SQLite for the demo and for tests."""
