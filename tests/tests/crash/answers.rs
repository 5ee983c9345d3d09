//! ClickHouse whose answers are lost, late or untrue, and one that refuses.

use std::time::Duration;

use hyper::Method;
use spillway_model::settings::Span;
use spillway_tests::pipeline::{Pipeline, Servers, Store};
use spillway_tests::proxy::{Action, Gate, Reply, Rule};
use spillway_tests::traffic::Workload;
use spillway_tests::verdict::Verdict;
use spillway_tests::wait::until;

use crate::{Case, case};

const MEMORY_LIMIT_EXCEEDED: i32 = 241;
const TOO_MANY_PARTS: i32 = 252;
const CANNOT_PARSE_NUMBER: i32 = 72;

pub(crate) fn cases() -> Vec<Case> {
    let lie = Reply { status: 200, headers: Vec::new(), body: String::new() };
    let gateway = Reply { status: 503, headers: Vec::new(), body: "upstream timed out".to_owned() };
    let mut cases: Vec<Case> = [
        (
            "200 with an exception, nothing stored",
            Action::AnswerBefore(Reply::clickhouse_200_with_exception(MEMORY_LIMIT_EXCEEDED)),
        ),
        (
            "200 with an exception, everything stored",
            Action::AnswerAfter(Reply::clickhouse_200_with_exception(MEMORY_LIMIT_EXCEEDED)),
        ),
        ("an exception, nothing stored", Action::AnswerBefore(Reply::clickhouse_exception(TOO_MANY_PARTS))),
        ("an exception, everything stored", Action::AnswerAfter(Reply::clickhouse_exception(TOO_MANY_PARTS))),
        (
            "a data error, everything stored",
            Action::AnswerAfter(Reply::clickhouse_exception(CANNOT_PARSE_NUMBER)),
        ),
        ("a success, nothing stored", Action::AnswerBefore(lie)),
        ("a gateway's 503, nothing stored", Action::AnswerBefore(gateway.clone())),
        ("a gateway's 503, everything stored", Action::AnswerAfter(gateway)),
        ("the connection cut before the insert", Action::CutBefore),
        ("the connection cut after a success", Action::CutAfter),
        ("no answer, nothing stored", Action::HangBefore),
        ("no answer, everything stored", Action::HangAfter),
    ]
    .into_iter()
    .map(|(fault, action)| {
        case(format!("ClickHouse: {fault}"), async move |servers, name| answered(servers, name, action).await)
    })
    .collect();
    cases.push(case("ClickHouse: an insert completes after its replay", insert_completes_late));
    cases.push(case(
        "ClickHouse: a half-sent insert completes after its replay",
        half_sent_insert_completes_late,
    ));
    cases.push(case(
        "ClickHouse: a half-sent insert completes after its batch was split",
        half_sent_insert_completes_after_split,
    ));
    cases.push(case("ClickHouse: a view fails for a while", failing_view));
    cases.push(case("ClickHouse: the schema refuses every batch for a while", schema_refuses_everything));
    cases.push(case("ClickHouse: the table is away for a while", table_away));
    cases.push(case("ClickHouse: the deduplication window has passed", window_passed));
    cases
}

/// Every insert into the table goes by this shape, whatever its batch.
pub(crate) fn inserts(action: Action) -> Rule {
    Rule::new(action).method(Method::POST).target_has("INSERT").target_lacks("SELECT")
}

async fn pipeline(servers: &mut Servers, name: &str) -> Pipeline {
    let mut pipeline = Pipeline::new(servers, name, Store::Minio).await;
    pipeline.syncer_settings.batch.max_rows = 150;
    pipeline.start_ingest().await;
    pipeline
}

async fn answered(servers: &mut Servers, name: &str, action: Action) -> Verdict {
    let mut pipeline = pipeline(servers, name).await;
    let rules = [0, 3].map(|skip| pipeline.clickhouse_proxy.add(inserts(action.clone()).skip(skip).times(1)));
    pipeline.start_syncer();
    let traffic = pipeline.send(Workload { records: Some(600), ..Workload::default() });
    rules[0].was_taken(1).await;
    traffic.finish().await;
    pipeline.conclude().await
}

async fn insert_completes_late(servers: &mut Servers, name: &str) -> Verdict {
    late(servers, name, Action::HoldRequest).await
}

async fn half_sent_insert_completes_late(servers: &mut Servers, name: &str) -> Verdict {
    late(servers, name, Action::HoldHalf).await
}

/// The syncer gives up on an insert, replays it, and later the first one arrives at the server after all.
async fn late(servers: &mut Servers, name: &str, action: fn(Gate) -> Action) -> Verdict {
    let mut pipeline = pipeline(servers, name).await;
    pipeline.syncer_settings.insert_timeout = Span::secs(2);
    let gate = Gate::default();
    pipeline.clickhouse_proxy.add(inserts(action(gate.clone())).times(1));
    pipeline.start_syncer();
    pipeline.send_all(400).await;
    gate.reached().await;
    pipeline.settle().await;
    gate.open();
    tokio::time::sleep(Duration::from_secs(2)).await;
    pipeline.conclude().await
}

async fn half_sent_insert_completes_after_split(servers: &mut Servers, name: &str) -> Verdict {
    let mut pipeline = pipeline(servers, name).await;
    pipeline.syncer_settings.insert_timeout = Span::secs(2);
    let gate = Gate::default();
    pipeline.clickhouse_proxy.add(inserts(Action::HoldHalf(gate.clone())).times(1));
    // The replay is refused as if its data were bad, once.
    let refusal = Action::AnswerBefore(Reply::clickhouse_exception(CANNOT_PARSE_NUMBER));
    let refused = pipeline.clickhouse_proxy.add(inserts(refusal).times(1));
    // One batch, so that it is the one that is held and then refused.
    pipeline.syncer_settings.batch.max_rows = 10_000;
    pipeline.send_all(400).await;
    pipeline.start_syncer();
    gate.reached().await;
    refused.was_taken(1).await;
    pipeline.settle().await;
    gate.open();
    tokio::time::sleep(Duration::from_secs(2)).await;
    pipeline.conclude().await
}

async fn failing_view(servers: &mut Servers, name: &str) -> Verdict {
    let mut pipeline = pipeline(servers, name).await;
    let target = format!("{}.logs_error_rate_batches", pipeline.schema.database);
    let sql = format!("ALTER TABLE {target} ADD CONSTRAINT refused CHECK project_id != 'bank'");
    pipeline.clickhouse.execute(&sql, &[]).await.unwrap();
    pipeline.start_syncer();
    pipeline.send_all(400).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!pipeline.backlog().await.is_empty(), "what a view refuses must not count as loaded");
    pipeline.clickhouse.execute(&format!("ALTER TABLE {target} DROP CONSTRAINT refused"), &[]).await.unwrap();
    // What is stuck is taken up again by the next start.
    pipeline.syncer().terminate();
    pipeline.syncer().wait(Duration::from_secs(40)).await;
    pipeline.start_syncer();
    pipeline.conclude().await
}

/// The server's fault, so nothing may become a dead letter.
async fn schema_refuses_everything(servers: &mut Servers, name: &str) -> Verdict {
    let mut pipeline = pipeline(servers, name).await;
    pipeline.syncer_settings.batch.max_rows = 50;
    let table = pipeline.schema.records();
    let sql = format!("ALTER TABLE {table} ADD CONSTRAINT refused CHECK length(message) > 1000");
    pipeline.clickhouse.execute(&sql, &[]).await.unwrap();
    pipeline.send_all(1000).await;
    pipeline.start_syncer();
    let attempts = pipeline.clickhouse_proxy.add(inserts(Action::Delay(Duration::ZERO)));
    attempts.was_taken(3).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(pipeline.rows().await, 0);
    pipeline.clickhouse.execute(&format!("ALTER TABLE {table} DROP CONSTRAINT refused"), &[]).await.unwrap();
    if !pipeline.syncer().is_running() {
        pipeline.start_syncer();
    }
    let letters = pipeline.bucket.list("_dead-letter/", None, 10).await.unwrap().objects;
    assert!(letters.is_empty(), "good records became dead letters: {letters:?}");
    pipeline.conclude().await
}

async fn table_away(servers: &mut Servers, name: &str) -> Verdict {
    let mut pipeline = pipeline(servers, name).await;
    pipeline.start_syncer();
    pipeline.send_all(100).await;
    pipeline.settle().await;
    let database = pipeline.schema.database.clone();
    let rename = async |from: &str, to: &str| {
        let sql = format!("RENAME TABLE {database}.{from} TO {database}.{to}");
        pipeline.clickhouse.execute(&sql, &[]).await.unwrap();
    };
    rename("logs", "logs_away").await;
    pipeline.send_all(300).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    rename("logs_away", "logs").await;
    if !pipeline.syncer().is_running() {
        pipeline.start_syncer();
    }
    pipeline.conclude().await
}

/// Without any deduplication by the server, only the table's own answer keeps a replay from doubling rows.
async fn window_passed(servers: &mut Servers, name: &str) -> Verdict {
    let mut pipeline = pipeline(servers, name).await;
    for table in
        ["logs", "logs_error_rate_batches", "logs_http_latency_batches", "logs_tenant_volume_batches"]
    {
        let table = format!("{}.{table}", pipeline.schema.database);
        let sql = format!("ALTER TABLE {table} MODIFY SETTING non_replicated_deduplication_window = 0");
        pipeline.clickhouse.execute(&sql, &[]).await.unwrap();
    }
    let cut = pipeline.clickhouse_proxy.add(inserts(Action::CutAfter).times(2));
    pipeline.start_syncer();
    pipeline.send_all(600).await;
    until("the inserts to be cut", Duration::from_secs(20), async || (cut.taken() == 2).then_some(())).await;
    pipeline.conclude().await
}
