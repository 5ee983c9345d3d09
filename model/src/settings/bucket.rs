use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SettingsError;

/// The bucket and the prefix below which everything lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BucketSettings {
    #[serde(flatten)]
    pub place: Place,
    /// Empty, or ends with '/'.
    #[serde(default)]
    pub prefix: String,
}

/// S3 or a local directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Place {
    S3(S3Settings),
    Directory(PathBuf),
}

/// An S3 bucket. Without `credentialsDir` the SDK's own chain is used (environment, web identity,
/// container, instance).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct S3Settings {
    /// Empty: Amazon's own for the region.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Empty: `us-east-1`.
    pub region: String,
    pub bucket: String,
    /// `http://host/bucket/key` instead of `http://bucket.host/key`; MinIO needs it.
    pub path_style: bool,
    /// Holds the files `access_key_id`, `secret_access_key` and, if there is one, `session_token`; read
    /// again when they change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials_dir: Option<PathBuf>,
    /// PEM file of the authority that signed the endpoint's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

impl BucketSettings {
    /// A directory, for one machine and for tests.
    #[must_use]
    pub fn directory(path: impl Into<PathBuf>) -> Self {
        Self { place: Place::Directory(path.into()), prefix: String::new() }
    }

    /// # Errors
    /// Names the setting that can't be used.
    pub fn validate(&self) -> Result<(), SettingsError> {
        if !self.prefix.is_empty() && !self.prefix.ends_with('/') {
            return Err(SettingsError::value("bucket.prefix", "must end with '/'"));
        }
        if self.prefix.starts_with('/') || self.prefix.split('/').any(|part| part == "." || part == "..") {
            return Err(SettingsError::value(
                "bucket.prefix",
                "must not begin with '/' or contain '.' or '..'",
            ));
        }
        match &self.place {
            Place::S3(s3) if s3.bucket.is_empty() => {
                Err(SettingsError::value("bucket.s3.bucket", "must name the bucket"))
            }
            Place::Directory(path) if path.as_os_str().is_empty() => {
                Err(SettingsError::value("bucket.directory", "must be a path"))
            }
            _ => Ok(()),
        }
    }
}
