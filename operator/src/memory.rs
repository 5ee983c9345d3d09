//! What is remembered of a pipeline between reconciles, by its uid. All of it can be lost: it saves requests, and
//! nothing is decided by it that the cluster, the bucket or the database don't also say.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex as SyncMutex;
use spillway_bucket::Bucket;
use spillway_crds::status::LogPipelineStatus;
use tokio::sync::Mutex;

use crate::{backoff, conditions::Finding, drift::Applied, kinds::Id, lag::Progress};

#[derive(Default)]
pub(crate) struct Memory {
    /// Reconciles in a row that failed.
    pub(crate) failures: u32,
    pub(crate) applied: BTreeMap<Id, Applied>,
    /// The value of the annotation that pods were last touched with, by component.
    pub(crate) touched: BTreeMap<&'static str, String>,
    pub(crate) bucket: Option<Attempt>,
    pub(crate) schema: Option<Attempt>,
    pub(crate) manifest: Option<Attempt>,
    pub(crate) opened: Option<Opened>,
    /// Bucket for which conditional writes were seen to work.
    pub(crate) probed: Option<u64>,
    pub(crate) reading: Option<Reading>,
    /// While suspended: nothing staged was left after the last ingest pod had gone.
    pub(crate) drained: Option<bool>,
    /// When objects that aren't wanted any more were last looked for.
    pub(crate) swept: Option<Instant>,
    /// The status as last written, and its resourceVersion: the watch may not have brought it yet.
    pub(crate) status: Option<(u64, LogPipelineStatus)>,
    pub(crate) progress_written: Option<Instant>,
    pub(crate) cleanup_failures: u32,
    /// What the cleanup has done, for people.
    pub(crate) cleaned: Vec<String>,
    pub(crate) dropped: bool,
    pub(crate) emptied: bool,
}

/// A step outside of the cluster, and what came of it.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    /// Digest of everything that went into it.
    pub(crate) inputs: u64,
    pub(crate) at: Instant,
    /// In a row, with these inputs.
    pub(crate) failures: u32,
    pub(crate) finding: Finding,
    /// Only its owner can mend it: looked at again with the resync.
    pub(crate) patient: bool,
}

/// A bucket whose connections and credentials are kept.
pub(crate) struct Opened {
    pub(crate) inputs: u64,
    pub(crate) at: Instant,
    pub(crate) bucket: Bucket,
}

/// What was read of `_spillway/status.json`.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    pub(crate) at: Instant,
    pub(crate) progress: Option<Progress>,
}

/// Whether a step is to be taken: its inputs changed, its wait after a failure is over, or it is time to see
/// whether somebody changed something out there.
pub(crate) fn is_due(last: Option<&Attempt>, inputs: u64, now: Instant, resync: Duration) -> bool {
    let Some(last) = last.filter(|last| last.inputs == inputs) else { return true };
    let wait = if last.failures == 0 || last.patient { resync } else { backoff::delay(last.failures) };
    now.duration_since(last.at) >= wait
}

/// The attempt that follows `last`.
pub(crate) fn attempt(last: Option<&Attempt>, inputs: u64, now: Instant, finding: Finding, patient: bool) -> Attempt {
    let before = last.filter(|last| last.inputs == inputs).map_or(0, |last| last.failures);
    let failures = if finding.is_good() { 0 } else { before.saturating_add(1) };
    Attempt { inputs, at: now, failures, finding, patient }
}

/// Memories of all pipelines.
#[derive(Default)]
pub(crate) struct Memories(SyncMutex<HashMap<String, Arc<Mutex<Memory>>>>);

impl Memories {
    pub(crate) fn of(&self, uid: &str) -> Arc<Mutex<Memory>> {
        self.0.lock().entry(uid.to_owned()).or_default().clone()
    }

    pub(crate) fn forget(&self, uid: &str) {
        self.0.lock().remove(uid);
    }

    /// For the error policy, which can't wait: kube runs it after the reconcile has let its memory go.
    pub(crate) fn count_failure(&self, uid: &str) -> u32 {
        let memory = self.of(uid);
        let Ok(mut memory) = memory.try_lock() else { return 1 };
        memory.failures = memory.failures.saturating_add(1);
        memory.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conditions::Reason;

    const RESYNC: Duration = Duration::from_secs(600);

    #[test]
    fn a_step_is_repeated_after_a_change_a_failure_or_the_resync() {
        let begin = Instant::now();
        let good = Finding::good(Reason::Configured, "");
        let bad = Finding::bad(Reason::Outside("Unavailable"), "");
        let second = attempt(Some(&attempt(None, 1, begin, bad.clone(), false)), 1, begin, bad.clone(), false);
        let patient = attempt(None, 1, begin, bad.clone(), true);
        let good = attempt(Some(&second), 1, begin, good, false);
        for (what, last, inputs, seconds, due) in [
            ("never tried", None, 1, 0, true),
            ("just done", Some(&good), 1, 599, false),
            ("time for a resync", Some(&good), 1, 600, true),
            ("other inputs", Some(&good), 2, 0, true),
            ("failed twice", Some(&second), 1, 9, false),
            ("failed twice, waited", Some(&second), 1, 10, true),
            ("failed twice, then changed", Some(&second), 2, 0, true),
            ("for its owner to mend", Some(&patient), 1, 599, false),
            ("for its owner to mend, resync", Some(&patient), 1, 600, true),
        ] {
            assert_eq!(is_due(last, inputs, begin + Duration::from_secs(seconds), RESYNC), due, "{what}");
        }
    }
}
