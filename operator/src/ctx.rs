//! What every reconcile shares.

use std::{sync::Arc, sync::atomic::AtomicBool, time::Duration};

use kube::{Client, runtime::events::Recorder};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    admin::Readiness, controller::Wakes, inventory::Inventory, memory::Memories, metrics::Metrics,
    secret_cache::SecretCache,
};

pub(crate) struct Ctx {
    pub(crate) client: Client,
    pub(crate) config: Config,
    /// One for all: it counts repeated events in memory.
    pub(crate) recorder: Recorder,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) readiness: Arc<Readiness>,
    pub(crate) inventory: Inventory,
    pub(crate) secrets: SecretCache,
    pub(crate) memories: Memories,
    /// The cluster knows PodMonitors, and they are watched.
    pub(crate) pod_monitors: AtomicBool,
    /// The queues, for work that goes on beside the reconciles.
    pub(crate) wakes: Wakes,
    /// Reconciles that may wait for a bucket or a database: fewer than there are at once, so that servers that hang
    /// never hold up the pipelines of others.
    pub(crate) waiting: Semaphore,
    /// Deletions that may be at work at once, for the same reason.
    pub(crate) cleaning: Semaphore,
    /// Cancelled when this process leads no more.
    pub(crate) ended: CancellationToken,
}

#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Image of new pipelines.
    pub(crate) image: String,
    /// Pipelines without an identity of their own may use the operator's.
    pub(crate) use_own_credentials: bool,
    /// How long deleting a pipeline may wait for bucket and tables.
    pub(crate) cleanup_timeout: Duration,
    /// Between looks at bucket and database when nothing changed.
    pub(crate) resync: Duration,
    /// Between looks at a pipeline's status file.
    pub(crate) tick: Duration,
    /// Other than AWS's own.
    pub(crate) sts_endpoint: Option<String>,
}
