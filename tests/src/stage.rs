//! Staged objects written straight into the bucket: what another version of ingest, or a damaged disk, may
//! have left there, and records of kinds that `/v1/drain` does not take.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use spillway_bucket::{Put, PutMeta};
use spillway_model::codec::{self, FormatVersion};
use spillway_model::name::{ProjectId, ServiceName};
use spillway_model::object::{Home, Incarnation, ObjectKey};
use spillway_model::record::{Record, Severity};
use spillway_model::row::write_row;
use spillway_model::time::{UnixMs, UnixNanos};
use uuid::Uuid;

use crate::pipeline::Pipeline;
use crate::traffic::identity;

/// Numbers objects and records over a test process.
static NUMBER: AtomicU64 = AtomicU64::new(1);

/// A producer number that traffic does not reach.
const PRODUCER: u64 = 1_000_000;

/// Adds lines to an object.
#[derive(Default)]
pub struct Object {
    pub lines: Vec<u8>,
    pub rows: u64,
    /// Messages of its records.
    pub ids: Vec<String>,
}

impl Object {
    /// Records of HTTP requests, which feed every view.
    #[must_use]
    pub fn http_requests(count: u64) -> Self {
        let mut object = Self::default();
        for _ in 0..count {
            object.record(UnixNanos::now(), "");
        }
        object
    }

    /// One more record. `mark` ends its message.
    pub fn record(&mut self, timestamp: UnixNanos, mark: &str) {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let id = identity("shop", "api", PRODUCER, number) + mark;
        let record = Record {
            id: Uuid::now_v7(),
            project_id: "shop".into(),
            service: "api".into(),
            timestamp,
            received_at: UnixMs::now(),
            severity: if number.is_multiple_of(3) { Severity::Error } else { Severity::Info },
            message: id.clone().into(),
            http_method: "GET".into(),
            http_path: "/cart".into(),
            http_status_code: if number.is_multiple_of(5) { 500 } else { 200 },
            http_duration_ms: 1.0 + (number % 40) as f64,
            retention_days: 30,
            ..Record::default()
        };
        write_row(&mut self.lines, &record);
        self.rows += 1;
        self.ids.push(id);
    }

    /// A line that is no row.
    pub fn line(&mut self, line: &str) {
        self.lines.extend_from_slice(line.as_bytes());
        self.lines.push(b'\n');
        self.rows += 1;
    }
}

impl Pipeline {
    /// Stages an object whose records must all arrive.
    pub async fn stage(&self, object: &Object) -> String {
        let key = self.stage_unjudged(object).await;
        self.sent().acknowledged(object.ids.iter().cloned());
        key
    }

    /// Stages an object of whose records the caller says himself what becomes of them.
    pub async fn stage_unjudged(&self, object: &Object) -> String {
        let packed = codec::encode(FormatVersion::V1, &object.lines, 1).expect("encodes");
        self.stage_bytes(packed, object.rows, object.lines.len() as u64).await
    }

    /// Stages these very bytes under a key that promises so many rows and raw bytes.
    pub async fn stage_bytes(&self, bytes: Vec<u8>, rows: u64, raw_bytes: u64) -> String {
        let key = ObjectKey {
            home: Home::Stream {
                project: ProjectId::parse("shop").expect("a name"),
                service: ServiceName::parse("api").expect("a name"),
            },
            time: UnixMs::now(),
            incarnation: Incarnation::new("test", u64::from(std::process::id())),
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
            version: FormatVersion::V1,
            rows,
            raw_bytes,
        };
        let key = key.to_string();
        let put =
            self.bucket.put_if_absent(&key, Bytes::from(bytes), &PutMeta::default()).await.expect("staged");
        assert!(matches!(put, Put::Created(_)), "the key {key} is new");
        key
    }
}
