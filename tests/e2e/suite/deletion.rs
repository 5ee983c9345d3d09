//! Pipelines deleted under both policies, with everything there and with something away.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::json;
use spillway_bucket::PutMeta;
use spillway_crds::LogPipeline;
use spillway_e2e::cases;
use spillway_e2e::space::{PATIENCE, Space, keys};
use spillway_e2e::traffic::{Load, Traffic};
use spillway_tests::kubernetes::pipelines::NAME;
use spillway_tests::wait::until;

cases![
    a_deleted_pipeline_leaves_what_it_took_and_the_next_one_loads_it,
    with_the_policy_delete_the_pipelines_own_data_goes_and_nothing_else,
    a_clickhouse_that_is_away_does_not_hold_a_deleted_pipeline,
    a_namespace_with_a_pipeline_to_be_cleaned_up_can_be_deleted,
    a_namespace_with_all_servers_in_it_does_not_wait_for_them,
];

/// `cleanupTimeout` of the installation.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(90);

async fn delete(space: &Space) {
    space.api::<LogPipeline>().delete(NAME, &DeleteParams::default()).await.expect("the pipeline is deleted");
}

/// Waits until neither the pipeline nor a pod of it is left, and says how long that took.
async fn all_gone(space: &Space, patience: Duration) -> Duration {
    let since = Instant::now();
    let api: Api<LogPipeline> = space.api();
    until(&format!("the end of the pipeline and its pods ({})", space.namespace), patience, async || {
        let is_there = api.get_opt(NAME).await.ok()?.is_some();
        (!is_there && space.who_runs(NAME).await.is_empty()).then_some(())
    })
    .await;
    since.elapsed()
}

async fn tables(space: &Space) -> Vec<String> {
    let found = space.sql("SELECT name FROM system.tables WHERE database = 'spillway' ORDER BY name").await;
    found.lines().map(str::to_owned).collect()
}

fn is_staged(key: &str) -> bool {
    !key.starts_with("_spillway/")
}

async fn a_deleted_pipeline_leaves_what_it_took_and_the_next_one_loads_it(space: &Space) {
    space.ready_pipeline(json!({})).await;
    let traffic = Traffic::start(space, Load::of(600, 500)).await;
    let before = tables(space).await;
    delete(space).await;
    let took = all_gone(space, PATIENCE).await;
    let kept = space.told("Kept", NAME).await;
    assert!(kept.contains("spillway"), "{kept}");
    assert_eq!(tables(space).await, before);
    let (bucket, forward) = space.bucket().await;
    let left = keys(&bucket).await.expect("the bucket can be listed");
    assert!(left.iter().any(|key| key == "_spillway/manifest.json"), "{left:?}");
    let staged = left.iter().filter(|key| is_staged(key)).count();
    println!("deletion: retained: gone after {:.1} s, {staged} objects staged", took.as_secs_f32());
    assert!(staged > 0, "ingest took records until its end, and the syncer was gone by then");
    let rows = space.rows().await;
    drop(forward);

    space.ready_pipeline(json!({})).await;
    until("rows of what comes after", PATIENCE, async || (space.rows().await > rows + 3000).then_some(()))
        .await;
    traffic.stop().await;
    let (bucket, _forward) = space.bucket().await;
    until("the end of what was staged before", PATIENCE, async || {
        let now = keys(&bucket).await.ok()?;
        (!left.iter().any(|key| is_staged(key) && now.contains(key))).then_some(())
    })
    .await;
}

async fn with_the_policy_delete_the_pipelines_own_data_goes_and_nothing_else(space: &Space) {
    space.ready_pipeline(json!({"deletionPolicy": "Delete"})).await;
    Traffic::start(space, Load::of(5, 500)).await.verdict().await;
    space.sql("CREATE TABLE spillway.theirs (n UInt8) ENGINE = MergeTree ORDER BY n").await;
    let (bucket, _forward) = space.bucket().await;
    bucket.put_if_absent("reports/2026.csv", "a,b".into(), &PutMeta::default()).await.expect("an object");
    assert!(tables(space).await.len() > 2 && keys(&bucket).await.expect("keys").len() > 2);

    // Sent until its end: what is taken last is deleted as well.
    let load = Load { name: "late", more: vec!["--no-verdict".into()], ..Load::of(60, 500) };
    let rows = space.rows().await;
    let _late = Traffic::start_blindly(space, load).await;
    until("records under way", PATIENCE, async || (space.rows().await > rows).then_some(())).await;
    delete(space).await;
    let took = all_gone(space, PATIENCE).await;
    println!("deletion: cleaned up: gone after {:.1} s", took.as_secs_f32());
    space.told("CleaningUp", NAME).await;
    space.told("CleanedUp", NAME).await;
    assert_eq!(tables(space).await, ["theirs"]);
    assert_eq!(keys(&bucket).await.expect("keys"), ["reports/2026.csv"]);
}

async fn scale_clickhouse(space: &Space, replicas: i32) {
    space.change::<Deployment>("clickhouse", json!({"spec": {"replicas": replicas}})).await;
}

async fn a_clickhouse_that_is_away_does_not_hold_a_deleted_pipeline(space: &Space) {
    space.ready_pipeline(json!({"deletionPolicy": "Delete"})).await;
    Traffic::start(space, Load::of(3, 200)).await.verdict().await;
    let (rows, before) = (space.rows().await, tables(space).await);
    scale_clickhouse(space, 0).await;
    until("the end of ClickHouse", PATIENCE, async || {
        space.pods("app=clickhouse").await.is_empty().then_some(())
    })
    .await;
    delete(space).await;
    let took = all_gone(space, CLEANUP_TIMEOUT + PATIENCE).await;
    println!("deletion: given up: gone after {:.1} s", took.as_secs_f32());
    assert!(took >= CLEANUP_TIMEOUT, "it had its time: {took:?}");
    space.told("CleanupFailed", NAME).await;
    let note = space.told("CleanupGivenUp", NAME).await;
    assert!(note.contains("spillway.logs"), "where the data is left is said: {note}");

    // Half a cleanup would be worse than none: the manifest says which rows are whose.
    scale_clickhouse(space, 1).await;
    space.is_available("clickhouse").await;
    assert_eq!((space.rows().await, tables(space).await), (rows, before));
    let (bucket, _forward) = space.bucket().await;
    assert!(keys(&bucket).await.expect("keys").iter().any(|key| key == "_spillway/manifest.json"));
}

async fn a_namespace_with_a_pipeline_to_be_cleaned_up_can_be_deleted(space: &Space) {
    // Its servers are elsewhere; those of a namespace go with it.
    let guest = Space::new(Arc::clone(&space.cluster), &format!("guest {}", space.test));
    assert_ne!(guest.namespace, space.namespace);
    guest.open_empty().await;
    let servers = json!({
        "storage": {"s3": {"endpoint": format!("http://minio.{}.svc:9000", space.namespace)}},
        "clickhouse": {"url": format!("http://clickhouse.{}.svc:8123", space.namespace)},
        "deletionPolicy": "Delete",
    });
    guest.ready_pipeline(servers).await;
    let url = format!("--url=http://{NAME}-ingest.{}.svc:8080", guest.namespace);
    Traffic::start(space, Load { more: vec![url], ..Load::of(3, 200) }).await.verdict().await;
    let (bucket, _forward) = space.bucket().await;
    assert!(!tables(space).await.is_empty() && !keys(&bucket).await.expect("keys").is_empty());

    let took = delete_namespace(&guest).await;
    println!("deletion: namespace gone after {:.1} s", took.as_secs_f32());
    // Its Secrets went first, and were remembered.
    assert_eq!(tables(space).await, Vec::<String>::new());
    assert_eq!(keys(&bucket).await.expect("keys"), Vec::<String>::new());
}

async fn a_namespace_with_all_servers_in_it_does_not_wait_for_them(space: &Space) {
    space.ready_pipeline(json!({"deletionPolicy": "Delete"})).await;
    Traffic::start(space, Load::of(3, 200)).await.verdict().await;
    let took = delete_namespace(space).await;
    println!("deletion: namespace with its servers gone after {:.1} s", took.as_secs_f32());
    assert!(took < CLEANUP_TIMEOUT, "what is gone was waited for: {took:?}");
}

/// How long that takes.
async fn delete_namespace(space: &Space) -> Duration {
    let namespaces: Api<Namespace> = Api::all(space.cluster.client.clone());
    let since = Instant::now();
    namespaces.delete(&space.namespace, &DeleteParams::default()).await.expect("the namespace is deleted");
    until(&format!("the end of {}", space.namespace), CLEANUP_TIMEOUT + PATIENCE, async || {
        namespaces.get_opt(&space.namespace).await.ok()?.is_none().then_some(())
    })
    .await;
    since.elapsed()
}
