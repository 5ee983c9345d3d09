//! How records reach ingest, and what else may reach the pods.

use k8s_openapi::{
    api::{
        core::v1::{ContainerPort, Service, ServicePort, ServiceSpec},
        networking::v1::{
            NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
        },
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use spillway_crds::{ValidatedPipeline, ingest::ServiceType};

use super::{
    names::{Component, Scope},
    objects::Presence,
    settings::{HTTP_PORT, INGEST_ADMIN_PORT, SYNCER_ADMIN_PORT},
};

/// Name of the port of metrics and probes.
pub const ADMIN: &str = "admin";

/// A way in for records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receiver {
    /// Name of its port.
    pub name: &'static str,
    pub port: u16,
    /// What proxies and load balancers should speak.
    pub protocol: &'static str,
}

/// The receivers that are on. Service, containers and NetworkPolicy follow from them.
#[must_use]
pub fn receivers(pipeline: &ValidatedPipeline) -> Vec<Receiver> {
    let protocol = if pipeline.ingest.tls.is_some() { "https" } else { "http" };
    vec![Receiver { name: "http", port: HTTP_PORT, protocol }]
}

/// The ports of an ingest container.
#[must_use]
pub fn ingest_ports(pipeline: &ValidatedPipeline) -> Vec<ContainerPort> {
    let receivers =
        receivers(pipeline).into_iter().map(|receiver| container_port(receiver.name, receiver.port));
    receivers.chain([container_port(ADMIN, INGEST_ADMIN_PORT)]).collect()
}

#[must_use]
pub fn container_port(name: &str, port: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: port.into(),
        // Said although it is the default: the list is merged by port and protocol.
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

#[must_use]
pub fn service(pipeline: &ValidatedPipeline, scope: &Scope) -> Service {
    let ports = receivers(pipeline).into_iter().map(|receiver| ServicePort {
        name: Some(receiver.name.to_owned()),
        port: receiver.port.into(),
        target_port: Some(IntOrString::String(receiver.name.to_owned())),
        protocol: Some("TCP".to_owned()),
        app_protocol: Some(receiver.protocol.to_owned()),
        ..ServicePort::default()
    });
    let type_ = match pipeline.ingest.service_type {
        ServiceType::ClusterIp => "ClusterIP",
        ServiceType::NodePort => "NodePort",
        ServiceType::LoadBalancer => "LoadBalancer",
    };
    let mut metadata = scope.meta(&scope.ingest(), Component::Ingest);
    let annotations = &pipeline.ingest.service_annotations;
    metadata.annotations = (!annotations.is_empty()).then(|| annotations.clone());
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some(type_.to_owned()),
            selector: Some(scope.pod_labels(Component::Ingest)),
            ports: Some(ports.collect()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// Records from everywhere, metrics from the cluster.
#[must_use]
pub fn ingest_policy(pipeline: &ValidatedPipeline, scope: &Scope) -> Presence<NetworkPolicy> {
    let ports = receivers(pipeline).into_iter().map(|receiver| policy_port(receiver.port)).collect();
    let records = NetworkPolicyIngressRule { from: None, ports: Some(ports) };
    policy(pipeline, scope, Component::Ingest, vec![records, metrics(pipeline, INGEST_ADMIN_PORT)])
}

/// Metrics from the cluster.
#[must_use]
pub fn syncer_policy(pipeline: &ValidatedPipeline, scope: &Scope) -> Presence<NetworkPolicy> {
    policy(pipeline, scope, Component::Syncer, vec![metrics(pipeline, SYNCER_ADMIN_PORT)])
}

/// Nothing is said of what goes out: policies see the ports of pods and not those of Services and URLs, so what could be
/// derived from the spec would cut a pipeline off from a bucket or server behind a Service with another port.
fn policy(
    pipeline: &ValidatedPipeline,
    scope: &Scope,
    component: Component,
    ingress: Vec<NetworkPolicyIngressRule>,
) -> Presence<NetworkPolicy> {
    let name = scope.name(component);
    if !pipeline.network_policy.enabled {
        return Presence::Absent { name };
    }
    Presence::Present(NetworkPolicy {
        metadata: scope.meta(&name, component),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(scope.selector(component)),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(ingress),
            egress: None,
        }),
    })
}

/// Probes come from the node, which policies let through.
fn metrics(pipeline: &ValidatedPipeline, port: u16) -> NetworkPolicyIngressRule {
    let labels = &pipeline.network_policy.metrics_from;
    // No labels: every namespace, but nothing from outside of the cluster.
    let namespaces =
        LabelSelector { match_labels: (!labels.is_empty()).then(|| labels.clone()), match_expressions: None };
    let from = NetworkPolicyPeer { namespace_selector: Some(namespaces), ..NetworkPolicyPeer::default() };
    NetworkPolicyIngressRule { from: Some(vec![from]), ports: Some(vec![policy_port(port)]) }
}

/// By number: not every network plugin knows the names of ports.
fn policy_port(port: u16) -> NetworkPolicyPort {
    NetworkPolicyPort {
        port: Some(IntOrString::Int(port.into())),
        protocol: Some("TCP".to_owned()),
        end_port: None,
    }
}

/// The port of a syncer container.
#[must_use]
pub fn syncer_ports() -> Vec<ContainerPort> {
    vec![container_port(ADMIN, SYNCER_ADMIN_PORT)]
}
