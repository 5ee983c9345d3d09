use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{SettingsError, Span};

/// The ClickHouse that the syncer loads and what the table there looks like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ClickHouseSettings {
    /// HTTP interface, for example `http://127.0.0.1:8123`.
    pub url: String,
    pub database: String,
    pub table: String,
    /// Name of the cluster for `ON CLUSTER` and the replicated engines; none: one server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Holds the files `username` and `password`; read again when they change. None: the user `default`
    /// without a password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials_dir: Option<PathBuf>,
    /// PEM file of the authority that signed the server's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    pub message_index: MessageIndex,
    pub views: ViewSettings,
    /// How long a query that is no insert may take.
    pub query_timeout: Span,
}

/// The index on `message`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum MessageIndex {
    /// Text where the server has it (26.2 or newer), TokenBloom below.
    #[default]
    Auto,
    Text,
    TokenBloom,
    None,
}

/// Which materialized views there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ViewSettings {
    /// Errors and records per minute.
    pub error_rate: bool,
    /// Percentiles of HTTP latency.
    pub http_latency: bool,
    /// Records and bytes per project.
    pub tenant_volume: bool,
}

impl Default for ViewSettings {
    fn default() -> Self {
        Self { error_rate: true, http_latency: true, tenant_volume: true }
    }
}

impl Default for ClickHouseSettings {
    fn default() -> Self {
        Self {
            url: "http://127.0.0.1:8123".to_owned(),
            database: "spillway".to_owned(),
            table: "logs".to_owned(),
            cluster: None,
            credentials_dir: None,
            ca_file: None,
            message_index: MessageIndex::Auto,
            views: ViewSettings::default(),
            query_timeout: Span::secs(60),
        }
    }
}

impl ClickHouseSettings {
    /// # Errors
    /// Names the setting that can't be used.
    pub fn validate(&self) -> Result<(), SettingsError> {
        if !self.url.starts_with("http://") && !self.url.starts_with("https://") {
            return Err(SettingsError::value("clickhouse.url", "must begin with http:// or https://"));
        }
        for (field, name) in [("clickhouse.database", &self.database), ("clickhouse.table", &self.table)] {
            // Names stand in statements; what needs quoting is more trouble than it is worth.
            let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            if name.is_empty() || name.len() > 128 || !plain || name.as_bytes()[0].is_ascii_digit() {
                return Err(SettingsError::value(
                    field,
                    "must be letters, digits and '_', and not begin with a digit",
                ));
            }
        }
        Ok(())
    }
}
