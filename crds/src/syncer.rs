//! `spec.syncer`: how staged objects are loaded.

use k8s_openapi::api::core::v1::ResourceRequirements;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    pods::SchedulingSpec,
    units::{SizeText, SpanText},
};

/// How staged objects are loaded into ClickHouse.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SyncerSpec {
    /// Pods: one loads, the others stand by. Default: 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3))]
    pub replicas: Option<i32>,
    /// Pause between listings while there is work, `10ms` to `1h`. Default: `500ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<SpanText>,
    /// Pause between listings after one that found nothing, `10ms` to `1h`. Default: `5s`, or `interval` on a local
    /// directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_interval: Option<SpanText>,
    /// Batches inserted at the same time. Default: 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub concurrency: Option<u32>,
    /// When a batch is full. One batch is one INSERT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchSpec>,
    /// How long loaded objects are kept before they are deleted, `0s` to `1d`. Default: `30s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete_grace: Option<SpanText>,
    /// Resources of the container, in place of the default, which requests `250m` CPU and `512Mi` memory and limits
    /// neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::embedded::resources")]
    pub resources: Option<ResourceRequirements>,
    /// Which nodes the pods run on. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduling: Option<SchedulingSpec>,
}

/// When a batch is full. One batch is one INSERT.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BatchSpec {
    /// Rows. Default: 200000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_rows: Option<u64>,
    /// Bytes of uncompressed rows, `1Ki` to `2Gi`. Default: `128Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<SizeText>,
    /// How long an object may wait for a batch to fill up while there is nothing else to do, `0s` to `1h`.
    /// Default: `0s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<SpanText>,
}
