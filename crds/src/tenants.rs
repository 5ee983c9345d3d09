//! `spec.tenants`: who may send, to which projects, how much, and for how long it is kept.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{reference::SecretRef, units::SizeText};

/// Who may send, to which projects, how much, and for how long it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TenantSpec {
    /// Name, unique within the pipeline.
    #[schemars(length(min = 1, max = 128))]
    pub name: String,
    /// Secret of API keys: every entry is one key, so that a new one can be added before the old one goes.
    pub api_keys_secret_ref: SecretRef,
    /// Projects that the tenant may send to. A project belongs to one tenant.
    #[schemars(length(min = 1, max = 256), inner(length(min = 1, max = 128)), extend("x-kubernetes-list-type" = "set"))]
    pub projects: Vec<String>,
    /// What the tenant may send at most, on each ingest pod. Default: no limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitsSpec>,
    /// Days that the tenant's records are kept for. Default: `spec.schema.retentionDays`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3650))]
    pub retention_days: Option<u16>,
}

/// What a tenant may send at most, on each ingest pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LimitsSpec {
    /// Records per second. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub records_per_second: Option<u32>,
    /// Bytes of uncompressed requests per second, `1Ki` to `4095Mi`. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<SizeText>,
    /// Seconds' worth of both rates that may come at once. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 60))]
    pub burst: Option<u32>,
    /// Bytes of one record, `64` to `256Mi`. Default: `spec.ingest.request.maxRecordBytes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_record_bytes: Option<SizeText>,
}
