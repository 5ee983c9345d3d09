//! What runs: written down as it is started, so that it can be stopped by whoever comes later, and nothing else.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::State;

/// One process, told from a later one with its number by its start time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Running {
    pub name: String,
    pub pid: u32,
    /// Field 22 of proc_pid_stat(5), in clock ticks since boot.
    pub started: u64,
}

impl Running {
    #[must_use]
    pub fn is_alive(&self) -> bool {
        start_time(self.pid) == Some(self.started)
    }

    pub fn signal(&self, signal: Signal) {
        if !self.is_alive() {
            return;
        }
        if let Some(pid) = Pid::from_raw(self.pid.cast_signed()) {
            kill_process(pid, signal).ok();
        }
    }
}

/// Starts a process that outlives this one; its output goes to `log/<name>.log`.
///
/// # Errors
/// When it can't be started or written down.
pub fn start(state: &State, name: &str, command: &mut Command) -> Result<Running> {
    use std::os::unix::process::CommandExt as _;
    let path = state.path(&format!("log/{name}.log"))?;
    let log = File::options().create(true).append(true).open(&path)?;
    let child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .with_context(|| format!("{name} can't be started: {command:?}"))?;
    let started =
        start_time(child.id()).with_context(|| format!("{name} ended at once; see {}", path.display()))?;
    let running = Running { name: name.to_owned(), pid: child.id(), started };
    state.write(&format!("pids/{name}.json"), serde_json::to_vec(&running)?)?;
    Ok(running)
}

/// Everything that was ever started in this folder, whether it still runs or not.
#[must_use]
pub fn all(state: &State) -> Vec<Running> {
    let Ok(entries) = fs::read_dir(state.dir().join("pids")) else { return Vec::new() };
    let read = |path: &Path| serde_json::from_slice(&fs::read(path).ok()?).ok();
    entries.flatten().filter_map(|entry| read(&entry.path())).collect()
}

/// Drops a process that has ended as it should.
pub fn forget(state: &State, name: &str) {
    fs::remove_file(state.dir().join(format!("pids/{name}.json"))).ok();
}

/// The last lines of a process's log.
#[must_use]
pub fn end_of_log(state: &State, name: &str) -> String {
    let log = fs::read_to_string(state.dir().join(format!("log/{name}.log"))).unwrap_or_default();
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}

/// When a process was started; `None` when there is none or it has ended.
#[must_use]
pub fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold spaces and parentheses.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_ended_is_not_taken_for_a_later_one() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let started = start_time(child.id()).unwrap();
        let running = Running { name: "sleep".into(), pid: child.id(), started };
        assert!(running.is_alive());
        assert!(!Running { started: started + 1, ..running.clone() }.is_alive());
        running.signal(Signal::KILL);
        child.wait().unwrap();
        assert!(!running.is_alive());
    }
}
