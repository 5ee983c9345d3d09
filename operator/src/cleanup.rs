//! Deleting a pipeline with `deletionPolicy: Delete`: which step comes next. Pods are gone before anything that
//! they use is deleted, and nothing holds the object for ever. Tables go before the bucket, because the manifest in
//! the bucket says which rows are the pipeline's: a cleanup that was killed in between still knows.

pub(crate) mod act;
mod data;
mod inside;
mod place;
mod say;
mod workloads;

use std::time::{Duration, Instant};

pub(crate) use say::what_is_kept;
use spillway_bucket::Emptying;

/// Keeps the object until bucket and tables are cleaned up.
pub(crate) const FINALIZER: &str = "spillway.dev/cleanup";
/// `"true"` ends the cleanup at once.
pub(crate) const SKIP_ANNOTATION: &str = "spillway.dev/skip-cleanup";

/// What this process has done of a cleanup. When it is lost, every step is taken again and finds nothing to do.
#[derive(Debug, Default)]
pub(crate) struct Course {
    /// In a row.
    failures: u32,
    /// What the last step failed by, if it did.
    trouble: Option<String>,
    /// For people.
    cleaned: Vec<String>,
    dropped: bool,
    emptied: bool,
    /// Why the data stays.
    kept: Option<String>,
    /// What went with the namespace, and won't come back.
    lost: Option<String>,
    /// How far the bucket of these inputs is emptied.
    emptying: Option<(u64, Emptying)>,
    /// When it last came forward; first seeing the deletion counts.
    advanced: Option<Instant>,
}

impl Course {
    fn advance(&mut self) {
        self.advanced = Some(Instant::now());
    }

    fn idle(&self) -> Duration {
        self.advanced.map(|at| at.elapsed()).unwrap_or_default()
    }
}

/// What is known before anything is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Said {
    /// Bucket and tables are cleaned up.
    done: bool,
    /// [`SKIP_ANNOTATION`] is there.
    skip: bool,
    /// `deletionPolicy` is no longer `Delete`.
    retain: bool,
    /// Since it last came forward.
    idle: Duration,
}

/// How far the cleanup is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Progress {
    ingest: Workload,
    syncer: Workload,
    dropped: bool,
    /// Tables and bucket are not the pipeline's alone.
    kept: bool,
    /// What is in the way can't go away: a Secret or a server that went with a namespace being deleted.
    hopeless: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Workload {
    /// The API server doesn't say.
    Unknown,
    /// Pods are wanted.
    Running,
    /// No pods are wanted, but some are left.
    Stopping,
    Gone,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    StopIngest,
    StopSyncer,
    /// Pods end. Ingest writes what it has buffered.
    Await,
    /// Pods may be there.
    AskAgain,
    DropTables,
    EmptyBucket,
    Release(Release),
}

/// Why the finalizer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Release {
    Done,
    /// The data is not, or not only, this pipeline's.
    Kept,
    Retained,
    Skipped,
    TimedOut,
    Hopeless,
}

/// Whether the object is let go whatever else is found: nothing that has to be asked for may be in the way of that.
fn verdict(said: &Said, limit: Duration) -> Option<Release> {
    match said {
        Said { done: true, .. } => Some(Release::Done),
        Said { skip: true, .. } => Some(Release::Skipped),
        Said { retain: true, .. } => Some(Release::Retained),
        Said { idle, .. } if *idle >= limit => Some(Release::TimedOut),
        Said { .. } => None,
    }
}

fn step(progress: &Progress) -> Step {
    let Progress { ingest, syncer, dropped, kept, hopeless } = progress;
    match (ingest, syncer) {
        (Workload::Unknown, _) | (Workload::Gone, Workload::Unknown) => Step::AskAgain,
        (Workload::Running, _) => Step::StopIngest,
        (Workload::Stopping, _) | (Workload::Gone, Workload::Stopping) => Step::Await,
        (Workload::Gone, Workload::Running) => Step::StopSyncer,
        (Workload::Gone, Workload::Gone) if *kept => Step::Release(Release::Kept),
        (Workload::Gone, Workload::Gone) if *hopeless => Step::Release(Release::Hopeless),
        (Workload::Gone, Workload::Gone) if !dropped => Step::DropTables,
        (Workload::Gone, Workload::Gone) => Step::EmptyBucket,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(600);

    fn progress(ingest: Workload, syncer: Workload, dropped: bool) -> Progress {
        Progress { ingest, syncer, dropped, kept: false, hopeless: false }
    }

    #[test]
    fn bucket_and_tables_go_after_the_last_pod() {
        use Workload::{Gone, Running, Stopping, Unknown};
        for (ingest, syncer, dropped, expected) in [
            (Running, Running, false, Step::StopIngest),
            (Stopping, Running, false, Step::Await),
            (Gone, Running, false, Step::StopSyncer),
            (Gone, Stopping, false, Step::Await),
            (Gone, Gone, false, Step::DropTables),
            (Gone, Gone, true, Step::EmptyBucket),
            // Somebody scaled it up again: once more, before anything else is deleted.
            (Running, Gone, true, Step::StopIngest),
            // What can't be seen may be running.
            (Unknown, Gone, true, Step::AskAgain),
            (Gone, Unknown, false, Step::AskAgain),
        ] {
            let progress = progress(ingest, syncer, dropped);
            assert_eq!(step(&progress), expected, "{progress:?}");
        }
    }

    #[test]
    fn what_is_not_the_pipelines_alone_is_let_be() {
        let gone = progress(Workload::Gone, Workload::Gone, false);
        for (progress, expected) in [
            (Progress { kept: true, ..gone.clone() }, Step::Release(Release::Kept)),
            (Progress { hopeless: true, ..gone }, Step::Release(Release::Hopeless)),
            (
                Progress { kept: true, hopeless: true, ..progress(Workload::Running, Workload::Gone, false) },
                Step::StopIngest,
            ),
        ] {
            assert_eq!(step(&progress), expected, "{progress:?}");
        }
    }

    #[test]
    fn nothing_holds_the_object_for_ever_and_nothing_has_to_be_asked_for_that() {
        for (said, expected) in [
            (Said { idle: LIMIT, ..Said::default() }, Some(Release::TimedOut)),
            (Said { skip: true, ..Said::default() }, Some(Release::Skipped)),
            (Said { retain: true, ..Said::default() }, Some(Release::Retained)),
            (Said { done: true, skip: true, idle: LIMIT, ..Said::default() }, Some(Release::Done)),
            (Said::default(), None),
        ] {
            assert_eq!(verdict(&said, LIMIT), expected, "{said:?}");
        }
    }

    #[test]
    fn time_counts_from_the_last_step_forward() {
        let begun = Instant::now().checked_sub(LIMIT);
        let mut course = Course { advanced: begun, ..Course::default() };
        assert!(course.idle() >= LIMIT);
        course.advance();
        assert!(course.idle() < LIMIT);
    }
}
