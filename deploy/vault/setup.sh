#!/bin/sh
# Let rotator log in to Vault with its ServiceAccount: write the policy beside this file, enable Kubernetes auth, write a role.
# It needs the vault program with a login that may change policies and auth methods. It is safe to run again.
#
#   VAULT_ADDR=https://vault.example.org:8200 NAMESPACE=rotator ./setup.sh
#
# If Kubernetes auth does not work yet, set the address at which Vault reaches the API server:
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

# Reading and enabling it need sudo on sys/auth, which a login that may write roles can lack. If it is not enabled, the next
# command fails with a clear message.
if ! vault read "sys/auth/$MOUNT" >/dev/null 2>&1; then
  vault auth enable "-path=$MOUNT" kubernetes || echo "$0: going on as if auth/$MOUNT were enabled" >&2
fi

# One mount serves one cluster: configuring it for another one would end the logins of the first.
if [ -n "${KUBERNETES_HOST:-}" ]; then
  configured=$(vault read -field=kubernetes_host "auth/$MOUNT/config" 2>/dev/null || true)
  if [ -n "$configured" ] && [ "$configured" != "$KUBERNETES_HOST" ]; then
    echo "$0: auth/$MOUNT serves the cluster at $configured, so nothing was changed there." >&2
    echo "For another cluster set MOUNT, and the chart's vault.auth.mount, to a name of its own." >&2
    echo "If the address of this cluster changed: vault write auth/$MOUNT/config kubernetes_host=$KUBERNETES_HOST" >&2
    exit 1
  fi
fi

if [ -n "${REVIEWER_TOKEN:-}" ]; then
  vault write "auth/$MOUNT/config" "kubernetes_host=$KUBERNETES_HOST" "kubernetes_ca_cert=@$KUBERNETES_CA" \
    "token_reviewer_jwt=@$REVIEWER_TOKEN" disable_local_ca_jwt=true
elif [ -n "${KUBERNETES_HOST:-}" ]; then
  vault write "auth/$MOUNT/config" "kubernetes_host=$KUBERNETES_HOST"
fi

# The token lives an hour, and rotator renews it after two thirds of that; after a day rotator logs in again.
vault write "auth/$MOUNT/role/$ROLE" \
  "bound_service_account_names=$SERVICE_ACCOUNT" \
  "bound_service_account_namespaces=$NAMESPACE" \
  "audience=$AUDIENCE" \
  "token_policies=$ROLE" \
  token_ttl=1h \
  token_max_ttl=24h
