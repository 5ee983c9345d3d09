//! The views equal the table, whatever happened to the inserts that fed them.

use crate::engine::{Engine, made_up, rows, run, values};
use serde_json::{Value, json};
use spillway_model::{Day, UnixMs};
use spillway_schema::preflight::check_server;
use spillway_schema::views::Partition;
use spillway_schema::{ClickHouse, DayRange, SchemaSpec, View, apply, ledger};

fn spec() -> SchemaSpec {
    SchemaSpec::new("observability", "logs")
}

fn days() -> DayRange {
    let today = UnixMs::now().day();
    DayRange { first: Day(today.0 - 1), last: today }
}

#[derive(serde::Deserialize)]
struct PartitionRow {
    day: i32,
    retention_days: u16,
}

/// What a view shows, and the same computed from the table.
async fn both(client: &ClickHouse, view: View) -> (Vec<Value>, Vec<Value>) {
    let from_table = match view {
        View::ErrorRate => {
            "SELECT project_id, service, toStartOfMinute(timestamp) AS minute, count() AS records, \
             countIf(severity IN ('error', 'fatal')) AS errors, errors / records AS error_rate \
             FROM observability.logs GROUP BY ALL ORDER BY ALL"
        }
        View::HttpLatency => {
            "SELECT project_id, service, http_method, http_path, toStartOfMinute(timestamp) AS minute, \
             count() AS requests, countIf(http_status_code >= 500) AS server_errors, \
             quantileBFloat16(0.5)(http_duration_ms) AS p50_ms, quantileBFloat16(0.9)(http_duration_ms) AS p90_ms, \
             quantileBFloat16(0.95)(http_duration_ms) AS p95_ms, quantileBFloat16(0.99)(http_duration_ms) AS p99_ms \
             FROM observability.logs WHERE http_duration_ms > 0 GROUP BY ALL ORDER BY ALL"
        }
        View::TenantVolume => {
            "SELECT project_id, toStartOfMinute(timestamp) AS minute, count() AS records, \
             sum(length('payment declined') + length('abc') + length('kv')) AS bytes \
             FROM observability.logs GROUP BY ALL ORDER BY ALL"
        }
    };
    let shown = values(client, &format!("SELECT * FROM {} ORDER BY ALL", view.view(&spec()))).await;
    (shown, values(client, from_table).await)
}

#[track_caller]
fn assert_same(view: View, (shown, computed): (Vec<Value>, Vec<Value>), when: &str) {
    assert!(!computed.is_empty(), "the table has rows");
    assert_eq!(shown, computed, "{view:?} {when}");
}

async fn assert_views_equal_the_table(client: &ClickHouse, when: &str) {
    for view in View::ALL {
        assert_same(view, both(client, view).await, when);
    }
}

async fn repair(client: &ClickHouse, batch: &str, version: u64) {
    let server = check_server(client).await.unwrap();
    for view in View::ALL {
        let sql = view.repair_statement(&spec(), batch, days(), version);
        client.execute(&sql, &ledger::repair_settings(&server, "repair", 60)).await.unwrap();
    }
}

async fn merge_all(client: &ClickHouse) {
    for view in View::ALL {
        run(client, &format!("OPTIMIZE TABLE {} FINAL", view.target(&spec()))).await;
    }
    run(client, "OPTIMIZE TABLE observability.logs FINAL").await;
}

#[tokio::test]
async fn views_equal_the_table_when_batches_come_in_and_after_merges() {
    let engine = Engine::start();
    let client = engine.client();
    apply(&client, &spec()).await.unwrap();
    for (i, batch) in ["a", "b", "c", "d"].into_iter().enumerate() {
        run(&client, &made_up(&spec(), batch, i as u64 * 700, 1_500)).await;
        assert_views_equal_the_table(&client, "after an insert").await;
    }
    merge_all(&client).await;
    assert_views_equal_the_table(&client, "after merging").await;
}

#[tokio::test]
async fn a_batch_inserted_in_pieces_is_right_once_it_is_repaired_however_often() {
    let engine = Engine::start();
    let client = engine.client();
    apply(&client, &spec()).await.unwrap();
    run(&client, &made_up(&spec(), "whole", 0, 2_000)).await;
    run(&client, &made_up(&spec(), "pieces", 0, 1_000)).await;
    run(&client, &made_up(&spec(), "pieces", 1_000, 3_000)).await;
    let (shown, computed) = both(&client, View::ErrorRate).await;
    assert_ne!(shown, computed, "two pieces share a key, so one hides the other until the repair");

    for _ in 0..2 {
        repair(&client, "pieces", 1).await;
        assert_views_equal_the_table(&client, "repaired").await;
    }
    merge_all(&client).await;
    assert_views_equal_the_table(&client, "merged after the repair").await;

    run(&client, &made_up(&spec(), "pieces", 4_000, 500)).await;
    repair(&client, "pieces", 2).await;
    merge_all(&client).await;
    assert_views_equal_the_table(&client, "repaired again after more rows").await;
}

#[tokio::test]
async fn a_view_that_missed_or_doubled_a_batch_is_right_after_its_repair() {
    let engine = Engine::start();
    let client = engine.client();
    apply(&client, &spec()).await.unwrap();
    run(&client, &made_up(&spec(), "other", 0, 300)).await;

    // A server killed between the table's part and the view's: rows in the table, nothing in the view.
    for view in View::ALL {
        run(&client, &format!("DROP VIEW {}", view.feed(&spec()))).await;
    }
    run(&client, &made_up(&spec(), "missed", 0, 900)).await;
    repair(&client, "missed", 1).await;
    assert_views_equal_the_table(&client, "after the repair of a missed batch").await;

    // What a view got twice, from an insert that reached it twice.
    for view in View::ALL {
        let twice = view.repair_statement(&spec(), "missed", days(), 0);
        run(&client, &twice).await;
        run(&client, &twice).await;
    }
    assert_views_equal_the_table(&client, "older versions change nothing").await;
    merge_all(&client).await;
    assert_views_equal_the_table(&client, "after merging").await;
}

#[tokio::test]
async fn folding_old_batches_changes_the_rows_and_not_the_figures() {
    let engine = Engine::start();
    let client = engine.client();
    apply(&client, &spec()).await.unwrap();
    for batch in ["a", "b", "open"] {
        run(&client, &made_up(&spec(), batch, 0, 800)).await;
    }
    let server = check_server(&client).await.unwrap();
    let partitions = rows::<PartitionRow>(
        &client,
        "SELECT DISTINCT toInt32(toDate(minute)) AS day, retention_days FROM observability.logs_error_rate_batches",
    )
    .await;
    let before = values(&client, "SELECT count() AS n FROM observability.logs_error_rate_batches").await;

    for PartitionRow { day, retention_days } in partitions {
        let partition = Partition { day: Day(day), retention_days };
        for view in View::ALL {
            for sql in view.fold_statements(&spec(), &partition, ["open"]) {
                client.execute(&sql, &ledger::repair_settings(&server, "fold", 60)).await.unwrap();
            }
        }
    }

    assert_views_equal_the_table(&client, "after folding").await;
    let batches =
        values(&client, "SELECT DISTINCT batch_id FROM observability.logs_error_rate_batches ORDER BY 1")
            .await;
    assert_eq!(batches, [json!({"batch_id": ""}), json!({"batch_id": "open"})]);
    let after = values(&client, "SELECT count() AS n FROM observability.logs_error_rate_batches").await;
    assert!(after[0]["n"].as_u64() < before[0]["n"].as_u64(), "{after:?} {before:?}");
    run(&client, &made_up(&spec(), "open", 800, 100)).await;
    repair(&client, "open", 1).await;
    assert_views_equal_the_table(&client, "after the repair of a batch that was left open").await;
}
