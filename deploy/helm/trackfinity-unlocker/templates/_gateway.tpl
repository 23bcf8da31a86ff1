{{/*
The gateway's objects have a name of their own in app.kubernetes.io/name. With the worker's name, the worker's
NetworkPolicy would also apply to the gateway's pods, and let them reach Trackfinity.
*/}}
{{- define "gateway.fullname" -}}
{{ include "unlocker.fullname" . }}-gateway
{{- end -}}

{{- define "gateway.selector" -}}
app.kubernetes.io/name: {{ include "unlocker.name" . | trunc 55 | trimSuffix "-" }}-gateway
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "gateway.labels" -}}
{{ include "gateway.selector" . }}
app.kubernetes.io/part-of: {{ include "unlocker.name" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "gateway.serviceAccount" -}}
{{- if .Values.gateway.serviceAccount.create -}}
{{- default (include "gateway.fullname" .) .Values.gateway.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.gateway.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "gateway.secret" -}}
{{- default (include "gateway.fullname" .) .Values.gateway.secret.existing -}}
{{- end -}}

{{- define "gateway.clients" -}}
{{- default (printf "%s-clients" (include "gateway.fullname" .)) .Values.gateway.clients.existing -}}
{{- end -}}

{{/* The gateway's settings file: nothing of Trackfinity. Its users name the same prefix as the worker. */}}
{{- define "gateway.settings" -}}
[broker]
url_file = "/run/secrets/unlocker/broker-url"
{{- include "unlocker.loginSettings" .Values.gateway.broker }}
[gateway]
clients_dir = "/run/secrets/unlocker-clients"
listen = "0.0.0.0:8080"
max_wait = {{ toJson .Values.gateway.maxWait }}
{{- if .Values.history.enabled }}
[history]
enabled = true
{{- end }}
[topology]
prefix = {{ toJson .Values.settings.topology.prefix }}
{{- end -}}

{{- define "gateway.env" -}}
{{ include "unlocker.commonEnv" . }}
# The image sets the worker's port.
- name: UNLOCKER__OPS__LISTEN
  value: 0.0.0.0:9465
{{- if .Values.otel.endpoint }}
- name: OTEL_SERVICE_NAME
  value: trackfinity-unlocker-gateway
{{- end }}
{{- with .Values.gateway.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "gateway.mounts" -}}
- name: settings
  mountPath: /etc/unlocker/settings
  readOnly: true
- name: secrets
  mountPath: /run/secrets/unlocker
  readOnly: true
- name: clients
  mountPath: /run/secrets/unlocker-clients
  readOnly: true
{{- include "unlocker.loginMount" .Values.gateway.broker }}
{{- include "unlocker.caMount" . }}
{{- end -}}

{{- define "gateway.volumes" -}}
- name: settings
  configMap:
    name: {{ include "gateway.fullname" . }}
- name: secrets
  secret:
    secretName: {{ include "gateway.secret" . }}
    defaultMode: 0440
    # Nothing else, even if the Secret has more keys.
    items:
      - key: broker-url
        path: broker-url
- name: clients
  secret:
    secretName: {{ include "gateway.clients" . }}
    defaultMode: 0440
{{- include "unlocker.loginVolume" .Values.gateway.broker }}
{{- include "unlocker.caVolume" . }}
{{- end -}}
