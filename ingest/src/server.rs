//! Accepts connections until told to stop, and lets those that are there finish.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use http::{HeaderValue, Request, header};
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

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
/// under way have `finish` to be answered. True when all were. Without `secure` it speaks in clear text.
pub(crate) async fn serve(
    listener: TcpListener,
    secure: Option<Secure>,
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
    let connections = GracefulShutdown::new();
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
        let (builder, watcher) = (Arc::clone(&builder), connections.watcher());
        let asked = Asked { peer, at_all: Arc::new(AtomicBool::new(false)), service: service.clone() };
        match &secure {
            None => tokio::spawn(async move { attend(stream, &builder, asked, watcher).await }),
            Some(secure) => {
                let (secure, stop) = (Arc::clone(secure), stop.clone());
                tokio::spawn(async move {
                    let stream = tokio::select! {
                        // Nothing was asked yet: whoever it is finds another server.
                        () = stop.cancelled() => return,
                        stream = secure.shake(stream, peer, &builder) => stream,
                    };
                    if let Some(stream) = stream {
                        attend(stream, &builder, asked, watcher).await;
                    }
                })
            }
        };
    }
    drop(listener);
    tokio::time::timeout(finish, connections.shutdown()).await.is_ok()
}

/// Serves one connection to its end.
async fn attend(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    builder: &Builder,
    asked: Asked,
    watcher: Watcher,
) {
    let at_all = Arc::clone(&asked.at_all);
    let connection = watcher.watch(builder.serve_connection(TokioIo::new(stream), asked).into_owned());
    tokio::select! {
        // A connection that breaks is its client's to report.
        _ = connection => {}
        // Neither the choice between HTTP/1 and HTTP/2 nor the latter's first frames have a timeout.
        () = never_asks(&at_all) => {}
    }
}

async fn never_asks(asked: &AtomicBool) {
    tokio::time::sleep(HEADER_TIMEOUT).await;
    if asked.load(Ordering::Relaxed) {
        std::future::pending().await
    }
}

/// Says with each request who asks, and that somebody has asked.
#[derive(Clone)]
struct Asked {
    peer: SocketAddr,
    at_all: Arc<AtomicBool>,
    service: TowerToHyperService<Router>,
}

impl Service<Request<Incoming>> for Asked {
    type Response = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Response;
    type Error = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Error;
    type Future = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        self.at_all.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(ConnectInfo(self.peer));
        self.service.call(request)
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
