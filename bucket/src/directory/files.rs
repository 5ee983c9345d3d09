//! Durable file operations: what is reported as done survives a power cut.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// A temporary file older than this belongs to a process that died; no write takes as long.
const STALE: Duration = Duration::from_secs(3600);
const LOCK_POLL: Duration = Duration::from_millis(2);

/// A complete and synced file without its final name. Dropping it removes it.
pub(super) struct Temporary(PathBuf);

impl Temporary {
    /// Gives the file its name unless the name is taken; says whether it was free.
    pub(super) fn create(self, path: &Path) -> io::Result<bool> {
        let linked = match fs::hard_link(&self.0, path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if let Some(parent) = path.parent() {
                    create_dir_synced(parent)?;
                }
                fs::hard_link(&self.0, path)
            }
            other => other,
        };
        match linked {
            Ok(()) => sync_parent(path).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Puts the file in the place of another.
    pub(super) fn replace(self, path: &Path) -> io::Result<()> {
        fs::rename(&self.0, path)?;
        sync_parent(path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After a rename there is nothing to remove, and a leftover is swept at a later start.
        fs::remove_file(&self.0).ok();
    }
}

pub(super) fn write_temporary(dir: &Path, body: &[u8]) -> io::Result<Temporary> {
    let path = dir.join(format!("{}-{:016x}", std::process::id(), rand::random::<u64>()));
    let mut file = match File::create_new(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create_dir_synced(dir)?;
            File::create_new(&path)?
        }
        other => other?,
    };
    let temporary = Temporary(path);
    file.write_all(body)?;
    file.sync_all()?;
    Ok(temporary)
}

pub(super) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Creates a folder and the ones above it, each entry synced in the folder that holds it.
pub(super) fn create_dir_synced(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        create_dir_synced(parent)?;
    }
    match fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_parent(dir),
    }
}

pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => sync_dir(Path::new(".")),
        Some(parent) => sync_dir(parent),
        None => Ok(()),
    }
}

pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    match File::open(dir) {
        Ok(dir) => dir.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes what processes that died have left.
pub(super) fn sweep(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let modified = entry.metadata().and_then(|meta| meta.modified());
        let is_stale =
            modified.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > STALE));
        if is_stale && let Err(error) = fs::remove_file(entry.path()) {
            tracing::warn!(file = %entry.path().display(), %error, "can't remove a stale temporary file");
        }
    }
}

/// Waits for the lock, which ends with the returned file.
///
/// Asks instead of blocking: a holder that is stopped (not dead: the kernel unlocks for the dead) would
/// otherwise hold up a thread for ever.
pub(super) fn lock(path: &Path, patience: Duration) -> io::Result<File> {
    let open = || File::options().create(true).append(true).open(path);
    let file = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            path.parent().map_or(Ok(()), create_dir_synced)?;
            open()?
        }
        other => other?,
    };
    let since = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if since.elapsed() < patience => std::thread::sleep(LOCK_POLL),
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::new(
                    io::ErrorKind::WouldBlock,
                    format!("another process has held {} for {patience:?}", path.display()),
                ));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_stale_leftovers_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let old = dir.path().join("old");
        let new = dir.path().join("new");
        fs::write(&old, "x").unwrap();
        fs::write(&new, "x").unwrap();
        let long_ago = SystemTime::now() - STALE - Duration::from_secs(1);
        File::options().write(true).open(&old).unwrap().set_modified(long_ago).unwrap();
        sweep(dir.path());
        assert!(!old.exists() && new.exists());
    }

    #[test]
    fn a_lock_held_elsewhere_is_an_error_and_not_a_hang() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/lock");
        let held = lock(&path, Duration::ZERO).unwrap();
        let error = lock(&path, Duration::from_millis(20)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(held);
        lock(&path, Duration::ZERO).unwrap();
    }
}
