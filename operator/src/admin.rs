//! Metrics and probes over HTTP.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::{
    Router,
    http::{StatusCode, header},
    response::IntoResponse as _,
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Serves `/metrics`, `/livez` (`/healthz`) and `/readyz` until `stop`. Ready is who can reach the API server: a standby that
/// waits for the Lease is ready.
///
/// # Errors
/// When the listener fails.
pub(crate) async fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    ready: Arc<AtomicBool>,
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
        .route(
            "/readyz",
            get(async move || {
                if ready.load(Ordering::Relaxed) {
                    "ok\n".into_response()
                } else {
                    (StatusCode::SERVICE_UNAVAILABLE, "the API server has not been reached\n").into_response()
                }
            }),
        );
    axum::serve(listener, router).with_graceful_shutdown(async move { stop.cancelled().await }).await
}
