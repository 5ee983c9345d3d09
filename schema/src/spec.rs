//! What the schema should look like: the choices of a pipeline, and the names that follow from them.

use spillway_model::settings::{ClickHouseSettings, MessageIndex, ViewSettings};

use crate::sql::Qualified;

/// Parts, not inserts, are counted by the deduplication windows, and an insert of five partitions makes
/// five of them. The server keeps the window in memory and in a log beside the table. The syncer uses no
/// more than a quarter of it within an insert's deadline: at 30,000 and 150 s that is 50 parts a second,
/// and a server that takes more parts than that soon refuses them anyway.
pub const DEDUPLICATION_WINDOW: u64 = 30_000;

/// Seven days: replicated tables went from a week to an hour by default (ClickHouse PR#87414), less than
/// an outage that a batch has to survive.
pub const DEDUPLICATION_SECONDS: u64 = 7 * 24 * 3600;

/// Where the tables are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topology {
    /// One server, `MergeTree`.
    Single,
    /// A cluster of the server's configuration: `ReplicatedMergeTree` on every node, a `Distributed`
    /// table over its shards, everything created `ON CLUSTER`.
    Cluster(String),
}

/// The schema a pipeline asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaSpec {
    /// Database; created if it is not there.
    pub database: String,
    /// The table that users read.
    pub table: String,
    /// One server or a cluster.
    pub topology: Topology,
    /// Index on the message's words.
    pub message_index: MessageIndex,
    /// Views to keep.
    pub views: ViewSettings,
    /// Entries of the deduplication windows of the table and the views' targets.
    pub deduplication_window: u64,
    /// fsync the parts of an insert before answering it. Staged objects are deleted after the answer, so
    /// without it a power cut can take rows that exist nowhere else (ClickHouse#111537).
    pub fsync: bool,
}

impl SchemaSpec {
    /// A schema with every default on one server.
    pub fn new(database: impl Into<String>, table: impl Into<String>) -> Self {
        Self {
            database: database.into(),
            table: table.into(),
            topology: Topology::Single,
            message_index: MessageIndex::default(),
            views: ViewSettings::default(),
            deduplication_window: DEDUPLICATION_WINDOW,
            fsync: true,
        }
    }

    /// The schema that settings ask for.
    #[must_use]
    pub fn from_settings(settings: &ClickHouseSettings) -> Self {
        Self {
            topology: settings.cluster.clone().map_or(Topology::Single, Topology::Cluster),
            message_index: settings.message_index,
            views: settings.views,
            ..Self::new(&settings.database, &settings.table)
        }
    }

    /// The table that holds the rows on each server.
    #[must_use]
    pub fn local(&self, table: &str) -> Qualified {
        match self.topology {
            Topology::Single => self.name(table),
            Topology::Cluster(_) => self.name(&format!("{table}_local")),
        }
    }

    /// The table of log records, as users and the syncer name it.
    #[must_use]
    pub fn records(&self) -> Qualified {
        self.name(&self.table)
    }

    /// Where the migrations that were applied are written down.
    #[must_use]
    pub fn migrations(&self) -> Qualified {
        self.name(&format!("{}_spillway_migrations", self.table))
    }

    pub(crate) fn name(&self, name: &str) -> Qualified {
        Qualified::new(&self.database, name)
    }

    pub(crate) fn cluster(&self) -> Option<&str> {
        match &self.topology {
            Topology::Single => None,
            Topology::Cluster(name) => Some(name),
        }
    }
}
