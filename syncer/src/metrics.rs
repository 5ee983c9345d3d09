//! Prometheus metrics of the syncer.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use spillway_model::time::UnixMs;

use crate::dead::DeadLetter;
use crate::flight::{Outline, UNKNOWN_PROJECT};

type Labels = Vec<(&'static str, String)>;

/// See the module's text.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    loaded: Family<Labels, Counter>,
    dead_lettered: Family<Labels, Counter>,
    batches: Family<Labels, Counter>,
    failures: Family<Labels, Counter>,
    bucket_requests: Family<Labels, Counter>,
    fetched_bytes: Counter,
    inserts: Family<Labels, Counter>,
    repairs: Counter,
    overfull: Counter,
    deleted: Counter,
    delete_failures: Counter,
    lag: Histogram,
    insert_seconds: Histogram,
    swap_seconds: Histogram,
    leader: Gauge,
    leading: Gauge,
    epoch: Gauge<i64, AtomicI64>,
    backlog_objects: Gauge<i64, AtomicI64>,
    backlog_rows: Gauge<i64, AtomicI64>,
    backlog_bytes: Gauge<i64, AtomicI64>,
    in_flight_rows: Gauge<i64, AtomicI64>,
    open: Gauge<i64, AtomicI64>,
    stuck: Gauge<i64, AtomicI64>,
    oldest: Gauge<f64, AtomicU64>,
    foreign: Gauge<i64, AtomicI64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let seconds = || Histogram::new(exponential_buckets(0.005, 2.0, 16));
        let mut all = Self {
            registry: Registry::default(),
            loaded: Family::default(),
            dead_lettered: Family::default(),
            batches: Family::default(),
            failures: Family::default(),
            bucket_requests: Family::default(),
            fetched_bytes: Counter::default(),
            inserts: Family::default(),
            repairs: Counter::default(),
            overfull: Counter::default(),
            deleted: Counter::default(),
            delete_failures: Counter::default(),
            lag: seconds(),
            insert_seconds: seconds(),
            swap_seconds: seconds(),
            leader: Gauge::default(),
            leading: Gauge::default(),
            epoch: Gauge::default(),
            backlog_objects: Gauge::default(),
            backlog_rows: Gauge::default(),
            backlog_bytes: Gauge::default(),
            in_flight_rows: Gauge::default(),
            open: Gauge::default(),
            stuck: Gauge::default(),
            oldest: Gauge::default(),
            foreign: Gauge::default(),
        };
        let mut root = Registry::default();
        let r = root.sub_registry_with_prefix("spillway_syncer");
        r.register("loaded_records", "Records confirmed in the table, by project", all.loaded.clone());
        r.register(
            "dead_lettered_records",
            "Records put aside, by project and reason",
            all.dead_lettered.clone(),
        );
        r.register("batches", "Batches by the state they reached", all.batches.clone());
        r.register(
            "failures",
            "Steps that failed and are tried again, by step and reason",
            all.failures.clone(),
        );
        r.register("bucket_requests", "Requests to the bucket by kind", all.bucket_requests.clone());
        r.register_with_unit(
            "fetched",
            "Bytes of staged objects read",
            Unit::Bytes,
            all.fetched_bytes.clone(),
        );
        r.register("inserts", "Inserts by outcome", all.inserts.clone());
        r.register("view_repairs", "Batches whose views were recomputed", all.repairs.clone());
        r.register(
            "overfull_partitions",
            "Partitions of a batch found to hold more rows than were staged: must stay 0",
            all.overfull.clone(),
        );
        r.register(
            "deleted_objects",
            "Staged objects deleted after their rows were read back",
            all.deleted.clone(),
        );
        r.register(
            "delete_failures",
            "Staged objects that could not be deleted yet",
            all.delete_failures.clone(),
        );
        r.register_with_unit(
            "lag",
            "From the admission of a batch's first record to all its records being queryable",
            Unit::Seconds,
            all.lag.clone(),
        );
        r.register_with_unit("insert", "One insert", Unit::Seconds, all.insert_seconds.clone());
        r.register_with_unit("swap", "One swap of the manifest", Unit::Seconds, all.swap_seconds.clone());
        r.register(
            "leader",
            "1 while this process may load: it holds the Lease, or needs none",
            all.leader.clone(),
        );
        r.register("leading", "1 while this process owns the manifest", all.leading.clone());
        r.register("epoch", "Epoch of the manifest", all.epoch.clone());
        r.register(
            "backlog_objects",
            "Staged objects waiting, as far as listed",
            all.backlog_objects.clone(),
        );
        r.register("backlog_records", "Records in them", all.backlog_rows.clone());
        r.register_with_unit("backlog", "Raw bytes in them", Unit::Bytes, all.backlog_bytes.clone());
        r.register(
            "in_flight_records",
            "Records of batches that are planned and not confirmed",
            all.in_flight_rows.clone(),
        );
        r.register("open_batches", "Batches planned and not confirmed", all.open.clone());
        r.register("stuck_batches", "Batches that need somebody's help", all.stuck.clone());
        r.register_with_unit(
            "oldest_waiting",
            "Age of the oldest record not yet confirmed in the table",
            Unit::Seconds,
            all.oldest.clone(),
        );
        r.register(
            "foreign_keys",
            "Keys in the bucket that are no staged object's (of this version), at most 100",
            all.foreign.clone(),
        );
        all.registry = root;
        all
    }
}

/// The gauges, taken at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gauges {
    /// This process owns the manifest.
    pub leading: bool,
    /// The manifest's epoch.
    pub epoch: u64,
    /// Objects, rows and raw bytes waiting.
    pub backlog: (u64, u64, u64),
    /// Rows planned and not confirmed.
    pub in_flight: u64,
    /// Batches planned and not confirmed, and stuck ones.
    pub open: u64,
    /// See `open`.
    pub stuck: u64,
    /// Age in seconds of the oldest record not confirmed.
    pub oldest: f64,
    /// Keys that are no staged object's.
    pub foreign: u64,
}

impl Metrics {
    /// The text of `/metrics` (OpenMetrics).
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            text.push_str("# EOF\n");
        }
        text
    }

    pub(crate) fn fetched(&self, bytes: usize) {
        self.fetched_bytes.inc_by(bytes as u64);
        self.bucket("get");
    }

    pub(crate) fn bucket(&self, kind: &str) {
        self.bucket_requests.get_or_create(&vec![("request", kind.to_owned())]).inc();
    }

    pub(crate) fn inserted(&self, outcome: &str, seconds: f64) {
        self.inserts.get_or_create(&vec![("outcome", outcome.to_owned())]).inc();
        self.insert_seconds.observe(seconds);
    }

    pub(crate) fn swapped(&self, seconds: f64) {
        self.swap_seconds.observe(seconds);
        self.bucket("swap");
    }

    pub(crate) fn repaired(&self) {
        self.repairs.inc();
    }

    pub(crate) fn overfull(&self) {
        self.overfull.inc();
    }

    pub(crate) fn deleted(&self, gone: usize, failed: usize) {
        self.deleted.inc_by(gone as u64);
        self.delete_failures.inc_by(failed as u64);
        self.bucket("delete");
    }

    pub(crate) fn dead_lettered(&self, letters: &[DeadLetter]) {
        for letter in letters {
            let project = letter.row.project.as_ref().map_or(UNKNOWN_PROJECT, |project| project.as_str());
            let labels = vec![("project", project.to_owned()), ("reason", letter.row.reason.clone())];
            self.dead_lettered.get_or_create(&labels).inc_by(letter.row.rows);
        }
    }

    pub(crate) fn loaded(&self, outline: &Outline) {
        for (project, totals) in &outline.totals {
            self.loaded.get_or_create(&vec![("project", project.clone())]).inc_by(totals.loaded);
        }
        self.batch("inserted");
    }

    pub(crate) fn batch(&self, state: &str) {
        self.batches.get_or_create(&vec![("state", state.to_owned())]).inc();
    }

    pub(crate) fn failed(&self, step: &str, reason: &str) {
        self.failures.get_or_create(&vec![("step", step.to_owned()), ("reason", reason.to_owned())]).inc();
    }

    #[allow(clippy::cast_precision_loss, reason = "seconds of lag need no more than 52 bits")]
    pub(crate) fn queryable(&self, now: UnixMs, received: UnixMs, rows: u64) {
        if rows > 0 {
            self.lag.observe((now.0 - received.0).max(0) as f64 / 1_000.0);
        }
    }

    pub(crate) fn leader(&self, leader: bool) {
        self.leader.set(i64::from(leader));
    }

    pub(crate) fn set(&self, gauges: Gauges) {
        let whole = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.leading.set(i64::from(gauges.leading));
        self.epoch.set(whole(gauges.epoch));
        self.backlog_objects.set(whole(gauges.backlog.0));
        self.backlog_rows.set(whole(gauges.backlog.1));
        self.backlog_bytes.set(whole(gauges.backlog.2));
        self.in_flight_rows.set(whole(gauges.in_flight));
        self.open.set(whole(gauges.open));
        self.stuck.set(whole(gauges.stuck));
        self.oldest.set(gauges.oldest);
        self.foreign.set(whole(gauges.foreign));
    }
}
