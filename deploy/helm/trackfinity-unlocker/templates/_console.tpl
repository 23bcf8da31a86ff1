{{/*
The console's objects have a name of their own in app.kubernetes.io/name. With the worker's name, the worker's
NetworkPolicy would also apply to the console's pods, and let them reach Trackfinity.
*/}}
{{- define "console.fullname" -}}
{{ include "unlocker.fullname" . }}-console
{{- end -}}

{{- define "console.selector" -}}
app.kubernetes.io/name: {{ include "unlocker.name" . | trunc 55 | trimSuffix "-" }}-console
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "console.labels" -}}
{{ include "console.selector" . }}
app.kubernetes.io/part-of: {{ include "unlocker.name" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "console.serviceAccount" -}}
{{- if .Values.console.serviceAccount.create -}}
{{- default (include "console.fullname" .) .Values.console.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.console.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "console.secret" -}}
{{- default (include "console.fullname" .) .Values.console.secret.existing -}}
{{- end -}}

{{/* The console's settings file: nothing of Trackfinity. Its user works on the same prefix as the workers. */}}
{{- define "console.settings" -}}
{{- $console := deepCopy .Values.console.settings -}}
{{- if .Values.console.ingress.enabled -}}
{{- $_ := set $console "allowed_hosts" (append (default list $console.allowed_hosts) .Values.console.ingress.host | uniq) -}}
{{- end -}}
{{- $paths := dict "listen" "0.0.0.0:8090" "viewer_token_file" "/run/secrets/unlocker/viewer-token" "operator_token_file" "/run/secrets/unlocker/operator-token" -}}
[broker]
url_file = "/run/secrets/unlocker/broker-url"
{{- include "unlocker.loginSettings" .Values.console.broker }}
[console]
{{- range $key, $value := mergeOverwrite $console $paths }}
{{ $key }} = {{ toJson $value }}
{{- end }}
{{- if .Values.history.enabled }}
[history]
enabled = true
{{- end }}
{{- with .Values.settings.results }}
[results]
{{- range $key, $value := . }}
{{ $key }} = {{ toJson $value }}
{{- end }}
{{- end }}
[topology]
prefix = {{ toJson .Values.settings.topology.prefix }}
{{- end -}}

{{- define "console.env" -}}
{{ include "unlocker.commonEnv" . }}
# The image sets the worker's port.
- name: UNLOCKER__OPS__LISTEN
  value: 0.0.0.0:9466
{{- if .Values.otel.endpoint }}
- name: OTEL_SERVICE_NAME
  value: trackfinity-unlocker-console
{{- end }}
{{- with .Values.console.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "console.mounts" -}}
- name: settings
  mountPath: /etc/unlocker/settings
  readOnly: true
- name: secrets
  mountPath: /run/secrets/unlocker
  readOnly: true
{{- include "unlocker.loginMount" .Values.console.broker }}
{{- include "unlocker.caMount" . }}
{{- end -}}

{{- define "console.volumes" -}}
- name: settings
  configMap:
    name: {{ include "console.fullname" . }}
- name: secrets
  secret:
    secretName: {{ include "console.secret" . }}
    defaultMode: 0440
    # Nothing else, even if the Secret has more keys.
    items:
      {{- range list "broker-url" "viewer-token" "operator-token" }}
      - key: {{ . }}
        path: {{ . }}
      {{- end }}
{{- include "unlocker.loginVolume" .Values.console.broker }}
{{- include "unlocker.caVolume" . }}
{{- end -}}
