{{/* How the workers reach Trackfinity: by which authorities, and through which proxy. Nothing of it reaches gateway and console. */}}
{{- define "trackfinity.settings" -}}
{{- with .Values.trackfinity.certificateAuthority -}}
{{- if and .configMap .secret }}
{{- fail "trackfinity.certificateAuthority: set configMap or secret, not both" }}
{{- end }}
{{- if or .configMap .secret }}
ca_file: /etc/unlocker/trackfinity-ca/ca.crt
{{- end }}
{{- end }}
{{- with .Values.trackfinity.proxy }}
{{- if and .url .secret }}
{{- fail "trackfinity.proxy: set url or secret, not both" }}
{{- end }}
{{- if and (or .url .secret) (hasPrefix "http://" $.Values.settings.trackfinity.base_url) }}
{{- fail "trackfinity.proxy: is never used, because settings.trackfinity.base_url begins with http://" }}
{{- end }}
{{- if .url }}
proxy: {{ .url | quote }}
{{- else if .secret }}
proxy_file: /run/secrets/unlocker-proxy/url
{{- end }}
{{- end }}
{{- end -}}

{{- define "trackfinity.mounts" -}}
{{- if or .Values.trackfinity.certificateAuthority.configMap .Values.trackfinity.certificateAuthority.secret }}
- name: trackfinity-ca
  mountPath: /etc/unlocker/trackfinity-ca
  readOnly: true
{{- end }}
{{- if .Values.trackfinity.proxy.secret }}
- name: trackfinity-proxy
  mountPath: /run/secrets/unlocker-proxy
  readOnly: true
{{- end }}
{{- end -}}

{{- define "trackfinity.volumes" -}}
{{- with .Values.trackfinity.certificateAuthority }}
{{- if or .configMap .secret }}
- name: trackfinity-ca
  {{- if .configMap }}
  configMap:
    name: {{ .configMap }}
  {{- else }}
  secret:
    secretName: {{ .secret }}
    defaultMode: 0440
  {{- end }}
    items:
      - key: {{ .key }}
        path: ca.crt
{{- end }}
{{- end }}
{{- with .Values.trackfinity.proxy }}
{{- if .secret }}
- name: trackfinity-proxy
  secret:
    secretName: {{ .secret }}
    defaultMode: 0440
    items:
      - key: {{ .key }}
        path: url
{{- end }}
{{- end }}
{{- end -}}

{{/* With a proxy, the workers need no way to Trackfinity itself. */}}
{{- define "trackfinity.egress" -}}
{{- $policy := .Values.networkPolicy -}}
{{- $proxy := .Values.trackfinity.proxy -}}
{{- $ports := $policy.trackfinityPorts -}}
{{- $to := $policy.trackfinityTo -}}
{{- if or $proxy.url $proxy.secret -}}
{{- $to = $policy.proxyTo -}}
{{- $ports = $policy.proxyPorts -}}
{{- if $proxy.url -}}
{{- $ports = default (list (regexFind "[0-9]+$" $proxy.url)) $ports -}}
{{- else -}}
{{- $ports = default (list 3128) $ports -}}
{{- end }}
# The proxy before Trackfinity
{{- else }}
# Trackfinity
{{- end }}
- ports:
    {{- range $ports }}
    - port: {{ . }}
      protocol: TCP
    {{- end }}
  {{- with $to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
