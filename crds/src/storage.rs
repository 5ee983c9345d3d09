//! `spec.storage`: where staged objects live.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::reference::{SecretKeyRef, SecretRef};

/// Where staged objects live until they are in ClickHouse.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StorageSpec {
    /// An S3 bucket. Without it the pipeline runs only under `spillway up`, on a local directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Spec>,
    /// What is set up on the bucket itself. Without it the bucket is left as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket_policy: Option<BucketPolicySpec>,
}

/// An S3 bucket, or one of a server that speaks S3 and honours `If-None-Match` and `If-Match` on PUT.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.credentialsSecretRef) && has(self.serviceAccount))")
    .message("credentialsSecretRef and serviceAccount exclude each other: keep one"))]
pub struct S3Spec {
    /// URL of the server. Default: AWS's own for the region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub endpoint: Option<String>,
    /// Region. Default: `us-east-1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub region: Option<String>,
    /// Name of the bucket.
    #[schemars(length(min = 3, max = 63))]
    pub bucket: String,
    /// Put before every key, so that several pipelines can share a bucket; ends with `/`. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub prefix: Option<String>,
    /// Secret with `access_key_id`, `secret_access_key` and, if need be, `session_token`.
    /// Default: what the environment offers (IRSA, instance role).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretRef>,
    /// ServiceAccount that the pods run under, bound to a role that may use the bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
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
    /// Default encryption of new objects. Default: left as it is.
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

/// Default encryption of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Encryption {
    /// Keys managed by S3.
    #[serde(rename = "AES256")]
    Aes256,
    /// The account's KMS key.
    #[serde(rename = "aws:kms")]
    AwsKms,
}
