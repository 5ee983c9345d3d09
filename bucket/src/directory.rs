//! The directory backend: the same promises as S3's, kept by the file system of one machine.
//!
//! A new object is a complete, synced temporary file that gets its name by a hard link, which fails if the
//! name is taken: the condition and the effect are one system call, and no reader ever sees half an object.
//! A swap is a compare and a rename under a lock file. Several processes may share the directory.

mod files;
mod list;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;

use crate::digest::sha256_hex;
use crate::error::{BucketError, Operation};
use crate::key::RESERVED_DIR;
use crate::{Head, Page, Put, Swap, Tag};

/// How long a swap waits for its turn. Others hold the lock for the time of two syncs of a small file, so a
/// longer wait means that a holder is stopped.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct DirectoryBucket {
    place: Place,
}

/// Where the files are.
#[derive(Clone, Debug)]
struct Place {
    root: PathBuf,
    prefix: String,
}

impl Place {
    fn path(&self, key: &str) -> PathBuf {
        self.root.join(format!("{}{key}", self.prefix))
    }

    fn temporary(&self) -> PathBuf {
        self.root.join(RESERVED_DIR).join("tmp")
    }

    fn lock(&self) -> PathBuf {
        self.root.join(RESERVED_DIR).join("swap.lock")
    }
}

impl DirectoryBucket {
    pub(crate) async fn open(root: &Path, prefix: &str) -> Result<Self, BucketError> {
        let place = Place { root: root.to_owned(), prefix: prefix.to_owned() };
        let bucket = Self { place };
        bucket
            .run(Operation::Open, "", |place| {
                files::create_dir_synced(&place.temporary())?;
                files::sweep(&place.temporary());
                Ok(())
            })
            .await?;
        Ok(bucket)
    }

    pub(crate) fn describe(&self) -> String {
        format!("{}/{}", self.place.root.display(), self.place.prefix)
    }

    pub(crate) async fn get(&self, key: &str) -> Result<Option<(Bytes, Tag)>, BucketError> {
        let path = self.place.path(key);
        self.run(Operation::Get, key, move |_| {
            Ok(files::read(&path)?.map(|bytes| {
                let tag = tag_of(&bytes);
                (Bytes::from(bytes), tag)
            }))
        })
        .await
    }

    pub(crate) async fn head(&self, key: &str) -> Result<Option<Head>, BucketError> {
        let found = self.get(key).await?;
        Ok(found.map(|(bytes, tag)| Head {
            size: bytes.len() as u64,
            sha256: Some(tag.as_str().to_owned()),
            tag,
        }))
    }

    pub(crate) async fn put_if_absent(&self, key: &str, body: Bytes) -> Result<Put, BucketError> {
        let path = self.place.path(key);
        self.run(Operation::Put, key, move |place| put(place, &path, &body)).await
    }

    pub(crate) async fn swap(
        &self,
        key: &str,
        expected: Option<&Tag>,
        body: Bytes,
    ) -> Result<Swap, BucketError> {
        let path = self.place.path(key);
        let expected = expected.cloned();
        self.run(Operation::Swap, key, move |place| {
            let _turn = files::lock(&place.lock(), LOCK_PATIENCE)?;
            let Some(expected) = expected else {
                return Ok(match put(place, &path, &body)? {
                    Put::Created(tag) => Swap::Swapped(tag),
                    Put::Exists => Swap::Lost,
                });
            };
            let ours = tag_of(&body);
            match files::read(&path)?.map(|bytes| tag_of(&bytes)) {
                Some(present) if present == expected => {
                    files::write_temporary(&place.temporary(), &body)?.replace(&path)?;
                    Ok(Swap::Swapped(ours))
                }
                // An earlier attempt of ours whose outcome was unclear.
                Some(present) if present == ours => {
                    files::sync_parent(&path)?;
                    Ok(Swap::Swapped(ours))
                }
                _ => Ok(Swap::Lost),
            }
        })
        .await
    }

    pub(crate) async fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
    ) -> Result<Page, BucketError> {
        let wanted = list::Wanted {
            prefix: format!("{}{prefix}", self.place.prefix),
            after: start_after.map(|key| format!("{}{key}", self.place.prefix)).unwrap_or_default(),
            limit: limit.max(1),
        };
        let strip = self.place.prefix.len();
        let mut page =
            self.run(Operation::List, prefix, move |place| list::page(&place.root, &wanted)).await?;
        for object in &mut page.objects {
            object.key.drain(..strip);
        }
        if let Some(next) = &mut page.next {
            next.drain(..strip);
        }
        Ok(page)
    }

    pub(crate) async fn delete_many(
        &self,
        keys: &[String],
    ) -> Result<Vec<(String, BucketError)>, BucketError> {
        let keys = keys.to_owned();
        self.run(Operation::Delete, "", move |place| {
            let mut failed = Vec::new();
            let mut folders = std::collections::BTreeSet::new();
            for key in keys {
                let path = place.path(&key);
                match files::remove(&path) {
                    Ok(()) => folders.extend(path.parent().map(Path::to_owned)),
                    Err(error) => failed.push((key.clone(), explain(Operation::Delete, &key, &error))),
                }
            }
            for folder in folders {
                files::sync_dir(&folder)?;
            }
            Ok(failed)
        })
        .await
    }

    /// Runs file work off the async threads. The work goes on if the caller goes away, as a sent request would.
    async fn run<T: Send + 'static>(
        &self,
        operation: Operation,
        key: &str,
        work: impl FnOnce(&Place) -> io::Result<T> + Send + 'static,
    ) -> Result<T, BucketError> {
        let place = self.place.clone();
        match tokio::task::spawn_blocking(move || work(&place)).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(explain(operation, key, &error)),
            Err(stopped) => {
                Err(BucketError::Unavailable { operation, key: key.to_owned(), detail: stopped.to_string() })
            }
        }
    }
}

fn put(place: &Place, path: &Path, body: &Bytes) -> io::Result<Put> {
    if files::write_temporary(&place.temporary(), body)?.create(path)? {
        return Ok(Put::Created(tag_of(body)));
    }
    match files::read(path)? {
        Some(present) if present == *body => {
            // The earlier attempt may have stopped before its name was safe.
            files::sync_parent(path)?;
            Ok(Put::Created(tag_of(body)))
        }
        _ => Ok(Put::Exists),
    }
}

fn tag_of(bytes: &[u8]) -> Tag {
    Tag::new(sha256_hex(bytes))
}

fn explain(operation: Operation, key: &str, error: &io::Error) -> BucketError {
    use io::ErrorKind::{
        AlreadyExists, IsADirectory, NotADirectory, PermissionDenied, ReadOnlyFilesystem, StorageFull,
        Unsupported,
    };
    let key = key.to_owned();
    let detail = error.to_string();
    match error.kind() {
        PermissionDenied | ReadOnlyFilesystem => BucketError::Denied {
            operation,
            key,
            detail,
            remedy: "give this user write access to the directory and everything below it",
        },
        IsADirectory | NotADirectory | AlreadyExists => BucketError::Invalid {
            operation,
            key,
            detail,
            remedy: "a directory can't hold both a key and keys below it: move the file that is in the way",
        },
        Unsupported => BucketError::Invalid {
            operation,
            key,
            detail,
            remedy: "use a file system with hard links and file locks",
        },
        // Nothing is named before it is written out, so a full disk changes nothing.
        StorageFull => BucketError::Unavailable { operation, key, detail },
        _ if operation.changes() && error.kind() != io::ErrorKind::WouldBlock => {
            BucketError::Unclear { operation, key, detail }
        }
        _ => BucketError::Unavailable { operation, key, detail },
    }
}
