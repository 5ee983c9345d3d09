//! PodMonitors: where the cluster knows them, and only there. Each claim has a control plane of its own, because the kind
//! is the whole cluster's.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use spillway_crds::LogPipeline;
use spillway_tests::kubernetes::control_plane::install_crd;
use spillway_tests::kubernetes::operator::Options;
use spillway_tests::kubernetes::owned::{self, POD_MONITOR};
use spillway_tests::kubernetes::pipelines::NAME;
use spillway_tests::kubernetes::space::{PATIENCE, Space};
use spillway_tests::wait::until;

use crate::claim::claims;

claims![
    they_come_and_go_with_their_kind_while_the_operator_runs,
    they_are_owned_and_kept_right_and_go_when_switched_off,
];

const CRD: &str = include_str!("podmonitors.yaml");

/// Waits until `look` finds in a PodMonitor what it looks for.
async fn monitor<T>(space: &Space, what: &str, name: &str, look: impl Fn(&DynamicObject) -> Option<T>) -> T {
    let api = POD_MONITOR.api(space);
    let seen = async || api.get_opt(name).await.ok().flatten().as_ref().and_then(&look);
    until(&format!("{what} of PodMonitor {name} ({})", space.namespace), PATIENCE, seen).await
}

async fn appear(space: &Space) {
    for name in POD_MONITOR.names {
        monitor(space, "the appearance", name, |_| Some(())).await;
    }
}

async fn go(space: &Space) {
    for name in POD_MONITOR.names {
        until(&format!("the end of PodMonitor {name}"), PATIENCE, async || {
            POD_MONITOR.api(space).get_opt(name).await.ok().filter(Option::is_none).map(drop)
        })
        .await;
    }
}

async fn they_come_and_go_with_their_kind_while_the_operator_runs(main: &mut Space) {
    let world = main.world.beside().await;
    let space = world.space("pod-monitors").await;
    let mut operator = space.ready_pipeline().await;
    space.is_at_rest().await;
    install_crd(&space.client, CRD).await;
    appear(&space).await;
    space.is_ready().await;
    space.is_at_rest().await;
    let before = owned::names(&space).await;
    let kinds: Api<CustomResourceDefinition> = Api::all(space.client.clone());
    kinds.delete("podmonitors.monitoring.coreos.com", &DeleteParams::default()).await.expect("deleted");
    until("the kind to go", PATIENCE, async || {
        kinds.get_opt("podmonitors.monitoring.coreos.com").await.ok().filter(Option::is_none).map(drop)
    })
    .await;
    // Something to apply while there is none.
    space.change_spec(json!({"ingest": {"replicas": 3}})).await;
    space.wants("logs-ingest", 3).await;
    space.is_ready().await;
    space.is_at_rest().await;
    assert_eq!(owned::names(&space).await, before);
    assert!(operator.process.is_running());
}

async fn they_are_owned_and_kept_right_and_go_when_switched_off(main: &mut Space) {
    let world = main.world.beside().await;
    install_crd(&world.admin, CRD).await;
    let mut space = world.space("pod-monitors").await;
    let monitoring = json!({"labels": {"release": "prometheus"}, "interval": "30s"});
    let mut operator = space.ready_with(json!({"monitoring": monitoring}), Options::default()).await;
    appear(&space).await;
    let pipeline: LogPipeline = space.get(NAME).await;
    let api = POD_MONITOR.api(&space);
    for (name, component) in [("logs-ingest", "ingest"), ("logs-syncer", "syncer")] {
        let object = api.get(name).await.expect("a PodMonitor");
        let endpoint = json!({"port": "admin", "path": "/metrics", "interval": "30s"});
        let selected = json!({
            "app.kubernetes.io/name": "spillway",
            "app.kubernetes.io/instance": NAME,
            "app.kubernetes.io/component": component,
        });
        let expected = json!({"selector": {"matchLabels": selected}, "podMetricsEndpoints": [endpoint]});
        assert_eq!(object.data["spec"], expected, "{name}");
        assert_eq!(object.labels()["release"], "prometheus");
        assert_eq!(object.labels()["spillway.dev/pipeline"], NAME);
        let owners = object.owner_references();
        assert_eq!((owners.len(), Some(&owners[0].uid)), (1, pipeline.metadata.uid.as_ref()), "{owners:?}");
        assert_eq!(owners[0].controller, Some(true));
    }

    // What the Prometheus operator says of it is its own.
    let bound = json!({"status": {"bindings": [{"name": "prometheus"}]}});
    let manager = PatchParams::default();
    let said = api.patch_status("logs-ingest", &manager, &Patch::Merge(bound)).await.expect("a status");
    space.is_at_rest().await;
    let now = api.get("logs-ingest").await.expect("a PodMonitor");
    assert_eq!(now.resource_version(), said.resource_version(), "it was written to");

    let meddled = json!({"spec": {"podMetricsEndpoints": [{"port": "http", "path": "/"}]}});
    api.patch("logs-ingest", &manager, &Patch::Merge(meddled)).await.expect("changed");
    let port = |object: &DynamicObject| {
        (object.data["spec"]["podMetricsEndpoints"][0]["port"] == "admin").then_some(())
    };
    monitor(&space, "the right port", "logs-ingest", port).await;
    let deleted = api.get("logs-syncer").await.expect("a PodMonitor").uid();
    api.delete("logs-syncer", &DeleteParams::default()).await.expect("deleted");
    monitor(&space, "the return", "logs-syncer", |now| (now.uid() != deleted).then_some(())).await;

    space.change_spec(json!({"monitoring": {"podMonitor": "Never"}})).await;
    go(&space).await;
    space.is_ready().await;
    space.is_at_rest().await;
    // One of somebody else in its place is left alone and named.
    let theirs: Value = json!({
        "apiVersion": "monitoring.coreos.com/v1", "kind": "PodMonitor",
        "metadata": {"name": "logs-ingest"}, "spec": {"selector": {}},
    });
    let theirs: DynamicObject = serde_json::from_value(theirs).unwrap();
    let theirs = api.create(&PostParams::default(), &theirs).await.expect("made");
    space.change_spec(json!({"monitoring": {"podMonitor": null}})).await;
    let condition = space.condition("IngestAvailable", "False", Some("NotOurs")).await;
    assert!(condition.message.contains("PodMonitor logs-ingest"), "{}", condition.message);
    space.expect_event("NotOurs");
    monitor(&space, "the return", "logs-syncer", |_| Some(())).await;
    let now = api.get("logs-ingest").await.expect("theirs");
    assert_eq!(now.resource_version(), theirs.resource_version(), "it was written to");
    api.delete("logs-ingest", &DeleteParams::default()).await.expect("deleted");
    space.is_ready().await;
    appear(&space).await;
    space.is_at_rest().await;
    assert!(operator.process.is_running());
}
