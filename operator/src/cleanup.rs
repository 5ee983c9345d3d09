//! Deleting a pipeline with `deletionPolicy: Delete`: which step comes next. Pods are gone before anything that
//! they use is deleted, and nothing holds the object for ever. Tables go before the bucket, because the manifest in
//! the bucket says which rows are the pipeline's: a cleanup that was killed in between still knows.

pub(crate) mod act;

use std::time::Duration;

/// Keeps the object until bucket and tables are cleaned up.
pub(crate) const FINALIZER: &str = "spillway.dev/cleanup";
/// `"true"` ends the cleanup at once.
pub(crate) const SKIP_ANNOTATION: &str = "spillway.dev/skip-cleanup";

/// How far the cleanup is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Since the deletion timestamp.
    pub(crate) waited: Duration,
    /// [`SKIP_ANNOTATION`] is there.
    pub(crate) skip: bool,
    /// `deletionPolicy` is no longer `Delete`.
    pub(crate) retain: bool,
    pub(crate) ingest: Workload,
    pub(crate) syncer: Workload,
    pub(crate) dropped: bool,
    pub(crate) emptied: bool,
    /// What is in the way can't go away: for instance a Secret that is missing in a namespace being deleted.
    pub(crate) hopeless: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workload {
    /// Pods are wanted.
    Running,
    /// No pods are wanted, but some are left.
    Stopping,
    Gone,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    StopIngest,
    /// Ingest writes what it has buffered.
    AwaitIngest,
    StopSyncer,
    AwaitSyncer,
    DropTables,
    EmptyBucket,
    Release(Release),
}

/// Why the finalizer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Release {
    Done,
    Retained,
    Skipped,
    TimedOut,
    Hopeless,
}

pub(crate) fn step(progress: &Progress, limit: Duration) -> Step {
    let Progress { waited, skip, retain, ingest, syncer, dropped, emptied, hopeless } = progress;
    if *emptied && *dropped {
        return Step::Release(Release::Done);
    }
    if *skip {
        return Step::Release(Release::Skipped);
    }
    if *retain {
        return Step::Release(Release::Retained);
    }
    if *waited >= limit {
        return Step::Release(Release::TimedOut);
    }
    match (ingest, syncer) {
        (Workload::Running, _) => Step::StopIngest,
        (Workload::Stopping, _) => Step::AwaitIngest,
        (Workload::Gone, Workload::Running) => Step::StopSyncer,
        (Workload::Gone, Workload::Stopping) => Step::AwaitSyncer,
        (Workload::Gone, Workload::Gone) if *hopeless => Step::Release(Release::Hopeless),
        (Workload::Gone, Workload::Gone) if !dropped => Step::DropTables,
        (Workload::Gone, Workload::Gone) => Step::EmptyBucket,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(600);

    fn progress(ingest: Workload, syncer: Workload, dropped: bool, emptied: bool) -> Progress {
        let waited = Duration::from_secs(5);
        Progress { waited, skip: false, retain: false, ingest, syncer, dropped, emptied, hopeless: false }
    }

    #[test]
    fn bucket_and_tables_go_after_the_last_pod() {
        use Workload::{Gone, Running, Stopping};
        for (ingest, syncer, dropped, emptied, expected) in [
            (Running, Running, false, false, Step::StopIngest),
            (Stopping, Running, false, false, Step::AwaitIngest),
            (Gone, Running, false, false, Step::StopSyncer),
            (Gone, Stopping, false, false, Step::AwaitSyncer),
            (Gone, Gone, false, false, Step::DropTables),
            (Gone, Gone, true, false, Step::EmptyBucket),
            (Gone, Gone, true, true, Step::Release(Release::Done)),
            // Somebody scaled it up again: once more, before anything else is deleted.
            (Running, Gone, true, false, Step::StopIngest),
        ] {
            let progress = progress(ingest, syncer, dropped, emptied);
            assert_eq!(step(&progress, LIMIT), expected, "{progress:?}");
        }
    }

    #[test]
    fn nothing_holds_the_object_for_ever() {
        let running = progress(Workload::Running, Workload::Running, false, false);
        let gone = progress(Workload::Gone, Workload::Gone, false, false);
        for (progress, expected) in [
            (Progress { waited: LIMIT, ..running.clone() }, Release::TimedOut),
            (Progress { skip: true, ..running.clone() }, Release::Skipped),
            (Progress { retain: true, ..running.clone() }, Release::Retained),
            (Progress { hopeless: true, ..gone.clone() }, Release::Hopeless),
            (Progress { emptied: true, dropped: true, waited: LIMIT, ..gone }, Release::Done),
        ] {
            assert_eq!(step(&progress, LIMIT), Step::Release(expected), "{progress:?}");
        }
        assert_eq!(step(&Progress { hopeless: true, ..running }, LIMIT), Step::StopIngest);
    }
}
