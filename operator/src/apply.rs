//! Fourth step: the cluster is made to be as planned. Server-side apply under one field manager, only where the
//! wish or the object changed; what belongs to somebody else is left alone.

mod binding;
mod pace;
mod prune;
mod settled;

use std::{collections::BTreeMap, time::Instant};

use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api,
    api::{DynamicObject, Patch, PatchParams},
};

use crate::{
    ctx::Ctx,
    digest,
    drift::{self, Applied, Owner, Step},
    errors::{ApiError, call},
    failpoint::failpoint,
    gate::{Decision, Gate},
    inventory::{self, Observed, Seen},
    kinds::{Id, Kind},
    memory::Memory,
    plan::{
        Manifest, Plan, Replicas, Workload,
        names::{FIELD_MANAGER, REPLICAS_MANAGER},
    },
    target::Target,
};

pub(crate) use pace::Pace;
use settled::Settled;

/// What became of the objects.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Objects of wanted names that are somebody else's, or have been an earlier pipeline's for long.
    pub(crate) not_ours: Vec<Id>,
    /// Objects of an earlier pipeline of this name: they are about to go.
    left_behind: Vec<Id>,
    pub(crate) failed: Vec<(Id, ApiError)>,
    /// All Secrets of tenants are as wanted.
    pub(crate) tenants_written: bool,
}

/// Applies the plan's objects as far as the gate lets them through, and removes those that aren't wanted any more.
pub(crate) async fn apply(
    ctx: &Ctx,
    target: &Target,
    plan: &Plan,
    gate: Gate,
    observed: &BTreeMap<Id, Observed>,
    memory: &mut Memory,
) -> Outcome {
    let mut outcome = Outcome::default();
    let wanted = match plan.objects.list() {
        Ok(manifests) => manifests,
        Err(source) => {
            let id = Id { kind: Kind::Deployment, name: target.name.clone() };
            outcome.failed.push((id, ApiError::Json { what: "write the objects".to_owned(), source }));
            return outcome;
        }
    };
    let wanted: Vec<(Id, Manifest)> = wanted
        .into_iter()
        .filter_map(|manifest| {
            let kind = Kind::named(&manifest.resource.kind)?;
            Some((Id { kind, name: manifest.name.clone() }, manifest))
        })
        .collect();
    let now = settled::settled(plan, &target.uid, observed);
    let settled = Settled { now, old_pods_are_gone: memory.pace.old_pods_are_gone(now, Instant::now()) };
    let mut tenants = pace::Tenants::default();
    // First, so that an autoscaler can't change the number that is applied.
    prune::autoscalers(ctx, target, &wanted, observed, &mut outcome).await;
    for (id, manifest) in &wanted {
        if decision(gate, plan, id) != Decision::Apply || id.kind == Kind::Secret && !tenants.go_on() {
            continue;
        }
        let done = apply_one(ctx, target, plan, id, manifest, settled, observed, memory, &mut outcome).await;
        if id.kind == Kind::Secret {
            tenants.wrote(matches!(done, Ok(true)));
        }
        // Their kind went a moment ago, which the next look for it tells. A nicety stops nothing.
        let forgotten = |error: &ApiError| id.kind == Kind::PodMonitor && error.is_not_found();
        if let Err(error) = done
            && !forgotten(&error)
        {
            // Names a Secret's content nowhere: what the API server says of a refused one is about its fields.
            outcome.failed.push((id.clone(), error));
        }
        failpoint(match id.kind {
            Kind::ConfigMap => "after-config-map",
            Kind::Deployment => "after-deployment",
            _ => "after-object",
        });
    }
    outcome.tenants_written = tenants.go_on();
    prune::others(ctx, target, &wanted, observed, settled, memory, &mut outcome).await;
    if memory.pace.left_behind_lasts(!outcome.left_behind.is_empty(), Instant::now()) {
        outcome.not_ours.append(&mut outcome.left_behind);
    }
    memory.applied.retain(|id, _| wanted.iter().any(|(wanted, _)| wanted == id));
    outcome
}

/// The gate holds workloads back, and what makes pods of them.
fn decision(gate: Gate, plan: &Plan, id: &Id) -> Decision {
    let ingest = plan.objects.ingest_deployment.deployment.metadata.name.as_deref();
    match id.kind {
        Kind::Deployment | Kind::HorizontalPodAutoscaler if ingest == Some(&id.name) => gate.ingest,
        Kind::Deployment => gate.syncer,
        _ => Decision::Apply,
    }
}

/// Whether the object is as wanted now.
#[allow(clippy::too_many_arguments, reason = "one call site; the parts are what they are")]
async fn apply_one(
    ctx: &Ctx,
    target: &Target,
    plan: &Plan,
    id: &Id,
    manifest: &Manifest,
    settled: Settled,
    observed: &BTreeMap<Id, Observed>,
    memory: &mut Memory,
    outcome: &mut Outcome,
) -> Result<bool, ApiError> {
    let widened = match id.kind {
        Kind::RoleBinding => {
            Some(binding::binding(ctx, target, plan, manifest, settled, &mut memory.pace).await?)
        }
        _ => None,
    };
    let manifest = widened.as_ref().unwrap_or(manifest);
    let api = target.objects(&ctx.client, &manifest.resource);
    let owner = Owner { uid: &target.uid, name: &target.name };
    let desired = digest::json(&manifest.value);
    let mut step = drift::step(desired, owner, memory.applied.get(id), observed.get(id));
    if step == Step::Create {
        let found = call(format!("read {id}"), api.get_metadata_opt(&id.name)).await?;
        let found = found.map(|found| Seen { metadata: found.metadata, ..Seen::default() }.observed());
        step = drift::looked(id.kind, owner, found.as_ref());
    }
    let uid = match step {
        Step::Leave => return Ok(true),
        Step::Leaving => return Ok(false),
        Step::LeftBehind => {
            outcome.left_behind.push(id.clone());
            return Ok(false);
        }
        Step::NotOurs => {
            outcome.not_ours.push(id.clone());
            return Ok(false);
        }
        Step::PlanAgain => return Err(see(ctx, target, id).await?),
        Step::Apply { uid } => Some(uid),
        Step::Create => None,
    };
    let ingest = &plan.objects.ingest_deployment;
    let is_ingest =
        id.kind == Kind::Deployment && ingest.deployment.metadata.name.as_deref() == Some(&id.name);
    if is_ingest && uid.is_some() && matches!(ingest.replicas, Replicas::HandOver(_) | Replicas::Autoscaled) {
        hand_over(ctx, target, id, ingest.replicas).await?;
        failpoint("after-hand-over");
    }
    let applied = match (send(ctx, &api, id, manifest, uid.as_deref()).await, &uid) {
        (Err(error), Some(uid)) if error.is_conflict() => {
            forget_if_gone(ctx, target, &api, id, uid).await?;
            return Err(error);
        }
        (sent, _) => sent?,
    };
    let record = Applied {
        desired,
        uid: applied.metadata.uid.clone().unwrap_or_default(),
        ours: inventory::ours(&applied.metadata),
    };
    memory.applied.insert(id.clone(), record);
    if id.kind == Kind::Lease {
        // It is polled and not watched.
        let seen = Seen { metadata: applied.metadata, ..Seen::default() };
        ctx.inventory.note(Kind::Lease, target.place(), seen);
    }
    Ok(true)
}

/// Takes in a Deployment that the watch doesn't bring, or not yet: somebody took its labels, or it has just been
/// made. The error leads to another plan at once.
async fn see(ctx: &Ctx, target: &Target, id: &Id) -> Result<ApiError, ApiError> {
    let api: Api<Deployment> = Api::namespaced(ctx.client.clone(), &target.namespace);
    if let Some(found) = call(format!("read {id}"), api.get_opt(&id.name)).await? {
        ctx.inventory.note(id.kind, target.place(), Seen::from(found));
    }
    Ok(ApiError::Unseen { what: id.to_string() })
}

/// What is known of an object by a look and not by a watch has to be unlearned by one, too.
async fn forget_if_gone(
    ctx: &Ctx,
    target: &Target,
    api: &Api<DynamicObject>,
    id: &Id,
    uid: &str,
) -> Result<(), ApiError> {
    let found = call(format!("read {id}"), api.get_metadata_opt(&id.name)).await?;
    if found.is_none_or(|found| found.metadata.uid.as_deref() != Some(uid)) {
        ctx.inventory.gone(&target.namespace, id, uid);
    }
    Ok(())
}

/// With the uid along, the server refuses if the object is another one by now.
async fn send(
    ctx: &Ctx,
    api: &Api<DynamicObject>,
    id: &Id,
    manifest: &Manifest,
    uid: Option<&str>,
) -> Result<DynamicObject, ApiError> {
    let mut value = manifest.value.clone();
    if let (Some(uid), Some(metadata)) = (uid, value.get_mut("metadata")) {
        metadata["uid"] = uid.into();
    }
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let patch = Patch::Apply(&value);
    let applied = call(format!("apply {id}"), api.patch(&id.name, &parameters, &patch)).await?;
    ctx.metrics.wrote(&manifest.resource.kind, "apply");
    tracing::info!(object = %id, "applied");
    Ok(applied)
}

/// Sees to it that somebody else owns `replicas` before it is applied without: with no owner left it would fall
/// to 1. Read anew, because between the watch and now the number may have become ours or changed.
async fn hand_over(ctx: &Ctx, target: &Target, id: &Id, replicas: Replicas) -> Result<(), ApiError> {
    let api: Api<Deployment> = Api::namespaced(ctx.client.clone(), &target.namespace);
    let Some(found) = call(format!("read {id}"), api.get_opt(&id.name)).await? else { return Ok(()) };
    let now = Workload::of(&found);
    if !now.replicas_are_ours {
        return Ok(());
    }
    let number = match replicas {
        Replicas::HandOver(number) => number.max(now.replicas),
        Replicas::Fixed(_) | Replicas::Autoscaled => now.replicas,
    };
    let handing = serde_json::to_value(Deployment {
        metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
            name: found.metadata.name.clone(),
            namespace: found.metadata.namespace.clone(),
            uid: found.metadata.uid.clone(),
            // A change in between is not undone: 409, and we look again.
            resource_version: found.metadata.resource_version.clone(),
            ..Default::default()
        },
        ..Deployment::default()
    });
    let json = |source| ApiError::Json { what: format!("hand over {id}"), source };
    let mut value = handing.map_err(json)?;
    value["spec"] = BTreeMap::from([("replicas", number)]).into_iter().collect();
    let parameters = PatchParams::apply(REPLICAS_MANAGER).force();
    call(format!("hand over {id}"), api.patch(&id.name, &parameters, &Patch::Apply(&value))).await?;
    ctx.metrics.wrote("Deployment", "hand-over");
    tracing::info!(object = %id, replicas = number, "the number of pods is the autoscaler's now");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_found_by_the_name_that_the_api_server_uses() {
        for kind in Kind::ALL {
            assert_eq!(Kind::named(&kind.resource().kind), Some(kind));
        }
    }
}
