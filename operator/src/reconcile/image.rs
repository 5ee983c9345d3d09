//! Which image a pipeline's pods run. It is chosen once, so that a new version of the operator restarts nothing.

use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use spillway_crds::{LogPipeline, status::LogPipelineStatus};

use super::{
    Failed,
    say::{known_status, write_status},
};
use crate::{
    ctx::Ctx,
    dereference::Dereferenced,
    errors::{ApiError, call},
    inventory,
    memory::Memory,
    plan::names::Component,
    target::Target,
};

/// The image of a new pipeline is written down before any object, so that no other version of the operator chooses
/// another one.
pub(super) async fn record(
    ctx: &Ctx,
    target: &Target,
    pipeline: &LogPipeline,
    seen: &Dereferenced,
    memory: &mut Memory,
) -> Result<String, Failed> {
    let old = known_status(pipeline, memory);
    let wanted = pipeline.spec.image.clone();
    if let Some(image) = old.image {
        return Ok(wanted.unwrap_or(image));
    }
    let running = match wanted {
        None => running(ctx, target, seen).await.map_err(Failed::at("status"))?,
        // Its pods don't say what it had without.
        Some(_) => None,
    };
    let image = running.unwrap_or_else(|| ctx.config.image.clone());
    let new = LogPipelineStatus { image: Some(image.clone()), ..old };
    write_status(ctx, target, memory, new).await.map_err(Failed::at("status"))?;
    Ok(wanted.unwrap_or(image))
}

/// What pods run already: a pipeline that was restored from a backup has lost its status.
async fn running(ctx: &Ctx, target: &Target, seen: &Dereferenced) -> Result<Option<String>, ApiError> {
    let api: Api<Deployment> = Api::namespaced(ctx.client.clone(), &target.namespace);
    for component in [Component::Ingest, Component::Syncer] {
        let name = format!("{}-{}", target.name, component.name());
        if seen.rollout(&name, &target.uid).is_none() {
            continue;
        }
        let found = call(format!("read Deployment {name}"), api.get_opt(&name)).await?;
        if let Some(image) = found.and_then(|found| image_of(&found, &target.uid)) {
            return Ok(Some(image));
        }
    }
    Ok(None)
}

/// The image of a Deployment that `owner` controls.
fn image_of(deployment: &Deployment, owner: &str) -> Option<String> {
    let ours = inventory::controller(&deployment.metadata).as_deref() == Some(owner);
    let pods = deployment.spec.as_ref().filter(|_| ours)?.template.spec.as_ref()?;
    pods.containers.first()?.image.clone().filter(|image| !image.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipeline_without_a_status_goes_on_with_the_image_of_its_own_pods() {
        let deployment: Deployment = serde_json::from_value(serde_json::json!({
            "metadata": {"ownerReferences": [
                {"apiVersion": "spillway.dev/v1alpha1", "kind": "LogPipeline", "name": "logs", "uid": "me", "controller": true},
            ]},
            "spec": {"selector": {}, "template": {"spec": {"containers": [{"name": "ingest", "image": "spillway:1"}]}}},
        }))
        .unwrap();
        assert_eq!(image_of(&deployment, "me").as_deref(), Some("spillway:1"));
        assert_eq!(image_of(&deployment, "you"), None);
        assert_eq!(image_of(&Deployment::default(), "me"), None);
    }
}
