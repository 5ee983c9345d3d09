//! Fourth step: the cluster is made to be as planned. Server-side apply under one field manager, only where the
//! wish or the object changed; what belongs to somebody else is left alone.

mod prune;

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api,
    api::{DynamicObject, Patch, PatchParams},
};

use crate::{
    ctx::Ctx,
    digest,
    drift::{self, Applied},
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

/// What became of the objects.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Objects of wanted names that are somebody else's.
    pub(crate) not_ours: Vec<Id>,
    pub(crate) failed: Vec<(Id, ApiError)>,
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
    // First, so that an autoscaler can't change the number that is applied.
    prune::autoscalers(ctx, target, &wanted, observed, &mut outcome).await;
    for (id, manifest) in &wanted {
        if decision(gate, plan, id) != Decision::Apply {
            continue;
        }
        let step = drift::step(
            digest::json(&manifest.value),
            &target.uid,
            memory.applied.get(id),
            observed.get(id),
        );
        if let Err(error) = apply_one(ctx, target, plan, id, manifest, step, memory, &mut outcome).await {
            // Names a Secret's content nowhere: what the API server says of a refused one is about its fields.
            outcome.failed.push((id.clone(), error));
        }
        failpoint(match id.kind {
            Kind::ConfigMap => "after-config-map",
            Kind::Deployment => "after-deployment",
            _ => "after-object",
        });
    }
    prune::others(ctx, target, plan, &wanted, observed, memory, &mut outcome).await;
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

#[allow(clippy::too_many_arguments, reason = "one call site; the parts are what they are")]
async fn apply_one(
    ctx: &Ctx,
    target: &Target,
    plan: &Plan,
    id: &Id,
    manifest: &Manifest,
    step: drift::Step,
    memory: &mut Memory,
    outcome: &mut Outcome,
) -> Result<(), ApiError> {
    let api = target.objects(&ctx.client, &manifest.resource);
    let uid = match step {
        drift::Step::Leave | drift::Step::Leaving => return Ok(()),
        drift::Step::NotOurs => {
            outcome.not_ours.push(id.clone());
            return Ok(());
        }
        drift::Step::Apply { uid } => Some(uid),
        drift::Step::Create => match call(format!("read {id}"), api.get_metadata_opt(&id.name)).await? {
            None => None,
            Some(found) if inventory::controller(&found.metadata).as_deref() == Some(&target.uid) => {
                found.metadata.uid
            }
            Some(_) => {
                outcome.not_ours.push(id.clone());
                return Ok(());
            }
        },
    };
    let ingest = &plan.objects.ingest_deployment;
    let is_ingest =
        id.kind == Kind::Deployment && ingest.deployment.metadata.name.as_deref() == Some(&id.name);
    if is_ingest && uid.is_some() && matches!(ingest.replicas, Replicas::HandOver(_) | Replicas::Autoscaled) {
        hand_over(ctx, target, id, ingest.replicas).await?;
        failpoint("after-hand-over");
    }
    let applied = send(ctx, &api, id, manifest, uid.as_deref()).await?;
    let record = Applied {
        desired: digest::json(&manifest.value),
        uid: applied.metadata.uid.clone().unwrap_or_default(),
        ours: inventory::ours(&applied.metadata),
    };
    memory.applied.insert(id.clone(), record);
    if id.kind == Kind::Lease {
        // It is polled and not watched.
        ctx.inventory.note(Kind::Lease, Seen { metadata: applied.metadata, ..Seen::default() });
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
