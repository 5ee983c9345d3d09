//! Pipelines and the Secrets that they name.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};
use spillway_crds::LogPipeline;

use super::space::Space;
use crate::minio;

/// Name of the pipeline that most tests make.
pub const NAME: &str = "logs";

/// A pipeline that MinIO and ClickHouse can serve, with one tenant.
pub fn pipeline(space: &Space) -> LogPipeline {
    with(space, json!({}))
}

/// The same with `change` merged into its spec.
pub fn with(space: &Space, change: Value) -> LogPipeline {
    let mut spec = json!({
        "storage": {
            "s3": {
                "endpoint": space.world.minio.endpoint(),
                "region": minio::REGION,
                "bucket": space.bucket,
                "credentialsSecretRef": {"name": "bucket"},
            },
            "bucketPolicy": {"create": true},
        },
        "clickhouse": {"url": space.world.front.url(), "database": space.database},
        "ingest": {"replicas": 2},
        "tenants": [tenant("shop", "shop-keys")],
    });
    merge(&mut spec, change);
    let mut pipeline = LogPipeline::new(NAME, serde_json::from_value(spec).expect("a spec"));
    pipeline.metadata.namespace = Some(space.namespace.clone());
    pipeline
}

/// A tenant with one project of its own name.
pub fn tenant(name: &str, keys: &str) -> Value {
    json!({"name": name, "projects": [name], "apiKeysSecretRef": {"name": keys}})
}

/// Secrets by the names that [`pipeline`] gives.
pub fn secrets() -> Vec<Secret> {
    vec![
        secret("bucket", &[("access_key_id", minio::ACCESS_KEY), ("secret_access_key", minio::SECRET_KEY)]),
        secret("shop-keys", &[("first", "a-key-of-the-shop-that-is-long-enough")]),
    ]
}

pub fn secret(name: &str, entries: &[(&str, &str)]) -> Secret {
    let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
    let data: BTreeMap<_, _> = entries.iter().map(|&(key, value)| (key.to_owned(), bytes(value))).collect();
    let metadata = ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
    Secret { metadata, data: Some(data), ..Secret::default() }
}

/// JSON merge patch (RFC 7386): null removes.
pub fn merge(target: &mut Value, change: Value) {
    match (target, change) {
        (Value::Object(target), Value::Object(change)) => {
            for (key, value) in change {
                if value.is_null() {
                    target.remove(&key);
                } else {
                    merge(target.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (target, change) => *target = change,
    }
}
