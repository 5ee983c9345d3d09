//! From an SDK error to a [`BucketError`]: first the plain facts, then a decision that a table can test.

use std::error::Error;
use std::time::Duration;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::error::{BucketError, Operation};

/// The facts of a failed request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Failure {
    /// `None`: no answer came.
    pub(super) status: Option<u16>,
    /// S3's error code, empty where the answer had none (every HEAD).
    pub(super) code: String,
    pub(super) detail: String,
    /// Not even a connection: the request surely was not executed.
    pub(super) never_sent: bool,
    /// The request could not be built or signed.
    pub(super) local: Option<Local>,
    pub(super) retry_after: Option<Duration>,
}

/// Why a request could not even be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Local {
    Credentials,
    Request,
}

impl Failure {
    pub(super) fn from_sdk<E>(error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let raw = error.raw_response();
        let code = error.code().unwrap_or_default().to_owned();
        let detail = match (error.code(), error.message(), raw) {
            (Some(code), Some(message), _) => format!("{code}: {message}"),
            (Some(code), None, _) => code.to_owned(),
            (None, _, Some(raw)) => format!("HTTP status {}", raw.status()),
            (None, _, None) => causes(error),
        };
        // The answer to a request in the wrong region says where the bucket is.
        let status = raw.map(|raw| raw.status().as_u16());
        let detail = match raw.and_then(|raw| raw.headers().get("x-amz-bucket-region")) {
            Some(region) if matches!(status, Some(301 | 400)) => {
                format!("{detail}; the bucket is in {region}")
            }
            _ => detail,
        };
        Self {
            status,
            code,
            never_sent: never_connected(error),
            local: local(error, &detail),
            detail,
            retry_after: raw
                .and_then(|raw| raw.headers().get("retry-after"))
                .and_then(|text| text.parse().ok())
                .map(Duration::from_secs),
        }
    }

    /// One key's entry in the answer to a multi-delete.
    pub(super) fn of_one_key(code: String, message: String) -> Self {
        let status = match code.as_str() {
            "AccessDenied" => Some(403),
            "InternalError" => Some(500),
            _ => None,
        };
        Self { status, detail: format!("{code}: {message}"), code, ..Self::default() }
    }

    /// S3's two answers to a conditional write whose condition did not hold (or might not have).
    pub(super) fn is_refused_condition(&self) -> bool {
        matches!(self.status, Some(409 | 412))
    }

    /// A key that is not there; a bucket that is not there has another code.
    pub(super) fn is_missing_key(&self) -> bool {
        self.status == Some(404) && self.code != "NoSuchBucket"
    }

    pub(super) fn into_error(self, operation: Operation, key: &str, bucket: &str) -> BucketError {
        let key = key.to_owned();
        let detail = self.detail;
        // Another write was in progress (409), or the request came in too slowly for a proxy (408).
        let is_conflict = matches!(self.status, Some(408 | 409));
        let invalid =
            |remedy| BucketError::Invalid { operation, key: key.clone(), detail: detail.clone(), remedy };
        let denied =
            |remedy| BucketError::Denied { operation, key: key.clone(), detail: detail.clone(), remedy };
        match (self.local, self.code.as_str(), self.status) {
            (Some(Local::Credentials), ..) => denied(
                "no usable credentials: fill the credentials Secret (access_key_id, secret_access_key), or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the pod or its service account a role that trusts it",
            ),
            (Some(Local::Request), ..) => invalid("correct the bucket's endpoint and region"),
            (_, "NoSuchBucket", _) => BucketError::NoSuchBucket { bucket: bucket.to_owned() },
            (_, "RequestTimeTooSkewed", _) => BucketError::ClockSkewed { detail },
            (
                _,
                "SlowDown" | "SlowDownRead" | "SlowDownWrite" | "RequestLimitExceeded" | "TooManyRequests",
                _,
            )
            | (_, _, Some(429 | 503)) => {
                BucketError::SlowDown { operation, key, retry_after: self.retry_after, detail }
            }
            (_, "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired", _) => {
                denied("the credentials have expired: renew them; they are read again within seconds")
            }
            (_, "InvalidAccessKeyId" | "SignatureDoesNotMatch", _) => {
                denied("the credentials are wrong: correct access_key_id and secret_access_key")
            }
            (_, _, Some(401 | 403)) if operation == Operation::Create => {
                denied("allow s3:CreateBucket and s3:PutBucketOwnershipControls, or create it by hand")
            }
            (_, _, Some(401 | 403)) if operation == Operation::DeleteVersions => {
                denied("allow s3:ListBucketVersions on the bucket and s3:DeleteObjectVersion on its keys")
            }
            (_, _, Some(401 | 403)) => denied(
                "check access_key_id and secret_access_key; if they are right, allow s3:ListBucket on the bucket and s3:GetObject, s3:PutObject, s3:PutObjectTagging, s3:DeleteObject on its keys",
            ),
            (
                _,
                "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException",
                _,
            )
            | (_, _, Some(301 | 307)) => {
                invalid("the bucket is in another region: correct storage.s3.region")
            }
            (_, _, Some(501)) | (_, "NotImplemented", _) => invalid(
                "the store lacks this operation: use one with conditional writes and multi-object delete",
            ),
            // AWS answers 400 RequestTimeout when a body came too slowly: it was not stored, but retrying helps.
            (_, "RequestTimeout", _) => BucketError::Unavailable { operation, key, detail },
            (_, _, Some(400..=499)) if !is_conflict => {
                invalid("correct the bucket's settings; the store's own log names the request")
            }
            _ if self.never_sent || !operation.changes() => {
                BucketError::Unavailable { operation, key, detail }
            }
            _ => BucketError::Unclear { operation, key, detail },
        }
    }
}

/// The chain of causes in one line, without the layers that say nothing: SDK and HTTP client name themselves.
fn causes(error: &(dyn Error + 'static)) -> String {
    const SAY_NOTHING: [&str; 5] =
        ["dispatch failure", "io error", "other", "client error (Connect)", "client error (SendRequest)"];
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if parts.last().is_none_or(|last| !last.contains(&text)) {
            parts.push(text);
        }
        next = error.source();
    }
    let last = parts.last().cloned();
    parts.retain(|part| !SAY_NOTHING.contains(&part.as_str()));
    let mut text = if parts.is_empty() { last.unwrap_or_default() } else { parts.join(": ") };
    if text.contains("InvalidContentType") {
        text += " (the server speaks no TLS there: use http://, or its TLS port)";
    }
    text
}

fn never_connected(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(hyper) = error.downcast_ref::<hyper_util::client::legacy::Error>() {
            return hyper.is_connect();
        }
        next = error.source();
    }
    false
}

fn local<E>(error: &SdkError<E, HttpResponse>, detail: &str) -> Option<Local> {
    let could_not_sign = |text: &str| text.contains("credentials") || text.contains("identity");
    match error {
        SdkError::ConstructionFailure(_) if could_not_sign(detail) => Some(Local::Credentials),
        SdkError::ConstructionFailure(_) => Some(Local::Request),
        // The SDK reports a credentials provider that failed as a dispatch failure of the user's making.
        SdkError::DispatchFailure(failure)
            if !failure.is_io() && !failure.is_timeout() && could_not_sign(detail) =>
        {
            Some(Local::Credentials)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, code: &str) -> Failure {
        Failure { status: Some(status), code: code.into(), ..Failure::default() }
    }

    #[test]
    fn every_answer_has_its_meaning_for_a_put() {
        for (failure, reason, transient, maybe) in [
            (answered(500, "InternalError"), "Unclear", true, true),
            (answered(502, ""), "Unclear", true, true),
            (answered(408, ""), "Unclear", true, true),
            (answered(409, "ConditionalRequestConflict"), "Unclear", true, true),
            (answered(503, "SlowDown"), "SlowDown", true, true),
            (answered(429, ""), "SlowDown", true, true),
            (answered(400, "RequestTimeout"), "Unavailable", true, false),
            (answered(400, "InvalidArgument"), "Invalid", false, false),
            (answered(403, "AccessDenied"), "Denied", false, false),
            (answered(403, "RequestTimeTooSkewed"), "ClockSkewed", false, false),
            (answered(400, "ExpiredToken"), "Denied", false, false),
            (answered(404, "NoSuchBucket"), "NoSuchBucket", false, false),
            (answered(301, "PermanentRedirect"), "Invalid", false, false),
            (answered(501, "NotImplemented"), "Invalid", false, false),
            (Failure::default(), "Unclear", true, true),
            (Failure { never_sent: true, ..Failure::default() }, "Unavailable", true, false),
            (Failure { local: Some(Local::Credentials), ..Failure::default() }, "Denied", false, false),
        ] {
            let error = failure.clone().into_error(Operation::Put, "k", "b");
            assert_eq!(
                (error.reason(), error.is_transient(), error.may_have_happened()),
                (reason, transient, maybe),
                "{failure:?}"
            );
        }
    }

    #[test]
    fn a_read_is_never_unclear() {
        for failure in [Failure::default(), answered(500, "InternalError"), answered(503, "SlowDown")] {
            let error = failure.into_error(Operation::Get, "k", "b");
            assert!(error.is_transient() && !error.may_have_happened(), "{error}");
        }
    }

    #[test]
    fn a_missing_bucket_is_not_a_missing_key() {
        assert!(answered(404, "NoSuchKey").is_missing_key());
        assert!(answered(404, "").is_missing_key());
        assert!(!answered(404, "NoSuchBucket").is_missing_key());
    }
}
