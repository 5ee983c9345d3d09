//! Pods that are evicted, as the cluster's autoscalers and those who look after nodes do.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::{Client, ResourceExt};
use serde_json::json;
use spillway_e2e::cases;
use spillway_e2e::disruption::evict;
use spillway_e2e::pods;
use spillway_e2e::space::{PATIENCE, Space};
use spillway_e2e::traffic::{Load, Traffic};
use spillway_tests::wait::until;

cases![every_pod_can_be_evicted_one_at_a_time_and_nothing_is_lost];

/// Longer than the test, which ends it.
const LONG: u32 = 600;

async fn every_pod_can_be_evicted_one_at_a_time_and_nothing_is_lost(space: &Space) {
    space.ready_pipeline(json!({})).await;
    let client = space.cluster.blunt_client().await;
    let traffic = Traffic::start(space, Load::of(LONG, 300)).await;
    for component in ["ingest", "syncer"] {
        for victim in space.component(component).await {
            evict_and_try_another(space, &client, component, &victim).await;
        }
    }
    space.is_ready().await;
    assert_eq!(traffic.stop().await.unclear, 0);
}

/// Until the evicted pod has been replaced, no other one may go.
async fn evict_and_try_another(space: &Space, client: &Client, component: &str, victim: &Pod) {
    let budget = format!("logs-{component}");
    space
        .sees("a pod that may go", &budget, |budget: &PodDisruptionBudget| {
            let is_seen = budget.status.as_ref()?.observed_generation == budget.metadata.generation;
            (is_seen && budget.status.as_ref()?.disruptions_allowed == 1).then_some(())
        })
        .await;
    let others = space.component(component).await;
    let other = others.iter().find(|pod| pods::is_ready(pod) && pod.uid() != victim.uid());
    let other = other.unwrap_or_else(|| panic!("{component} has one pod only"));
    evict(client, victim)
        .await
        .unwrap_or_else(|error| panic!("{} is not evicted: {error}", victim.name_any()));
    match evict(client, other).await {
        Err(kube::Error::Api(refused)) => {
            assert_eq!((refused.code, refused.reason.as_str()), (429, "TooManyRequests"), "{refused:?}");
            assert!(refused.message.contains("disruption budget"), "{refused:?}");
        }
        answer => panic!("{} and {} may go at once: {answer:?}", victim.name_any(), other.name_any()),
    }
    until(&format!("a pod in place of {}", victim.name_any()), PATIENCE, async || {
        let pods = space.component(component).await;
        let ready = pods.iter().filter(|pod| pods::is_ready(pod)).count();
        let is_gone = pods.iter().all(|pod| pod.uid() != victim.uid());
        (is_gone && ready == 2).then_some(())
    })
    .await;
}
