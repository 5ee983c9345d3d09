//! Fifth step: the status says how the pipeline is, in whichever way the reconcile ended.

use std::time::Instant;

use k8s_openapi::jiff::Timestamp;
use kube::{
    Api,
    api::{Patch, PatchParams},
    core::{ApiResource, DynamicObject},
    runtime::controller::Action,
};
use spillway_crds::{LogPipeline, ValidatedPipeline, status::LogPipelineStatus};

use super::{Failed, Object};
use crate::{
    apply,
    backoff::jittered,
    conditions::{self, Finding, Reason, Truth, Type},
    ctx::Ctx,
    dereference::Dereferenced,
    errors::{ApiError, call},
    events, findings,
    gate::{Decision, Gate},
    inventory::Rollout,
    memory::Memory,
    outside::Outside,
    plan::{Plan, Replicas, names},
    pods,
    status::{self, Facts, Ingest},
    target::Target,
};

/// A pipeline that was planned.
pub(super) struct State<'a> {
    pub(super) target: &'a Target,
    pub(super) pipeline: &'a LogPipeline,
    pub(super) valid: &'a ValidatedPipeline,
    pub(super) plan: &'a Plan,
    pub(super) seen: &'a Dereferenced,
}

pub(super) async fn say(
    ctx: &Ctx,
    state: &State<'_>,
    memory: &mut Memory,
    outside: &Outside,
    gate: Gate,
    applied: &apply::Outcome,
) -> Result<(), Failed> {
    let State { target, pipeline, valid, plan, seen } = state;
    let scope = names::Scope::of(valid);
    let part = |component: names::Component, decision: Decision, planned: Option<i32>| {
        let mine = |name: &str| {
            (component == names::Component::Syncer)
                == (name == scope.syncer() || name.starts_with(&format!("{}-", scope.syncer())))
        };
        findings::Component {
            rollout: seen.rollout(&scope.name(component), &target.uid),
            decision,
            schema_is_bad: outside.bucket.is_good() && !outside.schema.is_good(),
            not_ours: applied.not_ours.iter().filter(|id| mine(&id.name)).collect(),
            failed: applied
                .failed
                .iter()
                .filter(|(id, error)| mine(&id.name) && !error.is_conflict())
                .map(|(_, error)| error.to_string())
                .collect(),
            pods: None,
            suspend: valid.suspend,
            planned,
        }
    };
    let pods_of_ingest = match plan.objects.ingest_deployment.replicas {
        Replicas::Fixed(replicas) | Replicas::HandOver(replicas) => Some(replicas),
        Replicas::Autoscaled => None,
    };
    let pods_of_syncer = plan.objects.syncer_deployment.spec.as_ref().and_then(|spec| spec.replicas);
    let ingest = part(names::Component::Ingest, gate.ingest, pods_of_ingest);
    let syncer = part(names::Component::Syncer, gate.syncer, pods_of_syncer);
    let ingest_trouble = trouble(ctx, target, names::Component::Ingest, ingest.rollout, seen).await;
    let syncer_trouble = trouble(ctx, target, names::Component::Syncer, syncer.rollout, seen).await;
    let ingest = findings::Component { pods: ingest_trouble.as_deref(), ..ingest };
    let syncer = findings::Component { pods: syncer_trouble.as_deref(), ..syncer };
    let holder = seen.holder(&scope.syncer());
    let progress = memory.reading.as_ref().and_then(|reading| reading.progress.as_ref());
    // Without a manifest nothing may be written to the bucket.
    let manifest = outside.manifest.clone().filter(|finding| outside.bucket.is_good() && !finding.is_good());
    let mut parts = vec![
        (Type::SpecValid, spec(plan, seen, outside)),
        (Type::TenantsValid, findings::tenants(&plan.refused_tenants, pipeline.spec.tenants.len())),
        (Type::BucketReady, manifest.unwrap_or_else(|| outside.bucket.clone())),
        (Type::SchemaReady, outside.schema.clone()),
        (Type::IngestAvailable, findings::ingest(&ingest)),
        (Type::SyncerAvailable, findings::syncer(&syncer, holder.as_deref(), progress)),
    ];
    let unknown =
        leave_out_unanswered(&mut parts, &known_status(pipeline, memory), pipeline.metadata.generation);
    let facts = Facts {
        generation: pipeline.metadata.generation,
        ingest: Some(facts_of_ingest(ingest.rollout, &scope)),
        syncer_holder: holder,
        progress: progress.map(|progress| (progress.backlog.clone(), progress.lag.clone())),
        progress_due: memory.progress_written.is_none_or(|at| at.elapsed() >= ctx.config.tick.mul_f64(0.8)),
    };
    let mut all = findings::all(parts, valid.suspend);
    if unknown {
        // As it was, until that is known.
        all.retain(|(type_, _)| *type_ != Type::Ready);
    }
    let ready = all.iter().any(|(type_, finding)| *type_ == Type::Ready && finding.is_good());
    let changed = settle_status(ctx, target, pipeline, memory, &all, facts).await?;
    memory.unready_since = match memory.unready_since {
        _ if ready => None,
        Some(since) if !changed => Some(since),
        _ => Some(Instant::now()),
    };
    Ok(())
}

/// Nothing is said of what is being asked when something of this generation was said before: an operator that has just
/// started knows no better. Returns whether there is any.
fn leave_out_unanswered(
    parts: &mut Vec<(Type, Finding)>,
    status: &LogPipelineStatus,
    generation: Option<i64>,
) -> bool {
    let before = parts.len();
    parts.retain(|(type_, finding)| {
        let name = type_.to_string();
        let last = status.conditions.iter().find(|condition| condition.type_ == name);
        finding.reason != Reason::NotLookedAt
            || last.is_none_or(|last| generation.is_none() || last.observed_generation != generation)
    });
    parts.len() < before
}

/// Having no credentials is the spec's fault and not the bucket's.
fn spec(plan: &Plan, seen: &Dereferenced, outside: &Outside) -> Finding {
    if !seen.unreadable.is_empty() {
        return unreadable_secrets(seen, "what was last read of them is used");
    }
    if outside.bucket.reason == Reason::NoCredentials {
        return outside.bucket.clone();
    }
    findings::spec(&plan.secret_errors, &plan.notes)
}

fn facts_of_ingest(rollout: Option<&Rollout>, scope: &names::Scope) -> Ingest {
    let selector = scope.selector_text(names::Component::Ingest);
    match rollout {
        Some(rollout) => {
            Ingest { replicas: rollout.pods, available: rollout.available, wanted: rollout.wanted, selector }
        }
        None => Ingest { selector, ..Ingest::default() },
    }
}

/// Asked only while pods are missing, or a new template does not come up beside the old one.
async fn trouble(
    ctx: &Ctx,
    target: &Target,
    component: names::Component,
    rollout: Option<&Rollout>,
    seen: &Dereferenced,
) -> Option<String> {
    rollout
        .filter(|rollout| rollout.pods > 0 && !(rollout.settled() && rollout.available >= rollout.wanted))?;
    pods::trouble(ctx, target, component, seen).await.ok().flatten()
}

fn unreadable_secrets(seen: &Dereferenced, so: &str) -> Finding {
    let why: Vec<_> = seen.unreadable.iter().map(|secret| secret.message.as_str()).collect();
    Finding::unknown(Reason::SecretUnreadable, format!("Secrets can't be read, {so}: {}", why.join(" | ")))
}

/// A Secret can't be read, and what is in it was never known.
pub(super) async fn say_unreadable_secrets(
    ctx: &Ctx,
    target: &Target,
    pipeline: &LogPipeline,
    seen: &Dereferenced,
    memory: &mut Memory,
) -> Result<(), Failed> {
    let finding = unreadable_secrets(seen, "so nothing is changed; what runs goes on");
    let mut parts = vec![(Type::SpecValid, finding)];
    parts.extend(observed_parts(target, pipeline, seen));
    let facts = observed_facts(target, pipeline, seen);
    let all = findings::all(parts, false);
    settle_status(ctx, target, pipeline, memory, &all, facts).await.map(drop)
}

pub(super) async fn say_paused(
    ctx: &Ctx,
    target: &Target,
    pipeline: &LogPipeline,
    seen: &Dereferenced,
    memory: &mut Memory,
) -> Result<Action, Failed> {
    let parts = observed_parts(target, pipeline, seen);
    let facts = observed_facts(target, pipeline, seen);
    let all = findings::paused(parts, &known_status(pipeline, memory).conditions);
    settle_status(ctx, target, pipeline, memory, &all, facts).await?;
    Ok(Action::requeue(jittered(ctx.config.resync, &target.uid)))
}

pub(super) async fn say_invalid(
    ctx: &Ctx,
    target: &Target,
    pipeline: &LogPipeline,
    seen: &Dereferenced,
    memory: &mut Memory,
    problems: String,
) -> Result<Action, Failed> {
    let unknown =
        || Finding::unknown(Reason::SpecInvalid, "not looked at while SpecValid is False; what runs goes on");
    let mut parts = vec![
        (Type::SpecValid, Finding::bad(Reason::Invalid, problems)),
        (Type::TenantsValid, unknown()),
        (Type::BucketReady, unknown()),
        (Type::SchemaReady, unknown()),
    ];
    parts.extend(observed_parts(target, pipeline, seen));
    let facts = observed_facts(target, pipeline, seen);
    let all = findings::all(parts, false);
    settle_status(ctx, target, pipeline, memory, &all, facts).await?;
    // Only a change of the spec helps, and that is watched.
    Ok(Action::requeue(jittered(ctx.config.resync, &target.uid)))
}

/// Availability without a plan.
fn observed_parts(target: &Target, pipeline: &LogPipeline, seen: &Dereferenced) -> Vec<(Type, Finding)> {
    let part = |name: &str| findings::Component {
        rollout: seen.rollout(&format!("{}-{name}", target.name), &target.uid),
        decision: Decision::Keep,
        schema_is_bad: false,
        not_ours: Vec::new(),
        failed: Vec::new(),
        pods: None,
        suspend: pipeline.spec.suspend == Some(true),
        planned: None,
    };
    let none = || Finding::bad(Reason::NoPodsReady, "there are no pods");
    let (ingest, syncer) = (part("ingest"), part("syncer"));
    let holder = seen.holder(&format!("{}-syncer", target.name));
    let of_ingest = if ingest.rollout.is_some() { findings::ingest(&ingest) } else { none() };
    let of_syncer =
        if syncer.rollout.is_some() { findings::syncer(&syncer, holder.as_deref(), None) } else { none() };
    vec![(Type::IngestAvailable, of_ingest), (Type::SyncerAvailable, of_syncer)]
}

fn observed_facts(target: &Target, pipeline: &LogPipeline, seen: &Dereferenced) -> Facts {
    let old = pipeline.status.clone().unwrap_or_default();
    let rollout = seen.rollout(&format!("{}-ingest", target.name), &target.uid);
    let ingest = rollout.map(|rollout| Ingest {
        replicas: rollout.pods,
        available: rollout.available,
        wanted: rollout.wanted,
        selector: old.selector.unwrap_or_default(),
    });
    Facts {
        generation: pipeline.metadata.generation,
        ingest,
        syncer_holder: seen.holder(&format!("{}-syncer", target.name)),
        ..Facts::default()
    }
}

/// An object of a newer version, or from before a rule was made.
pub(super) async fn say_unreadable(
    ctx: &Ctx,
    target: &Target,
    unreadable: &kube::core::error_boundary::InvalidObject,
) -> Result<Action, Failed> {
    let message = format!("the object can't be read: {}; correct it, what runs goes on", unreadable.error);
    let finding = Finding::bad(Reason::Unreadable, message);
    let ready = Finding { status: Truth::False, ..finding.clone() };
    let all = vec![(Type::Ready, ready), (Type::SpecValid, finding)];
    settle_raw_status(ctx, target, &all).await?;
    Ok(Action::requeue(jittered(ctx.config.resync, &target.uid)))
}

/// The status of an object that can't be read.
async fn settle_raw_status(ctx: &Ctx, target: &Target, all: &[(Type, Finding)]) -> Result<(), Failed> {
    let resource = ApiResource::erase::<LogPipeline>(&());
    let api: Api<DynamicObject> = target.objects(&ctx.client, &resource);
    let found = target.live(&api).await.map_err(Failed::at("status"))?;
    let Some(mut found) = found else { return Ok(()) };
    // Its status may be unreadable, too: taken as it is, nothing of it gets lost.
    let old = found.data.get_mut("status").map(serde_json::Value::take).unwrap_or_default();
    let generation = found.metadata.generation;
    if let Some((new, changes)) = status::next_raw(&old, all, generation, Timestamp::now()) {
        // Server-side apply needs an object of the schema's types, which this one may not be.
        let patch = serde_json::json!({"metadata": {"uid": target.uid}, "status": new});
        let parameters =
            PatchParams { field_manager: Some(names::FIELD_MANAGER.into()), ..PatchParams::default() };
        let patch = Patch::Merge(&patch);
        let written = api.patch_status(&target.name, &parameters, &patch);
        call("write the status", written).await.map_err(Failed::at("status"))?;
        ctx.metrics.wrote("LogPipeline", "status");
        events::publish_changes(ctx, &target.reference, &changes).await;
    }
    Ok(())
}

/// Of an object on its way out. What can't be written holds nothing up.
pub(crate) async fn say_deleting(
    ctx: &Ctx,
    target: &Target,
    object: &Object,
    memory: &mut Memory,
    waits_for: String,
) {
    let deleting = |message: String| Finding::bad(Reason::Deleting, message);
    let ready = (Type::Ready, deleting(waits_for));
    let written = match &object.0 {
        Err(_) => settle_raw_status(ctx, target, &[ready]).await,
        Ok(pipeline) => {
            let seen = Dereferenced::of_objects(ctx, target);
            let mut all = vec![ready];
            all.extend(observed_parts(target, pipeline, &seen).into_iter().map(|(type_, finding)| {
                let stopped = || deleting("its pods end, because the pipeline is being deleted".to_owned());
                (type_, if finding.is_good() { finding } else { stopped() })
            }));
            let facts = observed_facts(target, pipeline, &seen);
            settle_status(ctx, target, pipeline, memory, &all, facts).await.map(drop)
        }
    };
    if let Err(failed) = written {
        tracing::debug!(pipeline = target.name, namespace = target.namespace, "{failed}");
    }
}

/// The newest status that is known: what was written last, until the watch has brought it.
pub(super) fn known_status(pipeline: &LogPipeline, memory: &Memory) -> LogPipelineStatus {
    let version = |text: Option<&str>| text.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let watched = version(pipeline.metadata.resource_version.as_deref());
    let status = match &memory.status {
        Some((written, status)) if *written > watched => status.clone(),
        _ => pipeline.status.clone().unwrap_or_default(),
    };
    LogPipelineStatus { conditions: conditions::ours(&status.conditions), ..status }
}

/// Returns whether anything is said that people should hear of.
async fn settle_status(
    ctx: &Ctx,
    target: &Target,
    pipeline: &LogPipeline,
    memory: &mut Memory,
    findings: &[(Type, Finding)],
    facts: Facts,
) -> Result<bool, Failed> {
    let old = known_status(pipeline, memory);
    let Some((new, changes)) = status::next(&old, findings, facts, Timestamp::now()) else {
        return Ok(false);
    };
    if new.backlog != old.backlog || new.lag != old.lag {
        memory.progress_written = Some(Instant::now());
    }
    write_status(ctx, target, memory, new).await.map_err(Failed::at("status"))?;
    events::publish_changes(ctx, &target.reference, &changes).await;
    Ok(!changes.is_empty())
}

pub(super) async fn write_status(
    ctx: &Ctx,
    target: &Target,
    memory: &mut Memory,
    status: LogPipelineStatus,
) -> Result<(), ApiError> {
    let json = |source| ApiError::Json { what: "write the status".to_owned(), source };
    let version = apply_status(ctx, target, serde_json::to_value(&status).map_err(json)?).await?;
    memory.status = Some((version, status));
    Ok(())
}

/// Applied, so that two operators at once do no harm: they say the same of the same. What isn't sent goes. Returns the
/// object's version.
async fn apply_status(ctx: &Ctx, target: &Target, status: serde_json::Value) -> Result<u64, ApiError> {
    let json = |source| ApiError::Json { what: "write the status".to_owned(), source };
    let mut value =
        serde_json::to_value(LogPipeline::new(&target.name, spillway_crds::LogPipelineSpec::default()))
            .map_err(json)?;
    if let Some(object) = value.as_object_mut() {
        object.remove("spec");
        object.insert("status".to_owned(), status);
    }
    value["metadata"]["uid"] = target.uid.clone().into();
    let resource = ApiResource::erase::<LogPipeline>(&());
    let api: Api<DynamicObject> = target.objects(&ctx.client, &resource);
    let parameters = PatchParams::apply(names::FIELD_MANAGER).force();
    let patch = Patch::Apply(&value);
    let written = call("write the status", api.patch_status(&target.name, &parameters, &patch)).await?;
    ctx.metrics.wrote("LogPipeline", "status");
    Ok(written.metadata.resource_version.and_then(|version| version.parse().ok()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_being_asked_leaves_what_was_said_of_the_same_spec() {
        let unanswered = || (Type::SchemaReady, Finding::unknown(Reason::NotLookedAt, ""));
        let bucket = || (Type::BucketReady, Finding::good(Reason::Configured, ""));
        let said = [(Type::SchemaReady, Finding::good(Reason::Applied, ""))];
        let (conditions, _) = conditions::next(&[], &said, Some(2), Timestamp::UNIX_EPOCH);
        let status = LogPipelineStatus { conditions, ..LogPipelineStatus::default() };
        for (status, generation, left) in [
            (&status, Some(2), vec![bucket()]),
            (&status, Some(3), vec![bucket(), unanswered()]),
            (&LogPipelineStatus::default(), Some(2), vec![bucket(), unanswered()]),
        ] {
            let mut parts = vec![bucket(), unanswered()];
            let any = leave_out_unanswered(&mut parts, status, generation);
            assert_eq!((any, &parts), (left.len() == 1, &left), "{generation:?}");
        }
    }
}
