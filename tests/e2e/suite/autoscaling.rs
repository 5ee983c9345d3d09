//! How many pods there are: as many as an autoscaler wants, or none.

use std::collections::BTreeSet;
use std::time::Instant;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Event;
use kube::api::ListParams;
use kube::runtime::watcher;
use serde_json::json;
use spillway_e2e::cases;
use spillway_e2e::space::{PATIENCE, Space, keys};
use spillway_e2e::traffic::{Load, Traffic};
use spillway_e2e::watched::Watched;
use spillway_model::ObjectKey;
use spillway_tests::kubernetes::pipelines::NAME;
use spillway_tests::wait::until;

cases![
    pods_come_with_load_and_go_after_it_and_nobody_fights_over_them,
    a_suspended_pipeline_loads_what_it_has_and_goes_on_when_resumed,
];

const INGEST: &str = "logs-ingest";
/// Longer than any of these tests; they end it.
const LONG: u32 = 600;

/// How many pods are wanted, and who says so.
#[derive(Clone, Debug, PartialEq)]
struct Wanted {
    replicas: i32,
    managers: Vec<String>,
}

impl Wanted {
    fn of(deployment: &Deployment) -> Option<Self> {
        let managers = deployment.metadata.managed_fields.iter().flatten();
        let managers = managers
            .filter(|entry| {
                entry
                    .fields_v1
                    .as_ref()
                    .is_some_and(|fields| fields.0.pointer("/f:spec/f:replicas").is_some())
            })
            .filter_map(|entry| entry.manager.clone());
        Some(Self { replicas: deployment.spec.as_ref()?.replicas?, managers: managers.collect() })
    }
}

async fn pods_come_with_load_and_go_after_it_and_nobody_fights_over_them(space: &Space) {
    let autoscaling = json!({
        "min": 1, "max": 4, "targetCPUUtilization": 60,
        "behavior": {
            "scaleUp": {"stabilizationWindowSeconds": 0},
            "scaleDown": {
                "stabilizationWindowSeconds": 10,
                "policies": [{"type": "Pods", "value": 2, "periodSeconds": 10}],
            },
        },
    });
    let requests = json!({"requests": {"cpu": "20m", "memory": "64Mi"}});
    let scaled = json!({
        "replicas": null, "autoscaling": autoscaling, "resources": requests, "maxConnectionAge": "5s",
    });
    space.ready_pipeline(json!({"ingest": scaled})).await;
    // From then on the number is the autoscaler's.
    space
        .sees("the number of pods to be handed over", INGEST, |deployment: &Deployment| {
            let wanted = Wanted::of(deployment)?;
            (!wanted.managers.iter().any(|manager| manager == "spillway-operator")).then_some(())
        })
        .await;
    let one = watcher::Config::default().fields(&format!("metadata.name={INGEST}"));
    let watched = Watched::start(space, one, |deployment: &Deployment, _| Wanted::of(deployment)).await;

    // Small requests: what they cost is ingest's alone.
    let small = ["--producers=8", "--batch=20"].map(str::to_owned);
    let heavy = Load { name: "heavy", more: small.to_vec(), ..Load::of(LONG, 3000) };
    let heavy = Traffic::start(space, heavy).await;
    let most = ready(space, "load to add pods", |pods| pods >= 3).await;
    // Its connections were all made while there was one pod.
    let writers = until("load to reach the added pods", PATIENCE, async || {
        Some(incarnations(space).await).filter(|writers| writers.len() >= 3)
    })
    .await;

    // The operator writes the Deployment while the number is not its own.
    let foreign = json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": "somebody"}}});
    space.change::<Deployment>(INGEST, foreign).await;
    space
        .sees("the operator to mend a label", INGEST, |deployment: &Deployment| {
            let by = deployment.metadata.labels.as_ref()?.get("app.kubernetes.io/managed-by")?;
            (by == "spillway-operator").then_some(())
        })
        .await;

    // Pods are to go under traffic.
    let light = Load { name: "light", more: vec!["--producers=8".to_owned()], ..Load::of(LONG, 160) };
    let light = Traffic::start_blindly(space, light).await;
    heavy.stop().await;
    ready(space, "pods to go after the load", |pods| pods == 1).await;
    until("the last of them to be gone", PATIENCE, async || {
        (space.component("ingest").await.len() == 1).then_some(())
    })
    .await;
    assert_eq!(light.stop().await.unclear, 0);

    let autoscaler: HorizontalPodAutoscaler = space.get(INGEST).await;
    let status = autoscaler.status.expect("its status");
    let seen: Vec<_> = watched.seen().into_iter().map(|(_, wanted)| wanted).collect();
    println!(
        "autoscaling: pods={:?} most={most} writers={} by={:?}",
        seen.iter().map(|wanted| wanted.replicas).collect::<Vec<_>>(),
        writers.len(),
        seen.last().map(|wanted| &wanted.managers),
    );
    assert_eq!((status.current_replicas, status.desired_replicas), (Some(1), 1));
    // Whoever else sets the number, or leaves it out, would be seen here.
    let scaled: Vec<_> = seen.iter().skip_while(|wanted| wanted.replicas == 1).collect();
    for wanted in &scaled {
        assert_eq!(wanted.managers, ["kube-controller-manager"], "{seen:?}");
    }
    let numbers: BTreeSet<_> = scaled.iter().map(|wanted| wanted.replicas).collect();
    let announced = announced(space).await;
    assert!(numbers.is_subset(&announced), "{numbers:?}, and the autoscaler announced {announced:?}");
}

/// Waits until as many ingest pods are ready as are wanted, and that is a number as it should be.
async fn ready(space: &Space, what: &str, is_enough: impl Fn(i32) -> bool) -> i32 {
    space
        .sees(what, INGEST, |deployment: &Deployment| {
            let (spec, status) = (deployment.spec.as_ref()?, deployment.status.as_ref()?);
            let ready = status.ready_replicas?;
            (spec.replicas == Some(ready) && is_enough(ready)).then_some(ready)
        })
        .await
}

/// The processes whose objects are in the bucket.
async fn incarnations(space: &Space) -> BTreeSet<String> {
    let staged = staged(space).await;
    staged.iter().map(|key| key.incarnation.to_string()).collect()
}

async fn staged(space: &Space) -> Vec<ObjectKey> {
    let (bucket, _forward) = space.bucket().await;
    let keys = keys(&bucket).await.expect("the bucket can be listed");
    keys.iter().filter_map(|key| ObjectKey::parse(key).ok()).collect()
}

/// The numbers of pods that the autoscaler said it goes to: `New size: 4; reason: ...`.
async fn announced(space: &Space) -> BTreeSet<i32> {
    let events = space.api::<Event>().list(&ListParams::default()).await.expect("events");
    let rescales = events.iter().filter(|event| event.reason.as_deref() == Some("SuccessfulRescale"));
    let sizes = rescales.filter_map(|event| {
        let message = event.message.as_deref()?.strip_prefix("New size: ")?;
        message.split(';').next()?.parse().ok()
    });
    sizes.collect()
}

async fn a_suspended_pipeline_loads_what_it_has_and_goes_on_when_resumed(space: &Space) {
    // So slow that there is always something staged and not loaded yet; it is deleted once it is loaded.
    let slow = json!({"syncer": {"interval": "5s", "idleInterval": "5s", "deleteGrace": "0s"}});
    space.ready_pipeline(slow).await;
    let traffic = Traffic::start(space, Load::of(LONG, 300)).await;
    let backlog = until("staged records", PATIENCE, async || {
        let rows: u64 = staged(space).await.iter().map(|key| key.rows).sum();
        (rows > 0).then_some(rows)
    })
    .await;

    let since = Instant::now();
    space.change_spec(json!({"suspend": true})).await;
    space.condition("Ready", "False", Some("Suspended")).await;
    until("the last pod to be gone", PATIENCE, async || {
        let pods = space.who_runs(NAME).await;
        pods.is_empty().then_some(())
    })
    .await;
    let left = staged(space).await;
    assert!(left.is_empty(), "not loaded: {left:?}");
    let loaded = space.rows().await;
    println!("suspended: after={:.1?} backlog={backlog} rows={loaded}", since.elapsed());
    // Whether that is all that was acknowledged is seen at the end: some of it may have been loaded already.
    assert!(loaded >= backlog, "{backlog} were staged, then {loaded} loaded");

    let since = Instant::now();
    space.change_spec(json!({"suspend": null})).await;
    space.is_ready().await;
    println!("resumed: ready={:.1?}", since.elapsed());
    until("rows after the pause", PATIENCE, async || (space.rows().await > loaded).then_some(())).await;
    let verdict = traffic.stop().await;
    assert_eq!(verdict.unclear, 0);
    assert_eq!(space.rows().await, verdict.acknowledged);
}
