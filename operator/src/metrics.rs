//! Prometheus metrics of the operator, listed in docs/operator.md.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use prometheus_client::{
    encoding::text::encode,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

type Labels = Vec<(&'static str, String)>;

#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    reconciles: Family<Labels, Counter>,
    seconds: Histogram,
    requests: Family<Labels, Counter>,
    writes: Family<Labels, Counter>,
    pub(crate) leading: Gauge,
    pub(crate) pipelines: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut all = Self {
            registry: Registry::default(),
            reconciles: Family::default(),
            seconds: Histogram::new(exponential_buckets(0.001, 2.0, 18)),
            requests: Family::default(),
            writes: Family::default(),
            leading: Gauge::default(),
            pipelines: Gauge::default(),
        };
        let registry = all.registry.sub_registry_with_prefix("spillway_operator");
        registry.register(
            "reconciles",
            "Reconciles by result and, of failed ones, step and reason",
            all.reconciles.clone(),
        );
        registry.register_with_unit("reconcile", "Time of a reconcile", Unit::Seconds, all.seconds.clone());
        registry.register("api_requests", "Requests to the API server by method", all.requests.clone());
        registry.register(
            "writes",
            "Objects applied, deleted or touched, and statuses written, by kind",
            all.writes.clone(),
        );
        registry.register("leading", "1 while this process leads", all.leading.clone());
        registry.register("pipelines", "LogPipelines that there are", all.pipelines.clone());
        all
    }
}

impl Metrics {
    pub(crate) fn reconciled(&self, took: Duration, failed: Option<(&'static str, &str)>) {
        self.seconds.observe(took.as_secs_f64());
        let (result, step, reason) = match failed {
            None => ("ok", "", ""),
            Some((step, reason)) => ("failed", step, reason),
        };
        let labels =
            vec![("result", result.to_owned()), ("step", step.to_owned()), ("reason", reason.to_owned())];
        self.reconciles.get_or_create(&labels).inc();
    }

    pub(crate) fn wrote(&self, kind: &str, verb: &'static str) {
        self.writes.get_or_create(&vec![("kind", kind.to_owned()), ("verb", verb.to_owned())]).inc();
    }

    /// OpenMetrics text.
    pub(crate) fn text(&self) -> Option<String> {
        let mut text = String::new();
        encode(&mut text, &self.registry).ok().map(|()| text)
    }
}

/// Counts what goes to the API server.
#[derive(Clone)]
pub(crate) struct Counted<S> {
    inner: S,
    metrics: Arc<Metrics>,
}

impl<S> Counted<S> {
    pub(crate) fn new(inner: S, metrics: Arc<Metrics>) -> Self {
        Self { inner, metrics }
    }
}

impl<S, A, B> tower::Service<Request<A>> for Counted<S>
where
    S: tower::Service<Request<A>, Response = Response<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
        let method = if watch { "WATCH" } else { request.method().as_str() };
        self.metrics.requests.get_or_create(&vec![("method", method.to_owned())]).inc();
        self.inner.call(request)
    }
}
