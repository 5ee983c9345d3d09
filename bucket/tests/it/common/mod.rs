//! A MinIO for all tests, and clients that look at it past the code under test.

#[path = "../../../../tests/src/child.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the system tests")]
pub(crate) mod child;
#[path = "../../../../tests/src/minio.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the system tests")]
pub(crate) mod minio;
pub(crate) mod relay;
#[path = "../../../../tests/src/tools.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the system tests")]
mod tools;

use std::sync::LazyLock;

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use minio::{ACCESS_KEY, Minio, REGION, SECRET_KEY};
use spillway_bucket::{Access, Bucket, Identity};
use spillway_model::settings::{BucketSettings, Place, S3Settings};

/// Each test has a bucket or a prefix of its own. Never dropped: its guard ends it.
pub(crate) static MINIO: LazyLock<Minio> = LazyLock::new(Minio::start);

pub(crate) fn root() -> Identity {
    Identity::Keys {
        access_key_id: ACCESS_KEY.to_owned(),
        secret_access_key: SECRET_KEY.to_owned(),
        session_token: None,
    }
}

pub(crate) fn settings(endpoint: &str, bucket: &str, prefix: &str) -> BucketSettings {
    let s3 = S3Settings {
        endpoint: Some(endpoint.to_owned()),
        region: REGION.to_owned(),
        bucket: bucket.to_owned(),
        path_style: true,
        ..S3Settings::default()
    };
    BucketSettings { place: Place::S3(s3), prefix: prefix.to_owned() }
}

pub(crate) async fn open(endpoint: &str, bucket: &str, prefix: &str) -> Bucket {
    open_by(endpoint, bucket, prefix, root()).await
}

pub(crate) async fn open_by(endpoint: &str, bucket: &str, prefix: &str, identity: Identity) -> Bucket {
    Bucket::open_as(&settings(endpoint, bucket, prefix), Access::new(identity)).await.unwrap()
}

fn http() -> aws_sdk_s3::config::SharedHttpClient {
    use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
    aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https()
}

/// The SDK itself.
pub(crate) fn s3() -> aws_sdk_s3::Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(REGION))
        .endpoint_url(MINIO.endpoint())
        .force_path_style(true)
        .http_client(http())
        .credentials_provider(Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "test"))
        .build();
    aws_sdk_s3::Client::from_conf(config)
}

/// Keys for a quarter of an hour that MinIO itself gives out, limited to `policy` (JSON).
pub(crate) async fn session(policy: Option<&str>) -> aws_sdk_sts::types::Credentials {
    let config = aws_sdk_sts::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(REGION))
        .endpoint_url(MINIO.endpoint())
        .http_client(http())
        .credentials_provider(Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "test"))
        .build();
    let request = aws_sdk_sts::Client::from_conf(config).assume_role();
    let request = request.role_arn("arn:aws:iam::000000000000:role/any").role_session_name("test");
    request.set_policy(policy.map(str::to_owned)).send().await.unwrap().credentials.unwrap()
}

pub(crate) async fn session_keys(policy: Option<&str>) -> Identity {
    let given = session(policy).await;
    Identity::Keys {
        access_key_id: given.access_key_id,
        secret_access_key: given.secret_access_key,
        session_token: Some(given.session_token),
    }
}
