//! Objects that are not what the syncer expects hold nothing else up.

use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use spillway_bucket::PutMeta;
use spillway_tests::pipeline::{Pipeline, Servers, Store};
use spillway_tests::proxy::{Action, Reply, Rule};
use spillway_tests::stage::Object;
use spillway_tests::wait::until;

async fn loaded(pipeline: &Pipeline, rows: u64) {
    until("rows in the table", Duration::from_secs(40), async || {
        (pipeline.rows().await == rows).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_other_tools_are_left_alone() {
    let servers = Servers::start().await;
    let mut pipeline = Pipeline::new(&servers, "foreign_keys", Store::Minio).await;
    let foreign =
        ["README.txt", "shop/api/notes.json.gz", "shop/deep/er/than/a/stream.json.gz", "_other/x", "zebra"];
    for key in foreign {
        pipeline
            .bucket
            .put_if_absent(key, Bytes::from_static(b"not ours"), &PutMeta::default())
            .await
            .unwrap();
    }
    pipeline.start_syncer();
    let object = Object::http_requests(50);
    pipeline.stage(&object).await;
    loaded(&pipeline, 50).await;
    for key in foreign {
        assert!(pipeline.bucket.head(key).await.unwrap().is_some(), "{key} was deleted");
    }
    // What is left of the backlog is theirs.
    let keys = foreign.map(str::to_owned);
    pipeline.bucket.delete_many(&keys).await.unwrap();
    pipeline.conclude().await.assert_exact("foreign keys");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_can_not_be_read_for_a_while_waits_alone() {
    let servers = Servers::start().await;
    let mut pipeline = Pipeline::new(&servers, "unreadable", Store::Minio).await;
    let key = pipeline.stage(&Object::http_requests(10)).await;
    let file = key.rsplit('/').next().unwrap();
    let denied = Action::AnswerBefore(Reply::s3(403, "AccessDenied"));
    let rule = pipeline.syncer_s3.add(Rule::new(denied).method(Method::GET).target_has(file));
    pipeline.start_syncer();
    rule.was_taken(1).await;
    for _ in 0..3 {
        pipeline.stage(&Object::http_requests(30)).await;
    }
    loaded(&pipeline, 90).await;
    pipeline.syncer_s3.behave();
    pipeline.conclude().await.assert_exact("an unreadable object");
}
