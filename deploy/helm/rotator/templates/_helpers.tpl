{{- /* A release's name may hold dots, and a Service's may not. */ -}}
{{- define "rotator.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | replace "." "-" | trunc 50 | trimSuffix "-" -}}
{{- end }}

{{- define "rotator.name" -}}
{{- default .Chart.Name .Values.nameOverride -}}
{{- end }}

{{- define "rotator.selector" -}}
app.kubernetes.io/name: {{ include "rotator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* The labels that the chart itself sets, which commonLabels and podLabels must not repeat. */ -}}
{{- define "rotator.ownLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "rotator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "rotator.labels" -}}
{{ include "rotator.ownLabels" . }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* The labels of pods that come from values, each on a line of its own, or nothing. */ -}}
{{- define "rotator.podLabels" -}}
{{- $own := include "rotator.ownLabels" . | fromYaml -}}
{{- range $value := list "commonLabels" "podLabels" -}}
{{- range $label := keys (default dict (get $.Values $value)) | sortAlpha -}}
{{- if hasKey $own $label }}{{ fail (printf "%s must not hold %s: the chart sets this label" $value $label) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- with merge dict (default dict .Values.podLabels) (default dict .Values.commonLabels) }}{{ toYaml . }}{{ end -}}
{{- end }}

{{- define "rotator.metadata" -}}
name: {{ include "rotator.fullname" . }}
namespace: {{ .Release.Namespace }}
labels: {{- include "rotator.labels" . | nindent 2 }}
{{- end }}

{{- /* The labels of an object with labels of its own, which win over commonLabels: [$, its labels]. */ -}}
{{- define "rotator.labelsWith" -}}
{{- include "rotator.labels" (index . 0) | fromYaml | merge dict (default dict (index . 1)) | toYaml -}}
{{- end }}

{{- define "rotator.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ default (include "rotator.fullname" .) .Values.serviceAccount.name }}
{{- else }}{{ required "serviceAccount.create is false: set serviceAccount.name to the account of the pods (\"default\" is possible)" .Values.serviceAccount.name }}{{ end -}}
{{- end }}

{{- define "rotator.lease" -}}
{{- default (include "rotator.fullname" .) .Values.lease.name -}}
{{- end }}

{{- /* Whether the daemon needs a token for the API server: not empty. */ -}}
{{- define "rotator.asksKubernetes" -}}
{{- if or .Values.lease.enabled (dig "external_secrets" "" (default dict .Values.notify)) }}yes{{ end -}}
{{- end }}

{{- define "rotator.image" -}}
{{- $image := .Values.image -}}
{{- $repository := required "image.repository: there is no published image; set it to where you pushed yours" $image.repository -}}
{{- with .Values.global.imageRegistry }}
{{- $repository = printf "%s/%s" (trimSuffix "/" .) (regexReplaceAll "^([^/]*[.:][^/]*|localhost)/" $repository "") }}
{{- end -}}
{{- if $image.digest }}{{ $repository }}@{{ $image.digest }}
{{- else }}{{ $repository }}:{{ default .Chart.AppVersion $image.tag }}{{ end -}}
{{- end }}

{{- /* What every pod has, the daemon's and a Job's. */ -}}
{{- define "rotator.pod" -}}
serviceAccountName: {{ include "rotator.serviceAccount" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- $secrets := list -}}
{{- range concat (default list .Values.global.imagePullSecrets) (default list .Values.imagePullSecrets) -}}
{{- $secrets = append $secrets (kindIs "string" . | ternary (dict "name" .) .) -}}
{{- end -}}
{{- with uniq $secrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.podSecurityContext }}
securityContext: {{- toYaml . | nindent 2 }}
{{- end }}
{{- range $field := list "hostAliases" "dnsPolicy" "dnsConfig" "runtimeClassName" "priorityClassName" "nodeSelector" "tolerations" "affinity" "initContainers" }}
{{- with get $.Values $field }}
{{ dict $field . | toYaml }}
{{- end }}
{{- end }}
{{- end }}

{{- /* What the container of every pod has, besides its arguments, variables and mounts. */ -}}
{{- define "rotator.container" -}}
name: rotator
image: {{ include "rotator.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- with .Values.envFrom }}
envFrom: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.resources }}
resources: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.securityContext }}
securityContext: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* A duration ("1h30m") in seconds. */ -}}
{{- define "rotator.seconds" -}}
{{- $units := dict "d" 86400 "h" 3600 "m" 60 "s" 1 -}}
{{- $seconds := 0 -}}
{{- range regexFindAll "[0-9]+[dhms]" . -1 -}}
{{- $seconds = add $seconds (mul (regexFind "[0-9]+" . | int64) (get $units (regexFind "[dhms]" .))) -}}
{{- end -}}
{{- $seconds -}}
{{- end }}

{{- /* Rules that the schema cannot express. Otherwise a pod would not start, or would keep its old configuration. */ -}}
{{- define "rotator.check" -}}
{{- $config := default dict .Values.config -}}
{{- $jitter := dig "daemon" "jitter" "5%" $config | trimSuffix "%" | float64 -}}
{{- $defaults := merge (deepCopy (default dict $config.defaults)) (dict "ttl" "24h" "renew_before" "8h" "grace_period" "4h" "key_field" "api_key") -}}
{{- range $name, $target := .Values.targets -}}
{{- if $target -}}
{{- $all := merge (deepCopy $target) (deepCopy $defaults) -}}
{{- $seconds := dict -}}
{{- range $key := list "ttl" "renew_before" "grace_period" -}}
{{- $value := get $all $key -}}
{{- if hasSuffix "%" $value -}}
{{- $_ := set $seconds $key (divf (mulf $seconds.ttl (trimSuffix "%" $value | float64)) 100) -}}
{{- else -}}
{{- $_ := set $seconds $key (include "rotator.seconds" $value | float64) -}}
{{- end -}}
{{- end -}}
{{- if ge $seconds.renew_before $seconds.ttl -}}
{{- fail (printf "targets.%s: renew_before (%s) must be shorter than ttl (%s)" $name $all.renew_before $all.ttl) -}}
{{- else if ge (addf $seconds.renew_before (divf (mulf $seconds.renew_before $jitter) 100)) $seconds.ttl -}}
{{- fail (printf "targets.%s: renew_before (%s) and config.daemon.jitter together must be shorter than ttl (%s)" $name $all.renew_before $all.ttl) -}}
{{- else if gt $seconds.grace_period $seconds.renew_before -}}
{{- fail (printf "targets.%s: grace_period (%s) must not be longer than renew_before (%s)" $name $all.grace_period $all.renew_before) -}}
{{- end -}}
{{- range $field := list $all.key_field "rotator" -}}
{{- if hasKey (default dict $all.extra_fields) $field }}{{ fail (printf "targets.%s.extra_fields must not hold %q" $name $field) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $name, $webhook := dig "webhooks" dict (default dict .Values.notify) -}}
{{- include "rotator.checkUrl" (list (printf "notify.webhooks.%s.url" $name) $webhook.url false "") -}}
{{- end -}}
{{- range $table, $key := dict "providers" "base_url" "stores" "address" -}}
{{- range $name, $part := default dict (get $config $table) -}}
{{- $place := printf "config.%s.%s" $table $name -}}
{{- include "rotator.checkUrl" (list (printf "%s.%s" $place $key) (get $part $key) (get $part "allow_insecure") (printf "%s.allow_insecure" $place)) -}}
{{- end -}}
{{- end -}}
{{- $types := concat (list "http" "respan") (default list .Values.plugins) -}}
{{- range $name, $provider := default (dict "" .Values.provider) $config.providers -}}
{{- if not (has $provider.type $types) -}}
{{- $place := ternary (printf "config.providers.%s" $name) "provider" (ne $name "") -}}
{{- fail (printf "%s.type: there is no type %q. Use %s" $place $provider.type (join " or " $types)) -}}
{{- end -}}
{{- end -}}
{{- $parts := dict "provider" (list .Values.provider.name) "store" (list "vault") -}}
{{- range $option, $table := dict "provider" "providers" "store" "stores" -}}
{{- with get $config $table }}{{ $_ := set $parts $option (keys . | sortAlpha) }}{{ end -}}
{{- range $name, $target := merge (dict "" $config.defaults) (default dict $.Values.targets) -}}
{{- $part := get (default dict $target) $option -}}
{{- if and $part (not (has $part (get $parts $option))) -}}
{{- $place := ternary (printf "targets.%s" $name) "config.defaults" (ne $name "") -}}
{{- fail (printf "%s.%s: there is no %s %q. Use %s" $place $option $option $part (get $parts $option | join " or ")) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* Refuse a URL without TLS, unless it is of this host or allowed: [its name, URL, whether it is allowed, what allows it]. */ -}}
{{- define "rotator.checkUrl" -}}
{{- $name := index . 0 -}}
{{- $url := default "https://" (index . 1) -}}
{{- $loopback := "^http://(localhost|127([.][0-9]{1,3}){3}|\\[::1\\])(:[0-9]+)?(/|$)" -}}
{{- if not (or (hasPrefix "https://" $url) (index . 2) (regexMatch $loopback $url)) -}}
{{- $way := ternary (printf ", or set %s: true" (index . 3)) "" (ne (index . 3) "") -}}
{{- fail (printf "%s must begin with https://: over http:// credentials and keys travel unencrypted, so it is for loopback hosts. Use https://%s" $name $way) -}}
{{- end -}}
{{- end }}

{{- /* A value as JSON of many lines, in which a block of YAML can hold each character: YAML has no DEL, C1 or BOM. */ -}}
{{- define "rotator.json" -}}
{{- $json := toPrettyJson . -}}
{{- range regexFindAll "[\\x{7f}-\\x{9f}\\x{feff}\\x{fffe}\\x{ffff}]" $json -1 | uniq -}}
{{- $json = replace . (printf "%+q" . | trimAll "\"" | replace "\\x" "\\u00") $json -}}
{{- end -}}
{{- $json -}}
{{- end }}

{{- /* The main file, without targets, as JSON. */ -}}
{{- define "rotator.config" -}}
{{- $config := deepCopy (default dict .Values.config) -}}
{{- $_ := set $config "owner" (required "owner: give this installation a name that no other one has" .Values.owner) -}}
{{- $_ := set $config "include" (list "targets.d/*") -}}
{{- $addresses := dict "listen" (ternary "[::]:9465" "0.0.0.0:9465" (eq .Values.listen "::")) "admin" "127.0.0.1:9466" -}}
{{- $_ := set $config "http" (merge $addresses (default dict $config.http)) -}}
{{- if .Values.lease.enabled -}}
{{- $lease := dict "name" (include "rotator.lease" .) "duration" .Values.lease.duration -}}
{{- $_ := set $config "lease" $lease -}}
{{- end -}}
{{- with .Values.notify }}{{ $_ := set $config "notify" . }}{{ end -}}
{{- if not $config.providers -}}
{{- with .Values.provider -}}
{{- $_ := required "provider.credential.secretName: name the Secret that holds the management credential, or set config.providers" .credential.secretName -}}
{{- include "rotator.checkUrl" (list "provider.baseUrl" .baseUrl (get (default dict .options) "allow_insecure") "provider.options.allow_insecure") -}}
{{- $provider := dict "type" .type "base_url" .baseUrl "requests_per_minute" .requestsPerMinute -}}
{{- $_ := set $provider "api_key" (dict "file" "/var/run/secrets/rotator/provider/api-key") -}}
{{- $_ := set $config "providers" (dict .name (merge $provider (default dict .options))) -}}
{{- end -}}
{{- end -}}
{{- if not $config.stores -}}
{{- $vault := dict "type" "vault" "mount" .Values.vault.mount -}}
{{- $_ := set $vault "address" (required "vault.address: set the address of Vault, as https://vault.vault.svc:8200" .Values.vault.address) -}}
{{- include "rotator.checkUrl" (list "vault.address" .Values.vault.address .Values.vault.allowInsecure "vault.allowInsecure") -}}
{{- if regexMatch "/v1/*$" .Values.vault.address }}{{ fail "vault.address must not end with /v1: rotator adds that to each request" }}{{ end -}}
{{- if .Values.vault.allowInsecure }}{{ $_ := set $vault "allow_insecure" true }}{{ end -}}
{{- if not .Values.vault.token.enabled }}{{ fail "vault.token.enabled is false: set in config.stores how rotator logs in to Vault" }}{{ end -}}
{{- $auth := dict "method" "kubernetes" "token_file" (printf "%s/token" .Values.vault.token.mountPath) -}}
{{- $_ := set $vault "auth" (merge $auth .Values.vault.auth) -}}
{{- with .Values.vault.namespace }}{{ $_ := set $vault "namespace" . }}{{ end -}}
{{- with .Values.vault.formerLocations }}{{ $_ := set $vault "former_locations" . }}{{ end -}}
{{- if include "rotator.vaultCA" . }}{{ $_ := set $vault "ca_file" "/var/run/secrets/rotator/vault-ca/ca.crt" }}{{ end -}}
{{- $_ := set $config "stores" (dict "vault" $vault) -}}
{{- end -}}
{{- include "rotator.json" $config -}}
{{- end }}

{{- /* The volume's source for the certificates to trust for Vault, or nothing. */ -}}
{{- define "rotator.vaultCA" -}}
{{- $ca := .Values.vault.ca -}}
{{- if and $ca.configMap $ca.secret }}{{ fail "vault.ca: set configMap or secret, not both" }}{{ end -}}
{{- $items := list (dict "key" $ca.key "path" "ca.crt") -}}
{{- if $ca.configMap }}{{ dict "configMap" (dict "name" $ca.configMap "items" $items) | toYaml -}}
{{- else if $ca.secret }}{{ dict "secret" (dict "secretName" $ca.secret "items" $items) | toYaml -}}
{{- end -}}
{{- end }}

{{- /* The ConfigMap of one part of the targets. The number of parts is in its name, so that the volume of a running pod never changes to another number. */ -}}
{{- define "rotator.part" -}}
{{- $top := index . 0 -}}
{{ include "rotator.fullname" $top }}-targets-{{ index . 1 }}-of-{{ $top.Values.configParts }}
{{- end }}

{{- /* The targets in `configParts` parts, split by name alone, as JSON: {"parts": [the text of a file, …]}. */ -}}
{{- define "rotator.parts" -}}
{{- $count := int .Values.configParts -}}
{{- $parts := list -}}
{{- range until $count }}{{ $parts = append $parts dict }}{{ end -}}
{{- range $name, $target := .Values.targets -}}
{{- if $target }}{{ $_ := set (index $parts (mod (adler32sum $name | int64) $count)) $name $target }}{{ end -}}
{{- end -}}
{{- $files := list -}}
{{- range $parts -}}
{{- $file := include "rotator.json" (dict "targets" .) -}}
{{- $files = append $files $file -}}
{{- $size := len $file -}}
{{- if gt $size 1000000 -}}
{{- fail (printf "configParts: a part of the targets takes %d bytes, and a ConfigMap holds 1 MiB; set it to %d" $size (add 1 (mul 2 $count))) -}}
{{- end -}}
{{- end -}}
{{- toJson (dict "parts" $files) -}}
{{- end }}

{{- define "rotator.env" -}}
- name: ROTATOR_CONFIG
  value: /etc/rotator/{{ if .Values.existingConfig.name }}{{ .Values.existingConfig.key }}{{ else }}rotator.json{{ end }}
- name: ROTATOR_LOG_FORMAT
  value: {{ .Values.logFormat }}
- name: ROTATOR_LOG_LEVEL
  value: {{ .Values.logLevel }}
{{- range .Values.env }}
{{- if has .name (list "ROTATOR_CONFIG" "ROTATOR_LOG_FORMAT" "ROTATOR_LOG_LEVEL" "ROTATOR_URL") }}
{{- fail (printf "env must not hold %s: the chart sets it; use existingConfig, logFormat and logLevel" .name) }}
{{- end }}
- {{ toYaml . | nindent 2 | trim }}
{{- end }}
{{- end }}

{{- /* The mounts of every pod. Those that ask the API server have the mount of `rotator.kubernetesMount` as well. */ -}}
{{- define "rotator.mounts" -}}
- name: config
  mountPath: /etc/rotator
  readOnly: true
{{- if .Values.provider.credential.secretName }}
- name: provider
  mountPath: /var/run/secrets/rotator/provider
  readOnly: true
{{- end }}
{{- if .Values.vault.token.enabled }}
- name: vault-token
  mountPath: {{ .Values.vault.token.mountPath }}
  readOnly: true
{{- end }}
{{- if include "rotator.vaultCA" . }}
- name: vault-ca
  mountPath: /var/run/secrets/rotator/vault-ca
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}{{ toYaml . | nindent 0 }}{{ end }}
{{- end }}

{{- define "rotator.volumes" -}}
{{- $main := .Values.existingConfig.name -}}
{{- $parts := .Values.existingConfig.targets -}}
{{- if not $main -}}
{{- $main = printf "%s-config" (include "rotator.fullname" .) -}}
{{- $parts = list -}}
{{- range until (int .Values.configParts) }}{{ $parts = append $parts (include "rotator.part" (list $ .)) }}{{ end -}}
{{- end -}}
- name: config
  projected:
    sources:
      - configMap:
          name: {{ $main }}
      {{- range $number, $part := $parts }}
      - configMap:
          name: {{ $part }}
          items:
            - key: targets.json
              path: targets.d/{{ $number }}.json
      {{- end }}
{{- with .Values.provider.credential }}
{{- if .secretName }}
- name: provider
  secret:
    secretName: {{ .secretName }}
    defaultMode: 0440
    items:
      - key: {{ .key }}
        path: api-key
{{- end }}
{{- end }}
{{- with .Values.vault.token }}
{{- if .enabled }}
- name: vault-token
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken:
          audience: {{ .audience | quote }}
          expirationSeconds: {{ int64 .expirationSeconds }}
          path: token
{{- end }}
{{- end }}
{{- with include "rotator.vaultCA" . }}
- name: vault-ca
  {{- . | nindent 2 }}
{{- end }}
{{- with .Values.extraVolumes }}{{ toYaml . | nindent 0 }}{{ end }}
{{- end }}

{{- define "rotator.kubernetesMount" -}}
{{- if include "rotator.asksKubernetes" . -}}
- name: kubernetes
  mountPath: /var/run/secrets/kubernetes.io/serviceaccount
  readOnly: true
{{- end -}}
{{- end }}

{{- define "rotator.kubernetesVolume" -}}
{{- if include "rotator.asksKubernetes" . -}}
# For the Lease and ExternalSecrets: the token that Kubernetes would mount automatically.
- name: kubernetes
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken:
          expirationSeconds: 3607
          path: token
      - configMap:
          name: kube-root-ca.crt
          items:
            - key: ca.crt
              path: ca.crt
      - downwardAPI:
          items:
            - path: namespace
              fieldRef:
                fieldPath: metadata.namespace
{{- end -}}
{{- end }}
