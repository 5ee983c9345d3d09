//! Ingest and syncer, as tasks of this process.

use spillway_bucket::Bucket;
use spillway_model::settings::{IngestSettings, SyncerSettings, TenantsFile};
use spillway_schema::ClickHouse;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::exit::{Exit, Failure};

/// Receives until `stop`, then drains.
pub async fn ingest(
    _settings: IngestSettings,
    _tenants: TenantsFile,
    _bucket: Bucket,
    _http: TcpListener,
    _admin: TcpListener,
    stop: CancellationToken,
) -> Result<Exit, Failure> {
    stop.cancelled().await;
    Ok(Exit::Done)
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
