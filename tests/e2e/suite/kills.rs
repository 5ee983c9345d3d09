//! SIGKILL of everything that there is, under traffic: kubelet starts it again, and no record is lost or doubled.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::DeleteParams;
use kube::{Api, ResourceExt};
use serde_json::json;
use spillway_e2e::cases;
use spillway_e2e::cluster::SYSTEM;
use spillway_e2e::faults::{are_back, kill, operator_leader, operators, operators_are_ready, rows_come};
use spillway_e2e::space::Space;
use spillway_e2e::traffic::{Load, Traffic};
use spillway_tests::kubernetes::pipelines::NAME;

cases![
    killed_ingest_pods_have_lost_nothing_that_they_acknowledged,
    a_killed_leader_goes_on_where_it_was,
    a_killed_minio_costs_no_record,
    a_killed_clickhouse_costs_no_record,
    all_killed_at_one_moment_lose_nothing;
    alone: a_change_of_the_spec_is_carried_out_though_operators_are_killed,
];

/// Longer than any of these tests, which end it.
const LONG: u32 = 280;
/// Records per second.
const RATE: u32 = 400;
/// Of each victim. Kubelet waits 10 s before it starts a container again a second time.
const ROUNDS: usize = 2;
/// A standby has the operator's Lease 15 s after the last renewal that it saw, and looks every 4.4 s at least.
const CARRIED_OUT: Duration = Duration::from_secs(30);

async fn killed_ingest_pods_have_lost_nothing_that_they_acknowledged(space: &Space) {
    space.ready_pipeline(json!({})).await;
    let traffic = Traffic::start(space, Load::of(LONG, RATE)).await;
    for _ in 0..ROUNDS {
        for pod in space.component("ingest").await {
            are_back(&kill(&space.cluster, &[pod]).await).await;
        }
    }
    rows_come(space).await;
    traffic.stop().await;
}

async fn a_killed_leader_goes_on_where_it_was(space: &Space) {
    space.ready_pipeline(json!({})).await;
    let traffic = Traffic::start(space, Load::of(LONG, RATE)).await;
    for _ in 0..ROUNDS + 1 {
        let killed = kill(&space.cluster, &[space.leader().await]).await;
        rows_come(space).await;
        are_back(&killed).await;
    }
    traffic.stop().await;
}

async fn a_killed_minio_costs_no_record(space: &Space) {
    killed_server(space, "minio").await;
}

async fn a_killed_clickhouse_costs_no_record(space: &Space) {
    killed_server(space, "clickhouse").await;
}

async fn killed_server(space: &Space, server: &str) {
    space.ready_pipeline(json!({})).await;
    let traffic = Traffic::start(space, Load::of(LONG, RATE)).await;
    for _ in 0..ROUNDS {
        are_back(&kill(&space.cluster, &space.pods(&format!("app={server}")).await).await).await;
        rows_come(space).await;
    }
    traffic.stop().await;
}

async fn all_killed_at_one_moment_lose_nothing(space: &Space) {
    space.ready_pipeline(json!({})).await;
    let traffic = Traffic::start(space, Load::of(LONG, RATE)).await;
    for _ in 0..ROUNDS {
        let mut victims = space.component("ingest").await;
        victims.push(space.leader().await);
        victims.extend(space.pods("app=minio").await);
        victims.extend(space.pods("app=clickhouse").await);
        assert_eq!(victims.len(), 5, "two ingest pods and one of each other");
        are_back(&kill(&space.cluster, &victims).await).await;
        rows_come(space).await;
    }
    traffic.stop().await;
    space.is_ready().await;
}

async fn a_change_of_the_spec_is_carried_out_though_operators_are_killed(space: &Space) {
    space.ready_pipeline(json!({})).await;
    let traffic = Traffic::start(space, Load::of(LONG, RATE)).await;

    // Its container comes back in the same pod, or the standby is quicker.
    let killed = kill(&space.cluster, &[operator_leader(&space.cluster).await]).await;
    is_carried_out(space, "killed").await;
    are_back(&killed).await;

    // As when its node is lost: nobody releases the Lease, and its pod doesn't come back.
    let leader = operator_leader(&space.cluster).await;
    kill(&space.cluster, std::slice::from_ref(&leader)).await;
    let pods: Api<Pod> = Api::namespaced(space.cluster.client.clone(), SYSTEM);
    let at_once = DeleteParams::default().grace_period(0);
    pods.delete(&leader.name_any(), &at_once).await.expect("the operator's pod is deleted");
    is_carried_out(space, "lost").await;
    operators_are_ready(&space.cluster).await;
    assert_ne!(operator_leader(&space.cluster).await.name_any(), leader.name_any());

    let killed = kill(&space.cluster, &operators(&space.cluster).await).await;
    assert_eq!(killed.len(), 2);
    is_carried_out(space, "both killed").await;
    are_back(&killed).await;

    space.is_ready().await;
    traffic.stop().await;
}

/// Changes the spec so that nothing of it restarts, and waits for what it says.
async fn is_carried_out(space: &Space, change: &str) {
    let since = Instant::now();
    let annotations = json!({"example.com/change": change});
    space.change_spec(json!({"ingest": {"service": {"annotations": annotations}}})).await;
    space
        .sees("the changed Service", &format!("{NAME}-ingest"), |service: &Service| {
            (service.annotations().get("example.com/change")? == change).then_some(())
        })
        .await;
    let took = since.elapsed();
    println!("failover: operator {change}: the spec is carried out after {:.1} s", took.as_secs_f64());
    assert!(took <= CARRIED_OUT, "{took:?}");
}
