//! The bucket's promises when S3 answers wrongly, late or not at all.

use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use spillway_bucket::{Bucket, BucketError, Put, PutMeta, Swap, Timeouts};
use spillway_model::settings::{BucketSettings, Place, S3Settings};
use spillway_tests::minio::{self, Minio};
use spillway_tests::proxy::{Action, Gate, Proxy, Reply, Rule};

const PATIENCE: Timeouts = Timeouts { connect: Duration::from_secs(1), request: Duration::from_millis(700) };

struct Setting {
    minio: Minio,
    proxy: Proxy,
    bucket: Bucket,
}

async fn setting() -> Setting {
    let minio = tokio::task::spawn_blocking(Minio::start).await.unwrap();
    let proxy = Proxy::start(minio.port()).await;
    let s3 = S3Settings {
        endpoint: Some(proxy.url()),
        region: minio::REGION.to_owned(),
        bucket: minio::BUCKET.to_owned(),
        path_style: true,
        credentials_dir: Some(minio.credentials_dir()),
        ca_file: None,
    };
    let settings = BucketSettings { place: Place::S3(s3), prefix: String::new() };
    let bucket = Bucket::open_with(&settings, PATIENCE).await.unwrap();
    Setting { minio, proxy, bucket }
}

async fn put(bucket: &Bucket, key: &str) -> Result<Put, BucketError> {
    bucket.put_if_absent(key, Bytes::from_static(b"mine"), &PutMeta::default()).await
}

fn writes(action: Action) -> Rule {
    Rule::new(action).method(Method::PUT)
}

/// One server for all: what differs is the key and the rule.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unclear_write_is_settled_by_repeating_it_under_the_same_key() {
    let Setting { minio: _minio, proxy, bucket } = setting().await;
    for (name, action, reason) in [
        ("500-before", Action::AnswerBefore(Reply::s3(500, "InternalError")), "Unclear"),
        ("500-after", Action::AnswerAfter(Reply::s3(500, "InternalError")), "Unclear"),
        ("503-before", Action::AnswerBefore(Reply::s3(503, "SlowDown")), "SlowDown"),
        ("503-after", Action::AnswerAfter(Reply::s3(503, "SlowDown")), "SlowDown"),
        ("409", Action::AnswerBefore(Reply::s3(409, "ConditionalRequestConflict")), "Unclear"),
        ("cut-before", Action::CutBefore, "Unclear"),
        ("cut-after", Action::CutAfter, "Unclear"),
        ("hang-before", Action::HangBefore, "Unclear"),
        ("hang-after", Action::HangAfter, "Unclear"),
    ] {
        let rule = proxy.add(writes(action).times(1));
        let error = put(&bucket, name).await.unwrap_err();
        assert_eq!(error.reason(), reason, "{name}: {error}");
        assert!(error.is_transient() && error.may_have_happened(), "{name}: {error}");
        assert_eq!(rule.taken(), 1, "{name}");
        assert!(matches!(put(&bucket, name).await.unwrap(), Put::Created(_)), "{name}");
        assert!(bucket.get(name).await.unwrap().is_some(), "{name}");
        proxy.behave();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swap_that_took_effect_behind_a_412_or_409_is_recognised() {
    let Setting { minio: _minio, proxy, bucket } = setting().await;
    for (status, code) in [(412, "PreconditionFailed"), (409, "ConditionalRequestConflict")] {
        let key = format!("m-{status}");
        let Swap::Swapped(start) = bucket.swap(&key, None, Bytes::from_static(b"1")).await.unwrap() else {
            panic!("the key was new");
        };
        // As if something on the way had sent the request twice: the second was refused.
        proxy.add(writes(Action::AnswerAfter(Reply::s3(status, code))).times(1));
        let swap = bucket.swap(&key, Some(&start), Bytes::from_static(b"2")).await.unwrap();
        let (_, tag) = bucket.get(&key).await.unwrap().unwrap();
        assert_eq!(swap, Swap::Swapped(tag));
        proxy.behave();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_write_that_did_not_take_effect_is_not_claimed() {
    let Setting { minio: _minio, proxy, bucket } = setting().await;
    put(&bucket, "k").await.unwrap();
    let Some((_, tag)) = bucket.get("k").await.unwrap() else { panic!("just put") };
    proxy.add(writes(Action::AnswerBefore(Reply::s3(412, "PreconditionFailed"))).times(1));
    assert_eq!(bucket.swap("k", Some(&tag), Bytes::from_static(b"2")).await.unwrap(), Swap::Lost);
    proxy.add(writes(Action::AnswerBefore(Reply::s3(412, "PreconditionFailed"))).times(1));
    let error = put(&bucket, "not there").await.unwrap_err();
    assert_eq!(error.reason(), "Unclear", "refused, and nothing there: {error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_put_may_land_after_everybody_has_given_up_on_it() {
    let Setting { minio: _minio, proxy, bucket } = setting().await;
    let gate = Gate::default();
    proxy.add(writes(Action::HoldRequest(gate.clone())).times(1));
    assert_eq!(put(&bucket, "late").await.unwrap_err().reason(), "Unclear");
    assert!(matches!(put(&bucket, "late").await.unwrap(), Put::Created(_)));
    bucket.delete_many(&["late".to_owned()]).await.unwrap();
    gate.open();
    let landed = async || bucket.get("late").await.unwrap();
    spillway_tests::wait::until("the late PUT", Duration::from_secs(10), landed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_killed_comes_back_with_what_it_confirmed() {
    let Setting { mut minio, proxy: _proxy, bucket } = setting().await;
    put(&bucket, "before").await.unwrap();
    minio.kill();
    let error = put(&bucket, "during").await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    minio.start_again();
    assert!(bucket.get("before").await.unwrap().is_some());
    assert!(matches!(put(&bucket, "during").await.unwrap(), Put::Created(_)));
}
