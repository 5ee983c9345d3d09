//! How long connections last, and that no request is lost when they end.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::{Fault, Ingest, KEY, logs, record, settings, until};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Body, Frame};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{HttpConnector, HttpInfo};
use hyper_util::rt::{TokioExecutor, TokioIo};
use spillway_model::settings::Span;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};

const AGE: Duration = Duration::from_millis(200);
/// Older than any connection may become, whatever its jitter.
const LATER: Duration = Duration::from_millis(400);
const SENDERS: usize = 8;

async fn start(age: Duration) -> Arc<Ingest> {
    let mut settings = settings();
    settings.max_connection_age = Span(age);
    Arc::new(Ingest::start(settings).await)
}

fn one(message: &str) -> String {
    logs(&[record("shop", "api", message)])
}

async fn dial(ingest: &Ingest) -> TcpStream {
    TcpStream::connect(ingest.url.trim_start_matches("http://")).await.unwrap()
}

/// A connection of HTTP/1.1 that repeats nothing.
struct Kept {
    stream: BufReader<TcpStream>,
    since: Instant,
}

impl Kept {
    async fn dial(ingest: &Ingest) -> Self {
        let since = Instant::now();
        Self { stream: BufReader::new(dial(ingest).await), since }
    }

    /// Has the record taken; true when the answer says that it is the last one.
    async fn send(&mut self, message: &str) -> bool {
        let body = one(message);
        let head = format!("POST /v1/drain HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n");
        let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
        self.stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(
                self.stream.read_line(&mut head).await.unwrap(),
                0,
                "closed without an answer: {head}"
            );
        }
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let head = head.to_lowercase();
        let (_, length) = head.split_once("content-length: ").unwrap();
        let length = length.split("\r\n").next().unwrap().parse().unwrap();
        self.stream.read_exact(&mut vec![0; length]).await.unwrap();
        head.contains("\r\nconnection: close\r\n")
    }

    async fn assert_closed(&mut self) {
        let end = tokio::time::timeout(Duration::from_secs(5), self.stream.read(&mut [0])).await;
        assert_eq!(end.expect("still open").unwrap(), 0);
    }
}

/// A connection of HTTP/2; it ends only when the server says so, as long as its first part is there.
async fn dial_http2<B>(ingest: &Ingest) -> (SendRequest<B>, JoinHandle<hyper::Result<()>>)
where
    B: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    let io = TokioIo::new(dial(ingest).await);
    let (requests, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    (requests, tokio::spawn(connection))
}

async fn assert_ended(connection: JoinHandle<hyper::Result<()>>) {
    let end = tokio::time::timeout(Duration::from_secs(5), connection).await.expect("still open");
    end.unwrap().expect("an end in good order");
}

fn request(ingest: &Ingest, message: &str) -> Request<Full<Bytes>> {
    request_of(ingest, one(message).into())
}

fn request_of<B>(ingest: &Ingest, body: B) -> Request<B> {
    let request = Request::post(format!("{}/v1/drain", ingest.url)).header("authorization", KEY);
    request.body(body).unwrap()
}

/// What one sender sends under load: many messages, and for several connections' time.
struct Load {
    name: String,
    started: Instant,
    sent: Vec<String>,
}

impl Load {
    fn new(name: String) -> Self {
        Self { name, started: Instant::now(), sent: Vec::new() }
    }

    fn next(&mut self) -> Option<String> {
        if self.sent.len() >= 50 && self.started.elapsed() >= 5 * AGE {
            return None;
        }
        self.sent.push(format!("{}-{}", self.name, self.sent.len()));
        self.sent.last().cloned()
    }
}

/// That everything sent is in the bucket, and once.
fn assert_stored(ingest: &Ingest, sent: impl IntoIterator<Item = Vec<String>>) {
    let mut sent: Vec<_> = sent.into_iter().flatten().collect();
    sent.sort();
    assert!(sent.len() >= 50 * SENDERS, "{}", sent.len());
    assert_eq!(ingest.bucket.messages(), sent);
}

#[tokio::test]
async fn an_old_connection_of_http_1_ends_with_an_answer_that_says_so_and_not_before() {
    let ingest = start(AGE).await;
    let (mut used, mut fresh) = (Kept::dial(&ingest).await, Kept::dial(&ingest).await);
    used.send("young").await;
    tokio::time::sleep(LATER).await;
    // Neither was closed under its next request, nor under its first.
    for kept in [&mut used, &mut fresh] {
        assert!(kept.send("old").await, "the answer does not say that it is the last one");
        kept.assert_closed().await;
    }
}

#[tokio::test]
async fn no_request_of_http_1_is_lost_under_load_while_connections_end() {
    let ingest = start(AGE).await;
    let mut senders = JoinSet::new();
    for sender in 0..SENDERS {
        let (there, mut load) = (Arc::clone(&ingest), Load::new(format!("kept-{sender}")));
        senders.spawn(async move {
            let (mut kept, mut ended) = (Kept::dial(&there).await, 0);
            while let Some(message) = load.next() {
                if kept.send(&message).await {
                    assert!(kept.since.elapsed() >= AGE.mul_f64(0.9), "{:?}", kept.since.elapsed());
                    kept.assert_closed().await;
                    kept = Kept::dial(&there).await;
                    ended += 1;
                }
            }
            assert!(ended >= 2, "{ended}");
            load.sent
        });
        // Through the client of `spillway send`.
        let (there, mut load) = (Arc::clone(&ingest), Load::new(format!("pool-{sender}")));
        senders.spawn(async move {
            while let Some(message) = load.next() {
                assert_eq!(there.send(one(&message)).await.0, 200);
            }
            load.sent
        });
    }
    assert_stored(&ingest, senders.join_all().await);
}

#[tokio::test]
async fn no_request_of_http_2_is_lost_under_load_while_connections_end() {
    let ingest = start(AGE).await;
    // One connection for all senders, and another as soon as it is told to go away.
    let client: Client<HttpConnector, Full<Bytes>> =
        Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let mut senders = JoinSet::new();
    for sender in 0..SENDERS {
        let (ingest, client) = (Arc::clone(&ingest), client.clone());
        let mut load = Load::new(format!("h2-{sender}"));
        senders.spawn(async move {
            let mut connections = BTreeSet::new();
            while let Some(message) = load.next() {
                let answer = client.request(request(&ingest, &message)).await.unwrap();
                assert_eq!(answer.status(), 200);
                connections.insert(answer.extensions().get::<HttpInfo>().unwrap().local_addr());
                answer.into_body().collect().await.unwrap();
            }
            (load.sent, connections)
        });
    }
    let (sent, connections): (Vec<_>, Vec<_>) = senders.join_all().await.into_iter().unzip();
    assert_stored(&ingest, sent);
    let connections: BTreeSet<SocketAddr> = connections.into_iter().flatten().collect();
    assert!(connections.len() >= 3, "{connections:?}");
}

#[tokio::test]
async fn an_old_connection_of_http_2_takes_nothing_new_and_answers_what_is_under_way() {
    let ingest = start(AGE).await;
    let (mut requests, _connection) = dial_http2(&ingest).await;
    ingest.bucket.fails(Fault::Unavailable);
    let under_way = tokio::spawn(requests.send_request(request(&ingest, "under way")));
    until("it is under way", async || !ingest.bucket.attempts.lock().is_empty()).await;
    tokio::time::sleep(LATER).await;
    let refused = requests.send_request(request(&ingest, "too late")).await.unwrap_err();
    assert!(refused.is_canceled(), "not sent, since the connection goes away: {refused:?}");
    assert!(!under_way.is_finished());
    ingest.bucket.works();
    assert_eq!(under_way.await.unwrap().unwrap().status(), 200);
    assert_eq!(ingest.bucket.messages(), ["under way"]);
}

#[tokio::test]
async fn a_connection_of_http_2_that_asks_late_is_answered_and_then_ends() {
    let ingest = start(AGE).await;
    let (mut requests, connection) = dial_http2(&ingest).await;
    tokio::time::sleep(LATER).await;
    assert!(!connection.is_finished());
    assert_eq!(requests.send_request(request(&ingest, "late")).await.unwrap().status(), 200);
    assert_ended(connection).await;
}

#[tokio::test]
async fn a_body_that_never_ends_does_not_keep_an_old_connection_of_http_2() {
    let mut settings = settings();
    settings.max_connection_age = Span(AGE);
    settings.request.read_timeout = Span(LATER);
    let ingest = Ingest::start(settings).await;
    let (mut requests, connection) = dial_http2(&ingest).await;
    let endless = StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, Infallible>>());
    assert_eq!(requests.send_request(request_of(&ingest, endless)).await.unwrap().status(), 408);
    assert_ended(connection).await;
}

#[tokio::test]
async fn without_a_bound_connections_stay() {
    let ingest = start(Duration::ZERO).await;
    let mut kept = Kept::dial(&ingest).await;
    let (mut requests, connection) = dial_http2(&ingest).await;
    for message in ["first", "second"] {
        assert!(!kept.send(message).await, "the connection is to be closed");
        assert_eq!(requests.send_request(request(&ingest, message)).await.unwrap().status(), 200);
        tokio::time::sleep(LATER).await;
    }
    assert!(!connection.is_finished());
}
