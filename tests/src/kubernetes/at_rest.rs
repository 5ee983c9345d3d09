//! A pipeline at rest: no writes, no events but those that were expected.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use k8s_openapi::api::events::v1::Event;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use super::owned::{KINDS, Kind, POD_MONITOR};
use super::space::Space;

/// How long nothing may be written.
const QUIET: Duration = Duration::from_secs(4);
/// How long the last changes may take to settle before that.
const SETTLE: Duration = Duration::from_secs(30);

/// What is written besides the objects that pipelines own.
const OTHERS: [Kind; 5] = [
    Kind { group: "spillway.dev", version: "v1alpha1", kind: "LogPipeline", names: &[] },
    Kind { group: "apps", version: "v1", kind: "ReplicaSet", names: &[] },
    Kind { group: "", version: "v1", kind: "Pod", names: &[] },
    Kind { group: "events.k8s.io", version: "v1", kind: "Event", names: &[] },
    POD_MONITOR,
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
        assert!(
            began.elapsed() < SETTLE,
            "{} never comes to rest, last changed: {:?}",
            space.namespace,
            changed(&before, &now)
        );
        quiet_since = Instant::now();
        before = now;
    }
}

/// What was written, made or deleted between two looks.
pub fn changed(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<String> {
    let written = after.iter().filter(|(name, version)| before.get(*name) != Some(version));
    let gone = before.keys().filter(|name| !after.contains_key(*name));
    written.map(|(name, _)| name).chain(gone).cloned().collect()
}

/// `resourceVersion` of every object, by kind and name.
pub async fn versions(space: &Space) -> BTreeMap<String, String> {
    let mut versions = BTreeMap::new();
    // Leases are renewed by their holders.
    for kind in KINDS.iter().chain(&OTHERS).filter(|kind| kind.kind != "Lease") {
        let list = match kind.api(space).list_metadata(&ListParams::default()).await {
            Ok(list) => list,
            // Without the Prometheus operator there is no such kind.
            Err(kube::Error::Api(status)) if status.code == 404 && kind.kind == POD_MONITOR.kind => continue,
            Err(error) => panic!("{} can't be listed: {error}", kind.kind),
        };
        for object in list {
            // Others' tallies: of metrics that aren't there, and of the same event once more.
            if kind.kind == "Event" && object.name_any().contains("-ingest") {
                continue;
            }
            versions.insert(
                format!("{} {}", kind.kind, object.name_any()),
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
