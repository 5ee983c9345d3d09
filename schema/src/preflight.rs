//! What is checked before work starts, each failure with its remedy.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Deserialize;

use crate::client::ClickHouse;
use crate::error::ClickHouseError;
use crate::ledger;
use crate::spec::SchemaSpec;
use crate::version::{NotAVersion, OLDEST, Version};

/// More than this between the server's clock and ours is an error: retention is counted by the server's
/// clock, admission by ours, and replays wait for deadlines that the server keeps.
pub const MAX_CLOCK_SKEW: Duration = Duration::from_secs(60);

/// Settings without which an insert would not be what the commit protocol takes it for.
const REQUIRED: [&str; 13] = [
    "async_insert",
    "deduplicate_blocks_in_dependent_materialized_views",
    "input_format_parallel_parsing",
    "insert_deduplicate",
    "insert_deduplication_token",
    "log_comment",
    "materialized_views_ignore_errors",
    "max_execution_time",
    "max_insert_block_size",
    "max_insert_threads",
    "max_partitions_per_insert_block",
    "min_insert_block_size_bytes",
    "min_insert_block_size_rows",
];

/// Settings that are used where they exist.
const OPTIONAL: [&str; 2] = ["deduplicate_insert", "deduplicate_insert_select"];

/// A server that is good enough to work with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Its version.
    pub version: Version,
    known: BTreeSet<String>,
}

impl Server {
    /// A server of `version` that knows the settings `known`.
    pub fn new(version: Version, known: impl IntoIterator<Item = String>) -> Self {
        Self { version, known: known.into_iter().collect() }
    }

    /// The setting, if the server knows it: an unknown one is an error there.
    pub(crate) fn if_known(&self, name: &'static str, value: &str) -> Option<(&'static str, String)> {
        self.known.contains(name).then(|| (name, value.to_owned()))
    }
}

/// The server cannot be worked with as it is.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    /// It answers, but not as ClickHouse.
    #[error(transparent)]
    NotClickHouse(#[from] NotAVersion),
    /// It is older than [`OLDEST`].
    #[error("ClickHouse {found} is too old: {OLDEST} or later is needed; upgrade the server")]
    TooOld {
        /// Its version.
        found: Version,
    },
    /// It lacks settings that inserts need.
    #[error("ClickHouse {version} does not know the settings {}; use a release of ClickHouse between {OLDEST} and the newest one this version of Spillway was tested with", .missing.join(", "))]
    UnknownSettings {
        /// Its version.
        version: Version,
        /// Names.
        missing: Vec<String>,
    },
    /// The clocks differ by more than [`MAX_CLOCK_SKEW`].
    #[error("the clock of ClickHouse is {} s {} ours; synchronise both hosts (NTP)", .skew_ms.abs() / 1000, if *.skew_ms > 0 { "ahead of" } else { "behind" })]
    ClockSkew {
        /// Milliseconds, positive if the server is ahead.
        skew_ms: i64,
    },
    /// The user may not do what the syncer does.
    #[error("the ClickHouse user may not {what}: {message}; run: {grant}")]
    Permission {
        /// What was tried.
        what: &'static str,
        /// The server's text.
        message: String,
        /// The statement that allows it.
        grant: String,
    },
    /// It could not be asked.
    #[error(transparent)]
    ClickHouse(#[from] ClickHouseError),
}

impl PreflightError {
    /// A short label for conditions and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotClickHouse(_) => "NotClickHouse",
            Self::TooOld { .. } => "ClickHouseTooOld",
            Self::UnknownSettings { .. } => "UnknownSettings",
            Self::ClockSkew { .. } => "ClockSkew",
            Self::Permission { .. } => "Denied",
            Self::ClickHouse(e) => e.reason(),
        }
    }
}

#[derive(Deserialize)]
struct VersionRow {
    version: String,
}

#[derive(Deserialize)]
struct NameRow {
    name: String,
}

#[derive(Deserialize)]
struct ClockRow {
    ms: i64,
}

/// Asks for the version and refuses one that is too old.
///
/// # Errors
/// See [`PreflightError`].
pub async fn supported_version(client: &ClickHouse) -> Result<Version, PreflightError> {
    let rows: Vec<VersionRow> = client.query_json("SELECT version() AS version", &[]).await?;
    let version: Version = rows.first().map_or("", |row| row.version.as_str()).parse()?;
    if version.is_supported() { Ok(version) } else { Err(PreflightError::TooOld { found: version }) }
}

/// Checks version, settings and clock: what can be known before the schema is there.
///
/// # Errors
/// See [`PreflightError`].
pub async fn check_server(client: &ClickHouse) -> Result<Server, PreflightError> {
    let version = supported_version(client).await?;
    let names = crate::sql::literals(REQUIRED.into_iter().chain(OPTIONAL));
    let rows: Vec<NameRow> =
        client.query_json(&format!("SELECT name FROM system.settings WHERE name IN ({names})"), &[]).await?;
    let server = Server::new(version, rows.into_iter().map(|row| row.name));
    let missing: Vec<String> = REQUIRED
        .iter()
        .filter(|name| !server.known.contains(**name))
        .map(|name| (*name).to_owned())
        .collect();
    if !missing.is_empty() {
        return Err(PreflightError::UnknownSettings { version, missing });
    }
    let skew_ms = clock_skew(client).await?;
    if skew_ms.unsigned_abs() > u64::try_from(MAX_CLOCK_SKEW.as_millis()).unwrap_or(u64::MAX) {
        return Err(PreflightError::ClockSkew { skew_ms });
    }
    Ok(server)
}

/// Milliseconds by which the server's clock is ahead of ours, give or take half the time of the answer.
///
/// # Errors
/// See [`ClickHouseError`].
pub async fn clock_skew(client: &ClickHouse) -> Result<i64, ClickHouseError> {
    let (before, started) = (SystemTime::now(), Instant::now());
    let rows: Vec<ClockRow> = client.query_json("SELECT toUnixTimestamp64Milli(now64(3)) AS ms", &[]).await?;
    let middle = before + started.elapsed() / 2;
    let ours = middle.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let theirs = rows.first().map_or(0, |row| row.ms);
    Ok(theirs - i64::try_from(ours).unwrap_or(i64::MAX))
}

/// Tries what the syncer does, on no rows: reading and writing the table and looking at running queries.
/// A try tells more than SHOW GRANTS, which knows nothing of row policies, profiles and roles in effect.
///
/// # Errors
/// [`PreflightError::Permission`] with the statement that grants what is missing.
pub async fn check_permissions(client: &ClickHouse, spec: &SchemaSpec) -> Result<(), PreflightError> {
    let records = spec.records();
    let tries = [
        (
            "read the table",
            format!("SELECT batch_id FROM {records} WHERE 0"),
            format!("GRANT SELECT ON {records} TO <user>"),
        ),
        (
            "insert into the table",
            format!("INSERT INTO {records} SELECT * FROM {records} WHERE 0"),
            format!("GRANT INSERT ON {records} TO <user>"),
        ),
        (
            "see its own running queries",
            ledger::running(spec, "none"),
            "GRANT SELECT ON system.processes TO <user>".to_owned(),
        ),
    ];
    for (what, sql, grant) in tries {
        match client.execute(&sql, &[]).await {
            Ok(()) => {}
            Err(ClickHouseError::Denied { message, .. }) => {
                return Err(PreflightError::Permission { what, message, grant });
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}
