//! One `spillway up` per data folder.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

/// Held as long as it lives; the system takes it back when the process dies.
pub struct DataLock(#[expect(dead_code, reason = "only held")] File);

/// Why the folder can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("{0} is used by another spillway; stop that one, or choose another folder with --data")]
    Taken(PathBuf),
    #[error("can't use {path}: {source}; choose another folder with --data")]
    Folder { path: PathBuf, source: io::Error },
}

/// Makes the folder and takes it.
///
/// # Errors
/// When another process has it, or it can't be written.
pub fn take(data: &Path) -> Result<DataLock, LockError> {
    let folder = |source| LockError::Folder { path: data.to_owned(), source };
    if !data.exists() {
        DirBuilder::new().recursive(true).mode(0o700).create(data).map_err(folder)?;
    }
    let file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(data.join("lock"))
        .map_err(folder)?;
    match file.try_lock() {
        Ok(()) => Ok(DataLock(file)),
        Err(TryLockError::WouldBlock) => Err(LockError::Taken(data.to_owned())),
        Err(TryLockError::Error(source)) => Err(folder(source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_user_at_a_time() {
        let parent = tempfile::tempdir().unwrap();
        let data = parent.path().join("data");
        let first = take(&data).unwrap();
        assert!(matches!(take(&data), Err(LockError::Taken(_))));
        drop(first);
        assert!(take(&data).is_ok());
    }
}
