//! Whether pods act by what is wanted now.

use std::collections::BTreeMap;

use k8s_openapi::api::{apps::v1::Deployment, core::v1::PodSpec};

use crate::{
    inventory::{self, Observed, Rollout},
    kinds::Id,
    plan::Plan,
};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Settled {
    /// The Deployments were seen with the planned settings and account, and are done with them.
    pub(super) now: bool,
    /// For so long that pods on their way out have ended, too.
    pub(super) old_pods_are_gone: bool,
}

/// By the Deployments as they were before this pass.
pub(super) fn settled(plan: &Plan, owner: &str, observed: &BTreeMap<Id, Observed>) -> bool {
    let mine = observed.values().filter(|observed| observed.owner.as_deref() == Some(owner));
    let rollouts: Vec<&Rollout> = mine.filter_map(|observed| observed.rollout.as_ref()).collect();
    let wanted = [&plan.objects.ingest_deployment.deployment, &plan.objects.syncer_deployment];
    rollouts.iter().all(|rollout| rollout.settled())
        && wanted.iter().all(|deployment| rollouts.iter().any(|rollout| acts_by(rollout, pods(deployment))))
}

fn pods(deployment: &Deployment) -> Option<&PodSpec> {
    deployment.spec.as_ref().and_then(|spec| spec.template.spec.as_ref())
}

fn acts_by(rollout: &Rollout, wanted: Option<&PodSpec>) -> bool {
    let account = wanted.and_then(|pods| pods.service_account_name.as_ref());
    rollout.config_maps == inventory::config_maps(wanted)
        && rollout.workload.service_account.as_ref() == account
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployment_under_another_account_is_not_done_however_settled_it_is() {
        let pods = |account: &str, settings: &str| -> PodSpec {
            let pods = serde_json::json!({
                "containers": [], "serviceAccountName": account,
                "volumes": [{"name": "settings", "configMap": {"name": settings}}],
            });
            serde_json::from_value(pods).unwrap()
        };
        let deployment = serde_json::json!({
            "metadata": {"generation": 1},
            "spec": {"replicas": 2, "selector": {}, "template": {"spec": pods("old", "settings")}},
            "status": {"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2},
        });
        let deployment: Deployment = serde_json::from_value(deployment).unwrap();
        let rollout = inventory::Seen::from(deployment).observed().rollout.unwrap();
        assert!(rollout.settled());
        assert!(acts_by(&rollout, Some(&pods("old", "settings"))));
        assert!(!acts_by(&rollout, Some(&pods("new", "settings"))));
        assert!(!acts_by(&rollout, Some(&pods("old", "others"))));
    }
}
