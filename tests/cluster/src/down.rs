//! Stops what runs and removes what is left, also after a crash.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::net::{self, NODES};
use crate::{State, cgroup, owner, record};

/// Stops everything and removes the folder. Harmless when nothing runs.
///
/// Nothing is asked to end in good order: all that it has goes with it.
///
/// # Errors
/// When something can't be removed.
pub fn down(state: &State) -> Result<()> {
    let running = record::all(state);
    let is_ours = !owner::is_other(state);
    // Kubelets before pods, which they would start again, and containerd too, which would forget what it leaves.
    end(&running);
    if is_ours {
        for node in NODES {
            cgroup::remove(&node.namespace());
        }
    }
    kill_shims(state);
    if is_ours {
        // What was started and not yet written down, and whatever somebody ran in there.
        kill_in_networks();
    }
    remove_traces(state);
    unmount(state)?;
    if is_ours {
        remove_results();
        net::remove();
        owner::release(state);
    }
    state.remove()?;
    Ok(())
}

fn end(processes: &[record::Running]) {
    processes.iter().for_each(|one| one.signal(Signal::KILL));
    let since = Instant::now();
    while processes.iter().any(record::Running::is_alive) && since.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// containerd's shims outlive it by design; their command lines name our socket.
fn kill_shims(state: &State) {
    let ours = state.dir().to_string_lossy().into_owned();
    for (pid, dir) in processes() {
        let command = fs::read(dir.join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command);
        let is_shim = command.split('\0').next().is_some_and(|program| program.contains("containerd-shim"));
        if is_shim && command.split('\0').any(|argument| argument.starts_with(&ours)) {
            kill_process(pid, Signal::KILL).ok();
        }
    }
}

fn kill_in_networks() {
    let networks: Vec<_> = NODES.iter().filter_map(|node| net::identity(&net::file(*node))).collect();
    for (pid, dir) in processes() {
        let is_inside = net::identity(&dir.join("ns/net")).is_some_and(|network| networks.contains(&network));
        if is_inside && pid != rustix::process::getpid() {
            kill_process(pid, Signal::KILL).ok();
        }
    }
}

fn processes() -> impl Iterator<Item = (Pid, std::path::PathBuf)> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let pid = entry.file_name().to_string_lossy().parse().ok()?;
        Some((Pid::from_raw(pid)?, entry.path()))
    })
}

/// What containerd, the plugins and kubelet leave in places that can't be chosen.
fn remove_traces(state: &State) {
    for node in NODES {
        // A shim's socket is named after a digest and written down with its task.
        let tasks = format!("{}/run/io.containerd.runtime.v2.task/k8s.io", node.name());
        for task in entries(&state.dir().join(tasks)) {
            let address = fs::read_to_string(task.join("address")).unwrap_or_default();
            if let Some(socket) = address.strip_prefix("unix://") {
                fs::remove_file(socket).ok();
            }
        }
    }
    // A shim that was killed on its own leaves a socket at which nobody listens; one that is starting is young.
    for socket in entries(Path::new("/run/containerd/s")) {
        let age = fs::metadata(&socket).and_then(|metadata| metadata.modified()).map(|made| made.elapsed());
        let is_old = age.is_ok_and(|age| age.is_ok_and(|age| age > Duration::from_secs(60)));
        let refused = |error: std::io::Error| error.kind() == std::io::ErrorKind::ConnectionRefused;
        if is_old && UnixStream::connect(&socket).is_err_and(refused) {
            fs::remove_file(&socket).ok();
        }
    }
    for log in entries(Path::new("/var/log/containers")) {
        if fs::read_link(&log).is_ok_and(|target| target.starts_with(state.dir())) {
            fs::remove_file(&log).ok();
        }
    }
}

/// What the plugins that connect pods wrote down, by the name of the network and of the sandbox.
fn remove_results() {
    let dir = Path::new("/var/lib/cni/results");
    for result in entries(dir) {
        let name = result.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut networks = NODES.iter().map(|node| format!("{}-", node.namespace()));
        let of_ours = networks.find_map(|network| name.strip_prefix(&network)?.strip_suffix("-eth0"));
        if let Some(sandbox) = of_ours {
            fs::remove_file(dir.join(format!("cni-loopback-{sandbox}-lo"))).ok();
            fs::remove_file(&result).ok();
        }
    }
}

fn entries(dir: &Path) -> Vec<std::path::PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Whatever is mounted below our folder, deepest first. What stays mounted might be anybody's: the folder is only removed
/// when nothing does.
fn unmount(state: &State) -> Result<()> {
    let ours = state.dir().to_string_lossy().into_owned();
    let below = |path: &str| path.strip_prefix(&ours).is_some_and(|rest| rest.starts_with('/'));
    for _ in 0..5 {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let mut points: Vec<_> =
            mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|path| below(path)).collect();
        if points.is_empty() {
            return Ok(());
        }
        points.sort_unstable();
        for point in points.iter().rev() {
            Command::new("umount").args(["-l", point]).output().ok();
        }
    }
    bail!("something below {ours} can't be unmounted; see /proc/self/mounts")
}
