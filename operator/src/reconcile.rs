//! One pipeline, from what is to what should be: dereference, validate, plan, apply, status.

mod say;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use kube::{ResourceExt as _, core::DeserializeGuard, runtime::controller::Action};
use spillway_crds::{LogPipeline, ValidatedPipeline, status::LogPipelineStatus, validate};

use crate::{
    apply,
    backoff::{delay, jittered},
    cleanup,
    ctx::Ctx,
    dereference::{Dereferenced, dereference},
    errors::ApiError,
    failpoint::failpoint,
    finalizers, findings, gate,
    memory::Memory,
    outside::{self, progress},
    plan::{self, Inputs, Plan, Workload, names},
    pods,
    target::Target,
};
use say::{State, known_status, say, say_invalid, say_paused, say_unreadable, write_status};

/// A pipeline as it comes from the API server, readable or not.
pub(crate) type Object = DeserializeGuard<LogPipeline>;

/// A reconcile that is to be repeated soon.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {message}")]
pub(crate) struct Failed {
    pub(crate) step: &'static str,
    /// A short label.
    pub(crate) reason: String,
    pub(crate) message: String,
    /// Somebody else was faster: no failure, try again at once.
    pub(crate) conflict: bool,
}

impl Failed {
    pub(crate) fn at(step: &'static str) -> impl Fn(ApiError) -> Self {
        move |error| Self {
            step,
            reason: error.reason().to_owned(),
            conflict: error.is_conflict(),
            message: error.to_string(),
        }
    }
}

/// Makes one pipeline so.
///
/// # Errors
/// What is to be repeated soon. What its owner has to mend is no error but a condition.
pub(crate) async fn reconcile(object: Arc<Object>, ctx: Arc<Ctx>) -> Result<Action, Failed> {
    let begun = Instant::now();
    let Some(target) = Target::of(&*object) else { return Ok(Action::await_change()) };
    let memory = ctx.memories.of(&target.uid);
    let mut memory = memory.lock().await;
    let metadata = kube::Resource::meta(&*object);
    let result = if metadata.deletion_timestamp.is_some() {
        cleanup::act::clean_up(&ctx, &target, &object, &mut memory).await
    } else {
        match &object.0 {
            Ok(pipeline) => make_so(&ctx, &target, pipeline, &mut memory).await,
            Err(unreadable) => say_unreadable(&ctx, &target, unreadable, &mut memory).await,
        }
    };
    if result.is_ok() {
        memory.failures = 0;
    }
    ctx.metrics.reconciled(begun.elapsed(), result.as_ref().err().map(|failed| (failed.step, failed.reason.as_str())));
    result
}

/// After an error: the more in a row, the later. A conflict is none.
pub(crate) fn after_failure(object: Arc<Object>, failed: &Failed, ctx: Arc<Ctx>) -> Action {
    if failed.conflict {
        return Action::requeue(Duration::from_millis(500));
    }
    let uid = object.uid().unwrap_or_default();
    let wait = delay(ctx.memories.count_failure(&uid));
    tracing::warn!(
        pipeline = object.name_any(),
        namespace = object.namespace(),
        step = failed.step,
        reason = failed.reason,
        "trying again in {} s: {}",
        wait.as_secs(),
        failed.message
    );
    Action::requeue(jittered(wait, &uid))
}

async fn make_so(
    ctx: &Ctx,
    target: &Target,
    pipeline: &LogPipeline,
    memory: &mut Memory,
) -> Result<Action, Failed> {
    let seen = dereference(ctx, target, &pipeline.spec).await.map_err(Failed::at("dereference"))?;
    if pipeline.spec.paused == Some(true) {
        return say_paused(ctx, target, pipeline, &seen, memory).await;
    }
    let valid = match validate(pipeline) {
        Ok(valid) => valid,
        Err(errors) => {
            return say_invalid(ctx, target, pipeline, &seen, memory, findings::text(&errors)).await;
        }
    };
    finalizers::settle(ctx, target, pipeline, valid.deletion_policy).await.map_err(Failed::at("finalizer"))?;
    failpoint("after-finalizer");
    let image = record_image(ctx, target, pipeline, memory).await?;
    failpoint("after-image");
    let inputs = inputs(target, &valid, &seen, image, memory);
    let plan = match plan::plan(&valid, &inputs) {
        Ok(plan) => plan,
        Err(error) => {
            return say_invalid(ctx, target, pipeline, &seen, memory, error.to_string()).await;
        }
    };
    let outside = outside::bring(ctx, target, &valid, &plan, &seen, memory).await;
    let gate = gate::gate(
        outside.standing(inputs.observed.ingest.is_some(), inputs.observed.syncer.is_some()),
    );
    let applied = apply::apply(ctx, target, &plan, gate, &seen.objects, memory).await;
    failpoint("after-apply");
    let touched = touch(ctx, target, &plan, memory).await;
    progress::read_progress(ctx, memory).await;
    look_for_drained(ctx, target, &valid, &seen, memory).await;
    let state = State { target, pipeline, valid: &valid, plan: &plan, seen: &seen };
    say(ctx, &state, memory, &outside, gate, &applied).await?;
    failpoint("after-status");
    if let Some((id, error)) = applied.failed.into_iter().next() {
        tracing::debug!(object = %id, "not applied");
        return Err(Failed::at("apply")(error));
    }
    touched.map_err(Failed::at("touch"))?;
    if let Some((step, reason)) = outside.failed {
        let finding = [&outside.bucket, &outside.schema].into_iter().chain(&outside.manifest);
        let message = finding.into_iter().find(|finding| finding.reason.to_string() == reason);
        let message = message.map(|finding| finding.message.clone()).unwrap_or_default();
        return Err(Failed { step, reason, message, conflict: false });
    }
    Ok(Action::requeue(next_look(ctx, target, &valid, memory)))
}

/// While a suspended pipeline empties itself, more often.
fn next_look(ctx: &Ctx, target: &Target, valid: &ValidatedPipeline, memory: &Memory) -> Duration {
    let tick = jittered(ctx.config.tick, &target.uid);
    if valid.suspend && memory.drained != Some(true) { tick.min(Duration::from_secs(10)) } else { tick }
}

/// The image of a new pipeline is written down before any object, so that no other version of the operator
/// chooses another one.
async fn record_image(
    ctx: &Ctx,
    target: &Target,
    pipeline: &LogPipeline,
    memory: &mut Memory,
) -> Result<String, Failed> {
    let old = known_status(pipeline, memory);
    if let Some(image) = old.image {
        return Ok(pipeline.spec.image.clone().unwrap_or(image));
    }
    let image = ctx.config.image.clone();
    let new = LogPipelineStatus { image: Some(image.clone()), ..old };
    write_status(ctx, target, memory, new).await.map_err(Failed::at("status"))?;
    Ok(pipeline.spec.image.clone().unwrap_or(image))
}

fn inputs(
    target: &Target,
    valid: &ValidatedPipeline,
    seen: &Dereferenced,
    image: String,
    memory: &Memory,
) -> Inputs {
    let scope = names::Scope::of(valid);
    let workload = |name: &str| -> Option<Workload> {
        seen.rollout(name, &target.uid).map(|rollout| rollout.workload.clone())
    };
    // Right after a start the syncer's own number is what is known.
    let rests = seen.rollout(&scope.syncer(), &target.uid).is_some_and(|rollout| rollout.wanted == 0);
    Inputs {
        image,
        secrets: seen.secrets.clone(),
        secret_versions: seen.versions.clone(),
        pod_monitor: seen.pod_monitor,
        observed: plan::Observed {
            ingest: workload(&scope.ingest()),
            syncer: workload(&scope.syncer()),
            drained: valid.suspend && memory.drained.unwrap_or(rests),
        },
    }
}

async fn touch(
    ctx: &Ctx,
    target: &Target,
    plan: &Plan,
    memory: &mut Memory,
) -> Result<(), ApiError> {
    pods::touch(ctx, target, names::Component::Ingest, &plan.touch.ingest, memory).await?;
    pods::touch(ctx, target, names::Component::Syncer, &plan.touch.syncer, memory).await
}

/// A suspended pipeline is drained when its last ingest pod has gone and nothing staged is left then.
async fn look_for_drained(
    ctx: &Ctx,
    target: &Target,
    valid: &ValidatedPipeline,
    seen: &Dereferenced,
    memory: &mut Memory,
) {
    let scope = names::Scope::of(valid);
    let stopped = seen.rollout(&scope.ingest(), &target.uid).is_some_and(|rollout| {
        rollout.current && rollout.wanted == 0 && rollout.pods == 0
    });
    if !valid.suspend || !stopped {
        memory.drained = Some(false);
        return;
    }
    if memory.drained == Some(true) {
        return;
    }
    // A Deployment counts no pods that are on their way out, and those still write.
    let writing = pods::any(ctx, target, names::Component::Ingest).await;
    let drained = matches!(writing, Ok(false)) && progress::nothing_staged(memory).await;
    memory.drained = Some(drained);
}
