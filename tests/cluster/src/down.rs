//! Stops what runs and removes what is left, also after a crash.

use std::fs;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::net::{self, NODES};
use crate::{State, cgroup, record};

/// Stops everything and removes the folder. Harmless when nothing runs.
pub fn down(state: &State) {
    let running = record::all(state);
    // Kubelets first, or they would start again what is killed next.
    for one in running.iter().filter(|one| one.name.starts_with("kubelet")) {
        one.stop(Duration::from_secs(2));
    }
    for node in NODES {
        cgroup::remove(&node.namespace());
    }
    stop_shims(state);
    for one in &running {
        one.stop(Duration::from_secs(5));
    }
    unmount(state);
    net::remove();
    fs::remove_dir_all(state.dir()).ok();
}

/// containerd's shims outlive it by design; their command lines name our socket.
fn stop_shims(state: &State) {
    let ours = state.dir().to_string_lossy().into_owned();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command);
        let is_shim = command.split('\0').next().is_some_and(|program| program.contains("containerd-shim"));
        let is_ours = command.split('\0').any(|argument| argument.starts_with(&ours));
        if let Some(pid) = Pid::from_raw(pid).filter(|_| is_shim && is_ours) {
            kill_process(pid, Signal::KILL).ok();
        }
    }
}

/// Whatever is mounted below our folder, deepest first.
fn unmount(state: &State) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let ours = state.dir().to_string_lossy().into_owned();
    let below = |path: &str| path.strip_prefix(&ours).is_some_and(|rest| rest.starts_with('/'));
    let mut points: Vec<_> =
        mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|path| below(path)).collect();
    points.sort_unstable();
    for point in points.iter().rev() {
        Command::new("umount").args(["-l", point]).output().ok();
    }
}
