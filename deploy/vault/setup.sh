#!/bin/sh
# Lets rotator log in to Vault with its ServiceAccount: the policy beside this file, Kubernetes auth, and a role.
# It needs the vault program, logged in as a person who may change policies and auth methods. It may be run again.
#
#   VAULT_ADDR=https://vault.example.org:8200 NAMESPACE=rotator ./setup.sh
#
# Where Kubernetes auth works already, that is all. Where it does not yet, say where Vault finds the API server:
#
#   KUBERNETES_HOST=https://kubernetes.default.svc ./setup.sh              Vault runs in this cluster
#   KUBERNETES_HOST=https://api.example.org:6443 KUBERNETES_CA=ca.crt REVIEWER_TOKEN=reviewer.jwt ./setup.sh
#                                                                          it runs elsewhere: see docs/kubernetes.md
set -eu

NAMESPACE="${NAMESPACE:-rotator}"                 # where the chart is installed
SERVICE_ACCOUNT="${SERVICE_ACCOUNT:-rotator}"     # the chart's serviceAccount.name, else its full name (values.yaml)
AUDIENCE="${AUDIENCE:-vault}"                     # the chart's vault.token.audience
MOUNT="${MOUNT:-kubernetes}"                      # the chart's vault.auth.mount
ROLE="${ROLE:-rotator}"                           # the chart's vault.auth.role
POLICY="${POLICY:-$(dirname "$0")/policy.hcl}"

vault policy write "$ROLE" "$POLICY"

# To look, and to enable it, takes sudo on sys/auth, which whoever may write roles need not have. If it really is not
# there, what follows fails and says so.
if ! vault read "sys/auth/$MOUNT" >/dev/null 2>&1; then
  vault auth enable "-path=$MOUNT" kubernetes || echo "$0: going on as if auth/$MOUNT were enabled" >&2
fi

if [ -n "${REVIEWER_TOKEN:-}" ]; then
  vault write "auth/$MOUNT/config" "kubernetes_host=$KUBERNETES_HOST" "kubernetes_ca_cert=@$KUBERNETES_CA" \
    "token_reviewer_jwt=@$REVIEWER_TOKEN" disable_local_ca_jwt=true
elif [ -n "${KUBERNETES_HOST:-}" ]; then
  vault write "auth/$MOUNT/config" "kubernetes_host=$KUBERNETES_HOST"
fi

# The token lives an hour and is renewed at two thirds of it; after a day rotator logs in again.
vault write "auth/$MOUNT/role/$ROLE" \
  "bound_service_account_names=$SERVICE_ACCOUNT" \
  "bound_service_account_namespaces=$NAMESPACE" \
  "audience=$AUDIENCE" \
  "token_policies=$ROLE" \
  token_ttl=1h \
  token_max_ttl=24h
