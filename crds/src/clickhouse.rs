//! `spec.clickhouse`: the server that the rows end up in.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::reference::{SecretKeyRef, SecretRef};

/// The ClickHouse server that the rows end up in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClickHouseSpec {
    /// URL of the HTTP interface. Without it the pipeline runs only under `spillway up`, with a ClickHouse of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub url: Option<String>,
    /// Database; created when it is missing. Default: `spillway`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub database: Option<String>,
    /// Name of the cluster (`system.clusters`) to create replicated tables on. Default: one server, no replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub cluster: Option<String>,
    /// Secret with `username` and `password`. Default: user `default` without a password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretRef>,
    /// Certificate authority (PEM) of the server. Default: the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKeyRef>,
}
