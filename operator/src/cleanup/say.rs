//! Telling people how a cleanup goes.

use spillway_crds::LogPipeline;

use super::{Course, Release, SKIP_ANNOTATION};
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

pub(super) async fn say_failed(ctx: &Ctx, target: &Target, why: &str) {
    tracing::warn!(pipeline = target.name, namespace = target.namespace, "cleaning up: {why}");
    let seconds = ctx.config.cleanup_timeout.as_secs();
    let note = format!(
        "{why}; given up after {seconds} s without progress, or at once with the annotation {SKIP_ANNOTATION}=true"
    );
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
    fn what_is_kept_is_named_so_that_it_can_be_found() {
        let spec = serde_json::json!({
            "storage": {"s3": {"bucket": "b", "prefix": "p/"}}, "clickhouse": {"database": "obs"},
        });
        let pipeline = LogPipeline::new("logs", serde_json::from_value(spec).unwrap());
        assert_eq!(what_is_kept(&pipeline), "s3://b/p/ and tables obs.logs*");
    }
}
