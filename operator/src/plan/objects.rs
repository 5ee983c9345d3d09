//! The objects of a pipeline, one field each, so that applying them can take them apart in full.

use k8s_openapi::api::{
    apps::v1::Deployment,
    autoscaling::v2::HorizontalPodAutoscaler,
    coordination::v1::Lease,
    core::v1::{ConfigMap, Secret, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
    rbac::v1::{Role, RoleBinding},
};
use kube::{Resource, ResourceExt as _, discovery::ApiResource};
use serde::Serialize;

use super::{monitor::PodMonitor, replicas::Replicas};

/// The objects of a pipeline, in the order that they are applied in: what pods need comes before the pods.
#[derive(Clone, Debug)]
pub struct Objects {
    /// Absent when the user names the account that pods run under.
    pub ingest_service_account: Presence<ServiceAccount>,
    pub syncer_service_account: Presence<ServiceAccount>,
    pub syncer_role: Role,
    pub syncer_role_binding: RoleBinding,
    /// Created when it is missing and never applied again: what is in it is the syncers'.
    pub syncer_lease: Lease,
    /// Named by its content. Earlier ones stay while a ReplicaSet names them.
    pub ingest_settings: ConfigMap,
    pub syncer_settings: ConfigMap,
    /// Of `<pipeline>-tenants-<n>` those that are wanted, in the order to write them in; all others have to go.
    pub ingest_tenants: Vec<Secret>,
    pub ingest_service: Service,
    pub ingest_network_policy: Presence<NetworkPolicy>,
    pub syncer_network_policy: Presence<NetworkPolicy>,
    pub ingest_disruption_budget: Presence<PodDisruptionBudget>,
    pub syncer_disruption_budget: Presence<PodDisruptionBudget>,
    pub ingest_deployment: Scaled,
    pub syncer_deployment: Deployment,
    /// Applied after the Deployment; removed before it, so that it can't change the number that is applied.
    pub ingest_autoscaler: Presence<HorizontalPodAutoscaler>,
    /// None: the cluster doesn't know the kind.
    pub ingest_pod_monitor: Option<Presence<PodMonitor>>,
    pub syncer_pod_monitor: Option<Presence<PodMonitor>>,
}

/// An object that is wanted, or one that has to go.
#[derive(Clone, Debug, PartialEq)]
pub enum Presence<T> {
    Present(T),
    /// Deleted if it is there and the pipeline owns it.
    Absent {
        name: String,
    },
}

impl<T> Presence<T> {
    #[must_use]
    pub fn present(&self) -> Option<&T> {
        match self {
            Self::Present(object) => Some(object),
            Self::Absent { .. } => None,
        }
    }
}

/// A Deployment and who says how many pods it has.
#[derive(Clone, Debug)]
pub struct Scaled {
    /// `spec.replicas` is set only for [`Replicas::Fixed`].
    pub deployment: Deployment,
    pub replicas: Replicas,
}

/// An object as it is sent to the API server.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub resource: ApiResource,
    pub name: String,
    pub value: serde_json::Value,
}

impl Manifest {
    fn of<K: Resource<DynamicType = ()> + Serialize>(object: &K) -> Result<Self, serde_json::Error> {
        let value = serde_json::to_value(object)?;
        Ok(Self { resource: ApiResource::erase::<K>(&()), name: object.name_any(), value })
    }
}

impl Objects {
    /// Every object that is wanted, in the order they are applied in.
    ///
    /// # Errors
    /// When one has no JSON form.
    pub fn list(&self) -> Result<Vec<Manifest>, serde_json::Error> {
        // Taken apart in full, so that a new object can't be forgotten here.
        let Self {
            ingest_service_account,
            syncer_service_account,
            syncer_role,
            syncer_role_binding,
            syncer_lease,
            ingest_settings,
            syncer_settings,
            ingest_tenants,
            ingest_service,
            ingest_network_policy,
            syncer_network_policy,
            ingest_disruption_budget,
            syncer_disruption_budget,
            ingest_deployment: Scaled { deployment: ingest_deployment, replicas: _ },
            syncer_deployment,
            ingest_autoscaler,
            ingest_pod_monitor,
            syncer_pod_monitor,
        } = self;
        let mut all = Vec::new();
        for account in
            [ingest_service_account, syncer_service_account].into_iter().filter_map(Presence::present)
        {
            all.push(Manifest::of(account)?);
        }
        all.push(Manifest::of(syncer_role)?);
        all.push(Manifest::of(syncer_role_binding)?);
        all.push(Manifest::of(syncer_lease)?);
        all.push(Manifest::of(ingest_settings)?);
        all.push(Manifest::of(syncer_settings)?);
        for secret in ingest_tenants {
            all.push(Manifest::of(secret)?);
        }
        all.push(Manifest::of(ingest_service)?);
        for policy in [ingest_network_policy, syncer_network_policy].into_iter().filter_map(Presence::present)
        {
            all.push(Manifest::of(policy)?);
        }
        for budget in
            [ingest_disruption_budget, syncer_disruption_budget].into_iter().filter_map(Presence::present)
        {
            all.push(Manifest::of(budget)?);
        }
        all.push(Manifest::of(ingest_deployment)?);
        all.push(Manifest::of(syncer_deployment)?);
        if let Presence::Present(autoscaler) = ingest_autoscaler {
            all.push(Manifest::of(autoscaler)?);
        }
        let monitors = [ingest_pod_monitor, syncer_pod_monitor].into_iter().flatten();
        for monitor in monitors.filter_map(Presence::present) {
            all.push(Manifest::of(monitor)?);
        }
        Ok(all)
    }

    /// What has to go if it is there and the pipeline owns it. Old settings and Secrets of tenants are not among them:
    /// which of those are in use only the cluster knows.
    #[must_use]
    pub fn unwanted(&self) -> Vec<(ApiResource, String)> {
        fn absent<K: Resource<DynamicType = ()>>(presence: &Presence<K>) -> Option<(ApiResource, String)> {
            match presence {
                Presence::Present(_) => None,
                Presence::Absent { name } => Some((ApiResource::erase::<K>(&()), name.clone())),
            }
        }
        [
            absent(&self.ingest_service_account),
            absent(&self.syncer_service_account),
            absent(&self.ingest_network_policy),
            absent(&self.syncer_network_policy),
            absent(&self.ingest_disruption_budget),
            absent(&self.syncer_disruption_budget),
            absent(&self.ingest_autoscaler),
            self.ingest_pod_monitor.as_ref().and_then(absent),
            self.syncer_pod_monitor.as_ref().and_then(absent),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}
