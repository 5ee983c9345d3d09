//! From a chart with an older resource to this one, with a pipeline stored under the older.

use std::fs;
use std::path::Path;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{ApiResource, DynamicObject, PostParams};
use kube::{Api, Resource};
use serde_json::{Value, json};
use spillway_crds::LogPipeline;
use spillway_e2e::cases;
use spillway_e2e::cluster::chart;
use spillway_e2e::space::{PATIENCE, Space};
use spillway_e2e::traffic::{Load, Traffic};
use spillway_tests::kubernetes::pipelines::NAME;
use spillway_tests::wait::until;
use tempfile::TempDir;

cases![; alone: a_pipeline_stored_under_an_older_resource_runs_on_under_this_one];

/// This chart with a resource that has one field more and one less. The status is the same: it is the operator of here
/// that writes it, in place of an older one.
fn older_chart() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    copy(&chart(), folder.path());
    let file = folder.path().join("files/logpipelines.yaml");
    let mut crd: Value =
        serde_saphyr::from_str(&fs::read_to_string(&file).expect("the CRD")).expect("the CRD");
    let version = &mut crd["spec"]["versions"][0];
    let schema = &mut version["schema"]["openAPIV3Schema"]["properties"];
    let fields = schema["spec"]["properties"].as_object_mut().expect("properties");
    fields.remove("networkPolicy").expect("a field that the older one has not");
    schema["spec"]["properties"]["ingest"]["properties"]["spool"] = json!({"type": "string"});
    let text = serde_saphyr::to_string(&crd).expect("YAML");
    // The chart's template looks for this line.
    assert!(text.contains("\n  name: logpipelines.spillway.dev\n"), "{text}");
    fs::write(file, text).expect("the CRD is written");
    folder
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        let to = to.join(entry.file_name().expect("a name"));
        if entry.is_dir() {
            copy(&entry, &to);
        } else {
            fs::copy(&entry, &to).expect("a copy");
        }
    }
}

async fn a_pipeline_stored_under_an_older_resource_runs_on_under_this_one(space: &Space) {
    let older = older_chart();
    // The operator of a new version is a new process, and the one of here otherwise the same: a watch that was open before
    // goes on for two minutes with what the older resource has.
    space.cluster.install_from(older.path(), &["podAnnotations.chart=older"]).await;
    // As it is stored, and not as this program's types know it.
    let stored: Api<DynamicObject> = Api::namespaced_with(
        space.cluster.client.clone(),
        &space.namespace,
        &ApiResource::erase::<LogPipeline>(&()),
    );
    let from_here = json!({"matchLabels": {"kubernetes.io/metadata.name": space.namespace}});
    let mut pipeline = serde_json::to_value(space.pipeline(json!({}))).expect("an object");
    pipeline["spec"]["ingest"]["spool"] = json!("64Mi");
    pipeline["spec"]["networkPolicy"] = json!({"metricsFrom": from_here});
    let object: DynamicObject = serde_json::from_value(pipeline).expect("an object");
    until("the older resource to be served", PATIENCE, async || {
        let created = stored.create(&PostParams::default(), &object).await.expect("the pipeline is created");
        let is_old = created.data["spec"]["ingest"]["spool"] == "64Mi"
            && created.data["spec"]["networkPolicy"].is_null();
        if !is_old {
            stored.delete(NAME, &Default::default()).await.expect("it is deleted");
            space.goes::<LogPipeline>(NAME).await;
        }
        is_old.then_some(())
    })
    .await;
    space.is_ready().await;
    let traffic = Traffic::start(space, Load::of(600, 300)).await;
    let before = space.who_runs(NAME).await;

    space.cluster.install(&[]).await;
    until("the new field to be kept", PATIENCE, async || {
        let changed = space.change_spec(json!({"networkPolicy": {"metricsFrom": from_here}})).await;
        changed.spec.network_policy?.metrics_from
    })
    .await;
    // The field that is gone is not served any more, and nobody is held up by what was stored of it.
    let now = stored.get(NAME).await.expect("the pipeline is served");
    assert!(now.data["spec"]["ingest"]["spool"].is_null(), "{}", now.data["spec"]);
    assert_eq!(now.data["spec"]["ingest"]["replicas"], 2);
    space.is_ready().await;
    space
        .sees("the new field to be acted on", "logs-ingest", |policy: &NetworkPolicy| {
            let text = serde_json::to_string(policy.spec.as_ref()?).ok()?;
            text.contains(policy.meta().namespace.as_deref()?).then_some(())
        })
        .await;
    let verdict = traffic.stop().await;
    assert_eq!(verdict.unclear, 0);
    assert_eq!(space.who_runs(NAME).await, before);
}
