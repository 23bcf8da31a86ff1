{{- define "unlocker.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "unlocker.fullname" -}}
{{- $name := include "unlocker.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 53 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 53 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "unlocker.selector" -}}
app.kubernetes.io/name: {{ include "unlocker.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "unlocker.labels" -}}
{{ include "unlocker.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "unlocker.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "unlocker.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "unlocker.secret" -}}
{{- default (include "unlocker.fullname" .) .Values.secret.existing -}}
{{- end -}}

{{- define "unlocker.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* The alerts select jobs with "unlocker" in their name. A gateway's job ends with "-gateway", a console's with
"-console"; a worker's does not. */}}
{{- define "unlocker.job" -}}
{{- $name := include "unlocker.fullname" . -}}
{{- if and (contains "unlocker" $name) (not (hasSuffix "-gateway" $name)) (not (hasSuffix "-console" $name)) -}}{{ $name }}{{- else -}}{{ $name }}-unlocker{{- end -}}
{{- end -}}

{{/* The drain, then at most 10 s for the last acknowledgements, 5 s for telemetry, and 5 s to spare. */}}
{{- define "unlocker.gracePeriod" -}}
{{- add (trimSuffix "s" .Values.settings.worker.drain_timeout | int) 20 -}}
{{- end -}}

{{/* The settings file. JSON's strings, numbers, booleans and lists are also valid TOML. */}}
{{- define "unlocker.settings" -}}
{{- $settings := deepCopy .Values.settings -}}
{{- $paths := dict "trackfinity" (dict "api_key_file" "api-key" "api_username_file" "api-username") "broker" (dict "url_file" "broker-url") -}}
{{- $login := include "unlocker.loginFiles" .Values.broker | fromJson -}}
{{- if .Values.history.enabled -}}
{{- $_ := set $settings "history" (dict "enabled" true "max_age" .Values.history.maxAge "max_bytes" .Values.history.maxBytes) -}}
{{- end -}}
{{- range $section, $files := $paths -}}
{{- $keys := deepCopy (default dict (get $settings $section)) -}}
{{- range $key, $file := $files -}}
{{- $_ := set $keys $key (printf "/run/secrets/unlocker/%s" $file) -}}
{{- end -}}
{{- $_ := set $settings $section $keys -}}
{{- end -}}
{{- $_ := set $settings "trackfinity" (merge (fromYaml (include "trackfinity.settings" .)) (get $settings "trackfinity")) -}}
{{- $_ := set $settings "broker" (merge (get $settings "broker") $login) -}}
{{- range $section, $keys := $settings }}
[{{ $section }}]
{{- range $key, $value := $keys }}
{{ $key }} = {{ toJson $value }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The settings that name the files of `broker`, as JSON: what a process logs in to RabbitMQ with, beside broker-url. */}}
{{- define "unlocker.loginFiles" -}}
{{- $folder := "/run/secrets/unlocker-broker" -}}
{{- $files := dict -}}
{{- if .tls.secret -}}
{{- if .tls.clientCertificate -}}
{{- $_ := set $files "client_certificate_file" (printf "%s/tls.crt" $folder) -}}
{{- $_ := set $files "client_key_file" (printf "%s/tls.key" $folder) -}}
{{- end -}}
{{- if .tls.ca -}}
{{- $_ := set $files "ca_file" (printf "%s/ca.crt" $folder) -}}
{{- end -}}
{{- end -}}
{{- if or .token.audience .token.secret -}}
{{- $_ := set $files "token_file" (printf "%s/token" $folder) -}}
{{- end -}}
{{- toJson $files -}}
{{- end -}}

{{/* The same for the settings file of the gateway and of the console. */}}
{{- define "unlocker.loginSettings" -}}
{{- range $key, $value := include "unlocker.loginFiles" . | fromJson }}
{{ $key }} = {{ toJson $value }}
{{- end }}
{{- end -}}

{{- define "unlocker.loginMount" -}}
{{- if or .tls.secret .token.audience .token.secret }}
- name: broker
  mountPath: /run/secrets/unlocker-broker
  readOnly: true
{{- end }}
{{- end -}}

{{- define "unlocker.loginVolume" -}}
{{- if or .tls.secret .token.audience .token.secret }}
- name: broker
  projected:
    defaultMode: 0440
    sources:
      {{- if .tls.secret }}
      - secret:
          name: {{ .tls.secret }}
          items:
            {{- if .tls.clientCertificate }}
            - key: tls.crt
              path: tls.crt
            - key: tls.key
              path: tls.key
            {{- end }}
            {{- if .tls.ca }}
            - key: ca.crt
              path: ca.crt
            {{- end }}
      {{- end }}
      {{- if .token.audience }}
      # For RabbitMQ alone: Kubernetes' API accepts no token with another audience than its own.
      - serviceAccountToken:
          audience: {{ .token.audience | quote }}
          expirationSeconds: {{ .token.expirationSeconds }}
          path: token
      {{- end }}
      {{- if .token.secret }}
      - secret:
          name: {{ .token.secret }}
          items:
            - key: {{ .token.key }}
              path: token
      {{- end }}
{{- end }}
{{- end -}}

{{/* Shared by the worker, the gateway, the console and their tests. */}}
{{- define "unlocker.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- with .Values.appArmorProfile }}
appArmorProfile:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "unlocker.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "unlocker.env" -}}
{{ include "unlocker.commonEnv" . }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "unlocker.commonEnv" -}}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
{{- if .Values.certificateAuthority.configMap }}
# The file has the public authorities, the directory your own.
- name: SSL_CERT_FILE
  value: /etc/ssl/certs/ca-certificates.crt
- name: SSL_CERT_DIR
  value: /etc/unlocker/ca
{{- end }}
{{- if .Values.otel.endpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ .Values.otel.endpoint | quote }}
- name: OTEL_RESOURCE_ATTRIBUTES
  value: k8s.namespace.name={{ .Release.Namespace }},k8s.pod.name=$(POD_NAME),service.instance.id=$(POD_NAME)
{{- end }}
{{- end -}}

{{- define "unlocker.mounts" -}}
- name: settings
  mountPath: /etc/unlocker/settings
  readOnly: true
- name: secrets
  mountPath: /run/secrets/unlocker
  readOnly: true
{{- include "unlocker.loginMount" .Values.broker }}
{{- include "unlocker.caMount" . }}
{{- include "trackfinity.mounts" . }}
{{- end -}}

{{- define "unlocker.caMount" -}}
{{- if .Values.certificateAuthority.configMap }}
- name: ca
  mountPath: /etc/unlocker/ca
  readOnly: true
{{- end }}
{{- end -}}

{{- define "unlocker.volumes" -}}
- name: settings
  configMap:
    name: {{ include "unlocker.fullname" . }}
- name: secrets
  secret:
    secretName: {{ include "unlocker.secret" . }}
    defaultMode: 0440
{{- include "unlocker.loginVolume" .Values.broker }}
{{- include "unlocker.caVolume" . }}
{{- include "trackfinity.volumes" . }}
{{- end -}}

{{- define "unlocker.caVolume" -}}
{{- if .Values.certificateAuthority.configMap }}
- name: ca
  configMap:
    name: {{ .Values.certificateAuthority.configMap }}
    items:
      - key: {{ .Values.certificateAuthority.key }}
        path: ca.crt
{{- end }}
{{- end -}}
