//! From a valid pipeline to the settings of ingest and syncer. What the pipeline leaves open stays at the
//! settings' own defaults.

mod tenants;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use spillway_model::settings::{
    Ack, BucketSettings, ClickHouseSettings, IngestSettings, MessageIndex, Objects, Place, S3Settings, Span,
    SyncerSettings, ViewSettings,
};
pub use tenants::tenants_file;

use crate::{ValidatedPipeline, ingest, schema, validate};

/// Where the runner has put the files that settings name; only for what the pipeline asks for.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// Directory with `access_key_id`, `secret_access_key` and maybe `session_token`.
    pub s3_credentials: Option<PathBuf>,
    pub s3_ca: Option<PathBuf>,
    /// Directory with `username` and `password`.
    pub clickhouse_credentials: Option<PathBuf>,
    pub clickhouse_ca: Option<PathBuf>,
}

/// The bucket; `local` is the directory that stands in for it when the pipeline names none.
pub fn bucket(pipeline: &ValidatedPipeline, files: &Files, local: &Path) -> BucketSettings {
    let Some(s3) = &pipeline.storage.s3 else { return BucketSettings::directory(local) };
    // Taken apart in full, so that a new field can't be forgotten here. The pods' identity is the operator's matter.
    let validate::S3 {
        endpoint,
        region,
        bucket,
        prefix,
        path_style,
        credentials: _,
        service_account: _,
        ca: _,
    } = s3;
    BucketSettings {
        place: Place::S3(S3Settings {
            endpoint: endpoint.clone(),
            region: region.clone().unwrap_or_default(),
            bucket: bucket.clone(),
            path_style: path_style.unwrap_or(endpoint.is_some()),
            credentials_dir: files.s3_credentials.clone(),
            ca_file: files.s3_ca.clone(),
        }),
        prefix: prefix.clone(),
    }
}

/// The ClickHouse and what its table looks like; `local` is the URL of the one that the runner started when the
/// pipeline names none.
pub fn clickhouse(pipeline: &ValidatedPipeline, files: &Files, local: &str) -> ClickHouseSettings {
    let validate::ClickHouse { url, database, cluster, credentials: _, ca: _ } = &pipeline.clickhouse;
    let validate::Schema { table, retention_days: _, message_index, error_rate, http_latency, tenant_volume } =
        &pipeline.schema;
    let mut settings = ClickHouseSettings {
        url: url.as_deref().unwrap_or(local).to_owned(),
        cluster: cluster.clone(),
        credentials_dir: files.clickhouse_credentials.clone(),
        ca_file: files.clickhouse_ca.clone(),
        message_index: match message_index.unwrap_or_default() {
            schema::MessageIndex::Auto => MessageIndex::Auto,
            schema::MessageIndex::Text => MessageIndex::Text,
            schema::MessageIndex::TokenBloom => MessageIndex::TokenBloom,
            schema::MessageIndex::None => MessageIndex::None,
        },
        views: ViewSettings {
            error_rate: error_rate.unwrap_or(true),
            http_latency: http_latency.unwrap_or(true),
            tenant_volume: tenant_volume.unwrap_or(true),
        },
        ..ClickHouseSettings::default()
    };
    set(&mut settings.database, database.clone());
    set(&mut settings.table, table.clone());
    settings
}

/// The ingest process.
pub fn ingest(
    pipeline: &ValidatedPipeline,
    bucket: BucketSettings,
    http: SocketAddr,
    admin: SocketAddr,
) -> IngestSettings {
    let validate::Ingest {
        scale: _,
        ack,
        objects,
        flush_max_bytes,
        flush_max_records,
        flush_max_age,
        queue_max_bytes,
        queue_max_requests,
        tenant_share_percent,
        max_streams_per_tenant,
        max_puts_per_second,
        window_past,
        window_future,
        request_max_body_bytes,
        request_max_expanded_bytes,
        request_max_records,
        request_max_record_bytes,
        drain_readiness_delay,
        drain_request_timeout,
        drain_flush_timeout,
        tls: _,
        service_type: _,
        service_annotations: _,
        resources: _,
        scheduling: _,
        max_unavailable: _,
    } = &pipeline.ingest;
    let mut settings = IngestSettings::new(bucket);
    settings.http = http;
    settings.admin = admin;
    settings.ack = match ack.unwrap_or_default() {
        ingest::Ack::Durable => Ack::Durable,
        ingest::Ack::Memory => Ack::Memory,
    };
    settings.objects = match objects.unwrap_or_default() {
        ingest::Objects::Adaptive => Objects::Adaptive,
        ingest::Objects::PerService => Objects::PerService,
    };
    set(&mut settings.flush.max_bytes, *flush_max_bytes);
    set(&mut settings.flush.max_records, *flush_max_records);
    set(&mut settings.flush.max_age, *flush_max_age);
    set(&mut settings.queue.max_bytes, *queue_max_bytes);
    set(&mut settings.queue.max_requests, queue_max_requests.map(u64::from));
    set(&mut settings.queue.tenant_share, tenant_share_percent.map(|percent| f64::from(percent) / 100.0));
    set(&mut settings.queue.max_streams_per_tenant, max_streams_per_tenant.map(u64::from));
    set(&mut settings.max_puts_per_second, *max_puts_per_second);
    set(&mut settings.timestamp_window.past, *window_past);
    set(&mut settings.timestamp_window.future, *window_future);
    set(&mut settings.request.max_body_bytes, *request_max_body_bytes);
    set(&mut settings.request.max_expanded_bytes, *request_max_expanded_bytes);
    set(&mut settings.request.max_records, *request_max_records);
    set(&mut settings.request.max_record_bytes, *request_max_record_bytes);
    set(&mut settings.drain.readiness_delay, *drain_readiness_delay);
    set(&mut settings.drain.request_timeout, *drain_request_timeout);
    set(&mut settings.drain.flush_timeout, *drain_flush_timeout);
    set(&mut settings.default_retention_days, pipeline.schema.retention_days);
    settings
}

/// The syncer process.
pub fn syncer(
    pipeline: &ValidatedPipeline,
    bucket: BucketSettings,
    clickhouse: ClickHouseSettings,
    admin: SocketAddr,
) -> SyncerSettings {
    let validate::Syncer {
        replicas: _,
        interval,
        idle_interval,
        concurrency,
        batch_max_rows,
        batch_max_bytes,
        batch_max_age,
        delete_grace,
        resources: _,
        scheduling: _,
    } = &pipeline.syncer;
    let mut settings = SyncerSettings::new(bucket, clickhouse);
    settings.pipeline = match &pipeline.namespace {
        Some(namespace) => format!("{namespace}/{}", pipeline.name),
        None => pipeline.name.clone(),
    };
    settings.admin = admin;
    set(&mut settings.interval, *interval);
    if matches!(settings.bucket.place, Place::Directory(_)) {
        // Listing and writing there cost nothing, so there is no reason to let the first record after a quiet time
        // wait, or whoever asks for the status.
        settings.idle_interval = settings.interval;
        settings.status_interval = Span::secs(1);
    }
    set(&mut settings.idle_interval, *idle_interval);
    set(&mut settings.concurrency, *concurrency);
    set(&mut settings.batch.max_rows, *batch_max_rows);
    set(&mut settings.batch.max_bytes, *batch_max_bytes);
    set(&mut settings.batch.max_age, *batch_max_age);
    set(&mut settings.delete_grace, *delete_grace);
    settings
}

/// Leaves the default where nothing was said.
fn set<T>(setting: &mut T, said: Option<T>) {
    if let Some(said) = said {
        *setting = said;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{LogPipeline, validate};

    fn valid(spec: Value) -> ValidatedPipeline {
        validate(&LogPipeline::new("logs", serde_json::from_value(spec).unwrap())).unwrap()
    }

    fn any() -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    #[test]
    fn an_empty_spec_gives_the_settings_own_defaults() {
        let pipeline = valid(json!({}));
        let place = bucket(&pipeline, &Files::default(), Path::new("data"));
        assert_eq!(place, BucketSettings::directory("data"));
        let clickhouse = clickhouse(&pipeline, &Files::default(), "http://127.0.0.1:8123");
        assert_eq!(clickhouse, ClickHouseSettings::default());
        let expected = IngestSettings { http: any(), admin: any(), ..IngestSettings::new(place.clone()) };
        assert_eq!(ingest(&pipeline, place, any(), any()), expected);
    }

    #[test]
    fn what_the_spec_says_arrives_in_the_settings() {
        let pipeline = valid(json!({
            "storage": {"s3": {"bucket": "logs", "prefix": "prod/", "endpoint": "http://minio:9000"}},
            "clickhouse": {"url": "https://ch:8443/", "database": "obs", "cluster": "main"},
            "schema": {"table": "events", "retentionDays": 7, "messageIndex": "None", "views": {"errorRate": false}},
            "ingest": {
                "ack": "Memory", "objects": "PerService", "maxPutsPerSecond": 9,
                "flush": {"maxBytes": "1Mi", "maxRecords": 100, "maxAge": "5s"},
                "queue": {"tenantSharePercent": 25},
            },
            "syncer": {"interval": "30s", "concurrency": 8, "deleteGrace": "1m", "batch": {"maxRows": 10}},
        }));
        let place = bucket(&pipeline, &Files::default(), Path::new("data"));
        assert_eq!(place.prefix, "prod/");
        let Place::S3(s3) = &place.place else { panic!("{place:?}") };
        assert!(s3.path_style, "a server with an endpoint of its own is spoken to by path");

        let server = clickhouse(&pipeline, &Files::default(), "unused");
        let names = (server.url.as_str(), server.database.as_str(), server.table.as_str());
        assert_eq!(names, ("https://ch:8443", "obs", "events"));
        assert_eq!((server.message_index, server.views.error_rate), (MessageIndex::None, false));

        let ingest = ingest(&pipeline, place.clone(), any(), any());
        assert_eq!((ingest.ack, ingest.objects), (Ack::Memory, Objects::PerService));
        assert_eq!((ingest.flush.max_bytes.0, ingest.flush.max_records), (1 << 20, 100));
        assert_eq!((ingest.queue.tenant_share, ingest.default_retention_days), (0.25, 7));

        let syncer = syncer(&pipeline, place, server, any());
        assert_eq!((syncer.interval.get().as_secs(), syncer.concurrency, syncer.batch.max_rows), (30, 8, 10));
        assert_eq!(syncer.delete_grace.get().as_secs(), 60);
        assert!(ingest.validate().is_ok() && syncer.validate().is_ok());
    }

    #[test]
    fn a_local_directory_is_listed_as_often_when_idle() {
        let pipeline = valid(json!({"syncer": {"interval": "200ms"}}));
        let directory = BucketSettings::directory("data");
        let settings = syncer(&pipeline, directory, ClickHouseSettings::default(), any());
        assert_eq!(settings.idle_interval, settings.interval);
    }
}
