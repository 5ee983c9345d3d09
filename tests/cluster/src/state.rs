//! Where the cluster keeps what it needs: one folder, removed as a whole when it goes down.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The folder of one cluster.
#[derive(Clone, Debug)]
pub struct State(PathBuf);

impl State {
    /// # Errors
    /// When the folder can't be made.
    pub fn open(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("{} can't be made", dir.display()))?;
        // Mounts and command lines are compared with it.
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
}
