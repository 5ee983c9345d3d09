//! What has to be put right again even when a test fails: what belongs to the cluster and not to the test's namespace.

use std::panic::{AssertUnwindSafe, resume_unwind};

use futures::FutureExt as _;

/// Does `work`, then `undo` whatever came of it, and only then fails if the work did.
pub async fn undone<T>(work: impl Future<Output = T>, undo: impl Future<Output = ()>) -> T {
    let done = AssertUnwindSafe(work).catch_unwind().await;
    undo.await;
    done.unwrap_or_else(|panic| resume_unwind(panic))
}
