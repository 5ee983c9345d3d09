//! What an answer to a request says of the records in it.

use std::time::Duration;

use serde::Deserialize;

/// What became of the records of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// All but those at these places were accepted.
    Accepted { refused: Vec<usize> },
    /// None was taken; try again after this time.
    Busy { after: Duration },
    /// None was taken, and none will be however often they are sent.
    Refused { status: u16, body: String },
    /// They may have been taken or not.
    Unclear { why: String },
}

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    rejected: usize,
    #[serde(default)]
    errors: Vec<RecordError>,
    error: Option<ErrorCode>,
}

#[derive(Deserialize)]
struct ErrorCode {
    code: String,
}

#[derive(Deserialize)]
struct RecordError {
    index: usize,
}

const SHORT: Duration = Duration::from_millis(250);

/// Reads status, `Retry-After` (seconds) and body.
///
/// Of the 5xx only ingest's own 503 says that nothing was taken, and not the one that says `not_yet_durable`. All
/// others may come from a proxy, or from a server that failed after it had written.
pub fn read(status: u16, retry_after: Option<&str>, body: &[u8]) -> Answer {
    let code =
        || serde_json::from_slice::<Body>(body).ok().and_then(|body| body.error).map(|error| error.code);
    let after = retry_after.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
    match (status, after) {
        (200..=299, _) => match serde_json::from_slice::<Body>(body) {
            // A long list is cut short: which of the others were refused is not known.
            Ok(body) if body.rejected > body.errors.len() => Answer::Unclear {
                why: format!("{} records refused, {} of them named", body.rejected, body.errors.len()),
            },
            Ok(body) => {
                Answer::Accepted { refused: body.errors.into_iter().map(|error| error.index).collect() }
            }
            Err(error) => {
                Answer::Unclear { why: format!("{status} with a body that is not understood: {error}") }
            }
        },
        (429, after) => Answer::Busy { after: after.unwrap_or(SHORT) },
        (503, Some(after)) if code().is_some_and(|code| code != "not_yet_durable") => Answer::Busy { after },
        (500..=599 | 408, _) => Answer::Unclear { why: format!("status {status}") },
        _ => Answer::Refused { status, body: String::from_utf8_lossy(body).chars().take(500).collect() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_never_taken_for_more_than_it_says() {
        let accepted = |refused: &[usize]| Answer::Accepted { refused: refused.to_vec() };
        let busy = |millis| Answer::Busy { after: Duration::from_millis(millis) };
        for (status, retry_after, body, expected) in [
            (200, None, r#"{"status":"accepted"}"#, accepted(&[])),
            (
                200,
                None,
                r#"{"accepted":1,"rejected":2,"errors":[{"index":0},{"index":2}]}"#,
                accepted(&[0, 2]),
            ),
            (429, Some("2"), "", busy(2000)),
            (429, None, "", busy(250)),
            (503, Some("1"), r#"{"status":"error","error":{"code":"draining"}}"#, busy(1000)),
        ] {
            assert_eq!(read(status, retry_after, body.as_bytes()), expected, "{status} {body}");
        }
        let cut_short = br#"{"rejected":3,"errors":[{"index":0}]}"#;
        assert!(matches!(read(200, None, cut_short), Answer::Unclear { .. }));
        assert!(matches!(read(200, None, b"<html>"), Answer::Unclear { .. }));
        let in_memory = br#"{"accepted":3,"error":{"code":"not_yet_durable"}}"#;
        assert!(matches!(read(503, Some("5"), in_memory), Answer::Unclear { .. }));
        assert!(matches!(read(503, Some("5"), b"from a proxy"), Answer::Unclear { .. }));
        assert!(matches!(read(503, None, b""), Answer::Unclear { .. }));
        assert!(matches!(read(500, Some("1"), b""), Answer::Unclear { .. }));
        assert!(matches!(read(504, None, b""), Answer::Unclear { .. }));
        assert!(matches!(read(401, None, b"no key"), Answer::Refused { status: 401, .. }));
        assert!(matches!(read(403, None, b""), Answer::Refused { status: 403, .. }));
    }
}
