//! Why a request about the Lease failed.

/// A request failed; it is tried again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The Lease isn't there.
    #[error("the Lease isn't there; the operator makes it, and makes it again after a deletion")]
    Missing,
    /// It was changed, or made, by somebody else in between.
    #[error("somebody else wrote first")]
    Conflict,
    /// RBAC.
    #[error(
        "not allowed to: {0}; grant get and update (and create, where it makes its own) on leases.coordination.k8s.io"
    )]
    Forbidden(String),
    /// The credentials.
    #[error("the API server does not accept this service account's token: {0}")]
    Unauthorized(String),
    /// No answer in time; the request may have been carried out.
    #[error("the API server did not answer in time")]
    Timeout,
    /// The API server refused.
    #[error("the API server answered {code}: {message}")]
    Refused {
        /// HTTP status.
        code: u16,
        /// Its message.
        message: String,
    },
    /// The API server can't be reached; the request may have been carried out.
    #[error("the API server can't be reached: {0}")]
    Unreachable(String),
}

impl Failure {
    /// A short label.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "LeaseMissing",
            Self::Conflict => "Conflict",
            Self::Forbidden(_) => "Forbidden",
            Self::Unauthorized(_) => "Unauthorized",
            Self::Timeout => "Timeout",
            Self::Refused { .. } => "Refused",
            Self::Unreachable(_) => "Unreachable",
        }
    }
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => match (status.code, status.message) {
                (401, message) => Self::Unauthorized(message),
                (403, message) => Self::Forbidden(message),
                (404, _) => Self::Missing,
                (409, _) => Self::Conflict,
                (code, message) => Self::Refused { code, message },
            },
            other => Self::Unreachable(innermost(&other)),
        }
    }
}

/// The outer ones only say that a request failed.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_cannot_be_reached_is_told_with_the_cause() {
        let refused = std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "connection refused");
        let failure = Failure::from(kube::Error::Service(Box::new(refused)));
        assert_eq!(failure, Failure::Unreachable("connection refused".to_owned()));
    }
}
