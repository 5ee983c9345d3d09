//! From a valid pipeline to the settings files of ingest and syncer, and to those settings as this process reads them.
//!
//! A file holds only what the user said, and what the runner must add: a new default changes no file, and so
//! restarts no pod. What is left open is filled in by whoever reads the file.

mod document;
mod tenants;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, path::PathBuf};

use serde::{Serialize, de::DeserializeOwned};
use spillway_model::settings::{
    BucketSettings, ClickHouseSettings, IngestSettings, LeaseSettings, Place, Span, SyncerSettings,
};
pub use tenants::tenants_file;

use crate::{FieldError, ValidatedPipeline};

/// Where the runner has put the files that settings name; only for what the pipeline asks for.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// Directory with `access_key_id`, `secret_access_key` and maybe `session_token`.
    pub s3_credentials: Option<PathBuf>,
    pub s3_ca: Option<PathBuf>,
    /// Directory with `username` and `password`.
    pub clickhouse_credentials: Option<PathBuf>,
    pub clickhouse_ca: Option<PathBuf>,
    /// Directory with `tls.crt` and `tls.key`.
    pub tls: Option<PathBuf>,
}

/// What takes the place of what the pipeline doesn't name. Nothing does in a cluster.
#[derive(Clone, Debug, Default)]
pub struct StandIns {
    /// Directory instead of a bucket.
    pub directory: Option<PathBuf>,
    /// URL of a ClickHouse that the runner has started.
    pub clickhouse: Option<String>,
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error(transparent)]
    Missing(#[from] FieldError),
    #[error("settings can't be written as JSON: {0}; use only paths that are UTF-8")]
    Unwritable(#[from] serde_json::Error),
}

impl SettingsError {
    /// A short label for conditions, metrics and events; never free text.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing(field) => field.problem.reason(),
            Self::Unwritable(_) => "Unwritable",
        }
    }
}

/// The settings file of ingest, as text that is the same for the same pipeline.
///
/// # Errors
/// When the pipeline names no bucket and nothing stands in, or when it asks for TLS and [`Files::tls`] is not there.
pub fn ingest_document(
    pipeline: &ValidatedPipeline,
    files: &Files,
    stand_ins: &StandIns,
    http: SocketAddr,
    admin: SocketAddr,
) -> Result<String, SettingsError> {
    text(&document::ingest(pipeline, files, stand_ins, http, admin)?)
}

/// The settings file of the syncer, as text that is the same for the same pipeline.
///
/// # Errors
/// When the pipeline names no bucket or no ClickHouse and nothing stands in.
pub fn syncer_document(
    pipeline: &ValidatedPipeline,
    files: &Files,
    stand_ins: &StandIns,
    admin: SocketAddr,
    lease: Option<&LeaseSettings>,
) -> Result<String, SettingsError> {
    text(&document::syncer(pipeline, files, stand_ins, admin, lease)?)
}

/// The bucket.
///
/// # Errors
/// When the pipeline names none and nothing stands in.
pub fn bucket(
    pipeline: &ValidatedPipeline,
    files: &Files,
    stand_ins: &StandIns,
) -> Result<BucketSettings, SettingsError> {
    read(&document::bucket(pipeline, files, stand_ins)?)
}

/// The ClickHouse, and what its table looks like.
///
/// # Errors
/// When the pipeline names none and nothing stands in.
pub fn clickhouse(
    pipeline: &ValidatedPipeline,
    files: &Files,
    stand_ins: &StandIns,
) -> Result<ClickHouseSettings, SettingsError> {
    read(&document::clickhouse(pipeline, files, stand_ins)?)
}

/// Ingest, in this process.
///
/// # Errors
/// Those of [`ingest_document`].
pub fn ingest(
    pipeline: &ValidatedPipeline,
    files: &Files,
    stand_ins: &StandIns,
    http: SocketAddr,
    admin: SocketAddr,
) -> Result<IngestSettings, SettingsError> {
    read(&document::ingest(pipeline, files, stand_ins, http, admin)?)
}

/// The syncer, in this process and without a Lease.
///
/// # Errors
/// Those of [`syncer_document`].
pub fn syncer(
    pipeline: &ValidatedPipeline,
    files: &Files,
    stand_ins: &StandIns,
    admin: SocketAddr,
) -> Result<SyncerSettings, SettingsError> {
    let mut settings: SyncerSettings = read(&document::syncer(pipeline, files, stand_ins, admin, None)?)?;
    if matches!(settings.bucket.place, Place::Directory(_)) {
        // Listing and writing there cost nothing, so there is no reason to let the first record after a quiet time
        // wait, or whoever asks for the status.
        settings.status_interval = Span::secs(1);
        if pipeline.syncer.idle_interval.is_none() {
            settings.idle_interval = settings.interval;
        }
    }
    Ok(settings)
}

fn text(document: &impl Serialize) -> Result<String, SettingsError> {
    let mut text = serde_json::to_string_pretty(document)?;
    text.push('\n');
    Ok(text)
}

/// What a process makes of the document: its defaults fill what is left open.
fn read<T: DeserializeOwned>(document: &impl Serialize) -> Result<T, SettingsError> {
    Ok(serde_json::from_str(&serde_json::to_string(document)?)?)
}
