//! The Prometheus operator's PodMonitor, as far as it is used here. Metrics are asked of each pod, without a Service.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use serde::{Deserialize, Serialize};
use spillway_crds::{ValidatedPipeline, monitoring::PodMonitorMode};

use super::{
    names::{Component, Scope},
    network::ADMIN,
    objects::Presence,
};

/// Which pods are asked for metrics.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "monitoring.coreos.com",
    version = "v1",
    kind = "PodMonitor",
    namespaced,
    schema = "disabled",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct PodMonitorSpec {
    pub selector: LabelSelector,
    pub pod_metrics_endpoints: Vec<PodMetricsEndpoint>,
}

/// Where a pod's metrics are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PodMetricsEndpoint {
    /// Name of the port.
    pub port: String,
    pub path: String,
    /// Time between two scrapes; none: that of the Prometheus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
}

#[must_use]
pub fn pod_monitor(
    pipeline: &ValidatedPipeline,
    scope: &Scope,
    component: Component,
) -> Presence<PodMonitor> {
    let name = scope.name(component);
    let monitoring = &pipeline.monitoring;
    if monitoring.pod_monitor == PodMonitorMode::Never {
        return Presence::Absent { name };
    }
    let mut metadata = scope.meta(&name, component);
    let ours = metadata.labels.take().unwrap_or_default();
    metadata.labels = Some(monitoring.labels.clone().into_iter().chain(ours).collect());
    Presence::Present(PodMonitor {
        metadata,
        spec: PodMonitorSpec {
            selector: scope.selector(component),
            pod_metrics_endpoints: vec![PodMetricsEndpoint {
                port: ADMIN.to_owned(),
                path: "/metrics".to_owned(),
                interval: monitoring.interval.map(|interval| interval.to_string()),
            }],
        },
    })
}
