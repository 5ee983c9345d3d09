{{/*
What the operator may do where it runs pipelines. Each rule has its reason beside it, and docs/rbac.md says what the
rules add up to.
*/}}
{{- define "spillway.rules" -}}
# To know the pipelines, and to put the finalizer on those with `deletionPolicy: Delete`.
- apiGroups: [spillway.dev]
  resources: [logpipelines]
  verbs: [list, watch, patch]
# To say how they are. Status is a subresource: the spec stays its owner's.
- apiGroups: [spillway.dev]
  resources: [logpipelines/status]
  verbs: [patch]
# The pods of ingest and syncer. Applying is patch, and create when the object isn't there yet; deleting is the garbage
# collector's part, after the pipeline.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch]
# A settings file stays as long as a ReplicaSet names it, so that a rollback finds it.
- apiGroups: [apps]
  resources: [replicasets]
  verbs: [list]
# Service: where logs are sent. ConfigMaps: settings files. ServiceAccounts: who the pods run as, and which role of the
# cloud is annotated on one that the user names.
- apiGroups: [""]
  resources: [services, configmaps, serviceaccounts]
  verbs: [get, list, watch, create, patch, delete]
# Reading: credentials and API keys that a pipeline names; their names are the users' choice, so no list of names can
# limit this. Writing: the digests of API keys, in Secrets of the operator's own.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, patch, delete]
# To touch an annotation of running pods, so that kubelet brings a changed Secret within seconds and not minutes.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, patch]
{{- with .Values.rbac.tokenServiceAccounts }}
# To set up a bucket under the pipeline's own identity: a token of its ServiceAccount, exchanged for its role.
# Only of these, because who may make tokens of every ServiceAccount may do everything.
- apiGroups: [""]
  resources: [serviceaccounts/token]
  resourceNames: {{ toJson . }}
  verbs: [create]
{{- end }}
# The syncer's right to its own Lease. The operator holds what it hands on (the next rule), so it needs neither
# `escalate` nor `bind`, and can't make a role that allows anything else than it may do itself.
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [get, list, watch, create, patch, delete]
# To create the syncer's Lease and see who holds it; update because the syncer's Role hands it on.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [get, list, create, update, patch]
# Scaling by CPU.
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [get, list, watch, create, patch, delete]
# Node drains take one pod at a time.
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
# Nothing but senders, probes and metrics reaches the pods.
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
# Metrics of the pods, where the Prometheus operator is installed.
- apiGroups: [monitoring.coreos.com]
  resources: [podmonitors]
  verbs: [get, list, watch, create, patch, delete]
# To say what happened and what to do. Patch: the same event again raises its count.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}
