//! An HTTP proxy that misbehaves on command: in front of S3 or of ClickHouse, one per direction of trouble.
//!
//! Without a rule it passes requests through unchanged (the Host header too, which S3's signatures cover).
//! Each rule says which requests it is for and what happens to them instead; the first that fits is used.

mod rule;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub use rule::{Action, Gate, Reply, Rule};

/// How long a test waits for a request that a rule is for.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// One request that came through.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: Method,
    /// Path and query as sent.
    pub target: String,
    /// The name of the action that a rule took; `None`: passed through.
    pub tampered: Option<&'static str>,
}

pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

struct State {
    upstream: String,
    rules: Mutex<Vec<Arc<Rule>>>,
    seen: Mutex<Vec<Seen>>,
    client: Client<HttpConnector, UnsyncBoxBody<Bytes, Infallible>>,
}

impl Proxy {
    /// Listens on a free port and passes on to `127.0.0.1:<port>`.
    pub async fn start(upstream_port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let client = Client::builder(TokioExecutor::new())
            // A connection of its own for each request: nothing is lost, or sent twice, by reuse.
            .pool_max_idle_per_host(0)
            .retry_canceled_requests(false)
            .build_http();
        let state = Arc::new(State {
            upstream: format!("127.0.0.1:{upstream_port}"),
            rules: Mutex::default(),
            seen: Mutex::default(),
            client,
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&state)));
        Self { address, state, accepting }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on; rules that were added earlier come first.
    pub fn add(&self, rule: Rule) -> Arc<Rule> {
        let rule = Arc::new(rule);
        self.state.rules.lock().push(Arc::clone(&rule));
        rule
    }

    /// Passes everything through again. What is held by a [`Gate`] stays held.
    pub fn behave(&self) {
        self.state.rules.lock().clear();
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        stream.set_nodelay(true).ok();
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let service = service_fn(move |request| serve(request, Arc::clone(&state)));
            http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
        });
    }
}

/// Ends the connection without an answer.
#[derive(Debug)]
struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cut on command")
    }
}

impl std::error::Error for Cut {}

type Answer = Response<Full<Bytes>>;

async fn serve(request: Request<Incoming>, state: Arc<State>) -> Result<Answer, Cut> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
    let request = Request::from_parts(head, body);
    let target = request.uri().path_and_query().map(|target| target.to_string()).unwrap_or_default();
    let rule =
        state.rules.lock().iter().find(|rule| rule.fits(request.method(), &target, request.body())).cloned();
    state.seen.lock().push(Seen {
        method: request.method().clone(),
        target,
        tampered: rule.as_ref().map(|rule| rule.action.name()),
    });
    match rule {
        None => forward(&state, request).await,
        Some(rule) => tamper(&state, request, &rule.action).await,
    }
}

async fn tamper(state: &Arc<State>, request: Request<Bytes>, action: &Action) -> Result<Answer, Cut> {
    match action {
        Action::AnswerBefore(reply) => Ok(reply.to_response()),
        Action::AnswerAfter(reply) => {
            forward(state, request).await?;
            Ok(reply.to_response())
        }
        Action::CutBefore => Err(Cut),
        Action::CutAfter => {
            forward(state, request).await?;
            Err(Cut)
        }
        Action::HangBefore => std::future::pending().await,
        Action::HangAfter => {
            forward(state, request).await?;
            std::future::pending().await
        }
        Action::HoldRequest(gate) => {
            // On its own: it goes on after the client has given up, as a request in some network buffer does.
            let (state, gate) = (Arc::clone(state), gate.clone());
            let late = tokio::spawn(async move {
                gate.arrive().await;
                forward(&state, request).await
            });
            late.await.unwrap_or(Err(Cut))
        }
        Action::HoldAnswer(gate) => {
            let answer = forward(state, request).await;
            gate.arrive().await;
            answer
        }
        Action::HoldHalf(gate) => {
            let (state, gate) = (Arc::clone(state), gate.clone());
            let late = tokio::spawn(async move { forward_in_halves(&state, request, gate).await });
            late.await.unwrap_or(Err(Cut))
        }
        Action::Delay(delay) => {
            tokio::time::sleep(*delay).await;
            forward(state, request).await
        }
        Action::ReplaceHeader(name, value) => {
            let mut answer = forward(state, request).await?;
            answer.headers_mut().insert(*name, value.parse().expect("a header's value"));
            Ok(answer)
        }
    }
}

async fn forward(state: &State, request: Request<Bytes>) -> Result<Answer, Cut> {
    send(state, request.map(|body| Full::new(body).boxed_unsync())).await
}

/// Sends the head and half of the body, then waits for the gate with the rest.
async fn forward_in_halves(state: &State, request: Request<Bytes>, gate: Gate) -> Result<Answer, Cut> {
    let (head, mut body) = request.into_parts();
    let first = body.split_to(body.len() / 2);
    let parts = futures::stream::unfold((Some(first), Some(body), gate), |(first, rest, gate)| async move {
        match (first, rest) {
            (Some(first), rest) => Some((Ok(Frame::data(first)), (None, rest, gate))),
            (None, Some(rest)) => {
                gate.arrive().await;
                Some((Ok(Frame::data(rest)), (None, None, gate)))
            }
            (None, None) => None,
        }
    });
    // The request keeps its Content-Length, so the server knows that something is missing.
    send(state, Request::from_parts(head, BodyExt::boxed_unsync(StreamBody::new(parts)))).await
}

async fn send(state: &State, mut request: Request<UnsyncBoxBody<Bytes, Infallible>>) -> Result<Answer, Cut> {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str()).to_owned();
    *request.uri_mut() =
        format!("http://{}{target}", state.upstream).parse::<Uri>().expect("it was a target before");
    let answer = state.client.request(request).await.map_err(|_| Cut)?;
    let (head, body) = answer.into_parts();
    let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
    Ok(Response::from_parts(head, Full::new(body)))
}

impl Reply {
    fn to_response(&self) -> Answer {
        let mut response = Response::new(Full::new(Bytes::from(self.body.clone())));
        *response.status_mut() = StatusCode::from_u16(self.status).expect("a status");
        for (name, value) in &self.headers {
            response.headers_mut().insert(*name, value.parse().expect("a header's value"));
        }
        response
    }
}
