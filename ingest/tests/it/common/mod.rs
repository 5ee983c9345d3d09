//! An ingest process inside the test, over a bucket in memory that fails as it is told.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use spillway_bucket::{BucketError, Operation, Put};
use spillway_ingest::store::Store;
use spillway_ingest::{DrainReport, Listeners, Shutdown, TenantsSource, key_digest, serve_into};
use spillway_model::settings::{
    BucketSettings, IngestSettings, LimitSettings, Span, TenantSettings, TenantsFile,
};
use spillway_model::{ObjectKey, ProjectId, TenantName, codec, read_row};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// What the bucket does with the next PUTs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Stores and answers.
    None,
    /// Surely stores nothing.
    Unavailable,
    /// Stores, and then the answer is lost.
    LostAnswer,
    SlowDown,
    Denied,
    /// Never answers.
    Hang,
}

#[derive(Default)]
pub(crate) struct MemoryBucket {
    pub(crate) objects: Mutex<BTreeMap<String, Bytes>>,
    faults: Mutex<Vec<Fault>>,
    always: Mutex<Option<Fault>>,
    /// Keys that begin so are denied.
    denied: Mutex<Vec<String>>,
    pub(crate) attempts: Mutex<Vec<String>>,
    pub(crate) delay_ms: AtomicU64,
}

impl MemoryBucket {
    /// From now on, until `works`.
    pub(crate) fn fails(&self, fault: Fault) {
        *self.always.lock() = Some(fault);
    }

    pub(crate) fn works(&self) {
        *self.always.lock() = None;
    }

    /// From now on keys that begin with one of these are denied, and no others.
    pub(crate) fn denies(&self, prefixes: &[&str]) {
        *self.denied.lock() = prefixes.iter().map(|&p| p.to_owned()).collect();
    }

    /// The next PUTs, one fault each.
    pub(crate) fn next(&self, faults: &[Fault]) {
        *self.faults.lock() = faults.iter().rev().copied().collect();
    }

    /// All rows, as (project, service, message, id), by decoding every object.
    pub(crate) fn rows(&self) -> Vec<(String, String, String, String)> {
        let mut rows = Vec::new();
        for (key, body) in self.objects.lock().iter() {
            let key = ObjectKey::parse(key).unwrap();
            let raw = codec::decode(key.version, body, usize::MAX).unwrap();
            assert_eq!(raw.len() as u64, key.raw_bytes);
            let lines: Vec<_> = raw.split_inclusive(|b| *b == b'\n').collect();
            assert_eq!(lines.len() as u64, key.rows);
            for line in lines {
                let row = read_row(line).unwrap();
                if let spillway_model::Home::Stream { project, service } = &key.home {
                    assert_eq!((project.as_str(), service.as_str()), (&*row.project_id, &*row.service));
                }
                rows.push((
                    row.project_id.to_string(),
                    row.service.to_string(),
                    row.message.to_string(),
                    row.id.to_string(),
                ));
            }
        }
        rows
    }

    pub(crate) fn messages(&self) -> Vec<String> {
        let mut messages: Vec<_> = self.rows().into_iter().map(|row| row.2).collect();
        messages.sort();
        messages
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        self.objects.lock().keys().cloned().collect()
    }

    fn store(&self, key: &str, body: Bytes) -> Put {
        let mut objects = self.objects.lock();
        match objects.get(key) {
            Some(there) if *there != body => Put::Exists,
            _ => {
                objects.insert(key.to_owned(), body);
                Put::Created(tag())
            }
        }
    }
}

/// A tag can't be made outside its crate: one is borrowed from a real bucket.
fn tag() -> spillway_bucket::Tag {
    static TAG: std::sync::OnceLock<spillway_bucket::Tag> = std::sync::OnceLock::new();
    TAG.get_or_init(|| {
        std::thread::spawn(|| {
            let dir = tempfile::tempdir().unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let bucket =
                    spillway_bucket::Bucket::open(&BucketSettings::directory(dir.path())).await.unwrap();
                match bucket.put_if_absent("x", Bytes::from_static(b"x"), &Default::default()).await.unwrap()
                {
                    Put::Created(tag) => tag,
                    Put::Exists => unreachable!(),
                }
            })
        })
        .join()
        .unwrap()
    })
    .clone()
}

impl Store for MemoryBucket {
    fn put<'a>(&'a self, key: &'a str, body: Bytes) -> BoxFuture<'a, Result<Put, BucketError>> {
        Box::pin(async move {
            self.attempts.lock().push(key.to_owned());
            tokio::time::sleep(Duration::from_millis(self.delay_ms.load(Ordering::Relaxed))).await;
            let denied = self.denied.lock().iter().any(|prefix| key.starts_with(prefix.as_str()));
            let denied = denied.then_some(Fault::Denied);
            let fault =
                denied.or_else(|| self.faults.lock().pop()).or(*self.always.lock()).unwrap_or(Fault::None);
            let (operation, key_text, detail) = (Operation::Put, key.to_owned(), "as told".to_owned());
            match fault {
                Fault::None => Ok(self.store(key, body)),
                Fault::Unavailable => Err(BucketError::Unavailable { operation, key: key_text, detail }),
                Fault::LostAnswer => {
                    self.store(key, body);
                    Err(BucketError::Unclear { operation, key: key_text, detail })
                }
                Fault::SlowDown => {
                    let retry_after = Some(Duration::from_millis(1500));
                    Err(BucketError::SlowDown { operation, key: key_text, retry_after, detail })
                }
                Fault::Denied => {
                    Err(BucketError::Denied { operation, key: key_text, detail, remedy: "allow it" })
                }
                Fault::Hang => std::future::pending().await,
            }
        })
    }
}

pub(crate) const KEY: &str = "key-of-acme";
pub(crate) const OTHER_KEY: &str = "key-of-other";

pub(crate) fn tenant(name: &str, key: &str, projects: &[&str], limits: LimitSettings) -> TenantSettings {
    TenantSettings {
        name: TenantName::parse(name).unwrap(),
        keys: vec![key_digest(key)],
        projects: projects.iter().map(|p| ProjectId::parse(p).unwrap()).collect(),
        retention_days: None,
        limits,
    }
}

pub(crate) struct Ingest {
    pub(crate) url: String,
    pub(crate) admin: String,
    pub(crate) bucket: Arc<MemoryBucket>,
    pub(crate) shutdown: Shutdown,
    pub(crate) client: reqwest::Client,
    process: JoinHandle<DrainReport>,
}

/// The defaults, with a flush that tests need not wait for.
pub(crate) fn settings() -> IngestSettings {
    let mut settings = IngestSettings::new(BucketSettings::directory("unused"));
    settings.flush.max_age = Span::ms(30);
    settings.drain.readiness_delay = Span::ms(0);
    settings
}

impl Ingest {
    pub(crate) async fn start(settings: IngestSettings) -> Self {
        let tenants = vec![
            tenant("acme", KEY, &["shop", "blog"], LimitSettings::default()),
            tenant("other", OTHER_KEY, &["bank"], LimitSettings::default()),
        ];
        Self::start_with(settings, tenants).await
    }

    pub(crate) async fn start_with(settings: IngestSettings, tenants: Vec<TenantSettings>) -> Self {
        Self::start_from(settings, TenantsSource::Fixed(TenantsFile { version: 1, tenants })).await
    }

    pub(crate) async fn start_from(settings: IngestSettings, tenants: TenantsSource) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let admin = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", http.local_addr().unwrap());
        let admin_url = format!("http://{}", admin.local_addr().unwrap());
        let bucket = Arc::new(MemoryBucket::default());
        let shutdown = Shutdown::default();
        let process = tokio::spawn({
            let (store, shutdown) = (Arc::clone(&bucket), shutdown.clone());
            async move {
                let listeners = Listeners { http, admin: Some(admin) };
                serve_into(settings, tenants, store, listeners, shutdown).await.unwrap()
            }
        });
        Self { url, admin: admin_url, bucket, shutdown, client: reqwest::Client::new(), process }
    }

    pub(crate) fn post(&self, body: impl Into<reqwest::Body>) -> reqwest::RequestBuilder {
        self.client
            .post(format!("{}/v1/drain", self.url))
            .header("authorization", format!("Bearer {KEY}"))
            .header("content-type", "application/json")
            .body(body)
    }

    pub(crate) async fn send(&self, body: impl Into<reqwest::Body>) -> (u16, serde_json::Value) {
        answer(self.post(body)).await
    }

    /// As the tenant of another key.
    pub(crate) async fn send_as(
        &self,
        key: &str,
        body: impl Into<reqwest::Body>,
    ) -> (u16, serde_json::Value) {
        let request = self.client.post(format!("{}/v1/drain", self.url));
        answer(request.header("authorization", key).body(body)).await
    }

    pub(crate) async fn get(&self, url: &str) -> (u16, String) {
        let response = self.client.get(url).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    pub(crate) async fn metrics(&self) -> Metrics {
        let (status, text) = self.get(&format!("{}/metrics", self.admin)).await;
        assert_eq!(status, 200);
        Metrics(text)
    }

    /// Drains and says how it ended.
    pub(crate) async fn stop(self) -> DrainReport {
        self.shutdown.drain.cancel();
        self.process.await.unwrap()
    }

    pub(crate) async fn ended(self) -> DrainReport {
        self.process.await.unwrap()
    }
}

pub(crate) struct Metrics(pub String);

impl Metrics {
    /// The sum over all labels.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        let line =
            |l: &&str| l.starts_with(name) && matches!(l.as_bytes().get(name.len()), Some(b'{' | b' '));
        self.0.lines().filter(line).map(|l| l.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    pub(crate) fn identity(&self) -> (f64, f64) {
        let received = self.sum("spillway_ingest_received_records_total");
        let places = [
            "spillway_ingest_rejected_records_total",
            "spillway_ingest_staged_records_total",
            "spillway_ingest_buffered_records",
            "spillway_ingest_in_flight_records",
            "spillway_ingest_lost_records_total",
        ];
        (received, places.iter().map(|name| self.sum(name)).sum())
    }
}

pub(crate) async fn answer(request: reqwest::RequestBuilder) -> (u16, serde_json::Value) {
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

pub(crate) fn record(project: &str, service: &str, message: &str) -> serde_json::Value {
    let now = spillway_model::UnixNanos::now().to_string();
    serde_json::json!({
        "project_id": project, "timestamp": now, "level": "info", "service": service, "message": message,
    })
}

pub(crate) fn logs(records: &[serde_json::Value]) -> String {
    serde_json::json!({ "logs": records }).to_string()
}

/// Waits until it holds, at most ten seconds.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..1000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never happened: {what}");
}

/// The type of the next HTTP/2 frame; 7 is GOAWAY.
pub(crate) async fn frame_kind(peer: &mut (impl AsyncRead + Unpin)) -> u8 {
    let frame = async {
        let mut header = [0; 9];
        peer.read_exact(&mut header).await.unwrap();
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        peer.read_exact(&mut vec![0; length]).await.unwrap();
        header[3]
    };
    tokio::time::timeout(Duration::from_secs(5), frame).await.expect("no frame")
}
