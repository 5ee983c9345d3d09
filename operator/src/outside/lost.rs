//! A lost manifest is made anew when its owner asks for it, and only then: restoring it is better where that can be done.

use std::time::Duration;

use kube::api::{Patch, PatchParams};
use spillway_bucket::Bucket;
use spillway_model::settings::SyncerSettings;
use spillway_schema::ClickHouse;
use spillway_syncer::{RebuildError, SyncerError};

use super::steps::Again;
use crate::{ctx::Ctx, errors::call, events, plan::Plan, target::Target};

/// `"true"` on a pipeline: a lost manifest is made anew, once.
pub(crate) const REBUILD_ANNOTATION: &str = "spillway.dev/rebuild-manifest";

/// It may have to wait until no insert can be under way, and reads a column of the whole table and the staged objects that
/// no list names.
pub(super) const LIMIT: Duration = Duration::from_secs(2 * 60 * 60);

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

/// A refusal that waiting mends is tried again soon. What only its owner can mend is not: each try reads a column of the
/// whole table. Nobody tells us when he has, so he asks again.
pub(super) fn again(refused: &RebuildError) -> Again {
    match refused {
        RebuildError::LoadedTwice { .. }
        | RebuildError::Unlisted { .. }
        | RebuildError::Damaged { .. }
        | RebuildError::Pipelines { .. } => Again::AfterAChange,
        RebuildError::Present
        | RebuildError::Running
        | RebuildError::Changing
        | RebuildError::Bucket(_)
        | RebuildError::ClickHouse(_) => Again::Soon,
    }
}

/// With what to do to have it tried again.
pub(super) fn refusal(refused: &RebuildError, again: Again, resync: Duration) -> String {
    if again != Again::AfterAChange {
        return refused.to_string();
    }
    format!(
        "no new manifest was made: {refused}. Then take the annotation {REBUILD_ANNOTATION} off and set it again; by itself it is tried again only every {} min",
        resync.as_secs().div_ceil(60)
    )
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

#[cfg(test)]
mod tests {
    use spillway_bucket::BucketError;
    use spillway_syncer::batch::BatchId;

    use super::*;

    #[test]
    fn what_only_its_owner_can_mend_is_not_tried_again_soon_and_says_how_to_ask() {
        let key = || "_spillway/batches/1.json".to_owned();
        let id = |number| BatchId { epoch: 1, number };
        for (refused, patient) in [
            (RebuildError::Damaged { key: key(), message: String::new() }, true),
            (RebuildError::LoadedTwice { batches: [id(1), id(2)], key: key() }, true),
            (RebuildError::Unlisted { key: key(), objects: 1 }, true),
            (RebuildError::Pipelines { names: Vec::new() }, true),
            (RebuildError::Present, false),
            (RebuildError::Running, false),
            (RebuildError::Changing, false),
            (RebuildError::Bucket(BucketError::NoSuchBucket { bucket: key() }), false),
        ] {
            let again = again(&refused);
            assert_eq!(again == Again::AfterAChange, patient, "{refused}");
            let said = refusal(&refused, again, Duration::from_secs(600));
            assert!(said.contains(&refused.to_string()));
            assert_eq!(said.contains(REBUILD_ANNOTATION) && said.contains("every 10 min"), patient, "{said}");
        }
    }
}
