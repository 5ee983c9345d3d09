//! Two pipelines that name the same bucket, and a cleanup that somebody calls off late.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use serde_json::json;
use spillway_crds::LogPipeline;
use spillway_tests::kubernetes::operator::{Operator, Options};
use spillway_tests::kubernetes::pipelines::{self, NAME};
use spillway_tests::kubernetes::space::{MANIFEST, Space};

use crate::claim::claims;

claims![
    a_bucket_in_use_is_not_shared_and_deleting_the_second_pipeline_takes_nothing,
    a_recreated_pipeline_goes_on_with_its_bucket,
    a_damaged_manifest_keeps_tables_and_bucket,
    a_pipeline_deleted_while_paused_is_cleaned_up,
];

const SECOND: &str = "second";

/// Another pipeline of the same bucket and tables.
async fn second(space: &Space) {
    let mut pipeline = pipelines::with(space, json!({"deletionPolicy": "Delete"}));
    pipeline.metadata.name = Some(SECOND.to_owned());
    space.create(&pipeline).await;
}

async fn a_bucket_in_use_is_not_shared_and_deleting_the_second_pipeline_takes_nothing(
    space: &mut Space,
) -> Operator {
    let operator = space.ready_pipeline().await;
    let (before, tables) = (space.manifest().await, space.tables().await);
    for reason in ["InUse", "CleaningUp", "Kept"] {
        space.expect_event(reason);
    }
    second(space).await;
    let message = space
        .sees("BucketReady=False InUse", SECOND, |pipeline: &LogPipeline| {
            let conditions = &pipeline.status.as_ref()?.conditions;
            let found = conditions.iter().find(|one| one.type_ == "BucketReady" && one.reason == "InUse")?;
            (found.status == "False").then(|| found.message.clone())
        })
        .await;
    assert!(message.contains(&format!("{}/{NAME}", space.namespace)), "{message}");
    assert!(message.contains("prefix of its own") && message.contains("adopt-bucket"), "{message}");
    for name in ["second-ingest", "second-syncer"] {
        assert!(space.api::<Deployment>().get_opt(name).await.expect("an answer").is_none(), "{name}");
    }
    space.delete_pipeline(SECOND).await;
    let note = space.told("Kept", SECOND).await;
    assert!(note.contains(&format!("belongs to LogPipeline {}/{NAME}", space.namespace)), "{note}");
    space.goes::<LogPipeline>(SECOND).await;
    assert_eq!((space.manifest().await.is_some(), space.tables().await), (before.is_some(), tables));
    let pods: Api<Pod> = space.api();
    assert!(!pods.list(&ListParams::default()).await.expect("pods").items.is_empty());
    operator
}

async fn a_recreated_pipeline_goes_on_with_its_bucket(space: &mut Space) -> Operator {
    let operator = space.ready_pipeline().await;
    let before = space.manifest().await;
    space.expect_event("Kept");
    space.delete_pipeline(NAME).await;
    space.goes::<LogPipeline>(NAME).await;
    space.goes::<Deployment>("logs-ingest").await;
    space.create(&pipelines::pipeline(space)).await;
    space.is_ready().await;
    assert_eq!(space.manifest().await.is_some(), before.is_some());
    operator
}

async fn a_damaged_manifest_keeps_tables_and_bucket(space: &mut Space) -> Operator {
    let quick = Options { cleanup_timeout: std::time::Duration::from_secs(15), ..Options::default() };
    let operator = space.ready_with(json!({"deletionPolicy": "Delete"}), quick).await;
    let tables = space.tables().await;
    let bucket = space.open_bucket().await;
    let (_, tag) = bucket.get(MANIFEST).await.expect("an answer").expect("a manifest");
    bucket.swap(MANIFEST, Some(&tag), "{".into()).await.expect("damaged");
    for reason in ["CleaningUp", "CleanupFailed", "CleanupGivenUp"] {
        space.expect_event(reason);
    }
    space.delete_pipeline(NAME).await;
    let said = space.told("CleanupFailed", NAME).await;
    assert!(said.contains("damaged"), "{said}");
    space.goes::<LogPipeline>(NAME).await;
    assert_eq!((space.manifest().await.as_deref(), space.tables().await), (Some(b"{".as_slice()), tables));
    operator
}

async fn a_pipeline_deleted_while_paused_is_cleaned_up(space: &mut Space) -> Operator {
    let operator = space.ready_pipeline().await;
    for reason in ["Paused", "CleaningUp", "CleanedUp"] {
        space.expect_event(reason);
    }
    space.change_spec(json!({"paused": true, "deletionPolicy": "Delete"})).await;
    let has = |pipeline: &LogPipeline| pipeline.metadata.finalizers.as_ref().map(drop);
    space.sees("the finalizer", NAME, has).await;
    space.delete_pipeline(NAME).await;
    space.goes::<LogPipeline>(NAME).await;
    assert_eq!(space.manifest().await, None);
    operator
}
