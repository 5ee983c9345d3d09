//! The bucket's own settings: one request each, no decision.

use std::sync::Arc;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::interceptors::{
    AfterDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
};
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::{BoxError, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::types::{
    BucketLifecycleConfiguration, BucketLocationConstraint, BucketVersioningStatus,
    CreateBucketConfiguration, LifecycleRule, ObjectOwnership, PublicAccessBlockConfiguration,
    ServerSideEncryption, ServerSideEncryptionByDefault, ServerSideEncryptionConfiguration,
    ServerSideEncryptionRule, TransitionDefaultMinimumObjectSize, VersioningConfiguration,
};
use bytes::Bytes;
use parking_lot::Mutex;

use super::S3Bucket;
use super::failure::Failure;
use crate::configure::plan::{FoundEncryption, Refusal, RefusalKind, Versioning};
use crate::configure::{ConfigureError, Encryption, rules, wire};
use crate::error::Operation;

/// The lifecycle configuration as the SDK reads it and as it came.
pub(crate) struct Lifecycle {
    pub(crate) rules: Vec<LifecycleRule>,
    smallest: Option<TransitionDefaultMinimumObjectSize>,
    xml: Bytes,
}

impl S3Bucket {
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(crate) fn name(&self) -> &str {
        &self.bucket
    }

    /// `None`: there is no such bucket. Else what the store calls itself.
    pub(crate) async fn find(&self) -> Result<Option<String>, ConfigureError> {
        let seen = Arc::new(Mutex::new(None));
        let request = self.client.head_bucket().bucket(&self.bucket).customize();
        match request.interceptor(ReadServer(Arc::clone(&seen))).send().await {
            Ok(_) => Ok(Some(seen.lock().take().unwrap_or_default())),
            Err(error) => {
                let failure = Failure::from_sdk(&error);
                match failure.status {
                    Some(404) => Ok(None),
                    // An answer to HEAD has no body, and so no code: a wrong key would look like a missing right.
                    Some(401 | 403) => match self.listed().await {
                        Ok(()) => Ok(Some(String::new())),
                        Err(told) => {
                            let failure = if told.status.is_some() { told } else { failure };
                            Err(failure.into_error(Operation::List, "", &self.bucket).into())
                        }
                    },
                    _ => Err(failure.into_error(Operation::Head, "", &self.bucket).into()),
                }
            }
        }
    }

    async fn listed(&self) -> Result<(), Failure> {
        let request = self.client.list_objects_v2().bucket(&self.bucket).max_keys(1);
        request.send().await.map(drop).map_err(|error| Failure::from_sdk(&error))
    }

    /// A bucket that is ours already is as good as one just made.
    pub(crate) async fn create(&self) -> Result<(), ConfigureError> {
        let attempt = self.create_with(true).await;
        let failure = match attempt {
            Err(failure) if failure.refusal().kind == RefusalKind::NotSupported => {
                // A store that knows neither regions nor ownership.
                self.create_with(false).await.err()
            }
            attempt => attempt.err(),
        };
        let Some(failure) = failure else { return Ok(()) };
        let bucket = self.bucket.clone();
        match failure.code.as_str() {
            "BucketAlreadyOwnedByYou" => Ok(()),
            "BucketAlreadyExists" => Err(ConfigureError::NameTaken { bucket }),
            _ => {
                let source = failure.into_error(Operation::Create, "", &self.bucket);
                Err(ConfigureError::NotCreated { bucket, source })
            }
        }
    }

    async fn create_with(&self, particulars: bool) -> Result<(), Failure> {
        let mut request = self.client.create_bucket().bucket(&self.bucket);
        if particulars {
            request = request.object_ownership(ObjectOwnership::BucketOwnerEnforced);
            // S3 refuses to be told the name of its first region.
            if self.region != "us-east-1" {
                let place = BucketLocationConstraint::from(self.region.as_str());
                request = request.create_bucket_configuration(
                    CreateBucketConfiguration::builder().location_constraint(place).build(),
                );
            }
        }
        request.send().await.map(drop).map_err(|error| Failure::from_sdk(&error))
    }

    pub(crate) async fn public_access_blocked(&self) -> Result<bool, Refusal> {
        let found = found(self.client.get_public_access_block().bucket(&self.bucket).send().await)?;
        Ok(found.and_then(|output| output.public_access_block_configuration).is_some_and(|block| {
            [
                block.block_public_acls,
                block.ignore_public_acls,
                block.block_public_policy,
                block.restrict_public_buckets,
            ]
            .iter()
            .all(|part| *part == Some(true))
        }))
    }

    pub(crate) async fn block_public_access(&self) -> Result<(), Refusal> {
        let block = PublicAccessBlockConfiguration::builder()
            .block_public_acls(true)
            .ignore_public_acls(true)
            .block_public_policy(true)
            .restrict_public_buckets(true)
            .build();
        let request = self.client.put_public_access_block().bucket(&self.bucket);
        written(request.public_access_block_configuration(block).send().await)
    }

    pub(crate) async fn encryption(&self) -> Result<Option<FoundEncryption>, Refusal> {
        Ok(self.encryption_rule().await?.and_then(|rule| {
            let by_default = rule.apply_server_side_encryption_by_default?;
            Some(match by_default.sse_algorithm {
                ServerSideEncryption::Aes256 => FoundEncryption::Aes256,
                ServerSideEncryption::AwsKms | ServerSideEncryption::AwsKmsDsse => FoundEncryption::Kms,
                _ => FoundEncryption::Other,
            })
        }))
    }

    async fn encryption_rule(&self) -> Result<Option<ServerSideEncryptionRule>, Refusal> {
        let found = found(self.client.get_bucket_encryption().bucket(&self.bucket).send().await)?;
        let rules = found.and_then(|output| output.server_side_encryption_configuration).map(|all| all.rules);
        Ok(rules.and_then(|rules| rules.into_iter().next()))
    }

    pub(crate) async fn encrypt(&self, encryption: Encryption) -> Result<(), Refusal> {
        let algorithm = match encryption {
            Encryption::Aes256 => ServerSideEncryption::Aes256,
            Encryption::AwsKms => ServerSideEncryption::AwsKms,
        };
        let by_default = ServerSideEncryptionByDefault::builder().sse_algorithm(algorithm).build();
        let by_default = by_default.map_err(|error| Refusal::failed(error.to_string()))?;
        // What else the rule says stays.
        let rule = ServerSideEncryptionRule::builder()
            .apply_server_side_encryption_by_default(by_default)
            // One key request per bucket and while, in place of one per object.
            .set_bucket_key_enabled((encryption == Encryption::AwsKms).then_some(true))
            .set_blocked_encryption_types(
                self.encryption_rule().await?.and_then(|rule| rule.blocked_encryption_types),
            )
            .build();
        let configuration = ServerSideEncryptionConfiguration::builder().rules(rule).build();
        let configuration = configuration.map_err(|error| Refusal::failed(error.to_string()))?;
        let request = self.client.put_bucket_encryption().bucket(&self.bucket);
        written(request.server_side_encryption_configuration(configuration).send().await)
    }

    pub(crate) async fn versioning(&self) -> Result<Versioning, Refusal> {
        let found = found(self.client.get_bucket_versioning().bucket(&self.bucket).send().await)?;
        Ok(match found.and_then(|output| output.status) {
            Some(BucketVersioningStatus::Enabled) => Versioning::Enabled,
            Some(BucketVersioningStatus::Suspended) => Versioning::Suspended,
            _ => Versioning::Never,
        })
    }

    pub(crate) async fn enable_versioning(&self) -> Result<(), Refusal> {
        let enabled = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
        let request = self.client.put_bucket_versioning().bucket(&self.bucket);
        written(request.versioning_configuration(enabled).send().await)
    }

    pub(crate) async fn lifecycle(&self) -> Result<Lifecycle, Refusal> {
        let body = Arc::new(Mutex::new(Bytes::new()));
        let request = self.client.get_bucket_lifecycle_configuration().bucket(&self.bucket).customize();
        let output = found(request.interceptor(KeepBody(Arc::clone(&body))).send().await)?;
        let Some(output) = output else {
            return Ok(Lifecycle { rules: Vec::new(), smallest: None, xml: Bytes::new() });
        };
        let xml = body.lock().clone();
        Ok(Lifecycle {
            rules: output.rules.unwrap_or_default(),
            smallest: output.transition_default_minimum_object_size,
            xml,
        })
    }

    /// Writes all of the bucket's rules. Refuses, before anything is sent, if a rule of `found` that is not
    /// ours would not go out as it came.
    pub(crate) async fn set_lifecycle(
        &self,
        found: &Lifecycle,
        rules: Vec<LifecycleRule>,
    ) -> Result<(), Refusal> {
        if rules.is_empty() {
            return written(self.client.delete_bucket_lifecycle().bucket(&self.bucket).send().await);
        }
        let configuration = BucketLifecycleConfiguration::builder().set_rules(Some(rules)).build();
        let configuration = configuration.map_err(|error| Refusal::failed(error.to_string()))?;
        let lost = Arc::new(Mutex::new(None));
        let (received, prefix) = (found.xml.clone(), self.prefix.clone());
        let compare = CompareBody { received, prefix, lost: Arc::clone(&lost) };
        let request = self
            .client
            .put_bucket_lifecycle_configuration()
            .bucket(&self.bucket)
            .set_transition_default_minimum_object_size(found.smallest.clone())
            .lifecycle_configuration(configuration)
            .customize();
        let answer = request.interceptor(compare).send().await;
        if let Some(detail) = lost.lock().take() {
            return Err(Refusal { kind: RefusalKind::WouldLose, detail });
        }
        written(answer)
    }
}

impl Refusal {
    pub(crate) fn failed(detail: impl Into<String>) -> Self {
        Self { kind: RefusalKind::Failed, detail: detail.into() }
    }
}

impl Failure {
    fn refusal(&self) -> Refusal {
        let kind = match (self.status, self.code.as_str()) {
            (_, "NotImplemented" | "MethodNotAllowed") | (Some(405 | 501), _) => RefusalKind::NotSupported,
            (Some(401 | 403), _) => RefusalKind::Denied,
            (_, "RequestTimeout") => RefusalKind::Failed,
            // The request is well formed; a store that says otherwise doesn't know what it asks for.
            (Some(400), _) => RefusalKind::NotSupported,
            _ => RefusalKind::Failed,
        };
        Refusal { kind, detail: self.detail.clone() }
    }
}

/// A setting that was never made is answered with 404.
fn found<T, E>(answer: Result<T, SdkError<E, HttpResponse>>) -> Result<Option<T>, Refusal>
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match answer {
        Ok(output) => Ok(Some(output)),
        Err(error) => {
            let failure = Failure::from_sdk(&error);
            if failure.is_missing_key() { Ok(None) } else { Err(failure.refusal()) }
        }
    }
}

fn written<T, E>(answer: Result<T, SdkError<E, HttpResponse>>) -> Result<(), Refusal>
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    answer.map(drop).map_err(|error| Failure::from_sdk(&error).refusal())
}

/// Takes the Server header from an answer.
#[derive(Debug)]
struct ReadServer(Arc<Mutex<Option<String>>>);

impl Intercept for ReadServer {
    fn name(&self) -> &'static str {
        "ReadServer"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        *self.0.lock() = context.response().headers().get("server").map(str::to_owned);
        Ok(())
    }
}

/// Keeps an answer as it came, for what the SDK's types don't hold.
#[derive(Debug)]
struct KeepBody(Arc<Mutex<Bytes>>);

impl Intercept for KeepBody {
    fn name(&self) -> &'static str {
        "KeepBody"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let body = context.response().body().bytes().ok_or("the answer's body is not at hand")?;
        *self.0.lock() = Bytes::copy_from_slice(body);
        Ok(())
    }
}

/// Stops a request whose body lacks something of what was received.
#[derive(Debug)]
struct CompareBody {
    received: Bytes,
    /// By which our own rules are told.
    prefix: String,
    lost: Arc<Mutex<Option<String>>>,
}

impl Intercept for CompareBody {
    fn name(&self) -> &'static str {
        "CompareBody"
    }

    fn read_after_serialization(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if self.received.is_empty() {
            return Ok(());
        }
        let sent = context.request().body().bytes().ok_or("the request's body is not at hand")?;
        match wire::lost(&self.received, sent, &|id| rules::is_our_id(id, &self.prefix))? {
            None => Ok(()),
            Some(lost) => {
                let error = format!("would lose {lost}");
                *self.lost.lock() = Some(lost);
                Err(error.into())
            }
        }
    }
}
