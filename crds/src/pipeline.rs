//! The `LogPipeline` object itself.
//!
//! Every setting is optional and stays unset when the user left it out: the defaults are named here and live with
//! the settings files in `spillway_model`, not in the CRD. An object so holds what its user wrote, and a new default changes no
//! stored object.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    clickhouse::ClickHouseSpec,
    ingest::IngestSpec,
    monitoring::{MonitoringSpec, NetworkPolicySpec},
    reference::SecretRef,
    schema::SchemaSpec,
    status::LogPipelineStatus,
    storage::StorageSpec,
    syncer::SyncerSpec,
    tenants::TenantSpec,
};

/// A way for logs from many tenants into ClickHouse: received, staged in S3, loaded exactly once.
#[allow(clippy::duplicated_attributes, reason = "columns of one type are no duplicates")]
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(test, kube(cel))]
#[kube(
    group = "spillway.dev",
    version = "v1alpha1",
    kind = "LogPipeline",
    plural = "logpipelines",
    singular = "logpipeline",
    shortname = "lp",
    category = "spillway",
    namespaced,
    derive = "PartialEq",
    status = "LogPipelineStatus",
    doc = "A way for logs from many tenants into ClickHouse: received, staged in S3, loaded exactly once.",
    scale(
        spec_replicas_path = ".spec.ingest.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether records are received and loaded"
    ),
    printcolumn(
        name = "Ingest",
        type_ = "string",
        json_path = ".status.ingest",
        description = "Ingest pods that are ready, of those that there should be"
    ),
    printcolumn(
        name = "Backlog",
        type_ = "integer",
        json_path = ".status.backlog.objects",
        description = "Staged objects that are not loaded yet"
    ),
    printcolumn(
        name = "Lag",
        type_ = "string",
        json_path = ".status.lag",
        description = "Age of the oldest record that is not loaded yet"
    ),
    printcolumn(
        name = "Syncer",
        type_ = "string",
        json_path = ".status.syncerHolder",
        description = "The pod that loads"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Why it is ready or not",
        priority = 1
    ),
    // Services and what else is named after the pipeline allow 63 characters, beginning with a letter.
    validation = Rule::new("self.metadata.name.size() <= 40")
        .message("metadata.name has more than 40 characters, and objects named after it need room: choose a shorter one"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must be lower-case letters, digits and '-', begin with a letter and not end with '-'")
)]
#[x_kube(validation = Rule::new("!(has(self.paused) && self.paused && has(self.suspend) && self.suspend)")
    .message("paused and suspend exclude each other, because nothing is done while paused: keep one"))]
pub struct LogPipelineSpec {
    /// Container image. Default: the operator's own version when the pipeline was created (`status.image`), so
    /// that upgrading the operator restarts nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^\S+$"))]
    pub image: Option<String>,
    /// Secrets that the image is pulled with. Default: those of the ServiceAccount.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<SecretRef>,
    /// Where staged objects live.
    #[serde(default)]
    pub storage: StorageSpec,
    /// The server that the rows end up in.
    #[serde(default)]
    pub clickhouse: ClickHouseSpec,
    /// The table and its views.
    #[serde(default)]
    pub schema: SchemaSpec,
    /// How records are received, buffered and staged.
    #[serde(default)]
    pub ingest: IngestSpec,
    /// How staged objects are loaded.
    #[serde(default)]
    pub syncer: SyncerSpec,
    /// Who may send. Default: nobody.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[schemars(length(max = 1000))]
    pub tenants: Vec<TenantSpec>,
    /// How metrics are collected. Default: by PodMonitors, where the cluster has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitoring: Option<MonitoringSpec>,
    /// Who may reach the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_policy: Option<NetworkPolicySpec>,
    /// What becomes of bucket and tables when the pipeline is deleted. `Retain`: both stay, and an event says what
    /// was kept. `Delete`: staged objects and tables are deleted. Default: `Retain`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,
    /// The operator leaves everything as it is; not together with `suspend`. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// Ingest is drained and scaled to zero, the syncer empties the backlog, then stops. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
}

/// What becomes of bucket and tables when the pipeline is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = crate::units::leave_description_to_the_field)]
pub enum DeletionPolicy {
    /// Both stay; an event says what was kept.
    #[default]
    Retain,
    /// Staged objects and tables are deleted.
    Delete,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ingest::AutoscalingSpec,
        reference::SecretRef,
        storage::{S3Spec, StorageSpec},
    };

    fn pipeline(change: impl FnOnce(&mut LogPipelineSpec)) -> LogPipeline {
        let mut spec = LogPipelineSpec::default();
        change(&mut spec);
        LogPipeline::new("logs", spec)
    }

    fn s3() -> S3Spec {
        serde_json::from_value(serde_json::json!({"bucket": "logs"})).unwrap()
    }

    #[test]
    fn the_crds_own_rules_refuse_what_excludes_each_other() {
        let fixed = |spec: &mut LogPipelineSpec| spec.ingest.replicas = Some(3);
        let scaled = |spec: &mut LogPipelineSpec| {
            let (min, max) = (Some(2), 10);
            let autoscaling = AutoscalingSpec { min, max, target_cpu_utilization: None, behavior: None };
            spec.ingest.autoscaling = Some(autoscaling);
        };
        assert!(pipeline(fixed).validate_cel().is_ok());
        assert!(pipeline(scaled).validate_cel().is_ok());
        let both = pipeline(|spec| {
            fixed(spec);
            scaled(spec);
        });
        assert!(both.validate_cel().is_err());

        let credentials = Some(SecretRef { name: "s3".into() });
        let s3 =
            S3Spec { credentials_secret_ref: credentials, service_account: Some("spillway".into()), ..s3() };
        let two_identities =
            pipeline(|spec| spec.storage = StorageSpec { s3: Some(s3), bucket_policy: None });
        assert!(two_identities.validate_cel().is_err());
    }

    #[test]
    fn the_crds_own_rules_refuse_more_pods_at_least_than_at_most() {
        let backwards = pipeline(|spec| {
            let (min, max) = (Some(5), 3);
            let autoscaling = AutoscalingSpec { min, max, target_cpu_utilization: None, behavior: None };
            spec.ingest.autoscaling = Some(autoscaling);
        });
        assert!(backwards.validate_cel().is_err());
    }

    #[test]
    fn an_object_holds_nothing_but_what_its_user_wrote() {
        let written = serde_json::json!({"ingest": {"flush": {"maxBytes": "8Mi"}}});
        let spec: LogPipelineSpec = serde_json::from_value(written).unwrap();
        let stored = serde_json::to_value(&spec).unwrap();
        assert_eq!(
            stored,
            serde_json::json!({
                "storage": {}, "clickhouse": {}, "schema": {}, "syncer": {}, "tenants": [],
                "ingest": {"flush": {"maxBytes": "8Mi"}},
            })
        );
    }

    /// `UPDATE=1 cargo test -p spillway-crds` writes the file anew.
    #[test]
    fn the_yaml_in_the_repository_is_that_of_the_types() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/logpipelines.yaml");
        let generated = format!(
            "# Generated from the types in crds/src; `UPDATE=1 cargo test -p spillway-crds` writes it anew.\n{}",
            serde_saphyr::to_string(&crate::crd()).unwrap()
        );
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, &generated).unwrap();
        }
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        assert!(kept == generated, "{path} is stale: run UPDATE=1 cargo test -p spillway-crds");
    }
}
