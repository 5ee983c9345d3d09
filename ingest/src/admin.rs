//! Probes, metrics and `/drain`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{ConnectInfo, State};
use axum::response::IntoResponse as _;
use axum::routing::get;
use http::{StatusCode, header};
use parking_lot::Mutex;

use crate::answer::Response;
use crate::http::App;
use crate::stage::Stager;

/// A flusher that has not looked at the buffers for so long is stuck: it looks every second.
const STUCK: Duration = Duration::from_secs(30);

/// What probes ask.
pub(crate) struct Health {
    stager: Arc<Stager>,
    ready: AtomicBool,
    /// When readiness went off.
    unready_since: Mutex<Option<Instant>>,
}

impl Health {
    pub(crate) fn new(stager: Arc<Stager>) -> Self {
        Self { stager, ready: AtomicBool::new(true), unready_since: Mutex::new(None) }
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Turns readiness off for good; when that was first done.
    pub(crate) fn unready(&self) -> Instant {
        self.ready.store(false, Ordering::Release);
        *self.unready_since.lock().get_or_insert_with(Instant::now)
    }
}

/// The routes of the admin port.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/health", get(health))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/drain", get(drain).post(drain))
        .with_state(app)
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    match app.metrics.text() {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn state(good: bool, yes: &'static str, no: &'static str) -> Response {
    if good { (StatusCode::OK, yes) } else { (StatusCode::SERVICE_UNAVAILABLE, no) }.into_response()
}

/// For people and for clients of AstraLog.
pub(crate) async fn health(State(app): State<Arc<App>>) -> Response {
    let ready = app.health.is_ready();
    let (status, body) = if ready {
        (StatusCode::OK, r#"{"status":"ok"}"#)
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, r#"{"status":"draining"}"#)
    };
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// Alive is who still moves rows, not who still answers HTTP.
pub(crate) async fn livez(State(app): State<Arc<App>>) -> Response {
    state(app.health.stager.silence(Instant::now()) < STUCK, "ok\n", "the flusher is stuck\n")
}

pub(crate) async fn readyz(State(app): State<Arc<App>>) -> Response {
    state(app.health.is_ready(), "ok\n", "draining\n")
}

/// Called before the process is told to stop: takes it out of the load balancers and answers when they had
/// time to notice. Requests are taken all the while.
async fn drain(State(app): State<Arc<App>>, ConnectInfo(peer): ConnectInfo<SocketAddr>) -> Response {
    if !may_drain(peer.ip()) {
        tracing::warn!(%peer, "a call of /drain from elsewhere was refused");
        let why =
            "/drain answers this machine alone: call it on 127.0.0.1, as `spillway-ingest drain` does\n";
        return (StatusCode::FORBIDDEN, why).into_response();
    }
    let since = app.health.unready();
    let until = since + app.settings.drain.readiness_delay.get();
    tokio::time::sleep_until(until.into()).await;
    (StatusCode::OK, "drained of new connections; stop the process now\n").into_response()
}

/// Only who is in the pod: in a cluster everybody else could take all pods out of service. Not all of
/// 127.0.0.0/8, from where the proxies of service meshes hand on what others sent.
fn may_drain(peer: IpAddr) -> bool {
    match peer.to_canonical() {
        IpAddr::V4(ip) => ip == Ipv4Addr::LOCALHOST,
        IpAddr::V6(ip) => ip == Ipv6Addr::LOCALHOST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_pod_itself_may_drain_it() {
        for good in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert!(may_drain(good.parse().unwrap()), "{good}");
        }
        for bad in ["127.0.0.6", "10.0.0.7", "0.0.0.0", "::", "fe80::1", "::ffff:10.0.0.7"] {
            assert!(!may_drain(bad.parse().unwrap()), "{bad}");
        }
    }
}
