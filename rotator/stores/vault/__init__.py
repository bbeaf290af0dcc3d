"""HashiCorp Vault's KV version 2 as a store."""
