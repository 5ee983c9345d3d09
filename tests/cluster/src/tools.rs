//! The programs that make up the cluster: one binary built by tests/tools/install.sh, the rest from Debian.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// The pinned versions.
const GO_MOD: &str = include_str!("../../tools/kubernetes/go.mod");
const MINIO_GO_MOD: &str = include_str!("../../tools/minio/go.mod");

/// Debian's packages and the program of each that shows that it is there.
pub const PACKAGES: &[(&str, &str)] = &[
    ("containerd", "/usr/bin/containerd"),
    ("runc", "/usr/sbin/runc"),
    ("containernetworking-plugins", "/usr/lib/cni/bridge"),
    ("catatonit", "/usr/bin/catatonit"),
    ("nftables", "/usr/sbin/nft"),
    ("iproute2", "/usr/sbin/ip"),
];

/// Where tests/tools/install.sh puts what it builds.
#[must_use]
pub fn cache() -> PathBuf {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")));
    base.unwrap_or_else(std::env::temp_dir).join("spillway")
}

/// A version as the go.mod of the tools pins it.
///
/// # Errors
/// When the module isn't there.
pub fn version(module: &str) -> Result<&'static str> {
    pinned(GO_MOD, module)
}

/// # Errors
/// When the module isn't there.
pub fn minio_version() -> Result<&'static str> {
    pinned(MINIO_GO_MOD, "github.com/minio/minio")
}

fn pinned(go_mod: &'static str, module: &str) -> Result<&'static str> {
    go_mod
        .lines()
        .find_map(|line| line.trim().strip_prefix(module)?.strip_prefix(' '))
        .and_then(|rest| rest.split_whitespace().next())
        .with_context(|| format!("no go.mod of the tools pins {module}"))
}

/// The binary that holds the whole of Kubernetes; its first argument says which part.
///
/// # Errors
/// When it isn't built yet.
pub fn kubernetes() -> Result<PathBuf> {
    let path = cache().join("tools").join(format!("kubernetes-{}", version("k8s.io/kubernetes")?));
    if !path.exists() {
        bail!("{} is missing: run tests/tools/install.sh kubernetes", path.display());
    }
    Ok(path)
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
