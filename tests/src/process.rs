//! A child process with a log, signals by pid, and an end on drop.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::child::{Guard, tail};

pub struct Process {
    name: String,
    log: PathBuf,
    // Both `None` after the process has ended.
    child: Option<Child>,
    guard: Option<Guard>,
}

impl Process {
    /// Starts `command`; its output is appended to `<dir>/<name>.log`.
    pub fn start(name: &str, dir: &Path, command: &mut Command) -> Self {
        let log = dir.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log).expect("the log file");
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a second handle"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} can't be started ({error}): {command:?}"));
        let guard = Guard::over(child.id(), Path::new(""));
        Self { name: name.to_owned(), log, child: Some(child), guard: Some(guard) }
    }

    /// If this test ends without an end of the process (killed, or held in a static), removes `dir` after it.
    #[must_use]
    pub fn owning(mut self, dir: &Path) -> Self {
        self.guard = self.pid().map(|pid| Guard::over(pid, dir));
        self
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// The end of the log.
    pub fn log(&self) -> String {
        tail(&self.log)
    }

    pub fn is_running(&mut self) -> bool {
        self.exited().is_none()
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
            self.guard = None;
        }
    }

    /// SIGSTOP: paused as by a debugger, a full node or a live migration.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGTERM: asked to drain and stop.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            kill_process(pid, signal).ok();
        }
    }

    /// Waits for the process to end by itself.
    pub async fn wait(&mut self, patience: Duration) -> ExitStatus {
        let since = Instant::now();
        loop {
            if let Some(status) = self.exited() {
                return status;
            }
            assert!(
                since.elapsed() < patience,
                "{} did not end within {patience:?}; its log ends with\n{}",
                self.name,
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// How it ended; a killed one counts as ended without a status.
    fn exited(&mut self) -> Option<ExitStatus> {
        let Some(child) = &mut self.child else { return Some(ExitStatus::default()) };
        let status = child.try_wait().expect("the child can be asked")?;
        self.child = None;
        self.guard = None;
        Some(status)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- {} ---\n{}", self.name, self.log());
        }
    }
}

/// A program of this workspace, built beside the running test.
pub fn built(program: &str) -> Command {
    let test = std::env::current_exe().expect("the path of the test");
    let target = test.parent().and_then(Path::parent).expect("target/<profile>/deps/<test>");
    let path = target.join(program);
    assert!(path.exists(), "{} is missing: cargo build --bins", path.display());
    Command::new(path)
}
