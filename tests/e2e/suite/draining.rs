//! How pods end: what they still do, in which order and for how long; and a node that is emptied.

mod ending;

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::json;
use spillway_e2e::cases;
use spillway_e2e::disruption::with_emptied;
use spillway_e2e::pods;
use spillway_e2e::space::Space;
use spillway_e2e::traffic::{Load, Traffic};
use spillway_tests::kubernetes::pipelines::NAME;

use ending::{Ending, Endpoint, HalfSent, Log, Probe, SERVICE, grace};

// Alone, the first one because it measures times.
cases![;
    alone: a_pod_leaves_the_service_before_it_closes_answers_what_it_has_and_exits_with_0,
    a_node_is_emptied_and_nothing_is_lost,
];

/// Longer than any of these tests; they end it.
const LONG: u32 = 600;

async fn a_pod_leaves_the_service_before_it_closes_answers_what_it_has_and_exits_with_0(space: &Space) {
    space.ready_pipeline(json!({})).await;
    let traffic = Traffic::start(space, Load::of(LONG, 300)).await;
    let pods = space.component("ingest").await;
    let pod = pods.first().expect("an ingest pod");
    let name = pod.name_any();
    let ending = Ending::watch(space, &name).await;
    let endpoint = Endpoint::watch(space, &name).await;
    let log = Log::follow(space, &name).await;
    let probe = Probe::start(space, &name).await;
    let half_sent = HalfSent::begin(space, &name).await;

    let deleted = Timestamp::now();
    space.api::<Pod>().delete(&name, &DeleteParams::default()).await.expect("the pod is deleted");
    let told = log.says("told to stop").await;
    let closed = log.says("no more requests are taken").await;
    // Its listener is closed, and its request still waits for its other half.
    let refused = probe.refused().await;
    let answered = half_sent.complete().await;
    let drained = log.says("drained: every record is staged").await;
    let ((ended, exit), gone) = ending.end().await;
    let unready = probe.unready();
    let left = endpoint.left().await;

    let after = |time| seconds(deleted, time);
    println!(
        "drain: component=ingest unready={:.2} left_service={:.2} pre_stop={:.2} closed={:.2} refused={:.2} \
         last_answer={:.2} drained={:.2} ended={:.2} gone={:.2} grace={} exit={}",
        after(unready),
        after(left),
        after(told),
        after(closed),
        after(refused),
        after(answered),
        after(drained),
        after(ended),
        after(gone),
        grace(pod),
        exit,
    );
    assert_eq!(exit, 0);
    // Who routes has five seconds to notice, in which everything is still taken.
    assert!(unready < closed && refused > closed);
    assert!(after(closed) >= 5.0 && seconds(left, closed) >= 4.0);
    assert!(answered > closed);
    assert!(after(gone) < f64::from(grace(pod)));

    the_leading_syncer_ends_well(space).await;
    assert_eq!(traffic.stop().await.unclear, 0);
    let rows = space.sql(&format!("SELECT count() FROM spillway.logs WHERE service = '{SERVICE}'")).await;
    assert_eq!(rows.trim(), "1", "what was answered last");
}

async fn the_leading_syncer_ends_well(space: &Space) {
    let leader = space.leader().await;
    let ending = Ending::watch(space, &leader.name_any()).await;
    let deleted = Timestamp::now();
    let deletion = space.api::<Pod>().delete(&leader.name_any(), &DeleteParams::default()).await;
    deletion.expect("the pod is deleted");
    let ((ended, exit), gone) = ending.end().await;
    println!(
        "drain: component=syncer ended={:.2} gone={:.2} grace={} exit={exit}",
        seconds(deleted, ended),
        seconds(deleted, gone),
        grace(&leader),
    );
    assert_eq!(exit, 0);
    assert!(seconds(deleted, gone) < f64::from(grace(&leader)));
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

async fn a_node_is_emptied_and_nothing_is_lost(space: &Space) {
    space.ready_pipeline(json!({})).await;
    let home = space.home().await;
    for component in ["ingest", "syncer"] {
        let nodes = nodes(space, component).await;
        assert_eq!(nodes.len(), 2, "both pods of {component} are on {nodes:?}");
    }
    let all = nodes(space, "ingest").await;
    let away = all.iter().find(|node| **node != home).expect("a node without the servers");
    let traffic = Traffic::start(space, Load::of(LONG, 300)).await;
    let label = format!("spillway.dev/pipeline={NAME}");
    with_emptied(&space.cluster, away, &label, async {
        for component in ["ingest", "syncer"] {
            space.is_available(&format!("{NAME}-{component}")).await;
            let nodes = nodes(space, component).await;
            assert!(!nodes.contains(away), "{component} is on {nodes:?}");
        }
        space.is_ready().await;
    })
    .await;
    assert_eq!(traffic.stop().await.unclear, 0);
}

async fn nodes(space: &Space, component: &str) -> BTreeSet<String> {
    space.component(component).await.iter().map(|pod| pods::node(pod).to_owned()).collect()
}
