//! SIGTERM under load.

use std::time::Duration;

use spillway_model::settings::Span;
use spillway_tests::pipeline::{Pipeline, Servers, Store};
use spillway_tests::traffic::Workload;

const RESTARTS: usize = 10;

async fn ten_restarts(store: Store) {
    let servers = Servers::start().await;
    let mut pipeline = Pipeline::new(&servers, &format!("restarts_{store:?}"), store).await;
    pipeline.start_ingest().await;
    pipeline.start_syncer();
    let traffic = pipeline.send(Workload::default());
    for restart in 0..RESTARTS {
        tokio::time::sleep(Duration::from_millis(300)).await;
        pipeline.ingest().terminate();
        let status = pipeline.ingest().wait(Duration::from_secs(40)).await;
        assert!(
            status.success(),
            "restart {restart}: ingest ended with {status}:\n{}",
            pipeline.ingest().log()
        );
        pipeline.start_ingest().await;
        pipeline.syncer().terminate();
        let status = pipeline.syncer().wait(Duration::from_secs(40)).await;
        assert!(
            status.success(),
            "restart {restart}: the syncer ended with {status}:\n{}",
            pipeline.syncer().log()
        );
        pipeline.start_syncer();
    }
    traffic.stop().await;
    pipeline.conclude().await.assert_exact("ten restarts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_restarts_under_load_lose_nothing_and_double_nothing_in_a_directory() {
    ten_restarts(Store::Directory).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_restarts_under_load_lose_nothing_and_double_nothing_in_minio() {
    ten_restarts(Store::Minio).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_syncer_that_is_told_to_stop_ends_in_time_though_the_store_is_away() {
    let mut servers = Servers::start().await;
    let mut pipeline = Pipeline::new(&servers, "stop_without_store", Store::Minio).await;
    pipeline.syncer_settings.drain_timeout = Span::secs(1);
    pipeline.start_ingest().await;
    pipeline.start_syncer();
    pipeline.send_all(100).await;
    pipeline.settle().await;
    servers.minio.kill();
    pipeline.syncer().terminate();
    pipeline.syncer().wait(Duration::from_secs(20)).await;
    servers.minio.start_again();
    pipeline.start_syncer();
    pipeline.send_all(100).await;
    pipeline.conclude().await.assert_exact("after the stop");
}
