//! Starts the embedded ClickHouse in a folder of its own.
//!
//! The engine is where tests/tools/install.sh puts it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde::de::DeserializeOwned;
use spillway_model::settings::ClickHouseSettings;
use spillway_schema::{ClickHouse, SchemaSpec};

pub(crate) struct Engine {
    child: Child,
    url: String,
    _data: tempfile::TempDir,
}

const REQUIREMENTS: &str = include_str!("../../../../clickhouse-front/requirements.txt");

fn python() -> PathBuf {
    let version = REQUIREMENTS
        .lines()
        .find_map(|line| line.strip_prefix("chdb-core=="))
        .and_then(|rest| rest.split_whitespace().next())
        .expect("the pinned version");
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = folder("XDG_CACHE_HOME")
        .or_else(|| folder("HOME").map(|home| home.join(".cache")))
        .expect("HOME is set");
    let path = cache.join(format!("spillway/chdb-{version}/bin/python"));
    assert!(path.exists(), "{} is missing: run tests/tools/install.sh", path.display());
    path
}

impl Engine {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        let data = tempfile::tempdir().unwrap();
        let front = Path::new(env!("CARGO_MANIFEST_DIR")).join("../clickhouse-front");
        let mut child = Command::new(python())
            .args(["-m", "clickhouse_front", "--port", "0", "--stop-on-stdin-close", "--data"])
            .arg(data.path())
            .args(arguments)
            .env("PYTHONPATH", front)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the embedded ClickHouse (is the virtual environment there?)");
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        let url = ready.split_whitespace().nth(1).expect("the ready line names the URL").to_owned();
        Self { child, url, _data: data }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn client(&self) -> ClickHouse {
        ClickHouse::connect(&ClickHouseSettings { url: self.url.clone(), ..ClickHouseSettings::default() })
            .unwrap()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) async fn run(client: &ClickHouse, sql: &str) {
    client.execute(sql, &[]).await.unwrap_or_else(|e| panic!("{e}\n{sql}"));
}

pub(crate) async fn rows<T: DeserializeOwned>(client: &ClickHouse, sql: &str) -> Vec<T> {
    client.query_json(sql, &[]).await.unwrap_or_else(|e| panic!("{e}\n{sql}"))
}

pub(crate) async fn values(client: &ClickHouse, sql: &str) -> Vec<serde_json::Value> {
    rows(client, sql).await
}

/// `INSERT INTO records SELECT ...` of made-up records `from..from + count` of a batch: two projects, three
/// services, 500 seconds, some errors, some HTTP requests with strange durations.
pub(crate) fn made_up(spec: &SchemaSpec, batch: &str, from: u64, count: u64) -> String {
    format!(
        "INSERT INTO {} (id, project_id, service, timestamp, severity, message, tags, attributes, http_method, \
         http_path, http_status_code, http_duration_ms, retention_days, batch_id, batch_row) \
         SELECT generateUUIDv4(), concat('p', toString(number % 2)), concat('s', toString(number % 3)), \
         now64(9, 'UTC') - number % 500, if(number % 7 = 0, 'error', 'info'), 'payment declined', ['a', 'bc'], \
         map('k', 'v'), 'GET', '/pay', if(number % 5 = 0, 500, 200), \
         multiIf(number % 11 = 0, nan, number % 17 = 0, inf, number % 19 = 0, -1, number % 13 * 1.5), \
         if(number % 2 = 0, 30, 90), '{batch}', number FROM numbers({from}, {count})",
        spec.records(),
    )
}
