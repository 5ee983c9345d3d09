//! Manifest, database or bucket lost: what docs/recovery.md says, step by step.

use serde_json::json;
use spillway_bucket::Bucket;
use spillway_crds::LogPipeline;
use spillway_e2e::cases;
use spillway_e2e::space::{PATIENCE, Space, keys};
use spillway_e2e::traffic::{Load, Traffic};
use spillway_model::ObjectKey;
use spillway_tests::kubernetes::pipelines::NAME;
use spillway_tests::wait::until;

cases![
    a_lost_manifest_is_made_anew_when_its_owner_asks_for_it,
    a_lost_database_is_set_up_again_and_what_is_staged_is_loaded_once,
    a_lost_bucket_is_made_again_and_old_rows_stay_as_they_were,
];

const MANIFEST: &str = "_spillway/manifest.json";
const ANNOTATION: &str = "spillway.dev/rebuild-manifest";
const MINIO: &str = include_str!("../manifests/minio.yaml");
/// Stopped when enough has happened.
const LONG: u32 = 400;
const RATE: u32 = 200;

async fn a_lost_manifest_is_made_anew_when_its_owner_asks_for_it(space: &Space) {
    space.ready_pipeline(json!({})).await;
    let traffic = Traffic::start(space, Load::of(LONG, RATE)).await;
    let (bucket, _forward) = space.bucket().await;
    // Twice, since the first one's annotation must not be there for the second loss.
    for time in 1..=2 {
        bucket.delete_many(&[MANIFEST.to_owned()]).await.expect("the manifest is deleted");
        is_said_to_be_lost(space).await;
        assert!(!is_there(&bucket).await, "a manifest was made that nobody asked for");
        ask(space).await;
        is_made_anew(space, &bucket, time).await;
        let before = space.rows().await;
        until("records to be loaded again", PATIENCE, async || (space.rows().await > before).then_some(()))
            .await;
    }
    traffic.stop().await;
}

async fn a_lost_database_is_set_up_again_and_what_is_staged_is_loaded_once(space: &Space) {
    space.ready_pipeline(json!({})).await;
    Traffic::start(space, Load::of(5, RATE)).await.verdict().await;
    space.sql("DROP DATABASE spillway SYNC").await;
    let traffic = Traffic::start_blindly(space, Load { name: "after", ..Load::of(LONG, RATE) }).await;
    let loaded = async || {
        let rows: u64 = space.try_sql("SELECT count() FROM spillway.logs").await.ok()?.trim().parse().ok()?;
        (rows > 0).then_some(())
    };
    // A minute passes until records are called late, and another one at most until that is read.
    until("records to be loaded again", PATIENCE * 2, loaded).await;
    traffic.stop().await;
    space.is_ready().await;
}

async fn a_lost_bucket_is_made_again_and_old_rows_stay_as_they_were(space: &Space) {
    space.ready_pipeline(json!({})).await;
    Traffic::start(space, Load::of(10, RATE)).await.verdict().await;
    let (bucket, forward) = space.bucket().await;
    // What is acknowledged and not loaded would be lost with it.
    until("an empty backlog", PATIENCE, async || {
        let keys = keys(&bucket).await.ok()?;
        keys.iter().all(|key| ObjectKey::parse(key).is_err()).then_some(())
    })
    .await;
    let rows = space.rows().await;
    drop((bucket, forward));

    space.kubectl(&["delete", "deployment/minio", "pvc/minio", "--wait", "--timeout=120s"]).await;
    space.apply_yaml(MINIO).await;
    space.is_available("minio").await;
    is_said_to_be_lost(space).await;
    let (bucket, _forward) = space.bucket().await;
    assert!(!is_there(&bucket).await, "a manifest was made that nobody asked for");
    ask(space).await;
    is_made_anew(space, &bucket, 1).await;

    let traffic = Traffic::start(space, Load { name: "after", ..Load::of(10, RATE) }).await;
    let verdict = traffic.verdict().await;
    assert_eq!(space.rows().await, rows + verdict.acknowledged, "rows, with {rows} from before");
}

async fn is_there(bucket: &Bucket) -> bool {
    bucket.head(MANIFEST).await.expect("the bucket answers").is_some()
}

/// `BucketReady` says it, and what to do about it.
async fn is_said_to_be_lost(space: &Space) {
    let said = space.condition("BucketReady", "False", Some("ManifestLost")).await;
    assert!(said.message.contains(&format!("{ANNOTATION}=true")), "{}", said.message);
}

async fn ask(space: &Space) {
    space.change::<LogPipeline>(NAME, json!({"metadata": {"annotations": {ANNOTATION: "true"}}})).await;
}

/// By the operator, which says so each time, and asks for another annotation the next time.
async fn is_made_anew(space: &Space, bucket: &Bucket, times: i32) {
    space
        .sees("the annotation to be taken off", NAME, |pipeline: &LogPipeline| {
            let annotations = pipeline.metadata.annotations.as_ref();
            annotations.is_none_or(|all| !all.contains_key(ANNOTATION)).then_some(())
        })
        .await;
    assert!(is_there(bucket).await);
    space.condition("BucketReady", "True", None).await;
    space.is_ready().await;
    let told = space.told_times(times, "ManifestRebuilt", NAME).await;
    assert!(told.contains("made a new manifest"), "{told}");
}
