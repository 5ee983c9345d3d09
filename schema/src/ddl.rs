//! The CREATE statements, rendered from typed parts; the columns come from the model.

use std::fmt;

use spillway_model::COLUMNS;
use spillway_model::settings::MessageIndex;

use crate::spec::{DEDUPLICATION_SECONDS, SchemaSpec, Topology};
use crate::sql::{Qualified, ident, literal};
use crate::version::Version;

/// One partition per day and retention: a day of one retention expires as whole parts.
pub const PARTITION_BY: &str = "(toDate(timestamp), retention_days)";
/// The key of both seeds: a project's service at one severity over a time range is one range of rows.
pub const ORDER_BY: &str = "(project_id, service, severity, timestamp)";
/// Counted from the record's own day, so that it follows from the partition key.
pub const TTL: &str = "toDate(timestamp) + toIntervalDay(retention_days)";
/// Decides the shard of rows inserted through the Distributed table by hand; a batch names its shard.
pub const SHARDING_KEY: &str = "cityHash64(project_id, service)";

/// A column as a CREATE statement writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnDef {
    /// Name.
    pub name: String,
    /// ClickHouse type, as `system.columns` spells it.
    pub kind: String,
    /// Arguments of CODEC; empty for the default.
    pub codec: String,
    /// COMMENT; empty for none.
    pub comment: String,
    /// The migration that brought it.
    pub since: u16,
}

impl ColumnDef {
    /// A column without codec and comment that is there from the first migration on.
    pub fn plain(name: impl Into<String>, kind: impl Into<String>) -> Self {
        Self { name: name.into(), kind: kind.into(), codec: String::new(), comment: String::new(), since: 1 }
    }
}

impl fmt::Display for ColumnDef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", ident(&self.name), self.kind)?;
        if !self.comment.is_empty() {
            write!(f, " COMMENT {}", literal(&self.comment))?;
        }
        if !self.codec.is_empty() {
            write!(f, " CODEC({})", self.codec)?;
        }
        Ok(())
    }
}

/// A data skipping index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexDef {
    /// Name.
    pub name: &'static str,
    /// The column or expression it covers.
    pub expression: &'static str,
    /// Type with arguments.
    pub kind: &'static str,
    /// Granules per index entry; `None` where the type decides.
    pub granularity: Option<u32>,
}

impl fmt::Display for IndexDef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} TYPE {}", self.name, self.expression, self.kind)?;
        match self.granularity {
            Some(granularity) => write!(f, " GRANULARITY {granularity}"),
            None => Ok(()),
        }
    }
}

/// The engine without its arguments for replication, which [`CreateTable`] adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Rows as they come.
    Merge,
    /// Of the rows of one key, the one with the highest value in the `version` column.
    Replacing,
}

/// A table of the MergeTree family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateTable {
    /// Its name.
    pub name: Qualified,
    /// Created ON CLUSTER, with a replicated engine.
    pub cluster: Option<String>,
    /// Columns in order.
    pub columns: Vec<ColumnDef>,
    /// Data skipping indices.
    pub indexes: Vec<IndexDef>,
    /// Engine.
    pub engine: Engine,
    /// PARTITION BY; `None` for one partition.
    pub partition_by: Option<String>,
    /// ORDER BY.
    pub order_by: String,
    /// TTL.
    pub ttl: Option<String>,
    /// SETTINGS, in order.
    pub settings: Vec<(&'static str, String)>,
}

impl CreateTable {
    pub(crate) fn on_cluster(&self) -> String {
        on_cluster(self.cluster.as_deref())
    }
}

pub(crate) fn on_cluster(cluster: Option<&str>) -> String {
    cluster.map(|name| format!(" ON CLUSTER {}", ident(name))).unwrap_or_default()
}

impl fmt::Display for CreateTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CREATE TABLE IF NOT EXISTS {}{} (", self.name, self.on_cluster())?;
        let mut separator = "\n    ";
        for column in &self.columns {
            write!(f, "{separator}{column}")?;
            separator = ",\n    ";
        }
        for index in &self.indexes {
            write!(f, "{separator}INDEX {index}")?;
        }
        // Without arguments a replicated engine takes path and replica from the server's defaults
        // (default_replica_path, by the table's UUID), which also suits Replicated databases.
        let replicated = if self.cluster.is_some() { "Replicated" } else { "" };
        match self.engine {
            Engine::Merge => write!(f, "\n)\nENGINE = {replicated}MergeTree")?,
            Engine::Replacing => write!(f, "\n)\nENGINE = {replicated}ReplacingMergeTree(version)")?,
        }
        if let Some(partition_by) = &self.partition_by {
            write!(f, "\nPARTITION BY {partition_by}")?;
        }
        write!(f, "\nORDER BY {}", self.order_by)?;
        if let Some(ttl) = &self.ttl {
            write!(f, "\nTTL {ttl}")?;
        }
        for (i, (name, value)) in self.settings.iter().enumerate() {
            write!(f, "{}{name} = {value}", if i == 0 { "\nSETTINGS " } else { ", " })?;
        }
        Ok(())
    }
}

/// The Distributed table over the shards' local ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateDistributed {
    /// Its name.
    pub name: Qualified,
    /// The cluster.
    pub cluster: String,
    /// The table on each shard.
    pub local: Qualified,
    /// Expression that picks a shard.
    pub sharding_key: &'static str,
}

impl fmt::Display for CreateDistributed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "CREATE TABLE IF NOT EXISTS {} ON CLUSTER {} AS {}\nENGINE = Distributed({}, {}, {}, {})",
            self.name,
            ident(&self.cluster),
            self.local,
            literal(&self.cluster),
            literal(&self.local.database),
            literal(&self.local.name),
            self.sharding_key
        )
    }
}

/// The table of log records on one server.
#[must_use]
pub fn records_table(spec: &SchemaSpec, version: Version) -> CreateTable {
    CreateTable {
        name: spec.local(&spec.table),
        cluster: spec.cluster().map(str::to_owned),
        columns: record_columns(),
        indexes: indexes(spec.message_index, version),
        engine: Engine::Merge,
        partition_by: Some(PARTITION_BY.to_owned()),
        order_by: ORDER_BY.to_owned(),
        ttl: Some(TTL.to_owned()),
        settings: table_settings(spec),
    }
}

/// The table that users read on a cluster; `None` on one server, where it is the table itself.
#[must_use]
pub fn distributed_table(spec: &SchemaSpec) -> Option<CreateDistributed> {
    match &spec.topology {
        Topology::Single => None,
        Topology::Cluster(cluster) => Some(CreateDistributed {
            name: spec.records(),
            cluster: cluster.clone(),
            local: spec.local(&spec.table),
            sharding_key: SHARDING_KEY,
        }),
    }
}

fn record_columns() -> Vec<ColumnDef> {
    COLUMNS
        .iter()
        .map(|column| ColumnDef {
            name: column.name.to_owned(),
            kind: column.kind.clickhouse_type().to_owned(),
            codec: column.codec.to_owned(),
            comment: column.doc.to_owned(),
            since: column.since,
        })
        .collect()
}

/// Name of the text index on `message`.
pub(crate) const TEXT_INDEX_NAME: &str = "idx_message_text";
/// Name of the token bloom filter on `message`.
pub(crate) const TOKEN_INDEX_NAME: &str = "idx_message_tokens";

/// The indexes of the record table.
///
/// - Ids are looked up one at a time: bloom filters.
/// - `batch_id` is what the syncer counts by before and after every doubtful insert; a part straight from
///   an insert holds one batch, and a filter of one entry per granule is small.
/// - `message` is indexed as it is, not in lower case: then `hasToken(message, 'timeout')` means the same
///   with and without an index, and both kinds of index serve it.
#[must_use]
pub fn indexes(message: MessageIndex, version: Version) -> Vec<IndexDef> {
    let bloom =
        |name, expression| IndexDef { name, expression, kind: "bloom_filter(0.01)", granularity: Some(4) };
    let mut indexes = vec![
        bloom("idx_trace_id", "trace_id"),
        bloom("idx_span_id", "span_id"),
        bloom("idx_session_id", "session_id"),
        IndexDef {
            name: "idx_batch_id",
            expression: "batch_id",
            kind: "bloom_filter(0.001)",
            granularity: Some(1),
        },
    ];
    let text = match message {
        MessageIndex::Auto => Some(version.has_text_index()),
        MessageIndex::Text => Some(true),
        MessageIndex::TokenBloom => Some(false),
        MessageIndex::None => None,
    };
    indexes.extend(text.map(|text| {
        if text {
            IndexDef {
                name: TEXT_INDEX_NAME,
                expression: "message",
                kind: "text(tokenizer = 'splitByNonAlpha')",
                granularity: None,
            }
        } else {
            IndexDef {
                name: TOKEN_INDEX_NAME,
                expression: "message",
                kind: "tokenbf_v1(32768, 3, 0)",
                granularity: Some(1),
            }
        }
    }));
    indexes
}

/// Settings of the record table and of the views' targets: a view is deduplicated in its target's window.
pub(crate) fn table_settings(spec: &SchemaSpec) -> Vec<(&'static str, String)> {
    let mut settings = vec![("ttl_only_drop_parts", "1".to_owned())];
    settings.extend(changeable_settings(spec));
    settings
}

/// Those of [`table_settings`] that a running table may be given without rewriting anything.
pub(crate) fn changeable_settings(spec: &SchemaSpec) -> Vec<(&'static str, String)> {
    let window = spec.deduplication_window.to_string();
    let mut settings = match spec.topology {
        Topology::Single => vec![("non_replicated_deduplication_window", window)],
        Topology::Cluster(_) => vec![
            ("replicated_deduplication_window", window),
            ("replicated_deduplication_window_seconds", DEDUPLICATION_SECONDS.to_string()),
        ],
    };
    if spec.fsync {
        settings.push(("fsync_after_insert", "1".to_owned()));
        settings.push(("fsync_part_directory", "1".to_owned()));
    }
    settings
}
