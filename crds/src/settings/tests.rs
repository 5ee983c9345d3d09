use serde_json::{Value, json};

use super::*;
use crate::{LogPipeline, validate};

fn valid(spec: Value) -> ValidatedPipeline {
    validate(&LogPipeline::new("logs", serde_json::from_value(spec).unwrap())).unwrap()
}

fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn here() -> StandIns {
    StandIns { directory: Some("data".into()), clickhouse: Some("http://127.0.0.1:8123".into()) }
}

/// Both documents of a spec as a cluster's pods get them.
fn documents(spec: Value) -> (Value, Value) {
    let pipeline = ValidatedPipeline { namespace: Some("logging".into()), ..valid(spec) };
    let files = Files {
        s3_credentials: pipeline
            .storage
            .s3
            .as_ref()
            .and_then(|s3| s3.credentials.as_ref())
            .map(|_| "/s3".into()),
        tls: pipeline.ingest.tls.as_ref().map(|_| "/tls".into()),
        ..Files::default()
    };
    let (nothing, lease) =
        (StandIns::default(), LeaseSettings { namespace: "logging".into(), name: "logs-syncer".into() });
    let ingest = ingest_document(&pipeline, &files, &nothing, any(), any()).unwrap();
    let syncer = syncer_document(&pipeline, &files, &nothing, any(), Some(&lease)).unwrap();
    (serde_json::from_str(&ingest).unwrap(), serde_json::from_str(&syncer).unwrap())
}

/// The least that a cluster can run.
fn least() -> Value {
    json!({"storage": {"s3": {"bucket": "logs"}}, "clickhouse": {"url": "http://ch:8123"}})
}

/// Every setting that reaches a file, at another value than the default.
fn everything() -> Value {
    json!({
        "storage": {"s3": {
            "bucket": "logs", "prefix": "prod/", "endpoint": "http://minio:9000", "region": "eu-1",
            "pathStyle": false, "credentialsSecretRef": {"name": "s3"},
        }},
        "clickhouse": {"url": "https://ch:8443/", "database": "obs", "cluster": "main"},
        "schema": {
            "table": "events", "retentionDays": 7, "messageIndex": "None",
            "views": {"errorRate": false, "httpLatency": false, "tenantVolume": false},
        },
        "ingest": {
            "ack": "Memory", "objects": "PerService", "maxPutsPerSecond": 9, "maxConnectionAge": "0s",
            "flush": {"maxBytes": "1Mi", "maxRecords": 100, "maxAge": "5s"},
            "queue": {
                "maxBytes": "64Mi", "maxRequests": 10, "tenantSharePercent": 25, "maxStreamsPerTenant": 20,
            },
            "timestampWindow": {"past": "7d", "future": "5m"},
            "request": {
                "maxBodyBytes": "1Mi", "maxExpandedBytes": "2Mi", "maxRecords": 3, "maxRecordBytes": "4Ki",
            },
            "drain": {"readinessDelay": "1s", "requestTimeout": "2s", "flushTimeout": "3s"},
            "tls": {"secretRef": {"name": "tls"}},
        },
        "syncer": {
            "interval": "1s", "idleInterval": "30s", "concurrency": 8, "deleteGrace": "1m",
            "batch": {"maxRows": 10, "maxBytes": "2Mi", "maxAge": "3s"},
        },
    })
}

#[test]
fn a_file_for_an_empty_spec_holds_where_things_are_and_nothing_else() {
    let (ingest, syncer) = documents(least());
    let bucket = json!({"s3": {"bucket": "logs"}});
    assert_eq!(
        ingest,
        json!({"version": 1, "bucket": bucket, "http": "127.0.0.1:0", "admin": "127.0.0.1:0"})
    );
    assert_eq!(
        syncer,
        json!({
            "version": 1, "bucket": bucket, "clickhouse": {"url": "http://ch:8123"}, "admin": "127.0.0.1:0",
            "pipeline": "logging/logs", "lease": {"namespace": "logging", "name": "logs-syncer"},
        })
    );
}

#[test]
fn everything_that_a_spec_sets_is_in_a_file() {
    let (ingest, syncer) = documents(everything());
    let bucket = json!({
        "s3": {
            "endpoint": "http://minio:9000", "region": "eu-1", "bucket": "logs", "pathStyle": false,
            "credentialsDir": "/s3",
        },
        "prefix": "prod/",
    });
    assert_eq!(
        ingest,
        json!({
            "version": 1, "bucket": bucket, "http": "127.0.0.1:0", "admin": "127.0.0.1:0",
            "tls": {"certFile": "/tls/tls.crt", "keyFile": "/tls/tls.key"},
            "ack": "Memory", "objects": "PerService", "maxPutsPerSecond": 9, "defaultRetentionDays": 7,
            "maxConnectionAge": "0s",
            "flush": {"maxBytes": "1Mi", "maxRecords": 100, "maxAge": "5s"},
            "queue": {"maxBytes": "64Mi", "maxRequests": 10, "tenantShare": 0.25, "maxStreamsPerTenant": 20},
            "timestampWindow": {"past": "7d", "future": "5m"},
            "request": {
                "maxBodyBytes": "1Mi", "maxExpandedBytes": "2Mi", "maxRecords": 3, "maxRecordBytes": "4Ki",
            },
            "drain": {"readinessDelay": "1s", "requestTimeout": "2s", "flushTimeout": "3s"},
        })
    );
    assert_eq!(
        syncer,
        json!({
            "version": 1, "bucket": bucket, "admin": "127.0.0.1:0", "pipeline": "logging/logs",
            "lease": {"namespace": "logging", "name": "logs-syncer"},
            "clickhouse": {
                "url": "https://ch:8443", "database": "obs", "table": "events", "cluster": "main",
                "messageIndex": "None",
                "views": {"errorRate": false, "httpLatency": false, "tenantVolume": false},
            },
            "interval": "1s", "idleInterval": "30s", "concurrency": 8, "deleteGrace": "1m",
            "batch": {"maxRows": 10, "maxBytes": "2Mi", "maxAge": "3s"},
        })
    );
}

/// That nothing in a document is misspelt: a reader ignores what it doesn't know.
#[test]
fn every_entry_of_a_file_is_one_that_its_reader_knows() {
    let (ingest, syncer) = documents(everything());
    let known = |document: &Value, read: Value| {
        for (key, value) in document.as_object().unwrap() {
            let there = read.get(key).unwrap_or_else(|| panic!("no such setting: {key}"));
            for inner in value.as_object().into_iter().flatten().map(|(inner, _)| inner) {
                assert!(there.get(inner).is_some(), "no such setting: {key}.{inner}");
            }
        }
    };
    let read: IngestSettings = serde_json::from_value(ingest.clone()).unwrap();
    known(&ingest, serde_json::to_value(&read).unwrap());
    read.validate().unwrap();
    let read: SyncerSettings = serde_json::from_value(syncer.clone()).unwrap();
    known(&syncer, serde_json::to_value(&read).unwrap());
    read.validate().unwrap();
}

#[test]
fn what_is_set_to_its_default_stays_in_the_file_so_that_another_default_does_not_change_it() {
    let mut spec = least();
    spec["ingest"] =
        json!({"ack": "Durable", "flush": {"maxBytes": "8Mi"}, "queue": {"tenantSharePercent": 50}});
    spec["schema"] = json!({"retentionDays": 30, "messageIndex": "Auto", "views": {"errorRate": true}});
    spec["syncer"] = json!({"concurrency": 2});
    let (ingest, syncer) = documents(spec);
    assert_eq!(ingest["ack"], "Durable");
    assert_eq!(ingest["flush"], json!({"maxBytes": "8Mi"}));
    assert_eq!(ingest["queue"], json!({"tenantShare": 0.5}));
    assert_eq!(ingest["defaultRetentionDays"], 30);
    assert_eq!(syncer["clickhouse"]["messageIndex"], "Auto");
    assert_eq!(syncer["clickhouse"]["views"], json!({"errorRate": true}));
    assert_eq!(syncer["concurrency"], 2);
}

#[test]
fn a_pipeline_gives_the_same_bytes_each_time() {
    let text = || {
        let pipeline = valid(everything());
        let files = Files { tls: Some("/tls".into()), ..Files::default() };
        ingest_document(&pipeline, &files, &StandIns::default(), any(), any()).unwrap()
    };
    assert_eq!(text(), text());
    assert!(text().ends_with("}\n"));
}

#[test]
fn what_concerns_one_component_changes_the_file_of_that_one_only() {
    let (ingest, syncer) = documents(least());
    let mut other = least();
    other["syncer"] = json!({"concurrency": 4, "replicas": 3});
    assert_eq!(documents(other.clone()).0, ingest);
    assert_ne!(documents(other).1, syncer);
    let mut other = least();
    other["ingest"] = json!({"ack": "Memory", "replicas": 5});
    assert_ne!(documents(other.clone()).0, ingest);
    assert_eq!(documents(other).1, syncer);
}

#[test]
fn a_pipeline_without_a_bucket_or_a_server_has_no_file_in_a_cluster() {
    let (pipeline, nothing) = (valid(json!({})), StandIns::default());
    let error = ingest_document(&pipeline, &Files::default(), &nothing, any(), any()).unwrap_err();
    assert!(error.to_string().starts_with("spec.storage.s3: is missing"), "{error}");
    let pipeline = valid(json!({"storage": {"s3": {"bucket": "logs"}}}));
    let error = syncer_document(&pipeline, &Files::default(), &nothing, any(), None).unwrap_err();
    assert!(error.to_string().starts_with("spec.clickhouse.url: is missing"), "{error}");
    let paths: Vec<_> = valid(json!({})).missing_in_a_cluster().into_iter().map(|field| field.path).collect();
    assert_eq!(paths, ["spec.storage.s3", "spec.clickhouse.url"]);
}

#[test]
fn tls_is_never_left_out_in_silence() {
    let mut spec = least();
    spec["ingest"] = json!({"tls": {"secretRef": {"name": "tls"}}});
    let error = ingest(&valid(spec), &Files::default(), &StandIns::default(), any(), any()).unwrap_err();
    assert!(error.to_string().starts_with("spec.ingest.tls"), "{error}");
}

#[test]
fn an_empty_spec_gives_the_settings_own_defaults() {
    let (pipeline, files) = (valid(json!({})), Files::default());
    let place = bucket(&pipeline, &files, &here()).unwrap();
    assert_eq!(place, BucketSettings::directory("data"));
    assert_eq!(clickhouse(&pipeline, &files, &here()).unwrap(), ClickHouseSettings::default());
    let expected = IngestSettings { http: any(), admin: any(), ..IngestSettings::new(place) };
    assert_eq!(ingest(&pipeline, &files, &here(), any(), any()).unwrap(), expected);
}

#[test]
fn a_server_with_an_endpoint_of_its_own_is_spoken_to_by_path_unless_the_spec_says_otherwise() {
    for (s3, by_path) in [
        (json!({"bucket": "logs"}), false),
        (json!({"bucket": "logs", "endpoint": "http://minio:9000"}), true),
        (json!({"bucket": "logs", "endpoint": "http://minio:9000", "pathStyle": false}), false),
        (json!({"bucket": "logs", "pathStyle": true}), true),
    ] {
        let pipeline = valid(json!({"storage": {"s3": s3}}));
        let place = bucket(&pipeline, &Files::default(), &StandIns::default()).unwrap().place;
        let Place::S3(settings) = place else { panic!("{place:?}") };
        assert_eq!(settings.path_style, by_path, "{settings:?}");
    }
}

#[test]
fn a_local_directory_is_listed_as_often_when_idle_unless_the_spec_says_otherwise() {
    for (spec, idle) in [
        (json!({"interval": "200ms"}), Span::ms(200)),
        (json!({"interval": "200ms", "idleInterval": "5s"}), Span::secs(5)),
    ] {
        let pipeline = valid(json!({"syncer": spec}));
        assert_eq!(syncer(&pipeline, &Files::default(), &here(), any()).unwrap().idle_interval, idle);
    }
}
