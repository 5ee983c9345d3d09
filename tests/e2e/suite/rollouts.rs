//! Pods that are replaced by pods of another template, under traffic; and an operator that is.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::runtime::watcher;
use serde_json::json;
use spillway_e2e::cases;
use spillway_e2e::faults::operators;
use spillway_e2e::pods;
use spillway_e2e::space::{PATIENCE, Space};
use spillway_e2e::traffic::{Load, Traffic};
use spillway_e2e::undo::undone;
use spillway_e2e::watched::Watched;
use spillway_tests::kubernetes::pipelines::{NAME, secret, tenant};
use spillway_tests::wait::until;

cases![
    new_settings_replace_one_components_pods_and_lose_nothing,
    a_new_image_replaces_all_pods_and_loses_nothing;
    alone: a_new_operator_replaces_no_pod,
];

/// Longer than any of these tests; they end it.
const LONG: u32 = 600;
const RATE: u32 = 300;

async fn new_settings_replace_one_components_pods_and_lose_nothing(space: &Space) {
    space.ready_pipeline(json!({})).await;
    let traffic = Traffic::start(space, Load::of(LONG, RATE)).await;
    for (component, other, change) in [
        ("ingest", "syncer", json!({"ingest": {"flush": {"maxAge": "300ms"}}})),
        ("syncer", "ingest", json!({"syncer": {"interval": "400ms"}})),
    ] {
        let (before, others) = (uids(space, component).await, uids(space, other).await);
        let ready = ready_pods(space, component).await;
        space.change_spec(change).await;
        are_replaced(space, component, &before).await;
        assert_eq!(uids(space, other).await, others, "{other} has nothing to do with {component}'s settings");
        assert_two_were_ready(&ready);
    }
    space.is_ready().await;
    assert_eq!(traffic.stop().await.unclear, 0);
}

async fn a_new_image_replaces_all_pods_and_loses_nothing(space: &Space) {
    let next = next_image(space);
    space.ready_pipeline(json!({})).await;
    let traffic = Traffic::start(space, Load::of(LONG, RATE)).await;
    let (ingest, syncer) = (uids(space, "ingest").await, uids(space, "syncer").await);
    let ready = [ready_pods(space, "ingest").await, ready_pods(space, "syncer").await];
    space.change_spec(json!({"image": next})).await;
    are_replaced(space, "ingest", &ingest).await;
    are_replaced(space, "syncer", &syncer).await;
    assert_eq!(images(space).await, BTreeSet::from([next]));
    ready.iter().for_each(assert_two_were_ready);
    space.is_ready().await;
    assert_eq!(traffic.stop().await.unclear, 0);
}

async fn a_new_operator_replaces_no_pod(space: &Space) {
    let next = next_image(space);
    let (repository, tag) = next.rsplit_once(':').expect("an image with a tag");
    let image = [format!("image.repository={repository}"), format!("image.tag={tag}")];
    space.ready_pipeline(json!({})).await;
    let traffic = Traffic::start(space, Load::of(LONG, RATE)).await;
    let (pods, templates) = (space.who_runs(NAME).await, templates_of(space).await);
    let old: BTreeSet<_> = operators(&space.cluster).await.iter().filter_map(ResourceExt::uid).collect();
    let work = async {
        space.cluster.install(&image.each_ref().map(String::as_str)).await;
        until("the operators before it to be gone", PATIENCE, async || {
            let all = operators(&space.cluster).await;
            all.iter().all(|pod| pod.uid().is_none_or(|uid| !old.contains(&uid))).then_some(())
        })
        .await;
        assert!(operators(&space.cluster).await.iter().all(|pod| image_of(pod) == next));
        // Ready speaks of the pipeline's present generation, which only the new operator has seen.
        space.create(&secret("second-keys", &[("only", "a-key-of-the-second-that-is-long-enough")])).await;
        let tenants = [tenant("shop", "shop-keys"), tenant("second", "second-keys")];
        space.change_spec(json!({"tenants": tenants})).await;
        space.condition("TenantsValid", "True", None).await;
        space.is_ready().await;
        assert_eq!(space.who_runs(NAME).await, pods);
        assert_eq!(templates_of(space).await, templates);
        assert_eq!(images(space).await, BTreeSet::from([space.cluster.images.spillway.clone()]));
    };
    undone(work, space.cluster.install(&[])).await;
    assert_eq!(space.who_runs(NAME).await, pods, "back to the operator that was there before");
    assert_eq!(traffic.stop().await.unclear, 0);
}

fn next_image(space: &Space) -> String {
    let next = space.cluster.images.next.clone();
    next.expect(
        "SPILLWAY_E2E_NEXT_IMAGE names Spillway's image under another tag, on the nodes like the first",
    )
}

async fn uids(space: &Space, component: &str) -> BTreeSet<String> {
    space.component(component).await.iter().filter_map(ResourceExt::uid).collect()
}

fn image_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.containers.first()?.image.as_deref()).expect("an image")
}

/// What the pipeline's pods run.
async fn images(space: &Space) -> BTreeSet<String> {
    let all = [space.component("ingest").await, space.component("syncer").await].concat();
    all.iter().map(|pod| image_of(pod).to_owned()).collect()
}

/// How often each Deployment's spec was changed.
async fn templates_of(space: &Space) -> [Option<i64>; 2] {
    let [ingest, syncer] = ["logs-ingest", "logs-syncer"].map(async |name| {
        let deployment: Deployment = space.get(name).await;
        deployment.metadata.generation
    });
    [ingest.await, syncer.await]
}

/// Waits until the last of these pods is gone and two others are ready.
async fn are_replaced(space: &Space, component: &str, before: &BTreeSet<String>) {
    until(&format!("new pods of {component} ({})", space.namespace), PATIENCE, async || {
        let pods = space.component(component).await;
        let is_new = |pod: &Pod| pod.uid().is_some_and(|uid| !before.contains(&uid));
        (pods.len() == 2 && pods.iter().all(|pod| is_new(pod) && pods::is_ready(pod))).then_some(())
    })
    .await;
}

/// How many pods are ready from now on.
async fn ready_pods(space: &Space, component: &str) -> Watched<i32> {
    let one = watcher::Config::default().fields(&format!("metadata.name=logs-{component}"));
    let ready = |deployment: &Deployment, _| Some(deployment.status.as_ref()?.ready_replicas.unwrap_or(0));
    Watched::start(space, one, ready).await
}

/// None goes before another has taken its place.
fn assert_two_were_ready(ready: &Watched<i32>) {
    let seen = ready.seen();
    assert!(seen.iter().all(|(_, pods)| *pods >= 2), "{seen:?}");
}
