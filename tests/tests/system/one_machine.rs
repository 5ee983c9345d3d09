//! `spillway up`: the whole pipeline in one process, with a directory as bucket and the ClickHouse that it
//! starts.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use spillway_model::settings::ClickHouseSettings;
use spillway_schema::{ClickHouse, SchemaSpec};
use spillway_tests::child::free_port;
use spillway_tests::pipeline::{API_KEY, PROJECTS};
use spillway_tests::process::{Process, built};
use spillway_tests::traffic::{Traffic, Workload};
use spillway_tests::verdict::{self, Sent};
use spillway_tests::wait::until;

struct Machine {
    dir: tempfile::TempDir,
    http: u16,
    admin: u16,
    syncer_admin: u16,
    clickhouse: u16,
    sent: Arc<Sent>,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("spillway-up-").tempdir().unwrap();
        let manifest = format!(
            "apiVersion: spillway.dev/v1alpha1\nkind: LogPipeline\nmetadata: {{name: test}}\nspec:\n  \
             ingest: {{flush: {{maxAge: 50ms}}}}\n  syncer: {{interval: 100ms, deleteGrace: 1s}}\n  \
             tenants: [{{name: tenant, projects: [{}, {}], apiKeysSecretRef: {{name: keys}}}}]\n---\n\
             apiVersion: v1\nkind: Secret\nmetadata: {{name: keys}}\nstringData: {{first: {API_KEY}}}\n",
            PROJECTS[0], PROJECTS[1]
        );
        std::fs::write(dir.path().join("pipeline.yaml"), manifest).unwrap();
        let [http, admin, syncer_admin, clickhouse] = std::array::from_fn(|_| free_port());
        Self { dir, http, admin, syncer_admin, clickhouse, sent: Arc::default() }
    }

    fn command(&self) -> Command {
        let path = |name: &str| self.dir.path().join(name);
        let local = |port: u16| format!("127.0.0.1:{port}");
        let mut command = built("spillway");
        command.arg("up").arg("--file").arg(path("pipeline.yaml")).arg("--data").arg(path("data"));
        command.args(["--http", &local(self.http), "--admin", &local(self.admin)]);
        command.args(["--syncer-admin", &local(self.syncer_admin)]);
        command.args(["--clickhouse-port", &self.clickhouse.to_string()]);
        // A `clickhouse` program on the PATH would be used instead of the embedded one.
        command.env("PATH", "/usr/bin:/bin");
        command
    }

    /// Starts it, and again while a port is still taken by what a killed one left behind, as a service
    /// manager does.
    async fn start(&self) -> Process {
        let mut process = Process::start("up", self.dir.path(), &mut self.command());
        let http = spillway_tests::http::client();
        let url = format!("http://127.0.0.1:{}/readyz", self.admin);
        until("`up` to be ready", Duration::from_secs(60), async || {
            if !process.is_running() {
                assert!(process.log().contains("is taken"), "`up` ended at once:\n{}", process.log());
                process = Process::start("up", self.dir.path(), &mut self.command());
            }
            let answer = http.get(&url).timeout(Duration::from_secs(1)).send().await;
            answer.ok().filter(|answer| answer.status().is_success())
        })
        .await;
        process
    }

    fn send(&self, workload: Workload) -> Traffic {
        Traffic::start(format!("http://127.0.0.1:{}/v1/drain", self.http), Arc::clone(&self.sent), workload)
    }

    fn clickhouse(&self) -> (ClickHouse, SchemaSpec) {
        let url = format!("http://127.0.0.1:{}", self.clickhouse);
        let settings = ClickHouseSettings { url, ..ClickHouseSettings::default() };
        (ClickHouse::connect(&settings).unwrap(), SchemaSpec::from_settings(&settings))
    }

    /// Waits until the staged objects are gone, which they are a grace after their rows were confirmed.
    async fn settled(&self) {
        let data = self.dir.path().join("data");
        until("the backlog to be empty", Duration::from_secs(60), async || {
            staged_objects(&data).is_empty().then_some(())
        })
        .await;
    }
}

fn staged_objects(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            let name = entry.file_name();
            if !["clickhouse", "_dead-letter", "_spillway"].contains(&name.to_string_lossy().as_ref()) {
                found.extend(staged_objects(&path));
            }
        } else if path.to_string_lossy().ends_with(".json.gz") {
            found.push(path);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_is_killed_and_stopped_under_load_and_comes_back_with_everything() {
    let machine = Machine::new();
    let mut up = machine.start().await;
    let traffic = machine.send(Workload::default());
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_secs(2)).await;
        up.kill();
        up = machine.start().await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    up.terminate();
    let status = up.wait(Duration::from_secs(60)).await;
    assert!(status.success(), "SIGTERM ended it with {status}:\n{}", up.log());
    up = machine.start().await;
    traffic.stop().await;
    machine.send(Workload { records: Some(200), ..Workload::default() }).finish().await;
    machine.settled().await;
    let (clickhouse, schema) = machine.clickhouse();
    let verdict = verdict::compare(&clickhouse, &schema, &machine.sent).await;
    drop(up);
    verdict.assert_exact("one machine");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_is_named_and_nothing_is_started() {
    let machine = Machine::new();
    let taken = std::net::TcpListener::bind(("127.0.0.1", machine.http)).unwrap();
    let mut up = Process::start("up", machine.dir.path(), &mut machine.command());
    let status = up.wait(Duration::from_secs(60)).await;
    assert_eq!(status.code(), Some(3), "{}", up.log());
    assert!(up.log().contains(&machine.http.to_string()), "{}", up.log());
    drop(taken);
}
