use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use super::*;
use crate::monitoring::PodMonitorMode;

/// A pipeline with this spec.
fn pipeline(spec: Value) -> LogPipeline {
    LogPipeline::new("logs", serde_json::from_value(spec).unwrap())
}

/// `path: reason` of everything that is wrong with the spec.
fn mistakes(spec: Value) -> Vec<String> {
    let errors = validate(&pipeline(spec)).err().unwrap_or_default();
    errors.iter().map(|error| format!("{}: {}", error.path, error.problem.reason())).collect()
}

fn tenant(name: &str, projects: &[&str]) -> Value {
    json!({"name": name, "apiKeysSecretRef": {"name": "keys"}, "projects": projects})
}

#[test]
fn an_empty_spec_is_valid_and_runs_on_one_machine() {
    let valid = validate(&pipeline(json!({}))).unwrap();
    assert!(valid.storage.s3.is_none() && valid.clickhouse.url.is_none());
    assert_eq!(valid.schema.retention_days, None);
    assert_eq!(valid.ingest.scale, Scale::Fixed(2));
    assert_eq!(valid.deletion_policy, DeletionPolicy::Retain);
}

#[test]
fn each_mistake_is_named_by_its_field() {
    for (spec, mistake) in [
        (json!({"schema": {"retentionDays": 0}}), "spec.schema.retentionDays: OutOfRange"),
        (json!({"schema": {"table": "logs; DROP"}}), "spec.schema.table: BadIdentifier"),
        (json!({"clickhouse": {"database": "1db"}}), "spec.clickhouse.database: BadIdentifier"),
        (json!({"clickhouse": {"url": "clickhouse:8123"}}), "spec.clickhouse.url: BadUrl"),
        (json!({"clickhouse": {"url": "http://me:secret@host:8123"}}), "spec.clickhouse.url: BadUrl"),
        (json!({"storage": {"s3": {"bucket": "Logs_1"}}}), "spec.storage.s3.bucket: Malformed"),
        (
            json!({"storage": {"s3": {"bucket": "logs", "prefix": "prod"}}}),
            "spec.storage.s3.prefix: Malformed",
        ),
        (
            json!({"storage": {"s3": {"bucket": "logs", "prefix": "/prod/"}}}),
            "spec.storage.s3.prefix: Malformed",
        ),
        (
            json!({"storage": {"s3": {"bucket": "logs", "prefix": "a/../b/"}}}),
            "spec.storage.s3.prefix: Malformed",
        ),
        (json!({"ingest": {"flush": {"maxBytes": "8MB"}}}), "spec.ingest.flush.maxBytes: NotASize"),
        (json!({"ingest": {"flush": {"maxAge": "0.5s"}}}), "spec.ingest.flush.maxAge: NotADuration"),
        (json!({"ingest": {"flush": {"maxAge": "2h"}}}), "spec.ingest.flush.maxAge: OutOfRange"),
        (
            json!({"ingest": {"queue": {"tenantSharePercent": 0}}}),
            "spec.ingest.queue.tenantSharePercent: OutOfRange",
        ),
        (json!({"ingest": {"maxConnectionAge": "5"}}), "spec.ingest.maxConnectionAge: NotADuration"),
        (json!({"ingest": {"maxConnectionAge": "999ms"}}), "spec.ingest.maxConnectionAge: OutOfRange"),
        (json!({"ingest": {"maxConnectionAge": "25h"}}), "spec.ingest.maxConnectionAge: OutOfRange"),
        (json!({"ingest": {"replicas": -1}}), "spec.ingest.replicas: OutOfRange"),
        (json!({"ingest": {"replicas": 2, "autoscaling": {"max": 5}}}), "spec.ingest.replicas: Exclusive"),
        (json!({"ingest": {"autoscaling": {"min": 6, "max": 5}}}), "spec.ingest.autoscaling.min: OutOfRange"),
        (json!({"ingest": {"queue": {"maxBytes": "4Mi"}}}), "spec.ingest.flush.maxBytes: MoreThan"),
        (json!({"paused": true, "suspend": true}), "spec.paused: Exclusive"),
        (json!({"image": "spill way"}), "spec.image: Malformed"),
        (json!({"imagePullSecrets": [{"name": "A_b"}]}), "spec.imagePullSecrets[0].name: Malformed"),
        (json!({"storage": {"s3": {"bucket": "-logs"}}}), "spec.storage.s3.bucket: Malformed"),
        (
            json!({"storage": {"s3": {"bucket": "logs", "serviceAccount": "a/b"}}}),
            "spec.storage.s3.serviceAccount: Malformed",
        ),
        (
            json!({"ingest": {"disruption": {"maxUnavailable": 0}}}),
            "spec.ingest.disruption.maxUnavailable: OutOfRange",
        ),
        (
            json!({"ingest": {"disruption": {"maxUnavailable": "0%"}}}),
            "spec.ingest.disruption.maxUnavailable: Malformed",
        ),
        (
            json!({"syncer": {"scheduling": {"topologyKeys": ["a", ""]}}}),
            "spec.syncer.scheduling.topologyKeys[1]: Missing",
        ),
        (json!({"syncer": {"replicas": 4}}), "spec.syncer.replicas: OutOfRange"),
        (json!({"monitoring": {"interval": "0s"}}), "spec.monitoring.interval: OutOfRange"),
        (json!({"syncer": {"concurrency": 0}}), "spec.syncer.concurrency: OutOfRange"),
        (json!({"syncer": {"interval": "1ms"}}), "spec.syncer.interval: OutOfRange"),
    ] {
        assert_eq!(mistakes(spec.clone()), [mistake], "{spec}");
    }
}

#[test]
fn a_name_must_leave_room_for_those_of_the_objects_named_after_it() {
    let problem = |name: &str| {
        let pipeline = LogPipeline::new(name, LogPipelineSpec::default());
        validate(&pipeline).err().map(|errors| errors[0].problem.reason())
    };
    for good in ["a", "logs", "logs-2", &"a".repeat(40)] {
        assert_eq!(problem(good), None, "{good}");
    }
    for bad in ["Logs", "1logs", "logs-", "logs.prod", &"a".repeat(41)] {
        assert_eq!(problem(bad), Some("Malformed"), "{bad}");
    }
    assert_eq!(problem(""), Some("Missing"));
}

#[test]
fn what_has_bounds_and_can_be_switched_off_says_both() {
    let of = |age: &str| validate(&pipeline(json!({"ingest": {"maxConnectionAge": age}})));
    for (text, age) in
        [("0s", Span::ms(0)), ("0d", Span::ms(0)), ("1s", Span::secs(1)), ("1d", Span::days(1))]
    {
        assert_eq!(of(text).unwrap().ingest.max_connection_age, Some(age), "{text}");
    }
    let error = of("500ms").unwrap_err().remove(0).to_string();
    assert_eq!(error, "spec.ingest.maxConnectionAge: 500ms is out of range; write 0s, or 1s to 1d");
}

#[test]
fn what_a_cluster_needs_has_defaults_that_are_never_to_change() {
    let valid = validate(&pipeline(json!({}))).unwrap();
    let zones = ["topology.kubernetes.io/zone", "kubernetes.io/hostname"];
    assert_eq!(valid.ingest.scheduling.topology_keys, zones);
    assert_eq!(valid.syncer.scheduling.topology_keys, zones);
    assert_eq!(valid.ingest.max_unavailable, IntOrString::Int(1));
    assert_eq!((valid.syncer.replicas, valid.network_policy.enabled), (2, true));
    assert_eq!(valid.monitoring.pod_monitor, PodMonitorMode::Auto);
    let none = json!({"ingest": {"scheduling": {"topologyKeys": []}}});
    assert!(validate(&pipeline(none)).unwrap().ingest.scheduling.topology_keys.is_empty());
}

#[test]
fn all_mistakes_are_found_in_one_go() {
    let spec = json!({
        "schema": {"retentionDays": 5000},
        "storage": {"s3": {"bucket": "x", "credentialsSecretRef": {"name": "a"}, "serviceAccount": "b"}},
        "syncer": {"batch": {"maxRows": 0}},
    });
    assert_eq!(
        mistakes(spec),
        [
            "spec.schema.retentionDays: OutOfRange",
            "spec.storage.s3.credentialsSecretRef: Exclusive",
            "spec.storage.s3.bucket: Malformed",
            "spec.syncer.batch.maxRows: OutOfRange",
        ]
    );
}

#[test]
fn a_message_about_a_url_never_repeats_its_password() {
    let errors = validate(&pipeline(json!({"clickhouse": {"url": "http://me:hunter2@host"}}))).unwrap_err();
    assert!(!errors[0].to_string().contains("hunter2"), "{}", errors[0]);
}

#[test]
fn a_bad_tenant_is_left_out_and_the_others_go_on() {
    let spec =
        json!({"tenants": [tenant("a", &["../b"]), tenant("b", &["shop"]), tenant("c", &["_spillway"])]});
    let valid = validate(&pipeline(spec)).unwrap();
    assert_eq!(valid.tenants.iter().map(|tenant| tenant.name.as_str()).collect::<Vec<_>>(), ["b"]);
    let refused: Vec<_> = valid.refused_tenants.iter().map(|tenant| tenant.errors[0].path.as_str()).collect();
    assert_eq!(refused, ["spec.tenants[0].projects[0]", "spec.tenants[2].projects[0]"]);
}

#[test]
fn a_project_stays_with_the_tenant_that_named_it_first() {
    let spec = json!({"tenants": [tenant("a", &["shop"]), tenant("b", &["shop", "blog"])]});
    let valid = validate(&pipeline(spec)).unwrap();
    assert_eq!(valid.tenants.len(), 1);
    assert_eq!(valid.tenants[0].name.as_str(), "a");
    let error = &valid.refused_tenants[0].errors[0];
    assert_eq!(error.problem, Problem::ProjectTaken { project: "shop".into(), owner: "a".into() });
}

#[test]
fn a_tenant_keeps_records_as_long_as_the_schema_unless_it_says_otherwise() {
    let mut own = tenant("b", &["blog"]);
    own["retentionDays"] = json!(7);
    let spec = json!({"schema": {"retentionDays": 90}, "tenants": [tenant("a", &["shop"]), own]});
    let days: Vec<_> =
        validate(&pipeline(spec)).unwrap().tenants.iter().map(|tenant| tenant.retention_days).collect();
    assert_eq!(days, [90, 7]);
}
