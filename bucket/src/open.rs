//! From settings to an open bucket.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use spillway_model::settings::{BucketSettings, Place};

use crate::access::{Access, Identity};
use crate::directory::DirectoryBucket;
use crate::error::{BucketError, Operation};
use crate::s3::{Keys, S3Bucket, S3Options};
use crate::{Backend, Bucket};

/// How long a request to S3 may take before its outcome is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    pub connect: Duration,
    /// From sending to the last byte of the answer.
    pub request: Duration,
}

impl Default for Timeouts {
    /// A whole request of 8 MiB passes in 30 s at 2.2 Mbit/s.
    fn default() -> Self {
        Self { connect: Duration::from_secs(3), request: Duration::from_secs(30) }
    }
}

impl Bucket {
    /// Opens the bucket that `settings` name. A directory is created; S3 is not contacted yet, see
    /// [`crate::preflight`].
    ///
    /// # Errors
    /// [`BucketError::Invalid`] for settings that can't work, and for a directory what kept it from being made.
    pub async fn open(settings: &BucketSettings) -> Result<Self, BucketError> {
        Self::open_with(settings, Timeouts::default()).await
    }

    /// As [`Bucket::open`], with other timeouts for S3.
    ///
    /// # Errors
    /// As [`Bucket::open`].
    pub async fn open_with(settings: &BucketSettings, timeouts: Timeouts) -> Result<Self, BucketError> {
        Self::build(settings, None, timeouts).await
    }

    /// As [`Bucket::open`], with credentials and certificates as values; the folder and the file that
    /// `settings` name are not looked at.
    ///
    /// # Errors
    /// As [`Bucket::open`].
    pub async fn open_as(settings: &BucketSettings, access: Access) -> Result<Self, BucketError> {
        Self::build(settings, Some(access), Timeouts::default()).await
    }

    async fn build(
        settings: &BucketSettings,
        access: Option<Access>,
        timeouts: Timeouts,
    ) -> Result<Self, BucketError> {
        settings.validate().map_err(|error| BucketError::Invalid {
            operation: Operation::Open,
            key: settings.prefix.clone(),
            detail: error.to_string(),
            remedy: "correct the bucket's settings",
        })?;
        let backend = match &settings.place {
            Place::Directory(path) => {
                Backend::Directory(DirectoryBucket::open(path, &settings.prefix).await?)
            }
            Place::S3(s3) => {
                let (keys, ca_pem) = match access {
                    Some(access) => (Keys::Of(access.identity), access.ca_pem),
                    None => (
                        s3.credentials_dir.clone().map_or(Keys::Of(Identity::Ambient), Keys::Files),
                        s3.ca_file.as_deref().map(read_ca).transpose()?,
                    ),
                };
                let options = S3Options {
                    endpoint: s3.endpoint.clone().filter(|endpoint| !endpoint.is_empty()),
                    region: if s3.region.is_empty() { "us-east-1".to_owned() } else { s3.region.clone() },
                    bucket: s3.bucket.clone(),
                    path_style: s3.path_style,
                    keys,
                    ca_pem,
                    timeouts,
                };
                Backend::S3(S3Bucket::open(options, &settings.prefix)?)
            }
        };
        Ok(Self(Arc::new(backend)))
    }
}

fn read_ca(path: &Path) -> Result<Vec<u8>, BucketError> {
    std::fs::read(path).map_err(|error| BucketError::Invalid {
        operation: Operation::Open,
        key: String::new(),
        detail: format!("the CA file {} can't be read: {error}", path.display()),
        remedy: "correct storage.s3.caSecretRef (caFile)",
    })
}
