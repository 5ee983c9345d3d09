//! What is done to pods from outside, and seen to have happened.

use futures::future::join_all;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::json;
use spillway_tests::wait::until;

use crate::cluster::{Cluster, OPERATOR, RELEASE, SYSTEM};
use crate::pods;
use crate::space::{PATIENCE, Space};

/// What is left of a process after SIGKILL, as kubelet tells it.
const KILLED: i32 = 128 + 9;

/// A pod whose container was killed, as it was before.
pub struct Killed {
    api: Api<Pod>,
    before: Pod,
}

/// Kills the containers of all these pods at one moment, and returns once the signals are sent.
pub async fn kill(cluster: &Cluster, victims: &[Pod]) -> Vec<Killed> {
    let killed: Vec<_> = join_all(victims.iter().map(async |pod| {
        let api: Api<Pod> = Api::namespaced(cluster.client.clone(), &pod.namespace().expect("a namespace"));
        // The container may be another one since the pod was read.
        let before = api.get(&pod.name_any()).await.expect("a pod to be killed");
        Killed { api, before }
    }))
    .await;
    join_all(killed.iter().map(|victim| cluster.nodes.signal(&victim.before, "KILL"))).await;
    killed
}

/// Waits until kubelet has seen each end by SIGKILL, has started it again, and it is ready.
pub async fn are_back(killed: &[Killed]) {
    join_all(killed.iter().map(is_back)).await;
}

async fn is_back(Killed { api, before }: &Killed) {
    let name = before.name_any();
    let (id, restarts) = (pods::container_id(before), pods::restarts(before));
    let mut end = None;
    until(&format!("the restart of {name}"), PATIENCE, async || {
        let pod = api.get(&name).await.ok()?;
        let container = pods::container(&pod)?;
        end = end.or(pods::exit_code(container, &id));
        (container.restart_count > restarts && pods::is_ready(&pod)).then_some(())
    })
    .await;
    match end {
        Some(code) => assert_eq!(code, KILLED, "{name} ended otherwise"),
        // Of a pod's containers that don't run kubelet's garbage collection keeps the newest. While the next one is
        // made and not started, that is the next one.
        None => println!("kubelet no longer told how {name} ended when it was back"),
    }
}

/// Scales one of the test's own servers, and waits until its pod is ready or gone.
pub async fn scale_server(space: &Space, server: &str, replicas: i32) {
    space.change::<Deployment>(server, json!({"spec": {"replicas": replicas}})).await;
    if replicas > 0 {
        space.is_available(server).await;
        return;
    }
    until(&format!("{server} to be away ({})", space.namespace), PATIENCE, async || {
        space.pods(&format!("app={server}")).await.is_empty().then_some(())
    })
    .await;
}

/// Waits until there are more rows than there are now, of a ClickHouse that may be away at first.
pub async fn rows_come(space: &Space) {
    let count =
        async || space.try_sql("SELECT count() FROM spillway.logs").await.ok()?.trim().parse::<u64>().ok();
    let before = until(&format!("ClickHouse to answer ({})", space.namespace), PATIENCE, count).await;
    until(&format!("more than {before} rows ({})", space.namespace), PATIENCE, async || {
        count().await.filter(|rows| *rows > before)
    })
    .await;
}

/// The operator's pods, those that are being deleted as well.
pub async fn operators(cluster: &Cluster) -> Vec<Pod> {
    let selector = format!("app.kubernetes.io/name={OPERATOR},app.kubernetes.io/instance={RELEASE}");
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), SYSTEM);
    api.list(&ListParams::default().labels(&selector)).await.expect("pods can be listed").items
}

/// The operator that holds the Lease.
pub async fn operator_leader(cluster: &Cluster) -> Pod {
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), SYSTEM);
    until("a leading operator", PATIENCE, async || {
        let holder = leases.get(OPERATOR).await.ok()?.spec?.holder_identity?;
        operators(cluster).await.into_iter().find(|pod| pod.name_any() == holder)
    })
    .await
}

/// Waits until both of the operator's pods are ready.
pub async fn operators_are_ready(cluster: &Cluster) {
    until("the operator's pods to be ready", PATIENCE, async || {
        let pods = operators(cluster).await;
        (pods.len() == 2 && pods.iter().all(pods::is_ready)).then_some(())
    })
    .await;
}
