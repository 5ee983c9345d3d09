//! Where the cluster keeps what it needs: one folder, removed as a whole when it goes down.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::owner;

/// What tells such a folder from any other: nobody's files may go with it.
const MARK: &str = "pids";

/// The folder of one cluster.
#[derive(Clone, Debug)]
pub struct State(PathBuf);

impl State {
    /// Makes it if it isn't there.
    ///
    /// # Errors
    /// When it can't be made, or holds something else.
    pub fn open(dir: &Path) -> Result<Self> {
        let made = || format!("{} can't be made", dir.display());
        std::fs::create_dir_all(dir).with_context(made)?;
        let is_empty = std::fs::read_dir(dir)?.next().is_none();
        // Somebody may have removed as much of it as he could while it ran.
        let is_ours = dir.join(MARK).is_dir() || owner::dir() == dir.canonicalize().ok();
        if !is_empty && !is_ours {
            bail!("{} holds other files than a cluster's: choose an empty folder", dir.display());
        }
        std::fs::create_dir_all(dir.join(MARK)).with_context(made)?;
        // Mounts and command lines are compared with it.
        Ok(Self(dir.canonicalize()?))
    }

    /// The folder of a cluster that was brought up.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(dir: &Path) -> Result<Self> {
        if !dir.join(MARK).is_dir() {
            bail!("no cluster in {}: start one with cluster up", dir.display());
        }
        Ok(Self(dir.canonicalize()?))
    }

    /// `${XDG_CACHE_HOME:-~/.cache}/spillway/cluster`.
    #[must_use]
    pub fn default_dir() -> PathBuf {
        crate::built::cache().join("cluster")
    }

    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// A path inside; the folder it lies in is made.
    ///
    /// # Errors
    /// When the folder can't be made.
    pub fn path(&self, name: &str) -> Result<PathBuf> {
        let path = self.0.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).with_context(|| format!("{} can't be made", parent.display()))?;
        }
        Ok(path)
    }

    /// Writes a file inside.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.path(name)?;
        std::fs::write(&path, content).with_context(|| format!("{} can't be written", path.display()))?;
        Ok(path)
    }

    /// What every client of the cluster uses, from inside of the first node's network.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.0.join("admin.kubeconfig")
    }

    /// The mark goes last: what a removal leaves can be removed again.
    pub(crate) fn remove(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.0)? {
            let entry = entry?;
            if entry.file_name() == MARK {
                continue;
            }
            if entry.file_type()?.is_dir() {
                std::fs::remove_dir_all(entry.path())?;
            } else {
                std::fs::remove_file(entry.path())?;
            }
        }
        std::fs::remove_dir_all(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_anybodys_files_is_never_taken_for_a_clusters() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("thesis"), "years").unwrap();
        State::open(dir.path()).unwrap_err();
        State::find(dir.path()).unwrap_err();

        let own = dir.path().join("own");
        State::find(&own).unwrap_err();
        State::open(&own).unwrap().write("a/b", "").unwrap();
        State::open(&own).unwrap();
        State::find(&own).unwrap().remove().unwrap();
        assert!(!own.exists());
    }
}
