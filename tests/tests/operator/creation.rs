//! From an applied object to a running pipeline.

use k8s_openapi::api::core::v1::{Pod, Service};
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::json;
use spillway_crds::LogPipeline;
use spillway_tests::kubernetes::operator::{IMAGE, Operator};
use spillway_tests::kubernetes::owned::{self, KINDS};
use spillway_tests::kubernetes::pipelines::{self, NAME};
use spillway_tests::kubernetes::space::Space;

use crate::claim::claims;

claims![
    applying_a_pipeline_makes_its_objects_and_a_bucket_and_tables,
    every_object_names_its_pipeline_and_goes_with_it,
    ready_waits_for_pods_that_answer,
    pods_get_through_the_restricted_pod_security_level,
    status_feeds_the_columns_and_the_scale_subresource,
    kubectl_wait_ends_when_the_pipeline_is_ready,
    two_pipelines_of_a_namespace_share_a_bucket_and_no_object,
];

async fn applying_a_pipeline_makes_its_objects_and_a_bucket_and_tables(space: &mut Space) -> Operator {
    let operator = space.ready_pipeline().await;
    let mut expected: Vec<String> =
        KINDS.iter().flat_map(|kind| kind.names.iter().map(|name| format!("{} {name}", kind.kind))).collect();
    for component in ["ingest", "syncer"] {
        let settings = owned::settings(space, component).await;
        assert_eq!(settings.len(), 1, "{settings:?}");
        expected.push(format!("ConfigMap {}", settings[0]));
    }
    expected.sort();
    assert_eq!(owned::names(space).await, expected);
    let bucket = space.open_bucket().await;
    assert!(
        bucket.get("_spillway/manifest.json").await.expect("the bucket answers").is_some(),
        "no first manifest"
    );
    assert!(space.tables().await.contains(&"logs".to_owned()), "{:?}", space.tables().await);
    let service: Service = space.get("logs-ingest").await;
    let ports = service.spec.and_then(|spec| spec.ports).unwrap_or_default();
    assert!(ports.iter().any(|port| port.name.as_deref() == Some("http")), "{ports:?}");
    operator
}

async fn every_object_names_its_pipeline_and_goes_with_it(space: &mut Space) -> Operator {
    let operator = space.ready_pipeline().await;
    let pipeline: LogPipeline = space.get(NAME).await;
    for kind in &KINDS {
        for object in kind.list(space).await {
            let what = format!("{} {}", kind.kind, object.name_any());
            let owners = object.owner_references();
            assert_eq!(owners.len(), 1, "{what}: {owners:?}");
            assert_eq!(Some(&owners[0].uid), pipeline.metadata.uid.as_ref(), "{what}");
            assert_eq!(owners[0].controller, Some(true), "{what}");
            for (label, value) in [
                ("app.kubernetes.io/name", "spillway"),
                ("app.kubernetes.io/instance", NAME),
                ("app.kubernetes.io/part-of", "spillway"),
                ("app.kubernetes.io/managed-by", "spillway-operator"),
            ] {
                assert_eq!(object.labels().get(label).map(String::as_str), Some(value), "{what}: {label}");
            }
            assert!(
                ["ingest", "syncer"].contains(&object.labels()["app.kubernetes.io/component"].as_str()),
                "{what}"
            );
        }
    }
    operator
}

async fn ready_waits_for_pods_that_answer(space: &mut Space) -> Operator {
    space.create(&pipelines::with(space, json!({"image": "registry.example/broken:1"}))).await;
    let operator = space.operator().await;
    space.condition("BucketReady", "True", None).await;
    space.condition("SchemaReady", "True", None).await;
    space.condition("IngestAvailable", "False", None).await;
    space.condition("SyncerAvailable", "False", None).await;
    space.condition("Ready", "False", None).await;
    space.change_spec(json!({"image": "registry.example/good:1"})).await;
    space.is_ready().await;
    operator
}

async fn pods_get_through_the_restricted_pod_security_level(space: &mut Space) -> Operator {
    // The namespace enforces it: a pod that doesn't comply is never made.
    let operator = space.ready_pipeline().await;
    let pods = space.api::<Pod>().list(&ListParams::default()).await.expect("pods");
    let of = |component: &str| {
        pods.iter().filter(|pod| pod.labels()["app.kubernetes.io/component"] == component).count()
    };
    assert_eq!((of("ingest"), of("syncer")), (2, 2));
    for pod in &pods {
        let spec = pod.spec.as_ref().expect("a spec");
        let container = spec.containers[0].security_context.as_ref().expect("a security context");
        assert_eq!(container.read_only_root_filesystem, Some(true));
        let token = spec.automount_service_account_token;
        let syncer = pod.labels()["app.kubernetes.io/component"] == "syncer";
        assert!(syncer || token == Some(false), "ingest has no business with the API server");
    }
    operator
}

async fn status_feeds_the_columns_and_the_scale_subresource(space: &mut Space) -> Operator {
    let operator = space.ready_pipeline().await;
    let pipeline: LogPipeline = space.get(NAME).await;
    let status = pipeline.status.expect("a status");
    assert_eq!(status.observed_generation, pipeline.metadata.generation);
    assert_eq!(status.image.as_deref(), Some(IMAGE));
    assert_eq!(status.ingest.as_deref(), Some("2/2"));
    let scale = space.api::<LogPipeline>().get_scale(NAME).await.expect("the scale subresource");
    let seen = scale.status.expect("a status");
    assert_eq!(seen.replicas, 2);
    let selector = seen.selector.expect("a selector");
    let selected = space.api::<Pod>().list(&ListParams::default().labels(&selector)).await.expect("pods");
    assert_eq!(selected.items.len(), 2, "{selector}");
    let types: Vec<_> = status.conditions.iter().map(|condition| condition.type_.as_str()).collect();
    assert_eq!(types, spillway_crds::status::conditions::ALL);
    operator
}

async fn kubectl_wait_ends_when_the_pipeline_is_ready(space: &mut Space) -> Operator {
    space.create(&pipelines::pipeline(space)).await;
    let waiting = space.kubectl(&["wait", "--for=condition=Ready", "lp/logs", "--timeout=60s"]);
    tokio::join!(waiting, space.operator()).1
}

async fn two_pipelines_of_a_namespace_share_a_bucket_and_no_object(space: &mut Space) -> Operator {
    let operator = space.ready_pipeline().await;
    let database = format!("{}_second", space.database);
    let mut second = pipelines::with(
        space,
        json!({"storage": {"s3": {"prefix": "second/"}}, "clickhouse": {"database": database}}),
    );
    second.metadata.name = Some("second".into());
    space.create(&second).await;
    space
        .sees("the second to be ready", "second", |pipeline: &LogPipeline| {
            let conditions = &pipeline.status.as_ref()?.conditions;
            conditions
                .iter()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True")
                .then_some(())
        })
        .await;
    space.is_ready().await;
    let pods = space.api::<Pod>().list(&ListParams::default()).await.expect("pods");
    let of = |name: &str| pods.iter().filter(|pod| pod.labels()["spillway.dev/pipeline"] == name).count();
    assert_eq!((of(NAME), of("second")), (4, 4));
    operator
}
