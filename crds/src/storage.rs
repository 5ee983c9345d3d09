//! `spec.storage`: where staged objects live.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::reference::{SecretKeyRef, SecretRef};

/// Where staged objects live until they are in ClickHouse.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(oldSelf.s3) || has(self.s3)")
    .message("s3 can't be taken away, because staged objects would stay behind: make another pipeline")
    .field_path(".s3"))]
pub struct StorageSpec {
    /// An S3 bucket. Default: none, and then the pipeline runs only under `spillway up`, on a local directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Spec>,
    /// What is set up on the bucket itself. Default: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket_policy: Option<BucketPolicySpec>,
}

/// An S3 bucket, or one of a server that speaks S3 and honours `If-None-Match` and `If-Match` on PUT.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.credentialsSecretRef) && has(self.serviceAccount))")
    .message("credentialsSecretRef and serviceAccount exclude each other: keep one"))]
#[x_kube(validation = Rule::new("self.bucket == oldSelf.bucket")
    .message("bucket can't be changed, because staged objects would stay behind: make another pipeline")
    .field_path(".bucket"))]
#[x_kube(validation = Rule::new("has(self.prefix) == has(oldSelf.prefix) && (!has(self.prefix) || self.prefix == oldSelf.prefix)")
    .message("prefix can't be changed, because staged objects would stay behind: make another pipeline")
    .field_path(".prefix"))]
pub struct S3Spec {
    /// URL of the server. Default: AWS's own for the region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048), regex(pattern = r"^https?://[^\s/?#@]+(/[^\s?#@]*)?$"))]
    pub endpoint: Option<String>,
    /// Region. Default: `us-east-1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[-_a-zA-Z0-9]+$"))]
    pub region: Option<String>,
    /// Name of the bucket; not to be changed later.
    #[schemars(length(min = 3, max = 63), regex(pattern = r"^[a-z0-9][-.a-z0-9]*[a-z0-9]$"))]
    pub bucket: String,
    /// Put before every key, so that several pipelines can share a bucket; ends with `/`, and is not to be changed
    /// later. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^([^/\x00-\x1f\x7f]+/)+$"))]
    pub prefix: Option<String>,
    /// Secret with `access_key_id`, `secret_access_key` and, if need be, `session_token`.
    /// Default: `serviceAccount`, or what the environment offers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretRef>,
    /// ServiceAccount that the pods run under, bound to a role that may use the bucket. Default: one that the
    /// operator makes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub service_account: Option<String>,
    /// `https://host/bucket/key` in place of `https://bucket.host/key`. Default: true when `endpoint` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_style: Option<bool>,
    /// Certificate authority (PEM) of the server. Default: the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKeyRef>,
}

/// What is set up on the bucket itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BucketPolicySpec {
    /// Create the bucket when it is missing. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create: Option<bool>,
    /// How new objects are encrypted: `AES256` with keys managed by S3, `aws:kms` with the account's KMS key.
    /// Default: left as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
    /// Object versioning. Default: left as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub versioning: Option<bool>,
    /// Refuse every kind of public access. Default: left as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_public_access: Option<bool>,
    /// Days after which dead letters expire, by their tag. Default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3650))]
    pub dead_letter_expiry_days: Option<u16>,
}

/// How a bucket's new objects are encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = crate::units::leave_description_to_the_field)]
pub enum Encryption {
    /// Keys managed by S3.
    #[serde(rename = "AES256")]
    Aes256,
    /// The account's KMS key.
    #[serde(rename = "aws:kms")]
    AwsKms,
}
