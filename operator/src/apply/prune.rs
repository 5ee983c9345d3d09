//! Removing what isn't wanted any more: objects that carry the pipeline's label *and* name it as their controller.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::{
    Api,
    api::{DeleteParams, ListParams, Preconditions},
};

use super::{Outcome, settled::Settled};
use crate::{
    backoff::jittered,
    ctx::Ctx,
    errors::{ApiError, call},
    failpoint::failpoint,
    inventory::{self, Observed},
    kinds::{Id, Kind},
    memory::Memory,
    plan::{Manifest, names::PIPELINE},
    target::Target,
};

/// A Deployment that has just been applied may not have its ReplicaSet yet.
const SETTLE: Duration = Duration::from_secs(30);

/// When an object that isn't wanted may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Now,
    /// What was in it is in others, and pods have those.
    Brought,
    /// Pods of an older template act by it, those that are ending too.
    Ended,
    /// No ReplicaSet names it any more: a rollback finds its settings.
    Unnamed,
    Never,
}

fn when(kind: Kind) -> When {
    match kind {
        Kind::Secret => When::Brought,
        Kind::Service
        | Kind::NetworkPolicy
        | Kind::PodDisruptionBudget
        | Kind::HorizontalPodAutoscaler
        | Kind::PodMonitor => When::Now,
        Kind::ServiceAccount | Kind::Role | Kind::RoleBinding => When::Ended,
        Kind::ConfigMap => When::Unnamed,
        // Their names never change; a pipeline always has them.
        Kind::Deployment | Kind::Lease => When::Never,
    }
}

/// What may go by now.
#[derive(Clone, Copy, Debug, Default)]
struct Free<'a> {
    tenants: bool,
    old_pods_are_gone: bool,
    /// ConfigMaps that are still named.
    named: Option<&'a BTreeSet<String>>,
}

/// The objects to delete: ours by label and by owner, not wanted, and not needed by pods.
fn surplus<'a>(
    owner: &str,
    wanted: &BTreeSet<&Id>,
    observed: &'a BTreeMap<Id, Observed>,
    free: Free<'_>,
) -> Vec<(&'a Id, &'a str)> {
    let goes = |id: &Id| match when(id.kind) {
        When::Now => true,
        When::Brought => free.tenants,
        When::Ended => free.old_pods_are_gone,
        When::Unnamed => free.named.is_some_and(|named| !named.contains(&id.name)),
        When::Never => false,
    };
    let ours = observed.iter().filter(|(id, observed)| {
        observed.owner.as_deref() == Some(owner) && !observed.leaving && !wanted.contains(id)
    });
    ours.filter(|(id, _)| goes(id)).map(|(id, observed)| (id, observed.uid.as_str())).collect()
}

/// Autoscalers that aren't wanted any more.
pub(super) async fn autoscalers(
    ctx: &Ctx,
    target: &Target,
    wanted: &[(Id, Manifest)],
    observed: &BTreeMap<Id, Observed>,
    outcome: &mut Outcome,
) {
    let wanted: BTreeSet<&Id> = wanted.iter().map(|(id, _)| id).collect();
    let all = surplus(&target.uid, &wanted, observed, Free::default());
    delete(ctx, target, all.into_iter().filter(|(id, _)| id.kind == Kind::HorizontalPodAutoscaler), outcome)
        .await;
}

/// Everything else.
pub(super) async fn others(
    ctx: &Ctx,
    target: &Target,
    wanted: &[(Id, Manifest)],
    observed: &BTreeMap<Id, Observed>,
    settled: Settled,
    memory: &mut Memory,
    outcome: &mut Outcome,
) {
    let wanted: BTreeSet<&Id> = wanted.iter().map(|(id, _)| id).collect();
    let old_settings = observed.keys().any(|id| id.kind == Kind::ConfigMap && !wanted.contains(id));
    let pause = jittered(ctx.config.resync, &target.uid);
    let due = memory.swept.is_none_or(|at| at.elapsed() >= pause);
    let mut named = None;
    if old_settings && settled.now && due {
        match named_settings(ctx, target).await {
            Ok(mut names) => {
                let rollouts = observed.values().filter_map(|observed| observed.rollout.as_ref());
                names.extend(rollouts.flat_map(|rollout| rollout.config_maps.clone()));
                named = Some(names);
                memory.swept = Some(Instant::now());
            }
            Err(error) => {
                let id = Id { kind: Kind::ConfigMap, name: target.name.clone() };
                outcome.failed.push((id, error));
            }
        }
    } else if !settled.now {
        // Look soon after the rollout.
        memory.swept = Some(Instant::now() - pause.saturating_sub(SETTLE).min(pause));
    }
    let tenants = wanted.iter().filter(|id| id.kind == Kind::Secret).map(|id| id.name.clone()).collect();
    let free = Free {
        tenants: memory.pace.surplus_tenants_go(outcome.tenants_written, tenants, Instant::now()),
        old_pods_are_gone: settled.old_pods_are_gone,
        named: named.as_ref(),
    };
    let all = surplus(&target.uid, &wanted, observed, free);
    delete(ctx, target, all.into_iter(), outcome).await;
}

/// ConfigMaps that any ReplicaSet of the pipeline names.
async fn named_settings(ctx: &Ctx, target: &Target) -> Result<BTreeSet<String>, ApiError> {
    let api: Api<ReplicaSet> = Api::namespaced(ctx.client.clone(), &target.namespace);
    let parameters = ListParams::default().labels(&format!("{PIPELINE}={}", target.name));
    let sets = call("list ReplicaSets", api.list(&parameters)).await?;
    let pods = sets.items.iter().filter_map(|set| set.spec.as_ref()?.template.as_ref()?.spec.as_ref());
    Ok(pods.flat_map(|pods| inventory::config_maps(Some(pods))).collect())
}

async fn delete<'a>(
    ctx: &Ctx,
    target: &Target,
    objects: impl Iterator<Item = (&'a Id, &'a str)>,
    outcome: &mut Outcome,
) {
    for (id, uid) in objects {
        let resource = id.kind.resource();
        let parameters = DeleteParams {
            preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
            ..DeleteParams::background()
        };
        let api = target.objects(&ctx.client, &resource);
        match call(format!("delete {id}"), api.delete(&id.name, &parameters)).await {
            Ok(_) => {
                ctx.metrics.wrote(&resource.kind, "delete");
                tracing::info!(object = %id, "removed, it is not wanted any more");
            }
            // Gone already, or another object by now.
            Err(error) if error.is_not_found() || error.is_conflict() => {}
            Err(error) => outcome.failed.push((id.clone(), error)),
        }
        failpoint("after-prune");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(kind: Kind, name: &str) -> Id {
        Id { kind, name: name.to_owned() }
    }

    fn mine() -> Observed {
        Observed { owner: Some("me".into()), uid: "u".into(), ..Observed::default() }
    }

    #[test]
    fn what_is_ours_and_not_wanted_goes_when_no_pod_needs_it() {
        let wanted = [id(Kind::Service, "logs-ingest"), id(Kind::ConfigMap, "logs-ingest-new")];
        let wanted: BTreeSet<&Id> = wanted.iter().collect();
        let observed = BTreeMap::from([
            (id(Kind::Service, "logs-ingest"), mine()),
            (id(Kind::HorizontalPodAutoscaler, "logs-ingest"), mine()),
            (id(Kind::PodDisruptionBudget, "foreign"), Observed { owner: Some("you".into()), ..mine() }),
            (id(Kind::PodDisruptionBudget, "orphan"), Observed { owner: None, ..mine() }),
            (id(Kind::PodDisruptionBudget, "going"), Observed { leaving: true, ..mine() }),
            (id(Kind::ServiceAccount, "logs-ingest"), mine()),
            (id(Kind::Secret, "logs-tenants-1"), mine()),
            (id(Kind::ConfigMap, "logs-ingest-old"), mine()),
            (id(Kind::ConfigMap, "logs-ingest-rollback"), mine()),
            (id(Kind::Deployment, "logs-ingest"), mine()),
            (id(Kind::Lease, "logs-syncer"), mine()),
        ]);
        let named = BTreeSet::from(["logs-ingest-rollback".to_owned()]);
        let names = |free: Free<'_>| -> Vec<String> {
            let all = surplus("me", &wanted, &observed, free);
            all.into_iter().map(|(id, _)| id.to_string()).collect()
        };
        assert_eq!(names(Free::default()), ["HorizontalPodAutoscaler logs-ingest"]);
        assert_eq!(
            names(Free { tenants: true, ..Free::default() }),
            ["Secret logs-tenants-1", "HorizontalPodAutoscaler logs-ingest"]
        );
        assert_eq!(
            names(Free { old_pods_are_gone: true, named: Some(&named), tenants: false }),
            [
                "ServiceAccount logs-ingest",
                "ConfigMap logs-ingest-old",
                "HorizontalPodAutoscaler logs-ingest"
            ]
        );
    }
}
