//! The ClickHouse that `up` works with: the one the pipeline names, else a `clickhouse` program on the PATH, else
//! the embedded one.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{
    child::{Program, Supervised, tail},
    front::{self, FrontError},
    ports::{self, PortError},
    server,
};

/// Until it answers; the first start of a large data folder takes a while.
const PATIENCE: Duration = Duration::from_secs(120);

/// Ends so often before it has answered, and it is not tried again.
const GIVE_UP: u32 = 3;

/// Which ClickHouse.
#[derive(Debug, PartialEq, Eq)]
pub enum Choice {
    /// The pipeline's own.
    Named(String),
    /// A program on the PATH.
    Program(PathBuf),
    /// The engine of chdb-core behind a front.
    Embedded,
}

impl Choice {
    /// Takes the first that there is.
    pub fn make(named: Option<&str>, program: Option<PathBuf>) -> Self {
        match (named, program) {
            (Some(url), _) => Self::Named(url.to_owned()),
            (None, Some(program)) => Self::Program(program),
            (None, None) => Self::Embedded,
        }
    }
}

/// Why there is no ClickHouse.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Port(#[from] PortError),
    #[error(transparent)]
    Front(#[from] FrontError),
    #[error("can't prepare {path}: {source}; choose another folder with --data")]
    Data { path: PathBuf, source: io::Error },
    #[error("can't start {program}: {source}")]
    Spawn { program: PathBuf, source: io::Error },
    #[error("ClickHouse did not begin to answer on {url}; its log {log} ends with:\n{tail}")]
    Silent { url: String, log: PathBuf, tail: String },
}

/// A ClickHouse that answers.
pub struct Running {
    pub url: String,
    /// How it is called in messages.
    pub name: String,
    child: Option<Supervised>,
}

impl Running {
    /// Ends it, if it is ours to end.
    pub async fn stop(self) {
        if let Some(child) = self.child {
            child.stop().await;
        }
    }
}

/// Starts it, unless the pipeline names one, and waits until it answers.
///
/// # Errors
/// Each with what to do about it.
pub async fn start(choice: Choice, data: &Path, port: u16) -> Result<Running, StartError> {
    let name = match &choice {
        Choice::Named(url) => return Ok(Running { url: url.clone(), name: url.clone(), child: None }),
        Choice::Program(program) => program.display().to_string(),
        Choice::Embedded => "embedded ClickHouse".to_owned(),
    };
    let address: SocketAddr = ([127, 0, 0, 1], port).into();
    // Given back at once: the child takes it. Whoever is quicker is seen in its log.
    drop(ports::bind(address, "ClickHouse", "--clickhouse-port").await?);
    let folder = data.join("clickhouse");
    let prepared = |source| StartError::Data { path: folder.clone(), source };
    fs::create_dir_all(&folder).map_err(prepared)?;
    // The child's working folder is ours, but its log must not move when ours does.
    let folder = folder.canonicalize().map_err(prepared)?;
    let program = match choice {
        Choice::Program(program) => server::prepare(program, &folder, port).map_err(prepared)?,
        Choice::Embedded | Choice::Named(_) => prepare_front(folder.clone(), port).await?,
    };
    let log = data.join("clickhouse.log");
    let path = program.path.clone();
    let child = Supervised::start("clickhouse", program, log)
        .map_err(|source| StartError::Spawn { program: path, source })?;
    let url = format!("http://{address}");
    if answers(&url, &child).await {
        return Ok(Running { url, name, child: Some(child) });
    }
    let log = child.log.clone();
    child.stop().await;
    Err(StartError::Silent { url, tail: tail(&log, 15), log })
}

/// Off the runtime's own threads, because it may download for minutes.
async fn prepare_front(folder: PathBuf, port: u16) -> Result<Program, StartError> {
    let path = folder.clone();
    match tokio::task::spawn_blocking(move || front::prepare(&folder, port)).await {
        Ok(prepared) => Ok(prepared?),
        Err(error) => Err(StartError::Data { path, source: io::Error::other(error) }),
    }
}

/// Whether it answers in time. One that ends again and again will not.
async fn answers(url: &str, child: &Supervised) -> bool {
    let started = Instant::now();
    let client = reqwest::Client::new();
    while started.elapsed() < PATIENCE && child.deaths() < GIVE_UP {
        let ping = client.get(format!("{url}/ping")).timeout(Duration::from_secs(2)).send().await;
        if ping.is_ok_and(|answer| answer.status().is_success()) {
            return true;
        }
        sleep(Duration::from_millis(50)).await;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pipelines_own_clickhouse_comes_first_and_the_embedded_one_last() {
        let program = || Some(PathBuf::from("/usr/bin/clickhouse"));
        assert_eq!(Choice::make(Some("http://ch"), program()), Choice::Named("http://ch".into()));
        assert_eq!(Choice::make(None, program()), Choice::Program("/usr/bin/clickhouse".into()));
        assert_eq!(Choice::make(None, None), Choice::Embedded);
    }
}
