//! One cgroup per node. The processes of its pods are in it, and so can be found and ended.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

const ROOT: &str = "/sys/fs/cgroup";

/// Whether the machine has the unified hierarchy alone.
#[must_use]
pub fn is_v2() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

/// Makes the cgroup in every hierarchy: kubelet wants its root to be there.
///
/// # Errors
/// When one can't be made.
pub fn create(name: &str) -> Result<()> {
    for hierarchy in hierarchies() {
        let dir = hierarchy.join(name);
        fs::create_dir_all(&dir).with_context(|| format!("{} can't be made", dir.display()))?;
        // Version 1 begins without processors and memory, and then takes no process.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let (from, to) = (hierarchy.join(file), dir.join(file));
            if !is_v2() && from.exists() {
                fs::write(&to, fs::read(&from)?)
                    .with_context(|| format!("{} can't be written", to.display()))?;
            }
        }
    }
    if is_v2() {
        // Those that the kernel doesn't have are none that kubelet needs.
        for controller in ["cpuset", "cpu", "io", "memory", "pids"] {
            fs::write(Path::new(ROOT).join("cgroup.subtree_control"), format!("+{controller}")).ok();
        }
    }
    Ok(())
}

/// Makes one and removes it, in every hierarchy that kubelet needs.
///
/// # Errors
/// When it can't be made.
pub fn probe() -> Result<()> {
    let known = if is_v2() {
        fs::read_to_string(Path::new(ROOT).join("cgroup.controllers"))?
    } else {
        hierarchies().iter().map(|dir| format!("{} ", dir.display())).collect()
    };
    for controller in ["cpu", "cpuset", "memory", "pids"] {
        if !known.contains(controller) {
            bail!("there is no controller {controller} in {ROOT}");
        }
    }
    create("spillway-probe")?;
    remove("spillway-probe");
    Ok(())
}

/// Kills every process in it and removes it.
pub fn remove(name: &str) {
    let mut roots = hierarchies();
    // Without controllers, but runc makes its groups there as well.
    roots.push(Path::new(ROOT).join("unified"));
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(10) {
        let dirs: Vec<PathBuf> = roots.iter().flat_map(|root| tree(&root.join(name))).collect();
        let pids: Vec<i32> = dirs.iter().flat_map(|dir| processes(dir)).collect();
        for pid in &pids {
            if let Some(pid) = Pid::from_raw(*pid) {
                kill_process(pid, Signal::KILL).ok();
            }
        }
        // Deepest first.
        dirs.iter().rev().for_each(|dir| {
            fs::remove_dir(dir).ok();
        });
        if roots.iter().all(|root| !root.join(name).exists()) {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn hierarchies() -> Vec<PathBuf> {
    if is_v2() {
        return vec![PathBuf::from(ROOT)];
    }
    let Ok(entries) = fs::read_dir(ROOT) else { return Vec::new() };
    // A symlink is another name of a hierarchy; `unified` holds no controllers.
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()) && entry.file_name() != "unified")
        .map(|entry| entry.path())
        .collect()
}

fn tree(dir: &Path) -> Vec<PathBuf> {
    if !dir.exists() {
        return Vec::new();
    }
    let mut all = vec![dir.to_owned()];
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            all.extend(tree(&entry.path()));
        }
    }
    all
}

fn processes(dir: &Path) -> Vec<i32> {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect()
}
