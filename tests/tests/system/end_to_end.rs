//! From a request to a row.

use std::time::Duration;

use spillway_tests::pipeline::{Pipeline, Servers, Store};
use spillway_tests::traffic::Workload;
use spillway_tests::wait::until;

async fn load(store: Store) {
    let servers = Servers::start().await;
    let mut pipeline = Pipeline::new(&servers, &format!("load_{store:?}"), store).await;
    pipeline.start_ingest().await;
    pipeline.start_syncer();
    pipeline.send_all(1000).await;
    pipeline.send(Workload { records: Some(500), days: 12, ..Workload::default() }).finish().await;
    let verdict = pipeline.conclude().await;
    verdict.assert_exact("load");
    assert_eq!(verdict.acknowledged, 1500);
    assert_eq!(verdict.rows, 1500);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_over_http_is_in_the_table_and_in_the_views_by_way_of_a_directory() {
    load(Store::Directory).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_over_http_is_in_the_table_and_in_the_views_by_way_of_minio() {
    load(Store::Minio).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_clickhouse_is_away_the_backlog_grows_and_ingest_goes_on() {
    let mut servers = Servers::start().await;
    let mut pipeline = Pipeline::new(&servers, "away", Store::Minio).await;
    pipeline.syncer_settings.batch.max_rows = 200;
    pipeline.start_ingest().await;
    pipeline.start_syncer();
    pipeline.send_all(200).await;
    pipeline.settle().await;
    servers.front.kill();
    pipeline.send_all(1000).await;
    assert!(!pipeline.backlog().await.is_empty(), "what can't be loaded waits in the bucket");
    let syncer = pipeline.syncer();
    assert!(syncer.is_running(), "an absent ClickHouse is no reason to end:\n{}", syncer.log());
    servers.front.start_again().await;
    let verdict = pipeline.conclude().await;
    verdict.assert_exact("after ClickHouse came back");
    assert_eq!(verdict.rows, 1200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_s3_is_away_requests_are_held_or_refused_and_nothing_is_lost() {
    let mut servers = Servers::start().await;
    let mut pipeline = Pipeline::new(&servers, "s3_away", Store::Minio).await;
    pipeline.start_ingest().await;
    pipeline.start_syncer();
    let traffic = pipeline.send(Workload::default());
    let sent = async |more: u64| {
        let target = pipeline.sent().count() + more;
        until("acknowledged records", Duration::from_secs(30), async || {
            (pipeline.sent().count() >= target).then_some(())
        })
        .await;
    };
    sent(200).await;
    servers.minio.kill();
    tokio::time::sleep(Duration::from_secs(3)).await;
    servers.minio.start_again();
    sent(200).await;
    traffic.stop().await;
    pipeline.conclude().await.assert_exact("after S3 came back");
}
