//! Prometheus metrics. What happens to records is read from the books at each scrape, so that one scrape
//! shows one moment and the identity `received = rejected + staged + buffered + in flight + lost` holds.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use spillway_model::TenantName;

use crate::books::Places;
use crate::buffers::Buffers;
use crate::queue::Queue;

type Labels = Vec<(&'static str, String)>;

/// All metrics of one ingest process.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Labels, Counter>,
    overloads: Family<Labels, Counter>,
    puts: Family<Labels, Counter>,
    objects: Family<Labels, Counter>,
    object_bytes: Counter,
    pub(crate) request_seconds: Histogram,
    pub(crate) stage_seconds: Histogram,
    pub(crate) encode_seconds: Histogram,
    pub(crate) put_seconds: Histogram,
    pub(crate) tenants_reload_failures: Counter,
    pub(crate) tenants: Gauge,
    pub(crate) draining: Gauge,
    /// One without labels, and none in clear text: a 0 would look like 1970.
    tls_not_after: Family<Labels, Gauge>,
    pub(crate) tls_reload_failures: Counter,
    tls_handshake_failures: Family<Labels, Counter>,
}

impl Metrics {
    pub(crate) fn new(buffers: Arc<Buffers>, queue: Arc<Queue>) -> Self {
        // From half a millisecond to half a minute.
        let seconds = || Histogram::new(exponential_buckets(0.000_5, 2.0, 17));
        let mut all = Self {
            registry: Registry::default(),
            requests: Family::default(),
            overloads: Family::default(),
            puts: Family::default(),
            objects: Family::default(),
            object_bytes: Counter::default(),
            request_seconds: seconds(),
            stage_seconds: seconds(),
            encode_seconds: seconds(),
            put_seconds: seconds(),
            tenants_reload_failures: Counter::default(),
            tenants: Gauge::default(),
            draining: Gauge::default(),
            tls_not_after: Family::default(),
            tls_reload_failures: Counter::default(),
            tls_handshake_failures: Family::default(),
        };
        let mut root = Registry::default();
        let r = root.sub_registry_with_prefix("spillway_ingest");
        r.register("requests", "Requests by answer", all.requests.clone());
        r.register(
            "overloads",
            "Requests refused for want of room, by tenant and bound",
            all.overloads.clone(),
        );
        r.register("puts", "PUT attempts by outcome", all.puts.clone());
        r.register("objects", "Objects staged, of one stream or packed", all.objects.clone());
        r.register_with_unit(
            "staged_objects",
            "Bytes of staged objects",
            Unit::Bytes,
            all.object_bytes.clone(),
        );
        r.register_with_unit(
            "request",
            "From a request's header to its answer",
            Unit::Seconds,
            all.request_seconds.clone(),
        );
        r.register_with_unit(
            "stage",
            "From buffering an object's oldest record to the object in the bucket",
            Unit::Seconds,
            all.stage_seconds.clone(),
        );
        r.register_with_unit("encode", "Encoding one object", Unit::Seconds, all.encode_seconds.clone());
        r.register_with_unit("put", "One PUT attempt", Unit::Seconds, all.put_seconds.clone());
        r.register(
            "tenants_reload_failures",
            "Times the tenants file could not be used",
            all.tenants_reload_failures.clone(),
        );
        r.register("tenants", "Tenants known", all.tenants.clone());
        r.register("draining", "1 once the process was told to stop", all.draining.clone());
        r.register_with_unit(
            "tls_not_after",
            "When the certificate that is shown ends, since 1970",
            Unit::Seconds,
            all.tls_not_after.clone(),
        );
        r.register(
            "tls_reload_failures",
            "Times the certificate's files could not be used",
            all.tls_reload_failures.clone(),
        );
        r.register(
            "tls_handshake_failures",
            "Connections that did not become TLS, by reason",
            all.tls_handshake_failures.clone(),
        );
        root.register_collector(Box::new(Live { buffers, queue }));
        all.registry = root;
        all
    }

    pub(crate) fn request(&self, status: u16) {
        self.requests.get_or_create(&vec![("code", status.to_string())]).inc();
    }

    pub(crate) fn overload(&self, tenant: &TenantName, reason: &'static str) {
        let labels = vec![("tenant", tenant.to_string()), ("reason", reason.to_owned())];
        self.overloads.get_or_create(&labels).inc();
    }

    pub(crate) fn put(&self, outcome: &'static str) {
        self.puts.get_or_create(&vec![("outcome", outcome.to_owned())]).inc();
    }

    pub(crate) fn object(&self, packed: bool, bytes: u64) {
        let kind = if packed { "packed" } else { "stream" };
        self.objects.get_or_create(&vec![("kind", kind.to_owned())]).inc();
        self.object_bytes.inc_by(bytes);
    }

    pub(crate) fn certificate(&self, not_after: Option<i64>) {
        match not_after {
            Some(seconds) => {
                self.tls_not_after.get_or_create(&vec![]).set(seconds);
            }
            None => self.tls_not_after.clear(),
        }
    }

    pub(crate) fn handshake_failed(&self, reason: &'static str) {
        self.tls_handshake_failures.get_or_create(&vec![("reason", reason.to_owned())]).inc();
    }

    /// The text of `/metrics`.
    pub(crate) fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// What is read at each scrape.
struct Live {
    buffers: Arc<Buffers>,
    queue: Arc<Queue>,
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Live")
    }
}

struct Writer<'a> {
    encoder: DescriptorEncoder<'a>,
}

impl Writer<'_> {
    fn counters(&mut self, name: &str, help: &str, values: Vec<(Labels, u64)>) -> fmt::Result {
        let mut metric = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in values {
            ConstCounter::new(value).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn gauges(&mut self, name: &str, help: &str, values: Vec<(Labels, u64)>) -> fmt::Result {
        let mut metric = self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            ConstGauge::new(value as i64).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let gauge = ConstGauge::new(value);
        let metric = self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        gauge.encode(metric)
    }
}

impl Collector for Live {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let snapshot = self.buffers.snapshot(Instant::now());
        let usage = self.queue.usage();
        let books = &snapshot.books;
        let tenant = |name: &TenantName| ("tenant", name.to_string());
        let mut writer = Writer { encoder };

        let received = books.sent.iter().map(|(t, s)| (vec![tenant(t)], s.received)).collect();
        writer.counters("spillway_ingest_received_records", "Records of readable requests", received)?;
        let bytes = books.sent.iter().map(|(t, s)| (vec![tenant(t)], s.received_bytes)).collect();
        writer.counters(
            "spillway_ingest_received_bytes",
            "Bytes of readable requests, decompressed",
            bytes,
        )?;
        let rejected = books.sent.iter().flat_map(|(t, s)| {
            s.rejected.iter().map(move |(reason, n)| (vec![tenant(t), ("reason", (*reason).to_owned())], *n))
        });
        writer.counters(
            "spillway_ingest_rejected_records",
            "Records refused, by reason",
            rejected.collect(),
        )?;

        let places = |of: fn(&Places) -> u64| -> Vec<(Labels, u64)> {
            books
                .places
                .iter()
                .map(|((t, p), n)| (vec![tenant(t), ("project", p.to_string())], of(n)))
                .collect()
        };
        writer.counters("spillway_ingest_staged_records", "Records in the bucket", places(|p| p.staged))?;
        writer.counters(
            "spillway_ingest_staged_raw_bytes",
            "Bytes of rows in the bucket before compression",
            places(|p| p.staged_bytes),
        )?;
        writer.counters("spillway_ingest_lost_records", "Records given up", places(|p| p.lost))?;
        writer.gauges("spillway_ingest_buffered_records", "Records in buffers", places(|p| p.buffered))?;
        writer.gauges(
            "spillway_ingest_in_flight_records",
            "Records in objects that are not confirmed yet",
            places(|p| p.in_flight),
        )?;
        writer.gauge(
            "spillway_ingest_queue_bytes",
            "Bytes in memory: bodies and rows not staged",
            usage.bytes as f64,
        )?;
        writer.gauge("spillway_ingest_queue_requests", "Requests not answered yet", usage.requests as f64)?;
        writer.gauge("spillway_ingest_streams", "Streams that hold rows", snapshot.streams as f64)?;
        writer.gauge(
            "spillway_ingest_oldest_buffered_seconds",
            "Age of the oldest record in a buffer",
            snapshot.oldest.as_secs_f64(),
        )
    }
}
