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
    settings::{self, Files, LeaseName, SettingsError, StandIns},
};
use spillway_model::settings::{BucketSettings, ClickHouseSettings};

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
        let lease = LeaseName { namespace: scope.namespace().to_owned(), name: scope.syncer() };
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

/// The bucket, for whoever brings its own credentials.
///
/// # Errors
/// When the pipeline names none.
pub fn bucket_outside(pipeline: &ValidatedPipeline) -> Result<BucketSettings, SettingsError> {
    settings::bucket(pipeline, &Files::default(), &StandIns::default())
}

/// The server, for whoever brings its own credentials.
///
/// # Errors
/// When the pipeline names none.
pub fn clickhouse_outside(pipeline: &ValidatedPipeline) -> Result<ClickHouseSettings, SettingsError> {
    settings::clickhouse(pipeline, &Files::default(), &StandIns::default())
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
