//! ClickHouse killed during an insert, down to the system call.

use std::time::Duration;

use hyper::Method;
use spillway_tests::pipeline::{Pipeline, Servers, Store};
use spillway_tests::proxy::{Action, Gate, Rule};
use spillway_tests::stage::Object;
use spillway_tests::strace::KillAtRename;
use spillway_tests::traffic::Workload;
use spillway_tests::verdict::Verdict;

use crate::{Case, case};

/// The table's part and one of each view.
const PARTS_OF_AN_INSERT: u32 = 4;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = (1..=PARTS_OF_AN_INSERT)
        .map(|nth| {
            case(format!("ClickHouse killed at rename {nth} of an insert"), async move |servers, name| {
                killed_at_rename(servers, name, nth).await
            })
        })
        .collect();
    cases.push(case("ClickHouse killed before an insert arrives", async |servers, name| {
        killed_around_insert(servers, name, Action::HoldRequest).await
    }));
    cases.push(case("ClickHouse killed after an insert, before its answer", async |servers, name| {
        killed_around_insert(servers, name, Action::HoldAnswer).await
    }));
    cases.push(case("ClickHouse killed under load and started again", killed_under_load));
    cases.push(case("everything killed at once", everything_killed));
    cases
}

async fn killed_at_rename(servers: &mut Servers, name: &str, nth: u32) -> Verdict {
    let mut pipeline = Pipeline::new(servers, name, Store::Minio).await;
    pipeline.start_ingest().await;
    pipeline.start_syncer();
    pipeline.send_all(100).await;
    pipeline.settle().await;
    // So that only inserts rename.
    pipeline.clickhouse.execute("SYSTEM STOP MERGES", &[]).await.unwrap();
    let pid = servers.front.process().pid().unwrap();
    let strace = KillAtRename::attach(pid, nth).await;
    // All of one day: one part for the table and for each view.
    pipeline.stage(&Object::http_requests(100)).await;
    servers.front.process().wait(Duration::from_secs(30)).await;
    drop(strace);
    servers.front.start_again().await;
    pipeline.send_all(100).await;
    pipeline.conclude().await
}

async fn killed_around_insert(servers: &mut Servers, name: &str, action: fn(Gate) -> Action) -> Verdict {
    let mut pipeline = Pipeline::new(servers, name, Store::Minio).await;
    pipeline.start_ingest().await;
    let gate = Gate::default();
    let insert =
        Rule::new(action(gate.clone())).method(Method::POST).target_has("INSERT").target_lacks("SELECT");
    pipeline.clickhouse_proxy.add(insert.times(1));
    pipeline.start_syncer();
    pipeline.send_all(200).await;
    gate.reached().await;
    servers.front.kill();
    gate.open();
    pipeline.send_all(100).await;
    servers.front.start_again().await;
    pipeline.conclude().await
}

async fn killed_under_load(servers: &mut Servers, name: &str) -> Verdict {
    let mut pipeline = Pipeline::new(servers, name, Store::Minio).await;
    pipeline.syncer_settings.batch.max_rows = 100;
    pipeline.start_ingest().await;
    pipeline.start_syncer();
    let traffic = pipeline.send(Workload { pause: Duration::from_millis(10), ..Workload::default() });
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(500 + rand::random_range(0..500))).await;
        servers.front.kill();
        servers.front.start_again().await;
    }
    traffic.stop().await;
    pipeline.conclude().await
}

/// As a power cut of one machine.
async fn everything_killed(servers: &mut Servers, name: &str) -> Verdict {
    let mut pipeline = Pipeline::new(servers, name, Store::Minio).await;
    pipeline.syncer_settings.batch.max_rows = 100;
    pipeline.start_ingest().await;
    pipeline.start_syncer();
    let traffic = pipeline.send(Workload { pause: Duration::from_millis(10), ..Workload::default() });
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(700 + rand::random_range(0..500))).await;
        servers.minio.kill();
        pipeline.ingest().kill();
        pipeline.syncer().kill();
        servers.front.kill();
        servers.minio.start_again();
        servers.front.start_again().await;
        pipeline.start_ingest().await;
        pipeline.start_syncer();
    }
    pipeline.send_all(100).await;
    traffic.stop().await;
    pipeline.conclude().await
}
