//! From what a user wrote to what can be run. Every mistake is found in one go and named by its field path.
//!
//! A mistake in a tenant only leaves that tenant out: one tenant's must never stop the others.

mod cluster;
mod error;
mod ingest;
mod read;
mod storage;
mod tenants;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use cluster::{Monitoring, NetworkPolicy, Scheduling};
pub use error::{FieldError, Problem};
pub use ingest::{Ingest, Scale};
use spillway_model::settings::{ByteSize, Span};
pub use storage::{ClickHouse, S3, Storage};
pub use tenants::{Limits, RefusedTenant, Tenant};

use crate::{
    pipeline::{DeletionPolicy, LogPipeline, LogPipelineSpec},
    schema::{MessageIndex, SchemaSpec, ViewsSpec},
    syncer::{BatchSpec, SyncerSpec},
    validate::read::Reader,
};

/// A pipeline that can be run. `None` means that the user left it to the default, which is the settings' own.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ValidatedPipeline {
    pub name: String,
    pub namespace: Option<String>,
    /// The object's uid in the cluster; `None` outside of one.
    pub uid: Option<String>,
    pub image: Option<String>,
    /// Names of the Secrets that the image is pulled with.
    pub image_pull_secrets: Vec<String>,
    pub storage: Storage,
    pub clickhouse: ClickHouse,
    pub schema: Schema,
    pub ingest: Ingest,
    pub syncer: Syncer,
    /// Tenants that may send, in the order of the spec.
    pub tenants: Vec<Tenant>,
    /// Tenants that are left out, and why.
    pub refused_tenants: Vec<RefusedTenant>,
    pub monitoring: Monitoring,
    pub network_policy: NetworkPolicy,
    pub deletion_policy: DeletionPolicy,
    pub paused: bool,
    pub suspend: bool,
}

/// `spec.schema`, checked. `None`: the settings' default.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Schema {
    pub table: Option<String>,
    /// Days. `None`: [`DEFAULT_RETENTION_DAYS`].
    pub retention_days: Option<u16>,
    pub message_index: Option<MessageIndex>,
    pub error_rate: Option<bool>,
    pub http_latency: Option<bool>,
    pub tenant_volume: Option<bool>,
}

/// `spec.syncer`, checked.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Syncer {
    /// Pods, all but one on standby.
    pub replicas: i32,
    pub interval: Option<Span>,
    pub idle_interval: Option<Span>,
    pub concurrency: Option<u32>,
    pub batch_max_rows: Option<u64>,
    /// Bytes of uncompressed rows.
    pub batch_max_bytes: Option<ByteSize>,
    pub batch_max_age: Option<Span>,
    pub delete_grace: Option<Span>,
    pub resources: Option<k8s_openapi::api::core::v1::ResourceRequirements>,
    pub scheduling: Scheduling,
}

/// Days that a record is kept for when neither tenant nor schema says so.
pub const DEFAULT_RETENTION_DAYS: u16 = 30;
const LONGEST_RETENTION_DAYS: u16 = 3650;

/// Longest name: objects are named after it, and a Service's name has 63 characters at most.
const LONGEST_NAME: usize = 40;

/// Checks a pipeline.
///
/// # Errors
/// Every mistake outside of the tenants; those are in [`ValidatedPipeline::refused_tenants`].
pub fn validate(pipeline: &LogPipeline) -> Result<ValidatedPipeline, Vec<FieldError>> {
    // Taken apart in full, so that a new field can't be forgotten here.
    let LogPipelineSpec {
        image,
        image_pull_secrets,
        storage,
        clickhouse,
        schema,
        ingest,
        syncer,
        tenants,
        monitoring,
        network_policy,
        deletion_policy,
        paused,
        suspend,
    } = &pipeline.spec;
    let mut reader = Reader::default();
    let name = check_name(&mut reader, pipeline.metadata.name.as_deref().unwrap_or_default());
    if image.as_ref().is_some_and(|image| image.is_empty() || image.contains(char::is_whitespace)) {
        let (text, remedy) = (image.clone().unwrap_or_default(), "write it like registry/name:tag");
        reader.refuse("spec.image", Problem::Malformed { text, why: "is no image", remedy });
    }
    let image_pull_secrets = cluster::check_pull_secrets(&mut reader, image_pull_secrets);
    let schema = check_schema(&mut reader, schema);
    let storage = storage::check(&mut reader, storage);
    let clickhouse = storage::check_clickhouse(&mut reader, clickhouse);
    let ingest = ingest::check(&mut reader, ingest);
    let syncer = check_syncer(&mut reader, syncer);
    let default_retention = schema.retention_days.unwrap_or(DEFAULT_RETENTION_DAYS);
    let (tenants, refused_tenants) = tenants::check(tenants, default_retention);
    let monitoring = cluster::check_monitoring(&mut reader, monitoring.as_ref());
    let (paused, suspend) = (paused.unwrap_or(false), suspend.unwrap_or(false));
    if paused && suspend {
        reader.refuse("spec.paused", Problem::Exclusive { other: "spec.suspend" });
    }
    reader.finish(ValidatedPipeline {
        name,
        namespace: pipeline.metadata.namespace.clone(),
        uid: pipeline.metadata.uid.clone(),
        image: image.clone(),
        image_pull_secrets,
        storage,
        clickhouse,
        schema,
        ingest,
        syncer,
        tenants,
        refused_tenants,
        monitoring,
        network_policy: cluster::check_network_policy(network_policy.as_ref()),
        deletion_policy: deletion_policy.unwrap_or_default(),
        paused,
        suspend,
    })
}

fn check_name(reader: &mut Reader, name: &str) -> String {
    let ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.ends_with(ends)
        && name.chars().all(|c| ends(c) || c == '-');
    if name.is_empty() {
        reader.refuse("metadata.name", Problem::Missing { remedy: "give the pipeline a name" });
    } else if !plain || name.len() > LONGEST_NAME {
        let remedy = "use at most 40 lower-case letters, digits and '-', beginning with a letter";
        let why = "can't be the name of a pipeline";
        reader.refuse("metadata.name", Problem::Malformed { text: name.to_owned(), why, remedy });
    }
    name.to_owned()
}

impl ValidatedPipeline {
    /// What it lacks to run in a cluster, where no directory and no ClickHouse of its own stand in.
    #[must_use]
    pub fn missing_in_a_cluster(&self) -> Vec<FieldError> {
        let mut missing = Vec::new();
        if self.storage.s3.is_none() {
            let remedy = "name the bucket, or run the pipeline on one machine with `spillway up`";
            missing.push(FieldError::missing("spec.storage.s3", remedy));
        }
        if self.clickhouse.url.is_none() {
            let remedy = "name the server, or run the pipeline on one machine with `spillway up`";
            missing.push(FieldError::missing("spec.clickhouse.url", remedy));
        }
        missing
    }
}

fn check_schema(reader: &mut Reader, spec: &SchemaSpec) -> Schema {
    let SchemaSpec { table, retention_days, message_index, views } = spec;
    let ViewsSpec { error_rate, http_latency, tenant_volume } = views.clone().unwrap_or_default();
    if let Some(days) = retention_days {
        reader.range("spec.schema.retentionDays", u64::from(*days), 1, u64::from(LONGEST_RETENTION_DAYS));
    }
    Schema {
        table: reader.identifier("spec.schema.table", table.as_deref()),
        retention_days: *retention_days,
        message_index: *message_index,
        error_rate,
        http_latency,
        tenant_volume,
    }
}

fn check_syncer(reader: &mut Reader, spec: &SyncerSpec) -> Syncer {
    let SyncerSpec {
        replicas,
        interval,
        idle_interval,
        concurrency,
        batch,
        delete_grace,
        resources,
        scheduling,
    } = spec;
    let BatchSpec { max_rows, max_bytes, max_age } = batch.clone().unwrap_or_default();
    let replicas = replicas.unwrap_or(2);
    reader.range("spec.syncer.replicas", u64::try_from(replicas).unwrap_or(0), 1, 3);
    if let Some(concurrency) = concurrency {
        reader.range("spec.syncer.concurrency", u64::from(*concurrency), 1, 64);
    }
    if let Some(rows) = max_rows {
        reader.range("spec.syncer.batch.maxRows", rows, 1, 10_000_000);
    }
    const HOUR: Duration = Duration::from_secs(3600);
    let ms = Duration::from_millis;
    Syncer {
        replicas,
        interval: reader.span("spec.syncer.interval", interval.as_ref(), ms(10), HOUR),
        idle_interval: reader.span("spec.syncer.idleInterval", idle_interval.as_ref(), ms(10), HOUR),
        concurrency: *concurrency,
        batch_max_rows: max_rows,
        batch_max_bytes: reader.size("spec.syncer.batch.maxBytes", max_bytes.as_ref(), 1 << 10, 2 << 30),
        batch_max_age: reader.span("spec.syncer.batch.maxAge", max_age.as_ref(), ms(0), HOUR),
        delete_grace: reader.span("spec.syncer.deleteGrace", delete_grace.as_ref(), ms(0), 24 * HOUR),
        resources: resources.clone(),
        scheduling: cluster::check_scheduling(reader, "spec.syncer.scheduling", scheduling.as_ref()),
    }
}
