//! Ending the pods of a pipeline that is being deleted.

use k8s_openapi::{
    api::{apps::v1::Deployment, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};

use super::Workload;
use crate::{
    ctx::Ctx,
    errors::{ApiError, call},
    failpoint::failpoint,
    inventory,
    plan::names::{Component, FIELD_MANAGER},
    pods,
    target::Target,
};

/// As the API server has it now: the watch may be behind, and here something is deleted. With whether its pods are
/// within the time that they were given to end.
///
/// # Errors
/// When the API server doesn't say.
pub(super) async fn look(
    ctx: &Ctx,
    target: &Target,
    component: Component,
    deleted: Timestamp,
) -> Result<(Workload, bool), ApiError> {
    if owned(ctx, target, component).await?.is_some_and(|deployment| wants_pods(&deployment)) {
        return Ok((Workload::Running, false));
    }
    let api: Api<Pod> = Api::namespaced(ctx.client.clone(), &target.namespace);
    let parameters = ListParams::default().labels(&pods::selector(&target.name, component));
    let left = call("list pods", api.list_metadata(&parameters)).await?.items;
    let now = Timestamp::now();
    let draining = left.iter().any(|pod| is_draining(&pod.metadata, deleted, now));
    Ok((if left.is_empty() { Workload::Gone } else { Workload::Stopping }, draining))
}

/// Its deletion timestamp says when its time is up. Pods that somebody makes after the pipeline was deleted don't
/// count, so that they can't hold it for ever.
fn is_draining(pod: &ObjectMeta, deleted: Timestamp, now: Timestamp) -> bool {
    let old = pod.creation_timestamp.as_ref().is_some_and(|created| created.0 <= deleted);
    old && pod.deletion_timestamp.as_ref().is_some_and(|until| until.0 > now)
}

fn wants_pods(deployment: &Deployment) -> bool {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    // Its controller makes no pods any more for one that is on its way out.
    wanted > 0 && deployment.metadata.deletion_timestamp.is_none()
}

/// The component's Deployment, if it is the pipeline's own.
async fn owned(ctx: &Ctx, target: &Target, component: Component) -> Result<Option<Deployment>, ApiError> {
    let name = format!("{}-{}", target.name, component.name());
    let api: Api<Deployment> = Api::namespaced(ctx.client.clone(), &target.namespace);
    let found = call(format!("read Deployment {name}"), api.get_opt(&name)).await?;
    Ok(found.filter(|found| inventory::controller(&found.metadata).as_deref() == Some(&target.uid)))
}

/// Scales a component's Deployment to zero. Its pods get their whole grace period, and an autoscaler leaves
/// nothing at nothing.
///
/// # Errors
/// What the API server refuses.
pub(super) async fn stop(ctx: &Ctx, target: &Target, component: Component) -> Result<(), ApiError> {
    let Some(deployment) = owned(ctx, target, component).await? else { return Ok(()) };
    let name = deployment.metadata.name.unwrap_or_default();
    let object = |pairs: Vec<(&str, serde_json::Value)>| -> serde_json::Value {
        pairs
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    // With the uid along, so that no other object of that name is scaled.
    let metadata = object(vec![("uid", deployment.metadata.uid.unwrap_or_default().into())]);
    let patch = object(vec![("metadata", metadata), ("spec", object(vec![("replicas", 0.into())]))]);
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let api: Api<Deployment> = Api::namespaced(ctx.client.clone(), &target.namespace);
    match call(
        format!("scale Deployment {name} to zero"),
        api.patch(&name, &parameters, &Patch::Merge(&patch)),
    )
    .await
    {
        Ok(_) => ctx.metrics.wrote("Deployment", "stop"),
        Err(error) if error.is_not_found() || error.is_conflict() => {}
        Err(error) => return Err(error),
    }
    failpoint("after-stop");
    Ok(())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    #[test]
    fn a_pods_own_time_to_end_is_waited_for_and_new_pods_are_not() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        for (created, until, expected) in
            [(10, Some(200), true), (10, Some(140), false), (10, None, false), (120, Some(200), false)]
        {
            let pod = ObjectMeta {
                creation_timestamp: Some(Time(at(created))),
                deletion_timestamp: until.map(|until| Time(at(until))),
                ..ObjectMeta::default()
            };
            assert_eq!(is_draining(&pod, at(100), at(150)), expected, "{created} {until:?}");
        }
    }
}
