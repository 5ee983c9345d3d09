//! Settings files as they are written: each field as the user set it, or not there at all. The names are those that
//! `spillway_model::settings` reads.

use std::{net::SocketAddr, path::PathBuf};

use serde::Serialize;
use spillway_model::settings::{
    Ack, ByteSize, LeaseSettings, MessageIndex, Objects, SETTINGS_VERSION, Span, TlsSettings,
};

use super::{Files, StandIns};
use crate::{FieldError, ValidatedPipeline, ingest, schema, validate};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ingest {
    version: u32,
    bucket: Bucket,
    http: SocketAddr,
    admin: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<TlsSettings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ack: Option<Ack>,
    #[serde(skip_serializing_if = "Option::is_none")]
    objects: Option<Objects>,
    #[serde(skip_serializing_if = "nothing")]
    flush: Flush,
    #[serde(skip_serializing_if = "nothing")]
    queue: Queue,
    #[serde(skip_serializing_if = "nothing")]
    request: Request,
    #[serde(skip_serializing_if = "nothing")]
    timestamp_window: Window,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_connection_age: Option<Span>,
    #[serde(skip_serializing_if = "nothing")]
    drain: Drain,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_puts_per_second: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    default_retention_days: Option<u16>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Syncer {
    version: u32,
    pipeline: String,
    bucket: Bucket,
    clickhouse: ClickHouse,
    admin: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease: Option<LeaseSettings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interval: Option<Span>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idle_interval: Option<Span>,
    #[serde(skip_serializing_if = "Option::is_none")]
    concurrency: Option<u32>,
    #[serde(skip_serializing_if = "nothing")]
    batch: Batch,
    #[serde(skip_serializing_if = "Option::is_none")]
    delete_grace: Option<Span>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Bucket {
    #[serde(flatten)]
    place: Place,
    #[serde(skip_serializing_if = "String::is_empty")]
    prefix: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Place {
    S3(S3),
    Directory(PathBuf),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct S3 {
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<String>,
    bucket: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_style: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    credentials_dir: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ca_file: Option<PathBuf>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ClickHouse {
    url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    database: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    credentials_dir: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ca_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_index: Option<MessageIndex>,
    #[serde(skip_serializing_if = "nothing")]
    views: Views,
}

/// A group of settings that is left out when nothing in it was set.
macro_rules! group {
    ($name:ident { $($field:ident: $type:ty),* $(,)? }) => {
        #[derive(Default, PartialEq, Serialize)]
        #[serde(rename_all = "camelCase")]
        struct $name {
            $(#[serde(skip_serializing_if = "Option::is_none")] $field: Option<$type>,)*
        }
    };
}

group!(Flush { max_bytes: ByteSize, max_records: u64, max_age: Span });
group!(Queue { max_bytes: ByteSize, max_requests: u32, tenant_share: f64, max_streams_per_tenant: u32 });
group!(Request {
    max_body_bytes: ByteSize,
    max_expanded_bytes: ByteSize,
    max_records: u64,
    max_record_bytes: ByteSize,
});
group!(Window { past: Span, future: Span });
group!(Drain { readiness_delay: Span, request_timeout: Span, flush_timeout: Span });
group!(Batch { max_rows: u64, max_bytes: ByteSize, max_age: Span });
group!(Views { error_rate: bool, http_latency: bool, tenant_volume: bool });

fn nothing<T: Default + PartialEq>(group: &T) -> bool {
    *group == T::default()
}

pub(super) fn bucket(
    pipeline: &ValidatedPipeline,
    files: &Files,
    stand_ins: &StandIns,
) -> Result<Bucket, FieldError> {
    // Taken apart in full, here and below, so that a new field can't be forgotten. What is bound to `_` is the
    // operator's matter, or has been made a file by the runner.
    let validate::Storage { s3, policy: _ } = &pipeline.storage;
    let Some(s3) = s3 else {
        let directory = stand_ins.directory.clone();
        let directory = directory.ok_or_else(|| FieldError::missing("spec.storage.s3", "name the bucket"))?;
        return Ok(Bucket { place: Place::Directory(directory), prefix: String::new() });
    };
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
    let s3 = S3 {
        endpoint: endpoint.clone(),
        region: region.clone(),
        bucket: bucket.clone(),
        path_style: path_style.or(endpoint.is_some().then_some(true)),
        credentials_dir: files.s3_credentials.clone(),
        ca_file: files.s3_ca.clone(),
    };
    Ok(Bucket { place: Place::S3(s3), prefix: prefix.clone() })
}

pub(super) fn clickhouse(
    pipeline: &ValidatedPipeline,
    files: &Files,
    stand_ins: &StandIns,
) -> Result<ClickHouse, FieldError> {
    let validate::ClickHouse { url, database, cluster, credentials: _, ca: _ } = &pipeline.clickhouse;
    let validate::Schema { table, retention_days: _, message_index, error_rate, http_latency, tenant_volume } =
        &pipeline.schema;
    let url = url.clone().or_else(|| stand_ins.clickhouse.clone());
    Ok(ClickHouse {
        url: url.ok_or_else(|| FieldError::missing("spec.clickhouse.url", "name the server"))?,
        database: database.clone(),
        table: table.clone(),
        cluster: cluster.clone(),
        credentials_dir: files.clickhouse_credentials.clone(),
        ca_file: files.clickhouse_ca.clone(),
        message_index: message_index.map(|index| match index {
            schema::MessageIndex::Auto => MessageIndex::Auto,
            schema::MessageIndex::Text => MessageIndex::Text,
            schema::MessageIndex::TokenBloom => MessageIndex::TokenBloom,
            schema::MessageIndex::None => MessageIndex::None,
        }),
        views: Views { error_rate: *error_rate, http_latency: *http_latency, tenant_volume: *tenant_volume },
    })
}

pub(super) fn ingest(
    pipeline: &ValidatedPipeline,
    files: &Files,
    stand_ins: &StandIns,
    http: SocketAddr,
    admin: SocketAddr,
) -> Result<Ingest, FieldError> {
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
        max_connection_age,
        drain_readiness_delay,
        drain_request_timeout,
        drain_flush_timeout,
        tls,
        service_type: _,
        service_annotations: _,
        resources: _,
        scheduling: _,
        max_unavailable: _,
    } = &pipeline.ingest;
    let tls = match (tls, &files.tls) {
        (None, _) => None,
        (Some(_), Some(directory)) => {
            // As Secrets of the type `kubernetes.io/tls` are mounted.
            Some(TlsSettings { cert_file: directory.join("tls.crt"), key_file: directory.join("tls.key") })
        }
        (Some(_), None) => {
            return Err(FieldError::missing(
                "spec.ingest.tls",
                "a certificate and key must be there to serve TLS",
            ));
        }
    };
    Ok(Ingest {
        version: SETTINGS_VERSION,
        bucket: bucket(pipeline, files, stand_ins)?,
        http,
        admin,
        tls,
        ack: ack.map(|ack| match ack {
            ingest::Ack::Durable => Ack::Durable,
            ingest::Ack::Memory => Ack::Memory,
        }),
        objects: objects.map(|objects| match objects {
            ingest::Objects::Adaptive => Objects::Adaptive,
            ingest::Objects::PerService => Objects::PerService,
        }),
        flush: Flush {
            max_bytes: *flush_max_bytes,
            max_records: *flush_max_records,
            max_age: *flush_max_age,
        },
        queue: Queue {
            max_bytes: *queue_max_bytes,
            max_requests: *queue_max_requests,
            tenant_share: tenant_share_percent.map(|percent| f64::from(percent) / 100.0),
            max_streams_per_tenant: *max_streams_per_tenant,
        },
        request: Request {
            max_body_bytes: *request_max_body_bytes,
            max_expanded_bytes: *request_max_expanded_bytes,
            max_records: *request_max_records,
            max_record_bytes: *request_max_record_bytes,
        },
        timestamp_window: Window { past: *window_past, future: *window_future },
        max_connection_age: *max_connection_age,
        drain: Drain {
            readiness_delay: *drain_readiness_delay,
            request_timeout: *drain_request_timeout,
            flush_timeout: *drain_flush_timeout,
        },
        max_puts_per_second: *max_puts_per_second,
        default_retention_days: pipeline.schema.retention_days,
    })
}

pub(super) fn syncer(
    pipeline: &ValidatedPipeline,
    files: &Files,
    stand_ins: &StandIns,
    admin: SocketAddr,
    lease: Option<&LeaseSettings>,
) -> Result<Syncer, FieldError> {
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
    Ok(Syncer {
        version: SETTINGS_VERSION,
        pipeline: match &pipeline.namespace {
            Some(namespace) => format!("{namespace}/{}", pipeline.name),
            None => pipeline.name.clone(),
        },
        bucket: bucket(pipeline, files, stand_ins)?,
        clickhouse: clickhouse(pipeline, files, stand_ins)?,
        admin,
        lease: lease.cloned(),
        interval: *interval,
        idle_interval: *idle_interval,
        concurrency: *concurrency,
        batch: Batch { max_rows: *batch_max_rows, max_bytes: *batch_max_bytes, max_age: *batch_max_age },
        delete_grace: *delete_grace,
    })
}
