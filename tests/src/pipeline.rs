//! A whole pipeline of real processes: a bucket, ingest and syncers, a database, and a proxy on each way.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use sha2::{Digest, Sha256};
use spillway_bucket::Bucket;
use spillway_model::name::{ProjectId, TenantName};
use spillway_model::settings::{
    BucketSettings, ClickHouseSettings, IngestSettings, KeyDigest, Place, S3Settings, Span, SyncerSettings,
    TenantSettings, TenantsFile,
};
use spillway_schema::{ClickHouse, SchemaSpec};

use crate::child::free_port;
use crate::front::Front;
use crate::minio::{self, Minio};
use crate::process::{Process, built};
use crate::proxy::Proxy;
use crate::traffic::{Traffic, Workload};
use crate::verdict::{self, Sent, Verdict};
use crate::wait::until;

pub const API_KEY: &str = "test-key-of-the-crash-tests";
/// Projects of the tenant that traffic is sent for.
pub const PROJECTS: [&str; 2] = ["shop", "bank"];

const START: Duration = Duration::from_secs(30);
/// Longer than any timeout, grace or back-off in the settings of these tests.
const NO_PROGRESS: Duration = Duration::from_secs(60);

/// Servers that many pipelines share, each with a prefix and a database of its own.
pub struct Servers {
    pub minio: Minio,
    pub front: Front,
}

impl Servers {
    pub async fn start() -> Self {
        let minio = tokio::task::spawn_blocking(Minio::start);
        let front = Front::start().await;
        Self { minio: minio.await.expect("MinIO starts"), front }
    }
}

/// What holds a pipeline's objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    Directory,
    Minio,
}

pub struct Pipeline {
    pub name: String,
    /// Changes take effect with the next start of a process.
    pub ingest_settings: IngestSettings,
    pub syncer_settings: SyncerSettings,
    /// Between ingest and MinIO. Of no use with a directory.
    pub ingest_s3: Proxy,
    /// Between the syncers and MinIO.
    pub syncer_s3: Proxy,
    /// Between the syncers and ClickHouse.
    pub clickhouse_proxy: Proxy,
    /// Straight to the bucket and to ClickHouse, past the proxies.
    pub bucket: Bucket,
    pub clickhouse: ClickHouse,
    pub schema: SchemaSpec,
    pub ingest: Option<Process>,
    pub syncers: Vec<Process>,
    /// Past the proxy, so that its rules see a syncer's requests only.
    direct_clickhouse: String,
    started: usize,
    sent: Arc<Sent>,
    dir: tempfile::TempDir,
}

impl Pipeline {
    /// Sets up bucket, schema and settings; starts no process.
    pub async fn new(servers: &Servers, name: &str, store: Store) -> Self {
        let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let dir = tempfile::Builder::new().prefix("spillway-test-").tempdir().expect("a temporary folder");
        let ingest_s3 = Proxy::start(servers.minio.port()).await;
        let syncer_s3 = Proxy::start(servers.minio.port()).await;
        let clickhouse_proxy = Proxy::start(servers.front.port()).await;
        let bucket_at = |endpoint: &str| match store {
            Store::Directory => BucketSettings::directory(dir.path().join("bucket")),
            Store::Minio => BucketSettings {
                place: Place::S3(S3Settings {
                    endpoint: Some(endpoint.to_owned()),
                    region: minio::REGION.to_owned(),
                    bucket: minio::BUCKET.to_owned(),
                    path_style: true,
                    credentials_dir: Some(servers.minio.credentials_dir()),
                    ca_file: None,
                }),
                prefix: format!("{name}/"),
            },
        };
        let direct = servers.front.settings(&format!("t_{name}"));
        let through_proxy = ClickHouseSettings { url: clickhouse_proxy.url(), ..direct.clone() };
        let bucket = Bucket::open(&bucket_at(&servers.minio.endpoint())).await.expect("the bucket opens");
        let clickhouse = ClickHouse::connect(&direct).expect("the client is made");
        let schema = SchemaSpec::from_settings(&direct);
        let mut pipeline = Self {
            name: name.clone(),
            ingest_settings: quick_ingest(bucket_at(&ingest_s3.url())),
            syncer_settings: quick_syncer(bucket_at(&syncer_s3.url()), through_proxy),
            ingest_s3,
            syncer_s3,
            clickhouse_proxy,
            bucket,
            clickhouse,
            schema,
            ingest: None,
            syncers: Vec::new(),
            direct_clickhouse: direct.url.clone(),
            started: 0,
            sent: Arc::default(),
            dir,
        };
        pipeline.initialise().await;
        pipeline
    }

    /// Applies the schema and writes the first manifest, as whoever sets up a pipeline does once.
    async fn initialise(&mut self) {
        let mut process = self.start_once("--init", None);
        let status = process.wait(START).await;
        assert!(status.success(), "the pipeline can't be set up ({status}):\n{}", process.log());
    }

    /// Begins to make a lost manifest anew. It may have to wait until no insert can be under way.
    pub fn start_rebuild(&mut self, failpoint: Option<&str>) -> Process {
        self.start_once("--rebuild-manifest", failpoint)
    }

    /// Makes a lost manifest anew; returns what is said of it.
    pub async fn rebuild(&mut self) -> String {
        let mut process = self.start_rebuild(None);
        let status = process.wait(NO_PROGRESS * 2).await;
        assert!(status.success(), "no manifest was made ({status}):\n{}", process.log());
        process.log()
    }

    /// A syncer that does one thing and ends.
    fn start_once(&mut self, what: &str, failpoint: Option<&str>) -> Process {
        let mut settings = self.syncer_settings.clone();
        settings.clickhouse.url.clone_from(&self.direct_clickhouse);
        let settings = self.write(&format!("once-{}.json", self.started), &settings);
        let mut command = built("spillway-syncer");
        command.arg(what).arg("--settings").arg(settings);
        self.start(what.trim_start_matches('-'), command, failpoint)
    }

    pub async fn start_ingest(&mut self) {
        self.start_ingest_with(None).await;
    }

    /// Starts ingest so that it kills itself at a named point (`received`, `staged:3`).
    pub async fn start_ingest_with(&mut self, failpoint: Option<&str>) {
        self.ingest = None;
        let settings = self.write("ingest.json", &self.ingest_settings);
        let tenants = self.write("tenants.json", &tenants());
        let mut command = built("spillway-ingest");
        command.arg("--settings").arg(settings).arg("--tenants").arg(tenants);
        let mut process = self.start("ingest", command, failpoint);
        let url = format!("http://{}/readyz", self.ingest_settings.admin);
        ready(&mut process, &url).await;
        self.ingest = Some(process);
    }

    /// Starts one more syncer beside those that run.
    pub fn start_syncer(&mut self) -> &mut Process {
        self.start_syncer_with(None)
    }

    pub fn start_syncer_with(&mut self, failpoint: Option<&str>) -> &mut Process {
        let mut settings = self.syncer_settings.clone();
        settings.admin.set_port(free_port());
        let settings = self.write(&format!("syncer-{}.json", self.syncers.len()), &settings);
        let mut command = built("spillway-syncer");
        command.arg("--settings").arg(settings);
        let process = self.start("syncer", command, failpoint);
        self.syncers.push(process);
        self.syncers.last_mut().expect("just pushed")
    }

    /// The syncer that was started last.
    pub fn syncer(&mut self) -> &mut Process {
        self.syncers.last_mut().expect("a syncer was started")
    }

    pub fn ingest(&mut self) -> &mut Process {
        self.ingest.as_mut().expect("ingest was started")
    }

    fn start(&mut self, kind: &str, mut command: Command, failpoint: Option<&str>) -> Process {
        self.started += 1;
        command.env_remove("SPILLWAY_FAILPOINT");
        if let Some(failpoint) = failpoint {
            command.env("SPILLWAY_FAILPOINT", failpoint);
        }
        Process::start(&format!("{kind}-{}", self.started), self.dir.path(), &mut command)
    }

    fn write(&self, name: &str, settings: &impl Serialize) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, serde_json::to_vec_pretty(settings).expect("settings are JSON"))
            .expect("written");
        path
    }

    /// Begins to send; ends with [`Traffic::stop`] or [`Traffic::finish`].
    pub fn send(&self, workload: Workload) -> Traffic {
        Traffic::start(
            format!("http://{}/v1/drain", self.ingest_settings.http),
            Arc::clone(&self.sent),
            workload,
        )
    }

    /// Sends a fixed number of records and waits until each was acknowledged.
    pub async fn send_all(&self, records: u64) {
        self.send(Workload { records: Some(records), ..Workload::default() }).finish().await;
    }

    pub fn sent(&self) -> &Sent {
        &self.sent
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Rows in the table now.
    pub async fn rows(&self) -> u64 {
        verdict::count(&self.clickhouse, &self.schema).await
    }

    /// Keys of staged objects that are not deleted yet.
    pub async fn backlog(&self) -> Vec<String> {
        let (mut keys, mut after) = (Vec::new(), None::<String>);
        loop {
            let page = self.bucket.list("", after.as_deref(), 1000).await.expect("the bucket lists");
            let objects = page.objects.into_iter().map(|object| object.key);
            keys.extend(objects.filter(|key| !key.starts_with('_') || key.starts_with("_packed/")));
            match page.next {
                Some(next) => after = Some(next),
                None => return keys,
            }
        }
    }

    /// The manifest as it lies in the bucket.
    pub async fn manifest(&self) -> Option<serde_json::Value> {
        let (bytes, _) = self.bucket.get("_spillway/manifest.json").await.expect("the bucket reads")?;
        Some(serde_json::from_slice(&bytes).expect("the manifest is JSON"))
    }

    /// Waits until everything staged has become rows: no objects, no batches under way. Patient while there is
    /// progress, however slow the machine is.
    pub async fn settle(&mut self) {
        let mut least = usize::MAX;
        let mut since = Instant::now();
        loop {
            let backlog = self.backlog().await;
            let manifest = self.manifest().await.expect("a pipeline that was set up has a manifest");
            let open = manifest["batches"].as_object().map_or(0, serde_json::Map::len);
            let left = backlog.len() + open;
            if left == 0 {
                return;
            }
            if left < least {
                (least, since) = (left, Instant::now());
            }
            assert!(
                since.elapsed() < NO_PROGRESS,
                "no progress for {NO_PROGRESS:?}: {} objects left (first: {:?}), batches {}",
                backlog.len(),
                backlog.first(),
                manifest["batches"]
            );
            assert!(
                self.syncers.iter_mut().any(Process::is_running),
                "no syncer is running, {} objects are left; the last one's log ends with\n{}",
                backlog.len(),
                self.syncers.last().map(Process::log).unwrap_or_default()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Compares what was acknowledged with what is there.
    pub async fn verdict(&self) -> Verdict {
        verdict::compare(&self.clickhouse, &self.schema, &self.sent).await
    }

    /// Settles, takes the verdict, stops all processes and drops the database.
    pub async fn conclude(mut self) -> Verdict {
        self.settle().await;
        let verdict = self.verdict().await;
        if !verdict.is_exact() {
            for process in self.syncers.iter().chain(&self.ingest) {
                eprintln!("--- {} ---\n{}", process.name(), process.log());
            }
        }
        self.ingest = None;
        self.syncers.clear();
        let drop = format!("DROP DATABASE IF EXISTS {} SYNC", self.schema.database);
        self.clickhouse.execute(&drop, &[]).await.ok();
        verdict
    }
}

async fn ready(process: &mut Process, url: &str) {
    let http = crate::http::client();
    until("readiness", START, async || {
        assert!(process.is_running(), "{} ended at once:\n{}", process.name(), process.log());
        let answer = http.get(url).timeout(Duration::from_secs(1)).send().await;
        answer.ok().filter(|answer| answer.status().is_success())
    })
    .await;
}

/// The defaults with the waits taken out.
fn quick_ingest(bucket: BucketSettings) -> IngestSettings {
    let mut settings = IngestSettings::new(bucket);
    settings.http = ([127, 0, 0, 1], free_port()).into();
    settings.admin = ([127, 0, 0, 1], free_port()).into();
    settings.flush.max_age = Span::ms(50);
    settings.max_puts_per_second = 1000;
    settings.put_timeout = Span::secs(2);
    settings.ack_timeout = Span::secs(8);
    settings.drain.readiness_delay = Span::ms(0);
    settings
}

fn quick_syncer(bucket: BucketSettings, clickhouse: ClickHouseSettings) -> SyncerSettings {
    let mut settings = SyncerSettings::new(bucket, clickhouse);
    settings.admin = ([127, 0, 0, 1], free_port()).into();
    settings.interval = Span::ms(50);
    settings.idle_interval = Span::ms(100);
    settings.batch.max_age = Span::ms(50);
    settings.delete_grace = Span::ms(200);
    settings.insert_timeout = Span::secs(5);
    settings.takeover_after = Span::secs(1);
    settings.status_interval = Span::secs(1);
    settings
}

fn tenants() -> TenantsFile {
    let tenant = TenantSettings {
        name: TenantName::parse("tenant").expect("a name"),
        keys: vec![KeyDigest(Sha256::digest(API_KEY).into())],
        projects: PROJECTS.iter().map(|project| ProjectId::parse(project).expect("a name")).collect(),
        retention_days: None,
        limits: spillway_model::settings::LimitSettings::default(),
    };
    TenantsFile { version: 1, tenants: vec![tenant] }
}
