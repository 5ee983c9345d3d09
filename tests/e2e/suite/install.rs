//! From nothing to rows, and what is left without an operator.

use std::collections::BTreeSet;
use std::path::Path;

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};
use spillway_crds::LogPipeline;
use spillway_e2e::cases;
use spillway_e2e::cluster::{OPERATOR, RELEASE, SYSTEM, run};
use spillway_e2e::doors::{Doors, Knock};
use spillway_e2e::space::{PATIENCE, Space};
use spillway_e2e::traffic::{Load, Traffic};
use spillway_tests::kubernetes::pipelines::{merge, secret, tenant};
use spillway_tests::minio;
use spillway_tests::wait::until;

cases![
    a_pipeline_gets_ready_and_loads_what_it_is_sent,
    the_readmes_pipeline_runs_once_its_names_are_ones_own;
    alone: without_an_operator_the_charts_pipeline_works_on_and_the_next_one_takes_it_up,
];

async fn a_pipeline_gets_ready_and_loads_what_it_is_sent(space: &Space) {
    space.ready_pipeline(json!({})).await;
    let traffic = Traffic::start(space, Load::of(10, 1000)).await;
    let verdict = traffic.verdict().await;
    assert_eq!(verdict.unclear, 0);
    assert_eq!(space.rows().await, verdict.acknowledged);
}

/// What somebody with a MinIO and a ClickHouse, and a machine that is no server, writes into it.
fn ones_own() -> Value {
    let small = json!({"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": null});
    json!({
        "storage": {
            "s3": {
                "endpoint": "http://minio:9000", "region": minio::REGION,
                "serviceAccount": null, "credentialsSecretRef": {"name": "bucket"},
            },
            // MinIO encrypts only beside a server of keys.
            "bucketPolicy": {"encryption": null},
        },
        "clickhouse": {"url": "http://clickhouse:8123", "credentialsSecretRef": null, "caSecretRef": null},
        "ingest": {"resources": small},
        "syncer": {"resources": small},
    })
}

async fn the_readmes_pipeline_runs_once_its_names_are_ones_own(space: &Space) {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/kubernetes.yaml");
    let example = std::fs::read_to_string(example).expect("the example").replace("logging", &space.namespace);
    let mut keys = Vec::new();
    let mut made = Vec::new();
    for document in example.split("\n---\n") {
        let mut object: Value = serde_saphyr::from_str(document).expect("an object");
        if object["kind"] == "LogPipeline" {
            merge(&mut object["spec"], ones_own());
        }
        for (secret, project) in [("storefront-keys", "storefront-web"), ("payments-keys", "payments")] {
            if object["metadata"]["name"] == secret {
                keys.push(format!("{project}={}", object["stringData"]["2026"].as_str().expect("a key")));
            }
        }
        made.push(object.to_string());
    }
    space.apply_yaml(&made.join("\n---\n")).await;
    space.kubectl(&["wait", "--for=condition=Ready", "logpipeline/logs", "--timeout=120s"]).await;

    let more = vec!["--table=observability.logs".to_owned()];
    let traffic = Traffic::start_blindly(space, Load { keys, more, ..Load::of(10, 500) }).await;
    let verdict = traffic.verdict().await;
    let counted = space.sql("SELECT project_id, count() FROM observability.logs GROUP BY 1 ORDER BY 1").await;
    let projects: Vec<_> = counted.lines().filter_map(|line| line.split('\t').next()).collect();
    assert_eq!((verdict.unclear, projects), (0, vec!["payments", "storefront-web"]), "{counted}");
    assert_eq!(
        space.get::<HorizontalPodAutoscaler>("logs-ingest").await.spec.map(|spec| spec.max_replicas),
        Some(20)
    );
}

/// What the release consists of, and that of it which is there.
async fn of_the_release(space: &Space, manifest: &Path) -> BTreeSet<String> {
    let mut arguments =
        vec!["get", "--namespace", SYSTEM, "--ignore-not-found", "--output=name", "--filename"];
    let manifest = manifest.to_string_lossy();
    arguments.push(&manifest);
    run(space.cluster.kubectl(&arguments)).await.lines().map(str::to_owned).collect()
}

/// Everything in the operator's namespace that somebody made, but for what every namespace has.
async fn of_the_namespace(space: &Space) -> BTreeSet<String> {
    let kinds = "pods,deployments,replicasets,services,secrets,serviceaccounts,configmaps,roles,rolebindings,\
                 poddisruptionbudgets,networkpolicies,leases,logpipelines";
    let all = run(space.cluster.kubectl(&["get", kinds, "--namespace", SYSTEM, "--output=name"])).await;
    let everywhere = ["configmap/kube-root-ca.crt", "serviceaccount/default"];
    all.lines().filter(|name| !everywhere.contains(name)).map(str::to_owned).collect()
}

async fn without_an_operator_the_charts_pipeline_works_on_and_the_next_one_takes_it_up(space: &Space) {
    let cluster = &space.cluster;
    let namespace = format!("example.namespace={}", space.namespace);
    let id = format!("example.bucket.accessKeyId={}", minio::ACCESS_KEY);
    let key = format!("example.bucket.secretAccessKey={}", minio::SECRET_KEY);
    let settings = [
        "example.enabled=true",
        &namespace,
        "example.bucket.endpoint=http://minio:9000",
        "example.bucket.name=example-logs",
        &id,
        &key,
        "example.clickhouse.url=http://clickhouse:8123",
    ];
    cluster.install(&settings).await;
    space.kubectl(&["wait", "--for=condition=Ready", "logpipeline/example", "--timeout=120s"]).await;
    let made: Secret = space.get("example-tenant").await;
    let key = made.data.and_then(|data| String::from_utf8(data.get("key")?.0.clone()).ok()).expect("a key");
    let more = vec!["--url=http://example-ingest:8080".to_owned()];
    let keys = vec![format!("example={key}")];
    let traffic = Traffic::start(space, Load { keys, more, ..Load::of(600, 300) }).await;
    let before = space.who_runs("example").await;

    let manifest = tempfile::NamedTempFile::new().expect("a file");
    let mut helm = cluster.helm();
    helm.args(["get", "manifest", RELEASE, "--namespace", SYSTEM]);
    std::fs::write(manifest.path(), run(helm).await).expect("the file is written");
    assert!(of_the_release(space, manifest.path()).await.len() > 5, "the release has more than that");
    cluster.uninstall().await;
    let crd = "customresourcedefinition.apiextensions.k8s.io/logpipelines.spillway.dev".to_owned();
    assert_eq!(of_the_release(space, manifest.path()).await, BTreeSet::from([crd]));
    let lease = BTreeSet::from([format!("lease.coordination.k8s.io/{OPERATOR}")]);
    until("the end of the operator's pods", PATIENCE, async || {
        (of_the_namespace(space).await == lease).then_some(())
    })
    .await;

    let rows = space.rows().await;
    until("rows without an operator", PATIENCE, async || (space.rows().await > rows + 3000).then_some(()))
        .await;
    assert_eq!(space.who_runs("example").await, before);

    cluster.install(&[]).await;
    let other = "a-key-of-the-shop-that-comes-later";
    space.create(&secret("later-keys", &[("first", other)])).await;
    let tenants =
        json!({"spec": {"tenants": [tenant("example", "example-tenant"), tenant("later", "later-keys")]}});
    space.change::<LogPipeline>("example", tenants).await;
    let doors = Doors::of(space, "example").await;
    doors.until("a tenant added", Knock::with(other, "later"), |answer| answer.status == 200).await;
    space.kubectl(&["wait", "--for=condition=Ready", "logpipeline/example", "--timeout=120s"]).await;
    let verdict = traffic.stop().await;
    assert_eq!(verdict.unclear, 0);
    assert_eq!(space.who_runs("example").await, before);
}
