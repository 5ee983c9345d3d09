//! Emptying a bucket takes what is the pipeline's and nothing else.

use crate::common::{MINIO, open, open_by, s3, session_keys};
use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};
use bytes::Bytes;
use futures::future::join_all;
use spillway_bucket::{Bucket, Emptying, PutMeta, Swap};
use spillway_model::settings::BucketSettings;

const FILE: &str = "20260131T235959042Z-a-0000000007-v1-100-54300.json.gz";

async fn put(bucket: &Bucket, key: &str) {
    bucket.put_if_absent(key, Bytes::from_static(b"x"), &PutMeta::default()).await.unwrap();
}

async fn fill(bucket: &Bucket, count: u64) {
    let keys: Vec<String> =
        (0..count).map(|n| format!("shop/api/20260131T235959042Z-a-{n:010}-v1-100-54300.json.gz")).collect();
    for keys in keys.chunks(64) {
        join_all(keys.iter().map(|key| put(bucket, key))).await;
    }
    for key in [
        format!("_packed/{FILE}"),
        "_dead-letter/2026-11-22/1-1.json.gz".to_owned(),
        "_spillway/x".to_owned(),
    ] {
        put(bucket, &key).await;
    }
}

async fn keys(bucket: &Bucket) -> Vec<String> {
    bucket.list("", None, 1000).await.unwrap().objects.into_iter().map(|object| object.key).collect()
}

async fn empties(bucket: &Bucket) {
    fill(bucket, 1_500).await;
    let foreign = ["readme.txt".to_owned(), format!("two/_packed/{FILE}"), format!("two/shop/api/{FILE}")];
    for key in &foreign {
        put(bucket, key).await;
    }
    let mut progress = Emptying::keeping_for_last(["_spillway/x"]);
    bucket.empty(&mut progress).await.unwrap();
    assert_eq!((progress.deleted, progress.foreign, progress.failed), (1_503, 3, 0), "{progress:?}");
    assert_eq!(progress.examples, foreign);
    assert_eq!(keys(bucket).await, foreign);
    let mut again = Emptying::default();
    bucket.empty(&mut again).await.unwrap();
    assert_eq!((again.deleted, again.foreign), (0, 3));
}

#[tokio::test]
async fn what_is_spillways_goes_and_the_rest_stays() {
    s3().create_bucket().bucket("plain").send().await.unwrap();
    let other = open(&MINIO.endpoint(), "plain", "elsewhere/").await;
    put(&other, &format!("shop/api/{FILE}")).await;
    empties(&open(&MINIO.endpoint(), "plain", "logs/").await).await;
    assert_eq!(keys(&other).await.len(), 1, "nothing outside the prefix is looked at");
    let dir = tempfile::tempdir().unwrap();
    empties(&Bucket::open(&BucketSettings::directory(dir.path())).await.unwrap()).await;
}

async fn versioned(name: &str) -> Bucket {
    s3().create_bucket().bucket(name).send().await.unwrap();
    let enabled = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
    s3().put_bucket_versioning().bucket(name).versioning_configuration(enabled).send().await.unwrap();
    open(&MINIO.endpoint(), name, "logs/").await
}

async fn versions(name: &str) -> usize {
    let output = s3().list_object_versions().bucket(name).send().await.unwrap();
    output.versions().len() + output.delete_markers().len()
}

#[tokio::test]
async fn with_versioning_old_versions_and_delete_markers_go_too() {
    let bucket = versioned("versioned").await;
    let mut tag = None;
    for n in 0..5 {
        let body = Bytes::from(format!("{n}"));
        let Swap::Swapped(next) = bucket.swap("_spillway/manifest.json", tag.as_ref(), body).await.unwrap()
        else {
            panic!("nobody else swaps")
        };
        tag = Some(next);
    }
    let gone = format!("shop/api/{FILE}");
    put(&bucket, &gone).await;
    bucket.delete_many(&[gone]).await.unwrap();
    put(&bucket, "readme.txt").await;
    assert_eq!(versions("versioned").await, 8);

    let mut progress = Emptying::keeping_for_last(["_spillway/manifest.json"]);
    bucket.empty(&mut progress).await.unwrap();
    assert_eq!((progress.deleted, progress.foreign), (7, 1), "{progress:?}");
    assert_eq!(progress.versions_kept, None);
    assert_eq!(versions("versioned").await, 1);
}

#[tokio::test]
async fn without_the_permission_for_versions_what_is_current_goes() {
    put(&versioned("guarded").await, &format!("shop/api/{FILE}")).await;
    let only_current = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:ListBucket","s3:DeleteObject"],"Resource":["arn:aws:s3:::*"]}]}"#;
    let bucket = open_by(&MINIO.endpoint(), "guarded", "logs/", session_keys(Some(only_current)).await).await;
    let mut progress = Emptying::keeping_for_last(["_spillway/owner.json"]);
    bucket.empty(&mut progress).await.unwrap();
    assert_eq!((progress.deleted, progress.failed), (1, 0), "{progress:?}");
    let why = progress.versions_kept.unwrap();
    assert!(why.to_string().contains("s3:DeleteObjectVersion"), "{why}");
    assert_eq!(keys(&bucket).await, Vec::<String>::new());
    assert_eq!(versions("guarded").await, 2, "the version and its delete marker");
}
