//! What somebody changes or deletes in the cluster, the bucket's settings or the schema is put right.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use spillway_tests::kubernetes::operator::Operator;
use spillway_tests::kubernetes::owned::{self, KINDS, Kind};
use spillway_tests::kubernetes::space::{PATIENCE, Space};
use spillway_tests::wait::until;

use crate::claim::{Claim, Kept};

/// A change of something that the operator decides, for each kind that can be changed at all.
fn meddling() -> Vec<(&'static str, &'static str, Value)> {
    let no_labels = json!({"metadata": {"labels": {"app.kubernetes.io/part-of": "something-else"}}});
    vec![
        ("Secret", "logs-tenants-0", json!({"data": {"tenants.json": "e30="}})),
        ("Service", "logs-ingest", json!({"spec": {"selector": {"app.kubernetes.io/name": "another"}}})),
        ("ServiceAccount", "logs-ingest", no_labels.clone()),
        ("ServiceAccount", "logs-syncer", no_labels.clone()),
        ("Deployment", "logs-ingest", json!({"spec": {"replicas": 7}})),
        ("Deployment", "logs-syncer", json!({"spec": {"replicas": 5}})),
        (
            "Deployment",
            "logs-syncer",
            json!({"spec": {"template": {"spec": {"serviceAccountName": "default"}}}}),
        ),
        ("Lease", "logs-syncer", no_labels),
        ("NetworkPolicy", "logs-ingest", json!({"spec": {"ingress": [{}]}})),
        ("NetworkPolicy", "logs-syncer", json!({"spec": {"ingress": [{}]}})),
        ("PodDisruptionBudget", "logs-ingest", json!({"spec": {"maxUnavailable": 2}})),
        ("PodDisruptionBudget", "logs-syncer", json!({"spec": {"maxUnavailable": 2}})),
        (
            "Role",
            "logs-syncer",
            json!({"rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]}),
        ),
        ("RoleBinding", "logs-syncer", json!({"subjects": []})),
    ]
}

pub(crate) fn claims() -> Vec<Claim> {
    let mut claims = functions::claims();
    for (number, (kind, name, change)) in meddling().into_iter().enumerate() {
        // A Lease is not watched: its holder renews it all the time.
        if kind == "Lease" {
            continue;
        }
        let claim = format!(
            "drift::a_changed_{}_{}_is_put_right_{number}",
            kind.to_lowercase(),
            name.replace('-', "_")
        );
        claims.push(Claim::new(claim, |space| Box::pin(changed(space, kind, name, change))));
    }
    for kind in KINDS.iter().filter(|kind| !kind.names.is_empty() || kind.kind == "ConfigMap") {
        let claim = format!("drift::a_deleted_{}_comes_back", kind.kind.to_lowercase());
        claims.push(Claim::new(claim, |space| Box::pin(deleted(space, kind))));
    }
    claims
}

/// What the operator owns of an object, without what the API server adds.
fn wanted(object: &kube::api::DynamicObject) -> Value {
    let mut value = object.data.clone();
    if let Some(fields) = value.as_object_mut() {
        fields.remove("status");
    }
    json!({"labels": object.labels(), "data": value})
}

async fn changed(space: &mut Space, kind: &str, name: &str, change: Value) -> Box<dyn Kept> {
    let operator = space.ready_pipeline().await;
    let api = Kind::named(kind).api(space);
    let before = api.get(name).await.expect("the object");
    let manager = PatchParams { field_manager: Some("kubectl-edit".into()), ..PatchParams::default() };
    let meddled = api.patch(name, &manager, &Patch::Merge(change)).await.expect("the object is changed");
    assert_ne!(wanted(&meddled), wanted(&before), "the change changes nothing");
    until(&format!("{kind} {name} to be put right"), PATIENCE, async || {
        api.get(name).await.ok().filter(|now| wanted(now) == wanted(&before)).map(drop)
    })
    .await;
    space.is_ready().await;
    Box::new(operator)
}

async fn deleted(space: &mut Space, kind: &Kind) -> Box<dyn Kept> {
    // Events of pods that can't be made for a moment, because their ServiceAccount is away.
    space.expect_event("FailedCreate");
    // Of the disruption controller, about pods whose Deployment has just gone.
    space.expect_event("CalculateExpectedPodCountFailed");
    let operator = space.ready_pipeline().await;
    let api = kind.api(space);
    let before = kind.list(space).await;
    assert!(!before.is_empty());
    for object in &before {
        api.delete(&object.name_any(), &DeleteParams::background()).await.expect("the object is deleted");
    }
    for object in &before {
        until(&format!("{} {} to come back", kind.kind, object.name_any()), PATIENCE, async || {
            let now = api.get_opt(&object.name_any()).await.ok().flatten()?;
            (now.uid() != object.uid()).then_some(())
        })
        .await;
    }
    space.is_ready().await;
    Box::new(operator)
}

mod functions {
    use super::*;
    use crate::claim::claims;

    claims![
        what_the_operator_does_not_decide_is_left_to_others,
        a_restart_by_kubectl_is_not_undone,
        what_was_changed_while_no_operator_ran_is_put_right,
        what_was_deleted_while_no_operator_ran_comes_back,
        a_field_taken_by_force_is_taken_back,
    ];

    async fn what_the_operator_does_not_decide_is_left_to_others(space: &mut Space) -> Operator {
        let operator = space.ready_pipeline().await;
        let note =
            json!({"metadata": {"annotations": {"example.com/owner": "team-a"}, "labels": {"team": "a"}}});
        space.change::<Service>("logs-ingest", note.clone()).await;
        space.change::<Deployment>("logs-ingest", note).await;
        // Something of ours as well, so that both objects are certainly applied again.
        space.change_spec(json!({"ingest": {"replicas": 3, "service": {"annotations": {"example.com/lb": "internal"}}}})).await;
        space
            .sees("the Service's new annotation", "logs-ingest", |service: &Service| {
                service.annotations().contains_key("example.com/lb").then_some(())
            })
            .await;
        space.is_ready().await;
        let (service, deployment): (Service, Deployment) =
            (space.get("logs-ingest").await, space.get("logs-ingest").await);
        for (annotations, labels) in
            [(service.annotations(), service.labels()), (deployment.annotations(), deployment.labels())]
        {
            assert_eq!(annotations.get("example.com/owner").map(String::as_str), Some("team-a"));
            assert_eq!(labels.get("team").map(String::as_str), Some("a"));
        }
        operator
    }

    async fn a_restart_by_kubectl_is_not_undone(space: &mut Space) -> Operator {
        let operator = space.ready_pipeline().await;
        space.kubectl(&["rollout", "restart", "deployment/logs-ingest"]).await;
        let restarted: Deployment = space.get("logs-ingest").await;
        space
            .sees("the restart to end", "logs-ingest", |now: &Deployment| {
                let status = now.status.as_ref()?;
                let done = status.observed_generation == now.metadata.generation
                    && status.updated_replicas == Some(2)
                    && status.replicas == Some(2)
                    && status.available_replicas == Some(2);
                done.then_some(())
            })
            .await;
        space.is_ready().await;
        let now: Deployment = space.get("logs-ingest").await;
        assert_eq!(now.metadata.generation, restarted.metadata.generation);
        operator
    }

    async fn what_was_changed_while_no_operator_ran_is_put_right(space: &mut Space) -> Operator {
        let mut operator = space.ready_pipeline().await;
        operator.process.kill();
        space.change::<Deployment>("logs-syncer", json!({"spec": {"replicas": 1}})).await;
        let operator = space.operator().await;
        space.wants("logs-syncer", 2).await;
        space.is_ready().await;
        operator
    }

    async fn what_was_deleted_while_no_operator_ran_comes_back(space: &mut Space) -> Operator {
        let mut operator = space.ready_pipeline().await;
        let before = owned::names(space).await;
        operator.process.kill();
        space.api::<Service>().delete("logs-ingest", &DeleteParams::default()).await.expect("it is deleted");
        let operator = space.operator().await;
        space.appears::<Service>("logs-ingest").await;
        space.is_ready().await;
        assert_eq!(owned::names(space).await, before);
        operator
    }

    async fn a_field_taken_by_force_is_taken_back(space: &mut Space) -> Operator {
        let operator = space.ready_pipeline().await;
        let theirs = json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
            "metadata": {"name": "logs-ingest"}, "spec": {"maxUnavailable": 2},
        });
        let budgets = Kind::named("PodDisruptionBudget").api(space);
        let manager = PatchParams::apply("another-tool").force();
        budgets.patch("logs-ingest", &manager, &Patch::Apply(theirs)).await.expect("applied by force");
        until("the budget to be ours again", PATIENCE, async || {
            let now = budgets.get("logs-ingest").await.ok()?;
            (now.data["spec"]["maxUnavailable"] == json!(1)).then_some(())
        })
        .await;
        operator
    }
}
