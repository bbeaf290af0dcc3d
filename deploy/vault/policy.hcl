# rotator's rights in Vault: `vault policy write rotator policy.hcl` (setup.sh does it).
#
# For targets whose `path` begins with apps/, in the KV version 2 mount secret/. Change both to your names, and repeat the
# three lines for other places. No rule here allows to list, to delete a path, or to read another one.

# Read the served version, try whether a write is allowed, and write the new version.
path "secret/data/apps/*" { capabilities = ["create", "read", "update"] }

# Read the list of versions, and when each was written.
path "secret/metadata/apps/*" { capabilities = ["read"] }

# Destroy the versions of a key whose grace is over, so that the path cannot be rolled back to an expired key.
path "secret/destroy/apps/*" { capabilities = ["update"] }

# For `rotator check --online`, which reads its own rights. Vault's policy `default` allows it too.
path "sys/capabilities-self" { capabilities = ["update"] }

# Vault's policy `default` allows rotator to renew, look up and revoke its own token. Uncomment these lines only if the
# role has token_no_default_policy=true:
# path "auth/token/renew-self" { capabilities = ["update"] }
# path "auth/token/revoke-self" { capabilities = ["update"] }
# path "auth/token/lookup-self" { capabilities = ["read"] }

# Only if the management credential is in Vault as well, as api_key = { vault = "secret/respan/org#api_key" }:
# path "secret/data/respan/org" { capabilities = ["read"] }
