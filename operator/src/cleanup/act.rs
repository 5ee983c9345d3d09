//! Does what [`super::step`] decides.

use std::time::Duration;

use k8s_openapi::{
    api::{apps::v1::Deployment, core::v1::ConfigMap},
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
    runtime::controller::Action,
};
use spillway_bucket::BucketError;
use spillway_crds::{DeletionPolicy, LogPipeline, ValidatedPipeline, validate};
use spillway_syncer::manifest::{MANIFEST_KEY, Manifest};

use super::{FINALIZER, Progress, Release, SKIP_ANNOTATION, Step, Workload, step};
use crate::{
    backoff::delay,
    ctx::Ctx,
    dereference::{Dereferenced, dereference, last_known},
    errors::{ApiError, call},
    events::{self, Reason},
    failpoint::failpoint,
    finalizers, findings,
    inventory,
    memory::Memory,
    outside,
    plan::{
        self, Inputs, Plan,
        names::{Component, FIELD_MANAGER},
    },
    pods,
    reconcile::{Failed, Object},
    target::Target,
};

/// Between looks at pods that are ending.
const LOOK: Duration = Duration::from_secs(3);
/// What is left of a large bucket is deleted next time.
const EMPTY_LIMIT: Duration = Duration::from_secs(120);
const DROP_LIMIT: Duration = Duration::from_secs(300);

/// Takes the next steps until one has to be waited for.
///
/// # Errors
/// What the API server refuses. Bucket and database are no errors here: they are tried again until the time is up.
pub(crate) async fn clean_up(
    ctx: &Ctx,
    target: &Target,
    object: &Object,
    memory: &mut Memory,
) -> Result<Action, Failed> {
    let metadata = kube::Resource::meta(object);
    let ours = metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER);
    if !ours {
        // Owner references take the objects; nothing is applied any more.
        return Ok(Action::await_change());
    }
    let place = Place::find(ctx, target, object.0.as_ref().ok()).await;
    loop {
        let progress = progress(ctx, target, object, &place, memory).await.map_err(Failed::at("cleanup"))?;
        let next = step(&progress, ctx.config.cleanup_timeout);
        tracing::debug!(pipeline = target.name, step = ?next, "cleaning up");
        let outcome = match next {
            Step::StopIngest => {
                say_begun(ctx, target).await;
                stop(ctx, target, Component::Ingest).await.map_err(Failed::at("cleanup"))?;
                continue;
            }
            Step::StopSyncer => {
                stop(ctx, target, Component::Syncer).await.map_err(Failed::at("cleanup"))?;
                continue;
            }
            Step::AwaitIngest | Step::AwaitSyncer => return Ok(Action::requeue(LOOK)),
            Step::DropTables => {
                failpoint("before-drop");
                let outcome = drop_tables(ctx, target, &place, memory).await;
                memory.dropped = outcome.is_ok();
                outcome
            }
            Step::EmptyBucket => {
                failpoint("before-empty");
                let outcome = empty(ctx, target, &place, memory).await;
                memory.emptied = outcome.is_ok();
                outcome
            }
            Step::Release(release) => {
                failpoint("before-release");
                say_released(ctx, target, object, release, &place, &memory.cleaned).await;
                finalizers::release(ctx, target, metadata).await.map_err(Failed::at("cleanup"))?;
                return Ok(Action::await_change());
            }
        };
        match outcome {
            Ok(said) => {
                memory.cleanup_failures = 0;
                memory.cleaned.push(said);
            }
            Err(why) => {
                say_failed(ctx, target, why).await;
                memory.cleanup_failures = memory.cleanup_failures.saturating_add(1);
                let left = ctx.config.cleanup_timeout.saturating_sub(progress.waited);
                let wait = delay(memory.cleanup_failures).min(left).max(Duration::from_secs(1));
                return Ok(Action::requeue(wait));
            }
        }
    }
}

/// Where bucket and tables are, if that can be known.
enum Place {
    Known(Box<Known>),
    Blocked { why: String, hopeless: bool },
}

struct Known {
    valid: ValidatedPipeline,
    plan: Plan,
    seen: Dereferenced,
}

impl Known {
    /// The inner error: Secrets that are missing.
    ///
    /// # Errors
    /// What is wrong with the spec.
    fn of(pipeline: &LogPipeline, seen: Dereferenced) -> Result<Result<Self, String>, String> {
        let valid = validate(pipeline).map_err(|errors| findings::text(&errors))?;
        let inputs = Inputs { secrets: seen.secrets.clone(), ..Inputs::default() };
        let plan = plan::plan(&valid, &inputs).map_err(|error| error.to_string())?;
        if plan.secret_errors.is_empty() {
            return Ok(Ok(Self { valid, plan, seen }));
        }
        Ok(Err(findings::text(&plan.secret_errors)))
    }
}

impl Place {
    async fn find(ctx: &Ctx, target: &Target, pipeline: Option<&LogPipeline>) -> Self {
        let Some(pipeline) = pipeline else {
            return Self::Blocked { why: "the object can't be read".to_owned(), hopeless: false };
        };
        let blocked = |why: String| Self::Blocked { why, hopeless: false };
        let missing = match dereference(ctx, target, &pipeline.spec).await {
            Err(error) => return blocked(error.to_string()),
            Ok(seen) => match Known::of(pipeline, seen) {
                Ok(Ok(known)) => return Self::Known(Box::new(known)),
                Ok(Err(missing)) => missing,
                Err(why) => return blocked(why),
            },
        };
        if !namespace_is_going(ctx, target).await {
            return blocked(missing);
        }
        match last_known(ctx, target, &pipeline.spec).await.map(|seen| Known::of(pipeline, seen)) {
            Ok(Ok(Ok(known))) => Self::Known(Box::new(known)),
            _ => Self::Blocked { why: missing, hopeless: true },
        }
    }

    /// # Errors
    /// Why it isn't known.
    fn known(&self) -> Result<&Known, String> {
        match self {
            Self::Known(known) => Ok(known),
            Self::Blocked { why, .. } => Err(why.clone()),
        }
    }
}

/// In a namespace that is being deleted nothing can be created any more, so what is missing stays missing. Asked
/// by a dry run, because the operator has no right to read namespaces.
async fn namespace_is_going(ctx: &Ctx, target: &Target) -> bool {
    let api: Api<ConfigMap> = Api::namespaced(ctx.client.clone(), &target.namespace);
    let mut probe = ConfigMap::default();
    probe.metadata.name = Some(format!("{}-probe", target.name));
    let parameters = PostParams { dry_run: true, ..PostParams::default() };
    match call("ask for the namespace", api.create(&parameters, &probe)).await {
        Err(error) if error.is_not_found() => true,
        Err(error) => error.is_forbidden() && error.to_string().contains("being terminated"),
        Ok(_) => false,
    }
}

async fn progress(
    ctx: &Ctx,
    target: &Target,
    object: &Object,
    place: &Place,
    memory: &Memory,
) -> Result<Progress, ApiError> {
    let metadata = kube::Resource::meta(object);
    let since = metadata.deletion_timestamp.as_ref().map_or_else(Timestamp::now, |time| time.0);
    let waited = Timestamp::now().duration_since(since);
    let annotations = metadata.annotations.as_ref();
    let policy = object.0.as_ref().ok().map(|pipeline| pipeline.spec.deletion_policy.unwrap_or_default());
    Ok(Progress {
        waited: Duration::try_from(waited).unwrap_or_default(),
        skip: annotations.and_then(|all| all.get(SKIP_ANNOTATION)).is_some_and(|value| value == "true"),
        retain: policy == Some(DeletionPolicy::Retain),
        ingest: workload(ctx, target, Component::Ingest).await?,
        syncer: workload(ctx, target, Component::Syncer).await?,
        dropped: memory.dropped,
        emptied: memory.emptied,
        hopeless: matches!(place, Place::Blocked { hopeless: true, .. }),
    })
}

/// As the API server has it now: the watch may be behind, and here something is deleted.
async fn workload(ctx: &Ctx, target: &Target, component: Component) -> Result<Workload, ApiError> {
    if owned(ctx, target, component).await?.is_some_and(|deployment| wants_pods(&deployment)) {
        return Ok(Workload::Running);
    }
    Ok(if pods::any(ctx, target, component).await? { Workload::Stopping } else { Workload::Gone })
}

fn wants_pods(deployment: &Deployment) -> bool {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    // Its controller makes no pods any more for one that is on its way out.
    wanted > 0 && deployment.metadata.deletion_timestamp.is_none()
}

/// The component's Deployment, if it is the pipeline's own.
async fn owned(ctx: &Ctx, target: &Target, component: Component) -> Result<Option<Deployment>, ApiError> {
    let name = format!("{}-{}", target.name, component.name());
    let api: Api<Deployment> = Api::namespaced(ctx.client.clone(), &target.namespace);
    let found = call(format!("read Deployment {name}"), api.get_opt(&name)).await?;
    Ok(found.filter(|found| inventory::controller(&found.metadata).as_deref() == Some(&target.uid)))
}

/// Scales a component's Deployment to zero. Its pods get their whole grace period, and an autoscaler leaves
/// nothing at nothing.
async fn stop(ctx: &Ctx, target: &Target, component: Component) -> Result<(), ApiError> {
    let Some(deployment) = owned(ctx, target, component).await? else { return Ok(()) };
    let name = deployment.metadata.name.unwrap_or_default();
    let object = |pairs: Vec<(&str, serde_json::Value)>| -> serde_json::Value {
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<serde_json::Map<_, _>>().into()
    };
    // With the uid along, so that no other object of that name is scaled.
    let metadata = object(vec![("uid", deployment.metadata.uid.unwrap_or_default().into())]);
    let patch = object(vec![("metadata", metadata), ("spec", object(vec![("replicas", 0.into())]))]);
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let api: Api<Deployment> = Api::namespaced(ctx.client.clone(), &target.namespace);
    match call(format!("scale Deployment {name} to zero"), api.patch(&name, &parameters, &Patch::Merge(&patch))).await {
        Ok(_) => ctx.metrics.wrote("Deployment", "stop"),
        Err(error) if error.is_not_found() || error.is_conflict() => {}
        Err(error) => return Err(error),
    }
    failpoint("after-stop");
    Ok(())
}

/// Tables first: the manifest says which rows are the pipeline's, and it goes with the bucket.
///
/// # Errors
/// What is in the way.
async fn drop_tables(
    ctx: &Ctx,
    target: &Target,
    place: &Place,
    memory: &mut Memory,
) -> Result<String, String> {
    let Known { valid, plan, seen } = place.known()?;
    let opened = outside::open(ctx, target, valid, &plan.bucket, seen, memory, 0).await;
    let bucket = opened.map_err(|error| error.to_string())?;
    let manifest = match bucket.get(MANIFEST_KEY).await {
        Ok(found) => found,
        // Without it no rows are known to be the pipeline's: the tables are dropped only if they are empty.
        Err(BucketError::NoSuchBucket { .. }) => None,
        Err(error) => return Err(error.to_string()),
    };
    let uid = manifest.and_then(|(bytes, _)| Manifest::parse(&bytes).ok()).map(|manifest| manifest.pipeline.0);
    let client = outside::connect(valid, &plan.schema, seen).map_err(|finding| finding.message)?;
    let dropping = spillway_schema::drop_all(&client, &plan.schema.spec, uid.as_deref());
    match tokio::time::timeout(DROP_LIMIT, dropping).await {
        Ok(Ok(dropped)) => Ok(dropped.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("ClickHouse did not drop the tables in time".to_owned()),
    }
}

/// # Errors
/// What is in the way.
async fn empty(ctx: &Ctx, target: &Target, place: &Place, memory: &mut Memory) -> Result<String, String> {
    let Known { valid, plan, seen } = place.known()?;
    let opened = outside::open(ctx, target, valid, &plan.bucket, seen, memory, 0).await;
    let bucket = opened.map_err(|error| error.to_string())?;
    let mut progress = spillway_bucket::Emptying::default();
    match tokio::time::timeout(EMPTY_LIMIT, bucket.empty(&mut progress)).await {
        Ok(Ok(())) => {}
        Ok(Err(BucketError::NoSuchBucket { .. })) => {
            return Ok(format!("{} does not exist", bucket.describe()));
        }
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err(format!("{} is large, deleting goes on", bucket.describe())),
    }
    if let Some(error) = &progress.first_failure {
        return Err(format!("{} objects could not be deleted: {error}", progress.failed));
    }
    let mut said = format!("deleted {} objects of {}", progress.deleted, bucket.describe());
    if progress.foreign > 0 {
        let example = progress.examples.first().map_or("", String::as_str);
        let count = progress.foreign;
        said.push_str(&format!("; {count} that Spillway did not write stay, such as {example}"));
    }
    Ok(said)
}

async fn say_begun(ctx: &Ctx, target: &Target) {
    let note = "deletionPolicy is Delete: ingest is stopped, then the syncer; then tables and staged objects go";
    events::publish(ctx, &target.reference, Reason::CleaningUp, note).await;
}

async fn say_failed(ctx: &Ctx, target: &Target, why: String) {
    tracing::warn!(pipeline = target.name, namespace = target.namespace, "cleaning up: {why}");
    let seconds = ctx.config.cleanup_timeout.as_secs();
    let note = format!("{why}; given up {seconds} s after the deletion, or at once with the annotation {SKIP_ANNOTATION}=true");
    events::publish(ctx, &target.reference, Reason::CleanupFailed, note).await;
}

async fn say_released(
    ctx: &Ctx,
    target: &Target,
    object: &Object,
    release: Release,
    place: &Place,
    cleaned: &[String],
) {
    let done = cleaned.join("; ");
    let seconds = ctx.config.cleanup_timeout.as_secs();
    let why = match release {
        // One event for all of it: of several of one reason only the first one's note is kept.
        Release::Done => {
            tracing::info!(pipeline = target.name, namespace = target.namespace, "cleaned up: {done}");
            return events::publish(ctx, &target.reference, Reason::CleanedUp, done).await;
        }
        Release::Retained => "deletionPolicy is Retain".to_owned(),
        Release::Skipped => format!("the annotation {SKIP_ANNOTATION} says so"),
        Release::TimedOut => format!("the cleanup took longer than {seconds} s"),
        Release::Hopeless => {
            let missing = place.known().err().unwrap_or_default();
            format!("the namespace is being deleted and something is missing already: {missing}")
        }
    };
    let reason = if release == Release::Retained { Reason::Kept } else { Reason::CleanupGivenUp };
    let what = object.0.as_ref().map_or_else(|_| "bucket and tables".to_owned(), what_is_kept);
    let done = if done.is_empty() { String::new() } else { format!("; done before: {done}") };
    let note = format!("{what} may be left: {why}{done}");
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
