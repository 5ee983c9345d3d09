//! What can go wrong with a call to the API server.

use std::{future::Future, time::Duration};

/// No call waits longer. The client repeats 429, 503 and 504 by itself meanwhile.
const LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("{what}: the API server did not answer within 30 s")]
    Timeout { what: String },
    #[error("{what}: {}", message(.source))]
    Kube { what: String, source: Box<kube::Error> },
    /// By what the resource allows, which an older one does less.
    #[error(
        "{what}: it is refused, as by a resource logpipelines.spillway.dev that is older than the operator; upgrade it (kubectl apply --server-side --force-conflicts -f crds/logpipelines.yaml, see docs/install.md): {message}"
    )]
    StatusRefused { what: String, message: String },
    /// An object that the plan was made without.
    #[error("{what} is there and was not known; planning again")]
    Unseen { what: String },
    #[error("{what}: {source}")]
    Json { what: String, source: serde_json::Error },
}

impl ApiError {
    /// A short label for conditions, events and metrics; never free text.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Timeout { .. } => "ApiTimeout",
            Self::Json { .. } => "Unwritable",
            Self::Unseen { .. } => "Conflict",
            Self::StatusRefused { .. } => "StatusRefused",
            Self::Kube { source, .. } => match &**source {
                kube::Error::Api(status) if status.is_conflict() => "Conflict",
                kube::Error::Api(status) if status.is_forbidden() => "Forbidden",
                kube::Error::Api(status) if status.is_invalid() => "Rejected",
                kube::Error::Api(status) if status.code == 404 => "NotFound",
                kube::Error::Api(_) => "ApiError",
                _ => "ApiUnreachable",
            },
        }
    }

    fn status(&self) -> Option<&kube::core::Status> {
        match self {
            Self::Kube { source, .. } => match &**source {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            Self::Timeout { .. } | Self::Json { .. } | Self::Unseen { .. } | Self::StatusRefused { .. } => {
                None
            }
        }
    }

    /// An error of a status write. What the schema lacks is refused as 500, without a reason (kubernetes#139253).
    pub(crate) fn of_status(self) -> Self {
        match self.status() {
            Some(status) if status.is_invalid() || status.message.contains("typed patch object") => {
                Self::StatusRefused { what: "write the status".to_owned(), message: status.message.clone() }
            }
            _ => self,
        }
    }

    pub(crate) fn is_refused_status(&self) -> bool {
        matches!(self, Self::StatusRefused { .. })
    }

    /// Somebody else was faster: try again soon.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Unseen { .. }) || self.status().is_some_and(kube::core::Status::is_conflict)
    }

    /// An object, or a kind that the server does not know, which it says without a reason.
    pub(crate) fn is_not_found(&self) -> bool {
        self.status().is_some_and(|status| status.code == 404)
    }

    pub(crate) fn is_forbidden(&self) -> bool {
        self.status().is_some_and(kube::core::Status::is_forbidden)
    }
}

/// Without what differs from one call to the next.
fn message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => chain(other),
    }
}

/// With its innermost cause: the outer ones only say that a request failed.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let (mut inner, text) = (error, error.to_string());
    while let Some(source) = inner.source() {
        inner = source;
    }
    let cause = inner.to_string();
    if text.contains(&cause) { text } else { format!("{text}: {cause}") }
}

/// A call with a limit. `what` names it for people, such as `apply Deployment logs-ingest`.
pub(crate) async fn call<T>(
    what: impl Into<String>,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, ApiError> {
    let what = what.into();
    match tokio::time::timeout(LIMIT, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(ApiError::Kube { what, source: Box::new(source) }),
        Err(_) => Err(ApiError::Timeout { what }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_that_the_resource_does_not_allow_names_it_and_what_to_do() {
        let unknown = "failed to create typed patch object (team/logs; spillway.dev/v1alpha1, Kind=LogPipeline): .status.lag: field not declared in schema";
        for (code, reason, message, refused) in [
            (500, "", unknown, true),
            (400, "BadRequest", unknown, true),
            (422, "Invalid", "status.lag: Too long", true),
            (409, "Conflict", "the object has been modified", false),
            (404, "NotFound", "not found", false),
            (500, "InternalError", "etcdserver: no leader", false),
        ] {
            let status = kube::core::Status::failure(message, reason).with_code(code);
            let source = Box::new(kube::Error::Api(Box::new(status)));
            let error = ApiError::Kube { what: "write the status".to_owned(), source }.of_status();
            assert_eq!(error.is_refused_status(), refused, "{code} {message}");
            let said = error.to_string();
            assert!(said.contains(message), "{said}");
            assert_eq!(said.contains("logpipelines.spillway.dev") && said.contains("kubectl apply"), refused);
        }
    }
}
