//! The finalizer is there exactly while `deletionPolicy` is `Delete`.

use kube::api::{Patch, PatchParams};
use spillway_crds::{DeletionPolicy, LogPipeline};

use crate::{
    cleanup::FINALIZER,
    ctx::Ctx,
    errors::{ApiError, call},
    target::Target,
};

/// The finalizers that there should be; `None`: those that are there.
fn wanted(there: &[String], policy: DeletionPolicy) -> Option<Vec<String>> {
    let has = there.iter().any(|finalizer| finalizer == FINALIZER);
    match policy {
        DeletionPolicy::Delete if !has => Some(there.iter().cloned().chain([FINALIZER.to_owned()]).collect()),
        DeletionPolicy::Retain if has => Some(without(there)),
        DeletionPolicy::Delete | DeletionPolicy::Retain => None,
    }
}

fn without(there: &[String]) -> Vec<String> {
    there.iter().filter(|finalizer| *finalizer != FINALIZER).cloned().collect()
}

/// Puts the finalizer on or takes it off, as the policy says.
///
/// # Errors
/// A conflict when the object has changed meanwhile.
pub(crate) async fn settle(
    ctx: &Ctx,
    target: &Target,
    pipeline: &LogPipeline,
    policy: DeletionPolicy,
) -> Result<(), ApiError> {
    let there = pipeline.metadata.finalizers.clone().unwrap_or_default();
    match wanted(&there, policy) {
        Some(finalizers) => set(ctx, target, pipeline.metadata.resource_version.as_deref(), finalizers).await,
        None => Ok(()),
    }
}

/// Lets the object go.
///
/// # Errors
/// A conflict when the object has changed meanwhile.
pub(crate) async fn release(
    ctx: &Ctx,
    target: &Target,
    metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
) -> Result<(), ApiError> {
    let there = metadata.finalizers.clone().unwrap_or_default();
    set(ctx, target, metadata.resource_version.as_deref(), without(&there)).await
}

/// With the resourceVersion along, so that nobody else's finalizer gets lost.
async fn set(
    ctx: &Ctx,
    target: &Target,
    version: Option<&str>,
    finalizers: Vec<String>,
) -> Result<(), ApiError> {
    let mut metadata = serde_json::Map::new();
    metadata.insert("finalizers".to_owned(), finalizers.into());
    metadata.insert("uid".to_owned(), target.uid.clone().into());
    if let Some(version) = version {
        metadata.insert("resourceVersion".to_owned(), version.into());
    }
    let patch = serde_json::Map::from_iter([("metadata".to_owned(), metadata.into())]);
    let patch = Patch::Merge(serde_json::Value::Object(patch));
    let api = target.pipelines(&ctx.client);
    let parameters = PatchParams::default();
    match call("change the finalizers", api.patch_metadata(&target.name, &parameters, &patch)).await {
        Ok(_) => {
            ctx.metrics.wrote("LogPipeline", "finalizers");
            Ok(())
        }
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_finalizer_follows_the_policy_and_nobody_elses_is_touched() {
        let list = |names: &[&str]| -> Vec<String> { names.iter().map(|name| (*name).to_owned()).collect() };
        for (there, policy, expected) in [
            (vec![], DeletionPolicy::Retain, None),
            (vec!["other"], DeletionPolicy::Retain, None),
            (vec!["other", FINALIZER], DeletionPolicy::Retain, Some(vec!["other"])),
            (vec!["other"], DeletionPolicy::Delete, Some(vec!["other", FINALIZER])),
            (vec![FINALIZER], DeletionPolicy::Delete, None),
        ] {
            assert_eq!(wanted(&list(&there), policy), expected.map(|names| list(&names)), "{there:?}");
        }
    }
}
