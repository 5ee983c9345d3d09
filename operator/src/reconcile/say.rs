//! Fifth step: the status says how the pipeline is, in whichever way the reconcile ended.

use std::time::Instant;

use k8s_openapi::jiff::Timestamp;
use kube::{
    api::{Patch, PatchParams},
    runtime::controller::Action,
};
use spillway_crds::{LogPipeline, ValidatedPipeline, status::LogPipelineStatus};

use super::Failed;
use crate::{
    apply,
    backoff::jittered,
    conditions::{Finding, Reason, Truth, Type},
    ctx::Ctx,
    dereference::Dereferenced,
    errors::{ApiError, call},
    events, findings,
    gate::{Decision, Gate},
    inventory::Rollout,
    memory::Memory,
    outside::Outside,
    plan::{Plan, names},
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
    let part = |component: names::Component, decision: Decision| {
        let mine = |name: &str| (component == names::Component::Syncer) == (name == scope.syncer() || name.starts_with(&format!("{}-", scope.syncer())));
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
        }
    };
    let ingest = part(names::Component::Ingest, gate.ingest);
    let syncer = part(names::Component::Syncer, gate.syncer);
    let ingest_trouble = trouble(ctx, target, names::Component::Ingest, ingest.rollout).await;
    let syncer_trouble = trouble(ctx, target, names::Component::Syncer, syncer.rollout).await;
    let ingest = findings::Component { pods: ingest_trouble.as_deref(), ..ingest };
    let syncer = findings::Component { pods: syncer_trouble.as_deref(), ..syncer };
    let holder = seen.holder(&scope.syncer());
    let progress = memory.reading.as_ref().and_then(|reading| reading.progress.as_ref());
    // Without a manifest nothing may be written to the bucket.
    let manifest = outside.manifest.clone().filter(|finding| outside.bucket.is_good() && !finding.is_good());
    let parts = vec![
        (Type::SpecValid, spec(plan, outside)),
        (Type::TenantsValid, findings::tenants(&plan.refused_tenants, pipeline.spec.tenants.len())),
        (Type::BucketReady, manifest.unwrap_or_else(|| outside.bucket.clone())),
        (Type::SchemaReady, outside.schema.clone()),
        (Type::IngestAvailable, findings::ingest(&ingest)),
        (Type::SyncerAvailable, findings::syncer(&syncer, holder.as_deref(), progress)),
    ];
    let facts = Facts {
        generation: pipeline.metadata.generation,
        image: Some(ctx.config.image.clone()),
        ingest: Some(facts_of_ingest(ingest.rollout, &scope)),
        syncer_holder: holder,
        progress: progress.map(|progress| (progress.backlog.clone(), progress.lag.clone())),
        progress_due: memory.progress_written.is_none_or(|at| at.elapsed() >= ctx.config.tick.mul_f64(0.8)),
    };
    let all = findings::all(parts, false, valid.suspend);
    settle_status(ctx, target, pipeline, memory, &all, facts).await
}

/// Having no credentials is the spec's fault and not the bucket's.
fn spec(plan: &Plan, outside: &Outside) -> Finding {
    if outside.bucket.reason == Reason::NoCredentials {
        return outside.bucket.clone();
    }
    findings::spec(&plan.secret_errors, &plan.notes)
}

fn facts_of_ingest(rollout: Option<&Rollout>, scope: &names::Scope) -> Ingest {
    let selector = scope.selector_text(names::Component::Ingest);
    match rollout {
        Some(rollout) => Ingest {
            replicas: rollout.pods,
            available: rollout.available,
            wanted: rollout.wanted,
            selector,
        },
        None => Ingest { selector, ..Ingest::default() },
    }
}

/// Asked only while pods are missing.
async fn trouble(
    ctx: &Ctx,
    target: &Target,
    component: names::Component,
    rollout: Option<&Rollout>,
) -> Option<String> {
    rollout.filter(|rollout| rollout.pods > 0 && rollout.available < rollout.wanted)?;
    pods::trouble(ctx, target, component).await.ok().flatten()
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
    let all = findings::all(parts, true, false);
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
    let unknown = || Finding::unknown(Reason::SpecInvalid, "not looked at while SpecValid is False; what runs goes on");
    let mut parts = vec![
        (Type::SpecValid, Finding::bad(Reason::Invalid, problems)),
        (Type::TenantsValid, unknown()),
        (Type::BucketReady, unknown()),
        (Type::SchemaReady, unknown()),
    ];
    parts.extend(observed_parts(target, pipeline, seen));
    let facts = observed_facts(target, pipeline, seen);
    let all = findings::all(parts, false, false);
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
    };
    let none = || Finding::bad(Reason::NoPodsReady, "there are no pods");
    let (ingest, syncer) = (part("ingest"), part("syncer"));
    let holder = seen.holder(&format!("{}-syncer", target.name));
    let of_ingest = if ingest.rollout.is_some() { findings::ingest(&ingest) } else { none() };
    let of_syncer = if syncer.rollout.is_some() { findings::syncer(&syncer, holder.as_deref(), None) } else { none() };
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
    memory: &mut Memory,
) -> Result<Action, Failed> {
    let message = format!("the object can't be read: {}; correct it, what runs goes on", unreadable.error);
    let finding = Finding::bad(Reason::Unreadable, message);
    let ready = Finding { status: Truth::False, ..finding.clone() };
    let all = vec![(Type::Ready, ready), (Type::SpecValid, finding)];
    let mut pipeline = LogPipeline::new(&target.name, spillway_crds::LogPipelineSpec::default());
    pipeline.metadata = unreadable.metadata.clone();
    // Its status can't be read either; the conditions of other types stay with their owner, which is us.
    pipeline.status = memory.status.as_ref().map(|(_, status)| status.clone());
    let facts = Facts { generation: unreadable.metadata.generation, ..Facts::default() };
    settle_status(ctx, target, &pipeline, memory, &all, facts).await?;
    Ok(Action::requeue(jittered(ctx.config.resync, &target.uid)))
}

/// The newest status that is known: what was written last, until the watch has brought it.
pub(super) fn known_status(pipeline: &LogPipeline, memory: &Memory) -> LogPipelineStatus {
    let version = |text: Option<&str>| text.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let watched = version(pipeline.metadata.resource_version.as_deref());
    match &memory.status {
        Some((written, status)) if *written > watched => status.clone(),
        _ => pipeline.status.clone().unwrap_or_default(),
    }
}

async fn settle_status(
    ctx: &Ctx,
    target: &Target,
    pipeline: &LogPipeline,
    memory: &mut Memory,
    findings: &[(Type, Finding)],
    facts: Facts,
) -> Result<(), Failed> {
    let old = known_status(pipeline, memory);
    let Some((new, changes)) = status::next(&old, findings, facts, Timestamp::now()) else { return Ok(()) };
    if new.backlog != old.backlog || new.lag != old.lag {
        memory.progress_written = Some(Instant::now());
    }
    write_status(ctx, target, memory, new).await.map_err(Failed::at("status"))?;
    events::publish_changes(ctx, &target.reference, &changes).await;
    Ok(())
}

/// Applied, so that two operators at once do no harm: they say the same of the same.
pub(super) async fn write_status(
    ctx: &Ctx,
    target: &Target,
    memory: &mut Memory,
    status: LogPipelineStatus,
) -> Result<(), ApiError> {
    let json = |source| ApiError::Json { what: "write the status".to_owned(), source };
    let mut value = serde_json::to_value(
        LogPipeline::new(&target.name, spillway_crds::LogPipelineSpec::default()),
    )
    .map_err(json)?;
    if let Some(object) = value.as_object_mut() {
        object.remove("spec");
        object.insert("status".to_owned(), serde_json::to_value(&status).map_err(json)?);
    }
    value["metadata"]["uid"] = target.uid.clone().into();
    let api = target.pipelines(&ctx.client);
    let parameters = PatchParams::apply(names::FIELD_MANAGER).force();
    let patch = Patch::Apply(&value);
    let written = call("write the status", api.patch_status(&target.name, &parameters, &patch)).await?;
    ctx.metrics.wrote("LogPipeline", "status");
    let version = written.metadata.resource_version.and_then(|version| version.parse().ok()).unwrap_or(0);
    memory.status = Some((version, status));
    Ok(())
}
