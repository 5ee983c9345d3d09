//! Two syncers alive at once, in every order.

use std::time::Duration;

use hyper::Method;
use spillway_model::settings::Span;
use spillway_tests::pipeline::{Pipeline, Servers, Store};
use spillway_tests::proxy::{Action, Gate, Rule};
use spillway_tests::traffic::Workload;
use spillway_tests::verdict::Verdict;
use spillway_tests::wait::until;

use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for store in [Store::Minio, Store::Directory] {
        cases.push(case(format!("two syncers started at once ({store:?})"), async move |servers, name| {
            started_at_once(servers, name, store).await
        }));
        cases.push(case(
            format!("a paused leader resumes after the take-over ({store:?})"),
            async move |servers, name| paused_leader(servers, name, store).await,
        ));
    }
    cases.push(case("a paused leader's insert completes after the take-over", async |servers, name| {
        paused_leaders_insert(servers, name, Action::HoldRequest).await
    }));
    cases.push(case(
        "a paused leader's half-sent insert completes after the take-over",
        async |servers, name| paused_leaders_insert(servers, name, Action::HoldHalf).await,
    ));
    cases.push(case("a paused leader's manifest swap arrives after the take-over", paused_leaders_swap));
    cases
}

async fn started_at_once(servers: &mut Servers, name: &str, store: Store) -> Verdict {
    let mut pipeline = Pipeline::new(servers, name, store).await;
    pipeline.syncer_settings.batch.max_rows = 100;
    pipeline.start_ingest().await;
    pipeline.send_all(300).await;
    let traffic = pipeline.send(Workload { records: Some(600), ..Workload::default() });
    pipeline.start_syncer();
    pipeline.start_syncer();
    traffic.finish().await;
    pipeline.conclude().await
}

async fn loaded(pipeline: &Pipeline, rows: u64) {
    until("rows in the table", Duration::from_secs(60), async || {
        (pipeline.rows().await >= rows).then_some(())
    })
    .await;
}

async fn paused_leader(servers: &mut Servers, name: &str, store: Store) -> Verdict {
    let mut pipeline = Pipeline::new(servers, name, store).await;
    pipeline.syncer_settings.batch.max_rows = 100;
    pipeline.start_ingest().await;
    pipeline.start_syncer();
    let traffic = pipeline.send(Workload::default());
    loaded(&pipeline, 100).await;
    pipeline.syncer().pause();
    pipeline.start_syncer();
    let rows = pipeline.rows().await;
    loaded(&pipeline, rows + 200).await;
    pipeline.syncers[0].resume();
    tokio::time::sleep(Duration::from_secs(1)).await;
    traffic.stop().await;
    pipeline.conclude().await
}

async fn paused_leaders_insert(servers: &mut Servers, name: &str, action: fn(Gate) -> Action) -> Verdict {
    let mut pipeline = Pipeline::new(servers, name, Store::Minio).await;
    pipeline.syncer_settings.batch.max_rows = 100;
    pipeline.syncer_settings.insert_timeout = Span::secs(2);
    pipeline.start_ingest().await;
    let gate = Gate::default();
    let insert =
        Rule::new(action(gate.clone())).method(Method::POST).target_has("INSERT").target_lacks("SELECT");
    pipeline.clickhouse_proxy.add(insert.times(1));
    pipeline.send_all(400).await;
    pipeline.start_syncer();
    gate.reached().await;
    pipeline.syncer().pause();
    pipeline.start_syncer();
    loaded(&pipeline, 400).await;
    gate.open();
    tokio::time::sleep(Duration::from_secs(1)).await;
    pipeline.syncers[0].resume();
    pipeline.send_all(100).await;
    pipeline.conclude().await
}

async fn paused_leaders_swap(servers: &mut Servers, name: &str) -> Verdict {
    let mut pipeline = Pipeline::new(servers, name, Store::Minio).await;
    pipeline.syncer_settings.batch.max_rows = 100;
    pipeline.start_ingest().await;
    pipeline.start_syncer();
    pipeline.send_all(100).await;
    loaded(&pipeline, 100).await;
    let gate = Gate::default();
    let swap = Rule::new(Action::HoldRequest(gate.clone())).method(Method::PUT).target_has("manifest.json");
    pipeline.syncer_s3.add(swap.times(1));
    let traffic = pipeline.send(Workload { records: Some(300), ..Workload::default() });
    gate.reached().await;
    pipeline.syncer().pause();
    pipeline.start_syncer();
    traffic.finish().await;
    loaded(&pipeline, 400).await;
    gate.open();
    pipeline.syncers[0].resume();
    tokio::time::sleep(Duration::from_secs(1)).await;
    pipeline.conclude().await
}
