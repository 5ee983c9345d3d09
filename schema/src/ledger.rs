//! What the syncer asks the server about its batches, and how it inserts them: statements, settings, and
//! the rows that come back. The table itself is the ledger: `(batch_id, batch_row)` names a row in it.

use serde::Deserialize;
use spillway_model::Day;

use crate::client::Settings;
use crate::preflight::Server;
use crate::spec::{SchemaSpec, Topology};
use crate::sql::{ident, literal, literals};

/// A record batch may touch this many partitions. Batches are planned a few wide; the server's default of
/// 100 would refuse one whose records are old, for which ClickHouse has no better answer than we have.
const MAX_PARTITIONS: u32 = 1_000;

/// Days of record timestamps, both included; every question is limited to them, so that the server opens
/// only these partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DayRange {
    /// First day, UTC.
    pub first: Day,
    /// Last day, UTC.
    pub last: Day,
}

impl DayRange {
    /// The condition on the table's partition key.
    #[must_use]
    pub fn condition(self) -> String {
        format!(
            "toDate(timestamp) BETWEEN {} AND {}",
            literal(&self.first.date()),
            literal(&self.last.date())
        )
    }
}

/// A statement that is running now.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Running {
    /// Its id on this server.
    pub query_id: String,
    /// The id it was given by us.
    pub log_comment: String,
    /// Seconds.
    pub elapsed: f64,
}

/// Which of our statements are running, of those whose id begins with this. A server (or a front before it) that
/// gives ids of its own still shows the `log_comment`, so both are compared.
#[must_use]
pub fn running(spec: &SchemaSpec, prefix: &str) -> String {
    let prefix = literal(prefix);
    let processes = match &spec.topology {
        Topology::Single => "system.processes".to_owned(),
        // An insert may have reached any replica.
        Topology::Cluster(cluster) => format!("clusterAllReplicas({}, system.processes)", literal(cluster)),
    };
    format!(
        "SELECT query_id, Settings['log_comment'] AS log_comment, elapsed FROM {processes} \
         WHERE startsWith(query_id, {prefix}) OR startsWith(Settings['log_comment'], {prefix})"
    )
}

/// How many rows of a batch the table holds.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BatchRows {
    /// The batch.
    pub batch_id: String,
    /// Its rows in the table.
    pub rows: u64,
}

/// Counts the rows of each batch; a batch without rows is absent from the answer. Ask with
/// [`read_settings`], on replicas after [`sync_statement`].
pub fn count_batches<'a>(
    spec: &SchemaSpec,
    batch_ids: impl IntoIterator<Item = &'a str>,
    days: DayRange,
) -> String {
    format!(
        "SELECT batch_id, count() AS rows FROM {} WHERE {} AND batch_id IN ({}) GROUP BY batch_id",
        spec.records(),
        days.condition(),
        literals(batch_ids)
    )
}

/// Rows of a batch in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct PartitionRows {
    /// Days since 1970 of the rows' timestamps, UTC.
    pub day: i32,
    /// Days they are kept.
    pub retention_days: u16,
    /// How many of them there are.
    pub rows: u64,
}

/// How many rows the table holds of a batch, per partition ([`PartitionRows`]).
#[must_use]
pub fn count_partitions(spec: &SchemaSpec, batch_id: &str, days: DayRange) -> String {
    format!(
        "SELECT toInt32(toDate(timestamp)) AS day, retention_days, count() AS rows FROM {} WHERE {} AND batch_id = {} \
         GROUP BY day, retention_days",
        spec.records(),
        days.condition(),
        literal(batch_id)
    )
}

/// Rows of one of many batches in one partition.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BatchPartitionRows {
    /// The batch.
    pub batch_id: String,
    /// See [`PartitionRows`].
    pub day: i32,
    /// See [`PartitionRows`].
    pub retention_days: u16,
    /// How many of them there are.
    pub rows: u64,
}

/// How many rows the table holds of each of these batches, per partition ([`BatchPartitionRows`]).
pub fn count_partitions_of<'a>(
    spec: &SchemaSpec,
    batch_ids: impl IntoIterator<Item = &'a str>,
    days: DayRange,
) -> String {
    format!(
        "SELECT batch_id, toInt32(toDate(timestamp)) AS day, retention_days, count() AS rows FROM {} \
         WHERE {} AND batch_id IN ({}) GROUP BY batch_id, day, retention_days",
        spec.records(),
        days.condition(),
        literals(batch_ids)
    )
}

/// The highest batch that the table has of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct LastBatch {
    /// The pipeline's own name, as it stands before the batch's id.
    pub pipeline: String,
    /// The highest epoch.
    pub epoch: u64,
    /// The highest number.
    pub number: u64,
}

/// The highest batch of each pipeline that has rows in the table ([`LastBatch`]). Reads the column of the whole table.
#[must_use]
pub fn last_batches(spec: &SchemaSpec) -> String {
    format!(
        "SELECT id[1] AS pipeline, max(toUInt64OrZero(id[2])) AS epoch, max(toUInt64OrZero(id[3])) AS number FROM \
         (SELECT extractGroups(toString(batch_id), '^(.*)-([0-9]+)-([0-9]+)$') AS id FROM \
         (SELECT DISTINCT batch_id FROM {} WHERE batch_id != '')) WHERE length(id) = 3 GROUP BY pipeline",
        spec.records()
    )
}

/// The answer to [`newest_row`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct NewestRow {
    /// Milliseconds since 1970; 0: the table is empty.
    pub received_ms: i64,
}

/// When the row was received that was received last. Reads the column of the whole table.
#[must_use]
pub fn newest_row(spec: &SchemaSpec) -> String {
    format!("SELECT toUnixTimestamp64Milli(max(received_at)) AS received_ms FROM {}", spec.records())
}

/// The numbers of the rows of one batch that the table holds.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PresentRows {
    /// `batch_row`, ascending; a number twice is a row twice.
    pub rows: Vec<u32>,
}

/// Lists the rows of a batch in one answer row.
#[must_use]
pub fn present_rows(spec: &SchemaSpec, batch_id: &str, days: DayRange) -> String {
    format!(
        "SELECT arraySort(groupArray(batch_row)) AS rows FROM {} WHERE {} AND batch_id = {}",
        spec.records(),
        days.condition(),
        literal(batch_id)
    )
}

/// Makes a replica catch up before it is asked; `None` on one server.
///
/// `select_sequential_consistency` alone does not do it: it has no effect with parallel quorum inserts, and
/// without those only one batch could be inserted at a time.
#[must_use]
pub fn sync_statement(spec: &SchemaSpec) -> Option<String> {
    spec.cluster().map(|cluster| {
        format!("SYSTEM SYNC REPLICA ON CLUSTER {} {} LIGHTWEIGHT", ident(cluster), spec.local(&spec.table))
    })
}

/// Settings for the questions above.
#[must_use]
pub fn read_settings(spec: &SchemaSpec) -> Settings {
    // Whatever the user's profile says: an answer that is old or incomplete would be taken for missing rows.
    let mut settings: Settings = [
        ("use_query_cache", "0"),
        ("read_overflow_mode", "throw"),
        ("timeout_overflow_mode", "throw"),
        ("result_overflow_mode", "throw"),
        ("skip_unavailable_shards", "0"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .to_vec();
    if let Topology::Cluster(_) = spec.topology {
        // Shared merge trees (ClickHouse Cloud) have no SYNC REPLICA to wait for and obey this.
        settings.push(("select_sequential_consistency", "1".to_owned()));
    }
    settings
}

/// The answer to [`uptime`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Uptime {
    /// Since the server was started.
    pub seconds: u32,
}

/// How long the server has been running.
#[must_use]
pub fn uptime() -> &'static str {
    "SELECT toUInt32(uptime()) AS seconds"
}

/// The answer to [`today`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Today {
    /// Days since 1970.
    pub today: i32,
}

/// The day by which the server drops expired rows: its own, in its own time zone.
#[must_use]
pub fn today() -> &'static str {
    "SELECT toInt32(toDate(now())) AS today"
}

/// A row as it can be found by the table's sorting key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
pub struct Witness {
    /// Project.
    pub project_id: String,
    /// Service.
    pub service: String,
    /// Name of the severity.
    pub severity: String,
    /// `YYYY-MM-DD HH:MM:SS.nnnnnnnnn`, UTC.
    pub timestamp: String,
    /// The record's id.
    pub id: String,
}

/// Which of these rows the table holds already ([`Witness`]).
#[must_use]
pub fn find_witnesses<'a>(spec: &SchemaSpec, witnesses: impl IntoIterator<Item = &'a Witness>) -> String {
    let keys: Vec<String> = witnesses
        .into_iter()
        .map(|row| {
            format!(
                "({}, {}, {}, toDateTime64({}, 9, 'UTC'), toUUID({}))",
                literal(&row.project_id),
                literal(&row.service),
                literal(&row.severity),
                literal(&row.timestamp),
                literal(&row.id)
            )
        })
        .collect();
    // The names of the answer must not stand for the columns in the condition: it would compare texts with times and
    // ids, and find nothing.
    format!(
        "SELECT DISTINCT toString(project_id) AS project_id, toString(service) AS service, toString(severity) AS severity, \
         toString(timestamp) AS timestamp, toString(id) AS id FROM \
         (SELECT project_id, service, severity, timestamp, id FROM {} \
         WHERE (project_id, service, severity, timestamp, id) IN ({}))",
        spec.records(),
        keys.join(", ")
    )
}

/// `INSERT INTO table (columns) FORMAT format`. Columns are named: those that no row of the body gives are
/// left out (naming the others takes a third off the server's work), and a table with more columns than
/// this version knows takes its rows. No column has a DEFAULT: what is left out is empty, zero or false.
#[must_use]
pub fn insert_statement<'a>(
    spec: &SchemaSpec,
    columns: impl IntoIterator<Item = &'a str>,
    format: &str,
) -> String {
    let columns: Vec<String> = columns.into_iter().map(ident).collect();
    format!("INSERT INTO {} ({}) FORMAT {format}", spec.records(), columns.join(", "))
}

/// One attempt to insert one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt<'a> {
    /// Deduplication token.
    pub token: &'a str,
    /// Id under which [`running`] finds it, also where the server gives ids of its own.
    pub query_id: &'a str,
    /// Seconds after which the server gives up.
    pub max_execution_time: u32,
    /// Rows in the body.
    pub rows: u64,
    /// Number of the shard on a cluster, from 1.
    pub shard: u32,
    /// Load the rows although a view fails; whoever sets it repairs the views afterwards.
    pub past_views: bool,
}

/// Settings of an insert: synchronous, one block, deduplicated by the token in the table and in the views.
#[must_use]
pub fn insert_settings(spec: &SchemaSpec, server: &Server, attempt: Attempt<'_>) -> Settings {
    let rows = attempt.rows.max(1).to_string();
    let mut settings: Settings = vec![
        ("insert_deduplicate", "1".to_owned()),
        ("insert_deduplication_token", attempt.token.to_owned()),
        ("deduplicate_blocks_in_dependent_materialized_views", "1".to_owned()),
        // One block: tokens are counted per block, so a replay that is cut differently is a new insert
        // (ClickHouse#32304). Blocks are joined up to this many rows, and never by bytes.
        ("max_insert_block_size", rows.clone()),
        ("min_insert_block_size_rows", rows),
        ("min_insert_block_size_bytes", "0".to_owned()),
        ("max_insert_threads", "1".to_owned()),
        ("input_format_parallel_parsing", "0".to_owned()),
        ("max_partitions_per_insert_block", MAX_PARTITIONS.to_string()),
        ("materialized_views_ignore_errors", u8::from(attempt.past_views).to_string()),
        ("max_execution_time", attempt.max_execution_time.to_string()),
    ];
    settings.extend(common_settings(attempt.query_id));
    // 26.x decides by these; a profile may have changed them.
    settings.extend(server.if_known("deduplicate_insert", "enable"));
    if let Topology::Cluster(_) = spec.topology {
        settings.extend([
            ("insert_quorum", "auto".to_owned()),
            ("insert_quorum_parallel", "1".to_owned()),
            ("insert_shard_id", attempt.shard.to_string()),
            ("distributed_foreground_insert", "1".to_owned()),
        ]);
    }
    settings
}

/// Settings of a repair, a backfill or a fold. Never deduplicated: they replace what is there, and a server
/// killed between its deduplication log and the part would drop every repetition.
#[must_use]
pub fn repair_settings(server: &Server, query_id: &str, max_execution_time: u32) -> Settings {
    let mut settings: Settings = vec![
        ("insert_deduplicate", "0".to_owned()),
        ("max_execution_time", max_execution_time.to_string()),
        ("max_partitions_per_insert_block", MAX_PARTITIONS.to_string()),
    ];
    settings.extend(common_settings(query_id));
    settings.extend(server.if_known("deduplicate_insert", "disable"));
    settings.extend(server.if_known("deduplicate_insert_select", "disable"));
    settings
}

fn common_settings(query_id: &str) -> [(&'static str, String); 2] {
    [("async_insert", "0".to_owned()), ("log_comment", query_id.to_owned())]
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAYS: DayRange = DayRange { first: Day(20_000), last: Day(20_001) };

    #[test]
    fn every_question_is_limited_to_the_batchs_days() {
        let spec = SchemaSpec::new("logs", "records");
        for sql in [count_batches(&spec, ["a", "b"], DAYS), present_rows(&spec, "a", DAYS)] {
            assert!(sql.contains("toDate(timestamp) BETWEEN '2024-10-04' AND '2024-10-05'"), "{sql}");
        }
    }

    #[test]
    fn an_insert_names_its_columns() {
        let sql = insert_statement(&SchemaSpec::new("logs", "records"), ["id", "message"], "ArrowStream");
        assert_eq!(sql, "INSERT INTO `logs`.`records` (`id`, `message`) FORMAT ArrowStream");
    }

    #[test]
    fn a_server_without_the_new_setting_is_not_asked_to_know_it() {
        let spec = SchemaSpec::new("logs", "records");
        let attempt = Attempt {
            token: "t",
            query_id: "q",
            max_execution_time: 60,
            rows: 10,
            shard: 1,
            past_views: false,
        };
        let has = |server: &Server| {
            insert_settings(&spec, server, attempt).iter().any(|(name, _)| *name == "deduplicate_insert")
        };
        assert!(!has(&Server::new(crate::Version::new(24, 8, 4), [])));
        assert!(has(&Server::new(crate::Version::new(26, 9, 2), ["deduplicate_insert".to_owned()])));
    }

    #[test]
    fn on_a_cluster_replicas_catch_up_before_they_are_counted() {
        let mut spec = SchemaSpec::new("logs", "records");
        assert_eq!(sync_statement(&spec), None);
        spec.topology = Topology::Cluster("main".to_owned());
        assert_eq!(
            sync_statement(&spec).as_deref(),
            Some("SYSTEM SYNC REPLICA ON CLUSTER `main` `logs`.`records_local` LIGHTWEIGHT")
        );
    }
}
