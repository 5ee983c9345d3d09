use std::net::{Ipv4Addr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BucketSettings, ByteSize, ClickHouseSettings, SettingsError, Span, check_version, version};

/// What one syncer is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SyncerSettings {
    #[serde(default = "version")]
    pub version: u32,
    /// Names the pipeline in the manifest: a bucket prefix belongs to one.
    #[serde(default = "pipeline")]
    pub pipeline: String,
    pub bucket: BucketSettings,
    #[serde(default)]
    pub clickhouse: ClickHouseSettings,
    /// Metrics and probes.
    #[serde(default = "admin_address")]
    pub admin: SocketAddr,
    /// With it, several syncers may run: the one that holds this Lease loads, the others stand by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseSettings>,
    /// Between listings while there is work.
    #[serde(default = "interval")]
    pub interval: Span,
    /// Between listings after one that found nothing.
    #[serde(default = "idle_interval")]
    pub idle_interval: Span,
    /// Batches fetched, encoded and inserted at once.
    #[serde(default = "concurrency")]
    pub concurrency: u32,
    /// Objects fetched at once, over all batches.
    #[serde(default = "fetch_concurrency")]
    pub fetch_concurrency: u32,
    /// Open batches in the manifest; the backlog beyond them stays unplanned.
    #[serde(default = "max_open_batches")]
    pub max_open_batches: u32,
    #[serde(default)]
    pub batch: BatchSettings,
    /// How long after its insert a batch's objects stay, against a server that loses what it confirmed.
    #[serde(default = "delete_grace")]
    pub delete_grace: Span,
    /// How long a deleted key is remembered, against a stalled PUT that lands late.
    #[serde(default = "removed_memory")]
    pub removed_memory: Span,
    /// The server is told to give up an insert after this long.
    #[serde(default = "insert_timeout")]
    pub insert_timeout: Span,
    /// Without a Lease: how long a manifest must have stood still before it is taken over.
    #[serde(default = "takeover_after")]
    pub takeover_after: Span,
    /// Between writings of `_spillway/status.json`.
    #[serde(default = "status_interval")]
    pub status_interval: Span,
    /// For open batches to be finished when the process stops.
    #[serde(default = "drain_timeout")]
    pub drain_timeout: Span,
}

/// A Lease of Kubernetes' coordination.k8s.io/v1. It must be there; the syncer reads and updates it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LeaseSettings {
    pub namespace: String,
    pub name: String,
}

/// What one insert may hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BatchSettings {
    pub max_rows: u64,
    /// Raw bytes.
    pub max_bytes: ByteSize,
    /// How long an object may wait for a batch to fill up. 0: not at all, for the shortest way to the table;
    /// more makes fewer and larger inserts of a trickle.
    pub max_age: Span,
    /// Partitions (days and retentions) of one batch: deduplication windows count parts.
    pub max_partitions: u32,
}

fn pipeline() -> String {
    "default".to_owned()
}
fn admin_address() -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, 9091).into()
}
fn interval() -> Span {
    Span::ms(500)
}
fn idle_interval() -> Span {
    Span::secs(5)
}
fn concurrency() -> u32 {
    2
}
fn fetch_concurrency() -> u32 {
    16
}
fn max_open_batches() -> u32 {
    64
}
fn delete_grace() -> Span {
    Span::secs(30)
}
fn removed_memory() -> Span {
    Span::secs(20 * 60)
}
fn insert_timeout() -> Span {
    Span::secs(120)
}
fn takeover_after() -> Span {
    Span::secs(15)
}
fn status_interval() -> Span {
    Span::secs(10)
}
fn drain_timeout() -> Span {
    Span::secs(30)
}

impl Default for BatchSettings {
    fn default() -> Self {
        Self { max_rows: 200_000, max_bytes: ByteSize::mib(128), max_age: Span::ms(0), max_partitions: 8 }
    }
}

impl SyncerSettings {
    /// The defaults with this bucket and this ClickHouse.
    #[must_use]
    pub fn new(bucket: BucketSettings, clickhouse: ClickHouseSettings) -> Self {
        Self {
            version: version(),
            pipeline: pipeline(),
            bucket,
            clickhouse,
            admin: admin_address(),
            lease: None,
            interval: interval(),
            idle_interval: idle_interval(),
            concurrency: concurrency(),
            fetch_concurrency: fetch_concurrency(),
            max_open_batches: max_open_batches(),
            batch: BatchSettings::default(),
            delete_grace: delete_grace(),
            removed_memory: removed_memory(),
            insert_timeout: insert_timeout(),
            takeover_after: takeover_after(),
            status_interval: status_interval(),
            drain_timeout: drain_timeout(),
        }
    }

    /// # Errors
    /// Names the setting that can't be used.
    pub fn validate(&self) -> Result<(), SettingsError> {
        check_version(self.version)?;
        self.bucket.validate()?;
        self.clickhouse.validate()?;
        if let Some(LeaseSettings { namespace, name }) = &self.lease {
            for (field, value) in [("lease.namespace", namespace), ("lease.name", name)] {
                if value.is_empty() {
                    return Err(SettingsError::value(field, "must not be empty"));
                }
            }
        }
        let positive = [
            ("interval", self.interval.get().as_millis() as u64),
            ("concurrency", self.concurrency.into()),
            ("fetchConcurrency", self.fetch_concurrency.into()),
            ("maxOpenBatches", self.max_open_batches.into()),
            ("batch.maxRows", self.batch.max_rows),
            ("batch.maxBytes", self.batch.max_bytes.0),
            ("batch.maxPartitions", self.batch.max_partitions.into()),
            ("takeoverAfter", self.takeover_after.get().as_millis() as u64),
            ("insertTimeout", self.insert_timeout.get().as_millis() as u64),
        ];
        match positive.into_iter().find(|(_, value)| *value == 0) {
            Some((field, _)) => Err(SettingsError::value(field, "must be more than 0")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lease: &str) -> SyncerSettings {
        let text = format!(r#"{{"bucket": {{"directory": "/tmp/b"}}{lease}}}"#);
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_lease_is_optional_and_needs_both_of_its_names() {
        assert_eq!(read("").lease, None);
        let written = serde_json::to_string(&read("")).unwrap();
        assert!(!written.contains("lease"), "{written}");
        let settings = read(r#", "lease": {"namespace": "logs", "name": "logs-syncer"}"#);
        assert!(settings.validate().is_ok());
        let settings = read(r#", "lease": {"namespace": "", "name": "logs-syncer"}"#);
        assert!(matches!(settings.validate(), Err(SettingsError::Value { field: "lease.namespace", .. })));
    }
}
