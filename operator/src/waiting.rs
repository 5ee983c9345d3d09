//! Why a pod that has a node has no containers yet. Kubelet tells it in events, which the operator may not read; what
//! a pod waits for stands in its spec.

use std::time::Duration;

use k8s_openapi::{
    api::core::v1::{Pod, PodSpec, PodStatus, Volume},
    jiff::Timestamp,
};

/// Sooner there is nothing to say: volumes, network and image take their time.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a pod's volumes can't do without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Needed<'a> {
    ConfigMap(&'a str),
    /// With the entries that are asked for by name.
    Secret(&'a str, Vec<&'a str>),
}

/// In words that change seldom. `lacking` says what of a thing is not there.
pub(crate) fn why(
    pod: &Pod,
    now: Timestamp,
    lacking: impl Fn(&Needed<'_>) -> Option<String>,
) -> Option<String> {
    let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
    if pod.metadata.deletion_timestamp.is_some() || !is_waiting(status) {
        return None;
    }
    let waited = Duration::try_from(now.duration_since(bound(status)?)).ok()?;
    if waited < PATIENCE {
        return None;
    }
    let missing: Vec<String> = needed(spec).iter().filter_map(lacking).collect();
    if !missing.is_empty() {
        return Some(format!("containers wait for what is not there: {}; create it", missing.join(", ")));
    }
    let node = spec.node_name.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let of_node = if condition(status, "PodReadyToStartContainers") == Some("False") {
        format!("node {node} has not made volumes and network ready")
    } else {
        format!("node {node} has not made the containers")
    };
    Some(format!("{of_node} for more than {}; see `kubectl describe pod {name}`", rounded(waited)))
}

/// No container was begun.
fn is_waiting(status: &PodStatus) -> bool {
    status.container_statuses.iter().flatten().all(|container| {
        let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
        waiting.and_then(|waiting| waiting.reason.as_deref()) == Some("ContainerCreating")
    })
}

/// When it got its node.
fn bound(status: &PodStatus) -> Option<Timestamp> {
    let scheduled = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "True")?;
    scheduled.last_transition_time.as_ref().map(|time| time.0)
}

fn condition<'a>(status: &'a PodStatus, type_: &str) -> Option<&'a str> {
    let found = status.conditions.iter().flatten().find(|condition| condition.type_ == type_);
    found.map(|condition| condition.status.as_str())
}

fn needed(spec: &PodSpec) -> Vec<Needed<'_>> {
    spec.volumes.iter().flatten().filter_map(of_volume).collect()
}

fn of_volume(volume: &Volume) -> Option<Needed<'_>> {
    if let Some(map) = &volume.config_map {
        return (map.optional != Some(true)).then_some(Needed::ConfigMap(&map.name));
    }
    let secret = volume.secret.as_ref().filter(|secret| secret.optional != Some(true))?;
    let entries = secret.items.iter().flatten().map(|item| item.key.as_str()).collect();
    Some(Needed::Secret(secret.secret_name.as_deref()?, entries))
}

/// In steps, so that not every look finds another text.
fn rounded(waited: Duration) -> &'static str {
    match waited.as_secs() {
        0..60 => "30 s",
        60..300 => "1 min",
        300..1_800 => "5 min",
        1_800..7_200 => "30 min",
        _ => "2 h",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(status: &Value) -> Pod {
        let mut conditions = vec![json!({
            "type": "PodScheduled", "status": "True", "lastTransitionTime": "1970-01-01T00:00:00Z",
        })];
        conditions.extend(status["conditions"].as_array().cloned().unwrap_or_default());
        let pod = json!({
            "metadata": {"name": "logs-ingest-1"},
            "spec": {"nodeName": "a", "containers": [], "volumes": [
                {"name": "settings", "configMap": {"name": "logs-ingest-abc"}},
                {"name": "ca", "secret": {"secretName": "ca", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"name": "tls", "secret": {"secretName": "tls"}},
                {"name": "other", "secret": {"secretName": "may-be-missing", "optional": true}},
                {"name": "tenants", "projected": {"sources": []}},
            ]},
            "status": {"conditions": conditions, "containerStatuses": status["containerStatuses"]},
        });
        serde_json::from_value(pod).unwrap()
    }

    fn container(state: Value) -> Value {
        json!([{"name": "ingest", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state}])
    }

    fn creating() -> Value {
        json!({"containerStatuses": container(json!({"waiting": {"reason": "ContainerCreating"}}))})
    }

    fn said(status: &Value, second: i64, missing: &str) -> Option<String> {
        why(&pod(status), Timestamp::from_second(second).unwrap(), |needed| {
            let named = format!("{needed:?}");
            named.contains(missing).then_some(named).filter(|_| !missing.is_empty())
        })
    }

    #[test]
    fn what_is_missing_is_named_after_a_while() {
        assert_eq!(said(&creating(), 29, "tls"), None);
        let text = |what: &str| Some(format!("containers wait for what is not there: {what}; create it"));
        assert_eq!(said(&creating(), 30, "tls"), text("Secret(\"tls\", [])"));
        assert_eq!(said(&creating(), 30, "ca.crt"), text("Secret(\"ca\", [\"ca.crt\"])"));
        assert_eq!(said(&creating(), 30, "logs-ingest"), text("ConfigMap(\"logs-ingest-abc\")"));
        // A kubelet that has not even looked at it.
        assert_eq!(said(&json!({}), 30, "tls"), text("Secret(\"tls\", [])"));
    }

    #[test]
    fn else_the_time_is_told_in_words_that_change_seldom() {
        for (second, time) in [(30, "30 s"), (59, "30 s"), (60, "1 min"), (299, "1 min"), (9_000, "2 h")] {
            let text = said(&creating(), second, "").unwrap();
            assert!(
                text.contains(&format!("node a has not made the containers for more than {time};")),
                "{text}"
            );
        }
        let mut unready = creating();
        unready["conditions"] = json!([{"type": "PodReadyToStartContainers", "status": "False"}]);
        assert!(said(&unready, 60, "").unwrap().contains("volumes and network"));
    }

    #[test]
    fn of_containers_that_were_begun_there_is_nothing_to_say() {
        let running = json!({"containerStatuses": container(json!({"running": {}}))});
        let pulling = json!({"containerStatuses": container(json!({"waiting": {"reason": "ErrImagePull"}}))});
        for status in [running, pulling] {
            assert_eq!(said(&status, 9_000, "tls"), None);
        }
    }
}
