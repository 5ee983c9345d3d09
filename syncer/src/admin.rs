//! Metrics and probes over HTTP.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Serves `/metrics`, `/livez` (also as `/healthz`) and `/readyz` until `stop`. One that stands by for the Lease is
/// ready: it does all that is asked of it.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let ready = Arc::new(AtomicBool::new(true));
    let draining = ready.clone();
    let stopping = stop.clone();
    tokio::spawn(async move {
        stopping.cancelled().await;
        draining.store(false, Ordering::Relaxed);
    });
    let router = Router::new()
        .route(
            "/metrics",
            get(async |State(metrics): State<Arc<Metrics>>| {
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                ([(header::CONTENT_TYPE, kind)], metrics.text())
            }),
        )
        .with_state(metrics)
        .route("/livez", get(async || "ok\n"))
        .route("/healthz", get(async || "ok\n"))
        .route(
            "/readyz",
            get(async move || {
                if ready.load(Ordering::Relaxed) {
                    "ok\n".into_response()
                } else {
                    (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response()
                }
            }),
        );
    axum::serve(listener, router).with_graceful_shutdown(async move { stop.cancelled().await }).await
}
