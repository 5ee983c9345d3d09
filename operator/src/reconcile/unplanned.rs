//! What is said of a pipeline that was not planned: it is paused, invalid, unreadable, or on its way out.

use k8s_openapi::jiff::Timestamp;
use kube::{
    Api,
    api::{Patch, PatchParams},
    core::{ApiResource, DynamicObject},
    runtime::controller::Action,
};
use spillway_crds::LogPipeline;

use super::{
    Failed, Object,
    say::{known_status, settle_status},
};
use crate::{
    backoff::jittered,
    conditions::{Finding, Reason, Truth, Type},
    ctx::Ctx,
    dereference::Dereferenced,
    errors::call,
    events, findings,
    gate::Decision,
    memory::Memory,
    plan::names,
    status::{self, Facts, Ingest},
    target::Target,
};

pub(super) fn unreadable_secrets(seen: &Dereferenced, so: &str) -> Finding {
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
    let all = findings::all(parts, false, None);
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
    let all = findings::all(parts, false, None);
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
