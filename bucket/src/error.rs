//! What can go wrong with a bucket and what to do about it.

use std::fmt;
use std::time::Duration;

/// The kind of request, for messages and metric labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    Open,
    /// Of the bucket itself.
    Create,
    Get,
    Head,
    Put,
    Swap,
    List,
    Delete,
    /// With versioning: what was under a key before, too.
    DeleteVersions,
    ServerTime,
}

impl Operation {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Create => "create_bucket",
            Self::Get => "get",
            Self::Head => "head",
            Self::Put => "put",
            Self::Swap => "swap",
            Self::List => "list",
            Self::Delete => "delete",
            Self::DeleteVersions => "delete_versions",
            Self::ServerTime => "server_time",
        }
    }

    /// Whether a request of this kind can leave something changed behind when its answer gets lost.
    pub(crate) fn changes(self) -> bool {
        matches!(self, Self::Create | Self::Put | Self::Swap | Self::Delete | Self::DeleteVersions)
    }
}

/// A request and its key, for people. Without a key it is about the bucket itself.
struct Asked<'a>(Operation, &'a str);

impl fmt::Display for Asked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self(Operation::Create, _) => f.write_str("creating the bucket"),
            Self(Operation::Head, "") => f.write_str("a look at the bucket"),
            Self(Operation::List, "") => f.write_str("listing the bucket"),
            Self(operation, "") => write!(f, "{operation} on the bucket"),
            Self(operation, key) => write!(f, "{operation} {key:?}"),
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Its text says what happened and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BucketError {
    /// A change was sent and its fate is unknown: it may have taken effect, and may still do so later.
    Unclear {
        operation: Operation,
        key: String,
        detail: String,
    },

    /// The store asks for fewer requests. A proxy can answer so after the effect, hence
    /// [`BucketError::may_have_happened`].
    SlowDown {
        operation: Operation,
        key: String,
        retry_after: Option<Duration>,
        detail: String,
    },

    Denied {
        operation: Operation,
        key: String,
        detail: String,
        remedy: &'static str,
    },

    NoSuchBucket {
        bucket: String,
    },

    /// The store refused the signature because of our clock.
    ClockSkewed {
        detail: String,
    },

    /// The request surely had no effect: nothing was sent, or it only reads.
    Unavailable {
        operation: Operation,
        key: String,
        detail: String,
    },

    /// Repeating it can't help.
    Invalid {
        operation: Operation,
        key: String,
        detail: String,
        remedy: &'static str,
    },
}

impl std::error::Error for BucketError {}

impl fmt::Display for BucketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_what(f)?;
        write!(f, "; {}", self.remedy())
    }
}

impl BucketError {
    /// A short label for metrics and conditions; never holds free text.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unclear { .. } => "Unclear",
            Self::SlowDown { .. } => "SlowDown",
            Self::Denied { .. } => "Denied",
            Self::NoSuchBucket { .. } => "NoSuchBucket",
            Self::ClockSkewed { .. } => "ClockSkewed",
            Self::Unavailable { .. } => "Unavailable",
            Self::Invalid { .. } => "Invalid",
        }
    }

    /// Whether the same request can succeed later without anybody doing something about it.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unclear { .. } | Self::SlowDown { .. } | Self::Unavailable { .. })
    }

    /// Whether the change may have been made (or may yet be made) in spite of the error.
    pub fn may_have_happened(&self) -> bool {
        match self {
            Self::Unclear { .. } => true,
            Self::SlowDown { operation, .. } => operation.changes(),
            Self::Denied { .. }
            | Self::NoSuchBucket { .. }
            | Self::ClockSkewed { .. }
            | Self::Unavailable { .. }
            | Self::Invalid { .. } => false,
        }
    }

    /// How long the store wants to be left alone, if it said so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::SlowDown { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Unclear { .. } => "repeat it under the same key",
            Self::SlowDown { .. } => "lower maxPutsPerSecond if it lasts",
            Self::Denied { remedy, .. } | Self::Invalid { remedy, .. } => remedy,
            Self::NoSuchBucket { .. } => "create it, or correct the bucket's name, region and endpoint",
            Self::ClockSkewed { .. } => "synchronise the clock with NTP",
            Self::Unavailable { .. } => {
                "check endpoint, DNS, network and the store's health, or the disk of a directory"
            }
        }
    }

    /// What happened, without the remedy.
    pub fn what(&self) -> String {
        struct What<'a>(&'a BucketError);
        impl fmt::Display for What<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.write_what(f)
            }
        }
        What(self).to_string()
    }

    fn write_what(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unclear { operation, key, detail } => {
                write!(f, "the outcome of {} is unknown: {detail}", Asked(*operation, key))
            }
            Self::SlowDown { operation, key, detail, .. } => {
                write!(f, "the store asks to slow down at {}: {detail}", Asked(*operation, key))
            }
            Self::Denied { operation, key, detail, .. } => {
                write!(f, "{} was denied: {detail}", Asked(*operation, key))
            }
            Self::NoSuchBucket { bucket } => write!(f, "there is no bucket {bucket:?}"),
            Self::ClockSkewed { detail } => write!(f, "the store refuses this machine's clock: {detail}"),
            Self::Unavailable { operation, key, detail } => {
                write!(f, "the store is not available for {}: {detail}", Asked(*operation, key))
            }
            Self::Invalid { operation, key, detail, .. } => {
                write!(f, "{} is not possible: {detail}", Asked(*operation, key))
            }
        }
    }
}
