//! The programs that make up the cluster: one binary built by tests/tools/install.sh, the rest from Debian.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Error, Result, bail};

use crate::{built, cgroup};

/// Debian's packages and the program of each that shows that it is there; install.sh reads the same list.
fn packages() -> impl Iterator<Item = (&'static str, &'static str)> {
    let lines = include_str!("../../tools/cluster-packages").lines();
    lines.filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(' '))
}

/// The binary that holds the whole of Kubernetes; its first argument says which part.
///
/// # Errors
/// When it isn't built yet.
pub fn kubernetes() -> Result<PathBuf> {
    built::tool("kubernetes", "k8s.io/kubernetes").map_err(Error::msg)
}

/// Why there can be no cluster on this machine; empty: there can.
#[must_use]
pub fn missing() -> Vec<String> {
    let mut missing: Vec<String> = kubernetes().err().iter().map(ToString::to_string).collect();
    let absent: Vec<_> =
        packages().filter(|(_, program)| find(program).is_err()).map(|(package, _)| package).collect();
    if !absent.is_empty() {
        missing.push(format!("programs are missing: apt-get install {}", absent.join(" ")));
    }
    if !rustix::process::geteuid().is_root() {
        missing.push("it needs root, for network namespaces, mounts and cgroups".to_owned());
    }
    if missing.is_empty() {
        missing.extend(PROBES.iter().filter_map(|(script, lacking)| probe(script, lacking)));
        missing.extend(cgroup::probe().err().map(|error| format!("cgroups can't be made: {error:#}")));
    }
    missing
}

/// # Errors
/// Names what is missing and how to get it.
pub fn check() -> Result<()> {
    let missing = missing();
    if !missing.is_empty() {
        bail!("no cluster can run here: {}", missing.join("; "));
    }
    Ok(())
}

/// What a container without privileges, or a kernel without these parts, refuses. Each in namespaces of its own.
const PROBES: &[(&str, &str)] = &[
    ("true", "network and mount namespaces can't be made"),
    (
        "d=$(mktemp -d) && mount -t tmpfs none $d && cd $d && mkdir a b c e && \
         mount -t overlay none -o lowerdir=a,upperdir=b,workdir=c e; s=$?; cd /; umount -R $d; rmdir $d; exit $s",
        "overlay file systems can't be mounted",
    ),
    (
        "nft 'add table ip a; add chain ip a b { type filter hook forward priority 0; }'",
        "nftables has no effect",
    ),
    (
        "ip link add name probe0 type bridge && ip link add name probe1 type veth peer name probe2",
        "bridges and veth links can't be made",
    ),
];

fn probe(script: &str, lacking: &str) -> Option<String> {
    let output = Command::new("unshare").args(["--net", "--mount", "sh", "-c", script]).output();
    let error = match output {
        Ok(output) if output.status.success() => return None,
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    Some(format!("{lacking}: {error}"))
}

/// Where a program is.
///
/// # Errors
/// When it is nowhere.
pub fn find(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // An absolute one stays as it is.
    let found = std::env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.exists());
    found.with_context(|| format!("{program} is missing"))
}

/// Runs a command to its end.
///
/// # Errors
/// With what it wrote, unless it succeeds.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?} can't be started"))?;
    if !output.status.success() {
        bail!("{command:?} failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
