//! Bucket and schema: set up, put right, and refused where the owner must decide.

use k8s_openapi::api::apps::v1::Deployment;
use serde_json::json;
use spillway_bucket::PutMeta;
use spillway_crds::LogPipeline;
use spillway_tests::kubernetes::operator::Operator;
use spillway_tests::kubernetes::pipelines::{self, NAME};
use spillway_tests::kubernetes::space::Space;

use crate::claim::claims;

claims![
    a_new_column_is_added_to_an_older_table,
    a_table_that_only_its_owner_may_change_is_refused_with_the_statement,
    a_view_that_is_switched_off_stops_being_fed,
    a_clickhouse_that_is_away_is_named_and_the_rest_goes_on,
    a_bucket_that_is_missing_is_named,
    pods_come_after_bucket_and_schema,
    a_bad_url_is_cured_by_the_next_change,
    a_refused_rebuild_is_tried_again_when_its_owner_asks_again,
];

async fn a_new_column_is_added_to_an_older_table(space: &mut Space) -> Operator {
    let mut operator = space.ready_pipeline().await;
    operator.process.kill();
    space.ask(&format!("ALTER TABLE {}.logs DROP COLUMN request_id", space.database)).await;
    let operator = space.operator().await;
    let columns = format!(
        "SELECT count() FROM system.columns WHERE database = '{}' AND table = 'logs' AND name = 'request_id'",
        space.database
    );
    spillway_tests::wait::until("the column", std::time::Duration::from_secs(60), async || {
        (space.ask(&columns).await.trim() == "1").then_some(())
    })
    .await;
    space.is_ready().await;
    operator
}

async fn a_table_that_only_its_owner_may_change_is_refused_with_the_statement(space: &mut Space) -> Operator {
    let mut operator = space.ready_pipeline().await;
    operator.process.kill();
    let syncer: Deployment = space.get("logs-syncer").await;
    let type_of = format!(
        "SELECT type FROM system.columns WHERE database = '{}' AND table = 'logs' AND name = 'request_id'",
        space.database
    );
    let before = space.ask(&type_of).await.trim().to_owned();
    space
        .ask(&format!("ALTER TABLE {}.logs MODIFY COLUMN request_id LowCardinality(String)", space.database))
        .await;
    let operator = space.operator().await;
    let condition = space.condition("SchemaReady", "False", Some("SchemaDiffers")).await;
    space.expect_event("SchemaDiffers");
    assert!(
        condition.message.contains("request_id") && condition.message.contains("ALTER TABLE"),
        "{}",
        condition.message
    );
    // The syncer that runs is left as it is; ingest follows its settings.
    space.change_spec(json!({"syncer": {"concurrency": 3}, "ingest": {"flush": {"maxAge": "250ms"}}})).await;
    space
        .sees("ingest's new settings", "logs-ingest", |now: &Deployment| {
            (now.metadata.generation > Some(1)).then_some(())
        })
        .await;
    let now: Deployment = space.get("logs-syncer").await;
    assert_eq!(now.metadata.generation, syncer.metadata.generation);
    space.ask(&format!("ALTER TABLE {}.logs MODIFY COLUMN request_id {before}", space.database)).await;
    space.condition("SchemaReady", "True", None).await;
    space.is_ready().await;
    operator
}

async fn a_view_that_is_switched_off_stops_being_fed(space: &mut Space) -> Operator {
    let operator = space.ready_pipeline().await;
    let with = space.tables().await;
    space.change_spec(json!({"schema": {"views": {"httpLatency": false}}})).await;
    space.condition("SchemaReady", "True", None).await;
    space.is_ready().await;
    // Nothing that holds rows is dropped.
    let without = space.tables().await;
    let gone: Vec<_> = with.iter().filter(|name| !without.contains(name)).collect();
    assert!(gone.iter().all(|name| !name.ends_with("_data")), "{gone:?}");
    operator
}

async fn a_clickhouse_that_is_away_is_named_and_the_rest_goes_on(space: &mut Space) -> Operator {
    let nobody = format!("http://127.0.0.1:{}", spillway_tests::child::free_port());
    space.create(&pipelines::with(space, json!({"clickhouse": {"url": nobody}}))).await;
    let operator = space.operator().await;
    let condition = space.condition("SchemaReady", "False", None).await;
    space.expect_event(&condition.reason);
    assert!(
        condition.message.contains(&nobody) || condition.message.contains("127.0.0.1"),
        "{}",
        condition.message
    );
    space.condition("BucketReady", "True", None).await;
    space.condition("Ready", "False", None).await;
    operator
}

async fn a_bucket_that_is_missing_is_named(space: &mut Space) -> Operator {
    space.create(&pipelines::with(space, json!({"storage": {"bucketPolicy": {"create": false}}}))).await;
    let operator = space.operator().await;
    let condition = space.condition("BucketReady", "False", None).await;
    space.expect_event(&condition.reason);
    assert!(
        condition.message.contains(&space.bucket) && condition.message.contains("create"),
        "{}",
        condition.message
    );
    space.change_spec(json!({"storage": {"bucketPolicy": {"create": true}}})).await;
    space.is_ready().await;
    operator
}

async fn pods_come_after_bucket_and_schema(space: &mut Space) -> Operator {
    space.create(&pipelines::with(space, json!({"storage": {"bucketPolicy": {"create": false}}}))).await;
    let operator = space.operator().await;
    let condition = space.condition("BucketReady", "False", None).await;
    space.expect_event(&condition.reason);
    space.condition("IngestAvailable", "False", Some("WaitingForBucket")).await;
    space.condition("SyncerAvailable", "False", Some("WaitingForBucket")).await;
    let deployments =
        space.api::<Deployment>().list(&kube::api::ListParams::default()).await.expect("Deployments");
    assert!(deployments.items.is_empty());
    operator
}

async fn a_bad_url_is_cured_by_the_next_change(space: &mut Space) -> Operator {
    let operator = space.ready_pipeline().await;
    let nobody = format!("http://127.0.0.1:{}", spillway_tests::child::free_port());
    space.change_spec(json!({"clickhouse": {"url": nobody}})).await;
    let condition = space.condition("SchemaReady", "False", None).await;
    space.expect_event(&condition.reason);
    space.change_spec(json!({"clickhouse": {"url": space.world.front.url()}})).await;
    space.is_ready().await;
    operator
}

async fn a_refused_rebuild_is_tried_again_when_its_owner_asks_again(space: &mut Space) -> Operator {
    const MANIFEST: &str = "_spillway/manifest.json";
    const ANNOTATION: &str = "spillway.dev/rebuild-manifest";
    let ask = |value: Option<&'static str>| json!({"metadata": {"annotations": {ANNOTATION: value}}});
    let operator = space.ready_pipeline().await;
    let bucket = space.open_bucket().await;
    let damaged = "_spillway/batches/1-00000001.json".to_owned();
    bucket.put_if_absent(&damaged, "{".into(), &PutMeta::default()).await.expect("a damaged list");
    bucket.delete_many(&[MANIFEST.to_owned()]).await.expect("the manifest is deleted");
    space.expect_event("ManifestLost");
    space.change::<LogPipeline>(NAME, ask(Some("true"))).await;
    let refused = space.condition("BucketReady", "False", Some("ManifestLost")).await.message;
    assert!(refused.contains(&damaged) && refused.contains("off and set it again"), "{refused}");

    // Mended. A failure that waiting may mend would be tried again after 5 s.
    bucket.delete_many(&[damaged]).await.expect("the damaged list is deleted");
    tokio::time::sleep(std::time::Duration::from_secs(8)).await;
    assert!(space.manifest().await.is_none(), "tried again although nobody asked");
    // So fast that the operator may see only the second.
    space.change::<LogPipeline>(NAME, ask(None)).await;
    space.change::<LogPipeline>(NAME, ask(Some("true"))).await;
    space.condition("BucketReady", "True", None).await;
    space
        .sees("the annotation to be taken off", NAME, |pipeline: &LogPipeline| {
            let annotations = pipeline.metadata.annotations.as_ref();
            annotations.is_none_or(|all| !all.contains_key(ANNOTATION)).then_some(())
        })
        .await;
    space.is_ready().await;
    operator
}
