//! What tests/tools/install.sh has built, at the versions that the go.mod files pin.
//!
//! Uses nothing but the standard library, so that other crates can include it by path.

use std::path::PathBuf;

const GO_MODS: [&str; 2] =
    [include_str!("../tools/minio/go.mod"), include_str!("../tools/kubernetes/go.mod")];

const REQUIREMENTS: &str = include_str!("../../clickhouse-front/requirements.txt");

/// Where tests/tools/install.sh puts what it builds.
pub fn cache() -> PathBuf {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")));
    base.unwrap_or_else(std::env::temp_dir).join("spillway")
}

/// The folder of chdb-core's Python environment.
///
/// # Errors
/// What to do when it isn't there.
pub fn chdb() -> Result<PathBuf, String> {
    let line = REQUIREMENTS.lines().find_map(|line| line.strip_prefix("chdb-core=="));
    let version = line.and_then(|rest| rest.split_whitespace().next());
    let version = version.ok_or("clickhouse-front/requirements.txt does not pin chdb-core")?;
    let path = cache().join(format!("chdb-{version}"));
    // The installer's last act.
    if path.join("complete").exists() {
        Ok(path)
    } else {
        Err(format!("{} is missing: run tests/tools/install.sh chdb", path.display()))
    }
}

/// The version of a module.
fn version(module: &str) -> Option<&'static str> {
    let pinned = |line: &'static str| line.trim().strip_prefix(module)?.strip_prefix(' ');
    let line = GO_MODS.iter().flat_map(|go_mod| go_mod.lines()).find_map(pinned)?;
    line.split_whitespace().next()
}

/// The program `name`, which is built from `module`.
///
/// # Errors
/// What to do when it isn't there.
pub fn tool(name: &str, module: &str) -> Result<PathBuf, String> {
    let version = version(module).ok_or_else(|| format!("no go.mod of the tools pins {module}"))?;
    let path = cache().join("tools").join(format!("{name}-{version}"));
    if path.exists() {
        Ok(path)
    } else {
        Err(format!("{} is missing: run tests/tools/install.sh {name}", path.display()))
    }
}
