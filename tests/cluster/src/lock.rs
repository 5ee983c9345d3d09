//! One command at a time brings the cluster up or down: namespaces and cgroups have fixed names, so there is one
//! cluster on a machine, wherever it keeps its files.

use std::fs::{File, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

const FILE: &str = "/run/spillway-cluster.lock";

/// Held until it is dropped, or its process ends.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "open for as long as the lock is held")] File);

/// Waits for whoever holds it, for as long as `patience`.
///
/// # Errors
/// When it is still held then; says by which process.
pub fn take(patience: Duration) -> Result<Lock> {
    take_file(Path::new(FILE), patience)
}

fn take_file(path: &Path, patience: Duration) -> Result<Lock> {
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .with_context(|| format!("{} can't be opened", path.display()))?;
    let since = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if since.elapsed() < patience => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder)?;
                bail!("another cluster command is at work (process {})", holder.trim());
            }
            Err(TryLockError::Error(error)) => return Err(error).context("the lock can't be taken"),
        }
    }
    file.set_len(0)?;
    file.rewind()?;
    write!(file, "{}", std::process::id())?;
    Ok(Lock(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_is_at_work_and_comes_to_its_turn_when_the_first_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = take_file(&path, Duration::ZERO).unwrap();
        let refused = take_file(&path, Duration::ZERO).unwrap_err().to_string();
        assert!(refused.contains(&std::process::id().to_string()), "{refused}");

        let second = std::thread::spawn({
            let path = path.clone();
            move || take_file(&path, Duration::from_secs(30)).map(drop)
        });
        drop(first);
        second.join().unwrap().unwrap();
    }
}
