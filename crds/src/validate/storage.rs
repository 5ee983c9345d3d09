//! `spec.storage` and `spec.clickhouse`, checked.

use super::{Problem, read::Reader};
use crate::{
    clickhouse::ClickHouseSpec,
    reference::SecretKeyRef,
    storage::{BucketPolicySpec, S3Spec, StorageSpec},
};

/// Where staged objects live.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Storage {
    /// `None`: a local directory, under `spillway up` only.
    pub s3: Option<S3>,
    pub policy: Option<BucketPolicySpec>,
}

/// An S3 bucket.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct S3 {
    pub endpoint: Option<String>,
    pub region: Option<String>,
    pub bucket: String,
    /// Empty, or ends with `/`.
    pub prefix: String,
    pub path_style: Option<bool>,
    /// Name of the Secret.
    pub credentials: Option<String>,
    pub service_account: Option<String>,
    pub ca: Option<SecretKeyRef>,
}

/// The ClickHouse server.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClickHouse {
    /// `None`: one of its own, under `spillway up` only.
    pub url: Option<String>,
    pub database: Option<String>,
    pub cluster: Option<String>,
    /// Name of the Secret.
    pub credentials: Option<String>,
    pub ca: Option<SecretKeyRef>,
}

pub(super) fn check(reader: &mut Reader, spec: &StorageSpec) -> Storage {
    let StorageSpec { s3, bucket_policy } = spec;
    let BucketPolicySpec {
        create: _,
        encryption: _,
        versioning: _,
        block_public_access: _,
        dead_letter_expiry_days,
    } = bucket_policy.clone().unwrap_or_default();
    if let Some(days) = dead_letter_expiry_days {
        reader.range("spec.storage.bucketPolicy.deadLetterExpiryDays", u64::from(days), 1, 3650);
    }
    Storage { s3: s3.as_ref().map(|s3| check_s3(reader, s3)), policy: bucket_policy.clone() }
}

fn check_s3(reader: &mut Reader, spec: &S3Spec) -> S3 {
    let S3Spec {
        endpoint,
        region,
        bucket,
        prefix,
        credentials_secret_ref,
        service_account,
        path_style,
        ca_secret_ref,
    } = spec;
    if credentials_secret_ref.is_some() && service_account.is_some() {
        reader.refuse(
            "spec.storage.s3.credentialsSecretRef",
            Problem::Exclusive { other: "spec.storage.s3.serviceAccount" },
        );
    }
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let ends = |c: char| plain(c) && c.is_ascii_alphanumeric();
    let good = bucket.chars().all(plain) && bucket.starts_with(ends) && bucket.ends_with(ends);
    if bucket.len() < 3 || bucket.len() > 63 || !good {
        reader.refuse(
            "spec.storage.s3.bucket",
            Problem::Malformed {
                text: bucket.clone(),
                why: "is no bucket name",
                remedy: "use 3 to 63 lower-case letters, digits, '-' and '.', and begin and end with a letter or digit",
            },
        );
    }
    let secret = credentials_secret_ref.as_ref().map(|secret| secret.name.as_str());
    let credentials = reader.object_name("spec.storage.s3.credentialsSecretRef.name", secret);
    let service_account = reader.object_name("spec.storage.s3.serviceAccount", service_account.as_deref());
    reader.object_name("spec.storage.s3.caSecretRef.name", ca_secret_ref.as_ref().map(|ca| ca.name.as_str()));
    let prefix = prefix.clone().unwrap_or_default();
    if !good_prefix(&prefix) {
        reader.refuse(
            "spec.storage.s3.prefix",
            Problem::Malformed {
                text: prefix.clone(),
                why: "is no prefix",
                remedy: "end it with '/', don't begin with one, and leave out '//', '..' and control characters",
            },
        );
    }
    S3 {
        path_style: *path_style,
        endpoint: reader.url(
            "spec.storage.s3.endpoint",
            endpoint.as_deref(),
            "https://minio.example.com:9000",
        ),
        region: region.clone(),
        bucket: bucket.clone(),
        prefix,
        credentials,
        service_account,
        ca: ca_secret_ref.clone(),
    }
}

fn good_prefix(prefix: &str) -> bool {
    let parts = prefix.strip_suffix('/').map(|parts| parts.split('/'));
    prefix.is_empty()
        || prefix.len() <= 512
            && parts.is_some_and(|mut parts| {
                parts.all(|part| {
                    !part.is_empty() && part != "." && part != ".." && !part.contains(char::is_control)
                })
            })
}

pub(super) fn check_clickhouse(reader: &mut Reader, spec: &ClickHouseSpec) -> ClickHouse {
    let ClickHouseSpec { url, database, cluster, credentials_secret_ref, ca_secret_ref } = spec;
    let secret = credentials_secret_ref.as_ref().map(|secret| secret.name.as_str());
    let ca = ca_secret_ref.as_ref().map(|ca| ca.name.as_str());
    let credentials = reader.object_name("spec.clickhouse.credentialsSecretRef.name", secret);
    reader.object_name("spec.clickhouse.caSecretRef.name", ca);
    ClickHouse {
        url: reader.url("spec.clickhouse.url", url.as_deref(), "https://clickhouse.example.com:8443"),
        database: reader.identifier("spec.clickhouse.database", database.as_deref()),
        cluster: reader.identifier("spec.clickhouse.cluster", cluster.as_deref()),
        credentials,
        ca: ca_secret_ref.clone(),
    }
}
