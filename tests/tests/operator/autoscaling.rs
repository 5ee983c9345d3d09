//! Who says how many ingest pods there are, and that nobody fights over it.

use std::sync::Arc;

use futures::TryStreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use parking_lot::Mutex;
use serde_json::json;
use spillway_crds::LogPipeline;
use spillway_tests::kubernetes::operator::{Operator, Options};
use spillway_tests::kubernetes::pipelines::NAME;
use spillway_tests::kubernetes::space::Space;

use crate::claim::claims;

claims![
    switching_autoscaling_on_never_dips,
    switching_autoscaling_off_goes_straight_to_the_number,
    an_operator_killed_while_handing_over_leaves_no_dip,
    a_pipeline_made_with_autoscaling_begins_at_its_minimum,
    the_autoscalers_number_is_left_alone,
    a_deployment_that_lost_its_labels_keeps_the_autoscalers_number,
    new_bounds_reach_the_autoscaler,
    kubectl_scale_scales_ingest,
    kubectl_scale_is_refused_while_autoscaled,
];

/// Every value of `spec.replicas` that ingest's Deployment had, in their order.
struct Watched {
    seen: Arc<Mutex<Vec<i32>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Watched {
    fn start(space: &Space) -> Self {
        let api: Api<Deployment> = space.api();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let config = watcher::Config::default().fields("metadata.name=logs-ingest");
            let mut changes = std::pin::pin!(watcher(api, config).default_backoff().applied_objects());
            while let Ok(Some(deployment)) = changes.try_next().await {
                let replicas = deployment.spec.and_then(|spec| spec.replicas).unwrap_or(1);
                let mut noted = noted.lock();
                if noted.last() != Some(&replicas) {
                    noted.push(replicas);
                }
            }
        });
        Self { seen, task }
    }

    fn end(self) -> Vec<i32> {
        self.task.abort();
        self.seen.lock().clone()
    }
}

fn on(min: i32, max: i32) -> serde_json::Value {
    json!({"ingest": {"replicas": null, "autoscaling": {"min": min, "max": max}, "resources": {"requests": {"cpu": "1"}}}})
}

fn off(replicas: i32) -> serde_json::Value {
    json!({"ingest": {"replicas": replicas, "autoscaling": null}})
}

async fn switching_autoscaling_on_never_dips(space: &mut Space) -> Operator {
    let operator = space.ready_with(json!({"ingest": {"replicas": 4}}), Options::default()).await;
    let watched = Watched::start(space);
    space.change_spec(on(2, 6)).await;
    space.appears::<HorizontalPodAutoscaler>("logs-ingest").await;
    space.is_ready().await;
    space.is_at_rest().await;
    let seen = watched.end();
    assert!(seen.iter().all(|&replicas| replicas == 4), "{seen:?}");
    let deployment: Deployment = space.get("logs-ingest").await;
    let owners = deployment.metadata.managed_fields.unwrap_or_default();
    let owner = owners.iter().filter(|entry| {
        let fields = entry.fields_v1.as_ref().map(|fields| fields.0.to_string()).unwrap_or_default();
        fields.contains("f:replicas") && entry.subresource.is_none()
    });
    let owner: Vec<_> = owner.filter_map(|entry| entry.manager.as_deref()).collect();
    assert!(!owner.contains(&"spillway-operator"), "{owner:?}");
    operator
}

async fn switching_autoscaling_off_goes_straight_to_the_number(space: &mut Space) -> Operator {
    let operator = space.ready_with(on(5, 6), Options::default()).await;
    space.wants("logs-ingest", 5).await;
    let watched = Watched::start(space);
    space.change_spec(off(3)).await;
    space.goes::<HorizontalPodAutoscaler>("logs-ingest").await;
    space.wants("logs-ingest", 3).await;
    space.is_ready().await;
    let seen = watched.end();
    assert_eq!(seen, [5, 3]);
    operator
}

async fn an_operator_killed_while_handing_over_leaves_no_dip(space: &mut Space) -> Operator {
    let mut first = space.ready_with(json!({"ingest": {"replicas": 4}}), Options::default()).await;
    first.process.kill();
    let watched = Watched::start(space);
    space.change_spec(on(2, 6)).await;
    let doomed = Options { failpoint: Some("after-hand-over".into()), ..Options::default() };
    Operator::start(space, doomed).await.ends("the operator to be killed after it handed over").await;
    let operator = space.operator().await;
    space.appears::<HorizontalPodAutoscaler>("logs-ingest").await;
    space.is_ready().await;
    let seen = watched.end();
    assert!(seen.iter().all(|&replicas| replicas == 4), "{seen:?}");
    operator
}

async fn a_pipeline_made_with_autoscaling_begins_at_its_minimum(space: &mut Space) -> Operator {
    let watched = Watched::start(space);
    let operator = space.ready_with(on(3, 6), Options::default()).await;
    space.appears::<HorizontalPodAutoscaler>("logs-ingest").await;
    space.is_at_rest().await;
    assert_eq!(watched.end(), [3]);
    operator
}

/// As an autoscaler does: through the scale subresource.
async fn scale(space: &Space, replicas: i32) {
    let scale = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    let deployments = space.api::<Deployment>();
    deployments.patch_scale("logs-ingest", &PatchParams::default(), &scale).await.expect("scaled");
}

async fn the_autoscalers_number_is_left_alone(space: &mut Space) -> Operator {
    let operator = space.ready_with(on(2, 6), Options::default()).await;
    scale(space, 5).await;
    let watched = Watched::start(space);
    // Changes go out meanwhile, of the pods and of the pipeline.
    space.change_spec(json!({"ingest": {"flush": {"maxAge": "250ms"}}})).await;
    space
        .sees("5 pods of the new settings", NAME, |pipeline: &LogPipeline| {
            (pipeline.status.as_ref()?.ingest.as_deref() == Some("5/5")).then_some(())
        })
        .await;
    space.is_ready().await;
    assert_eq!(watched.end(), [5]);
    operator
}

async fn a_deployment_that_lost_its_labels_keeps_the_autoscalers_number(space: &mut Space) -> Operator {
    const OURS: &str = "app.kubernetes.io/managed-by";
    let operator = space.ready_with(on(2, 6), Options::default()).await;
    scale(space, 5).await;
    let watched = Watched::start(space);
    // By this label the operator watches, so it knows of none.
    space.change::<Deployment>("logs-ingest", json!({"metadata": {"labels": {OURS: null}}})).await;
    space
        .sees("the label", "logs-ingest", |now: &Deployment| {
            now.metadata.labels.as_ref()?.contains_key(OURS).then_some(())
        })
        .await;
    space.is_ready().await;
    space.is_at_rest().await;
    assert_eq!(watched.end(), [5]);
    operator
}

async fn new_bounds_reach_the_autoscaler(space: &mut Space) -> Operator {
    let operator = space.ready_with(on(2, 6), Options::default()).await;
    space.change_spec(on(4, 9)).await;
    space
        .sees("the bounds", "logs-ingest", |now: &HorizontalPodAutoscaler| {
            let spec = now.spec.as_ref()?;
            (spec.min_replicas == Some(4) && spec.max_replicas == 9).then_some(())
        })
        .await;
    // It raises what is below its minimum by itself.
    space.wants("logs-ingest", 4).await;
    space.is_ready().await;
    operator
}

async fn kubectl_scale_scales_ingest(space: &mut Space) -> Operator {
    let operator = space.ready_pipeline().await;
    space.kubectl(&["scale", "lp/logs", "--replicas=3"]).await;
    space.wants("logs-ingest", 3).await;
    space.is_ready().await;
    operator
}

async fn kubectl_scale_is_refused_while_autoscaled(space: &mut Space) -> Operator {
    let operator = space.ready_with(on(2, 6), Options::default()).await;
    let scale = Patch::Merge(json!({"spec": {"replicas": 3}}));
    let refused = space.api::<LogPipeline>().patch_scale(NAME, &PatchParams::default(), &scale).await;
    let error = refused.expect_err("it is refused").to_string();
    assert!(error.contains("exclude each other") || error.contains("does not exist"), "{error}");
    let deployment: Deployment = space.get("logs-ingest").await;
    assert_eq!(deployment.spec.and_then(|spec| spec.replicas), Some(2));
    operator
}
