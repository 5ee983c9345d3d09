//! The programs that make up the cluster: one binary built by tests/tools/install.sh, the rest from Debian.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Error, Result, bail};

use crate::built;

/// Debian's packages and the program of each that shows that it is there.
pub const PACKAGES: &[(&str, &str)] = &[
    ("containerd", "/usr/bin/containerd"),
    ("runc", "/usr/sbin/runc"),
    ("containernetworking-plugins", "/usr/lib/cni/bridge"),
    ("catatonit", "/usr/bin/catatonit"),
    ("nftables", "/usr/sbin/nft"),
    ("iproute2", "/usr/sbin/ip"),
];

/// The binary that holds the whole of Kubernetes; its first argument says which part.
///
/// # Errors
/// When it isn't built yet.
pub fn kubernetes() -> Result<PathBuf> {
    built::tool("kubernetes", "k8s.io/kubernetes").map_err(Error::msg)
}

/// # Errors
/// Names what is missing and how to get it.
pub fn check() -> Result<()> {
    kubernetes()?;
    if !rustix::process::geteuid().is_root() {
        bail!("a cluster needs root: network namespaces, mounts and cgroups");
    }
    let missing: Vec<_> = PACKAGES
        .iter()
        .filter(|(_, program)| !std::path::Path::new(program).exists())
        .map(|(package, _)| *package)
        .collect();
    if !missing.is_empty() {
        bail!("missing: {0}; run apt-get install {0}", missing.join(" "));
    }
    Ok(())
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
