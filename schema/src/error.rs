//! What can come back from a ClickHouse server, sorted by what the caller may conclude from it.

/// Longest part of a server's message that is kept: messages quote the offending data.
const MESSAGE_LIMIT: usize = 2_000;

/// Code of a server that does not know the user or got the wrong password.
const AUTHENTICATION_CODES: [i32; 4] = [192, 193, 194, 516];
/// Code of a user who lacks a grant.
const ACCESS_DENIED: i32 = 497;
/// Code of a database that may not be read with the settings of the user's profile.
const READONLY: i32 = 164;

/// A request to ClickHouse that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClickHouseError {
    /// The server answered with an exception. Whether an insert took effect is still open: a failing view
    /// is reported after the table's part is committed.
    #[error("ClickHouse answered with code {code} ({name}): {message}")]
    Refused {
        /// The server's error code, e.g. 252.
        code: i32,
        /// The code's name, e.g. `TOO_MANY_PARTS`.
        name: String,
        /// The server's text, shortened.
        message: String,
    },
    /// The request may have been executed: it was sent, and no complete answer came back.
    #[error("no complete answer from ClickHouse, the request may have taken effect: {detail}")]
    Unclear {
        /// What went wrong on the way.
        detail: String,
    },
    /// The request was surely not executed: no connection came about.
    #[error(
        "ClickHouse cannot be reached at {url}: {detail}; check the URL, the network and that the server runs"
    )]
    Unreachable {
        /// The server's address, without credentials.
        url: String,
        /// What went wrong.
        detail: String,
    },
    /// The server does not accept the credentials, or the user lacks a grant. Nothing was executed.
    #[error("ClickHouse denies access (code {code}): {message}; check the credentials and the user's grants")]
    Denied {
        /// The server's error code, 0 if it gave only an HTTP status.
        code: i32,
        /// The server's text, shortened.
        message: String,
    },
    /// The request could not be made or its answer could not be read: settings, files, or a server that
    /// is no ClickHouse.
    #[error("{0}")]
    Invalid(String),
}

impl ClickHouseError {
    /// An exception as the server wrote it into the header and the body.
    pub(crate) fn from_exception(code: i32, body: &str) -> Self {
        let message = shorten(body.trim());
        if code == ACCESS_DENIED || code == READONLY || AUTHENTICATION_CODES.contains(&code) {
            return Self::Denied { code, message };
        }
        Self::Refused { code, name: exception_name(body).unwrap_or("UNKNOWN").to_owned(), message }
    }

    /// The server's error code, if it gave one.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            Self::Denied { code, .. } if *code != 0 => Some(*code),
            _ => None,
        }
    }

    /// A short label for metrics and conditions.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Refused { .. } => "Refused",
            Self::Unclear { .. } => "Unclear",
            Self::Unreachable { .. } => "Unreachable",
            Self::Denied { .. } => "Denied",
            Self::Invalid(_) => "Invalid",
        }
    }

    /// Whether the statement may have changed something although it failed.
    #[must_use]
    pub fn may_have_happened(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Unclear { .. })
    }
}

/// Finds `Code: 252. DB::Exception: ...`, in which an older server ends an answer that began as a success.
pub(crate) fn exception_code(body: &str) -> Option<i32> {
    let rest = &body[body.find("Code: ")? + 6..];
    let digits = rest.find(|c: char| !c.is_ascii_digit())?;
    let (code, rest) = rest.split_at(digits);
    if rest.starts_with(". DB::") { code.parse().ok() } else { None }
}

/// The name in `... (TOO_MANY_PARTS) (version 26.9.2.1 ...)`: the last one, because the message before it
/// may quote anything.
fn exception_name(body: &str) -> Option<&str> {
    body.rsplit('(').find_map(|piece| {
        let (name, _) = piece.split_once(')')?;
        let known =
            name.len() > 2 && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
        known.then_some(name)
    })
}

fn shorten(text: &str) -> String {
    if text.len() <= MESSAGE_LIMIT {
        return text.to_owned();
    }
    let mut end = MESSAGE_LIMIT;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}...", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_and_name_are_read_from_the_servers_text() {
        let body = "Code: 252. DB::Exception: Too many partitions (SEE DOCS) for single INSERT block. (TOO_MANY_PARTS) (version 26.9.2.1)\n";
        assert_eq!(exception_code(body), Some(252));
        match ClickHouseError::from_exception(252, body) {
            ClickHouseError::Refused { code, name, .. } => {
                assert_eq!((code, name.as_str()), (252, "TOO_MANY_PARTS"));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn rows_that_mention_a_code_are_no_exception() {
        assert_eq!(exception_code("{\"message\":\"exit Code: 12\"}\n"), None);
        assert_eq!(exception_code("{\"message\":\"Code: 12 apples\"}\n"), None);
    }

    #[test]
    fn a_missing_grant_is_denied_and_surely_not_executed() {
        let error = ClickHouseError::from_exception(
            497,
            "Code: 497. DB::Exception: default: Not enough privileges. (ACCESS_DENIED)",
        );
        assert_eq!(error.reason(), "Denied");
        assert!(!error.may_have_happened());
    }
}
