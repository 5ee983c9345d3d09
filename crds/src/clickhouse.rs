//! `spec.clickhouse`: the server that the rows end up in.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::reference::{SecretKeyRef, SecretRef};

/// The ClickHouse server that the rows end up in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.database) == has(oldSelf.database) && (!has(self.database) || self.database == oldSelf.database)")
    .message("database can't be changed, because the rows would stay behind: make another pipeline")
    .field_path(".database"))]
#[x_kube(validation = Rule::new("has(self.cluster) == has(oldSelf.cluster) && (!has(self.cluster) || self.cluster == oldSelf.cluster)")
    .message("cluster can't be changed, because tables can't move between engines: make another pipeline")
    .field_path(".cluster"))]
pub struct ClickHouseSpec {
    /// URL of the HTTP interface. Default: none, and then the pipeline runs only under `spillway up`, with a
    /// ClickHouse of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048), regex(pattern = r"^https?://[^\s/?#@]+(/[^\s?#@]*)?$"))]
    pub url: Option<String>,
    /// Database; created when it is missing, and not to be changed later. Default: `spillway`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[a-zA-Z_][a-zA-Z0-9_]*$"))]
    pub database: Option<String>,
    /// Name of the cluster (`system.clusters`) to create replicated tables on; not to be
    /// changed later. Default: none, for one server without replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[a-zA-Z_][a-zA-Z0-9_]*$"))]
    pub cluster: Option<String>,
    /// Secret with `username` and `password`. Default: user `default` without a password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretRef>,
    /// Certificate authority (PEM) of the server. Default: the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKeyRef>,
}
