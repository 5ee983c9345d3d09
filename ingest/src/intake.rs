//! The border between receivers and buffers: admitted requests go in, what became of them comes out. A
//! receiver knows nothing of buffers, objects or S3; what lies behind knows nothing of HTTP.

use std::sync::Arc;
use std::time::{Duration, Instant};

use spillway_model::TenantName;
use spillway_model::settings::Ack;

use crate::ack::Waiter;
use crate::admit::StreamRows;
pub use crate::buffers::Tally;
use crate::buffers::{Append, Buffers, NotTaken};
use crate::queue::{Overload, Slot};

/// A request whose records were admitted.
#[derive(Debug)]
pub struct AdmittedRequest {
    pub tenant: TenantName,
    pub request_id: String,
    /// As the sender gave it. Carried, not acted on yet: a request that is sent again is new records.
    pub idempotency_key: Option<String>,
    pub ack: Ack,
    /// What of the request is not in `streams`; counted together with them.
    pub tally: Tally,
    pub streams: Vec<StreamRows>,
    /// The request's place in the queue.
    pub slot: Slot,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All its rows are in the bucket.
    Durable,
    /// All its rows are in memory.
    Memory,
    /// None of its rows were taken.
    Overloaded(Overload),
    /// None of its rows were taken: the process is about to end.
    Closed,
    /// Some of its rows are lost by a fault of the program.
    Failed,
    /// All its rows are in memory, but not in the bucket in time for the answer. They will be, unless the
    /// process is stopped before the bucket takes them.
    NotYetDurable,
}

/// Takes admitted requests.
#[derive(Debug, Clone)]
pub struct Intake {
    buffers: Arc<Buffers>,
    ack_timeout: Duration,
}

impl Intake {
    pub(crate) fn new(buffers: Arc<Buffers>, ack_timeout: Duration) -> Self {
        Self { buffers, ack_timeout }
    }

    /// Buffers a request's rows and waits for as much as its `ack` says. Dropping the future does not take
    /// the rows back.
    pub async fn submit(&self, request: AdmittedRequest) -> Outcome {
        let AdmittedRequest { tenant, request_id, idempotency_key, ack, tally, streams, mut slot } = request;
        tracing::trace!(request_id, ?idempotency_key, streams = streams.len(), ?ack, "request admitted");
        let sizes = streams.iter().map(|s| s.rows.len() as u64);
        let held = slot.hand_over(sizes);
        let (waiter, staged) = Waiter::new(streams.len());
        let waiter = (ack == Ack::Durable).then(|| Arc::new(waiter));
        let append = Append { tenant, tally, streams, held, waiter };
        match self.buffers.append(append, Instant::now()) {
            Ok(()) => {}
            Err(NotTaken::Overload(overload)) => return Outcome::Overloaded(overload),
            Err(NotTaken::Closed) => return Outcome::Closed,
        }
        match ack {
            Ack::Memory => Outcome::Memory,
            Ack::Durable => match tokio::time::timeout(self.ack_timeout, staged).await {
                Ok(Ok(())) => Outcome::Durable,
                // Dropped without a word: some of its rows could not be encoded.
                Ok(Err(_)) => Outcome::Failed,
                Err(_) => Outcome::NotYetDurable,
            },
        }
    }
}
