//! How many pods there are, and how many may go at a time.

use k8s_openapi::{
    api::{
        autoscaling::v2::{
            CrossVersionObjectReference, HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec, MetricSpec,
            MetricTarget, ResourceMetricSource,
        },
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use spillway_crds::{ValidatedPipeline, validate::Scale};

use super::{
    names::{Component, Scope},
    objects::Presence,
};

/// The autoscaler of ingest. None while the pipeline is suspended: it would be in the way of having no pods.
#[must_use]
pub fn autoscaler(pipeline: &ValidatedPipeline, scope: &Scope) -> Presence<HorizontalPodAutoscaler> {
    let name = scope.ingest();
    let Scale::Auto { min, max, target_cpu_utilization, behavior } = &pipeline.ingest.scale else {
        return Presence::Absent { name };
    };
    if pipeline.suspend {
        return Presence::Absent { name };
    }
    let cpu = ResourceMetricSource {
        name: "cpu".to_owned(),
        target: MetricTarget {
            type_: "Utilization".to_owned(),
            average_utilization: Some(*target_cpu_utilization),
            ..MetricTarget::default()
        },
    };
    Presence::Present(HorizontalPodAutoscaler {
        metadata: scope.meta(&name, Component::Ingest),
        spec: Some(HorizontalPodAutoscalerSpec {
            scale_target_ref: CrossVersionObjectReference {
                api_version: Some("apps/v1".to_owned()),
                kind: "Deployment".to_owned(),
                name,
            },
            min_replicas: Some(*min),
            max_replicas: *max,
            metrics: Some(vec![MetricSpec {
                type_: "Resource".to_owned(),
                resource: Some(cpu),
                ..MetricSpec::default()
            }]),
            behavior: behavior.clone(),
        }),
        status: None,
    })
}

/// The budget of ingest. A single pod has none: a node that is emptied must be able to take it.
#[must_use]
pub fn ingest_budget(pipeline: &ValidatedPipeline, scope: &Scope) -> Presence<PodDisruptionBudget> {
    let most = match pipeline.ingest.scale {
        Scale::Fixed(replicas) => replicas,
        Scale::Auto { max, .. } => max,
    };
    let away = pipeline.ingest.max_unavailable.clone();
    budget(scope, Component::Ingest, most > 1 && !pipeline.suspend, away)
}

/// The budget of the syncer.
#[must_use]
pub fn syncer_budget(pipeline: &ValidatedPipeline, scope: &Scope) -> Presence<PodDisruptionBudget> {
    budget(scope, Component::Syncer, pipeline.syncer.replicas > 1 && !pipeline.suspend, IntOrString::Int(1))
}

fn budget(
    scope: &Scope,
    component: Component,
    wanted: bool,
    away: IntOrString,
) -> Presence<PodDisruptionBudget> {
    let name = scope.name(component);
    if !wanted {
        return Presence::Absent { name };
    }
    Presence::Present(PodDisruptionBudget {
        metadata: scope.meta(&name, component),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(away),
            selector: Some(scope.selector(component)),
            // A pod that isn't ready protects nothing; it must not hold up the emptying of its node.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    })
}
