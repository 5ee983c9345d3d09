//! Two pipelines that name the same bucket, and a cleanup that somebody calls off late.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use serde_json::{Value, json};
use spillway_crds::LogPipeline;
use spillway_tests::kubernetes::operator::{Operator, Options};
use spillway_tests::kubernetes::pipelines::{self, NAME};
use spillway_tests::kubernetes::space::{PATIENCE, Space};
use spillway_tests::wait::until;

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

async fn delete(space: &Space, name: &str) {
    space.api::<LogPipeline>().delete(name, &DeleteParams::default()).await.expect("it may be deleted");
}

async fn note(space: &Space, reason: &str, about: &str) -> String {
    let events: Api<Event> = space.api();
    until(&format!("the event {reason} of {about} ({})", space.namespace), PATIENCE, async || {
        let all = events.list(&ListParams::default()).await.ok()?;
        let found = all.into_iter().find(|event| {
            let name = event.regarding.as_ref().and_then(|object| object.name.as_deref());
            event.reason.as_deref() == Some(reason) && name == Some(about)
        })?;
        Some(found.note.unwrap_or_default())
    })
    .await
}

async fn manifest(space: &Space) -> Option<Vec<u8>> {
    let found = space.open_bucket().await.get("_spillway/manifest.json").await.expect("an answer");
    found.map(|(bytes, _)| bytes.to_vec())
}

async fn made(space: &Space, change: Value, options: Options) -> Operator {
    space.create(&pipelines::with(space, change)).await;
    let operator = Operator::start(space, options).await;
    space.is_ready().await;
    operator
}

async fn a_bucket_in_use_is_not_shared_and_deleting_the_second_pipeline_takes_nothing(
    space: &mut Space,
) -> Operator {
    let operator = space.ready_pipeline().await;
    let (before, tables) = (manifest(space).await, space.tables().await);
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
    delete(space, SECOND).await;
    let note = note(space, "Kept", SECOND).await;
    assert!(note.contains(&format!("belongs to LogPipeline {}/{NAME}", space.namespace)), "{note}");
    space.goes::<LogPipeline>(SECOND).await;
    assert_eq!((manifest(space).await.is_some(), space.tables().await), (before.is_some(), tables));
    let pods: Api<Pod> = space.api();
    assert!(!pods.list(&ListParams::default()).await.expect("pods").items.is_empty());
    operator
}

async fn a_recreated_pipeline_goes_on_with_its_bucket(space: &mut Space) -> Operator {
    let operator = space.ready_pipeline().await;
    let before = manifest(space).await;
    space.expect_event("Kept");
    delete(space, NAME).await;
    space.goes::<LogPipeline>(NAME).await;
    space.goes::<Deployment>("logs-ingest").await;
    space.create(&pipelines::pipeline(space)).await;
    space.is_ready().await;
    assert_eq!(manifest(space).await.is_some(), before.is_some());
    operator
}

async fn a_damaged_manifest_keeps_tables_and_bucket(space: &mut Space) -> Operator {
    let quick = Options { cleanup_timeout: std::time::Duration::from_secs(15), ..Options::default() };
    let operator = made(space, json!({"deletionPolicy": "Delete"}), quick).await;
    let tables = space.tables().await;
    let bucket = space.open_bucket().await;
    let (_, tag) = bucket.get("_spillway/manifest.json").await.expect("an answer").expect("a manifest");
    bucket.swap("_spillway/manifest.json", Some(&tag), "{".into()).await.expect("damaged");
    for reason in ["CleaningUp", "CleanupFailed", "CleanupGivenUp"] {
        space.expect_event(reason);
    }
    delete(space, NAME).await;
    let said = note(space, "CleanupFailed", NAME).await;
    assert!(said.contains("damaged"), "{said}");
    space.goes::<LogPipeline>(NAME).await;
    assert_eq!((manifest(space).await.as_deref(), space.tables().await), (Some(b"{".as_slice()), tables));
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
    delete(space, NAME).await;
    space.goes::<LogPipeline>(NAME).await;
    assert_eq!(manifest(space).await, None);
    operator
}
