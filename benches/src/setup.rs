//! The processes under test and their settings: defaults, but for addresses and places.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::Serialize;
use sha2::{Digest as _, Sha256};
use spillway_model::settings::{
    BucketSettings, ClickHouseSettings, IngestSettings, KeyDigest, Place, S3Settings, SyncerSettings,
    TenantSettings, TenantsFile,
};
use spillway_model::{ProjectId, TenantName};
use spillway_tests::child::free_port;
use spillway_tests::minio::{self, Minio};
use spillway_tests::process::Process;
use spillway_tests::wait::until;

use crate::generator::{Generator, Spread};
use crate::load::Body;

/// Key of the tenant with this number.
#[must_use]
pub fn key(tenant: u64) -> String {
    format!("bench-key-{tenant}")
}

/// One tenant per project: the defaults give each at most half of the queue.
#[must_use]
pub fn tenants(spread: Spread) -> TenantsFile {
    let tenants = (0..spread.projects)
        .map(|project| TenantSettings {
            name: TenantName::parse(&format!("tenant-{project}")).expect("a name"),
            keys: vec![KeyDigest(Sha256::digest(key(project)).into())],
            projects: vec![ProjectId::parse(&format!("project-{project}")).expect("a name")],
            retention_days: None,
            limits: spillway_model::settings::LimitSettings::default(),
        })
        .collect();
    TenantsFile { version: 1, tenants }
}

/// A bucket in MinIO below a prefix.
#[must_use]
pub fn minio_bucket(minio: &Minio, prefix: &str) -> BucketSettings {
    BucketSettings {
        place: Place::S3(S3Settings {
            endpoint: Some(minio.endpoint()),
            region: minio::REGION.to_owned(),
            bucket: minio::BUCKET.to_owned(),
            path_style: true,
            credentials_dir: Some(minio.credentials_dir()),
            ca_file: None,
        }),
        prefix: format!("{prefix}/"),
    }
}

fn local() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}

/// Request bodies of `records` records each, at least one for every project.
#[must_use]
pub fn bodies(spread: Spread, count: u64, records: usize) -> Vec<Body> {
    // An hour back, so that what is made far ahead is not in the future.
    let start_ms = jiff::Timestamp::now().as_millisecond() - 3_600_000;
    (0..count.max(spread.projects))
        .map(|number| {
            let project = number % spread.projects;
            let mut generator =
                Generator::new(project, spread.services, number, start_ms + number.cast_signed() * 1000);
            Body { key: key(project), bytes: generator.request(records).into(), records: records as u64 }
        })
        .collect()
}

/// A running ingest.
pub struct Ingest {
    /// The process.
    pub process: Process,
    /// Where it takes logs.
    pub url: String,
    /// Where it tells about itself.
    pub admin: String,
}

impl Ingest {
    /// Starts the program built beside this one.
    pub async fn start(dir: &Path, bucket: BucketSettings, spread: Spread) -> Self {
        let mut settings = IngestSettings::new(bucket);
        (settings.http, settings.admin) = (local(), local());
        let mut command = program("spillway-ingest");
        command.arg("--settings").arg(write(dir, "ingest.json", &settings));
        command.arg("--tenants").arg(write(dir, "tenants.json", &tenants(spread)));
        command.env("RUST_LOG", "warn");
        let mut process = Process::start("ingest", dir, &mut command);
        let admin = format!("http://{}", settings.admin);
        ready(&mut process, &format!("{admin}/readyz")).await;
        Self { process, url: format!("http://{}/v1/drain", settings.http), admin }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid().expect("ingest runs")
    }
}

/// Writes the pipeline's first manifest and starts a syncer.
pub async fn syncer(dir: &Path, bucket: BucketSettings, clickhouse: ClickHouseSettings) -> Process {
    let mut settings = SyncerSettings::new(bucket, clickhouse);
    settings.admin = local();
    let file = write(dir, "syncer.json", &settings);
    let command = || {
        let mut command = program("spillway-syncer");
        command.arg("--settings").arg(&file).env("RUST_LOG", "warn");
        command
    };
    let mut init = Process::start("syncer-init", dir, command().arg("--init"));
    let ended = init.wait(Duration::from_secs(60)).await;
    assert!(
        ended.success(),
        "the manifest is written: {}",
        std::fs::read_to_string(dir.join("syncer-init.log")).unwrap_or_default()
    );
    Process::start("syncer", dir, &mut command())
}

async fn ready(process: &mut Process, url: &str) {
    let http = spillway_tests::http::client();
    until(url, Duration::from_secs(30), async || {
        assert!(process.is_running(), "{} ended at once:\n{}", process.name(), process.log());
        let answer = http.get(url).send().await.ok()?;
        answer.status().is_success().then_some(())
    })
    .await;
}

fn write(dir: &Path, name: &str, settings: &impl Serialize) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, serde_json::to_vec_pretty(settings).expect("settings are JSON")).expect("written");
    path
}

pub(crate) fn program(name: &str) -> Command {
    let here = std::env::current_exe().expect("the path of this program");
    let path = here.parent().expect("target/<profile>").join(name);
    assert!(path.exists(), "{} is missing: run make bench", path.display());
    Command::new(path)
}
