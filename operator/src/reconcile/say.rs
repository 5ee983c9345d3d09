//! Fifth step: the status says how the pipeline is.

use std::time::Instant;

use k8s_openapi::jiff::Timestamp;
use kube::{
    Api,
    api::{Patch, PatchParams},
    core::{ApiResource, DynamicObject},
};
use spillway_crds::{
    LogPipeline, ValidatedPipeline,
    status::{Backlog, LogPipelineStatus},
};

use super::{Failed, unplanned::unreadable_secrets};
use crate::{
    apply,
    conditions::{self, Finding, Reason, Type},
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
    /// It is suspended, and no syncer is to run.
    pub(super) rests: bool,
}

pub(super) async fn say(
    ctx: &Ctx,
    state: &State<'_>,
    memory: &mut Memory,
    outside: &Outside,
    gate: Gate,
    applied: &apply::Outcome,
) -> Result<(), Failed> {
    let State { target, pipeline, valid, plan, seen, rests } = state;
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
        progress: match progress {
            // Nobody measures a lag, and there is none.
            _ if *rests => (memory.drained == Some(true)).then(|| (Backlog::default(), None)),
            Some(progress) => Some((progress.backlog.clone(), Some(progress.lag.clone()))),
            None => None,
        },
        progress_due: memory.progress_written.is_none_or(|at| at.elapsed() >= ctx.config.tick.mul_f64(0.8)),
    };
    let mut all = findings::all(parts, valid.suspend, memory.staged);
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
pub(super) async fn settle_status(
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
    let written = apply_status(ctx, target, serde_json::to_value(&status).map_err(json)?).await;
    let refused = written.as_ref().err().filter(|error| error.is_refused_status());
    if let Some(error) = refused.filter(|_| !memory.status_refused) {
        events::publish(ctx, &target.reference, events::Reason::StatusRefused, error.to_string()).await;
    }
    memory.status_refused = refused.is_some();
    memory.status = Some((written?, status));
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
    let written = call("write the status", api.patch_status(&target.name, &parameters, &patch)).await;
    let written = written.map_err(ApiError::of_status)?;
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
