//! Operators that are killed, doubled, replaced, paused or given poison.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::DeleteParams;
use serde_json::json;
use spillway_bucket::PutMeta;
use spillway_crds::LogPipeline;
use spillway_model::{object::ObjectKey, time::UnixMs};
use spillway_tests::kubernetes::at_rest;
use spillway_tests::kubernetes::operator::{Operator, Options};
use spillway_tests::kubernetes::owned::{self, Kind};
use spillway_tests::kubernetes::pipelines::{self, NAME};
use spillway_tests::kubernetes::space::{PATIENCE, Space};
use spillway_tests::wait::until;

use crate::claim::{Claim, Kept};

const STATUS: &str = "_spillway/status.json";

/// Where an operator is killed while it makes a pipeline.
const MAKING: [&str; 11] = [
    "before-bucket",
    "after-bucket",
    "before-schema",
    "after-schema",
    "before-manifest",
    "after-manifest",
    "after-object:1",
    "after-object:5",
    "after-config-map:1",
    "after-deployment:1",
    "after-deployment:2",
];

pub(crate) fn claims() -> Vec<Claim> {
    let mut claims = functions::claims();
    for point in MAKING {
        let name = format!(
            "survival::an_operator_killed_{}_is_followed_by_one_that_ends_the_work",
            point.replace(['-', ':'], "_")
        );
        claims.push(Claim::new(name, |space| Box::pin(killed(space, point))));
    }
    claims
}

async fn killed(space: &mut Space, point: &str) -> Box<dyn Kept> {
    space.create(&pipelines::with(space, json!({"deletionPolicy": "Delete"}))).await;
    let doomed = Options { failpoint: Some(point.to_owned()), ..Options::default() };
    Operator::start(space, doomed).await.ends(&format!("the operator to be killed {point}")).await;
    let operator = space.operator().await;
    space.is_ready().await;
    assert_eq!(owned::settings(space, "ingest").await.len(), 1);
    Box::new(operator)
}

/// Pod templates of ingest and syncer.
async fn templates(space: &Space) -> [String; 2] {
    let of = async |name: &str| owned::template(&space.get::<Deployment>(name).await);
    [of("logs-ingest").await, of("logs-syncer").await]
}

fn elected(number: u32) -> Options {
    Options { pod: format!("operator-{number}"), elect: true, ..Options::default() }
}

mod functions {
    use super::*;
    use crate::claim::claims;

    claims![
        a_restarted_operator_writes_nothing,
        an_operator_with_another_image_restarts_nothing,
        of_two_operators_one_works_and_the_other_takes_over,
        a_stopped_operator_hands_over_at_once,
        an_operator_that_was_frozen_stops_instead_of_working_beside_another,
        a_pipeline_that_can_not_be_read_stops_no_other,
        a_paused_pipeline_is_left_as_it_is,
        a_suspended_pipeline_empties_its_backlog_and_stops,
        a_killed_cleanup_is_finished_by_the_next_operator,
        an_api_server_that_was_away_is_found_again,
        a_pipeline_at_rest_costs_no_requests,
    ];

    async fn a_restarted_operator_writes_nothing(space: &mut Space) -> Operator {
        let mut operator = space.ready_pipeline().await;
        space.is_at_rest().await;
        operator.process.kill();
        let before = at_rest::versions(space).await;
        let operator = space.operator().await;
        tokio::time::sleep(Duration::from_secs(8)).await;
        let after = at_rest::versions(space).await;
        assert_eq!(at_rest::changed(&before, &after), Vec::<String>::new());
        operator
    }

    async fn an_operator_with_another_image_restarts_nothing(space: &mut Space) -> Operator {
        let mut old = space.ready_pipeline().await;
        let before = templates(space).await;
        old.process.kill();
        let newer = Options { image: "registry.example/spillway:9.9.9".into(), ..Options::default() };
        let operator = Operator::start(space, newer).await;
        // A change that reaches both Deployments, so that they are certainly applied by the new one.
        space.change_spec(json!({"ingest": {"replicas": 3}, "syncer": {"replicas": 3}})).await;
        for name in ["logs-ingest", "logs-syncer"] {
            space
                .sees("three pods", name, |now: &Deployment| {
                    (now.status.as_ref()?.ready_replicas == Some(3)).then_some(())
                })
                .await;
        }
        space.is_ready().await;
        assert_eq!(templates(space).await, before);
        operator
    }

    async fn of_two_operators_one_works_and_the_other_takes_over(space: &mut Space) -> Operator {
        space.create(&pipelines::pipeline(space)).await;
        let first = Operator::start(space, elected(0)).await;
        let second = Operator::start(space, elected(1)).await;
        space.is_ready().await;
        space.is_at_rest().await;
        let lease: Lease = space.get("spillway-operator").await;
        let holder = lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default();
        let (mut leader, standby) =
            if holder.contains("operator-0") { (first, second) } else { (second, first) };
        leader.process.kill();
        space.change_spec(json!({"ingest": {"replicas": 3}})).await;
        space.wants("logs-ingest", 3).await;
        space.is_ready().await;
        standby
    }

    async fn a_stopped_operator_hands_over_at_once(space: &mut Space) -> Operator {
        space.create(&pipelines::pipeline(space)).await;
        let mut first = Operator::start(space, elected(0)).await;
        space.is_ready().await;
        let second = Operator::start(space, elected(1)).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        first.process.terminate();
        assert!(first.process.wait(Duration::from_secs(20)).await.success());
        let since = std::time::Instant::now();
        space.leads("spillway-operator", "operator-1").await;
        // Long before the Lease of 15 s runs out.
        assert!(since.elapsed() < Duration::from_secs(8), "{:?}", since.elapsed());
        space.change_spec(json!({"ingest": {"replicas": 3}})).await;
        space.is_ready().await;
        second
    }

    async fn an_operator_that_was_frozen_stops_instead_of_working_beside_another(
        space: &mut Space,
    ) -> Operator {
        space.create(&pipelines::pipeline(space)).await;
        let mut first = Operator::start(space, elected(0)).await;
        space.is_ready().await;
        let second = Operator::start(space, elected(1)).await;
        first.process.pause();
        space.leads("spillway-operator", "operator-1").await;
        first.process.resume();
        until("the frozen one to give up", PATIENCE, async || {
            if !first.process.is_running() {
                return Some(());
            }
            first.metrics().await.contains("spillway_operator_leading 0").then_some(())
        })
        .await;
        space.is_ready().await;
        second
    }

    async fn a_pipeline_that_can_not_be_read_stops_no_other(space: &mut Space) -> Operator {
        let kept = Poison::put(space).await;
        // What is said of it, and of its end.
        space.expect_event("Unreadable");
        space.expect_event("Kept");
        let operator = space.ready_pipeline().await;
        space.change_spec(json!({"ingest": {"replicas": 3}})).await;
        space.is_ready().await;
        kept.remove(space).await;
        operator
    }

    /// An object that the operator's types can't read. The schema would refuse it.
    struct Poison;

    impl Poison {
        async fn put(space: &Space) -> Self {
            let mut object = serde_json::to_value(pipelines::pipeline(space)).unwrap();
            object["apiVersion"] = json!("spillway.dev/v1alpha1");
            object["kind"] = json!("LogPipeline");
            object["metadata"] = json!({
                "name": "poison", "namespace": space.namespace, "uid": "11111111-2222-3333-4444-555555555555",
                "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 1,
            });
            object["spec"]["ingest"]["replicas"] = json!("many");
            let key = format!("/registry/spillway.dev/logpipelines/{}/poison", space.namespace);
            space.world.control_plane.write_past_the_api_server(&key, &object).await;
            Self
        }

        async fn remove(self, space: &Space) {
            let api = Kind { group: "spillway.dev", version: "v1alpha1", kind: "LogPipeline", names: &[] }
                .api(space);
            api.delete("poison", &DeleteParams::default()).await.ok();
        }
    }

    async fn a_paused_pipeline_is_left_as_it_is(space: &mut Space) -> Operator {
        let operator = space.ready_pipeline().await;
        space.expect_event("Paused");
        space.change_spec(json!({"paused": true})).await;
        space.condition("Ready", "True", Some("Paused")).await;
        let before = at_rest::versions(space).await;
        space.change_spec(json!({"ingest": {"replicas": 4}})).await;
        space.change::<Deployment>("logs-syncer", json!({"metadata": {"annotations": {"a": "b"}}})).await;
        space.write_secret("shop-keys", &[("second", "another-key-of-the-shop-long-enough")]).await;
        space.is_at_rest().await;
        let after = at_rest::versions(space).await;
        let changed = at_rest::changed(&before, &after);
        // A Deployment's controller copies its annotations to the ReplicaSet.
        let by_us = [
            "Deployment logs-syncer",
            "LogPipeline logs",
            "Secret shop-keys",
            "ReplicaSet logs-syncer",
            "Event ",
        ];
        assert!(changed.iter().all(|name| by_us.iter().any(|us| name.starts_with(us))), "{changed:?}");
        space.change_spec(json!({"paused": null})).await;
        space.wants("logs-ingest", 4).await;
        space.is_ready().await;
        operator
    }

    async fn a_suspended_pipeline_empties_its_backlog_and_stops(space: &mut Space) -> Operator {
        let operator = space.ready_pipeline().await;
        // Something staged, which no syncer of these tests will load.
        let bucket = space.open_bucket().await;
        let staged =
            "shop/web/20260131T235959042Z-ingest-0-0000000000000abc-0000000007-v1-1-10.json.gz".to_owned();
        assert!(ObjectKey::parse(&staged).is_ok());
        bucket.put_if_absent(&staged, "x".into(), &PutMeta::default()).await.expect("staged");
        for reason in ["Suspending", "Suspended"] {
            space.expect_event(reason);
        }
        space.change_spec(json!({"suspend": true})).await;
        space.wants("logs-ingest", 0).await;
        space.condition("Ready", "False", Some("Suspending")).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let syncer: Deployment = space.get("logs-syncer").await;
        assert_eq!(
            syncer.spec.and_then(|spec| spec.replicas),
            Some(2),
            "stopped before its backlog was loaded"
        );
        let waits = space.condition("Ready", "False", Some("Suspending")).await.message;
        assert!(waits.contains("1 staged object,"), "{waits}");
        // What a syncer said that had no time to say more.
        let last_word = json!({"version": 1, "at": UnixMs::now().0, "backlogObjects": 3, "lagSeconds": 45.0});
        let last_word = last_word.to_string().into_bytes().into();
        bucket.put_if_absent(STATUS, last_word, &PutMeta::default()).await.expect("a status");
        let lag = |lag: Option<&'static str>| {
            move |now: &LogPipeline| (now.status.as_ref()?.lag.as_deref() == lag).then_some(())
        };
        space.sees("a lag", NAME, lag(Some("45s"))).await;
        bucket.delete_many(&[staged]).await.expect("loaded");
        space.wants("logs-syncer", 0).await;
        space.condition("Ready", "False", Some("Suspended")).await;
        space.sees("no lag that nobody measures", NAME, lag(None)).await;
        let status = space.get::<LogPipeline>(NAME).await.status.unwrap_or_default();
        assert_eq!(status.backlog.map(|backlog| backlog.objects), Some(0));
        space.is_at_rest().await;
        space.change_spec(json!({"suspend": false})).await;
        space.wants("logs-ingest", 2).await;
        space.wants("logs-syncer", 2).await;
        space.is_ready().await;
        operator
    }

    async fn a_killed_cleanup_is_finished_by_the_next_operator(space: &mut Space) -> Operator {
        let to_be_deleted = json!({"deletionPolicy": "Delete"});
        let mut first = space.ready_with(to_be_deleted, Options::default()).await;
        first.process.kill();
        space.delete_pipeline(NAME).await;
        for reason in ["CleaningUp", "CleanedUp"] {
            space.expect_event(reason);
        }
        for point in ["after-stop", "after-stop", "before-drop", "before-empty", "before-release"] {
            let doomed = Options { failpoint: Some(point.into()), ..Options::default() };
            let mut operator = Operator::start(space, doomed).await;
            operator.ends(&format!("the operator to be killed {point}")).await;
        }
        let operator = space.operator().await;
        space.goes::<LogPipeline>(NAME).await;
        assert_eq!(space.tables().await, Vec::<String>::new());
        operator
    }

    async fn an_api_server_that_was_away_is_found_again(space: &mut Space) -> Operator {
        let operator = space.ready_pipeline().await;
        // Shared with other tests, so it is only frozen, and shortly.
        space.world.control_plane.pause_api_server();
        tokio::time::sleep(Duration::from_secs(3)).await;
        space.world.control_plane.resume_api_server();
        space.change_spec(json!({"ingest": {"replicas": 3}})).await;
        space.wants("logs-ingest", 3).await;
        space.is_ready().await;
        operator
    }

    async fn a_pipeline_at_rest_costs_no_requests(space: &mut Space) -> Operator {
        let operator = space.ready_pipeline().await;
        space.is_at_rest().await;
        let writes = |metrics: &str| -> Vec<String> {
            metrics
                .lines()
                .filter(|line| line.starts_with("spillway_operator_writes_total"))
                .map(str::to_owned)
                .collect()
        };
        let before = writes(&operator.metrics().await);
        assert!(!before.is_empty());
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(writes(&operator.metrics().await), before);
        operator
    }
}
