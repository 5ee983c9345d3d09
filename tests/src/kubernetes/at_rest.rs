//! A pipeline at rest: no writes, no events but those that were expected.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use k8s_openapi::api::events::v1::Event;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Api, ResourceExt};

use super::space::Space;

/// How long nothing may be written.
const QUIET: Duration = Duration::from_secs(4);
/// How long the last changes may take to settle before that.
const SETTLE: Duration = Duration::from_secs(30);

/// Everything that the operator writes. Leases are renewed by their holders and not looked at.
const KINDS: [(&str, &str, &str); 14] = [
    ("spillway.dev", "v1alpha1", "LogPipeline"),
    ("apps", "v1", "Deployment"),
    ("apps", "v1", "ReplicaSet"),
    ("autoscaling", "v2", "HorizontalPodAutoscaler"),
    ("networking.k8s.io", "v1", "NetworkPolicy"),
    ("policy", "v1", "PodDisruptionBudget"),
    ("rbac.authorization.k8s.io", "v1", "Role"),
    ("rbac.authorization.k8s.io", "v1", "RoleBinding"),
    ("", "v1", "ConfigMap"),
    ("", "v1", "Pod"),
    ("", "v1", "Secret"),
    ("", "v1", "Service"),
    ("", "v1", "ServiceAccount"),
    ("events.k8s.io", "v1", "Event"),
];

/// What controllers, and the operator of a pipeline that is well, say in the course of things.
const USUAL: [&str; 9] = [
    "ScalingReplicaSet",
    "SuccessfulCreate",
    "SuccessfulDelete",
    "SuccessfulRescale",
    "NoPods",
    "BucketChanged",
    "SchemaChanged",
    // The API server about its own allocator, when a Service is younger than the repair loop's list.
    "ClusterIPNotAllocated",
    "Ready",
];
/// There are no metrics to scale by, and no pods at some moments.
const FROM_THE_AUTOSCALER: &str = "horizontal-pod-autoscaler";

/// Fails unless no object of the namespace changes for some seconds.
pub async fn stands_still(space: &Space) {
    let began = Instant::now();
    let mut quiet_since = Instant::now();
    let mut before = versions(space).await;
    while quiet_since.elapsed() < QUIET {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = versions(space).await;
        if now == before {
            continue;
        }
        let changed: Vec<_> = now
            .iter()
            .filter(|(name, version)| before.get(*name) != Some(version))
            .map(|(name, _)| name)
            .chain(before.keys().filter(|name| !now.contains_key(*name)))
            .collect();
        assert!(
            began.elapsed() < SETTLE,
            "{} never comes to rest, last changed: {changed:?}",
            space.namespace
        );
        quiet_since = Instant::now();
        before = now;
    }
}

/// `resourceVersion` of every object, by kind and name.
pub async fn versions(space: &Space) -> BTreeMap<String, String> {
    let mut versions = BTreeMap::new();
    for (group, version, kind) in KINDS {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        let api: Api<DynamicObject> = Api::namespaced_with(space.client.clone(), &space.namespace, &resource);
        let list = api.list_metadata(&ListParams::default()).await;
        for object in list.unwrap_or_else(|error| panic!("{kind} can't be listed: {error}")) {
            // Others' tallies: of metrics that aren't there, and of the same event once more.
            if kind == "Event" && object.name_any().contains("-ingest") {
                continue;
            }
            versions.insert(
                format!("{kind} {}", object.name_any()),
                object.resource_version().unwrap_or_default(),
            );
        }
    }
    versions
}

/// Fails on a warning of anybody, or any event of the operator, whose reason is not expected.
pub async fn no_unexpected_events(space: &Space, expected: &BTreeSet<String>) {
    let events: Api<Event> = space.api();
    let list = events.list(&ListParams::default()).await.expect("events can be listed");
    let unexpected: Vec<String> = list
        .iter()
        .filter(|event| {
            let reason = event.reason.as_deref().unwrap_or_default();
            let source = event.deprecated_source.as_ref().and_then(|source| source.component.as_deref());
            let by = event
                .reporting_controller
                .as_deref()
                .filter(|by| !by.is_empty())
                .or(source)
                .unwrap_or_default();
            !(USUAL.contains(&reason) || by == FROM_THE_AUTOSCALER || expected.contains(reason))
        })
        .map(|event| {
            format!(
                "{} {} about {}: {}",
                event.type_.as_deref().unwrap_or_default(),
                event.reason.as_deref().unwrap_or_default(),
                event.regarding.as_ref().and_then(|about| about.name.as_deref()).unwrap_or_default(),
                event.note.as_deref().unwrap_or_default()
            )
        })
        .collect();
    assert!(unexpected.is_empty(), "unexpected events in {}:\n{}", space.namespace, unexpected.join("\n"));
}
