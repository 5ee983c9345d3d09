//! What isn't the pipeline's is never taken over, changed or deleted.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Secret, Service, ServiceAccount};
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;
use spillway_crds::LogPipeline;
use spillway_tests::kubernetes::operator::Operator;
use spillway_tests::kubernetes::pipelines::{self, NAME};
use spillway_tests::kubernetes::space::Space;

use crate::claim::claims;

claims![
    an_object_of_somebody_else_is_left_alone_and_named,
    an_object_of_another_pipeline_is_left_alone,
    an_object_that_only_bears_our_labels_is_left_alone,
    a_service_account_that_the_user_names_stays_the_users,
];

fn foreign(labels: serde_json::Value) -> Service {
    let service = json!({
        "metadata": {"name": "logs-ingest", "labels": labels},
        "spec": {"ports": [{"port": 80}], "selector": {"app": "theirs"}},
    });
    serde_json::from_value(service).unwrap()
}

async fn stays_foreign(space: &mut Space, labels: serde_json::Value) -> Operator {
    space.expect_event("NotOurs");
    let before = space.create(&foreign(labels)).await;
    space.create(&pipelines::pipeline(space)).await;
    let operator = space.operator().await;
    let condition = space.condition("IngestAvailable", "False", Some("NotOurs")).await;
    assert!(condition.message.contains("Service logs-ingest"), "{}", condition.message);
    // The rest is made all the same.
    space.appears::<Deployment>("logs-syncer").await;
    space.condition("SyncerAvailable", "True", None).await;
    let after: Service = space.get("logs-ingest").await;
    assert_eq!(after.resource_version(), before.resource_version(), "it was written to");
    operator
}

async fn an_object_of_somebody_else_is_left_alone_and_named(space: &mut Space) -> Operator {
    let operator = stays_foreign(space, json!({"app": "theirs"})).await;
    // The way out that the condition tells.
    space.api::<Service>().delete("logs-ingest", &DeleteParams::default()).await.expect("it is deleted");
    // It bears no label of ours, so it is not watched: looked for with the status.
    space.is_ready().await;
    operator
}

async fn an_object_that_only_bears_our_labels_is_left_alone(space: &mut Space) -> Operator {
    let labels = json!({
        "app.kubernetes.io/name": "spillway", "app.kubernetes.io/instance": NAME,
        "app.kubernetes.io/component": "ingest", "app.kubernetes.io/managed-by": "spillway-operator",
        "spillway.dev/pipeline": NAME,
    });
    let operator = stays_foreign(space, labels).await;
    space.api::<Service>().delete("logs-ingest", &DeleteParams::default()).await.expect("it is deleted");
    space.is_ready().await;
    operator
}

async fn an_object_of_another_pipeline_is_left_alone(space: &mut Space) -> Operator {
    // `logs` has `logs-ingest`; so would a pipeline that was deleted without its objects and made again.
    let operator = space.ready_pipeline().await;
    let first: LogPipeline = space.get(NAME).await;
    let (before_uid, service): (_, Service) = (first.uid(), space.get("logs-ingest").await);
    space
        .api::<LogPipeline>()
        .delete(NAME, &DeleteParams::orphan())
        .await
        .expect("deleted without its objects");
    space.goes::<LogPipeline>(NAME).await;
    space.expect_event("Kept");
    space.expect_event("NotOurs");
    let second =
        space.api().create(&PostParams::default(), &pipelines::pipeline(space)).await.expect("made again");
    assert_ne!(second.uid(), before_uid);
    let condition = space.condition("IngestAvailable", "False", Some("NotOurs")).await;
    assert!(condition.message.contains("logs-ingest"), "{}", condition.message);
    let after: Service = space.get("logs-ingest").await;
    assert_eq!(after.uid(), service.uid());
    operator
}

async fn a_service_account_that_the_user_names_stays_the_users(space: &mut Space) -> Operator {
    let account = json!({"metadata": {"name": "bucket-role", "annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/logs"}}});
    let account: ServiceAccount = serde_json::from_value(account).unwrap();
    let before = space.create(&account).await;
    let own = json!({"storage": {"s3": {"credentialsSecretRef": null, "serviceAccount": "bucket-role"}}});
    space.create(&pipelines::with(space, own)).await;
    let operator = space.operator().await;
    // The chart gives the right to make its token only for accounts that it was told of.
    space.expect_event("NoToken");
    let condition = space.condition("BucketReady", "False", Some("NoToken")).await;
    assert!(condition.message.contains("tokenServiceAccounts"), "{}", condition.message);
    let after: ServiceAccount = space.get("bucket-role").await;
    assert_eq!(after.resource_version(), before.resource_version());
    let keys: Secret = space.get("shop-keys").await;
    assert!(keys.owner_references().is_empty());
    operator
}
