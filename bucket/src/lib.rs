//! The bucket: the one place through which staged objects and control files are read and written.
//!
//! Five operations are enough for the whole data path (get, put if absent, swap, list, delete many), so two
//! backends, S3 and a local directory, can keep exactly the same promises. What they promise is written as
//! one test suite that runs over both (`tests/it/contract.rs`).
//!
//! Each call sends one request and never repeats it: the callers know what a repetition means, an SDK does
//! not. The only addition is a look at the key after a conditional write was refused, because a refusal
//! (412 or 409) says neither that our write is there nor that it is not.

mod access;
pub mod configure;
mod digest;
mod directory;
mod empty;
mod error;
mod key;
mod open;
pub mod preflight;
mod s3;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use spillway_model::time::UnixMs;

pub use crate::access::{Access, Identity};
pub use crate::empty::Emptying;
pub use crate::error::{BucketError, Operation};
pub use crate::open::Timeouts;

use crate::directory::DirectoryBucket;
use crate::s3::S3Bucket;

/// The S3 object tag, key and value, of each dead letter.
pub const DEAD_LETTER_TAG: (&str, &str) = ("spillway", "dead-letter");

/// Names one content of a key: the `ETag` of S3, a digest in a directory. Opaque; only good for [`Bucket::swap`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tag(String);

impl Tag {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is known of a key without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub tag: Tag,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the content in hex; `None` for an S3 object that was not written by this crate.
    pub sha256: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Relative to the bucket's prefix.
    pub key: String,
    /// Bytes.
    pub size: u64,
}

/// One page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    pub objects: Vec<Listed>,
    /// The `start_after` of the next page. `None`: this was the last one. A page may hold fewer objects than
    /// were asked for and still have a next one.
    pub next: Option<String>,
}

/// Outcome of [`Bucket::put_if_absent`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Put {
    /// The key holds exactly our bytes, written by this call or by an earlier one whose answer got lost.
    Created(Tag),
    /// The key holds something else.
    Exists,
}

/// Outcome of [`Bucket::swap`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Swap {
    Swapped(Tag),
    /// The key no longer held the expected content: another writer was first.
    Lost,
}

/// What travels with an object besides its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutMeta {
    pub content_type: Option<&'static str>,
    /// S3 object tags as a query string (`kind=dead-letter`), for lifecycle rules. Ignored by a directory.
    pub tagging: Option<String>,
}

/// An S3 bucket or a directory, below one prefix. Cheap to clone; all clones share connections.
#[derive(Clone)]
pub struct Bucket(Arc<Backend>);

enum Backend {
    S3(S3Bucket),
    Directory(DirectoryBucket),
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bucket({})", self.describe())
    }
}

impl Bucket {
    /// Where this bucket is, for messages: `s3://logs/prod/` or a path.
    pub fn describe(&self) -> String {
        match &*self.0 {
            Backend::S3(bucket) => bucket.describe(),
            Backend::Directory(bucket) => bucket.describe(),
        }
    }

    /// The content of a key and its tag; `None` if there is no such key.
    ///
    /// # Errors
    /// Any [`BucketError`]; reading changes nothing, so all may be retried as [`BucketError::is_transient`] says.
    pub async fn get(&self, key: &str) -> Result<Option<(Bytes, Tag)>, BucketError> {
        key::check(Operation::Get, key)?;
        match &*self.0 {
            Backend::S3(bucket) => bucket.get(key).await,
            Backend::Directory(bucket) => bucket.get(key).await,
        }
    }

    /// Tag and size of a key; `None` if there is no such key. A directory reads the whole file for it.
    ///
    /// # Errors
    /// As [`Bucket::get`].
    pub async fn head(&self, key: &str) -> Result<Option<Head>, BucketError> {
        key::check(Operation::Head, key)?;
        match &*self.0 {
            Backend::S3(bucket) => bucket.head(key).await,
            Backend::Directory(bucket) => bucket.head(key).await,
        }
    }

    /// Writes a key that must not exist yet. Durable when it returns. Repeating it with the same bytes is
    /// harmless: what an earlier attempt wrote counts as created.
    ///
    /// # Errors
    /// After an error for which [`BucketError::may_have_happened`] is true the object may be there now or
    /// appear later; retry under the same key.
    pub async fn put_if_absent(&self, key: &str, body: Bytes, meta: &PutMeta) -> Result<Put, BucketError> {
        key::check(Operation::Put, key)?;
        match &*self.0 {
            Backend::S3(bucket) => bucket.put_if_absent(key, body, meta).await,
            Backend::Directory(bucket) => bucket.put_if_absent(key, body).await,
        }
    }

    /// Replaces the content of a key if it still is the one that `expected` names (`None`: if the key does
    /// not exist). Bodies of different writers must differ (carry a nonce), because a lost answer is
    /// recognised by the content.
    ///
    /// # Errors
    /// After an error for which [`BucketError::may_have_happened`] is true, read the key again to learn
    /// whether the swap was ours.
    pub async fn swap(&self, key: &str, expected: Option<&Tag>, body: Bytes) -> Result<Swap, BucketError> {
        key::check(Operation::Swap, key)?;
        match &*self.0 {
            Backend::S3(bucket) => bucket.swap(key, expected, body).await,
            Backend::Directory(bucket) => bucket.swap(key, expected, body).await,
        }
    }

    /// Keys that begin with `prefix` and come after `start_after`, in the order of their UTF-8 bytes, flat.
    /// At most `limit` (S3 gives 1,000 whatever is asked). A directory scans a folder once per page, so ask
    /// for large pages there: memory grows with `limit`, never with the number of files.
    ///
    /// # Errors
    /// As [`Bucket::get`].
    pub async fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
    ) -> Result<Page, BucketError> {
        match &*self.0 {
            Backend::S3(bucket) => bucket.list(prefix, start_after, limit).await,
            Backend::Directory(bucket) => bucket.list(prefix, start_after, limit).await,
        }
    }

    /// Deletes keys; one that is not there counts as deleted. Returns the keys that could not be deleted and
    /// why.
    ///
    /// # Errors
    /// When a request as a whole failed; some keys may be gone. Deleting again is harmless.
    pub async fn delete_many(&self, keys: &[String]) -> Result<Vec<(String, BucketError)>, BucketError> {
        for key in keys {
            key::check(Operation::Delete, key)?;
        }
        match &*self.0 {
            Backend::S3(bucket) => bucket.delete_many(keys).await,
            Backend::Directory(bucket) => bucket.delete_many(keys).await,
        }
    }

    /// The server's clock, to the second; `None` where the clock is our own.
    ///
    /// # Errors
    /// As [`Bucket::get`].
    pub async fn server_time(&self) -> Result<Option<UnixMs>, BucketError> {
        match &*self.0 {
            Backend::S3(bucket) => bucket.server_time().await.map(Some),
            Backend::Directory(_) => Ok(None),
        }
    }
}
