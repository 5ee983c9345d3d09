//! What the syncer learns from the server about its batches.

use std::time::Duration;

use crate::engine::{Engine, rows, run, values};
use serde_json::json;
use spillway_model::{COLUMNS, Day, UnixMs};
use spillway_schema::ledger::{
    self, Attempt, BatchPartitionRows, BatchRows, LastBatch, NewestRow, PresentRows, Running, Witness,
};
use spillway_schema::preflight::check_server;
use spillway_schema::{ClickHouse, ClickHouseError, DayRange, SchemaSpec, apply, is_data_error};

fn spec() -> SchemaSpec {
    SchemaSpec::new("observability", "logs")
}

fn days() -> DayRange {
    let today = UnixMs::now().day();
    DayRange { first: Day(today.0 - 1), last: today }
}

/// Rows `from..to` of a batch as staged JSON with the batch's columns added.
fn body(batch: &str, from: u32, to: u32) -> String {
    let now = UnixMs::now();
    (from..to)
        .map(|row| {
            format!(
                "{{\"id\":\"0191e1a0-0000-7000-8000-{row:012}\",\"project_id\":\"p\",\"service\":\"s\",\
                 \"timestamp\":\"{now}\",\"severity\":\"info\",\"message\":\"m{row}\",\"retention_days\":30,\
                 \"batch_id\":\"{batch}\",\"batch_row\":{row}}}\n"
            )
        })
        .collect()
}

async fn insert(
    client: &ClickHouse,
    batch: &str,
    token: &str,
    range: std::ops::Range<u32>,
) -> Result<(), ClickHouseError> {
    let server = check_server(client).await.unwrap();
    let attempt = Attempt {
        token,
        query_id: token,
        max_execution_time: 30,
        rows: u64::from(range.end - range.start),
        shard: 1,
        past_views: false,
    };
    client
        .insert(
            &ledger::insert_statement(&spec(), COLUMNS.iter().map(|column| column.name), "JSONEachRow"),
            token,
            &ledger::insert_settings(&spec(), &server, attempt),
            body(batch, range.start, range.end).into(),
            Duration::from_secs(60),
        )
        .await
}

async fn counted(client: &ClickHouse, batches: &[&str]) -> Vec<(String, u64)> {
    let sql = ledger::count_batches(&spec(), batches.iter().copied(), days());
    let mut counted: Vec<_> =
        rows::<BatchRows>(client, &sql).await.into_iter().map(|row| (row.batch_id, row.rows)).collect();
    counted.sort();
    counted
}

#[tokio::test]
async fn a_replay_under_the_same_token_stores_nothing_twice_in_table_and_views() {
    let engine = Engine::start();
    let client = engine.client();
    apply(&client, &spec()).await.unwrap();
    for _ in 0..3 {
        insert(&client, "b1", "b1", 0..50_000).await.unwrap();
    }
    insert(&client, "b2", "b2", 0..10).await.unwrap();

    assert_eq!(
        counted(&client, &["b1", "b2", "absent"]).await,
        [("b1".to_owned(), 50_000), ("b2".to_owned(), 10)]
    );
    let volume = values(&client, "SELECT sum(records) AS n FROM observability.logs_tenant_volume").await;
    assert_eq!(volume, [json!({"n": 50_010})]);
    let parts = values(&client, "SELECT count() AS n FROM system.parts WHERE database = 'observability' AND table = 'logs' AND active").await;
    assert_eq!(parts, [json!({"n": 2})], "one insert is one block, and so one part");
}

#[tokio::test]
async fn the_missing_rows_of_a_batch_are_known_by_number() {
    let engine = Engine::start();
    let client = engine.client();
    apply(&client, &spec()).await.unwrap();
    insert(&client, "b", "b", 0..5).await.unwrap();
    insert(&client, "b", "b-1", 8..10).await.unwrap();
    let present = rows::<PresentRows>(&client, &ledger::present_rows(&spec(), "b", days())).await;
    assert_eq!(present, [PresentRows { rows: vec![0, 1, 2, 3, 4, 8, 9] }]);
    let none = rows::<PresentRows>(&client, &ledger::present_rows(&spec(), "absent", days())).await;
    assert_eq!(none, [PresentRows { rows: vec![] }]);
}

#[tokio::test]
async fn rows_are_found_again_by_the_sorting_key_and_no_others() {
    let engine = Engine::start();
    let client = engine.client();
    apply(&client, &spec()).await.unwrap();
    insert(&client, "b", "b", 0..5).await.unwrap();
    let sql = "SELECT toString(timestamp) AS timestamp FROM observability.logs WHERE batch_row = 3";
    let timestamp = values(&client, sql).await[0]["timestamp"].as_str().unwrap().to_owned();
    let witness = |row: u32, timestamp: &str| Witness {
        project_id: "p".into(),
        service: "s".into(),
        severity: "info".into(),
        timestamp: timestamp.into(),
        id: format!("0191e1a0-0000-7000-8000-{row:012}"),
    };
    let asked = [witness(3, &timestamp), witness(7, &timestamp), witness(3, "2024-10-04 00:00:00.000000000")];
    let found = rows::<Witness>(&client, &ledger::find_witnesses(&spec(), &asked)).await;
    assert_eq!(found, [witness(3, &timestamp)]);
}

#[tokio::test]
async fn a_table_tells_when_its_newest_row_was_received() {
    let engine = Engine::start();
    let client = engine.client();
    apply(&client, &spec()).await.unwrap();
    let newest = async || rows::<NewestRow>(&client, &ledger::newest_row(&spec())).await;
    assert_eq!(newest().await, [NewestRow { received_ms: 0 }]);
    for (number, received_ms) in [(1, 1_700_000_000_123_i64), (2, 1_600_000_000_456)] {
        let sql = format!(
            "INSERT INTO observability.logs (id, timestamp, received_at, retention_days) SELECT \
             toUUID('0191e1a0-0000-7000-8000-00000000000{number}'), now64(9), \
             fromUnixTimestamp64Milli({received_ms}), 30"
        );
        client.execute(&sql, &[]).await.unwrap();
    }
    assert_eq!(newest().await, [NewestRow { received_ms: 1_700_000_000_123 }]);
}

#[tokio::test]
async fn a_table_tells_each_pipelines_last_batch_and_counts_many_at_once() {
    let engine = Engine::start();
    let client = engine.client();
    apply(&client, &spec()).await.unwrap();
    let batches = ["a-b-2-00000007", "a-b-11-00000003", "c-1-00000001", "no batch of ours"];
    for (batch, rows) in batches.into_iter().zip(1..) {
        insert(&client, batch, batch, 0..rows).await.unwrap();
    }
    let mut last = rows::<LastBatch>(&client, &ledger::last_batches(&spec())).await;
    last.sort_by(|a, b| a.pipeline.cmp(&b.pipeline));
    let expected = |pipeline: &str, epoch, number| LastBatch { pipeline: pipeline.into(), epoch, number };
    assert_eq!(last, [expected("a-b", 11, 7), expected("c", 1, 1)]);

    let sql = ledger::count_partitions_of(&spec(), [batches[0], batches[2], "absent"], days());
    let mut counted: Vec<_> = rows::<BatchPartitionRows>(&client, &sql)
        .await
        .into_iter()
        .map(|row| (row.batch_id, row.rows))
        .collect();
    counted.sort();
    assert_eq!(counted, [(batches[0].to_owned(), 1), (batches[2].to_owned(), 3)]);
}

#[tokio::test]
async fn counting_opens_only_the_batchs_days_and_uses_the_index() {
    let engine = Engine::start();
    let client = engine.client();
    apply(&client, &spec()).await.unwrap();
    insert(&client, "b", "b", 0..5).await.unwrap();
    let old = DayRange { first: Day(20_000), last: Day(20_001) };
    for (range, parts) in [(old, "Parts: 0/"), (days(), "idx_batch_id")] {
        let sql = ledger::count_batches(&spec(), ["b"], range);
        let explained = values(&client, &format!("SELECT explain FROM (EXPLAIN indexes = 1 {sql})")).await;
        let explained = serde_json::Value::from(explained).to_string();
        assert!(explained.contains(parts), "{explained}");
    }
}

#[tokio::test]
async fn a_running_insert_is_seen_by_its_id_and_gone_when_it_is_over() {
    let engine = Engine::start();
    let client = engine.client();
    apply(&client, &spec()).await.unwrap();
    let server = check_server(&client).await.unwrap();
    let slow = client.clone();
    let task = tokio::spawn(async move {
        let settings = ledger::repair_settings(&server, "slow-1", 30);
        slow.execute("SELECT sleepEachRow(0.5) FROM numbers(6) SETTINGS max_block_size = 1", &settings).await
    });
    let asked = ledger::running(&spec(), "slow-");
    let mut seen = Vec::new();
    for _ in 0..40 {
        seen = rows::<Running>(&client, &asked).await;
        if !seen.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(seen[0].log_comment, "slow-1");
    task.await.unwrap().unwrap();
    assert_eq!(rows::<Running>(&client, &asked).await, []);
}

#[tokio::test]
async fn a_refusal_names_the_code_that_says_whose_fault_it_is() {
    let engine = Engine::start();
    let client = engine.client();
    apply(&client, &spec()).await.unwrap();
    run(&client, "ALTER TABLE observability.logs ADD CONSTRAINT no_seven CHECK message != 'm7'").await;
    let refused = insert(&client, "b", "b", 0..10).await.unwrap_err();
    assert_eq!(refused.code(), Some(469), "{refused}");
    assert!(is_data_error(469));
    assert_eq!(counted(&client, &["b"]).await, []);

    run(&client, "DROP TABLE observability.logs").await;
    let refused = insert(&client, "b", "b", 0..10).await.unwrap_err();
    assert_eq!(refused.code(), Some(60), "{refused}");
    assert!(!is_data_error(60));
}

#[tokio::test]
async fn a_server_that_is_away_surely_executed_nothing() {
    let engine = Engine::start();
    let client = engine.client();
    drop(engine);
    let error = client.execute("SELECT 1", &[]).await.unwrap_err();
    assert_eq!(error.reason(), "Unreachable", "{error}");
    assert!(!error.may_have_happened());
}
