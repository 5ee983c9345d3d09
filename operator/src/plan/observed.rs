//! What of the cluster decides a plan.

use k8s_openapi::api::apps::v1::Deployment;

use super::names::{CA_HASH, FIELD_MANAGER};

/// What is in the cluster already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The ingest Deployment, if there is one.
    pub ingest: Option<Workload>,
    /// The syncer Deployment, if there is one.
    pub syncer: Option<Workload>,
    /// No ingest pod is left, and everything that was staged is loaded. Looked at while the pipeline is suspended.
    pub drained: bool,
}

/// A Deployment, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// Pods that are wanted.
    pub replicas: i32,
    /// [`FIELD_MANAGER`] holds that number: applying without it would set it back to 1.
    pub replicas_are_ours: bool,
    /// Its pods' annotation.
    pub ca_hash: Option<String>,
    /// The account that its pods run under.
    pub service_account: Option<String>,
}

impl Workload {
    /// Reads a Deployment as the API server returns it, with its managed fields.
    #[must_use]
    pub fn of(deployment: &Deployment) -> Self {
        let spec = deployment.spec.as_ref();
        let managers = deployment.metadata.managed_fields.iter().flatten();
        let replicas_are_ours = managers
            .filter(|entry| entry.manager.as_deref() == Some(FIELD_MANAGER) && entry.subresource.is_none())
            .filter_map(|entry| entry.fields_v1.as_ref())
            .any(|fields| fields.0.pointer("/f:spec/f:replicas").is_some());
        let annotations = spec
            .and_then(|spec| spec.template.metadata.as_ref())
            .and_then(|template| template.annotations.as_ref());
        Self {
            replicas: spec.and_then(|spec| spec.replicas).unwrap_or(1),
            replicas_are_ours,
            ca_hash: annotations.and_then(|annotations| annotations.get(CA_HASH)).cloned(),
            service_account: spec
                .and_then(|spec| spec.template.spec.as_ref())
                .and_then(|pod| pod.service_account_name.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn deployment(managed: Value) -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": "logs-ingest", "managedFields": managed},
            "spec": {
                "replicas": 7,
                "selector": {},
                "template": {"metadata": {"annotations": {CA_HASH: "abc"}}},
            },
        }))
        .unwrap()
    }

    fn entry(manager: &str, subresource: Option<&str>, fields: Value) -> Value {
        json!({"manager": manager, "operation": "Apply", "subresource": subresource, "fieldsV1": fields})
    }

    #[test]
    fn replicas_are_ours_only_if_our_manager_applied_them() {
        let replicas = || json!({"f:spec": {"f:replicas": {}, "f:template": {}}});
        for (managed, ours) in [
            (json!([]), false),
            (json!([entry(FIELD_MANAGER, None, replicas())]), true),
            (json!([entry(FIELD_MANAGER, None, json!({"f:spec": {"f:template": {}}}))]), false),
            (json!([entry("spillway-operator-replicas", None, replicas())]), false),
            (json!([entry("kube-controller-manager", Some("scale"), replicas())]), false),
        ] {
            let workload = Workload::of(&deployment(managed.clone()));
            assert_eq!(workload.replicas_are_ours, ours, "{managed}");
            assert_eq!((workload.replicas, workload.ca_hash.as_deref()), (7, Some("abc")));
        }
    }
}
