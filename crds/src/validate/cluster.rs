//! What only a cluster makes use of, checked: where pods run, how they are watched, who may reach them.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{api::core::v1::Toleration, apimachinery::pkg::util::intstr::IntOrString};
use spillway_model::settings::Span;

use super::{Problem, read::Reader};
use crate::{
    monitoring::{MonitoringSpec, NamespaceSelector, NetworkPolicySpec, PodMonitorMode},
    pods::{DisruptionSpec, SchedulingSpec},
    reference::SecretRef,
};

/// Labels of nodes that pods are spread over unless the user names others. They are in pod templates: other ones
/// would restart every pipeline.
const TOPOLOGY_KEYS: [&str; 2] = ["topology.kubernetes.io/zone", "kubernetes.io/hostname"];

/// Which nodes pods run on.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Scheduling {
    pub node_selector: BTreeMap<String, String>,
    pub tolerations: Vec<Toleration>,
    pub priority_class_name: Option<String>,
    /// Labels of nodes whose values the pods are spread over; none: they are not spread.
    pub topology_keys: Vec<String>,
    /// Whether the user said anything of it.
    pub said: bool,
}

/// How metrics are collected.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Monitoring {
    pub pod_monitor: PodMonitorMode,
    /// Labels of the PodMonitors.
    pub labels: BTreeMap<String, String>,
    /// `None`: that of the Prometheus.
    pub interval: Option<Span>,
    /// Whether the user said anything of it.
    pub said: bool,
}

/// Who may reach the pods.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NetworkPolicy {
    pub enabled: bool,
    /// Labels of the namespaces whose pods may read metrics; none: every namespace.
    pub metrics_from: BTreeMap<String, String>,
    /// Whether the user said anything of it.
    pub said: bool,
}

pub(super) fn check_scheduling(reader: &mut Reader, path: &str, spec: Option<&SchedulingSpec>) -> Scheduling {
    let SchedulingSpec { node_selector, tolerations, priority_class_name, topology_keys } =
        spec.cloned().unwrap_or_default();
    for (at, key) in topology_keys.iter().flatten().enumerate() {
        if key.is_empty() {
            let remedy = "name a label of nodes, such as topology.kubernetes.io/zone";
            reader.refuse(format!("{path}.topologyKeys[{at}]"), Problem::Missing { remedy });
        }
    }
    Scheduling {
        node_selector,
        tolerations,
        priority_class_name,
        topology_keys: topology_keys.unwrap_or_else(|| TOPOLOGY_KEYS.map(str::to_owned).to_vec()),
        said: spec.is_some(),
    }
}

/// Pods that may be away at once.
pub(super) fn check_disruption(reader: &mut Reader, spec: Option<&DisruptionSpec>) -> IntOrString {
    let path = "spec.ingest.disruption.maxUnavailable";
    let Some(DisruptionSpec { max_unavailable: Some(most) }) = spec else { return IntOrString::Int(1) };
    match most {
        IntOrString::Int(pods) => reader.range(path, u64::try_from(*pods).unwrap_or(0), 1, 1000),
        IntOrString::String(text) => {
            let percent = text.strip_suffix('%').and_then(|number| number.parse::<u8>().ok());
            if !percent.is_some_and(|percent| (1..=100).contains(&percent)) {
                let (why, remedy) = ("is no share of the pods", "write a number, or percent such as 25%");
                reader.refuse(path, Problem::Malformed { text: text.clone(), why, remedy });
            }
        }
    }
    most.clone()
}

pub(super) fn check_monitoring(reader: &mut Reader, spec: Option<&MonitoringSpec>) -> Monitoring {
    let MonitoringSpec { pod_monitor, labels, interval } = spec.cloned().unwrap_or_default();
    let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
    Monitoring {
        pod_monitor: pod_monitor.unwrap_or_default(),
        labels,
        interval: reader.span("spec.monitoring.interval", interval.as_ref(), second, hour),
        said: spec.is_some(),
    }
}

pub(super) fn check_network_policy(spec: Option<&NetworkPolicySpec>) -> NetworkPolicy {
    let NetworkPolicySpec { enabled, metrics_from } = spec.cloned().unwrap_or_default();
    let NamespaceSelector { match_labels } = metrics_from.unwrap_or_default();
    NetworkPolicy { enabled: enabled.unwrap_or(true), metrics_from: match_labels, said: spec.is_some() }
}

/// Names of the Secrets that the image is pulled with.
pub(super) fn check_pull_secrets(reader: &mut Reader, specs: &[SecretRef]) -> Vec<String> {
    let names = specs.iter().enumerate().filter_map(|(at, SecretRef { name })| {
        reader.object_name(&format!("spec.imagePullSecrets[{at}].name"), Some(name))
    });
    names.collect()
}
