//! Deleting a pipeline: what stays, what goes, and that nothing holds it for ever.

use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use spillway_bucket::PutMeta;
use spillway_crds::LogPipeline;
use spillway_tests::kubernetes::helm;
use spillway_tests::kubernetes::operator::{Operator, Options};
use spillway_tests::kubernetes::owned;
use spillway_tests::kubernetes::pipelines::{self, NAME};
use spillway_tests::kubernetes::space::{PATIENCE, Space};
use spillway_tests::wait::until;

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
    a_deleted_namespace_takes_its_pipeline_along,
    pods_end_before_their_bucket_is_emptied,
    removing_the_operator_leaves_everything_running,
];

fn to_be_deleted() -> serde_json::Value {
    json!({"deletionPolicy": "Delete"})
}

async fn delete(space: &Space) {
    space.api::<LogPipeline>().delete(NAME, &DeleteParams::default()).await.expect("it may be deleted");
}

/// Waits for an event of that reason and returns its note.
async fn told(space: &mut Space, reason: &str) -> String {
    space.expect_event(reason);
    let events: Api<Event> = space.api();
    until(&format!("the event {reason} ({})", space.namespace), PATIENCE, async || {
        let all = events.list(&ListParams::default()).await.ok()?;
        let found = all.into_iter().find(|event| event.reason.as_deref() == Some(reason))?;
        Some(found.note.unwrap_or_default())
    })
    .await
}

async fn everything_goes(space: &Space) {
    space.goes::<LogPipeline>(NAME).await;
    until("the owned objects to go", PATIENCE, async || owned::names(space).await.is_empty().then_some(()))
        .await;
}

async fn keys(space: &Space) -> Vec<String> {
    let page = space.open_bucket().await.list("", None, 1000).await.expect("the bucket can be listed");
    page.objects.into_iter().map(|object| object.key).collect()
}

async fn made(space: &Space, change: serde_json::Value) -> Operator {
    made_by(space, change, Options::default()).await
}

async fn made_by(space: &Space, change: serde_json::Value, options: Options) -> Operator {
    space.create(&pipelines::with(space, change)).await;
    let operator = Operator::start(space, options).await;
    space.is_ready().await;
    operator
}

async fn retain_leaves_bucket_and_tables_and_an_event_says_so(space: &mut Space) -> Operator {
    let operator = space.ready_pipeline().await;
    let (keys_before, tables) = (keys(space).await, space.tables().await);
    delete(space).await;
    let note = told(space, "Kept").await;
    assert!(note.contains(&space.bucket) && note.contains(&space.database), "{note}");
    everything_goes(space).await;
    assert_eq!((keys(space).await, space.tables().await), (keys_before, tables));
    operator
}

async fn retain_needs_no_operator_to_delete(space: &mut Space) {
    let mut operator = space.ready_pipeline().await;
    operator.process.kill();
    delete(space).await;
    everything_goes(space).await;
    assert!(keys(space).await.contains(&"_spillway/manifest.json".to_owned()));
}

async fn delete_empties_the_bucket_and_drops_the_tables(space: &mut Space) -> Operator {
    let operator = made(space, to_be_deleted()).await;
    assert!(!keys(space).await.is_empty() && !space.tables().await.is_empty());
    delete(space).await;
    told(space, "CleanedUp").await;
    space.expect_event("CleaningUp");
    everything_goes(space).await;
    assert_eq!((keys(space).await, space.tables().await), (Vec::new(), Vec::new()));
    operator
}

async fn delete_leaves_what_others_put_into_bucket_and_database(space: &mut Space) -> Operator {
    let operator = made(space, to_be_deleted()).await;
    let bucket = space.open_bucket().await;
    bucket.put_if_absent("reports/2026.csv", "a,b".into(), &PutMeta::default()).await.expect("put");
    space
        .ask(&format!("CREATE TABLE {}.theirs (n UInt8) ENGINE = MergeTree ORDER BY n", space.database))
        .await;
    delete(space).await;
    told(space, "CleanedUp").await;
    space.expect_event("CleaningUp");
    everything_goes(space).await;
    assert_eq!(keys(space).await, ["reports/2026.csv"]);
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
    let operator = made(space, to_be_deleted()).await;
    space.change_spec(json!({"deletionPolicy": "Retain"})).await;
    let none = |pipeline: &LogPipeline| pipeline.finalizers().is_empty().then_some(());
    space.sees("no finalizer", NAME, none).await;
    space.is_ready().await;
    operator
}

async fn changing_ones_mind_while_it_is_deleted_keeps_the_data(space: &mut Space) -> Operator {
    let mut first = made(space, to_be_deleted()).await;
    first.process.kill();
    delete(space).await;
    space.change_spec(json!({"deletionPolicy": "Retain"})).await;
    let operator = space.operator().await;
    for reason in ["Kept", "CleaningUp", "CleanedUp"] {
        space.expect_event(reason);
    }
    everything_goes(space).await;
    assert!(keys(space).await.contains(&"_spillway/manifest.json".to_owned()));
    assert!(space.tables().await.contains(&"logs".to_owned()));
    operator
}

/// Deletes it while something it needs is away, with a limit of some seconds.
async fn held_up(space: &mut Space, broken: serde_json::Value) -> Operator {
    let limit = Duration::from_secs(15);
    let quick = Options { cleanup_timeout: limit, ..Options::default() };
    let operator = made_by(space, to_be_deleted(), quick).await;
    space.change_spec(broken).await;
    let since = Instant::now();
    delete(space).await;
    for reason in
        ["CleaningUp", "CleanupFailed", "CleanupGivenUp", "Timeout", "Unavailable", "Unclear", "Unreachable"]
    {
        space.expect_event(reason);
    }
    let note = told(space, "CleanupGivenUp").await;
    assert!(note.contains(&space.bucket) || note.contains(&space.database), "{note}");
    everything_goes(space).await;
    assert!(since.elapsed() < limit + PATIENCE, "{:?}", since.elapsed());
    operator
}

async fn an_unreachable_bucket_does_not_hold_the_pipeline_for_ever(space: &mut Space) -> Operator {
    let nobody = format!("http://127.0.0.1:{}", spillway_tests::child::free_port());
    let operator = held_up(space, json!({"storage": {"s3": {"endpoint": nobody}}})).await;
    assert!(keys(space).await.contains(&"_spillway/manifest.json".to_owned()), "it was not reachable");
    operator
}

async fn an_unreachable_clickhouse_does_not_hold_the_pipeline_for_ever(space: &mut Space) -> Operator {
    let nobody = format!("http://127.0.0.1:{}", spillway_tests::child::free_port());
    held_up(space, json!({"clickhouse": {"url": nobody}})).await
}

async fn skipping_the_cleanup_ends_it_at_once(space: &mut Space) -> Operator {
    let operator = made(space, to_be_deleted()).await;
    let nobody = format!("http://127.0.0.1:{}", spillway_tests::child::free_port());
    space.change_spec(json!({"storage": {"s3": {"endpoint": nobody}}})).await;
    delete(space).await;
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
    everything_goes(space).await;
    assert!(space.tables().await.contains(&"logs".to_owned()) || !keys(space).await.is_empty());
    operator
}

async fn a_broken_spec_does_not_hold_the_pipeline(space: &mut Space) -> Operator {
    let quick = Options { cleanup_timeout: Duration::from_secs(15), ..Options::default() };
    let operator = made_by(space, to_be_deleted(), quick).await;
    space.change_spec(json!({"ingest": {"flush": {"maxBytes": "64Mi"}, "queue": {"maxBytes": "1Mi"}}})).await;
    space.condition("SpecValid", "False", Some("Invalid")).await;
    space.expect_event("Invalid");
    delete(space).await;
    for reason in ["CleaningUp", "CleanupFailed"] {
        space.expect_event(reason);
    }
    // Where its data is may be just what is broken.
    told(space, "CleanupGivenUp").await;
    everything_goes(space).await;
    operator
}

async fn a_missing_secret_does_not_hold_the_pipeline_for_ever(space: &mut Space) -> Operator {
    let quick = Options { cleanup_timeout: Duration::from_secs(15), ..Options::default() };
    let operator = made_by(space, to_be_deleted(), quick).await;
    for reason in ["SecretUnusable", "CleaningUp", "CleanupFailed"] {
        space.expect_event(reason);
    }
    space.api::<Secret>().delete("bucket", &DeleteParams::default()).await.expect("deleted");
    delete(space).await;
    told(space, "CleanupGivenUp").await;
    everything_goes(space).await;
    operator
}

async fn a_deleted_namespace_takes_its_pipeline_along(space: &mut Space) {
    // As it is installed for a whole cluster: neither the operator nor its rights are in that namespace.
    let home = space.world.space("home-of-the-operator").await;
    let rights = helm::template(&home.namespace, &[], &["rbac.yaml", "serviceaccount.yaml"]);
    helm::apply(&space.client, &helm::objects(&rights)).await;
    space.create(&pipelines::with(space, to_be_deleted())).await;
    let _operator = Operator::start_from(&home, space, Options::default()).await;
    space.is_ready().await;
    let namespaces: Api<Namespace> = Api::all(space.client.clone());
    namespaces.delete(&space.namespace, &DeleteParams::default()).await.expect("it may be deleted");
    until("the end of the namespace", 2 * PATIENCE, async || {
        namespaces.get_opt(&space.namespace).await.ok().filter(Option::is_none).map(drop)
    })
    .await;
}

async fn pods_end_before_their_bucket_is_emptied(space: &mut Space) -> Operator {
    let mut first = made(space, to_be_deleted()).await;
    first.process.kill();
    // A pod that takes its time: it drains, and must find its bucket.
    let pods: Api<Pod> = space.api();
    let ingest = ListParams::default().labels("app.kubernetes.io/component=ingest");
    let slow = pods.list(&ingest).await.expect("pods").items.remove(0).name_any();
    let hold = json!({"metadata": {"finalizers": ["example.com/draining"]}});
    space.change::<Pod>(&slow, hold).await;
    let operator = space.operator().await;
    delete(space).await;
    for reason in ["CleaningUp", "CleanedUp"] {
        space.expect_event(reason);
    }
    space
        .sees("the pod to be told to end", &slow, |pod: &Pod| {
            pod.metadata.deletion_timestamp.as_ref().map(drop)
        })
        .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(keys(space).await.contains(&"_spillway/manifest.json".to_owned()), "emptied under a running pod");
    assert!(space.tables().await.contains(&"logs".to_owned()), "dropped under a running pod");
    assert!(space.api::<Deployment>().get_opt("logs-syncer").await.expect("an answer").is_some());
    space.change::<Pod>(&slow, json!({"metadata": {"finalizers": null}})).await;
    everything_goes(space).await;
    assert_eq!(keys(space).await, Vec::<String>::new());
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
