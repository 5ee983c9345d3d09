//! The settings files of ingest and syncer. Files carry a version and readers tolerate unknown fields, so
//! that a process and the file it is given may be one version apart. Secrets are never in a settings file:
//! it names the directories they lie in.

mod bucket;
mod clickhouse;
mod ingest;
mod syncer;
mod tenants;
mod units;

pub use bucket::{BucketSettings, Place, S3Settings};
pub use clickhouse::{ClickHouseSettings, MessageIndex, ViewSettings};
pub use ingest::{
    Ack, DrainSettings, FlushSettings, IngestSettings, Objects, QueueSettings, RequestSettings,
    TimestampWindow, TlsSettings,
};
pub use syncer::{BatchSettings, LeaseSettings, SyncerSettings};
pub use tenants::{KeyDigest, LimitSettings, TenantSettings, TenantsCheck, TenantsFile};
pub use units::{ByteSize, Span, UnitError};

/// The version that this code writes and reads.
pub const SETTINGS_VERSION: u32 = 1;

/// Read as well: what a version adds are fields, and what it changes its predecessor's readers must bear.
const NEXT_VERSION: u32 = SETTINGS_VERSION + 1;

/// Why a settings file can't be used although it is well formed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error(
        "settings have version {found}, this program reads versions 1 to {NEXT_VERSION}; run the program's newer version or rewrite the file"
    )]
    Version { found: u32 },
    #[error("setting {field} {message}")]
    Value { field: &'static str, message: String },
}

impl SettingsError {
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Version { .. } => "unknown_settings_version",
            Self::Value { .. } => "bad_setting",
        }
    }

    pub(crate) fn value(field: &'static str, message: impl Into<String>) -> Self {
        Self::Value { field, message: message.into() }
    }
}

pub(crate) fn check_version(found: u32) -> Result<(), SettingsError> {
    if (1..=NEXT_VERSION).contains(&found) { Ok(()) } else { Err(SettingsError::Version { found }) }
}

pub(crate) fn version() -> u32 {
    SETTINGS_VERSION
}
