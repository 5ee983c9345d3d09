//! What can be wrong with a field, each with what to do about it.

use std::fmt;

use spillway_model::NameError;

/// One mistake in a pipeline.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct FieldError {
    /// Where, such as `spec.tenants[1].projects[0]`.
    pub path: String,
    /// What.
    pub problem: Problem,
}

impl FieldError {
    /// What has to be named and not to be guessed: a process would load, or serve, something else.
    pub(crate) fn missing(path: &str, remedy: &'static str) -> Self {
        Self { path: path.to_owned(), problem: Problem::Missing { remedy } }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.problem)
    }
}

/// What is wrong with a field, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("is missing; {remedy}")]
    Missing { remedy: &'static str },
    #[error("{text:?} is no length of time; write a whole number and ms, s, m, h or d, such as 500ms")]
    NotASpan { text: String },
    #[error("{text:?} is no size; write a whole number, if need be with k, M, G, Ki, Mi or Gi, such as 8Mi")]
    NotASize { text: String },
    #[error("{value} is out of range; write {least} to {most}")]
    OutOfRange { value: String, least: String, most: String },
    #[error("{value} is more than {other}, which is {most}; lower it, or raise the other")]
    MoreThan { value: String, other: &'static str, most: String },
    #[error("can't be set together with {other}; keep one of the two")]
    Exclusive { other: &'static str },
    #[error("{text:?} {source}; choose another name")]
    BadName { text: String, source: NameError },
    #[error("{text:?} is no name for ClickHouse; use letters, digits and '_', not beginning with a digit")]
    BadIdentifier { text: String },
    #[error("{why}; write it like {example}")]
    BadUrl { why: &'static str, example: &'static str },
    #[error("{text:?} {why}; {remedy}")]
    Malformed { text: String, why: &'static str, remedy: &'static str },
    #[error("{text:?} is there twice, first at {first}; keep one")]
    Duplicate { text: String, first: String },
    #[error("project {project:?} belongs to tenant {owner:?} already; a project has one tenant")]
    ProjectTaken { project: String, owner: String },
    #[error("Secret {secret:?} is not there; create it, or correct its name")]
    NoSecret { secret: String },
    #[error("Secret {secret:?} has no entry {entry}; add it")]
    NoEntry { secret: String, entry: String },
    #[error("Secret {secret:?} has no entries {}; add them", .entries.join(", "))]
    NoEntries { secret: String, entries: Vec<String> },
    #[error(
        "entry {entry:?} of Secret {secret:?} is no API key; use at least {shortest} letters, digits and signs, without spaces"
    )]
    BadKey { secret: String, entry: String, shortest: usize },
    #[error(
        "the key in entry {entry:?} of Secret {secret:?} is that of tenant {owner:?} already; give each tenant its own"
    )]
    KeyTaken { secret: String, entry: String, owner: String },
}

impl Problem {
    /// Entries that a Secret lacks; `None` if it lacks none.
    #[must_use]
    pub fn lacking(secret: &str, mut entries: Vec<String>) -> Option<Self> {
        let secret = secret.to_owned();
        Some(match entries.len() {
            0 => return None,
            1 => Self::NoEntry { secret, entry: entries.remove(0) },
            _ => Self::NoEntries { secret, entries },
        })
    }

    /// A short label for conditions, metrics and events; never free text.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "Missing",
            Self::NotASpan { .. } => "NotADuration",
            Self::NotASize { .. } => "NotASize",
            Self::OutOfRange { .. } => "OutOfRange",
            Self::MoreThan { .. } => "MoreThan",
            Self::Exclusive { .. } => "Exclusive",
            Self::BadName { .. } => "BadName",
            Self::BadIdentifier { .. } => "BadIdentifier",
            Self::BadUrl { .. } => "BadUrl",
            Self::Malformed { .. } => "Malformed",
            Self::Duplicate { .. } => "Duplicate",
            Self::ProjectTaken { .. } => "ProjectTaken",
            Self::NoSecret { .. } => "NoSecret",
            Self::NoEntry { .. } | Self::NoEntries { .. } => "NoEntry",
            Self::BadKey { .. } => "BadKey",
            Self::KeyTaken { .. } => "KeyTaken",
        }
    }
}
