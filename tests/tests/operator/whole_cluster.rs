//! One operator for the whole cluster, with the chart's rights for that: what it does in one namespace is nothing to
//! the others.

use std::collections::BTreeSet;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, Service};
use kube::api::{DeleteParams, DynamicObject, ListParams};
use kube::discovery::{Discovery, verbs};
use kube::{Api, ResourceExt};
use serde_json::json;
use spillway_tests::kubernetes::at_rest;
use spillway_tests::kubernetes::pipelines::{self, NAME, secret};
use spillway_tests::kubernetes::space::{PATIENCE, Space};
use spillway_tests::wait::until;

use crate::claim::claims;

claims![
    a_broken_pipeline_stops_none_of_another_namespace,
    a_deleted_namespace_takes_its_pipeline_along_and_leaves_the_others_alone,
    nothing_is_written_but_pipelines_and_what_they_own,
    it_leads_by_a_lease_in_its_own_namespace,
];

async fn a_broken_pipeline_stops_none_of_another_namespace(space: &mut Space) {
    let cluster = space.world.whole_cluster().await;
    let (mut broken, good) = (cluster.space("broken").await, cluster.space("good").await);
    broken.api::<Secret>().delete("bucket", &DeleteParams::default()).await.expect("deleted");
    broken.expect_event("SecretUnusable");
    for place in [&broken, &good] {
        place.create(&pipelines::pipeline(place)).await;
    }
    let condition = broken.condition("SpecValid", "False", Some("SecretUnusable")).await;
    assert!(condition.message.contains("bucket"), "{}", condition.message);
    good.is_ready().await;
    good.change_spec(json!({"ingest": {"replicas": 3}})).await;
    good.wants("logs-ingest", 3).await;
    good.is_ready().await;
    broken.condition("Ready", "False", None).await;
    broken.create(&pipelines::secrets().remove(0)).await;
    broken.is_ready().await;
    broken.is_at_rest().await;
    good.is_at_rest().await;
}

async fn a_deleted_namespace_takes_its_pipeline_along_and_leaves_the_others_alone(space: &mut Space) {
    let cluster = space.world.whole_cluster().await;
    let (deleted, other) = (cluster.space("deleted").await, cluster.space("other").await);
    for place in [&deleted, &other] {
        place.create(&pipelines::with(place, json!({"deletionPolicy": "Delete"}))).await;
    }
    deleted.is_ready().await;
    other.is_ready().await;
    other.is_at_rest().await;
    let (before, keys, tables) = (at_rest::versions(&other).await, other.keys().await, other.tables().await);
    let namespaces: Api<Namespace> = Api::all(deleted.client.clone());
    namespaces.delete(&deleted.namespace, &DeleteParams::default()).await.expect("it may be deleted");
    until("the end of the namespace", 2 * PATIENCE, async || {
        namespaces.get_opt(&deleted.namespace).await.ok().filter(Option::is_none).map(drop)
    })
    .await;
    assert_eq!(at_rest::changed(&before, &at_rest::versions(&other).await), Vec::<String>::new());
    assert_eq!((other.keys().await, other.tables().await), (keys, tables));
    other.change_spec(json!({"ingest": {"replicas": 3}})).await;
    other.wants("logs-ingest", 3).await;
    other.is_ready().await;
    other.is_at_rest().await;
}

/// Objects that look like a pipeline's, in a namespace without one.
async fn lookalikes(space: &Space) {
    let labels = json!({
        "app.kubernetes.io/name": "spillway", "app.kubernetes.io/instance": NAME,
        "app.kubernetes.io/component": "ingest", "app.kubernetes.io/managed-by": "spillway-operator",
        "spillway.dev/pipeline": NAME,
    });
    let service = json!({
        "metadata": {"name": "logs-ingest", "labels": labels},
        "spec": {"ports": [{"port": 80}], "selector": {"app": "theirs"}},
    });
    let settings = json!({"metadata": {"name": "logs-ingest-0123456789", "labels": labels}});
    space.create::<Service>(&serde_json::from_value(service).unwrap()).await;
    space.create::<ConfigMap>(&serde_json::from_value(settings).unwrap()).await;
    let mut tenants = secret("logs-tenants-0", &[("tenants.json", "{}")]);
    tenants.metadata.labels = serde_json::from_value(labels).unwrap();
    space.create(&tenants).await;
}

/// `Kind namespace` of every object in the cluster that the operator wrote to, but for pipelines and what they own, and
/// how many those are. Of Leases and events the server doesn't note who wrote them.
async fn strays(client: &kube::Client) -> (BTreeSet<String>, usize) {
    let (mut strays, mut theirs) = (BTreeSet::new(), 0);
    let discovery = Discovery::new(client.clone()).run().await.expect("the kinds of the cluster");
    for (resource, capabilities) in discovery.groups().flat_map(|group| group.recommended_resources()) {
        if !capabilities.supports_operation(verbs::LIST) {
            continue;
        }
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        let list = api.list_metadata(&ListParams::default()).await;
        for object in list.unwrap_or_else(|error| panic!("{}: {error}", resource.kind)) {
            let by_us = |manager: &str| manager.starts_with("spillway-operator");
            if !object.managed_fields().iter().any(|entry| entry.manager.as_deref().is_some_and(by_us)) {
                continue;
            }
            let owned = object.owner_references().iter().any(|owner| owner.kind == "LogPipeline");
            let touched = resource.kind == "Pod" && object.labels().contains_key("spillway.dev/pipeline");
            if owned || touched || resource.kind == "LogPipeline" {
                theirs += 1;
            } else {
                strays.insert(format!("{} {}", resource.kind, object.namespace().unwrap_or_default()));
            }
        }
    }
    (strays, theirs)
}

async fn nothing_is_written_but_pipelines_and_what_they_own(space: &mut Space) {
    let cluster = space.world.whole_cluster().await;
    let (bystander, with) = (cluster.space("bystander").await, cluster.space("with-a-pipeline").await);
    lookalikes(&bystander).await;
    let before = at_rest::versions(&bystander).await;
    with.create(&pipelines::pipeline(&with)).await;
    with.is_ready().await;
    // Applied again, and pods touched.
    with.write_secret("shop-keys", &[("second", "another-key-of-the-shop-long-enough")]).await;
    with.change_spec(json!({"ingest": {"replicas": 3}})).await;
    with.wants("logs-ingest", 3).await;
    with.is_ready().await;
    with.is_at_rest().await;
    assert_eq!(at_rest::changed(&before, &at_rest::versions(&bystander).await), Vec::<String>::new());
    let (strays, theirs) = strays(&with.client).await;
    assert!(theirs > 10, "the operator's writes are not found: {theirs}");
    assert_eq!(strays, BTreeSet::new());
}

async fn it_leads_by_a_lease_in_its_own_namespace(space: &mut Space) {
    let cluster = space.world.whole_cluster().await;
    cluster.home.leads("spillway-operator", "operator-0").await;
    let all: Api<Lease> = Api::all(cluster.home.client.clone());
    let named = ListParams::default().fields("metadata.name=spillway-operator");
    let places: Vec<_> =
        all.list(&named).await.expect("Leases").iter().filter_map(ResourceExt::namespace).collect();
    assert_eq!(places, std::slice::from_ref(&cluster.home.namespace));
}
