//! A component's pods: telling kubelet of changed Secrets, and what they say when they don't come up.

use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};

use crate::{
    ctx::Ctx,
    dereference::Dereferenced,
    errors::{ApiError, call},
    failpoint::failpoint,
    kinds::{Id, Kind},
    memory::Memory,
    plan::names::{Component, FIELD_MANAGER, TOUCHED},
    target::Target,
    touch::{Seen, pods_to_touch},
    waiting::{self, Needed},
};

/// Touches the running pods of a component whose Secrets are no longer those of `digest`.
///
/// # Errors
/// When pods can't be listed or touched; the rest is done next time.
pub(crate) async fn touch(
    ctx: &Ctx,
    target: &Target,
    component: Component,
    digest: &str,
    memory: &mut Memory,
) -> Result<(), ApiError> {
    let before = memory.touched.get(component.name()).cloned();
    if before.as_deref() == Some(digest) {
        return Ok(());
    }
    let (api, parameters) = of(ctx, target, component);
    let found = call("list pods", api.list_metadata(&parameters)).await?;
    let pods: Vec<Seen> = found
        .items
        .into_iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .map(|pod| Seen {
            name: pod.metadata.name.unwrap_or_default(),
            told: pod.metadata.annotations.and_then(|mut all| all.remove(TOUCHED)),
        })
        .collect();
    for name in pods_to_touch(&pods, before.as_deref(), digest) {
        let patch = serde_json::Map::from_iter([("annotations".to_owned(), annotation(digest))]);
        let patch = serde_json::Map::from_iter([("metadata".to_owned(), patch.into())]);
        let parameters =
            PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let patch = Patch::Merge(serde_json::Value::Object(patch));
        match call(format!("touch Pod {name}"), api.patch_metadata(name, &parameters, &patch)).await {
            Ok(_) => ctx.metrics.wrote("Pod", "touch"),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        failpoint("after-touch");
    }
    memory.touched.insert(component.name(), digest.to_owned());
    Ok(())
}

fn annotation(digest: &str) -> serde_json::Value {
    serde_json::Map::from_iter([(TOUCHED.to_owned(), digest.into())]).into()
}

/// What keeps pods from coming up, or nothing to be said of.
///
/// # Errors
/// When they can't be listed.
pub(crate) async fn trouble(
    ctx: &Ctx,
    target: &Target,
    component: Component,
    seen: &Dereferenced,
) -> Result<Option<String>, ApiError> {
    let (api, parameters) = of(ctx, target, component);
    let mut pods = call("list pods", api.list(&parameters)).await?.items;
    // What keeps an old one was mended with the template that the newest one has.
    pods.sort_by_key(|pod| std::cmp::Reverse(pod.metadata.creation_timestamp.clone().map(|time| time.0)));
    let now = Timestamp::now();
    let waits = |pod: &Pod| waiting::why(pod, now, |needed| lacking(ctx, target, seen, needed));
    Ok(pods.iter().find_map(|pod| of_pod(pod).or_else(|| waits(pod))))
}

/// What of a thing that a volume needs is not there.
fn lacking(ctx: &Ctx, target: &Target, seen: &Dereferenced, needed: &Needed<'_>) -> Option<String> {
    match needed {
        Needed::ConfigMap(name) => {
            let id = Id { kind: Kind::ConfigMap, name: (*name).to_owned() };
            (!seen.objects.contains_key(&id)).then(|| id.to_string())
        }
        Needed::Secret(name, _) if !ctx.secrets.is_there(&target.namespace, name) => {
            Some(format!("Secret {name}"))
        }
        Needed::Secret(name, entries) => {
            // Those that the spec names are known by their entries, too.
            let there = seen.secrets.entries(name)?;
            let lacks = entries.iter().find(|entry| !there.contains_key(**entry))?;
            Some(format!("entry {lacks} of Secret {name}"))
        }
    }
}

/// Whether any pod of a component is left.
///
/// # Errors
/// When they can't be listed.
pub(crate) async fn any(ctx: &Ctx, target: &Target, component: Component) -> Result<bool, ApiError> {
    let (api, parameters) = of(ctx, target, component);
    let pods = call("list pods", api.list_metadata(&parameters.limit(1))).await?;
    Ok(!pods.items.is_empty())
}

fn of(ctx: &Ctx, target: &Target, component: Component) -> (Api<Pod>, ListParams) {
    let parameters = ListParams::default().labels(&selector(&target.name, component));
    (Api::namespaced(ctx.client.clone(), &target.namespace), parameters)
}

/// As [`crate::plan::names::Scope::selector_text`], for a pipeline that may not be valid.
pub(crate) fn selector(pipeline: &str, component: Component) -> String {
    let component = component.name();
    format!(
        "app.kubernetes.io/component={component},app.kubernetes.io/instance={pipeline},app.kubernetes.io/name=spillway"
    )
}

/// In words that stay the same while nothing changes: kubelet's own alternate between an error and its backoff.
fn of_pod(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let conditions = status.conditions.iter().flatten();
    let unschedulable = conditions
        .into_iter()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
        .map(|condition| {
            format!("unschedulable: {}", scheduler(condition.message.as_deref().unwrap_or_default()))
        });
    if unschedulable.is_some() {
        return unschedulable;
    }
    status.container_statuses.iter().flatten().find_map(|container| {
        let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
        let reason = waiting.and_then(|waiting| waiting.reason.as_deref());
        match reason {
            Some("ImagePullBackOff" | "ErrImagePull" | "InvalidImageName" | "ErrImageNeverPull") => {
                Some(format!(
                    "the image {} can't be pulled; correct spec.image or imagePullSecrets",
                    container.image
                ))
            }
            Some("CreateContainerConfigError" | "CreateContainerError") => {
                waiting.and_then(|waiting| waiting.message.clone())
            }
            _ if container.restart_count > 1 && !container.ready => {
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                let last = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
                let code = last.map_or(0, |last| last.exit_code);
                Some(format!("crashing with exit code {code}; see `kubectl logs --previous {name}`"))
            }
            _ => None,
        }
    })
}

/// The scheduler's own sentence whole, without what it tried next: that it found nobody to push aside.
fn scheduler(message: &str) -> String {
    const LONGEST: usize = 800;
    let ends = [" preemption:", " no new claims to deallocate"];
    let end = ends.into_iter().filter_map(|end| message.find(end)).min().unwrap_or(message.len());
    let sentence = message.get(..end).unwrap_or(message);
    match sentence.char_indices().nth(LONGEST) {
        Some((cut, _)) => format!("{}...", sentence.get(..cut).unwrap_or_default()),
        None => sentence.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_schedulers_sentence_is_kept_whole_and_what_it_tried_next_is_left_out() {
        let reasons = "0/9 nodes are available: 4 Insufficient memory, 5 node(s) had untolerated taint {dedicated: db}.";
        for rest in [
            "",
            " preemption: 0/9 nodes are available: 9 Preemption is not helpful for scheduling.",
            " no new claims to deallocate, preemption: 0/9 nodes are available: 9 No preemption victims found.",
        ] {
            let pod = json!({"status": {"conditions": [
                {"type": "PodScheduled", "status": "False", "message": format!("{reasons}{rest}")},
            ]}});
            let said = of_pod(&serde_json::from_value(pod).unwrap());
            assert_eq!(said, Some(format!("unschedulable: {reasons}")));
        }
        assert!(scheduler(&"x".repeat(5_000)).len() < 1_000);
    }

    #[test]
    fn pods_are_found_by_the_selector_of_their_deployment() {
        let pipeline = spillway_crds::LogPipeline::new("logs", spillway_crds::LogPipelineSpec::default());
        let scope = crate::plan::names::Scope::of(&spillway_crds::validate(&pipeline).unwrap());
        for component in [Component::Ingest, Component::Syncer] {
            assert_eq!(selector("logs", component), scope.selector_text(component));
        }
    }

    #[test]
    fn a_pod_that_does_not_come_up_says_why_and_always_the_same() {
        let waiting = |reason: &str| {
            json!({"containerStatuses": [{
                "name": "ingest", "image": "spillway:x", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"waiting": {"reason": reason, "message": "secret \"s3\" not found"}},
            }]})
        };
        let crashed = |state: Value| {
            json!({"containerStatuses": [{
                "name": "ingest", "image": "spillway:x", "imageID": "", "ready": false, "restartCount": 4,
                "state": state, "lastState": {"terminated": {"exitCode": 2}},
            }]})
        };
        let said = |status: Value| -> Option<String> {
            let pod = json!({"metadata": {"name": "logs-ingest-1"}, "status": status});
            of_pod(&serde_json::from_value(pod).unwrap())
        };
        assert!(said(waiting("ErrImagePull")).unwrap().contains("spillway:x"));
        assert_eq!(said(waiting("ErrImagePull")), said(waiting("ImagePullBackOff")));
        assert!(said(waiting("CreateContainerConfigError")).unwrap().contains("s3"));
        assert_eq!(said(waiting("ContainerCreating")), None);
        let crash = said(crashed(json!({"waiting": {"reason": "CrashLoopBackOff"}})));
        assert!(crash.as_ref().unwrap().contains("exit code 2"));
        assert_eq!(crash, said(crashed(json!({"terminated": {"exitCode": 2}}))));
    }
}
