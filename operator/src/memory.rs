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
use tokio::{
    sync::{Mutex, watch},
    task::JoinSet,
};

use crate::{
    apply::Pace, backoff, cleanup::Course, conditions::Finding, drift::Applied, kinds::Id, lag::Progress,
    outside::progress::Staged,
};

#[derive(Default)]
pub(crate) struct Memory {
    /// Reconciles in a row that failed.
    pub(crate) failures: u32,
    pub(crate) applied: BTreeMap<Id, Applied>,
    /// The value of the annotation that pods were last touched with, by component.
    pub(crate) touched: BTreeMap<&'static str, String>,
    pub(crate) outside: Steps,
    /// What is being asked outside.
    pub(crate) running: Option<Running>,
    /// Since when the pipeline is not Ready and nothing new was said of it.
    pub(crate) unready_since: Option<Instant>,
    pub(crate) reading: Option<Reading>,
    /// While suspended: nothing staged was left after the last ingest pod had gone. `None`: nobody could look.
    pub(crate) drained: Option<bool>,
    /// What was left then.
    pub(crate) staged: Option<Staged>,
    /// When the syncer's Deployment was last seen to want no pods.
    pub(crate) idle: Option<Instant>,
    pub(crate) pace: Pace,
    /// When objects that aren't wanted any more were last looked for.
    pub(crate) swept: Option<Instant>,
    /// The status as last written, and its resourceVersion: the watch may not have brought it yet.
    pub(crate) status: Option<(u64, LogPipelineStatus)>,
    pub(crate) progress_written: Option<Instant>,
    /// The API server refused the last one, and people were told.
    pub(crate) status_refused: bool,
    pub(crate) course: Course,
}

impl Memory {
    /// How long ago no syncer was to run; `None`: that was never seen.
    pub(crate) fn idle_for(&self, now: Instant) -> Option<Duration> {
        self.idle.map(|at| now.duration_since(at))
    }
}

/// What came of the steps outside of the cluster.
#[derive(Clone, Default)]
pub(crate) struct Steps {
    pub(crate) bucket: Option<Attempt>,
    pub(crate) schema: Option<Attempt>,
    pub(crate) manifest: Option<Attempt>,
    pub(crate) opened: Option<Opened>,
    /// Bucket for which conditional writes were seen to work.
    pub(crate) probed: Option<u64>,
}

impl Steps {
    /// Something speaks against what was found last, and the next look will tell. The manifest is looked at only while
    /// bucket and schema are as they should be.
    pub(crate) fn doubted(&self) -> bool {
        let first = [&self.bucket, &self.schema];
        let usable = first.iter().all(|step| step.as_ref().is_some_and(|attempt| attempt.finding.is_good()));
        let manifest = self.manifest.as_ref().filter(|_| usable);
        first.into_iter().flatten().chain(manifest).any(|attempt| attempt.doubted)
    }

    /// One of them failed last time.
    pub(crate) fn failing(&self) -> bool {
        [&self.bucket, &self.schema, &self.manifest].into_iter().flatten().any(|attempt| attempt.failures > 0)
    }
}

/// Steps that are being taken beside the reconciles. Dropped, they end.
pub(crate) struct Running {
    /// Digests of what goes into bucket and schema.
    pub(crate) inputs: (u64, u64),
    pub(crate) task: JoinSet<()>,
    /// What came of them so far, and whether that is all.
    pub(crate) outcome: watch::Receiver<(Steps, bool)>,
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
    /// Something else failed since that speaks against what was found.
    pub(crate) doubted: bool,
}

impl Attempt {
    /// Has it looked at again soon, but no more often than once in `pause`.
    pub(crate) fn doubt(&mut self, now: Instant, pause: Duration) {
        self.doubted |= self.finding.is_good() && now.duration_since(self.at) >= pause;
    }

    /// Until it is to be repeated; `None`: with the resync.
    pub(crate) fn wait(&self, now: Instant) -> Option<Duration> {
        let failing = self.failures > 0 && !self.patient;
        failing.then(|| backoff::delay(self.failures).saturating_sub(now.duration_since(self.at)))
    }
}

/// A bucket whose connections and credentials are kept.
#[derive(Clone)]
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
    let Some(last) = last.filter(|last| last.inputs == inputs && !last.doubted) else { return true };
    let wait = if last.failures == 0 || last.patient { resync } else { backoff::delay(last.failures) };
    now.duration_since(last.at) >= wait
}

/// The attempt that follows `last`.
pub(crate) fn attempt(
    last: Option<&Attempt>,
    inputs: u64,
    now: Instant,
    finding: Finding,
    patient: bool,
) -> Attempt {
    let before = last.filter(|last| last.inputs == inputs).map_or(0, |last| last.failures);
    let failures = if finding.is_good() { 0 } else { before.saturating_add(1) };
    Attempt { inputs, at: now, failures, finding, patient, doubted: false }
}

/// How a suspended pipeline stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Suspension {
    /// It is not.
    No,
    /// Ingest ends, and what is staged is loaded.
    Emptying,
    /// All is loaded, which the plan didn't know yet.
    Emptied,
    Rests,
}

/// Between looks at a bucket that is awaited to be empty, and at pods that are on their way out: no watch tells of either.
const AWAITING: Duration = Duration::from_secs(5);

/// When to look again. `unready_for`: while the pipeline is not Ready.
pub(crate) fn next(suspension: Suspension, unready_for: Option<Duration>, tick: Duration) -> Duration {
    match (suspension, unready_for) {
        (Suspension::Emptied, _) => AT_ONCE,
        (Suspension::Emptying, _) => tick.min(AWAITING),
        (Suspension::No, Some(unready_for)) => next_look(unready_for, tick),
        (Suspension::No | Suspension::Rests, _) => tick,
    }
}

/// A moment for what the watches have to bring.
pub(crate) const AT_ONCE: Duration = Duration::from_secs(1);

/// Between looks at a pipeline that isn't Ready: as long as it has been so, since what is seldom there at once is
/// seldom there a second later. What isn't watched, such as who holds its Lease, is seen in time this way.
pub(crate) fn next_look(unready_for: Duration, tick: Duration) -> Duration {
    unready_for.max(Duration::from_secs(2)).min(tick)
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
    fn a_pipeline_that_is_not_ready_is_looked_at_soon_and_then_ever_less_often() {
        for (unready_for, wait) in [(0, 2), (1, 2), (4, 4), (30, 30), (60, 60), (3_600, 60)] {
            let tick = Duration::from_secs(60);
            assert_eq!(next_look(Duration::from_secs(unready_for), tick).as_secs(), wait, "{unready_for}");
        }
        assert_eq!(next_look(Duration::ZERO, Duration::from_secs(1)).as_secs(), 1);
    }

    #[test]
    fn a_suspended_pipeline_is_looked_at_often_while_it_empties_and_seldom_when_it_rests() {
        let unready = Some(Duration::from_secs(3_600));
        for (suspension, unready_for, seconds) in [
            (Suspension::No, None, 60),
            (Suspension::No, Some(Duration::from_secs(4)), 4),
            (Suspension::Emptying, unready, 5),
            // Or the syncer would run on for a tick.
            (Suspension::Emptied, unready, 1),
            (Suspension::Rests, unready, 60),
            (Suspension::Rests, Some(Duration::ZERO), 60),
        ] {
            let wait = next(suspension, unready_for, Duration::from_secs(60));
            assert_eq!(wait.as_secs(), seconds, "{suspension:?} {unready_for:?}");
        }
        assert_eq!(next(Suspension::Emptying, None, Duration::from_secs(2)).as_secs(), 2);
    }

    #[test]
    fn what_is_in_doubt_is_looked_at_soon_unless_something_stands_before_it() {
        let begin = Instant::now();
        let found = |finding| Some(attempt(None, 1, begin, finding, true));
        let good = || found(Finding::good(Reason::Configured, ""));
        let bad = || found(Finding::bad(Reason::Outside("InUse"), ""));
        let doubted = || good().map(|attempt| Attempt { doubted: true, ..attempt });
        for (bucket, schema, manifest, soon) in [
            (good(), good(), good(), false),
            (doubted(), good(), good(), true),
            (good(), doubted(), good(), true),
            (good(), good(), doubted(), true),
            // It would be asked for in vain, again and again.
            (bad(), good(), doubted(), false),
            (good(), None, doubted(), false),
        ] {
            let steps = Steps { bucket, schema, manifest, ..Steps::default() };
            assert_eq!(steps.doubted(), soon, "{:?} {:?} {:?}", steps.bucket, steps.schema, steps.manifest);
        }
    }

    #[test]
    fn a_step_is_repeated_after_a_change_a_failure_or_the_resync() {
        let begin = Instant::now();
        let good = Finding::good(Reason::Configured, "");
        let bad = Finding::bad(Reason::Outside("Unavailable"), "");
        let second =
            attempt(Some(&attempt(None, 1, begin, bad.clone(), false)), 1, begin, bad.clone(), false);
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

    #[test]
    fn a_doubt_hurries_what_was_found_good_and_nothing_that_waits_for_its_owner() {
        let begin = Instant::now();
        let pause = Duration::from_secs(50);
        let good = Finding::good(Reason::Configured, "");
        let bad = Finding::bad(Reason::Outside("ManifestLost"), "");
        for (what, finding, patient, seconds, due) in [
            ("good, a moment ago", good.clone(), false, 49, false),
            ("good", good, false, 50, true),
            ("for its owner to mend", bad.clone(), true, 500, false),
            ("for its owner to mend, resync", bad, true, 600, true),
        ] {
            let mut last = attempt(None, 1, begin, finding, patient);
            let now = begin + Duration::from_secs(seconds);
            last.doubt(now, pause);
            assert_eq!(is_due(Some(&last), 1, now, RESYNC), due, "{what}");
        }
    }
}
