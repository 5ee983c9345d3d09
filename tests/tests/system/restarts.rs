//! SIGTERM under load.

use std::time::Duration;

use spillway_model::settings::Span;
use spillway_tests::pipeline::{API_KEY, PROJECTS, Pipeline, Servers, Store};
use spillway_tests::process::built;
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

/// The program's own generator judges itself: its verdict is what users will go by.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_verdict_of_send_stays_clean_through_ten_restarts() {
    let servers = Servers::start().await;
    let mut pipeline = Pipeline::new(&servers, "send_restarts", Store::Minio).await;
    pipeline.start_ingest().await;
    pipeline.start_syncer();
    let (url, projects) = (format!("http://{}", pipeline.ingest_settings.http), PROJECTS.join(","));
    let clickhouse = format!("http://127.0.0.1:{}", servers.front.port());
    let table = format!("{}.{}", pipeline.schema.database, pipeline.schema.table);
    let mut send = built("spillway");
    send.args(["send", "--json", "--url", &url, "--key", API_KEY, "--projects", &projects])
        .args(["--duration", "12s", "--rate", "1500", "--batch", "20"])
        .args(["--clickhouse", &clickhouse, "--table", &table]);
    let send = tokio::task::spawn_blocking(move || send.output().expect("send runs"));
    for restart in 0..RESTARTS {
        tokio::time::sleep(Duration::from_millis(400)).await;
        pipeline.ingest().terminate();
        let status = pipeline.ingest().wait(Duration::from_secs(40)).await;
        assert!(status.success(), "restart {restart}: ingest ended with {status}");
        pipeline.start_ingest().await;
        pipeline.syncer().terminate();
        pipeline.syncer().wait(Duration::from_secs(40)).await;
        pipeline.start_syncer();
    }
    let sent = send.await.expect("send is waited for");
    let verdict = String::from_utf8_lossy(&sent.stderr).into_owned();
    assert!(sent.status.success(), "{verdict}");
    assert!(verdict.contains("missing=0 duplicated=0"), "{verdict}");
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
