//! Ingest and syncer, as tasks of this process.

use std::sync::Arc;

use spillway_bucket::Bucket;
use spillway_ingest::{Listeners, Shutdown, TenantsSource};
use spillway_model::settings::{IngestSettings, SyncerSettings, TenantsFile};
use spillway_schema::ClickHouse;
use spillway_syncer::metrics::Metrics;
use tokio::net::TcpListener;
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
    settings: SyncerSettings,
    bucket: Bucket,
    clickhouse: ClickHouse,
    admin: TcpListener,
    stop: CancellationToken,
) -> Result<Exit, Failure> {
    let metrics = Arc::new(Metrics::default());
    let served = CancellationToken::new();
    let _ends = served.clone().drop_guard();
    tokio::spawn(spillway_syncer::admin::serve(admin, Arc::clone(&metrics), served));
    match spillway_syncer::run(settings, bucket, clickhouse, metrics, stop).await {
        Ok(()) => Ok(Exit::Done),
        Err(error) => {
            let exit = if error.exit_code() == Exit::Forced as u8 { Exit::Forced } else { Exit::Start };
            Err(Failure::new(exit, error))
        }
    }
}
