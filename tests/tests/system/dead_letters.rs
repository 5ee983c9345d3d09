//! What can't be loaded is put aside with the reason, once, and holds nothing else up.

use std::time::Duration;

use serde_json::Value;
use spillway_model::codec::{self, FormatVersion};
use spillway_model::time::UnixNanos;
use spillway_tests::pipeline::{Pipeline, Servers, Store};
use spillway_tests::stage::Object;

async fn dead_letters(pipeline: &Pipeline) -> Vec<Value> {
    let mut letters = Vec::new();
    for object in pipeline.bucket.list("_dead-letter/", None, 1000).await.unwrap().objects {
        let (bytes, _) = pipeline.bucket.get(&object.key).await.unwrap().unwrap();
        let lines = codec::decode(FormatVersion::V1, &bytes, 1 << 24).unwrap();
        letters.extend(
            lines
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty())
                .map(|line| serde_json::from_slice::<Value>(line).unwrap()),
        );
    }
    letters
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_that_are_no_rows_are_put_aside_and_their_neighbours_are_loaded() {
    let servers = Servers::start().await;
    let mut pipeline = Pipeline::new(&servers, "poison", Store::Minio).await;
    let mut object = Object::http_requests(50);
    object.line("{\"not\": \"a row\"}");
    object.line("not even JSON");
    object.record(UnixNanos::now(), "");
    pipeline.stage(&object).await;
    pipeline.stage(&Object::http_requests(50)).await;
    // The first syncer dies after it has put the letters aside.
    let syncer = pipeline.start_syncer_with(Some("inserting"));
    syncer.wait(Duration::from_secs(40)).await;
    pipeline.start_syncer();
    pipeline.settle().await;
    let letters = dead_letters(&pipeline).await;
    assert_eq!(letters.len(), 2, "{letters:?}");
    assert!(letters.iter().any(|letter| letter.to_string().contains("not even JSON")), "{letters:?}");
    assert!(letters.iter().all(|letter| letter["reason"].is_string()), "{letters:?}");
    let verdict = pipeline.conclude().await;
    verdict.assert_exact("poison");
    assert_eq!(verdict.rows, 101);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_object_is_put_aside_and_the_others_are_loaded() {
    let servers = Servers::start().await;
    let mut pipeline = Pipeline::new(&servers, "damaged", Store::Directory).await;
    pipeline.stage_bytes(b"this is no gzip".to_vec(), 10, 1000).await;
    let object = Object::http_requests(50);
    let mut cut = codec::encode(FormatVersion::V1, &object.lines, 1).unwrap();
    cut.truncate(cut.len() / 2);
    pipeline.stage_bytes(cut, 50, object.lines.len() as u64).await;
    pipeline.stage(&Object::http_requests(50)).await;
    pipeline.start_syncer();
    pipeline.settle().await;
    assert!(!dead_letters(&pipeline).await.is_empty());
    let verdict = pipeline.conclude().await;
    verdict.assert_exact("damaged objects");
    assert_eq!(verdict.rows, 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_clickhouse_refuses_for_good_is_put_aside_alone() {
    let servers = Servers::start().await;
    let mut pipeline = Pipeline::new(&servers, "refused_row", Store::Minio).await;
    let table = pipeline.schema.records();
    let sql = format!("ALTER TABLE {table} ADD CONSTRAINT refused CHECK NOT endsWith(message, '-refused')");
    pipeline.clickhouse.execute(&sql, &[]).await.unwrap();
    let mut object = Object::http_requests(60);
    object.record(UnixNanos::now(), "-refused");
    let refused = object.ids.pop().unwrap();
    pipeline.stage(&object).await;
    pipeline.start_syncer();
    pipeline.settle().await;
    let letters = dead_letters(&pipeline).await;
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert!(letters[0].to_string().contains(&refused), "{letters:?}");
    let verdict = pipeline.conclude().await;
    verdict.assert_exact("a refused row");
    assert_eq!(verdict.rows, 60);
}
