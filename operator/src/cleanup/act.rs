//! Does what [`super::verdict`] and [`super::step`] decide, one step at a time.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::{Api, Resource as _, ResourceExt as _, runtime::controller::Action};
use spillway_crds::DeletionPolicy;

use super::{
    Course, FINALIZER, Progress, Release, SKIP_ANNOTATION, Said, Step, Workload,
    data::{self, Outcome},
    inside,
    place::Place,
    say::{Phase, held_by_others, say_begun, say_failed, say_released, waits_for},
    step, verdict, workloads,
};
use crate::{
    backoff::delay,
    ctx::Ctx,
    errors::ApiError,
    failpoint::failpoint,
    finalizers,
    memory::Memory,
    plan::names::Component,
    reconcile::{Failed, Object, say_deleting},
    target::Target,
};

/// Between looks at pods that are ending, and at whether somebody calls the cleanup off.
const LOOK: Duration = Duration::from_secs(3);
/// While enough others are being cleaned up.
const QUEUE: Duration = Duration::from_secs(5);
/// After a Deployment was scaled to zero: whoever scales it up again is not raced with.
const PAUSE: Duration = Duration::from_secs(1);

/// Takes the next step.
///
/// # Errors
/// When the object can't be let go. Everything else is no error here: it is tried again until the time is up.
pub(crate) async fn clean_up(
    ctx: &Ctx,
    target: &Target,
    object: &Object,
    memory: &mut Memory,
) -> Result<Action, Failed> {
    if !object.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
        // Owner references take the objects; nothing is applied any more.
        if !object.finalizers().is_empty() {
            say_deleting(ctx, target, object, memory, held_by_others(object.finalizers())).await;
        }
        return Ok(Action::await_change());
    }
    memory.course.advanced.get_or_insert_with(std::time::Instant::now);
    let limit = ctx.config.cleanup_timeout;
    if let Some(release) = verdict(&said(object, &memory.course), limit) {
        return let_go(ctx, target, object, release, None, memory).await;
    }
    // From here on it can take minutes.
    let Ok(_seat) = ctx.cleaning.try_acquire() else {
        // Its time begins with its turn.
        memory.course.advance();
        say_deleting(ctx, target, object, memory, waits_for(Phase::Queue, None, limit)).await;
        return Ok(Action::requeue(QUEUE));
    };
    let place = Place::find(ctx, target, object.0.as_ref().ok()).await;
    let (progress, unknown) = look(ctx, target, object, &place, memory).await;
    let next = step(&progress);
    tracing::debug!(pipeline = target.name, step = ?next, "cleaning up");
    let phase = Phase::of(next, &progress);
    let tell = async |memory: &mut Memory| {
        if let Some(phase) = phase {
            let text = waits_for(phase, memory.course.trouble.as_deref(), limit);
            say_deleting(ctx, target, object, memory, text).await;
        }
    };
    tell(memory).await;
    let outcome = match next {
        Step::StopIngest => {
            say_begun(ctx, target).await;
            stop(ctx, target, Component::Ingest).await
        }
        Step::StopSyncer => stop(ctx, target, Component::Syncer).await,
        Step::Await => return Ok(Action::requeue(LOOK)),
        Step::AskAgain => Err(unknown.unwrap_or_default()),
        Step::Release(release) => {
            let missing = place.known().err().or_else(|| memory.course.lost.clone());
            return let_go(ctx, target, object, release, missing, memory).await;
        }
        Step::DropTables | Step::EmptyBucket => match live(ctx, target).await {
            // The API server's word and not the watch's: here something is deleted for good.
            Ok(Some(now)) => match verdict(&said(&now, &memory.course), limit) {
                Some(release) => return let_go(ctx, target, &now, release, None, memory).await,
                // Its data may be elsewhere than we thought.
                None if now.meta().generation != object.meta().generation => {
                    return Ok(Action::requeue(PAUSE));
                }
                None => delete(ctx, target, next, &place, memory).await,
            },
            Ok(None) => return Ok(Action::await_change()),
            Err(error) => Err(error.to_string()),
        },
    };
    Ok(Action::requeue(match outcome {
        Ok(pause) => {
            memory.course.failures = 0;
            memory.course.trouble = None;
            pause
        }
        Err(why) => {
            say_failed(ctx, target, &why).await;
            memory.course.trouble = Some(why);
            tell(memory).await;
            let course = &mut memory.course;
            if let Ok(known) = place.known() {
                course.lost = inside::gone_with_its_namespace(ctx, target, known).await;
            }
            course.failures = course.failures.saturating_add(1);
            delay(course.failures).min(limit.saturating_sub(course.idle())).max(PAUSE)
        }
    }))
}

fn said(object: &Object, course: &Course) -> Said {
    let policy = object.0.as_ref().ok().map(|pipeline| pipeline.spec.deletion_policy.unwrap_or_default());
    Said {
        done: course.dropped && course.emptied,
        skip: object.annotations().get(SKIP_ANNOTATION).is_some_and(|value| value == "true"),
        retain: policy == Some(DeletionPolicy::Retain),
        idle: course.idle(),
    }
}

/// With what the API server did not say, if so.
async fn look(
    ctx: &Ctx,
    target: &Target,
    object: &Object,
    place: &Place,
    memory: &mut Memory,
) -> (Progress, Option<String>) {
    let deleted = object.meta().deletion_timestamp.as_ref().map_or_else(Timestamp::now, |time| time.0);
    let mut unknown = None;
    let mut found = [Workload::Unknown; 2];
    for (workload, component) in found.iter_mut().zip([Component::Ingest, Component::Syncer]) {
        match workloads::look(ctx, target, component, deleted).await {
            Ok((seen, draining)) => {
                *workload = seen;
                if draining {
                    memory.course.advance();
                }
            }
            Err(error) => unknown = unknown.or(Some(error.to_string())),
        }
    }
    let [ingest, syncer] = found;
    let (dropped, kept) = (memory.course.dropped, memory.course.kept.is_some());
    let hopeless = place.is_hopeless() || memory.course.lost.is_some();
    (Progress { ingest, syncer, dropped, kept, hopeless }, unknown)
}

async fn stop(ctx: &Ctx, target: &Target, component: Component) -> Result<Duration, String> {
    workloads::stop(ctx, target, component).await.map(|()| PAUSE).map_err(|error| error.to_string())
}

async fn live(ctx: &Ctx, target: &Target) -> Result<Option<Object>, ApiError> {
    target.live(&Api::namespaced(ctx.client.clone(), &target.namespace)).await
}

/// Takes tables or bucket away, until that is done or somebody calls it off. Answers with when to look again.
async fn delete(
    ctx: &Ctx,
    target: &Target,
    next: Step,
    place: &Place,
    memory: &mut Memory,
) -> Result<Duration, String> {
    let tables = next == Step::DropTables;
    failpoint(if tables { "before-drop" } else { "before-empty" });
    let deleting = async {
        if tables {
            data::drop_tables(ctx, target, place, memory).await
        } else {
            data::empty(ctx, target, place, memory).await
        }
    };
    let outcome = tokio::select! {
        outcome = deleting => outcome,
        () = called_off(ctx, target) => return Ok(Duration::ZERO),
    };
    if outcome.is_err() {
        // A service account may be given another role, which no input tells.
        memory.outside.opened = None;
    }
    let outcome = outcome?;
    let course = &mut memory.course;
    course.advance();
    match outcome {
        Outcome::Advanced => {}
        Outcome::Keep(why) => course.kept = Some(why),
        Outcome::Done(said) => {
            course.cleaned.push(said);
            *(if tables { &mut course.dropped } else { &mut course.emptied }) = true;
        }
    }
    Ok(Duration::ZERO)
}

async fn called_off(ctx: &Ctx, target: &Target) {
    loop {
        tokio::time::sleep(LOOK).await;
        if let Ok(Some(object)) = live(ctx, target).await {
            let Said { skip, retain, .. } = said(&object, &Course::default());
            if skip || retain {
                return;
            }
        }
    }
}

async fn let_go(
    ctx: &Ctx,
    target: &Target,
    object: &Object,
    release: Release,
    missing: Option<String>,
    memory: &Memory,
) -> Result<Action, Failed> {
    failpoint("before-release");
    say_released(ctx, target, object, release, missing, &memory.course).await;
    finalizers::release(ctx, target, object.meta()).await.map_err(Failed::at("cleanup"))?;
    Ok(Action::await_change())
}
