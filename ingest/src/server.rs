//! Accepts connections until told to stop, and lets those that are there finish.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use futures::future::BoxFuture;
use http::{HeaderValue, Request, Response, Version, header};
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::age::Age;
use crate::answer::{self, Refusal};
use crate::http::linger;
use crate::metrics::Metrics;
use crate::tls::{HandshakeError, Handshakes, UnderWay};

/// For a request's header to arrive, between requests of one connection, and until its first one.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);
/// For a request in clear text to be told that it must not be.
const CLEAR_TEXT_TIMEOUT: Duration = Duration::from_secs(5);

type Builder = auto::Builder<TokioExecutor>;

/// TLS for a port.
pub(crate) struct Secure {
    pub(crate) handshakes: Handshakes,
    pub(crate) metrics: Arc<Metrics>,
}

/// Serves until `stop`; then no connection is accepted, HTTP/2 peers are told to go away, and the requests
/// under way have `finish` to be answered. True when all were. Without `secure` it speaks in clear text. A
/// connection older than `max_age` is ended in good order; 0: none is.
pub(crate) async fn serve(
    listener: TcpListener,
    secure: Option<Secure>,
    max_age: Duration,
    router: Router,
    stop: CancellationToken,
    finish: Duration,
) -> bool {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(Duration::from_secs(20));
    let (builder, secure) = (Arc::new(builder), secure.map(Arc::new));
    let service = TowerToHyperService::new(router);
    let connections = TaskTracker::new();
    loop {
        let (stream, peer) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: some are free again when connections end.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let _ = stream.set_nodelay(true);
        let (builder, service, stop) = (Arc::clone(&builder), service.clone(), stop.clone());
        let caller = Caller::new(peer, max_age);
        match &secure {
            None => connections.spawn(async move { attend(stream, &builder, caller, service, &stop).await }),
            Some(secure) => {
                let secure = Arc::clone(secure);
                connections.spawn(async move {
                    let stream = tokio::select! {
                        // Nothing was asked yet: whoever it is finds another server.
                        () = stop.cancelled() => return,
                        stream = secure.shake(stream, peer, &builder) => stream,
                    };
                    if let Some(stream) = stream {
                        attend(stream, &builder, caller, service, &stop).await;
                    }
                })
            }
        };
    }
    drop(listener);
    connections.close();
    tokio::time::timeout(finish, connections.wait()).await.is_ok()
}

/// Serves one connection to its end.
async fn attend(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    builder: &Builder,
    caller: Caller,
    service: TowerToHyperService<Router>,
    stop: &CancellationToken,
) {
    let caller = Arc::new(caller);
    let asked = Asked { caller: Arc::clone(&caller), service };
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), asked));
    let mut never_asks = pin!(caller.never_asks());
    tokio::select! {
        // A connection that breaks is its client's to report.
        _ = connection.as_mut() => return,
        // Neither the choice between HTTP/1 and HTTP/2 nor the latter's first frames have a timeout.
        () = never_asks.as_mut() => return,
        () = caller.is_old_in_http2() => {}
        () = stop.cancelled() => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        _ = connection => {}
        () = never_asks => {}
    }
}

/// Who is at the other end.
struct Caller {
    peer: SocketAddr,
    age: Age,
    /// Of the first request: before it nobody knows.
    version: OnceLock<Version>,
    has_asked: Notify,
}

impl Caller {
    fn new(peer: SocketAddr, max_age: Duration) -> Self {
        Self { peer, age: Age::new(max_age), version: OnceLock::new(), has_asked: Notify::new() }
    }

    fn asks_in(&self, version: Version) {
        if self.version.set(version).is_ok() {
            self.has_asked.notify_one();
        }
    }

    /// Ends when no request has come for as long as a header may take.
    async fn never_asks(&self) {
        tokio::time::sleep(HEADER_TIMEOUT).await;
        if self.version.get().is_some() {
            std::future::pending().await
        }
    }

    /// Ends when an HTTP/2 connection has reached its age. One that has not asked so far is left alone: it may turn
    /// out to speak HTTP/1, and would be closed under its first request.
    async fn is_old_in_http2(&self) {
        self.age.over().await;
        self.has_asked.notified().await;
        if self.version.get() != Some(&Version::HTTP_2) {
            std::future::pending().await
        }
    }
}

/// Says with each request who asks.
struct Asked {
    caller: Arc<Caller>,
    service: TowerToHyperService<Router>,
}

impl Service<Request<Incoming>> for Asked {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let version = request.version();
        self.caller.asks_in(version);
        request.extensions_mut().insert(ConnectInfo(self.caller.peer));
        let (caller, answer) = (Arc::clone(&self.caller), self.service.call(request));
        Box::pin(async move {
            let mut answer = answer.await?;
            if caller.age.is_over() {
                answer::end_connection(&mut answer, version);
            }
            Ok(answer)
        })
    }
}

impl Secure {
    /// None when it came to nothing; then it is counted.
    async fn shake(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        builder: &Builder,
    ) -> Option<TlsStream<TcpStream>> {
        let error = match self.handshakes.accept(stream).await {
            Ok(stream) => return Some(stream),
            Err(HandshakeError::Closed) => return None,
            Err(error) => error,
        };
        tracing::debug!(%peer, %error, "no TLS connection");
        self.metrics.handshake_failed(error.reason());
        if let HandshakeError::ClearText(stream, place) = error {
            refuse_clear_text(stream, &place, builder).await;
        }
        None
    }
}

/// Answers in the language that was spoken.
async fn refuse_clear_text(stream: TcpStream, place: &UnderWay, builder: &Builder) {
    let refuse = service_fn(|request: Request<Incoming>| async {
        tokio::spawn(linger(Body::new(request.into_body())));
        let mut answer = answer::error(&Refusal::ClearText, None);
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        Ok::<_, Infallible>(answer)
    });
    tokio::select! {
        _ = builder.serve_connection(TokioIo::new(stream), refuse) => {}
        () = place.gave_way() => {}
        () = tokio::time::sleep(CLEAR_TEXT_TIMEOUT) => {}
    }
}
