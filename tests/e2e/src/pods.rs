//! What tests ask of pods.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

/// # Panics
/// When it isn't on a node yet.
#[must_use]
pub fn node(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).expect("a pod on a node")
}

/// The status of the only container, once there is one.
#[must_use]
pub fn container(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.first()
}

/// Without the runtime's name before it.
///
/// # Panics
/// When its container isn't made yet.
#[must_use]
pub fn container_id(pod: &Pod) -> String {
    let id =
        container(pod).and_then(|status| status.container_id.as_deref()).expect("a pod with a container");
    id.rsplit('/').next().unwrap_or_default().to_owned()
}

/// What the container with this id ended with, as long as kubelet tells it.
#[must_use]
pub fn exit_code(status: &ContainerStatus, id: &str) -> Option<i32> {
    let states = [&status.state, &status.last_state].into_iter().flatten();
    let mut ends = states.filter_map(|state| state.terminated.as_ref());
    ends.find(|end| end.container_id.as_deref().is_some_and(|full| full.ends_with(id)))
        .map(|end| end.exit_code)
}

/// How often the container was started again.
#[must_use]
pub fn restarts(pod: &Pod) -> i32 {
    container(pod).map_or(0, |status| status.restart_count)
}

#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let ready = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    ready && pod.metadata.deletion_timestamp.is_none()
}

/// `Pending`, `Running`, `Succeeded`, `Failed` or nothing yet.
#[must_use]
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}
