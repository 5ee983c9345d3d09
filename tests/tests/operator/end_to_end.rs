//! The real ingest and syncer with what the operator gave them: settings, Secrets, Lease and ServiceAccount.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use serde_json::json;
use spillway_crds::LogPipeline;
use spillway_tests::kubernetes::container::Container;
use spillway_tests::kubernetes::operator::Operator;
use spillway_tests::kubernetes::pipelines::NAME;
use spillway_tests::kubernetes::space::{PATIENCE, Space};
use spillway_tests::wait::until;

use crate::claim::claims;

claims![
    records_get_from_the_service_into_clickhouse_by_what_the_operator_made,
    a_standby_syncer_takes_the_lease_of_a_killed_one,
];

async fn send(space: &Space, ingest: &Container, count: usize) {
    let now = jiff::Timestamp::now().to_string();
    let record =
        json!({"project_id": "shop", "timestamp": now, "level": "info", "service": "web", "message": "sold"});
    let body = json!({"logs": vec![record; count]});
    let url = format!("http://127.0.0.1:{}/v1/drain", ingest.http);
    until(&format!("ingest to accept ({})", space.namespace), PATIENCE, async || {
        let request = spillway_tests::http::client().post(&url).json(&body);
        let answer = request.bearer_auth("a-key-of-the-shop-that-is-long-enough").send().await.ok()?;
        answer.status().is_success().then_some(())
    })
    .await;
}

async fn loaded(space: &Space, count: usize) {
    let query = format!("SELECT count() FROM {}.logs", space.database);
    until(&format!("{count} rows ({})", space.namespace), PATIENCE, async || {
        (space.ask(&query).await.trim() == count.to_string()).then_some(())
    })
    .await;
}

async fn holds(space: &Space, pod: &str) {
    space
        .sees(&format!("{pod} to lead"), "logs-syncer", |lease: &Lease| {
            lease.spec.as_ref()?.holder_identity.as_ref()?.starts_with(pod).then_some(())
        })
        .await;
}

async fn records_get_from_the_service_into_clickhouse_by_what_the_operator_made(
    space: &mut Space,
) -> Operator {
    let operator = space.ready_pipeline().await;
    let ingest = Container::start(space, "logs-ingest", "ingest-pod").await;
    let mut syncer = Container::start(space, "logs-syncer", "syncer-pod").await;
    send(space, &ingest, 100).await;
    loaded(space, 100).await;
    holds(space, "syncer-pod").await;
    space
        .sees("the syncer's name and the lag in the status", NAME, |pipeline: &LogPipeline| {
            let status = pipeline.status.as_ref()?;
            let holder = status.syncer_holder.as_ref()?.starts_with("syncer-pod");
            (holder && status.lag.is_some() && status.backlog.is_some()).then_some(())
        })
        .await;
    space.is_ready().await;
    // Told to stop, it lets its Lease go.
    syncer.process.terminate();
    syncer.process.wait(Duration::from_secs(30)).await;
    let since = Instant::now();
    space
        .sees("the Lease to be released", "logs-syncer", |lease: &Lease| {
            let holder = lease.spec.as_ref()?.holder_identity.clone().unwrap_or_default();
            (!holder.starts_with("syncer-pod")).then_some(())
        })
        .await;
    // Long before it runs out.
    assert!(since.elapsed() < Duration::from_secs(8), "{:?}", since.elapsed());
    operator
}

async fn a_standby_syncer_takes_the_lease_of_a_killed_one(space: &mut Space) -> Operator {
    let operator = space.ready_pipeline().await;
    let ingest = Container::start(space, "logs-ingest", "ingest-pod").await;
    let mut first = Container::start(space, "logs-syncer", "first").await;
    holds(space, "first").await;
    let mut second = Container::start(space, "logs-syncer", "second").await;
    send(space, &ingest, 10).await;
    loaded(space, 10).await;
    assert!(second.process.is_running(), "a standby waits");
    first.process.kill();
    send(space, &ingest, 10).await;
    holds(space, "second").await;
    loaded(space, 20).await;
    second.process.kill();
    operator
}
