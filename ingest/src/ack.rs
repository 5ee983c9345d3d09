//! How a request learns that its rows are in the bucket.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Counts down the objects that a request's rows went into.
#[derive(Debug)]
pub(crate) struct Waiter {
    left: AtomicUsize,
    done: Mutex<Option<oneshot::Sender<()>>>,
}

impl Waiter {
    /// For a request whose rows go into so many streams, each of which ends up in one object.
    pub(crate) fn new(streams: usize) -> (Self, oneshot::Receiver<()>) {
        let (sender, receiver) = oneshot::channel();
        (Self { left: AtomicUsize::new(streams), done: Mutex::new(Some(sender)) }, receiver)
    }

    pub(crate) fn one_staged(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(done) = self.done.lock().take()
        {
            // Nobody listens any more when the request timed out or its sender went away.
            let _ = done.send(());
        }
    }
}
