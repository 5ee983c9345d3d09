//! `spec.schema`: the table and its views.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The table that the rows end up in, and its views.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.table) == has(oldSelf.table) && (!has(self.table) || self.table == oldSelf.table)")
    .message("table can't be changed, because the rows would stay behind: make another pipeline")
    .field_path(".table"))]
pub struct SchemaSpec {
    /// Name of the table; not to be changed later. Default: `logs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[a-zA-Z_][a-zA-Z0-9_]*$"))]
    pub table: Option<String>,
    /// Days that a record is kept for, counted from its timestamp; a tenant may have its own. Default: 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3650))]
    pub retention_days: Option<u16>,
    /// Index on `message`: `Text` is an inverted index, `TokenBloom` a Bloom filter of tokens, `None` no index, and
    /// `Auto` is `Text` where the server has it (26.2 and later), else `TokenBloom`. Default: `Auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_index: Option<MessageIndex>,
    /// Views kept up with every insert. Default: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub views: Option<ViewsSpec>,
}

/// Index on `message`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = crate::units::leave_description_to_the_field)]
pub enum MessageIndex {
    /// `Text` where the server has it (26.2 and later), else `TokenBloom`.
    #[default]
    Auto,
    /// An inverted index.
    Text,
    /// A Bloom filter of tokens.
    TokenBloom,
    /// No index.
    None,
}

/// Views kept up with every insert.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ViewsSpec {
    /// Errors and records per project, service and minute. Default: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_rate: Option<bool>,
    /// Percentiles of HTTP durations per project, service, path and minute. Default: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_latency: Option<bool>,
    /// Records and bytes per project and hour. Default: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_volume: Option<bool>,
}
