//! Deleting a pipeline: what stays, what goes, and that nothing holds it for ever.

use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use spillway_bucket::PutMeta;
use spillway_crds::LogPipeline;
use spillway_tests::http::nobody;
use spillway_tests::kubernetes::operator::{Operator, Options};
use spillway_tests::kubernetes::owned;
use spillway_tests::kubernetes::pipelines::NAME;
use spillway_tests::kubernetes::space::{MANIFEST, PATIENCE, Space};

use crate::claim::claims;

claims![
    retain_leaves_bucket_and_tables_and_an_event_says_so,
    retain_needs_no_operator_to_delete,
    delete_empties_the_bucket_and_drops_the_tables,
    delete_leaves_what_others_put_into_bucket_and_database,
    only_a_pipeline_to_be_cleaned_up_has_a_finalizer,
    a_policy_changed_to_retain_gives_the_finalizer_up,
    changing_ones_mind_while_it_is_deleted_keeps_the_data,
    an_unreachable_bucket_does_not_hold_the_pipeline_for_ever,
    an_unreachable_clickhouse_does_not_hold_the_pipeline_for_ever,
    skipping_the_cleanup_ends_it_at_once,
    a_broken_spec_does_not_hold_the_pipeline,
    a_missing_secret_does_not_hold_the_pipeline_for_ever,
    pods_end_before_their_bucket_is_emptied,
    removing_the_operator_leaves_everything_running,
];

fn to_be_deleted() -> serde_json::Value {
    json!({"deletionPolicy": "Delete"})
}

async fn retain_leaves_bucket_and_tables_and_an_event_says_so(space: &mut Space) -> Operator {
    let operator = space.ready_pipeline().await;
    let (keys_before, tables) = (space.keys().await, space.tables().await);
    space.delete_pipeline(NAME).await;
    let note = space.told("Kept", NAME).await;
    assert!(note.contains(&space.bucket) && note.contains(&space.database), "{note}");
    space.everything_goes().await;
    assert_eq!((space.keys().await, space.tables().await), (keys_before, tables));
    operator
}

async fn retain_needs_no_operator_to_delete(space: &mut Space) {
    let mut operator = space.ready_pipeline().await;
    operator.process.kill();
    space.delete_pipeline(NAME).await;
    space.everything_goes().await;
    assert!(space.keys().await.contains(&MANIFEST.to_owned()));
}

async fn delete_empties_the_bucket_and_drops_the_tables(space: &mut Space) -> Operator {
    let operator = space.ready_with(to_be_deleted(), Options::default()).await;
    assert!(!space.keys().await.is_empty() && !space.tables().await.is_empty());
    space.delete_pipeline(NAME).await;
    space.told("CleanedUp", NAME).await;
    space.expect_event("CleaningUp");
    space.everything_goes().await;
    assert_eq!((space.keys().await, space.tables().await), (Vec::new(), Vec::new()));
    operator
}

async fn delete_leaves_what_others_put_into_bucket_and_database(space: &mut Space) -> Operator {
    let operator = space.ready_with(to_be_deleted(), Options::default()).await;
    let bucket = space.open_bucket().await;
    bucket.put_if_absent("reports/2026.csv", "a,b".into(), &PutMeta::default()).await.expect("put");
    space
        .ask(&format!("CREATE TABLE {}.theirs (n UInt8) ENGINE = MergeTree ORDER BY n", space.database))
        .await;
    space.delete_pipeline(NAME).await;
    space.told("CleanedUp", NAME).await;
    space.expect_event("CleaningUp");
    space.everything_goes().await;
    assert_eq!(space.keys().await, ["reports/2026.csv"]);
    assert_eq!(space.tables().await, ["theirs"]);
    operator
}

async fn only_a_pipeline_to_be_cleaned_up_has_a_finalizer(space: &mut Space) -> Operator {
    let operator = space.ready_pipeline().await;
    let pipeline: LogPipeline = space.get(NAME).await;
    assert!(pipeline.finalizers().is_empty());
    space.change_spec(to_be_deleted()).await;
    let has = |pipeline: &LogPipeline| (pipeline.finalizers() == ["spillway.dev/cleanup"]).then_some(());
    space.sees("the finalizer", NAME, has).await;
    space.is_ready().await;
    operator
}

async fn a_policy_changed_to_retain_gives_the_finalizer_up(space: &mut Space) -> Operator {
    let operator = space.ready_with(to_be_deleted(), Options::default()).await;
    space.change_spec(json!({"deletionPolicy": "Retain"})).await;
    let none = |pipeline: &LogPipeline| pipeline.finalizers().is_empty().then_some(());
    space.sees("no finalizer", NAME, none).await;
    space.is_ready().await;
    operator
}

async fn changing_ones_mind_while_it_is_deleted_keeps_the_data(space: &mut Space) -> Operator {
    let mut first = space.ready_with(to_be_deleted(), Options::default()).await;
    first.process.kill();
    space.delete_pipeline(NAME).await;
    space.change_spec(json!({"deletionPolicy": "Retain"})).await;
    let operator = space.operator().await;
    for reason in ["Kept", "CleaningUp", "CleanedUp"] {
        space.expect_event(reason);
    }
    space.everything_goes().await;
    assert!(space.keys().await.contains(&MANIFEST.to_owned()));
    assert!(space.tables().await.contains(&"logs".to_owned()));
    operator
}

/// Deletes it while something it needs is away, with a limit of some seconds.
async fn held_up(space: &mut Space, broken: serde_json::Value) -> Operator {
    let limit = Duration::from_secs(15);
    let quick = Options { cleanup_timeout: limit, ..Options::default() };
    let operator = space.ready_with(to_be_deleted(), quick).await;
    space.change_spec(broken).await;
    let since = Instant::now();
    space.delete_pipeline(NAME).await;
    for reason in
        ["CleaningUp", "CleanupFailed", "CleanupGivenUp", "Timeout", "Unavailable", "Unclear", "Unreachable"]
    {
        space.expect_event(reason);
    }
    let note = space.told("CleanupGivenUp", NAME).await;
    assert!(note.contains(&space.bucket) || note.contains(&space.database), "{note}");
    space.everything_goes().await;
    assert!(since.elapsed() < limit + PATIENCE, "{:?}", since.elapsed());
    operator
}

async fn an_unreachable_bucket_does_not_hold_the_pipeline_for_ever(space: &mut Space) -> Operator {
    let nobody = nobody();
    let operator = held_up(space, json!({"storage": {"s3": {"endpoint": nobody}}})).await;
    assert!(space.keys().await.contains(&MANIFEST.to_owned()), "it was not reachable");
    operator
}

async fn an_unreachable_clickhouse_does_not_hold_the_pipeline_for_ever(space: &mut Space) -> Operator {
    let nobody = nobody();
    held_up(space, json!({"clickhouse": {"url": nobody}})).await
}

async fn skipping_the_cleanup_ends_it_at_once(space: &mut Space) -> Operator {
    let operator = space.ready_with(to_be_deleted(), Options::default()).await;
    let nobody = nobody();
    space.change_spec(json!({"storage": {"s3": {"endpoint": nobody}}})).await;
    space.delete_pipeline(NAME).await;
    for reason in [
        "CleaningUp",
        "CleanupFailed",
        "CleanupGivenUp",
        "Timeout",
        "Unavailable",
        "Unclear",
        "Unreachable",
        "Kept",
    ] {
        space.expect_event(reason);
    }
    let skip = json!({"metadata": {"annotations": {"spillway.dev/skip-cleanup": "true"}}});
    space.change::<LogPipeline>(NAME, skip).await;
    space.everything_goes().await;
    assert!(space.tables().await.contains(&"logs".to_owned()) || !space.keys().await.is_empty());
    operator
}

async fn a_broken_spec_does_not_hold_the_pipeline(space: &mut Space) -> Operator {
    let quick = Options { cleanup_timeout: Duration::from_secs(15), ..Options::default() };
    let operator = space.ready_with(to_be_deleted(), quick).await;
    space.change_spec(json!({"ingest": {"flush": {"maxBytes": "64Mi"}, "queue": {"maxBytes": "1Mi"}}})).await;
    space.condition("SpecValid", "False", Some("Invalid")).await;
    space.expect_event("Invalid");
    space.delete_pipeline(NAME).await;
    for reason in ["CleaningUp", "CleanupFailed"] {
        space.expect_event(reason);
    }
    // Where its data is may be just what is broken.
    space.told("CleanupGivenUp", NAME).await;
    space.everything_goes().await;
    operator
}

async fn a_missing_secret_does_not_hold_the_pipeline_for_ever(space: &mut Space) -> Operator {
    let quick = Options { cleanup_timeout: Duration::from_secs(15), ..Options::default() };
    let operator = space.ready_with(to_be_deleted(), quick).await;
    for reason in ["SecretUnusable", "CleaningUp", "CleanupFailed"] {
        space.expect_event(reason);
    }
    space.api::<Secret>().delete("bucket", &DeleteParams::default()).await.expect("deleted");
    space.delete_pipeline(NAME).await;
    space.told("CleanupGivenUp", NAME).await;
    space.everything_goes().await;
    operator
}

async fn pods_end_before_their_bucket_is_emptied(space: &mut Space) -> Operator {
    let mut first = space.ready_with(to_be_deleted(), Options::default()).await;
    first.process.kill();
    // A pod that takes its time: it drains, and must find its bucket.
    let pods: Api<Pod> = space.api();
    let ingest = ListParams::default().labels("app.kubernetes.io/component=ingest");
    let slow = pods.list(&ingest).await.expect("pods").items.remove(0).name_any();
    let hold = json!({"metadata": {"finalizers": ["example.com/draining"]}});
    space.change::<Pod>(&slow, hold).await;
    let operator = space.operator().await;
    space.delete_pipeline(NAME).await;
    for reason in ["CleaningUp", "CleanedUp"] {
        space.expect_event(reason);
    }
    space
        .sees("the pod to be told to end", &slow, |pod: &Pod| {
            pod.metadata.deletion_timestamp.as_ref().map(drop)
        })
        .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(space.keys().await.contains(&MANIFEST.to_owned()), "emptied under a running pod");
    assert!(space.tables().await.contains(&"logs".to_owned()), "dropped under a running pod");
    assert!(space.api::<Deployment>().get_opt("logs-syncer").await.expect("an answer").is_some());
    space.change::<Pod>(&slow, json!({"metadata": {"finalizers": null}})).await;
    space.everything_goes().await;
    assert_eq!(space.keys().await, Vec::<String>::new());
    operator
}

async fn removing_the_operator_leaves_everything_running(space: &mut Space) {
    let mut operator = space.ready_pipeline().await;
    let before = owned::names(space).await;
    operator.process.terminate();
    let status = operator.process.wait(Duration::from_secs(20)).await;
    assert!(status.success(), "{status:?}");
    space.is_at_rest().await;
    assert_eq!(owned::names(space).await, before);
}
