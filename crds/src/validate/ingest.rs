//! `spec.ingest`, checked.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    api::{autoscaling::v2::HorizontalPodAutoscalerBehavior, core::v1::ResourceRequirements},
    apimachinery::pkg::util::intstr::IntOrString,
};
use spillway_model::settings::{ByteSize, FlushSettings, QueueSettings, Span};

use super::{Problem, Scheduling, cluster, read::Reader};
use crate::ingest::{Ack, AutoscalingSpec, IngestSpec, Objects, ServiceSpec, ServiceType, TlsSpec};

/// How records are received, buffered and staged. `None`: the settings' default.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Ingest {
    pub scale: Scale,
    pub ack: Option<Ack>,
    pub objects: Option<Objects>,
    /// Bytes of uncompressed rows.
    pub flush_max_bytes: Option<ByteSize>,
    pub flush_max_records: Option<u64>,
    pub flush_max_age: Option<Span>,
    pub queue_max_bytes: Option<ByteSize>,
    pub queue_max_requests: Option<u32>,
    pub tenant_share_percent: Option<u8>,
    pub max_streams_per_tenant: Option<u32>,
    pub max_puts_per_second: Option<u32>,
    pub window_past: Option<Span>,
    pub window_future: Option<Span>,
    pub request_max_body_bytes: Option<ByteSize>,
    pub request_max_expanded_bytes: Option<ByteSize>,
    pub request_max_records: Option<u64>,
    pub request_max_record_bytes: Option<ByteSize>,
    /// 0: connections may become as old as they like.
    pub max_connection_age: Option<Span>,
    pub drain_readiness_delay: Option<Span>,
    pub drain_request_timeout: Option<Span>,
    pub drain_flush_timeout: Option<Span>,
    /// Name of the Secret with certificate and key.
    pub tls: Option<String>,
    pub service_type: ServiceType,
    pub service_annotations: BTreeMap<String, String>,
    pub resources: Option<ResourceRequirements>,
    pub scheduling: Scheduling,
    /// Pods, or percent of them, that may be away at once when nodes are emptied.
    pub max_unavailable: IntOrString,
}

/// Who chooses the number of pods.
#[derive(Clone, Debug, PartialEq)]
pub enum Scale {
    /// The user.
    Fixed(i32),
    /// A HorizontalPodAutoscaler.
    Auto {
        min: i32,
        max: i32,
        target_cpu_utilization: i32,
        behavior: Option<HorizontalPodAutoscalerBehavior>,
    },
}

pub(super) fn check(reader: &mut Reader, spec: &IngestSpec) -> Ingest {
    let IngestSpec {
        replicas,
        autoscaling,
        ack,
        objects,
        flush,
        queue,
        max_puts_per_second,
        timestamp_window,
        request,
        max_connection_age,
        drain,
        tls,
        service,
        resources,
        scheduling,
        disruption,
    } = spec;
    let flush = flush.clone().unwrap_or_default();
    let queue = queue.clone().unwrap_or_default();
    let window = timestamp_window.clone().unwrap_or_default();
    let request = request.clone().unwrap_or_default();
    let drain = drain.clone().unwrap_or_default();
    let ServiceSpec { type_, annotations } = service.clone().unwrap_or_default();
    let secret = tls.as_ref().map(|TlsSpec { secret_ref }| secret_ref.name.as_str());
    reader.object_name("spec.ingest.tls.secretRef.name", secret);
    for (path, value, most) in [
        ("spec.ingest.maxPutsPerSecond", max_puts_per_second.map(u64::from), 3500),
        ("spec.ingest.flush.maxRecords", flush.max_records, u64::from(u32::MAX)),
        ("spec.ingest.request.maxRecords", request.max_records, 10_000_000),
        ("spec.ingest.queue.maxRequests", queue.max_requests.map(u64::from), u64::from(u32::MAX)),
        ("spec.ingest.queue.tenantSharePercent", queue.tenant_share_percent.map(u64::from), 100),
        (
            "spec.ingest.queue.maxStreamsPerTenant",
            queue.max_streams_per_tenant.map(u64::from),
            u64::from(u32::MAX),
        ),
    ] {
        if let Some(value) = value {
            reader.range(path, value, 1, most);
        }
    }
    const DAY: Duration = Duration::from_secs(86_400);
    let (ms, minutes) = (Duration::from_millis, |n: u64| Duration::from_secs(60 * n));
    let flush_max_bytes =
        reader.size("spec.ingest.flush.maxBytes", flush.max_bytes.as_ref(), 1 << 10, 256 << 20);
    let queue_max_bytes =
        reader.size("spec.ingest.queue.maxBytes", queue.max_bytes.as_ref(), 1 << 20, 64 << 30);
    // The process would refuse to start: a stream could never become full.
    let (most_of_a_stream, most) = (
        flush_max_bytes.unwrap_or(FlushSettings::default().max_bytes),
        queue_max_bytes.unwrap_or(QueueSettings::default().max_bytes),
    );
    if most_of_a_stream > most {
        reader.refuse(
            "spec.ingest.flush.maxBytes",
            Problem::MoreThan {
                value: most_of_a_stream.to_string(),
                other: "spec.ingest.queue.maxBytes",
                most: most.to_string(),
            },
        );
    }
    Ingest {
        scale: check_scale(reader, *replicas, autoscaling.as_ref()),
        ack: *ack,
        objects: *objects,
        flush_max_bytes,
        flush_max_records: flush.max_records,
        flush_max_age: reader.span("spec.ingest.flush.maxAge", flush.max_age.as_ref(), ms(1), minutes(10)),
        queue_max_bytes,
        queue_max_requests: queue.max_requests,
        tenant_share_percent: queue.tenant_share_percent,
        max_streams_per_tenant: queue.max_streams_per_tenant,
        max_puts_per_second: *max_puts_per_second,
        window_past: reader.span(
            "spec.ingest.timestampWindow.past",
            window.past.as_ref(),
            minutes(1),
            3650 * DAY,
        ),
        window_future: reader.span(
            "spec.ingest.timestampWindow.future",
            window.future.as_ref(),
            ms(0),
            31 * DAY,
        ),
        request_max_body_bytes: reader.size(
            "spec.ingest.request.maxBodyBytes",
            request.max_body_bytes.as_ref(),
            1 << 10,
            1 << 30,
        ),
        request_max_expanded_bytes: reader.size(
            "spec.ingest.request.maxExpandedBytes",
            request.max_expanded_bytes.as_ref(),
            1 << 10,
            4 << 30,
        ),
        request_max_records: request.max_records,
        request_max_record_bytes: reader.size(
            "spec.ingest.request.maxRecordBytes",
            request.max_record_bytes.as_ref(),
            64,
            256 << 20,
        ),
        max_connection_age: reader.span_or_off(
            "spec.ingest.maxConnectionAge",
            max_connection_age.as_ref(),
            ms(1000),
            DAY,
        ),
        drain_readiness_delay: reader.span(
            "spec.ingest.drain.readinessDelay",
            drain.readiness_delay.as_ref(),
            ms(0),
            minutes(10),
        ),
        drain_request_timeout: reader.span(
            "spec.ingest.drain.requestTimeout",
            drain.request_timeout.as_ref(),
            ms(100),
            minutes(10),
        ),
        drain_flush_timeout: reader.span(
            "spec.ingest.drain.flushTimeout",
            drain.flush_timeout.as_ref(),
            ms(100),
            minutes(60),
        ),
        tls: tls.as_ref().map(|tls| tls.secret_ref.name.clone()),
        service_type: type_.unwrap_or_default(),
        service_annotations: annotations,
        resources: resources.clone(),
        scheduling: cluster::check_scheduling(reader, "spec.ingest.scheduling", scheduling.as_ref()),
        max_unavailable: cluster::check_disruption(reader, disruption.as_ref()),
    }
}

fn check_scale(reader: &mut Reader, replicas: Option<i32>, autoscaling: Option<&AutoscalingSpec>) -> Scale {
    let Some(AutoscalingSpec { min, max, target_cpu_utilization, behavior }) = autoscaling else {
        let replicas = replicas.unwrap_or(2);
        reader.range("spec.ingest.replicas", u64::try_from(replicas).unwrap_or(u64::MAX), 0, 1000);
        return Scale::Fixed(replicas);
    };
    if replicas.is_some() {
        reader.refuse("spec.ingest.replicas", Problem::Exclusive { other: "spec.ingest.autoscaling" });
    }
    let (min, max, target) = (min.unwrap_or(2).min(*max), *max, target_cpu_utilization.unwrap_or(70));
    for (path, value, most) in [
        ("spec.ingest.autoscaling.max", max, 1000),
        ("spec.ingest.autoscaling.min", autoscaling.and_then(|a| a.min).unwrap_or(min), max),
        ("spec.ingest.autoscaling.targetCPUUtilization", target, 100),
    ] {
        let (value, most) = (u64::try_from(value).unwrap_or(0), u64::try_from(most).unwrap_or(0));
        reader.range(path, value, 1, most);
    }
    Scale::Auto { min, max, target_cpu_utilization: target, behavior: behavior.clone() }
}
