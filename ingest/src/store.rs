//! Where objects are written to: the bucket, or a faulty one in a test.

use bytes::Bytes;
use futures::future::BoxFuture;
use spillway_bucket::{Bucket, BucketError, Put, PutMeta};

/// The one thing that ingest does to a bucket.
pub trait Store: Send + Sync + 'static {
    /// Writes an object that must not exist yet. Repeating it with the same bytes is harmless.
    fn put<'a>(&'a self, key: &'a str, body: Bytes) -> BoxFuture<'a, Result<Put, BucketError>>;
}

impl Store for Bucket {
    fn put<'a>(&'a self, key: &'a str, body: Bytes) -> BoxFuture<'a, Result<Put, BucketError>> {
        Box::pin(async move {
            let meta = PutMeta { content_type: Some("application/gzip"), tagging: None };
            self.put_if_absent(key, body, &meta).await
        })
    }
}
