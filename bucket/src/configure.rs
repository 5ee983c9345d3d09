//! What is set up on the bucket itself: existence, public access, encryption, versioning, lifecycle rules.
//!
//! [`configure`] reads what is there, lets [`plan`] decide and writes the difference; without a difference
//! it writes nothing. A setting that the store lacks or that the credentials may not touch becomes a
//! [`Note`] and stops nothing, because the pipeline works without it.

pub mod plan;
pub mod preview;
pub mod reach;
pub mod rules;
#[cfg(test)]
mod tests;
pub(crate) mod wire;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::s3::S3Bucket;
use crate::{Backend, Bucket, BucketError};
pub use plan::{Change, Observed, Plan, plan};
use plan::{Refusal, RefusalKind, Rules, Seen};
pub use preview::{Preview, preview};

/// Looked at again after writing, so often: another pipeline may have written its rules at the same moment.
const ROUNDS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(200);

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    let Backend::S3(s3) = &*bucket.0 else { return Ok(Report::default()) };
    let mut report = Report::default();
    // What could not be written. It is not tried twice.
    let mut given_up: BTreeMap<Setting, Vec<Note>> = BTreeMap::new();
    for round in 0.. {
        let observed = observe(s3, policy).await?;
        let Plan { mut changes, notes } = plan(policy, s3.prefix(), &observed);
        if !observed.exists && changes.is_empty() {
            return Err(ConfigureError::Missing { bucket: s3.name().to_owned() });
        }
        changes.retain(|change| !given_up.contains_key(&change.setting()));
        if round == ROUNDS {
            for setting in changes.drain(..).map(|change| change.setting()) {
                let refusal = Refusal::failed("it was not as written when it was read again");
                given_up.insert(setting, vec![refusal.note(setting)]);
            }
        }
        if changes.is_empty() {
            report.notes = notes;
            report.notes.extend(given_up.into_values().flatten());
            return Ok(report);
        }
        if round > 0 {
            tokio::time::sleep(PAUSE * round).await;
        }
        for change in changes {
            let setting = change.setting();
            let notes = match make(s3, &observed, change).await? {
                Made::Written(notes) => {
                    tracing::info!(bucket = s3.describe(), setting = setting.reason(), "changed the bucket");
                    if !report.changed.contains(&setting) {
                        report.changed.push(setting);
                    }
                    notes
                }
                Made::Refused(notes) => notes,
                Made::TooLate => continue,
            };
            if !notes.is_empty() {
                given_up.insert(setting, notes);
            }
        }
    }
    Ok(report)
}

/// Reads what `policy` is about. Lifecycle rules always: a foreign one may expire staged objects.
async fn observe(s3: &S3Bucket, policy: &Policy) -> Result<Observed, ConfigureError> {
    let Some(server) = s3.find().await? else { return Ok(Observed::default()) };
    let mut observed = Observed { exists: true, server, ..Observed::default() };
    if policy.block_public_access == Some(true) {
        observed.public_access_blocked = s3.public_access_blocked().await.into();
    }
    if policy.encryption.is_some() {
        observed.encryption = s3.encryption().await.into();
    }
    if policy.versioning.is_some() || policy.housekeeping || policy.dead_letter_expiry_days.is_some() {
        observed.versioning = s3.versioning().await.into();
    }
    observed.lifecycle = s3.lifecycle().await.map(|found| found.rules).into();
    Ok(observed)
}

impl<T> From<Result<T, Refusal>> for Seen<T> {
    fn from(answer: Result<T, Refusal>) -> Self {
        answer.map_or_else(Self::Refused, Self::Known)
    }
}

enum Made {
    /// Except for what the notes are about.
    Written(Vec<Note>),
    Refused(Vec<Note>),
    /// What it was planned on has changed; to be planned anew.
    TooLate,
}

async fn make(s3: &S3Bucket, observed: &Observed, change: Change) -> Result<Made, ConfigureError> {
    let setting = change.setting();
    let written = match change {
        Change::Create => s3.create().await.map(Ok)?,
        Change::BlockPublicAccess => s3.block_public_access().await,
        Change::Encrypt(encryption) => s3.encrypt(encryption).await,
        Change::EnableVersioning => s3.enable_versioning().await,
        Change::Lifecycle(rules) => return Ok(make_rules(s3, observed, rules).await),
    };
    Ok(match written {
        Ok(()) => Made::Written(Vec::new()),
        Err(refusal) => Made::Refused(vec![refusal.note(setting)]),
    })
}

/// Writes the rules. If the store refuses them, again without the most dispensable one: stores differ in which
/// they know, and refuse all for one.
async fn make_rules(s3: &S3Bucket, observed: &Observed, Rules { foreign, ours }: Rules) -> Made {
    let Seen::Known(planned_on) = &observed.lifecycle else { return Made::TooLate };
    let mut notes = Vec::new();
    for left_out in 0..=ours.len() {
        // S3 has no condition for this write: all that can be done is to look right before it.
        let found = match s3.lifecycle().await {
            Ok(found) if found.rules == *planned_on => found,
            Ok(_) => return Made::TooLate,
            Err(refusal) => return Made::Refused(vec![refusal.note(Setting::Lifecycle)]),
        };
        let kept = ours.get(left_out..).unwrap_or_default();
        let mut rules = foreign.clone();
        rules.extend(kept.iter().map(|(_, rule)| rule.clone()));
        if rules::all_same(rules.iter(), planned_on) {
            return Made::Refused(notes);
        }
        match s3.set_lifecycle(&found, rules).await {
            Ok(()) => return Made::Written(notes),
            Err(refusal) => {
                let first = kept.first().filter(|_| refusal.kind == RefusalKind::NotSupported);
                let Some((kind, _)) = first else {
                    notes.push(refusal.note(Setting::Lifecycle));
                    return Made::Refused(notes);
                };
                let detail = format!("rule {:?}: {}", kind.id(s3.prefix()), refusal.detail);
                notes.push(Refusal { detail, ..refusal }.note(Setting::Lifecycle));
            }
        }
    }
    Made::Refused(notes)
}
