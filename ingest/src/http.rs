//! `POST /v1/drain`: AstraLog's JSON and NDJSON over HTTP.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::routing::{get, post};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt as _;
use spillway_model::UnixNanos;
use spillway_model::settings::{Ack, IngestSettings};
use tokio::sync::Semaphore;

use crate::admin;
use crate::admit::{Admission, Admitted, Policy, Stamp};
use crate::answer::{self, Refusal, Response};
use crate::body::{self, Encoding};
use crate::buffers::Buffers;
use crate::drain_json::{self, Format, ParseError};
use crate::intake::{AdmittedRequest, Intake, Outcome, Tally};
use crate::metrics::Metrics;
use crate::queue::{Queue, Slot};
use crate::tenants::{Registry, Tenant};

/// Larger bodies are parsed where they do not keep other requests waiting.
const PARSE_INLINE_BYTES: usize = 1 << 20;
/// What is still read of the body of a request that was refused before it was read. Closing the connection
/// under a sender that is still writing would cost it the answer (RFC 9112, 9.6).
const LINGER_BYTES: usize = 1 << 20;
const LINGER: Duration = Duration::from_secs(2);
const MAX_REQUEST_ID_BYTES: usize = 128;

/// What the HTTP side shares.
pub(crate) struct App {
    pub(crate) settings: IngestSettings,
    pub(crate) tenants: Arc<Registry>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) buffers: Arc<Buffers>,
    pub(crate) intake: Intake,
    pub(crate) metrics: Arc<Metrics>,
    /// No more requests are taken.
    pub(crate) stopping: AtomicBool,
    pub(crate) health: admin::Health,
    /// Bodies being decompressed, and large ones being parsed: what they grow to is in memory before it can
    /// be counted, so there are never more of them than cores.
    pub(crate) heavy: Arc<Semaphore>,
}

/// The routes of the port that logs are sent to.
pub(crate) fn router(app: Arc<App>) -> Router {
    let no_method =
        || async { answer::no_such_place(StatusCode::METHOD_NOT_ALLOWED, "send logs with POST /v1/drain") };
    Router::new()
        .route("/v1/drain", post(drain).fallback(no_method))
        .route("/health", get(admin::health))
        .route("/livez", get(admin::livez))
        .route("/readyz", get(admin::readyz))
        .fallback(|| async {
            answer::no_such_place(StatusCode::NOT_FOUND, "no such path; send logs with POST /v1/drain")
        })
        .with_state(app)
}

async fn drain(State(app): State<Arc<App>>, request: Request) -> Response {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let request_id = request_id(&parts.headers);
    let mut response = match head(&app, &parts.headers) {
        Ok(head) => handle(&app, head, body, &request_id).await,
        Err(refusal) => {
            tokio::spawn(linger(body));
            answer::error(&refusal, None)
        }
    };
    if let Ok(id) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert("x-request-id", id);
    }
    if !app.health.is_ready() {
        answer::end_connection(&mut response, parts.version);
    }
    let status = response.status().as_u16();
    tracing::debug!(request_id, status, "request answered");
    app.metrics.request(status);
    app.metrics.request_seconds.observe(started.elapsed().as_secs_f64());
    response
}

/// What a request's header says, decided before a byte of its body is read.
struct Head {
    tenant: Arc<Tenant>,
    slot: Slot,
    ack: Ack,
    encoding: Encoding,
    format: Format,
    idempotency_key: Option<String>,
}

fn head(app: &App, headers: &HeaderMap) -> Result<Head, Refusal> {
    if app.stopping.load(Ordering::Acquire) {
        return Err(Refusal::Draining);
    }
    let token = token(headers).ok_or(Refusal::NoKey)?;
    let unknown = || if app.tenants.is_incomplete() { Refusal::NoTenantsYet } else { Refusal::UnknownKey };
    let tenant = app.tenants.current().authenticate(token).ok_or_else(unknown)?;
    let ack = ack(headers, app.settings.ack)?;
    let encoding = Encoding::parse(text(headers, header::CONTENT_ENCODING.as_str()))?;
    let declared = text(headers, header::CONTENT_LENGTH.as_str()).and_then(|t| t.parse::<u64>().ok());
    let limit = app.settings.request.max_body_bytes.0;
    if let Some(bytes) = declared.filter(|bytes| *bytes > limit) {
        return Err(Refusal::BodyTooLarge { bytes, limit });
    }
    tenant.check_rates(Instant::now()).map_err(|wait| {
        app.metrics.overload(&tenant.name, "rate");
        Refusal::OverRate { wait }
    })?;
    let slot = app
        .queue
        .enter(&tenant.name, declared.unwrap_or(0))
        .inspect_err(|overload| app.metrics.overload(&tenant.name, overload.reason()))?;
    let format = Format::of(text(headers, header::CONTENT_TYPE.as_str()));
    let idempotency_key = text(headers, "idempotency-key").map(str::to_owned);
    Ok(Head { tenant, slot, ack, encoding, format, idempotency_key })
}

async fn handle(app: &Arc<App>, head: Head, body: Body, request_id: &str) -> Response {
    let Head { tenant, slot, ack, encoding, format, idempotency_key } = head;
    let job = ParseJob { app: Arc::clone(app), tenant: Arc::clone(&tenant), format };
    let parsed = match read(app, encoding, slot, body).await {
        Ok((slot, body)) => parse(job, slot, body, request_id).await,
        Err(refusal) => Err(refusal),
    };
    let (slot, admitted, bytes) = match parsed {
        Ok(parsed) => parsed,
        Err(refusal) => {
            if let Refusal::Overload(overload) = &refusal {
                app.metrics.overload(&tenant.name, overload.reason());
            }
            return answer::error(&refusal, None);
        }
    };
    tenant.charge(admitted.received, bytes, Instant::now());
    let tenant = tenant.name.clone();
    let tally = |rejected| Tally { received: admitted.received, bytes, rejected };
    if let Some(foreign) = admitted.foreign.clone() {
        app.buffers.count(&tenant, &tally(vec![("foreign_project", admitted.received)]));
        return answer::error(&foreign.into(), None);
    }
    let tally = tally(admitted.refusals.by_reason.clone());
    if admitted.accepted == 0 {
        app.buffers.count(&tenant, &tally);
        return answer::none_good(&admitted);
    }
    let request = AdmittedRequest {
        tenant: tenant.clone(),
        request_id: request_id.to_owned(),
        idempotency_key,
        ack,
        tally,
        streams: admitted.streams,
        slot,
    };
    let (accepted, refusals) = (admitted.accepted, &admitted.refusals);
    match app.intake.submit(request).await {
        Outcome::Durable => answer::accepted(accepted, refusals, Ack::Durable),
        Outcome::Memory => answer::accepted(accepted, refusals, Ack::Memory),
        Outcome::NotYetDurable => {
            answer::error(&Refusal::NotYetDurable { accepted }, Some((accepted, refusals)))
        }
        Outcome::Failed => answer::error(&Refusal::Internal, None),
        Outcome::Closed => answer::error(&Refusal::Draining, None),
        Outcome::Overloaded(overload) => {
            app.metrics.overload(&tenant, overload.reason());
            answer::error(&overload.into(), None)
        }
    }
}

/// The body, decoded.
async fn read(app: &App, encoding: Encoding, mut slot: Slot, body: Body) -> Result<(Slot, Bytes), Refusal> {
    let limits = &app.settings.request;
    let seconds = limits.read_timeout.get();
    let raw = tokio::time::timeout(seconds, collect(body, &mut slot, limits.max_body_bytes.0))
        .await
        .map_err(|_| Refusal::BodyTooSlow { seconds: seconds.as_secs() })??;
    let limit = limits.max_expanded_bytes.get();
    let packed = raw.len() as u64;
    let decode = move |slot: &mut Slot| -> Result<Bytes, Refusal> {
        let decoded = body::decode(encoding, raw, limit)?;
        slot.grow(packed.max(decoded.len() as u64))?;
        Ok(decoded)
    };
    if encoding == Encoding::Identity {
        let decoded = decode(&mut slot)?;
        return Ok((slot, decoded));
    }
    let (slot, decoded) = apart(&app.heavy, slot, decode).await?;
    Ok((slot, decoded?))
}

/// Does heavy work where it does not keep other requests waiting, when it has its turn. Turn and place in the
/// queue stay with the work: it goes on, and takes its memory, when the request is cancelled meanwhile.
async fn apart<T: Send + 'static>(
    turns: &Arc<Semaphore>,
    mut slot: Slot,
    work: impl FnOnce(&mut Slot) -> T + Send + 'static,
) -> Result<(Slot, T), Refusal> {
    let turn = Arc::clone(turns).acquire_owned().await.map_err(|_| Refusal::Internal)?;
    let work = move || {
        let result = work(&mut slot);
        drop(turn);
        (slot, result)
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| Refusal::Internal)
}

async fn collect(mut body: Body, slot: &mut Slot, limit: u64) -> Result<Bytes, Refusal> {
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Refusal::BodyBrokeOff { message: e.to_string() })?;
        let Ok(data) = frame.into_data() else { continue };
        let bytes = (first.len() + all.len() + data.len()) as u64;
        if bytes > limit {
            tokio::spawn(linger(body));
            return Err(Refusal::BodyTooLarge { bytes, limit });
        }
        if let Err(overload) = slot.grow(bytes) {
            tokio::spawn(linger(body));
            return Err(overload.into());
        }
        // A body that comes in one piece is not copied.
        if first.is_empty() && all.is_empty() {
            first = data;
        } else {
            if all.is_empty() {
                let expected = usize::try_from(http_body::Body::size_hint(&body).lower()).unwrap_or(0);
                all.reserve(first.len() + data.len() + expected.min(limit as usize));
                all.extend_from_slice(&std::mem::take(&mut first));
            }
            all.extend_from_slice(&data);
        }
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}

/// What was admitted, and the size of the body it was read from.
async fn parse(
    job: ParseJob,
    slot: Slot,
    body: Bytes,
    request_id: &str,
) -> Result<(Slot, Admitted, u64), Refusal> {
    let bytes = body.len() as u64;
    if body.len() <= PARSE_INLINE_BYTES {
        let admitted = job.run(&body, request_id)?;
        return Ok((slot, admitted, bytes));
    }
    let turns = Arc::clone(&job.app.heavy);
    let request_id = request_id.to_owned();
    let (slot, admitted) = apart(&turns, slot, move |_| job.run(&body, &request_id)).await?;
    Ok((slot, admitted?, bytes))
}

struct ParseJob {
    app: Arc<App>,
    tenant: Arc<Tenant>,
    format: Format,
}

impl ParseJob {
    fn run(&self, body: &[u8], request_id: &str) -> Result<Admitted, ParseError> {
        let settings = &self.app.settings;
        let max_record_bytes =
            self.tenant.max_record_bytes.unwrap_or(u64::MAX).min(settings.request.max_record_bytes.0);
        let policy = Policy {
            projects: &self.tenant.projects,
            retention_days: self.tenant.retention_days,
            past: settings.timestamp_window.past.get(),
            future: settings.timestamp_window.future.get(),
            max_record_bytes: usize::try_from(max_record_bytes).unwrap_or(usize::MAX),
            max_streams: usize::try_from(settings.queue.max_streams_per_tenant).unwrap_or(usize::MAX),
        };
        let stamp = Stamp { now: UnixNanos::now(), request_id, random: rand::random() };
        let mut admission = Admission::new(policy, stamp, body.len());
        let max_records = usize::try_from(settings.request.max_records).unwrap_or(usize::MAX);
        drain_json::parse(body, self.format, max_records, &mut |record, fault| {
            admission.record(record, fault);
        })?;
        Ok(admission.finish())
    }
}

/// Reads on for a while and throws away what comes.
pub(crate) async fn linger(mut body: Body) {
    let mut bytes = 0;
    let _ = tokio::time::timeout(LINGER, async {
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > LINGER_BYTES {
                return;
            }
        }
    })
    .await;
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// `Authorization: Bearer <key>`, or the key alone as AstraLog's first clients send it.
fn token(headers: &HeaderMap) -> Option<&str> {
    let value = text(headers, header::AUTHORIZATION.as_str())?.trim();
    let token = match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
        _ => value,
    };
    (!token.is_empty()).then_some(token)
}

fn ack(headers: &HeaderMap, default: Ack) -> Result<Ack, Refusal> {
    match headers.get("x-spillway-ack").map(|v| v.as_bytes().to_ascii_lowercase()).as_deref() {
        None => Ok(default),
        Some(b"durable") => Ok(Ack::Durable),
        Some(b"memory") => Ok(Ack::Memory),
        Some(other) => {
            Err(Refusal::BadAck { value: String::from_utf8_lossy(other).chars().take(32).collect() })
        }
    }
}

/// The sender's own, if it can stand in a header and a log line; else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let sent = text(headers, "x-request-id").map(str::trim).filter(|id| {
        !id.is_empty() && id.len() <= MAX_REQUEST_ID_BYTES && id.bytes().all(|b| b.is_ascii_graphic())
    });
    sent.map_or_else(|| uuid::Uuid::now_v7().to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Usage;
    use spillway_model::TenantName;
    use spillway_model::settings::QueueSettings;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        headers
    }

    #[test]
    fn a_key_comes_alone_or_as_a_bearer() {
        for value in ["secret", "Bearer secret", "bearer  secret "] {
            assert_eq!(token(&headers("authorization", value)), Some("secret"), "{value:?}");
        }
        assert_eq!(token(&headers("authorization", "")), None);
        assert_eq!(token(&HeaderMap::new()), None);
    }

    #[test]
    fn a_request_id_that_could_forge_a_log_line_is_replaced() {
        assert_eq!(request_id(&headers("x-request-id", "abc-1")), "abc-1");
        for value in ["", "a b", &"x".repeat(129)] {
            assert_ne!(request_id(&headers("x-request-id", value)), value);
        }
    }

    #[test]
    fn a_request_may_ask_for_its_acknowledgement() {
        assert_eq!(ack(&HeaderMap::new(), Ack::Memory), Ok(Ack::Memory));
        assert_eq!(ack(&headers("x-spillway-ack", "Durable"), Ack::Memory), Ok(Ack::Durable));
        assert!(ack(&headers("x-spillway-ack", "none"), Ack::Memory).is_err());
    }

    #[tokio::test]
    async fn work_of_a_cancelled_request_keeps_its_turn_and_its_place_in_the_queue() {
        let queue = Queue::new(&QueueSettings::default());
        let slot = queue.enter(&TenantName::parse("acme").unwrap(), 100).unwrap();
        let turns = Arc::new(Semaphore::new(1));
        let (begin, begun) = tokio::sync::oneshot::channel();
        let (finish, finished) = std::sync::mpsc::channel();
        let request = tokio::spawn({
            let turns = Arc::clone(&turns);
            async move {
                let work = move |_: &mut Slot| {
                    begin.send(()).unwrap();
                    finished.recv().unwrap();
                };
                apart(&turns, slot, work).await.map(|_| ())
            }
        });
        begun.await.unwrap();
        request.abort();
        assert!(request.await.unwrap_err().is_cancelled());
        assert_eq!((turns.available_permits(), queue.usage()), (0, Usage { bytes: 100, requests: 1 }));
        finish.send(()).unwrap();
        let _turn = turns.acquire().await.unwrap();
        while queue.usage() != Usage::default() {
            tokio::task::yield_now().await;
        }
    }
}
