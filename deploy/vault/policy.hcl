# What rotator may do in Vault: `vault policy write rotator policy.hcl` (setup.sh does it).
#
# For targets whose `path` begins with apps/, in the KV version 2 mount secret/. Change both to what yours are called;
# for other places, repeat the three lines. Nothing here lists, deletes a path, or reads what lies elsewhere.

# Reads the served version; tries whether a write would be taken, and writes the new one.
path "secret/data/apps/*" { capabilities = ["create", "read", "update"] }

# Reads which versions there are, and when they were written.
path "secret/metadata/apps/*" { capabilities = ["read"] }

# Destroys the versions that hold a key whose grace is over, so that the path cannot be rolled back to a dead key.
path "secret/destroy/apps/*" { capabilities = ["update"] }

# `rotator check --online` asks which of these rights it has. Vault's policy `default` allows it too.
path "sys/capabilities-self" { capabilities = ["update"] }

# Renewing its own token, looking how long that lives, and revoking it at the end are in Vault's policy `default`. Only
# where the role says token_no_default_policy=true, say it here:
# path "auth/token/renew-self" { capabilities = ["update"] }
# path "auth/token/revoke-self" { capabilities = ["update"] }
# path "auth/token/lookup-self" { capabilities = ["read"] }

# Only where the organisation key is in Vault as well, as api_key = { vault = "secret/respan/org#api_key" }:
# path "secret/data/respan/org" { capabilities = ["read"] }
