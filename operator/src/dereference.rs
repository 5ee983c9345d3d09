//! First step: what of the cluster decides a plan. At rest nothing is asked: the watches have told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::Ordering,
};

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use spillway_crds::{LogPipelineSpec, Secrets};

use crate::{
    ctx::Ctx,
    errors::{ApiError, call},
    inventory::{Observed, Rollout},
    kinds::{Id, Kind},
    secret_cache::{Named, Unreadable},
    target::Target,
};

/// What was found.
#[derive(Clone, Debug)]
pub(crate) struct Dereferenced {
    pub(crate) secrets: Secrets,
    /// `resourceVersion` of each.
    pub(crate) versions: BTreeMap<String, String>,
    /// Those that are there and can't be read now.
    pub(crate) unreadable: Vec<Unreadable>,
    /// Objects that carry the pipeline's label, whoever owns them.
    pub(crate) objects: BTreeMap<Id, Observed>,
    /// The cluster knows PodMonitors.
    pub(crate) pod_monitor: bool,
}

/// With Secrets that can't be read as they were last read.
pub(crate) async fn look(ctx: &Ctx, target: &Target, spec: &LogPipelineSpec) -> Dereferenced {
    let named = ctx.secrets.get_what_can_be_read(&ctx.client, &target.namespace, secret_names(spec)).await;
    Dereferenced::with(ctx, target, named)
}

/// Asks who leads when syncers are up and nobody is known to: Leases are looked at only now and then.
pub(crate) async fn look_for_leader(ctx: &Ctx, target: &Target, seen: &mut Dereferenced, syncer: &str) {
    let up = seen.rollout(syncer, &target.uid).is_some_and(|rollout| rollout.available > 0);
    if !up || seen.holder(syncer).is_some() {
        return;
    }
    let api: Api<Lease> = Api::namespaced(ctx.client.clone(), &target.namespace);
    // The next look of all says why.
    let Ok(Some(lease)) = call(format!("read Lease {syncer}"), api.get_opt(syncer)).await else { return };
    ctx.inventory.note(Kind::Lease, target.place(), lease.into());
    seen.objects = ctx.inventory.of(&target.place());
}

/// # Errors
/// When a Secret can't be read.
pub(crate) async fn dereference(
    ctx: &Ctx,
    target: &Target,
    spec: &LogPipelineSpec,
) -> Result<Dereferenced, ApiError> {
    let named = ctx.secrets.get(&ctx.client, &target.namespace, secret_names(spec)).await?;
    Ok(Dereferenced::with(ctx, target, named))
}

/// With Secrets that are gone as they were last read.
///
/// # Errors
/// When a Secret can't be read.
pub(crate) async fn last_known(
    ctx: &Ctx,
    target: &Target,
    spec: &LogPipelineSpec,
) -> Result<Dereferenced, ApiError> {
    let named = ctx.secrets.get_or_last_known(&ctx.client, &target.namespace, secret_names(spec)).await?;
    Ok(Dereferenced::with(ctx, target, named))
}

impl Dereferenced {
    /// The objects alone, which need not be asked for.
    pub(crate) fn of_objects(ctx: &Ctx, target: &Target) -> Self {
        Self::with(ctx, target, Named::default())
    }

    fn with(ctx: &Ctx, target: &Target, named: Named) -> Self {
        Self {
            secrets: named.secrets,
            versions: named.versions,
            unreadable: named.unreadable,
            objects: ctx.inventory.of(&target.place()),
            pod_monitor: ctx.pod_monitors.load(Ordering::Relaxed),
        }
    }

    /// A Deployment of the pipeline's own.
    pub(crate) fn rollout(&self, name: &str, owner: &str) -> Option<&Rollout> {
        let id = Id { kind: Kind::Deployment, name: name.to_owned() };
        let observed = self.objects.get(&id).filter(|observed| observed.owner.as_deref() == Some(owner))?;
        observed.rollout.as_ref()
    }

    /// Who holds the syncer's Lease.
    pub(crate) fn holder(&self, name: &str) -> Option<String> {
        let id = Id { kind: Kind::Lease, name: name.to_owned() };
        self.objects.get(&id).and_then(|observed| observed.holder.clone())
    }
}

/// Names of the Secrets that the operator reads for a pipeline, valid or not.
pub(crate) fn secret_names(spec: &LogPipelineSpec) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    if let Some(s3) = &spec.storage.s3 {
        names.extend(s3.credentials_secret_ref.iter().map(|secret| secret.name.clone()));
        names.extend(s3.ca_secret_ref.iter().map(|secret| secret.name.clone()));
    }
    names.extend(spec.clickhouse.credentials_secret_ref.iter().map(|secret| secret.name.clone()));
    names.extend(spec.clickhouse.ca_secret_ref.iter().map(|secret| secret.name.clone()));
    names.extend(spec.ingest.tls.iter().map(|tls| tls.secret_ref.name.clone()));
    names.extend(spec.tenants.iter().map(|tenant| tenant.api_keys_secret_ref.name.clone()));
    names.remove("");
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_secret_that_a_spec_names_is_watched() {
        let spec = serde_json::json!({
            "storage": {"s3": {"bucket": "logs", "credentialsSecretRef": {"name": "s3"}, "caSecretRef": {"name": "s3-ca"}}},
            "clickhouse": {"credentialsSecretRef": {"name": "ch"}, "caSecretRef": {"name": "ch-ca"}},
            "ingest": {"tls": {"secretRef": {"name": "tls"}}},
            "tenants": [{"name": "a", "projects": ["p"], "apiKeysSecretRef": {"name": "keys"}}],
        });
        let names = secret_names(&serde_json::from_value(spec).unwrap());
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["ch", "ch-ca", "keys", "s3", "s3-ca", "tls"]);
    }
}
