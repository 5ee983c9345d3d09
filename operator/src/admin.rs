//! Metrics and probes over HTTP.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::{
    Router,
    http::{StatusCode, header},
    response::IntoResponse as _,
    routing::get,
};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Whether this process can do its work: it reaches the API server and, while it leads, may see what it looks after. A
/// standby that waits for the Lease is ready.
#[derive(Debug, Default)]
pub(crate) struct Readiness {
    reached: AtomicBool,
    /// Kinds that can't be listed, by scope.
    unlisted: Mutex<BTreeMap<String, String>>,
}

impl Readiness {
    /// The API server has answered.
    pub(crate) fn reached(&self) {
        self.reached.store(true, Ordering::Relaxed);
    }

    /// Nothing is done in `scope` before these `kinds` are listed, and they should be by now.
    pub(crate) fn lacks(&self, scope: &str, kinds: String) {
        self.unlisted.lock().insert(scope.to_owned(), kinds);
    }

    /// All is listed in `scope`.
    pub(crate) fn listed(&self, scope: &str) {
        self.unlisted.lock().remove(scope);
    }

    /// It leads no more.
    pub(crate) fn forget(&self) {
        self.unlisted.lock().clear();
    }

    pub(crate) fn answer(&self) -> (StatusCode, String) {
        if !self.reached.load(Ordering::Relaxed) {
            return (StatusCode::SERVICE_UNAVAILABLE, "the API server has not been reached\n".to_owned());
        }
        let unlisted = self.unlisted.lock();
        if unlisted.is_empty() {
            return (StatusCode::OK, "ok\n".to_owned());
        }
        let lines = unlisted.iter().map(|(scope, kinds)| format!("can't be listed in {scope}: {kinds}\n"));
        (StatusCode::SERVICE_UNAVAILABLE, lines.collect())
    }
}

/// Serves `/metrics`, `/livez` (`/healthz`) and `/readyz` until `stop`.
///
/// # Errors
/// When the listener fails.
pub(crate) async fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let router = Router::new()
        .route(
            "/metrics",
            get(async move || match metrics.text() {
                Some(text) => {
                    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                    ([(header::CONTENT_TYPE, kind)], text).into_response()
                }
                None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            }),
        )
        .route("/livez", get(async || "ok\n"))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(async move || readiness.answer()));
    axum::serve(listener, router).with_graceful_shutdown(async move { stop.cancelled().await }).await
}
