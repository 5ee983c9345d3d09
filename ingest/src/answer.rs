//! What a client is told: status, headers and JSON, for every end that a request can come to.

use std::time::Duration;

use http::{HeaderValue, StatusCode, Version, header};
use serde::Serialize;
use spillway_model::settings::Ack;

use crate::admit::{Admitted, Foreign};
use crate::body::BodyError;
use crate::drain_json::ParseError;
use crate::queue::Overload;
use crate::refusal::{Refusals, Refused};

/// The response type of the HTTP side.
pub(crate) type Response = axum::response::Response;

/// How long a client waits after being refused for want of room: buffers empty within a flush or two.
const ROOM_AGAIN: Duration = Duration::from_secs(1);
/// The same when the bucket can't be reached, or the tenants' files have yet to be brought.
const OTHERS_AGAIN: Duration = Duration::from_secs(5);

/// Why a request is answered with an error.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("no API key; send it as \"Authorization: Bearer <key>\"")]
    NoKey,
    #[error("unknown API key; check that it is whole and still valid")]
    UnknownKey,
    #[error(
        "record {index} is of the project {project:?}, which is not one of this key's tenant; nothing of \
         the request was stored"
    )]
    Foreign { index: usize, project: String },
    #[error(
        "this port takes TLS alone; send to https://. The request came in clear text, and the API key with it: \
         replace the key if others may have read along"
    )]
    ClearText,
    #[error("unknown API key, but the server has not read all of its tenants yet; send the request again")]
    NoTenantsYet,
    #[error("the body has {bytes} bytes, the most is {limit}; send it in smaller requests")]
    BodyTooLarge { bytes: u64, limit: u64 },
    #[error("{0}")]
    Body(#[from] BodyError),
    #[error("{0}")]
    Parse(#[from] ParseError),
    #[error("the body did not arrive within {seconds} s")]
    BodyTooSlow { seconds: u64 },
    #[error("the body broke off: {message}")]
    BodyBrokeOff { message: String },
    #[error("the header X-Spillway-Ack is {value:?}; it may be durable or memory")]
    BadAck { value: String },
    #[error("the tenant sends more than its limit; wait for {} ms", wait.as_millis())]
    OverRate { wait: Duration },
    #[error("{0}")]
    Overload(#[from] Overload),
    #[error("the server is stopping; send the request again, it will reach another")]
    Draining,
    #[error(
        "the {accepted} accepted records are in memory and not yet durable, because the bucket does not \
         answer; they will be staged when it does, unless the process is stopped first, so sending them again \
         may duplicate them"
    )]
    NotYetDurable { accepted: u64 },
    #[error("the request failed inside the server; not all of it is stored")]
    Internal,
}

impl Refusal {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::NoKey | Self::UnknownKey => StatusCode::UNAUTHORIZED,
            Self::Foreign { .. } => StatusCode::FORBIDDEN,
            Self::BodyTooLarge { .. }
            | Self::Body(BodyError::ExpandsTooFar { .. })
            | Self::Parse(ParseError::TooManyRecords { .. })
            | Self::Overload(Overload::NeverFits { .. }) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Body(BodyError::UnknownEncoding { .. }) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Body(BodyError::Corrupt { .. })
            | Self::Parse(_)
            | Self::BodyBrokeOff { .. }
            | Self::BadAck { .. }
            | Self::ClearText => StatusCode::BAD_REQUEST,
            Self::BodyTooSlow { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::OverRate { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Overload(overload) if overload.is_tenants_own() => StatusCode::TOO_MANY_REQUESTS,
            Self::Overload(_) | Self::Draining | Self::NoTenantsYet | Self::NotYetDurable { .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::NoKey => "no_key",
            Self::UnknownKey => "unknown_key",
            Self::Foreign { .. } => "foreign_project",
            Self::ClearText => "clear_text",
            Self::NoTenantsYet => "no_tenants_yet",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::Body(BodyError::ExpandsTooFar { .. }) => "body_expands_too_far",
            Self::Body(BodyError::UnknownEncoding { .. }) => "unknown_encoding",
            Self::Body(BodyError::Corrupt { .. }) => "corrupt_body",
            Self::Parse(error) => error.reason(),
            Self::BodyTooSlow { .. } => "body_too_slow",
            Self::BodyBrokeOff { .. } => "body_broke_off",
            Self::BadAck { .. } => "bad_ack",
            Self::OverRate { .. } => "over_rate",
            Self::Overload(overload) => overload.reason(),
            Self::Draining => "draining",
            Self::NotYetDurable { .. } => "not_yet_durable",
            Self::Internal => "internal",
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::OverRate { wait } => Some(*wait),
            Self::Overload(Overload::NeverFits { .. }) => None,
            Self::Overload(_) | Self::Draining => Some(ROOM_AGAIN),
            Self::NotYetDurable { .. } | Self::NoTenantsYet => Some(OTHERS_AGAIN),
            _ => None,
        }
    }
}

#[derive(Serialize)]
struct ErrorText<'a> {
    code: &'a str,
    message: String,
}

#[derive(Serialize)]
struct RefusedRecord<'a> {
    index: usize,
    field: &'a str,
    reason: &'a str,
    message: String,
}

#[derive(Serialize)]
struct Body<'a> {
    status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorText<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    accepted: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rejected: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<RefusedRecord<'a>>,
    /// Refused records that `errors` does not list.
    #[serde(skip_serializing_if = "Option::is_none", rename = "moreErrors")]
    more: Option<u64>,
}

impl<'a> Body<'a> {
    fn new(status: &'a str) -> Self {
        Self { status, error: None, accepted: None, rejected: None, errors: vec![], more: None }
    }

    fn with(mut self, accepted: u64, refusals: &Refusals) -> Self {
        self.accepted = Some(accepted);
        self.rejected = Some(refusals.total);
        self.errors = refusals.listed.iter().map(refused).collect();
        let more = refusals.total - self.errors.len() as u64;
        self.more = (more > 0).then_some(more);
        self
    }
}

fn refused(refused: &Refused) -> RefusedRecord<'static> {
    let field = refused.refusal.field();
    let what = if field.is_empty() { "the record" } else { field };
    RefusedRecord {
        index: refused.index,
        field,
        reason: refused.refusal.reason(),
        message: format!("{what} {}", refused.refusal),
    }
}

fn json(status: StatusCode, body: &Body<'_>) -> Response {
    let text = serde_json::to_vec(body).unwrap_or_default();
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// All or some of the records were taken.
pub(crate) fn accepted(admitted_count: u64, refusals: &Refusals, ack: Ack) -> Response {
    let mut response = if refusals.total == 0 {
        // Exactly what AstraLog's clients know.
        json(StatusCode::OK, &Body::new("accepted"))
    } else {
        json(StatusCode::OK, &Body::new("partial").with(admitted_count, refusals))
    };
    let level = match ack {
        Ack::Durable => "durable",
        Ack::Memory => "memory",
    };
    response.headers_mut().insert("x-spillway-ack", HeaderValue::from_static(level));
    response
}

/// None of the records can be taken.
pub(crate) fn none_good(admitted: &Admitted) -> Response {
    let mut body = Body::new("error").with(0, &admitted.refusals);
    let message = if admitted.received == 0 {
        "the request has no records".to_owned()
    } else {
        format!("none of the {} records can be taken; \"errors\" says why", admitted.received)
    };
    body.error = Some(ErrorText { code: "no_good_record", message });
    json(StatusCode::BAD_REQUEST, &body)
}

/// An error, with what is known of the request's records.
pub(crate) fn error(refusal: &Refusal, admitted: Option<(u64, &Refusals)>) -> Response {
    let mut body = Body::new("error");
    if let Some((accepted, refusals)) = admitted {
        body = body.with(accepted, refusals);
    }
    body.error = Some(ErrorText { code: refusal.code(), message: refusal.to_string() });
    let mut response = json(refusal.status(), &body);
    let headers = response.headers_mut();
    if let Some(wait) = refusal.retry_after() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds(wait)));
    }
    match refusal {
        Refusal::NoKey | Refusal::UnknownKey => {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        Refusal::Body(BodyError::UnknownEncoding { .. }) => {
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip, zstd, identity"));
        }
        Refusal::Draining => {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        _ => {}
    }
    response
}

/// Has the connection end with this answer, so that the client knows. One that is kept would be closed under its next
/// request, whose sender could not know what became of it. HTTP/2 has a frame of its own for that.
pub(crate) fn end_connection(response: &mut Response, version: Version) {
    if version < Version::HTTP_2 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
}

/// Retry-After has no fractions; waiting less than was asked for is worth nothing.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

/// A path or method that there is not.
pub(crate) fn no_such_place(status: StatusCode, message: &str) -> Response {
    let mut body = Body::new("error");
    body.error = Some(ErrorText { code: "no_such_place", message: message.to_owned() });
    json(status, &body)
}

impl From<Foreign> for Refusal {
    fn from(foreign: Foreign) -> Self {
        Self::Foreign { index: foreign.index, project: foreign.project }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_status_and_says_when_to_come_back() {
        let cases = [
            (Refusal::NoKey, 401, None),
            (Refusal::UnknownKey, 401, None),
            (Refusal::Foreign { index: 0, project: "p".into() }, 403, None),
            (Refusal::BodyTooLarge { bytes: 2, limit: 1 }, 413, None),
            (BodyError::ExpandsTooFar { limit: 1 }.into(), 413, None),
            (BodyError::UnknownEncoding { encoding: "br".into() }.into(), 415, None),
            (ParseError::NoLogs.into(), 400, None),
            (ParseError::TooManyRecords { limit: 1 }.into(), 413, None),
            (Refusal::BodyTooSlow { seconds: 30 }, 408, None),
            (Refusal::OverRate { wait: Duration::from_millis(1200) }, 429, Some("2")),
            (Overload::TenantBytes.into(), 429, Some("1")),
            (Overload::TenantStreams { limit: 1 }.into(), 429, Some("1")),
            (Overload::Bytes.into(), 503, Some("1")),
            (Overload::Requests.into(), 503, Some("1")),
            (Overload::NeverFits { limit: 1 }.into(), 413, None),
            (Refusal::Draining, 503, Some("1")),
            (Refusal::NotYetDurable { accepted: 1 }, 503, Some("5")),
        ];
        for (refusal, status, retry_after) in cases {
            let response = error(&refusal, None);
            assert_eq!(response.status().as_u16(), status, "{refusal}");
            let header = response.headers().get("retry-after").map(|h| h.to_str().unwrap());
            assert_eq!(header, retry_after, "{refusal}");
        }
    }
}
