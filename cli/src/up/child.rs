//! A child process kept alive: started again with growing pauses when it ends by itself, ended with ours.

use std::{
    fs::{File, OpenOptions},
    io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A child that has lived this long starts over with the first pause.
const STEADY: Duration = Duration::from_secs(60);
/// From the request to end until it is killed.
const PATIENCE: Duration = Duration::from_secs(20);

/// A supervised child. Dropping it without [`Supervised::stop`] kills the process.
pub struct Supervised {
    stop: CancellationToken,
    task: JoinHandle<()>,
    deaths: Arc<AtomicU32>,
    pub log: PathBuf,
}

impl Supervised {
    /// Starts the program and keeps it running. What it prints goes to the end of the file `log`.
    ///
    /// # Errors
    /// When it can't be started the first time.
    pub fn start(name: &'static str, program: Program, log: PathBuf) -> io::Result<Self> {
        let child = program.spawn(&log)?;
        let (stop, deaths) = (CancellationToken::new(), Arc::default());
        let task = tokio::spawn(keep(name, program, child, log.clone(), Arc::clone(&deaths), stop.clone()));
        Ok(Self { stop, task, deaths, log })
    }

    /// How often it has ended by itself.
    pub fn deaths(&self) -> u32 {
        self.deaths.load(Ordering::Relaxed)
    }

    /// Asks it to end and waits until it has.
    pub async fn stop(self) {
        self.stop.cancel();
        // A panic in the task has been reported by the runtime already.
        let _ = self.task.await;
    }
}

/// How to start a child.
#[derive(Clone)]
pub struct Program {
    pub path: PathBuf,
    pub args: Vec<String>,
    pub env: Vec<(&'static str, String)>,
}

impl Program {
    fn spawn(&self, log: &Path) -> io::Result<Child> {
        let log = open_log(log)?;
        Command::new(&self.path)
            .args(&self.args)
            .envs(self.env.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A Ctrl-C on the terminal must not reach it: ingest and syncer still need it while they drain.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

async fn keep(
    name: &'static str,
    program: Program,
    mut child: Child,
    log: PathBuf,
    deaths: Arc<AtomicU32>,
    stop: CancellationToken,
) {
    let mut pause = FIRST_PAUSE;
    loop {
        let started = Instant::now();
        // `wait` would close it, and a child may take that for our end.
        let _stdin = child.stdin.take();
        let status = tokio::select! {
            status = child.wait() => status,
            () = stop.cancelled() => return end(name, child).await,
        };
        deaths.fetch_add(1, Ordering::Relaxed);
        if started.elapsed() > STEADY {
            pause = FIRST_PAUSE;
        }
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        loop {
            tracing::warn!(child = name, %status, log = %log.display(), "ended by itself; starting it again in {pause:?}");
            tokio::select! {
                () = sleep(pause) => {}
                () = stop.cancelled() => return,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
            match program.spawn(&log) {
                Ok(next) => {
                    child = next;
                    break;
                }
                Err(error) => tracing::error!(child = name, %error, "can't be started"),
            }
        }
    }
}

async fn end(name: &'static str, mut child: Child) {
    if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) {
        // It may have ended in between; `wait` tells.
        let _ = kill_process(pid, Signal::TERM);
    }
    if timeout(PATIENCE, child.wait()).await.is_err() {
        tracing::warn!(child = name, "did not end within {PATIENCE:?}; killing it");
        let _ = child.kill().await;
    }
}

/// The end of a child's log, for a message.
pub fn tail(log: &Path, lines: usize) -> String {
    let text =
        std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Program {
        Program { path: "/bin/sh".into(), args: vec!["-c".into(), script.into()], env: Vec::new() }
    }

    async fn until(log: &Path, lines: usize) -> Vec<String> {
        for _ in 0..200 {
            let text = std::fs::read_to_string(log).unwrap_or_default();
            if text.lines().count() >= lines {
                return text.lines().map(str::to_owned).collect();
            }
            sleep(Duration::from_millis(50)).await;
        }
        panic!("{} never had {lines} lines", log.display());
    }

    #[tokio::test]
    async fn a_child_that_dies_is_started_again() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let child = Supervised::start("test", shell("echo $$; exit 1"), log.clone()).unwrap();
        let pids = until(&log, 2).await;
        assert_ne!(pids[0], pids[1]);
        assert!(child.deaths() >= 1);
        child.stop().await;
    }

    #[tokio::test]
    async fn a_child_can_tell_by_its_stdin_that_we_live() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let child = Supervised::start("test", shell("echo begun; cat; echo orphaned; sleep 60"), log.clone())
            .unwrap();
        until(&log, 1).await;
        sleep(Duration::from_millis(200)).await;
        assert_eq!(until(&log, 1).await, ["begun"]);
        child.stop().await;
    }

    #[tokio::test]
    async fn stopping_asks_the_child_to_end_and_waits_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let script = "trap 'echo ended; exit 0' TERM; echo begun; while :; do sleep 0.05; done";
        let child = Supervised::start("test", shell(script), log.clone()).unwrap();
        until(&log, 1).await;
        child.stop().await;
        assert_eq!(until(&log, 2).await, ["begun", "ended"]);
    }
}
