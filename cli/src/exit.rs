//! How the program ends. The numbers are documented in docs/cli.md and are the same for all of Spillway's programs.

use std::process::ExitCode;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All done; a server has drained.
    Done = 0,
    /// What was to be checked did not hold: records missing or twice, identities broken.
    CheckFailed = 1,
    /// Bad usage or settings.
    Usage = 2,
    /// Could not start: a port is taken, a service can't be reached, a preflight check failed.
    Start = 3,
    /// Stopped, but some records were not in the bucket by the drain deadline, whether they were acknowledged
    /// from memory or answered "not yet durable".
    Lost = 4,
    /// A second signal forced it, or another writer took over.
    Forced = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A message for the user and the way the program ends with it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub exit: Exit,
    pub message: String,
}

impl Failure {
    /// The error's own message.
    pub fn new(exit: Exit, error: impl ToString) -> Self {
        Self { exit, message: error.to_string() }
    }
}
