//! Telling people how a cleanup goes.

use spillway_crds::LogPipeline;

use std::time::Duration;

use super::{Course, Progress, Release, SKIP_ANNOTATION, Step, Workload};
use crate::{
    ctx::Ctx,
    events::{self, Reason},
    reconcile::Object,
    target::Target,
};

pub(super) async fn say_begun(ctx: &Ctx, target: &Target) {
    let note =
        "deletionPolicy is Delete: ingest is stopped, then the syncer; then tables and staged objects go";
    events::publish(ctx, &target.reference, Reason::CleaningUp, note).await;
}

/// How far a cleanup is, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Queue,
    Ingest,
    Syncer,
    /// Which pods are left is not known.
    Pods,
    Tables,
    Bucket,
}

impl Phase {
    /// `None`: the object is let go.
    pub(super) fn of(step: Step, progress: &Progress) -> Option<Self> {
        Some(match step {
            Step::StopIngest => Self::Ingest,
            Step::Await if progress.ingest != Workload::Gone => Self::Ingest,
            Step::Await | Step::StopSyncer => Self::Syncer,
            Step::AskAgain => Self::Pods,
            Step::DropTables => Self::Tables,
            Step::EmptyBucket => Self::Bucket,
            Step::Release(_) => return None,
        })
    }
}

/// What the object waits for while it is being deleted.
pub(super) fn waits_for(phase: Phase, trouble: Option<&str>, limit: Duration) -> String {
    let now = match phase {
        Phase::Queue => "it waits until fewer others are being deleted",
        Phase::Ingest => "1 of 4: ingest writes what it has and ends",
        Phase::Syncer => "2 of 4: the syncer ends",
        Phase::Pods => "it is being asked which pods are left",
        Phase::Tables => "3 of 4: the tables are dropped",
        Phase::Bucket => "4 of 4: staged objects are deleted",
    };
    let trouble = trouble.map(|why| format!("; failing: {}", way_out(why, limit))).unwrap_or_default();
    format!("the pipeline is being deleted, and its data with it (deletionPolicy Delete); {now}{trouble}")
}

/// Of an object that only others hold.
pub(super) fn held_by_others(finalizers: &[String]) -> String {
    format!("the pipeline is being deleted and waits for its finalizers {}", finalizers.join(", "))
}

fn way_out(why: &str, limit: Duration) -> String {
    let seconds = limit.as_secs();
    format!(
        "{why}; given up after {seconds} s without progress, or at once with the annotation {SKIP_ANNOTATION}=true"
    )
}

pub(super) async fn say_failed(ctx: &Ctx, target: &Target, why: &str) {
    tracing::warn!(pipeline = target.name, namespace = target.namespace, "cleaning up: {why}");
    let note = way_out(why, ctx.config.cleanup_timeout);
    events::publish(ctx, &target.reference, Reason::CleanupFailed, note).await;
}

pub(super) async fn say_released(
    ctx: &Ctx,
    target: &Target,
    object: &Object,
    release: Release,
    missing: Option<String>,
    course: &Course,
) {
    let done = course.cleaned.join("; ");
    let seconds = ctx.config.cleanup_timeout.as_secs();
    let why = match release {
        // One event for all of it: of several of one reason only the first one's note is kept.
        Release::Done => {
            tracing::info!(pipeline = target.name, namespace = target.namespace, "cleaned up: {done}");
            return events::publish(ctx, &target.reference, Reason::CleanedUp, done).await;
        }
        Release::Kept => course.kept.clone().unwrap_or_default(),
        Release::Retained => "deletionPolicy is Retain".to_owned(),
        Release::Skipped => format!("the annotation {SKIP_ANNOTATION} says so"),
        Release::TimedOut => format!("the cleanup did not come forward for {seconds} s"),
        Release::Hopeless => {
            let missing = missing.unwrap_or_default();
            format!("the namespace is being deleted and something is missing already: {missing}")
        }
    };
    let (reason, left) = match release {
        Release::Retained | Release::Kept => (Reason::Kept, "are left"),
        _ => (Reason::CleanupGivenUp, "may be left"),
    };
    let what = object.0.as_ref().map_or_else(|_| "bucket and tables".to_owned(), what_is_kept);
    let done = if done.is_empty() { String::new() } else { format!("; done before: {done}") };
    let note = format!("{what} {left}: {why}{done}");
    tracing::warn!(pipeline = target.name, namespace = target.namespace, "{note}");
    events::publish(ctx, &target.reference, reason, note).await;
}

/// Where the data of a pipeline is, for people who have to find it.
pub(crate) fn what_is_kept(pipeline: &LogPipeline) -> String {
    let spec = &pipeline.spec;
    let bucket = spec.storage.s3.as_ref().map_or_else(String::new, |s3| {
        format!("s3://{}/{} and ", s3.bucket, s3.prefix.as_deref().unwrap_or_default())
    });
    let defaults = spillway_model::settings::ClickHouseSettings::default();
    let database = spec.clickhouse.database.as_deref().unwrap_or(&defaults.database);
    let table = spec.schema.table.as_deref().unwrap_or(&defaults.table);
    format!("{bucket}tables {database}.{table}*")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_for_a_deletion_is_told_for_what() {
        let pods = |ingest| Progress {
            ingest,
            syncer: Workload::Running,
            dropped: false,
            kept: false,
            hopeless: false,
        };
        for (step, progress, expected) in [
            (Step::StopIngest, pods(Workload::Running), Some(Phase::Ingest)),
            (Step::Await, pods(Workload::Stopping), Some(Phase::Ingest)),
            (Step::Await, pods(Workload::Gone), Some(Phase::Syncer)),
            (Step::StopSyncer, pods(Workload::Gone), Some(Phase::Syncer)),
            (Step::DropTables, pods(Workload::Gone), Some(Phase::Tables)),
            (Step::EmptyBucket, pods(Workload::Gone), Some(Phase::Bucket)),
            (Step::Release(Release::Done), pods(Workload::Gone), None),
        ] {
            assert_eq!(Phase::of(step, &progress), expected, "{step:?}");
        }
        let limit = Duration::from_secs(600);
        let quiet = waits_for(Phase::Tables, None, limit);
        assert!(quiet.ends_with("3 of 4: the tables are dropped"), "{quiet}");
        let failing = waits_for(Phase::Tables, Some("no route"), limit);
        assert!(
            failing.contains("failing: no route; given up after 600 s") && failing.contains("skip-cleanup")
        );
    }

    #[test]
    fn what_is_kept_is_named_so_that_it_can_be_found() {
        let spec = serde_json::json!({
            "storage": {"s3": {"bucket": "b", "prefix": "p/"}}, "clickhouse": {"database": "obs"},
        });
        let pipeline = LogPipeline::new("logs", serde_json::from_value(spec).unwrap());
        assert_eq!(what_is_kept(&pipeline), "s3://b/p/ and tables obs.logs*");
    }
}
