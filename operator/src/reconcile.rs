//! One pipeline, from what is to what should be: dereference, validate, plan, apply, status.

mod image;
mod say;
mod unplanned;

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
    conditions::Type,
    ctx::Ctx,
    dereference::{Dereferenced, look, look_for_leader},
    errors::ApiError,
    failpoint::failpoint,
    finalizers, findings, gate,
    memory::{self, AT_ONCE, Memory, Suspension},
    outside::{self, progress},
    plan::{self, Inputs, Plan, Workload, names},
    pods,
    target::Target,
};
use say::{State, known_status, say};
pub(crate) use unplanned::say_deleting;
use unplanned::{say_invalid, say_paused, say_unreadable, say_unreadable_secrets};

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
    /// When it is to be repeated, if that is known.
    pub(crate) wait: Option<Duration>,
}

impl Failed {
    pub(crate) fn at(step: &'static str) -> impl Fn(ApiError) -> Self {
        move |error| Self {
            step,
            reason: error.reason().to_owned(),
            conflict: error.is_conflict(),
            message: error.to_string(),
            wait: None,
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
        // Nothing may be made meanwhile.
        outside::stop(&mut memory).await;
        cleanup::act::clean_up(&ctx, &target, &object, &mut memory).await
    } else {
        match &object.0 {
            Ok(pipeline) => make_so(&ctx, &target, pipeline, &mut memory).await,
            Err(unreadable) => say_unreadable(&ctx, &target, unreadable).await,
        }
    };
    if result.is_ok() {
        memory.failures = 0;
    }
    ctx.metrics.reconciled(
        begun.elapsed(),
        result.as_ref().err().map(|failed| (failed.step, failed.reason.as_str())),
    );
    result
}

/// Conflicts in a row that nobody hears of: the watch brings what changed within a moment.
const QUIET_CONFLICTS: u32 = 3;

/// The wait after `failures` in a row, this one included. `None`: a conflict that is tried again at once.
fn wait_after(failed: &Failed, failures: u32) -> Option<Duration> {
    if !failed.conflict {
        return Some(failed.wait.unwrap_or_else(|| delay(failures)));
    }
    (failures > QUIET_CONFLICTS).then(|| delay(failures - QUIET_CONFLICTS))
}

/// After an error: the more in a row, the later.
pub(crate) fn after_failure(object: Arc<Object>, failed: &Failed, ctx: Arc<Ctx>) -> Action {
    let uid = object.uid().unwrap_or_default();
    let Some(wait) = wait_after(failed, ctx.memories.count_failure(&uid)) else {
        return Action::requeue(Duration::from_millis(500));
    };
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
    ctx: &Arc<Ctx>,
    target: &Target,
    pipeline: &LogPipeline,
    memory: &mut Memory,
) -> Result<Action, Failed> {
    // Whatever else is wrong with it, what it says of its data holds.
    let policy = pipeline.spec.deletion_policy.unwrap_or_default();
    let finalizer = finalizers::settle(ctx, target, pipeline, policy).await.map_err(Failed::at("finalizer"));
    let finalizer = match finalizer {
        // It has changed meanwhile.
        Err(failed) if failed.conflict => return Err(failed),
        other => other,
    };
    failpoint("after-finalizer");
    let mut seen = look(ctx, target, &pipeline.spec).await;
    if pipeline.spec.paused == Some(true) {
        outside::stop(memory).await;
        return say_paused(ctx, target, pipeline, &seen, memory).await;
    }
    let valid = match validate(pipeline) {
        Ok(valid) => valid,
        Err(errors) => {
            return say_invalid(ctx, target, pipeline, &seen, memory, findings::text(&errors)).await;
        }
    };
    if seen.unreadable.iter().any(|secret| !secret.last_known) {
        // Without what is in it, tenants would be shut out and pods restarted.
        say_unreadable_secrets(ctx, target, pipeline, &seen, memory).await?;
        return Err(unreadable_secrets(&seen));
    }
    let image = image::record(ctx, target, pipeline, &seen, memory).await?;
    failpoint("after-image");
    let inputs = inputs(target, &valid, &seen, image, memory);
    let planned_drained = inputs.observed.drained;
    let plan = match plan::plan(&valid, &inputs) {
        Ok(plan) => plan,
        Err(error) => {
            return say_invalid(ctx, target, pipeline, &seen, memory, error.to_string()).await;
        }
    };
    let outside = outside::bring(ctx, target, &valid, &plan, &seen, memory).await;
    let outside = outside.with_last_word(last_word(&known_status(pipeline, memory), Type::SchemaReady));
    let gate =
        gate::gate(outside.standing(inputs.observed.ingest.is_some(), inputs.observed.syncer.is_some()));
    let applied = apply::apply(ctx, target, &plan, gate, &seen.objects, memory).await;
    failpoint("after-apply");
    let touched = touch(ctx, target, &plan, &applied, memory).await;
    look_for_drained(ctx, target, &valid, &seen, memory).await;
    let rests = is_drained(target, &valid, &seen, memory);
    progress::read_progress(ctx, memory, rests).await;
    look_for_leader(ctx, target, &mut seen, &names::Scope::of(&valid).syncer()).await;
    let state = State { target, pipeline, valid: &valid, plan: &plan, seen: &seen, rests };
    say(ctx, &state, memory, &outside, gate, &applied).await?;
    failpoint("after-status");
    finalizer?;
    if let Some((id, error)) = applied.failed.into_iter().next() {
        tracing::debug!(object = %id, "not applied");
        return Err(Failed::at("apply")(error));
    }
    touched.map_err(Failed::at("touch"))?;
    if !seen.unreadable.is_empty() {
        return Err(unreadable_secrets(&seen));
    }
    if let Some(outside::FailedStep { step, reason, message, wait }) = outside.failed {
        return Err(Failed {
            step,
            reason,
            message,
            conflict: false,
            wait: Some(wait.max(Duration::from_secs(1))),
        });
    }
    let suspension = suspension(valid.suspend, planned_drained, rests);
    Ok(Action::requeue(next_look(ctx, target, suspension, memory)))
}

fn unreadable_secrets(seen: &Dereferenced) -> Failed {
    let (reason, message) =
        seen.unreadable.first().map_or(("", String::new()), |secret| (secret.reason, secret.message.clone()));
    Failed { step: "dereference", reason: reason.to_owned(), message, conflict: false, wait: None }
}

/// The reason of a condition as it was written last.
fn last_word(status: &LogPipelineStatus, type_: Type) -> Option<&str> {
    let name = type_.to_string();
    status
        .conditions
        .iter()
        .find(|condition| condition.type_ == name)
        .map(|condition| condition.reason.as_str())
}

/// At once where something speaks against what was found outside; while a suspended pipeline empties itself, or one is
/// not Ready, more often than else.
fn next_look(ctx: &Ctx, target: &Target, suspension: Suspension, memory: &Memory) -> Duration {
    if memory.running.is_none() && memory.outside.doubted() {
        return AT_ONCE;
    }
    let unready_for = memory.unready_since.map(|since| since.elapsed());
    memory::next(suspension, unready_for, jittered(ctx.config.tick, &target.uid))
}

/// By what the plan was made for, and what was found after it.
fn suspension(suspend: bool, planned_drained: bool, drained: bool) -> Suspension {
    match (suspend, planned_drained, drained) {
        (false, ..) => Suspension::No,
        (true, _, false) => Suspension::Emptying,
        (true, false, true) => Suspension::Emptied,
        (true, true, true) => Suspension::Rests,
    }
}

/// Whether a suspended pipeline needs no syncer any more. Right after a start the syncer's own number is what is known.
fn is_drained(target: &Target, valid: &ValidatedPipeline, seen: &Dereferenced, memory: &Memory) -> bool {
    let syncer = names::Scope::of(valid).syncer();
    let idle = || seen.rollout(&syncer, &target.uid).is_some_and(|rollout| rollout.wanted == 0);
    valid.suspend && memory.drained.unwrap_or_else(idle)
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
    Inputs {
        image,
        secrets: seen.secrets.clone(),
        secret_versions: seen.versions.clone(),
        pod_monitor: seen.pod_monitor,
        observed: plan::Observed {
            ingest: workload(&scope.ingest()),
            syncer: workload(&scope.syncer()),
            drained: is_drained(target, valid, seen, memory),
        },
    }
}

async fn touch(
    ctx: &Ctx,
    target: &Target,
    plan: &Plan,
    applied: &apply::Outcome,
    memory: &mut Memory,
) -> Result<(), ApiError> {
    // Not for files that aren't there yet: it would be remembered as done.
    if applied.tenants_written {
        pods::touch(ctx, target, names::Component::Ingest, &plan.touch.ingest, memory).await?;
    }
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
    if seen.rollout(&scope.syncer(), &target.uid).is_some_and(|rollout| rollout.wanted == 0) {
        memory.idle = Some(Instant::now());
    }
    let stopped = seen
        .rollout(&scope.ingest(), &target.uid)
        .is_some_and(|rollout| rollout.current && rollout.wanted == 0 && rollout.pods == 0);
    let before = memory.drained;
    if !valid.suspend || !stopped {
        memory.drained = Some(false);
        memory.staged = None;
    } else if before != Some(true) {
        // A Deployment counts no pods that are on their way out, and those still write.
        match pods::any(ctx, target, names::Component::Ingest).await {
            Ok(true) => memory.drained = Some(false),
            Ok(false) => {
                memory.staged = progress::staged(ctx, memory).await;
                // Who can't look knows no better than before: a pipeline at rest stays so.
                memory.drained = memory.staged.map_or(before, |staged| Some(staged.objects == 0));
            }
            Err(error) => tracing::debug!(pipeline = target.name, namespace = target.namespace, "{error}"),
        }
    }
    if (before == Some(true)) != (memory.drained == Some(true)) {
        // It is of a syncer that ends, or from before the one that begins.
        memory.reading = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspended_pipeline_is_planned_again_when_it_is_seen_to_be_empty() {
        for (suspend, planned, found, expected) in [
            (false, false, false, Suspension::No),
            // Resumed.
            (false, true, false, Suspension::No),
            (true, false, false, Suspension::Emptying),
            (true, false, true, Suspension::Emptied),
            (true, true, true, Suspension::Rests),
            // Something was staged while nobody looked.
            (true, true, false, Suspension::Emptying),
        ] {
            assert_eq!(suspension(suspend, planned, found), expected, "{suspend} {planned} {found}");
        }
    }

    #[test]
    fn conflicts_are_repeated_at_once_and_like_failures_when_they_go_on() {
        let failed = |conflict, wait| Failed {
            step: "apply",
            reason: String::new(),
            message: String::new(),
            conflict,
            wait,
        };
        let half = Some(Duration::from_secs(30));
        for (conflict, known, failures, seconds) in [
            (true, None, 1, None),
            (true, None, 3, None),
            (true, None, 4, Some(5)),
            (true, None, 6, Some(20)),
            (false, None, 1, Some(5)),
            (false, None, 3, Some(20)),
            (false, half, 3, Some(30)),
        ] {
            let wait = wait_after(&failed(conflict, known), failures);
            assert_eq!(wait.map(|wait| wait.as_secs()), seconds, "{conflict} {failures}");
        }
    }
}
