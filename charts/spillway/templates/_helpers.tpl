{{- define "spillway.release" -}}
{{- default .Release.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "spillway.name" -}}
{{- default (printf "%s-operator" (include "spillway.release" .)) .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "spillway.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "spillway.name" .) .Values.serviceAccount.name }}
{{- else if .Values.serviceAccount.name }}
{{- .Values.serviceAccount.name }}
{{- else }}
{{- fail "serviceAccount.create=false needs serviceAccount.name: the ServiceAccount that the operator runs under" }}
{{- end }}
{{- end }}

{{- define "spillway.image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ default $.Chart.AppVersion .tag }}{{ end }}
{{- end }}
{{- end }}

{{/* Not `name: spillway`, which the pods of pipelines carry: no selector may find both. */}}
{{- define "spillway.selector" -}}
app.kubernetes.io/name: spillway-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "spillway.labels" -}}
{{ include "spillway.selector" . }}
app.kubernetes.io/part-of: spillway
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "spillway.subject" -}}
- kind: ServiceAccount
  name: {{ include "spillway.serviceAccount" . }}
  namespace: {{ .Release.Namespace }}
{{- end }}
