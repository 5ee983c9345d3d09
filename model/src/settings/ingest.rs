use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BucketSettings, ByteSize, SettingsError, Span, check_version, version};
use crate::codec::DEFAULT_LEVEL;

/// What one ingest process is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IngestSettings {
    #[serde(default = "version")]
    pub version: u32,
    pub bucket: BucketSettings,
    /// Where logs are received.
    #[serde(default = "http_address")]
    pub http: SocketAddr,
    /// Receive over TLS alone; none: in clear text. The admin port stays in clear text, for probes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsSettings>,
    /// Metrics, probes and `/drain`.
    #[serde(default = "admin_address")]
    pub admin: SocketAddr,
    #[serde(default)]
    pub ack: Ack,
    #[serde(default)]
    pub objects: Objects,
    #[serde(default)]
    pub flush: FlushSettings,
    #[serde(default)]
    pub queue: QueueSettings,
    #[serde(default)]
    pub request: RequestSettings,
    #[serde(default)]
    pub timestamp_window: TimestampWindow,
    /// How long a connection for logs may last, give or take a tenth, before its sender is told to make another.
    /// Connections are balanced when they are made and never again. 0: as long as its sender likes.
    #[serde(default = "max_connection_age")]
    pub max_connection_age: Span,
    #[serde(default)]
    pub drain: DrainSettings,
    /// PUTs per second of this process. When a flush has more streams than that, small ones share an
    /// object (`objects: Adaptive`) or wait longer (`PerService`).
    #[serde(default = "max_puts")]
    pub max_puts_per_second: u32,
    /// PUTs under way at once.
    #[serde(default = "put_concurrency")]
    pub put_concurrency: u32,
    /// How long one PUT may take before it counts as unclear.
    #[serde(default = "put_timeout")]
    pub put_timeout: Span,
    /// How long a request that asked for a durable answer waits for it.
    #[serde(default = "ack_timeout")]
    pub ack_timeout: Span,
    /// Level of gzip, 1 to 12.
    #[serde(default = "compression_level")]
    pub compression_level: i32,
    /// Retention of a tenant that names none, in days.
    #[serde(default = "retention_days")]
    pub default_retention_days: u16,
}

/// The certificate that senders are shown. Both files are read again when they change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TlsSettings {
    /// The certificate and those between it and its authority, in PEM, its own first.
    pub cert_file: PathBuf,
    /// Its private key in PEM: PKCS#8, SEC1 or PKCS#1.
    pub key_file: PathBuf,
}

/// When a request is answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Ack {
    /// After its records are in the bucket.
    #[default]
    Durable,
    /// Once they are buffered: a hard kill loses them.
    Memory,
}

/// Whether streams may share an object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Objects {
    /// When the PUT budget is short, small streams share objects below `_packed/`.
    #[default]
    Adaptive,
    /// Never: for bucket policies per tenant.
    PerService,
}

/// When a stream becomes an object: at whichever comes first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct FlushSettings {
    /// Raw bytes of a stream.
    pub max_bytes: ByteSize,
    pub max_records: u64,
    pub max_age: Span,
}

/// What may be in memory at once. Beyond it requests are refused at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct QueueSettings {
    /// Rows that are not staged yet and request bodies being read, in raw bytes.
    pub max_bytes: ByteSize,
    /// Requests that are not answered yet.
    pub max_requests: u64,
    /// The part of both that one tenant may use, 0 to 1.
    pub tenant_share: f64,
    /// Streams of one tenant that hold rows at once: each takes a PUT.
    pub max_streams_per_tenant: u64,
}

/// What one request may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestSettings {
    /// Bytes as sent.
    pub max_body_bytes: ByteSize,
    /// Bytes after decompression.
    pub max_expanded_bytes: ByteSize,
    pub max_records: u64,
    /// Bytes of one record as a staged row; a tenant may have less.
    pub max_record_bytes: ByteSize,
    /// How long the body may take to arrive.
    pub read_timeout: Span,
}

/// How far a record's time may be from now. Each day is a partition of the table: one wrong clock would
/// open thousands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TimestampWindow {
    pub past: Span,
    pub future: Span,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DrainSettings {
    /// After readiness is off: how long until the last load balancer has noticed.
    pub readiness_delay: Span,
    /// For requests in flight to be answered after no more are accepted.
    pub request_timeout: Span,
    /// For the buffers to reach the bucket; after it they are lost, and counted.
    pub flush_timeout: Span,
}

fn http_address() -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, 8080).into()
}
fn admin_address() -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, 9090).into()
}
fn max_connection_age() -> Span {
    Span::secs(300)
}
fn max_puts() -> u32 {
    50
}
fn put_concurrency() -> u32 {
    16
}
fn put_timeout() -> Span {
    Span::secs(10)
}
fn ack_timeout() -> Span {
    Span::secs(10)
}
fn compression_level() -> i32 {
    DEFAULT_LEVEL
}
fn retention_days() -> u16 {
    30
}

impl Default for FlushSettings {
    fn default() -> Self {
        Self { max_bytes: ByteSize::mib(8), max_records: 100_000, max_age: Span::ms(500) }
    }
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self {
            max_bytes: ByteSize::mib(128),
            max_requests: 10_000,
            tenant_share: 0.5,
            max_streams_per_tenant: 2_000,
        }
    }
}

impl Default for RequestSettings {
    fn default() -> Self {
        Self {
            max_body_bytes: ByteSize::mib(16),
            max_expanded_bytes: ByteSize::mib(64),
            max_records: 100_000,
            max_record_bytes: ByteSize::mib(1),
            read_timeout: Span::secs(30),
        }
    }
}

impl Default for TimestampWindow {
    fn default() -> Self {
        Self { past: Span::days(30), future: Span::secs(3600) }
    }
}

impl Default for DrainSettings {
    fn default() -> Self {
        Self {
            readiness_delay: Span::secs(5),
            request_timeout: Span::secs(15),
            flush_timeout: Span::secs(30),
        }
    }
}

impl IngestSettings {
    /// The defaults with this bucket.
    #[must_use]
    pub fn new(bucket: BucketSettings) -> Self {
        Self {
            version: version(),
            bucket,
            http: http_address(),
            tls: None,
            admin: admin_address(),
            ack: Ack::default(),
            objects: Objects::default(),
            flush: FlushSettings::default(),
            queue: QueueSettings::default(),
            request: RequestSettings::default(),
            timestamp_window: TimestampWindow::default(),
            max_connection_age: max_connection_age(),
            drain: DrainSettings::default(),
            max_puts_per_second: max_puts(),
            put_concurrency: put_concurrency(),
            put_timeout: put_timeout(),
            ack_timeout: ack_timeout(),
            compression_level: compression_level(),
            default_retention_days: retention_days(),
        }
    }

    /// # Errors
    /// Names the setting that can't be used.
    pub fn validate(&self) -> Result<(), SettingsError> {
        check_version(self.version)?;
        self.bucket.validate()?;
        let positive = [
            ("flush.maxBytes", self.flush.max_bytes.0),
            ("flush.maxRecords", self.flush.max_records),
            ("queue.maxBytes", self.queue.max_bytes.0),
            ("queue.maxRequests", self.queue.max_requests),
            ("queue.maxStreamsPerTenant", self.queue.max_streams_per_tenant),
            ("request.maxBodyBytes", self.request.max_body_bytes.0),
            ("request.maxExpandedBytes", self.request.max_expanded_bytes.0),
            ("request.maxRecords", self.request.max_records),
            ("request.maxRecordBytes", self.request.max_record_bytes.0),
            ("maxPutsPerSecond", self.max_puts_per_second.into()),
            ("putConcurrency", self.put_concurrency.into()),
            ("putTimeout", self.put_timeout.get().as_millis() as u64),
            ("ackTimeout", self.ack_timeout.get().as_millis() as u64),
            ("defaultRetentionDays", self.default_retention_days.into()),
        ];
        if let Some((field, _)) = positive.into_iter().find(|(_, value)| *value == 0) {
            return Err(SettingsError::value(field, "must be more than 0"));
        }
        if !(self.queue.tenant_share > 0.0 && self.queue.tenant_share <= 1.0) {
            return Err(SettingsError::value("queue.tenantShare", "must be more than 0 and at most 1"));
        }
        if !(1..=12).contains(&self.compression_level) {
            return Err(SettingsError::value("compressionLevel", "must be 1 to 12"));
        }
        if let Some(tls) = &self.tls {
            let files = [("tls.certFile", &tls.cert_file), ("tls.keyFile", &tls.key_file)];
            if let Some((field, _)) = files.into_iter().find(|(_, file)| file.as_os_str().is_empty()) {
                return Err(SettingsError::value(field, "must name a file"));
            }
        }
        if self.flush.max_bytes > self.queue.max_bytes {
            return Err(SettingsError::value("flush.maxBytes", "must not be more than queue.maxBytes"));
        }
        Ok(())
    }
}
