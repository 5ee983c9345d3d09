//! Layers that were written before, in the user's cache: each has a place there, which holds its latest.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::built;
use crate::layer::Layer;

/// Held by one process at a time.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    _lock: File,
}

/// A layer as a file.
#[derive(Clone, Debug)]
pub struct Blob {
    /// SHA-256 in hex.
    pub digest: String,
    /// Bytes.
    pub size: u64,
    pub path: PathBuf,
}

impl Store {
    /// `${XDG_CACHE_HOME:-~/.cache}/spillway/images`; waits while another process has it.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn open() -> Result<Self> {
        Self::open_in(&built::cache().join("images"))
    }

    pub(crate) fn open_in(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("{} can't be made", dir.display()))?;
        let lock = File::options().create(true).append(true).open(dir.join("lock"))?;
        lock.lock()?;
        Ok(Self { dir: dir.to_owned(), _lock: lock })
    }

    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The layer, which is written unless what is in its place was made of the same.
    ///
    /// # Errors
    /// When a file can't be read or the layer can't be written.
    pub fn layer(&self, place: &str, layer: &Layer) -> Result<Blob> {
        let key = layer.key()?;
        let place = self.dir.join(place);
        fs::create_dir_all(&place)?;
        for path in files(&place)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if let Some(digest) = name.strip_prefix(&key).and_then(|rest| rest.strip_prefix('-')) {
                return Ok(Blob { digest: digest.to_owned(), size: fs::metadata(&path)?.len(), path });
            }
        }
        for old in files(&place)? {
            fs::remove_file(old)?;
        }
        let partial = tempfile::NamedTempFile::new_in(&place)?;
        let digest = layer.write(partial.as_file())?;
        let path = place.join(format!("{key}-{digest}"));
        partial.persist(&path)?;
        Ok(Blob { digest, size: fs::metadata(&path)?.len(), path })
    }
}

fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_written_once_and_replaced_when_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open_in(dir.path()).unwrap();
        let make = |text: &str| {
            let mut layer = Layer::default();
            layer.text("/a", text);
            store.layer("place", &layer).unwrap()
        };
        let written = |blob: &Blob| fs::metadata(&blob.path).unwrap().modified().unwrap();
        let first = make("1");
        assert_eq!(written(&first), written(&make("1")));
        let second = make("2");
        assert_ne!(first.digest, second.digest);
        assert!(!first.path.exists() && second.path.exists());
    }
}
