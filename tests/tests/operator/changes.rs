//! Changing the object changes the pipeline, and only what has to change.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::json;
use spillway_crds::LogPipeline;
use spillway_tests::kubernetes::operator::Operator;
use spillway_tests::kubernetes::owned::{self, template};
use spillway_tests::kubernetes::pipelines::{self, NAME};
use spillway_tests::kubernetes::space::Space;

use crate::claim::claims;

claims![
    a_changed_setting_rolls_the_component_that_reads_it_and_no_other,
    settings_of_an_old_rollout_stay_while_it_can_be_rolled_back,
    taking_a_change_back_brings_back_the_same_settings_object,
    a_broken_rollout_is_cured_by_the_next_change,
    a_spec_that_makes_no_sense_is_named_and_changes_nothing,
    what_is_no_longer_wanted_is_removed,
    a_change_of_replicas_restarts_nothing,
    a_secret_of_two_names_in_one_change_is_followed,
];

fn generation(deployment: &Deployment) -> i64 {
    deployment.metadata.generation.unwrap_or_default()
}

async fn a_changed_setting_rolls_the_component_that_reads_it_and_no_other(space: &mut Space) -> Operator {
    let operator = space.ready_pipeline().await;
    let (ingest, syncer): (Deployment, Deployment) =
        (space.get("logs-ingest").await, space.get("logs-syncer").await);
    space.change_spec(json!({"ingest": {"flush": {"maxAge": "250ms"}}})).await;
    space
        .sees("ingest to roll", "logs-ingest", |now: &Deployment| {
            (template(now) != template(&ingest)).then_some(())
        })
        .await;
    space.is_ready().await;
    let after: Deployment = space.get("logs-syncer").await;
    assert_eq!(generation(&after), generation(&syncer), "the syncer's Deployment was changed");
    let ingest: Deployment = space.get("logs-ingest").await;
    space.change_spec(json!({"syncer": {"concurrency": 3}})).await;
    space
        .sees("the syncer to roll", "logs-syncer", |now: &Deployment| {
            (template(now) != template(&after)).then_some(())
        })
        .await;
    space.is_ready().await;
    assert_eq!(
        generation(&space.get("logs-ingest").await),
        generation(&ingest),
        "ingest's Deployment was changed"
    );
    operator
}

async fn settings_of_an_old_rollout_stay_while_it_can_be_rolled_back(space: &mut Space) -> Operator {
    let operator = space.ready_pipeline().await;
    let first = owned::settings(space, "ingest").await;
    space.change_spec(json!({"ingest": {"flush": {"maxAge": "250ms"}}})).await;
    space
        .sees("a second settings object", "logs-ingest", |now: &Deployment| {
            (!template(now).contains(&first[0])).then_some(())
        })
        .await;
    space.is_ready().await;
    let both = owned::settings(space, "ingest").await;
    assert!(both.len() == 2 && both.contains(&first[0]), "{both:?}");
    let map: ConfigMap = space.get(&first[0]).await;
    assert_eq!(map.immutable, Some(true));
    operator
}

async fn taking_a_change_back_brings_back_the_same_settings_object(space: &mut Space) -> Operator {
    let operator = space.ready_pipeline().await;
    let before: Deployment = space.get("logs-ingest").await;
    for (change, same) in [(json!("250ms"), false), (json!(null), true)] {
        space.change_spec(json!({"ingest": {"flush": {"maxAge": change}}})).await;
        space
            .sees("the rollout", "logs-ingest", |now: &Deployment| {
                ((template(now) == template(&before)) == same).then_some(())
            })
            .await;
        space.is_ready().await;
    }
    operator
}

async fn a_broken_rollout_is_cured_by_the_next_change(space: &mut Space) -> Operator {
    let operator = space.ready_pipeline().await;
    space.change_spec(json!({"image": "registry.example/broken:2"})).await;
    let runs = |image: &'static str| move |now: &Deployment| template(now).contains(image).then_some(());
    space.sees("the broken image", "logs-ingest", runs("broken:2")).await;
    // The old pods go on meanwhile.
    let deployment: Deployment = space.get("logs-ingest").await;
    assert!(deployment.status.and_then(|status| status.available_replicas).unwrap_or(0) >= 1);
    space.change_spec(json!({"image": "registry.example/good:3"})).await;
    space.sees("the good image", "logs-ingest", runs("good:3")).await;
    space.sees("the good image", "logs-syncer", runs("good:3")).await;
    space.is_ready().await;
    operator
}

async fn a_spec_that_makes_no_sense_is_named_and_changes_nothing(space: &mut Space) -> Operator {
    let operator = space.ready_pipeline().await;
    let before: Deployment = space.get("logs-ingest").await;
    // Only the operator can know: no rule of the CRD compares a size with another.
    space.change_spec(json!({"ingest": {"flush": {"maxBytes": "64Mi"}, "queue": {"maxBytes": "1Mi"}}})).await;
    space.expect_event("Invalid");
    let condition = space.condition("SpecValid", "False", Some("Invalid")).await;
    assert!(condition.message.contains("spec.ingest.flush.maxBytes"), "{condition:?}");
    space.condition("Ready", "False", None).await;
    assert_eq!(generation(&space.get("logs-ingest").await), generation(&before));
    space.change_spec(json!({"ingest": {"flush": null, "queue": null}})).await;
    space.is_ready().await;
    operator
}

async fn what_is_no_longer_wanted_is_removed(space: &mut Space) -> Operator {
    let operator = space.ready_pipeline().await;
    space.change_spec(json!({"networkPolicy": {"enabled": false}})).await;
    space.goes::<NetworkPolicy>("logs-ingest").await;
    space.goes::<NetworkPolicy>("logs-syncer").await;
    space.change_spec(json!({"networkPolicy": null})).await;
    space.appears::<NetworkPolicy>("logs-ingest").await;
    space.appears::<NetworkPolicy>("logs-syncer").await;
    space.appears::<Service>("logs-ingest").await;
    space.is_ready().await;
    operator
}

async fn a_change_of_replicas_restarts_nothing(space: &mut Space) -> Operator {
    let operator = space.ready_pipeline().await;
    let before: Deployment = space.get("logs-ingest").await;
    space.change_spec(json!({"ingest": {"replicas": 3}})).await;
    space
        .sees("three pods", NAME, |pipeline: &LogPipeline| {
            (pipeline.status.as_ref()?.ingest.as_deref() == Some("3/3")).then_some(())
        })
        .await;
    assert_eq!(template(&space.get("logs-ingest").await), template(&before));
    operator
}

async fn a_secret_of_two_names_in_one_change_is_followed(space: &mut Space) -> Operator {
    let operator = space.ready_pipeline().await;
    let mut copy = pipelines::secrets().remove(0);
    copy.metadata.name = Some("bucket-two".into());
    space.create(&copy).await;
    space.change_spec(json!({"storage": {"s3": {"credentialsSecretRef": {"name": "bucket-two"}}}})).await;
    space
        .sees("pods with the other Secret", "logs-syncer", |now: &Deployment| {
            template(now).contains("bucket-two").then_some(())
        })
        .await;
    space.is_ready().await;
    operator
}
