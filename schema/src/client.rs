//! ClickHouse over its HTTP interface.
//!
//! Small on purpose: what matters here is what may be concluded from an answer, so status, headers and
//! body are all looked at, an insert's body has a length, and nothing is ever sent twice behind the
//! caller's back.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Certificate, Client, StatusCode, Url};
use serde::de::DeserializeOwned;
use spillway_model::settings::ClickHouseSettings;

use crate::credentials::{Credentials, Login};
use crate::error::{ClickHouseError, exception_code};

/// A query's settings, sent as URL parameters.
pub type Settings = Vec<(&'static str, String)>;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Statements that change the schema wait for every replica of a cluster (180 s by server default).
const EXECUTE_TIMEOUT: Duration = Duration::from_secs(300);
const EXCEPTION_HEADER: &str = "x-clickhouse-exception-code";
/// Servers from 25.11 on put this before an exception that ends an answer already begun.
const EXCEPTION_MARK: &str = "__exception__";

/// A connection pool to one ClickHouse server (or a load balancer before several).
#[derive(Debug, Clone)]
pub struct ClickHouse {
    http: Client,
    url: Url,
    credentials: Credentials,
    query_timeout: Duration,
}

impl ClickHouse {
    /// Prepares the client; the network is first used by a query.
    ///
    /// # Errors
    /// [`ClickHouseError::Invalid`] for a URL or CA file that cannot be used.
    pub fn connect(settings: &ClickHouseSettings) -> Result<Self, ClickHouseError> {
        let ca_pem = match &settings.ca_file {
            Some(file) => Some(std::fs::read(file).map_err(|e| {
                ClickHouseError::Invalid(format!("clickhouse.caFile {}: {e}", file.display()))
            })?),
            None => None,
        };
        Self::build(settings, Credentials::new(settings.credentials_dir.clone()), ca_pem.as_deref())
    }

    /// As [`ClickHouse::connect`], with login and certificates (PEM) as values; the folder and the file that
    /// `settings` name are not looked at. Without a login the user is `default`, without a password.
    ///
    /// # Errors
    /// [`ClickHouseError::Invalid`] for a URL, login or certificates that cannot be used.
    pub fn connect_as(
        settings: &ClickHouseSettings,
        login: Option<&Login>,
        ca_pem: Option<&[u8]>,
    ) -> Result<Self, ClickHouseError> {
        let credentials = login.map_or(Ok(Credentials::new(None)), Credentials::of)?;
        Self::build(settings, credentials, ca_pem)
    }

    fn build(
        settings: &ClickHouseSettings,
        credentials: Credentials,
        ca_pem: Option<&[u8]>,
    ) -> Result<Self, ClickHouseError> {
        let url = Url::parse(&settings.url)
            .map_err(|e| ClickHouseError::Invalid(format!("clickhouse.url {:?}: {e}", settings.url)))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(ClickHouseError::Invalid(format!(
                "clickhouse.url {:?} must begin with http:// or https:// (the HTTP interface, port 8123 or 8443)",
                settings.url
            )));
        }
        // Fails only if a provider is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut http = Client::builder()
            .user_agent(concat!("spillway/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            // Shorter than a server's keep_alive_timeout (10 s, 3 s on old ones): a pooled connection that
            // the server has just closed turns a request into an unclear one.
            .pool_idle_timeout(Duration::from_secs(2))
            .tcp_nodelay(true)
            .tcp_keepalive(Duration::from_secs(30))
            // An insert that is sent again without anybody knowing is what the commit protocol is about.
            .retry(reqwest::retry::never());
        if let Some(pem) = ca_pem {
            let certificates = Certificate::from_pem_bundle(pem)
                .ok()
                .filter(|certificates| !certificates.is_empty())
                .ok_or_else(|| {
                    ClickHouseError::Invalid(
                        "the CA of ClickHouse (clickhouse.caSecretRef, caFile) holds no PEM certificates"
                            .to_owned(),
                    )
                })?;
            http = http.tls_certs_merge(certificates);
        }
        let http = http.build().map_err(|e| ClickHouseError::Invalid(format!("HTTP client: {e}")))?;
        Ok(Self { http, url, credentials, query_timeout: settings.query_timeout.0 })
    }

    /// Runs a statement that returns nothing.
    ///
    /// # Errors
    /// See [`ClickHouseError`].
    pub async fn execute(&self, sql: &str, settings: &[(&str, String)]) -> Result<(), ClickHouseError> {
        let answer = self.post(&[], settings, sql.to_owned().into(), EXECUTE_TIMEOUT).await?;
        expect_no_exception(&answer)
    }

    /// Runs a query and reads its rows; ` FORMAT JSONEachRow` is appended.
    ///
    /// # Errors
    /// See [`ClickHouseError`]; [`ClickHouseError::Invalid`] if a row does not fit `T`.
    pub async fn query_json<T: DeserializeOwned>(
        &self,
        sql: &str,
        settings: &[(&str, String)],
    ) -> Result<Vec<T>, ClickHouseError> {
        let sql = format!("{sql} FORMAT JSONEachRow");
        let fixed = [("output_format_json_quote_64bit_integers", "0")];
        let answer = self.post(&fixed, settings, sql.into(), self.query_timeout).await?;
        answer
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| {
                serde_json::from_slice(line).map_err(|e| match exception_in(&answer) {
                    Some(exception) => exception,
                    None => ClickHouseError::Invalid(format!(
                        "unexpected answer from ClickHouse ({e}): {}",
                        String::from_utf8_lossy(&line[..line.len().min(200)])
                    )),
                })
            })
            .collect()
    }

    /// Sends `body` as the data of an `INSERT ... FORMAT ...` statement, in one piece with a
    /// Content-Length: of a body that breaks off, a server may insert the part that has arrived
    /// (ClickHouse#27667), so it must be able to tell.
    ///
    /// Returns after the server has finished (`wait_end_of_query`), or after `timeout`.
    ///
    /// # Errors
    /// See [`ClickHouseError`]. Success means only that no exception was reported; ask the table.
    pub async fn insert(
        &self,
        sql: &str,
        query_id: &str,
        settings: &[(&str, String)],
        body: Bytes,
        timeout: Duration,
    ) -> Result<(), ClickHouseError> {
        let answer = self.post(&[("query", sql), ("query_id", query_id)], settings, body, timeout).await?;
        expect_no_exception(&answer)
    }

    async fn post(
        &self,
        fixed: &[(&str, &str)],
        settings: &[(&str, String)],
        body: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, ClickHouseError> {
        let mut request = self
            .http
            .post(self.url.clone())
            .query(fixed)
            .query(&[("wait_end_of_query", "1")])
            .query(settings)
            .header(CONTENT_TYPE, "application/octet-stream")
            .timeout(timeout)
            .body(body);
        if let Some(credentials) = self.credentials.read().await? {
            request = request
                .header("X-ClickHouse-User", credentials.user)
                .header("X-ClickHouse-Key", credentials.key);
        }
        let answer = request.send().await.map_err(|e| self.not_sent(e))?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = answer.bytes().await;
        judge(status, &headers, body.map_err(|e| root_cause(&e)))
    }

    fn not_sent(&self, error: reqwest::Error) -> ClickHouseError {
        let error = error.without_url();
        let detail = root_cause(&error);
        if error.is_connect() {
            let mut url = self.url.clone();
            // Fails for URLs without a host, which have no password either.
            let _ = url.set_password(None);
            return ClickHouseError::Unreachable { url: url.to_string(), detail };
        }
        if error.is_builder() {
            return ClickHouseError::Invalid(format!("request to ClickHouse: {detail}"));
        }
        ClickHouseError::Unclear { detail }
    }
}

/// What an answer means. The exception header counts before the status: a server under pressure has
/// answered 200 with the header and no data stored (ClickHouse#65117).
fn judge(
    status: StatusCode,
    headers: &HeaderMap,
    body: Result<Bytes, String>,
) -> Result<Bytes, ClickHouseError> {
    let code = headers
        .get(EXCEPTION_HEADER)
        .map(|value| value.to_str().ok().and_then(|code| code.trim().parse::<i32>().ok()).unwrap_or(0));
    match (code, body) {
        (Some(code), body) => {
            let text = body.map(|body| String::from_utf8_lossy(&body).into_owned());
            Err(ClickHouseError::from_exception(code, &text.unwrap_or_default()))
        }
        (None, Err(detail)) => Err(ClickHouseError::Unclear {
            detail: format!("the answer (status {status}) broke off: {detail}"),
        }),
        (None, Ok(body)) if status == StatusCode::OK => Ok(body),
        (None, Ok(body)) => {
            let text = String::from_utf8_lossy(&body);
            match exception_code(&text) {
                Some(code) => Err(ClickHouseError::from_exception(code, &text)),
                None if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                    Err(ClickHouseError::Denied { code: 0, message: format!("status {status}") })
                }
                // A proxy's 502 or 504 says nothing about what the server behind it did.
                None => Err(ClickHouseError::Unclear {
                    detail: format!("status {status} without an exception code"),
                }),
            }
        }
    }
}

fn expect_no_exception(answer: &[u8]) -> Result<(), ClickHouseError> {
    exception_in(answer).map_or(Ok(()), Err)
}

/// An exception at the end of an answer that began as a success (ClickHouse#33205, #45381).
fn exception_in(answer: &[u8]) -> Option<ClickHouseError> {
    let tail = String::from_utf8_lossy(&answer[answer.len().saturating_sub(32 * 1024)..]);
    let text = tail.find(EXCEPTION_MARK).map_or(&*tail, |at| &tail[at..]);
    exception_code(text).map(|code| ClickHouseError::from_exception(code, text))
}

/// The innermost cause: the outer ones only say that sending a request failed.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    fn judged(status: u16, code: Option<&'static str>, body: Result<&'static str, &str>) -> &'static str {
        let mut headers = HeaderMap::new();
        if let Some(code) = code {
            headers.insert(EXCEPTION_HEADER, HeaderValue::from_static(code));
        }
        let body = body.map(|text| Bytes::from_static(text.as_bytes())).map_err(str::to_owned);
        let status = StatusCode::from_u16(status).unwrap();
        match judge(status, &headers, body).and_then(|answer| expect_no_exception(&answer)) {
            Ok(()) => "Ok",
            Err(e) => e.reason(),
        }
    }

    #[test]
    fn only_a_clean_200_is_a_success() {
        let exception = "Code: 241. DB::Exception: Memory limit exceeded. (MEMORY_LIMIT_EXCEEDED)";
        for (status, code, body, expected) in [
            (200, None, Ok(""), "Ok"),
            (200, Some("209"), Ok(""), "Refused"),
            (200, None, Ok(exception), "Refused"),
            (
                200,
                None,
                Ok("__exception__\r\ntag\r\nCode: 241. DB::Exception: x (A)\r\n12 tag\r\n__exception__"),
                "Refused",
            ),
            (200, None, Err("connection reset"), "Unclear"),
            (500, Some("241"), Ok(exception), "Refused"),
            (500, None, Ok(exception), "Refused"),
            (502, None, Ok("bad gateway"), "Unclear"),
            (504, None, Ok(""), "Unclear"),
            (403, Some("516"), Ok("Code: 516. DB::Exception: no"), "Denied"),
            (401, None, Ok(""), "Denied"),
        ] {
            assert_eq!(judged(status, code, body), expected, "{status} {code:?} {body:?}");
        }
    }
}
