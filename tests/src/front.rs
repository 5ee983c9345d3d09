//! The real ClickHouse engine behind its HTTP front, over a folder of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use spillway_model::settings::ClickHouseSettings;

use crate::child::free_port;
use crate::process::Process;
use crate::wait::until;

pub struct Front {
    process: Option<Process>,
    port: u16,
    dir: tempfile::TempDir,
    /// Program and arguments to run it under, as `strace -f`.
    under: Vec<String>,
}

impl Front {
    pub async fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("spillway-front-").tempdir().expect("a temporary folder");
        let mut front = Self { process: None, port: free_port(), dir, under: Vec::new() };
        front.start_again().await;
        front
    }

    /// Starts it over the same data and port after it has ended.
    pub async fn start_again(&mut self) {
        self.process = None;
        let python = python();
        let mut command = match self.under.split_first() {
            None => Command::new(python),
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                command.args(arguments).arg(python);
                command
            }
        };
        command
            .args([
                "-m",
                "clickhouse_front",
                "--host",
                "127.0.0.1",
                "--port",
                &self.port.to_string(),
                "--data",
            ])
            .arg(self.dir.path().join("data"))
            .env("PYTHONPATH", Path::new(env!("CARGO_MANIFEST_DIR")).join("../clickhouse-front"))
            .env("PYTHONUNBUFFERED", "1")
            .env("PYTHONDONTWRITEBYTECODE", "1");
        let mut process = Process::start("clickhouse", self.dir.path(), &mut command).owning(self.dir.path());
        let http = crate::http::client();
        let url = format!("{}/?query=SELECT%201", self.url());
        until("ClickHouse to answer", Duration::from_secs(90), async || {
            assert!(process.is_running(), "ClickHouse ended at once:\n{}", process.log());
            let answer = http.get(&url).timeout(Duration::from_secs(5)).send().await;
            answer.ok().filter(|answer| answer.status().is_success())
        })
        .await;
        self.process = Some(process);
    }

    /// From the next start on, runs the server under another program.
    pub fn run_under(&mut self, command: &[&str]) {
        self.under = command.iter().map(|&part| part.to_owned()).collect();
    }

    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("ClickHouse was started")
    }

    /// SIGKILL; the data stays.
    pub fn kill(&mut self) {
        self.process().kill();
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn settings(&self, database: &str) -> ClickHouseSettings {
        ClickHouseSettings { url: self.url(), database: database.to_owned(), ..ClickHouseSettings::default() }
    }
}

fn python() -> PathBuf {
    crate::tools::chdb().expect("chdb-core is installed").join("bin/python")
}
