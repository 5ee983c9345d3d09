//! `status`: what the operator last saw.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the operator last saw.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LogPipelineStatus {
    /// `metadata.generation` of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What holds of the pipeline and what does not, one of each type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    #[schemars(schema_with = "crate::embedded::conditions")]
    pub conditions: Vec<Condition>,
    /// Image that the pods run when `spec.image` is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub image: Option<String>,
    /// Ingest pods that are ready, of those that there should be, such as `2/2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub ingest: Option<String>,
    /// Ingest pods, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Label selector of the ingest pods, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub selector: Option<String>,
    /// The syncer that holds the Lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub syncer_holder: Option<String>,
    /// What is staged and not loaded yet; rounded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backlog: Option<Backlog>,
    /// Age of the oldest record that is not loaded yet, such as `2m`; rounded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub lag: Option<String>,
}

/// What is staged and not loaded yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Backlog {
    /// Staged objects.
    pub objects: i64,
    /// Rows in them.
    pub rows: i64,
    /// Bytes of them before compression.
    pub bytes: i64,
}

/// Types of conditions.
pub mod conditions {
    /// Records are received and loaded.
    pub const READY: &str = "Ready";
    /// The spec and everything that it names can be used.
    pub const SPEC_VALID: &str = "SpecValid";
    /// Every tenant of the spec may send: none is left out.
    pub const TENANTS_VALID: &str = "TenantsValid";
    /// The bucket is there and can be written conditionally.
    pub const BUCKET_READY: &str = "BucketReady";
    /// Table and views are as the spec says.
    pub const SCHEMA_READY: &str = "SchemaReady";
    /// Ingest pods answer.
    pub const INGEST_AVAILABLE: &str = "IngestAvailable";
    /// A syncer holds the Lease and makes progress.
    pub const SYNCER_AVAILABLE: &str = "SyncerAvailable";
    /// All of them, in the order in which they are shown.
    pub const ALL: [&str; 7] =
        [READY, SPEC_VALID, TENANTS_VALID, BUCKET_READY, SCHEMA_READY, INGEST_AVAILABLE, SYNCER_AVAILABLE];
}
