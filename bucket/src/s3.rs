//! The S3 backend.
//!
//! aws-sdk-s3 with its retries off. Its checksums are reduced to where S3 requires them: the signature
//! already covers the body of every PUT, and other stores than AWS trip over the newer headers.

mod client;
mod credentials;
mod failure;
mod setup;
mod versions;
mod web_identity;

use std::sync::Arc;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::{BoxError, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{Delete, EncodingType, ObjectIdentifier};
use bytes::Bytes;
use parking_lot::Mutex;
use percent_encoding::percent_decode_str;
use spillway_model::time::UnixMs;

use crate::digest::sha256_hex;
use crate::error::{BucketError, Operation};
use crate::open::Timeouts;
use crate::{Head, Listed, Page, Put, PutMeta, Swap, Tag};

pub(crate) use client::{Keys, S3Options};
pub(crate) use versions::Marker;

use failure::Failure;

/// Name of the user metadata that holds the digest of the content.
const DIGEST: &str = "sha256";
/// S3 takes and gives at most this many keys per request.
const MAX_KEYS: usize = 1000;

pub(crate) struct S3Bucket {
    client: Client,
    bucket: String,
    region: String,
    prefix: String,
    timeouts: Timeouts,
}

/// Under which condition a PUT takes effect.
#[derive(Clone, Copy)]
enum Condition<'a> {
    Absent,
    Unchanged(&'a Tag),
}

/// How a conditional PUT ended, as far as its answer says.
enum Answer {
    Stored(Tag),
    /// 412, 409, or 404 for a swap of a key that is gone.
    Refused,
}

/// Who wrote the present content of a key.
enum Whose {
    Ours(Tag),
    Theirs,
}

impl S3Bucket {
    pub(crate) fn open(options: S3Options, prefix: &str) -> Result<Self, BucketError> {
        let client = client::connect(&options)?;
        Ok(Self {
            client,
            bucket: options.bucket,
            region: options.region,
            prefix: prefix.to_owned(),
            timeouts: options.timeouts,
        })
    }

    pub(crate) fn describe(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.prefix)
    }

    pub(crate) async fn get(&self, key: &str) -> Result<Option<(Bytes, Tag)>, BucketError> {
        let read = async {
            let request = self.client.get_object().bucket(&self.bucket).key(self.full(key));
            let output = match request.send().await {
                Ok(output) => output,
                Err(error) => return self.unless_missing(Operation::Get, key, &error),
            };
            let tag = Tag::new(output.e_tag.unwrap_or_default());
            let body = output.body.collect().await.map_err(|error| BucketError::Unavailable {
                operation: Operation::Get,
                key: key.to_owned(),
                detail: format!("the answer broke off: {error}"),
            })?;
            Ok(Some((body.into_bytes(), tag)))
        };
        // The SDK's own timeout ends with the head of the answer, a body could hang for ever.
        match tokio::time::timeout(self.timeouts.request, read).await {
            Ok(result) => result,
            Err(_) => Err(BucketError::Unavailable {
                operation: Operation::Get,
                key: key.to_owned(),
                detail: format!("no complete answer within {:?}", self.timeouts.request),
            }),
        }
    }

    pub(crate) async fn head(&self, key: &str) -> Result<Option<Head>, BucketError> {
        match self.client.head_object().bucket(&self.bucket).key(self.full(key)).send().await {
            Ok(output) => Ok(Some(Head {
                tag: Tag::new(output.e_tag.unwrap_or_default()),
                size: output.content_length.and_then(|size| u64::try_from(size).ok()).unwrap_or_default(),
                sha256: output.metadata.and_then(|mut meta| meta.remove(DIGEST)),
            })),
            Err(error) => self.unless_missing(Operation::Head, key, &error),
        }
    }

    pub(crate) async fn put_if_absent(
        &self,
        key: &str,
        body: Bytes,
        meta: &PutMeta,
    ) -> Result<Put, BucketError> {
        let digest = sha256_hex(&body);
        match self.put(Operation::Put, key, body.clone(), &digest, meta, Condition::Absent).await? {
            Answer::Stored(tag) => Ok(Put::Created(tag)),
            Answer::Refused => match self.whose(Operation::Put, key, &body, &digest).await? {
                Whose::Ours(tag) => Ok(Put::Created(tag)),
                Whose::Theirs => Ok(Put::Exists),
            },
        }
    }

    pub(crate) async fn swap(
        &self,
        key: &str,
        expected: Option<&Tag>,
        body: Bytes,
    ) -> Result<Swap, BucketError> {
        let digest = sha256_hex(&body);
        let meta = PutMeta { content_type: Some("application/json"), tagging: None };
        let condition = expected.map_or(Condition::Absent, Condition::Unchanged);
        match self.put(Operation::Swap, key, body.clone(), &digest, &meta, condition).await? {
            Answer::Stored(tag) => Ok(Swap::Swapped(tag)),
            Answer::Refused => match self.whose(Operation::Swap, key, &body, &digest).await? {
                Whose::Ours(tag) => Ok(Swap::Swapped(tag)),
                Whose::Theirs => Ok(Swap::Lost),
            },
        }
    }

    pub(crate) async fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
    ) -> Result<Page, BucketError> {
        let output = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(self.full(prefix))
            .set_start_after(start_after.map(|key| self.full(key)))
            .max_keys(i32::try_from(limit.clamp(1, MAX_KEYS)).unwrap_or(1000))
            // XML can't hold every key: one odd name, and without this the whole listing can't be read.
            .encoding_type(EncodingType::Url)
            .send()
            .await
            .map_err(|error| self.fail(Operation::List, prefix, &error))?;
        let encoded = output.encoding_type == Some(EncodingType::Url);
        let mut objects = Vec::new();
        let mut last = None;
        for object in output.contents.unwrap_or_default() {
            let Some(key) = object.key else { continue };
            let key = if encoded { decode(&key) } else { key };
            let Some(key) = key.strip_prefix(&self.prefix) else { continue };
            last = Some(key.to_owned());
            let size = object.size.and_then(|size| u64::try_from(size).ok()).unwrap_or_default();
            objects.push(Listed { key: key.to_owned(), size });
        }
        let next = if output.is_truncated == Some(true) { last } else { None };
        Ok(Page { objects, next })
    }

    pub(crate) async fn delete_many(
        &self,
        keys: &[String],
    ) -> Result<Vec<(String, BucketError)>, BucketError> {
        let mut failed = Vec::new();
        for keys in keys.chunks(MAX_KEYS) {
            let identifiers = keys.iter().map(|key| (key.as_str(), None));
            failed.extend(self.delete_page(Operation::Delete, identifiers).await?);
        }
        Ok(failed)
    }

    /// At most 1,000 keys, each as it is now or in one version.
    async fn delete_page<'a>(
        &self,
        operation: Operation,
        keys: impl Iterator<Item = (&'a str, Option<&'a str>)> + Clone + Send,
    ) -> Result<Vec<(String, BucketError)>, BucketError> {
        let first = keys.clone().next().map_or("", |(key, _)| key);
        let identifiers = keys
            .map(|(key, version)| {
                ObjectIdentifier::builder()
                    .key(self.full(key))
                    .set_version_id(version.map(str::to_owned))
                    .build()
            })
            .collect::<Result<Vec<_>, _>>();
        let delete = identifiers
            .and_then(|objects| Delete::builder().set_objects(Some(objects)).quiet(true).build())
            .map_err(|error| BucketError::Invalid {
                operation,
                key: first.to_owned(),
                detail: error.to_string(),
                remedy: "this is a defect in the caller",
            })?;
        let request = self.client.delete_objects().bucket(&self.bucket).delete(delete);
        let output = request.send().await.map_err(|error| self.fail(operation, first, &error))?;
        let mut failed = Vec::new();
        for error in output.errors.unwrap_or_default() {
            let full = error.key.unwrap_or_default();
            let key = full.strip_prefix(&self.prefix).unwrap_or(&full).to_owned();
            let code = error.code.unwrap_or_default();
            if code == "NoSuchKey" || code == "NoSuchVersion" {
                continue;
            }
            let failure = Failure::of_one_key(code, error.message.unwrap_or_default());
            let error = failure.into_error(operation, &key, &self.bucket);
            failed.push((key, error));
        }
        Ok(failed)
    }

    pub(crate) async fn server_time(&self) -> Result<UnixMs, BucketError> {
        let seen = Arc::new(Mutex::new(None));
        let result = self
            .client
            .head_bucket()
            .bucket(&self.bucket)
            .customize()
            .interceptor(ReadDate(Arc::clone(&seen)))
            .send()
            .await;
        // A refused request still tells the time, and a wrong clock is a reason for being refused.
        let date = seen.lock().take();
        match (date, result) {
            (Some(date), _) => Ok(date),
            (None, Err(error)) => Err(self.fail(Operation::ServerTime, "", &error)),
            (None, Ok(_)) => Err(BucketError::Invalid {
                operation: Operation::ServerTime,
                key: String::new(),
                detail: "the answer has no readable Date header".to_owned(),
                remedy: "let the proxy in front of the store pass the Date header on",
            }),
        }
    }

    async fn put(
        &self,
        operation: Operation,
        key: &str,
        body: Bytes,
        digest: &str,
        meta: &PutMeta,
        condition: Condition<'_>,
    ) -> Result<Answer, BucketError> {
        let request = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(self.full(key))
            .metadata(DIGEST, digest)
            .set_content_type(meta.content_type.map(str::to_owned))
            .set_tagging(meta.tagging.clone())
            .body(ByteStream::from(body));
        let request = match condition {
            Condition::Absent => request.if_none_match("*"),
            Condition::Unchanged(tag) => request.if_match(tag.as_str()),
        };
        match request.send().await {
            Ok(output) => Ok(Answer::Stored(Tag::new(output.e_tag.unwrap_or_default()))),
            Err(error) => {
                let failure = Failure::from_sdk(&error);
                let key_is_gone = matches!(condition, Condition::Unchanged(_)) && failure.is_missing_key();
                if failure.is_refused_condition() || key_is_gone {
                    return Ok(Answer::Refused);
                }
                Err(failure.into_error(operation, key, &self.bucket))
            }
        }
    }

    /// After a refused condition: does the key hold our bytes? A lost answer and its retry look the same as
    /// another writer's success, only the content tells them apart.
    async fn whose(
        &self,
        operation: Operation,
        key: &str,
        body: &Bytes,
        digest: &str,
    ) -> Result<Whose, BucketError> {
        let unclear = |detail: String| BucketError::Unclear { operation, key: key.to_owned(), detail };
        let could_not_look = |error: BucketError| unclear(format!("refused, and then: {error}"));
        match self.head(key).await.map_err(could_not_look)? {
            Some(Head { tag, sha256: Some(theirs), .. }) if theirs == digest => Ok(Whose::Ours(tag)),
            Some(Head { sha256: Some(_), .. }) => Ok(Whose::Theirs),
            Some(Head { size, .. }) if size != body.len() as u64 => Ok(Whose::Theirs),
            // Written by another tool, without our digest.
            Some(_) => match self.get(key).await.map_err(could_not_look)? {
                Some((bytes, tag)) if bytes == body => Ok(Whose::Ours(tag)),
                _ => Ok(Whose::Theirs),
            },
            None if matches!(operation, Operation::Swap) => Ok(Whose::Theirs),
            None => Err(unclear("refused, but the key is not there; it was deleted meanwhile".to_owned())),
        }
    }

    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn fail<E>(&self, operation: Operation, key: &str, error: &SdkError<E, HttpResponse>) -> BucketError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        Failure::from_sdk(error).into_error(operation, key, &self.bucket)
    }

    fn unless_missing<T, E>(
        &self,
        operation: Operation,
        key: &str,
        error: &SdkError<E, HttpResponse>,
    ) -> Result<Option<T>, BucketError>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let failure = Failure::from_sdk(error);
        if failure.is_missing_key() {
            Ok(None)
        } else {
            Err(failure.into_error(operation, key, &self.bucket))
        }
    }
}

/// Undoes `encoding-type=url`, which is form encoding: a space is a plus.
fn decode(key: &str) -> String {
    percent_decode_str(&key.replace('+', " ")).decode_utf8_lossy().into_owned()
}

/// Takes the Date header from an answer; the SDK's outputs don't carry it.
#[derive(Debug)]
struct ReadDate(Arc<Mutex<Option<UnixMs>>>);

impl Intercept for ReadDate {
    fn name(&self) -> &'static str {
        "ReadDate"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date").and_then(parse_date);
        *self.0.lock() = date;
        Ok(())
    }
}

fn parse_date(text: &str) -> Option<UnixMs> {
    jiff::fmt::rfc2822::parse(text).ok().map(|time| UnixMs(time.timestamp().as_millisecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listed_keys_are_decoded_as_forms_are() {
        assert_eq!(decode("a+b/%2Bc%25/%C3%BC"), "a b/+c%/ü");
    }

    #[test]
    fn the_date_header_is_read() {
        assert_eq!(parse_date("Thu, 01 Jan 1970 00:00:01 GMT"), Some(UnixMs(1000)));
        assert_eq!(parse_date("yesterday"), None);
    }
}
