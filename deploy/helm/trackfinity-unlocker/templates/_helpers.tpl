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
{{- range $section, $keys := $settings }}
[{{ $section }}]
{{- range $key, $value := $keys }}
{{ $key }} = {{ toJson $value }}
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
