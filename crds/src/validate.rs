//! From what a user wrote to what can be run. Every mistake is found in one go and named by its field path.
//!
//! A mistake in a tenant only leaves that tenant out: one tenant's must never stop the others.

mod error;
mod ingest;
mod read;
mod storage;
mod tenants;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use error::{FieldError, Problem};
pub use ingest::{Ingest, Scale};
use spillway_model::settings::{ByteSize, Span};
pub use storage::{ClickHouse, S3, Storage};
pub use tenants::{Limits, RefusedTenant, Tenant};

use crate::{
    pipeline::{DeletionPolicy, LogPipeline, LogPipelineSpec},
    schema::{MessageIndex, SchemaSpec, ViewsSpec},
    syncer::SyncerSpec,
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
    pub storage: Storage,
    pub clickhouse: ClickHouse,
    pub schema: Schema,
    pub ingest: Ingest,
    pub syncer: Syncer,
    /// Tenants that may send, in the order of the spec.
    pub tenants: Vec<Tenant>,
    /// Tenants that are left out, and why.
    pub refused_tenants: Vec<RefusedTenant>,
    pub deletion_policy: DeletionPolicy,
    pub paused: bool,
    pub suspend: bool,
}

/// `spec.schema`, checked.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Schema {
    pub table: Option<String>,
    pub retention_days: u16,
    pub message_index: MessageIndex,
    pub error_rate: bool,
    pub http_latency: bool,
    pub tenant_volume: bool,
}

/// `spec.syncer`, checked.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Syncer {
    pub interval: Option<Span>,
    pub idle_interval: Option<Span>,
    pub concurrency: Option<u32>,
    pub batch_max_rows: Option<u64>,
    /// Bytes of uncompressed rows.
    pub batch_max_bytes: Option<ByteSize>,
    pub batch_max_age: Option<Span>,
    pub delete_grace: Option<Span>,
    pub resources: Option<k8s_openapi::api::core::v1::ResourceRequirements>,
}

/// Days that a record is kept for when neither tenant nor schema says so.
pub const DEFAULT_RETENTION_DAYS: u16 = 30;
const LONGEST_RETENTION_DAYS: u16 = 3650;

/// Checks a pipeline.
///
/// # Errors
/// Every mistake outside of the tenants; those are in [`ValidatedPipeline::refused_tenants`].
pub fn validate(pipeline: &LogPipeline) -> Result<ValidatedPipeline, Vec<FieldError>> {
    // Taken apart in full, so that a new field can't be forgotten here.
    let LogPipelineSpec {
        image,
        storage,
        clickhouse,
        schema,
        ingest,
        syncer,
        tenants,
        deletion_policy,
        paused,
        suspend,
    } = &pipeline.spec;
    let mut reader = Reader::default();
    let name = pipeline.metadata.name.clone().unwrap_or_default();
    if name.is_empty() {
        reader.refuse("metadata.name", Problem::Missing { remedy: "give the pipeline a name" });
    }
    let schema = check_schema(&mut reader, schema);
    let storage = storage::check(&mut reader, storage);
    let clickhouse = storage::check_clickhouse(&mut reader, clickhouse);
    let ingest = ingest::check(&mut reader, ingest);
    let syncer = check_syncer(&mut reader, syncer);
    let (tenants, refused_tenants) = tenants::check(tenants, schema.retention_days);
    reader.finish(ValidatedPipeline {
        name,
        namespace: pipeline.metadata.namespace.clone(),
        uid: pipeline.metadata.uid.clone(),
        image: image.clone(),
        storage,
        clickhouse,
        schema,
        ingest,
        syncer,
        tenants,
        refused_tenants,
        deletion_policy: deletion_policy.unwrap_or_default(),
        paused: paused.unwrap_or(false),
        suspend: suspend.unwrap_or(false),
    })
}

fn check_schema(reader: &mut Reader, spec: &SchemaSpec) -> Schema {
    let SchemaSpec { table, retention_days, message_index, views } = spec;
    let ViewsSpec { error_rate, http_latency, tenant_volume } = views.clone().unwrap_or_default();
    let days = retention_days.unwrap_or(DEFAULT_RETENTION_DAYS);
    reader.range("spec.schema.retentionDays", u64::from(days), 1, u64::from(LONGEST_RETENTION_DAYS));
    Schema {
        table: reader.identifier("spec.schema.table", table.as_deref()),
        retention_days: days,
        message_index: message_index.unwrap_or_default(),
        error_rate: error_rate.unwrap_or(true),
        http_latency: http_latency.unwrap_or(true),
        tenant_volume: tenant_volume.unwrap_or(true),
    }
}

fn check_syncer(reader: &mut Reader, spec: &SyncerSpec) -> Syncer {
    let SyncerSpec { interval, idle_interval, concurrency, batch, delete_grace, resources } = spec;
    let batch = batch.clone().unwrap_or_default();
    if let Some(concurrency) = concurrency {
        reader.range("spec.syncer.concurrency", u64::from(*concurrency), 1, 64);
    }
    if let Some(rows) = batch.max_rows {
        reader.range("spec.syncer.batch.maxRows", rows, 1, 10_000_000);
    }
    const HOUR: Duration = Duration::from_secs(3600);
    let ms = Duration::from_millis;
    Syncer {
        interval: reader.span("spec.syncer.interval", interval.as_ref(), ms(10), HOUR),
        idle_interval: reader.span("spec.syncer.idleInterval", idle_interval.as_ref(), ms(10), HOUR),
        concurrency: *concurrency,
        batch_max_rows: batch.max_rows,
        batch_max_bytes: reader.size(
            "spec.syncer.batch.maxBytes",
            batch.max_bytes.as_ref(),
            1 << 10,
            2 << 30,
        ),
        batch_max_age: reader.span("spec.syncer.batch.maxAge", batch.max_age.as_ref(), ms(0), HOUR),
        delete_grace: reader.span("spec.syncer.deleteGrace", delete_grace.as_ref(), ms(0), 24 * HOUR),
        resources: resources.clone(),
    }
}
