//! A lost manifest is made anew when its owner asks for it, and only then: restoring it is better where that can be done.

use std::time::Duration;

use kube::api::{Patch, PatchParams};
use spillway_bucket::Bucket;
use spillway_model::settings::SyncerSettings;
use spillway_schema::ClickHouse;
use spillway_syncer::SyncerError;

use crate::{ctx::Ctx, errors::call, events, plan::Plan, target::Target};

/// `"true"` on a pipeline: a lost manifest is made anew, once.
pub(crate) const REBUILD_ANNOTATION: &str = "spillway.dev/rebuild-manifest";

/// It may have to wait until no insert can be under way, and reads a column of the whole table.
pub(super) const LIMIT: Duration = Duration::from_secs(20 * 60);

/// # Errors
/// When it can't be done safely, see [`spillway_syncer::RebuildError`].
pub(super) async fn rebuild(
    ctx: &Ctx,
    target: &Target,
    plan: &Plan,
    bucket: &Bucket,
    client: &ClickHouse,
) -> Result<(), SyncerError> {
    let syncer = SyncerSettings::new(plan.bucket.settings.clone(), plan.schema.settings.clone());
    let quiet_after = spillway_syncer::quiet_after(&syncer);
    let rebuilt = spillway_syncer::rebuild(bucket, client, &plan.schema.spec, quiet_after).await?;
    tracing::warn!(pipeline = target.name, namespace = target.namespace, "{rebuilt}");
    events::publish(ctx, &target.reference, events::Reason::ManifestRebuilt, rebuilt.to_string()).await;
    Ok(())
}

/// Takes the annotation off, so that a later loss asks anew. If that fails it is done with the next look.
pub(super) async fn disarm(ctx: &Ctx, target: &Target) {
    let none = serde_json::Map::from_iter([(REBUILD_ANNOTATION.to_owned(), serde_json::Value::Null)]);
    let metadata = serde_json::Map::from_iter([
        ("annotations".to_owned(), none.into()),
        ("uid".to_owned(), target.uid.clone().into()),
    ]);
    let patch = serde_json::Map::from_iter([("metadata".to_owned(), metadata.into())]);
    let patch = Patch::Merge(serde_json::Value::Object(patch));
    let api = target.pipelines(&ctx.client);
    let parameters = PatchParams::default();
    match call("take an annotation off", api.patch_metadata(&target.name, &parameters, &patch)).await {
        Ok(_) => ctx.metrics.wrote("LogPipeline", "annotations"),
        Err(error) => tracing::warn!(
            pipeline = target.name,
            namespace = target.namespace,
            "{REBUILD_ANNOTATION} is still there: {error}"
        ),
    }
}
