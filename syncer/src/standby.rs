//! With a Lease: stands by until this process holds it, and loads while it does.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use spillway_bucket::{Bucket, BucketError, Swap};
use spillway_lease::{Client, Config, Elector, Identity};
use spillway_model::settings::{LeaseSettings, SyncerSettings};
use spillway_model::time::UnixMs;
use spillway_schema::ClickHouse;
use tokio_util::sync::CancellationToken;

use crate::core::Stop;
use crate::manifest::MANIFEST_KEY;
use crate::metrics::Metrics;
use crate::runner::{SyncerError, TakeOver, run_as};
use crate::status::{STATUS_KEY, Status};

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

/// Between looks whether a lost manifest is there again.
const LOOK: Duration = Duration::from_secs(5);

/// Stands by, and loads whenever this process holds the Lease. On `stop` it finishes what it has begun, renewing
/// the Lease meanwhile, and then releases it. A lost Lease breaks the work off, as a kill would: what is open is
/// settled by the next holder. A lost manifest is said in the status and waited for: pods that end and are started again
/// ever later would be long in coming back.
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
        let (settings, bucket, clickhouse) = (settings.clone(), bucket.clone(), clickhouse.clone());
        let (metrics, stop) = (metrics.clone(), stop.clone());
        let run = async move {
            loop {
                let run = run_as(
                    TakeOver::AtOnce,
                    settings.clone(),
                    bucket.clone(),
                    clickhouse.clone(),
                    metrics.clone(),
                    stop.clone(),
                );
                match run.await {
                    Err(error @ SyncerError::Stopped(Stop::ManifestLost)) => {
                        tracing::error!(reason = error.reason(), "waiting for it: {error}");
                        if stop.run_until_cancelled(manifest_is_back(&bucket)).await.is_none() {
                            return Ok(());
                        }
                    }
                    other => return other,
                }
            }
        };
        lost.run_until_cancelled_owned(run)
    };
    match elector.run(work, stop.clone()).await {
        Some(Some(result)) => result,
        // Told to stop as a standby, or in the moment in which the Lease was lost.
        Some(None) | None => Ok(()),
    }
}

async fn manifest_is_back(bucket: &Bucket) {
    let mut said = false;
    loop {
        said = said || matches!(say_lost(bucket).await, Ok(Swap::Swapped(_)));
        tokio::time::sleep(LOOK).await;
        if matches!(bucket.head(MANIFEST_KEY).await, Ok(Some(_))) {
            return;
        }
    }
}

/// In the status, which otherwise stays as it was: its epoch is of use when the manifest is made anew.
async fn say_lost(bucket: &Bucket) -> Result<Swap, BucketError> {
    let (status, tag) = match bucket.get(STATUS_KEY).await? {
        Some((bytes, tag)) => match serde_json::from_slice(&bytes) {
            Ok(status) => (status, Some(tag)),
            // A newer version's, perhaps: its epoch must not be lost.
            Err(_) => return Ok(Swap::Lost),
        },
        None => (Status::default(), None),
    };
    let status = Status { version: 1, at: UnixMs::now().0, manifest_lost: true, ..status };
    let Ok(body) = serde_json::to_vec(&status) else { return Ok(Swap::Lost) };
    bucket.swap(STATUS_KEY, tag.as_ref(), body.into()).await
}
