//! Why a record is refused: what its sender is told, and the label it is counted under.

use spillway_model::{NameError, TimeError};

/// One record's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("is missing")]
    Missing { field: &'static str },
    #[error("is empty")]
    Empty { field: &'static str },
    #[error("must be {expected}")]
    WrongType { field: &'static str, expected: &'static str },
    #[error("{error}")]
    BadName { field: &'static str, error: NameError },
    #[error("{error}")]
    BadTime { error: TimeError },
    #[error("is more than {days} days ago, the furthest back that records are taken")]
    TooOld { days: u64 },
    #[error("is past the tenant's retention of {days} days: the row would vanish at once")]
    PastRetention { days: u16 },
    #[error("is more than {seconds} s ahead of the server's clock; check the sender's clock")]
    InFuture { seconds: u64 },
    #[error("has {bytes} bytes, the most is {limit}")]
    TooLong { field: &'static str, bytes: usize, limit: usize },
    #[error("takes {bytes} bytes as a row, the most is {limit}")]
    TooLarge { bytes: usize, limit: usize },
    #[error("is the request's service number {limit} and one; send fewer services at once")]
    TooManyStreams { limit: usize },
    #[error("is not valid JSON at line {line}, column {column}: {message}")]
    Malformed { line: usize, column: usize, message: String },
}

impl Refusal {
    /// The field at fault; empty: the record as a whole.
    #[must_use]
    pub fn field(&self) -> &'static str {
        match self {
            Self::Missing { field }
            | Self::Empty { field }
            | Self::WrongType { field, .. }
            | Self::BadName { field, .. }
            | Self::TooLong { field, .. } => field,
            Self::BadTime { .. }
            | Self::TooOld { .. }
            | Self::PastRetention { .. }
            | Self::InFuture { .. } => "timestamp",
            Self::TooManyStreams { .. } => "service",
            Self::TooLarge { .. } | Self::Malformed { .. } => "",
        }
    }

    /// A short label for answers and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "missing",
            Self::Empty { .. } => "empty",
            Self::WrongType { .. } => "wrong_type",
            Self::BadName { error, .. } => error.reason(),
            Self::BadTime { error } => error.reason(),
            Self::TooOld { .. } => "too_old",
            Self::PastRetention { .. } => "past_retention",
            Self::InFuture { .. } => "in_future",
            Self::TooLong { .. } => "too_long",
            Self::TooLarge { .. } => "too_large",
            Self::TooManyStreams { .. } => "too_many_streams",
            Self::Malformed { .. } => "malformed_json",
        }
    }
}

/// A refused record of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Number of the record in its request, from 0.
    pub index: usize,
    pub refusal: Refusal,
}

/// The refused records of a request: the first ones whole, all of them counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusals {
    pub listed: Vec<Refused>,
    pub total: u64,
    pub by_reason: Vec<(&'static str, u64)>,
}

impl Refusals {
    /// Named in an answer; a sender with a hundred faults has one fault.
    pub const MAX_LISTED: usize = 100;

    pub fn push(&mut self, index: usize, refusal: Refusal) {
        self.total += 1;
        let reason = refusal.reason();
        match self.by_reason.iter_mut().find(|(r, _)| *r == reason) {
            Some((_, count)) => *count += 1,
            None => self.by_reason.push((reason, 1)),
        }
        if self.listed.len() < Self::MAX_LISTED {
            self.listed.push(Refused { index, refusal });
        }
    }
}
