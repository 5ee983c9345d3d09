//! The settings files of ingest and syncer, each in a ConfigMap that is named by its content: a change gives a new
//! ConfigMap and so new pods, one component's does not restart the other, and pods that are rolled back find theirs.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::ConfigMap;
use spillway_crds::{
    ValidatedPipeline,
    settings::{self, Files, SettingsError, StandIns},
};
use spillway_model::settings::{BucketSettings, ClickHouseSettings, LeaseSettings, Place};

use super::{
    digest::hash10,
    names::{Component, Scope},
};

/// Where pods find things.
pub const SETTINGS_DIR: &str = "/etc/spillway/settings";
pub const SETTINGS_FILE: &str = "settings.json";
pub const TENANTS_DIR: &str = "/etc/spillway/tenants";
pub const S3_DIR: &str = "/etc/spillway/s3";
pub const S3_CA_DIR: &str = "/etc/spillway/s3-ca";
pub const CLICKHOUSE_DIR: &str = "/etc/spillway/clickhouse";
pub const CLICKHOUSE_CA_DIR: &str = "/etc/spillway/clickhouse-ca";
pub const TLS_DIR: &str = "/etc/spillway/tls";
/// Name that the entry of a CA's Secret has in pods, whatever it is called there.
pub const CA_FILE: &str = "ca.crt";

pub const HTTP_PORT: u16 = 8080;
pub const INGEST_ADMIN_PORT: u16 = 9090;
pub const SYNCER_ADMIN_PORT: u16 = 9091;

/// The ConfigMaps of both components.
pub struct Settings {
    pub ingest: ConfigMap,
    pub syncer: ConfigMap,
}

impl Settings {
    /// # Errors
    /// What the pipeline lacks in a cluster.
    pub fn of(pipeline: &ValidatedPipeline, scope: &Scope) -> Result<Self, SettingsError> {
        let (files, none) = (files(pipeline), StandIns::default());
        let lease = LeaseSettings { namespace: scope.namespace().to_owned(), name: scope.syncer() };
        let (http, admin) = (any(HTTP_PORT), any(INGEST_ADMIN_PORT));
        let ingest = settings::ingest_document(pipeline, &files, &none, http, admin)?;
        let syncer =
            settings::syncer_document(pipeline, &files, &none, any(SYNCER_ADMIN_PORT), Some(&lease))?;
        Ok(Self {
            ingest: config_map(scope, Component::Ingest, ingest),
            syncer: config_map(scope, Component::Syncer, syncer),
        })
    }
}

fn any(port: u16) -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, port).into()
}

fn files(pipeline: &ValidatedPipeline) -> Files {
    let s3 = pipeline.storage.s3.as_ref();
    let ca = |dir: &str| Path::new(dir).join(CA_FILE);
    Files {
        s3_credentials: s3.and_then(|s3| s3.credentials.as_ref()).map(|_| PathBuf::from(S3_DIR)),
        s3_ca: s3.and_then(|s3| s3.ca.as_ref()).map(|_| ca(S3_CA_DIR)),
        clickhouse_credentials: pipeline
            .clickhouse
            .credentials
            .as_ref()
            .map(|_| PathBuf::from(CLICKHOUSE_DIR)),
        clickhouse_ca: pipeline.clickhouse.ca.as_ref().map(|_| ca(CLICKHOUSE_CA_DIR)),
        tls: pipeline.ingest.tls.as_ref().map(|_| PathBuf::from(TLS_DIR)),
    }
}

/// The bucket, for whoever brings its own credentials and asks from another namespace.
///
/// # Errors
/// When the pipeline names none.
pub fn bucket_outside(pipeline: &ValidatedPipeline) -> Result<BucketSettings, SettingsError> {
    let mut bucket = settings::bucket(pipeline, &Files::default(), &StandIns::default())?;
    if let Place::S3(s3) = &mut bucket.place {
        s3.endpoint = s3.endpoint.take().map(|endpoint| seen_from_outside(&endpoint, pipeline));
    }
    Ok(bucket)
}

/// The server, for whoever brings its own credentials and asks from another namespace.
///
/// # Errors
/// When the pipeline names none.
pub fn clickhouse_outside(pipeline: &ValidatedPipeline) -> Result<ClickHouseSettings, SettingsError> {
    let mut clickhouse = settings::clickhouse(pipeline, &Files::default(), &StandIns::default())?;
    clickhouse.url = seen_from_outside(&clickhouse.url, pipeline);
    Ok(clickhouse)
}

/// A URL whose host is a Service's name alone, which means the pods' namespace, with that namespace. Pods keep what
/// the user wrote; all else is left as it is.
fn seen_from_outside(url: &str, pipeline: &ValidatedPipeline) -> String {
    let scope = Scope::of(pipeline);
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let authority = rest.find(['/', '?', '#']).map_or(rest, |end| &rest[..end]);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let name = host.split(':').next().unwrap_or_default();
    let elsewhere = name.is_empty()
        || host.starts_with('[')
        || name.contains('.')
        || name.eq_ignore_ascii_case("localhost");
    if elsewhere {
        return url.to_owned();
    }
    let (before, after) = rest.split_at(authority.len() - host.len() + name.len());
    format!("{scheme}://{before}.{}.svc{after}", scope.namespace())
}

fn config_map(scope: &Scope, component: Component, document: String) -> ConfigMap {
    let name = format!("{}-{}", scope.name(component), hash10([document.as_bytes()]));
    ConfigMap {
        metadata: scope.meta(&name, component),
        data: Some(BTreeMap::from([(SETTINGS_FILE.to_owned(), document)])),
        immutable: Some(true),
        ..ConfigMap::default()
    }
}

#[cfg(test)]
mod tests {
    use spillway_crds::{LogPipeline, LogPipelineSpec, validate};

    use super::*;

    fn pipeline(spec: serde_json::Value) -> ValidatedPipeline {
        let spec: LogPipelineSpec = serde_json::from_value(spec).unwrap();
        let mut pipeline = LogPipeline::new("logs", spec);
        pipeline.metadata.namespace = Some("shop".into());
        validate(&pipeline).unwrap()
    }

    #[test]
    fn a_services_name_alone_means_the_pipelines_namespace_wherever_it_is_asked_from() {
        let pipeline = pipeline(serde_json::json!({}));
        for (url, expected) in [
            ("http://minio", "http://minio.shop.svc"),
            ("http://minio:9000", "http://minio.shop.svc:9000"),
            ("https://minio:9000/", "https://minio.shop.svc:9000/"),
            ("https://minio/a.b/c", "https://minio.shop.svc/a.b/c"),
            ("http://user:p.w@minio:9000/x", "http://user:p.w@minio.shop.svc:9000/x"),
            ("http://minio.storage:9000", "http://minio.storage:9000"),
            ("http://minio.storage.svc.cluster.local", "http://minio.storage.svc.cluster.local"),
            ("https://s3.amazonaws.com", "https://s3.amazonaws.com"),
            // Absolute, also in pods.
            ("http://minio.:9000", "http://minio.:9000"),
            ("http://localhost:9000", "http://localhost:9000"),
            ("http://LOCALHOST:9000", "http://LOCALHOST:9000"),
            ("http://10.0.0.7:9000", "http://10.0.0.7:9000"),
            ("http://[::1]:9000", "http://[::1]:9000"),
            ("http://[fd00::7]", "http://[fd00::7]"),
            ("http://", "http://"),
            ("minio", "minio"),
        ] {
            assert_eq!(seen_from_outside(url, &pipeline), expected);
        }
    }

    #[test]
    fn pods_keep_the_names_that_the_user_wrote() {
        let pipeline = pipeline(serde_json::json!({
            "storage": {"s3": {"bucket": "logs", "region": "eu-1", "endpoint": "http://minio:9000"}},
            "clickhouse": {"url": "http://clickhouse:8123"},
        }));
        let Place::S3(bucket) = bucket_outside(&pipeline).unwrap().place else { panic!("no S3") };
        assert_eq!(bucket.endpoint.as_deref(), Some("http://minio.shop.svc:9000"));
        assert_eq!(clickhouse_outside(&pipeline).unwrap().url, "http://clickhouse.shop.svc:8123");
        let settings = Settings::of(&pipeline, &Scope::of(&pipeline)).unwrap();
        let text = settings.syncer.data.unwrap().remove(SETTINGS_FILE).unwrap();
        assert!(text.contains("http://minio:9000") && text.contains("http://clickhouse:8123"), "{text}");
        assert!(!text.contains(".shop.svc"), "{text}");
    }
}
