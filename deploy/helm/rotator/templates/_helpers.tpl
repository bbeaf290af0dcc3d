{{- define "rotator.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- end }}

{{- define "rotator.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "rotator.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "rotator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "rotator.metadata" -}}
name: {{ include "rotator.fullname" . }}
namespace: {{ .Release.Namespace }}
labels: {{- include "rotator.labels" . | nindent 2 }}
{{- end }}

{{- define "rotator.serviceAccount" -}}
{{- default (ternary (include "rotator.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name -}}
{{- end }}

{{- define "rotator.lease" -}}
{{- default (include "rotator.fullname" .) .Values.lease.name -}}
{{- end }}

{{- define "rotator.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest }}{{ $image.repository }}@{{ $image.digest }}
{{- else }}{{ $image.repository }}:{{ default .Chart.AppVersion $image.tag }}{{ end -}}
{{- end }}

{{- /* A duration of rotator's ("1h30m") in seconds. */ -}}
{{- define "rotator.seconds" -}}
{{- $units := dict "d" 86400 "h" 3600 "m" 60 "s" 1 -}}
{{- $seconds := 0 -}}
{{- range regexFindAll "[0-9]+[dhms]" . -1 -}}
{{- $seconds = add $seconds (mul (regexFind "[0-9]+" . | int64) (get $units (regexFind "[dhms]" .))) -}}
{{- end -}}
{{- $seconds -}}
{{- end }}

{{- /* The main file, without targets, as JSON. */ -}}
{{- define "rotator.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $_ := set $config "owner" (required "owner: give this installation a name; no other may have the same" .Values.owner) -}}
{{- if .Values.targets }}{{ $_ := set $config "include" (list "targets.d/*") }}{{ end -}}
{{- $addresses := dict "listen" (ternary "[::]:9465" "0.0.0.0:9465" (eq .Values.listen "::")) "admin" "127.0.0.1:9466" -}}
{{- $_ := set $config "http" (merge $addresses (default dict $config.http)) -}}
{{- if .Values.lease.enabled -}}
{{- $_ := set $config "lease" (dict "name" (include "rotator.lease" .) "duration" .Values.lease.duration) -}}
{{- end -}}
{{- if not $config.providers -}}
{{- $_ := required "respan.organisationKey.secretName: name the Secret that holds the organisation key, or say config.providers" .Values.respan.organisationKey.secretName -}}
{{- $respan := dict "type" "respan" "base_url" .Values.respan.baseUrl "requests_per_minute" .Values.respan.requestsPerMinute -}}
{{- $_ := set $respan "api_key" (dict "file" "/var/run/secrets/rotator/respan/api-key") -}}
{{- $_ := set $config "providers" (dict "respan" $respan) -}}
{{- end -}}
{{- if not $config.stores -}}
{{- $vault := dict "type" "vault" "mount" .Values.vault.mount -}}
{{- $_ := set $vault "address" (required "vault.address: say where Vault is, as https://vault.vault.svc:8200" .Values.vault.address) -}}
{{- if not .Values.vault.token.enabled }}{{ fail "vault.token.enabled is false: say in config.stores how rotator logs in to Vault" }}{{ end -}}
{{- $auth := dict "method" "kubernetes" "token_file" "/var/run/secrets/rotator/vault/token" -}}
{{- $_ := set $vault "auth" (merge $auth .Values.vault.auth) -}}
{{- with .Values.vault.namespace }}{{ $_ := set $vault "namespace" . }}{{ end -}}
{{- if include "rotator.vaultCA" . }}{{ $_ := set $vault "ca_file" "/var/run/secrets/rotator/vault-ca/ca.crt" }}{{ end -}}
{{- $_ := set $config "stores" (dict "vault" $vault) -}}
{{- end -}}
{{- toPrettyJson $config -}}
{{- end }}

{{- /* The volume's source for the certificates to trust for Vault, or nothing. */ -}}
{{- define "rotator.vaultCA" -}}
{{- $ca := .Values.vault.ca -}}
{{- $items := list (dict "key" $ca.key "path" "ca.crt") -}}
{{- if $ca.configMap }}{{ dict "configMap" (dict "name" $ca.configMap "items" $items) | toYaml -}}
{{- else if $ca.secret }}{{ dict "secret" (dict "secretName" $ca.secret "items" $items) | toYaml -}}
{{- end -}}
{{- end }}

{{- /* The targets in parts of a quarter of a MiB, as JSON: {"parts": [{"NAME": {…}, …}, …]}. Indented, a part stays below 1 MiB. */ -}}
{{- define "rotator.parts" -}}
{{- $parts := list -}}
{{- $part := dict -}}
{{- $size := 0 -}}
{{- range $name, $target := .Values.targets -}}
{{- $more := len (toJson (dict $name $target)) -}}
{{- if and $part (gt (add $size $more) 262144) -}}
{{- $parts = append $parts $part -}}
{{- $part = dict -}}
{{- $size = 0 -}}
{{- end -}}
{{- $_ := set $part $name $target -}}
{{- $size = add $size $more -}}
{{- end -}}
{{- if $part }}{{ $parts = append $parts $part }}{{ end -}}
{{- toJson (dict "parts" $parts) -}}
{{- end }}
