//! Which folder the machine's cluster belongs to. Namespaces and cgroups have fixed names, so there is one cluster at a
//! time, and a second must not end the first by tidying up before itself.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::{State, down, record};

/// Forgotten when the machine starts anew, as everything else.
const FILE: &str = "/run/spillway-cluster";

/// Makes it this folder's. What a crashed one of another folder left is cleaned up.
///
/// # Errors
/// When one of another folder runs.
pub fn take(state: &State) -> Result<()> {
    if let Some(other) = other(state).and_then(|dir| State::open(&dir).ok()) {
        let dir = other.dir().display().to_string();
        if record::all(&other).iter().any(record::Running::is_alive) {
            bail!("a cluster runs in {dir}: stop it first with cluster --dir {dir} down");
        }
        down(&other)?;
    }
    std::fs::write(FILE, state.dir().as_os_str().as_encoded_bytes()).with_context(|| FILE.to_owned())
}

/// Whether what has the fixed names belongs to another folder.
#[must_use]
pub fn is_other(state: &State) -> bool {
    other(state).is_some()
}

pub fn release(state: &State) {
    if !is_other(state) {
        std::fs::remove_file(FILE).ok();
    }
}

/// The folder of the machine's cluster.
#[must_use]
pub fn dir() -> Option<PathBuf> {
    std::fs::read_to_string(FILE).ok().map(PathBuf::from)
}

fn other(state: &State) -> Option<PathBuf> {
    dir().filter(|dir| dir != state.dir() && dir.exists())
}
