//! `spec.ingest`: how records are received, buffered and staged.

use std::collections::BTreeMap;

use k8s_openapi::api::{autoscaling::v2::HorizontalPodAutoscalerBehavior, core::v1::ResourceRequirements};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    pods::{DisruptionSpec, SchedulingSpec},
    reference::SecretRef,
    units::{SizeText, SpanText},
};

/// How records are received, buffered and staged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.replicas) && has(self.autoscaling))")
    .message("replicas and autoscaling exclude each other: keep one"))]
pub struct IngestSpec {
    /// Pods; not together with `autoscaling`. Default: 2, unless that is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: Option<i32>,
    /// Let a HorizontalPodAutoscaler choose the number of pods. Default: `replicas`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<AutoscalingSpec>,
    /// What an answer promises unless the request asks for the other. `Durable`: the records are in the bucket.
    /// `Memory`: they are in the pod's memory, which is faster, and lost if the pod is killed. Default: `Durable`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ack: Option<Ack>,
    /// Whether streams may share staged objects. `Adaptive`: small ones do when each having its own would exceed
    /// `maxPutsPerSecond`. `PerService`: never, and over that budget they wait longer; for bucket policies per tenant.
    /// Default: `Adaptive`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objects: Option<Objects>,
    /// When a stream (one project and service) is written to the bucket: whichever comes first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flush: Option<FlushSpec>,
    /// How much may wait to be written before requests are turned away with 429 or 503.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueSpec>,
    /// PUT requests per second and pod. Default: 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3500))]
    pub max_puts_per_second: Option<u32>,
    /// Which timestamps are accepted, from the time of receipt: each day of them is a partition. A record past its
    /// tenant's retention is refused anyhow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp_window: Option<TimestampWindowSpec>,
    /// Bounds of one request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestSpec>,
    /// How long a sender may keep a connection, `1s` to `1d`, give or take a tenth; then it is told to make another,
    /// and pods that were added get their part of the requests. `0s`: as long as it likes. Default: `5m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connection_age: Option<SpanText>,
    /// How long stopping may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<DrainSpec>,
    /// Serve TLS. Default: clear text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsSpec>,
    /// The Service in front of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceSpec>,
    /// Resources of the container, in place of the default, which requests `250m` CPU and `256Mi` memory and limits
    /// neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::embedded::resources")]
    pub resources: Option<ResourceRequirements>,
    /// Which nodes the pods run on. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduling: Option<SchedulingSpec>,
    /// How many pods may be away at once when nodes are emptied. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disruption: Option<DisruptionSpec>,
}

/// Bounds and target of the HorizontalPodAutoscaler.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.min) || self.min <= self.max").message("min must not be more than max"))]
pub struct AutoscalingSpec {
    /// Pods at least. Default: 2, or `max` if that is less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub min: Option<i32>,
    /// Pods at most.
    #[schemars(range(min = 1, max = 1000))]
    pub max: i32,
    /// Percent of the CPU request that pods are held at. Default: 70.
    #[serde(default, rename = "targetCPUUtilization", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub target_cpu_utilization: Option<i32>,
    /// How fast to scale up and down. Default: that of Kubernetes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::embedded::scaling_behavior")]
    pub behavior: Option<HorizontalPodAutoscalerBehavior>,
}

/// What an answer promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = crate::units::leave_description_to_the_field)]
pub enum Ack {
    /// The records are in the bucket.
    #[default]
    Durable,
    /// The records are in the pod's memory: faster, and lost if the pod is killed.
    Memory,
}

/// Whether streams may share staged objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = crate::units::leave_description_to_the_field)]
pub enum Objects {
    /// Small streams share objects when each having its own would exceed `maxPutsPerSecond`.
    #[default]
    Adaptive,
    /// Never; over the budget the flush age stretches. For bucket policies per tenant.
    PerService,
}

/// When a stream (one project and service) is written to the bucket: whichever comes first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FlushSpec {
    /// Bytes of uncompressed rows, `1Ki` to `256Mi`; not more than `queue.maxBytes`. Default: `8Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<SizeText>,
    /// Records. Default: 100000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_295_u64))]
    pub max_records: Option<u64>,
    /// Age of the oldest record, `1ms` to `10m`. Default: `500ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<SpanText>,
}

/// How much may wait in a pod before requests are turned away with 429 or 503.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueueSpec {
    /// Bytes of uncompressed rows, `1Mi` to `64Gi`. Default: `128Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<SizeText>,
    /// Requests. Default: 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_295_u64))]
    pub max_requests: Option<u32>,
    /// Percent of both that one tenant may take. Default: 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub tenant_share_percent: Option<u8>,
    /// Streams (projects times services) that one tenant may have open. Default: 2000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_295_u64))]
    pub max_streams_per_tenant: Option<u32>,
}

/// Which timestamps are accepted, from the time of receipt. A record past its tenant's retention is refused anyhow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TimestampWindowSpec {
    /// How old a record may be, `1m` to `3650d`. Default: `30d`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub past: Option<SpanText>,
    /// How far ahead of now it may be, `0s` to `31d`. Default: `1h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub future: Option<SpanText>,
}

/// Bounds of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RequestSpec {
    /// Bytes of the body as sent, `1Ki` to `1Gi`. Default: `16Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_body_bytes: Option<SizeText>,
    /// Bytes of the body once decompressed, `1Ki` to `4Gi`. Default: `64Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_expanded_bytes: Option<SizeText>,
    /// Records. Default: 100000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_records: Option<u64>,
    /// Bytes of one record, `64` to `256Mi`; a tenant may have less. Default: `1Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_record_bytes: Option<SizeText>,
}

/// How long stopping may take.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DrainSpec {
    /// Wait between not being ready and refusing connections, so that load balancers notice, `0s` to `10m`.
    /// Default: `5s`, and none under `spillway up`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness_delay: Option<SpanText>,
    /// From then until requests in flight must be answered, `100ms` to `10m`. Default: `15s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_timeout: Option<SpanText>,
    /// From then until everything buffered must be in the bucket, `100ms` to `1h`; what is not is lost, and counted.
    /// Default: `30s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flush_timeout: Option<SpanText>,
}

/// Serve TLS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TlsSpec {
    /// Secret of type `kubernetes.io/tls`.
    pub secret_ref: SecretRef,
}

/// The Service in front of the ingest pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSpec {
    /// `ClusterIP`: inside the cluster only. `NodePort`: on a port of every node. `LoadBalancer`: behind the cloud's
    /// load balancer. Default: `ClusterIP`.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub type_: Option<ServiceType>,
    /// Annotations, for instance for a cloud's load balancer. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::embedded::annotations")]
    pub annotations: BTreeMap<String, String>,
}

/// Kind of Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = crate::units::leave_description_to_the_field)]
pub enum ServiceType {
    /// Inside the cluster only.
    #[default]
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    /// On a port of every node.
    NodePort,
    /// Behind the cloud's load balancer.
    LoadBalancer,
}
