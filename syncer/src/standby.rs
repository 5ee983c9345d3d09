//! With a Lease: stands by until this process holds it, and loads while it does.

use std::path::Path;
use std::sync::Arc;

use spillway_bucket::Bucket;
use spillway_lease::{Client, Config, Elector, Identity};
use spillway_model::settings::{LeaseSettings, SyncerSettings};
use spillway_schema::ClickHouse;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::runner::{SyncerError, TakeOver, run_as};

/// A candidate for the Lease. Without a kubeconfig the API server is asked as the pod's service account.
///
/// # Errors
/// When there is no way to the API server, or this process has no name.
pub async fn candidate(lease: &LeaseSettings, kubeconfig: Option<&Path>) -> Result<Elector, SyncerError> {
    let client: Client = spillway_lease::connect(kubeconfig).await.map_err(unusable)?;
    let me = Identity::of_this_pod().map_err(unusable)?;
    // It must be there: RBAC can't limit the right to create to this one.
    let config = Config { create: false, ..Config::default() };
    Elector::new(client, &lease.namespace, &lease.name, me, config).map_err(unusable)
}

fn unusable(error: impl std::fmt::Display) -> SyncerError {
    SyncerError::Lease(error.to_string())
}

/// Stands by, and loads whenever this process holds the Lease. On `stop` it finishes what it has begun, renewing
/// the Lease meanwhile, and then releases it. A lost Lease breaks the work off, as a kill would: what is open is
/// settled by the next holder.
///
/// # Errors
/// See [`SyncerError`]. The Lease is released then as well, and somebody else may try.
pub async fn run(
    elector: &Elector,
    settings: SyncerSettings,
    bucket: Bucket,
    clickhouse: ClickHouse,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> Result<(), SyncerError> {
    tracing::info!(identity = %elector.identity(), "standing by");
    let work = |lost: CancellationToken| {
        let run = run_as(
            TakeOver::AtOnce,
            settings.clone(),
            bucket.clone(),
            clickhouse.clone(),
            metrics.clone(),
            stop.clone(),
        );
        lost.run_until_cancelled_owned(run)
    };
    match elector.run(work, stop.clone()).await {
        Some(Some(result)) => result,
        // Told to stop as a standby, or in the moment in which the Lease was lost.
        Some(None) | None => Ok(()),
    }
}
