//! What the commit protocol relies on, or guards against, in the real engine. A new engine version that
//! behaves otherwise is noticed here before it is noticed in somebody's data.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use spillway_schema::{ClickHouse, ClickHouseError};
use spillway_tests::front::Front;
use tokio::sync::OnceCell;

/// One server for all; each fact has a database of its own.
static FRONT: OnceCell<Front> = OnceCell::const_new();

struct Engine {
    client: ClickHouse,
    database: &'static str,
}

impl Engine {
    async fn new(database: &'static str) -> Self {
        let front = FRONT.get_or_init(Front::start).await;
        let client = ClickHouse::connect(&front.settings("default")).unwrap();
        let engine = Self { client, database };
        engine.execute("CREATE DATABASE {db}").await;
        engine
    }

    /// `{db}` stands for the database.
    async fn execute(&self, sql: &str) {
        self.client.execute(&sql.replace("{db}", self.database), &[]).await.unwrap();
    }

    /// Inserts lines of JSON into `t` as one block under a token.
    async fn insert(&self, token: &str, rows: &str, more: &[(&str, String)]) -> Result<(), ClickHouseError> {
        let sql = format!("INSERT INTO {}.t FORMAT JSONEachRow", self.database);
        let mut settings = vec![("insert_deduplication_token", token.to_owned())];
        settings.push(("deduplicate_blocks_in_dependent_materialized_views", "1".to_owned()));
        settings.extend_from_slice(more);
        let body = Bytes::copy_from_slice(rows.as_bytes());
        let query = format!("{}-{:016x}", self.database, rand::random::<u64>());
        self.client.insert(&sql, &query, &settings, body, Duration::from_secs(30)).await
    }

    async fn count(&self, table: &str) -> u64 {
        #[derive(Deserialize)]
        struct Count {
            rows: u64,
        }
        let sql = format!("SELECT count() AS rows FROM {}.{table}", self.database);
        self.client.query_json::<Count>(&sql, &[]).await.unwrap()[0].rows
    }
}

fn numbers(count: u32) -> String {
    (0..count).map(|n| format!("{{\"n\":{n}}}\n")).collect()
}

/// One row on each of the first days of 2026.
fn days(count: u32) -> String {
    (1..=count).map(|day| format!("{{\"d\":\"2026-01-{day:02}\"}}\n")).collect()
}

#[tokio::test]
async fn the_deduplication_window_counts_parts_and_not_inserts() {
    let engine = Engine::new("window_counts_parts").await;
    for (window, rows_of_a) in [(5, 2), (6, 1)] {
        engine.execute("DROP TABLE IF EXISTS {db}.t SYNC").await;
        engine
            .execute(&format!(
                "CREATE TABLE {{db}}.t (d Date) ENGINE = MergeTree PARTITION BY d ORDER BY d \
                 SETTINGS non_replicated_deduplication_window = {window}"
            ))
            .await;
        engine.insert("a", &days(1), &[]).await.unwrap();
        engine.insert("five partitions", &days(5), &[]).await.unwrap();
        engine.insert("a", &days(1), &[]).await.unwrap();
        assert_eq!(engine.count("t").await, 5 + rows_of_a, "window {window}");
    }
}

#[tokio::test]
async fn the_same_rows_cut_into_other_blocks_are_inserted_again_under_one_token() {
    let engine = Engine::new("blocks_matter").await;
    engine
        .execute("CREATE TABLE {db}.t (n UInt32) ENGINE = MergeTree ORDER BY n SETTINGS non_replicated_deduplication_window = 100")
        .await;
    let in_blocks_of = |rows: u32| {
        [
            ("max_insert_block_size", rows.to_string()),
            ("min_insert_block_size_rows", "0".to_owned()),
            ("min_insert_block_size_bytes", "0".to_owned()),
            ("input_format_parallel_parsing", "0".to_owned()),
        ]
    };
    engine.insert("a", &numbers(1000), &in_blocks_of(1000)).await.unwrap();
    engine.insert("a", &numbers(1000), &in_blocks_of(1000)).await.unwrap();
    assert_eq!(engine.count("t").await, 1000, "the same block is dropped");
    engine.insert("a", &numbers(1000), &in_blocks_of(100)).await.unwrap();
    assert!(engine.count("t").await > 1000, "other blocks are not");
}

#[tokio::test]
async fn other_rows_under_a_used_token_are_dropped_without_a_word() {
    let engine = Engine::new("token_hides_rows").await;
    engine
        .execute("CREATE TABLE {db}.t (n UInt32) ENGINE = MergeTree ORDER BY n SETTINGS non_replicated_deduplication_window = 100")
        .await;
    engine.insert("a", &numbers(500), &[]).await.unwrap();
    engine.insert("a", &numbers(1000), &[]).await.unwrap();
    assert_eq!(engine.count("t").await, 500);
}

#[tokio::test]
async fn rows_dropped_by_ttl_keep_their_token_and_a_dropped_partition_frees_it() {
    let engine = Engine::new("tokens_outlive_parts").await;
    engine
        .execute(
            "CREATE TABLE {db}.t (d Date) ENGINE = MergeTree PARTITION BY d ORDER BY d \
             SETTINGS non_replicated_deduplication_window = 100",
        )
        .await;
    engine.insert("a", &days(1), &[]).await.unwrap();
    engine.execute("ALTER TABLE {db}.t DROP PARTITION '2026-01-01'").await;
    engine.insert("a", &days(1), &[]).await.unwrap();
    assert_eq!(engine.count("t").await, 1, "a dropped partition frees the token");

    engine
        .execute(
            "ALTER TABLE {db}.t MODIFY TTL d + toIntervalDay(1) SETTINGS mutations_sync = 1, \
             materialize_ttl_after_modify = 1",
        )
        .await;
    let gone = async || (engine.count("t").await == 0).then_some(());
    spillway_tests::wait::until("the expired row to vanish", Duration::from_secs(20), gone).await;
    engine.execute("ALTER TABLE {db}.t REMOVE TTL").await;
    engine.insert("a", &days(1), &[]).await.unwrap();
    assert_eq!(engine.count("t").await, 0, "an expired row does not");
}

#[tokio::test]
async fn a_row_past_its_ttl_vanishes_at_once_and_is_counted_by_the_view() {
    let engine = Engine::new("expired_rows").await;
    engine
        .execute(
            "CREATE TABLE {db}.t (d Date) ENGINE = MergeTree PARTITION BY d ORDER BY d \
             TTL d + toIntervalDay(1) SETTINGS ttl_only_drop_parts = 1",
        )
        .await;
    engine.execute("CREATE TABLE {db}.v (rows UInt64) ENGINE = MergeTree ORDER BY rows").await;
    engine
        .execute("CREATE MATERIALIZED VIEW {db}.feed TO {db}.v AS SELECT count() AS rows FROM {db}.t")
        .await;
    engine.insert("a", "{\"d\":\"2020-01-01\"}\n", &[]).await.unwrap();
    let gone = async || (engine.count("t").await == 0).then_some(());
    spillway_tests::wait::until("the expired row to vanish", Duration::from_secs(20), gone).await;
    assert_eq!(engine.count("v").await, 1);
}

#[tokio::test]
async fn concurrent_inserts_under_one_token_store_one_copy() {
    let engine = Engine::new("one_token_at_once").await;
    engine
        .execute("CREATE TABLE {db}.t (n UInt32) ENGINE = MergeTree ORDER BY n SETTINGS non_replicated_deduplication_window = 100")
        .await;
    let rows = numbers(1000);
    let results = futures::future::join_all((0..20).map(|_| engine.insert("a", &rows, &[]))).await;
    assert!(results.iter().any(Result::is_ok), "{results:?}");
    assert_eq!(engine.count("t").await, 1000);
}

#[tokio::test]
async fn an_insert_refused_by_a_constraint_stores_nothing_and_a_failing_view_may_leave_the_table_filled() {
    let engine = Engine::new("refusals").await;
    engine
        .execute(
            "CREATE TABLE {db}.t (n UInt32, CONSTRAINT small CHECK n < 900) ENGINE = MergeTree ORDER BY n",
        )
        .await;
    let error = engine.insert("a", &numbers(1000), &[]).await.unwrap_err();
    assert_eq!(error.code(), Some(469), "{error}");
    assert_eq!(engine.count("t").await, 0);
    engine.execute("CREATE TABLE {db}.v (n UInt32) ENGINE = MergeTree ORDER BY n").await;
    engine
        .execute("CREATE MATERIALIZED VIEW {db}.feed TO {db}.v AS SELECT throwIf(n = 7) + n AS n FROM {db}.t")
        .await;
    let error = engine.insert("b", &numbers(100), &[]).await.unwrap_err();
    assert_eq!(error.code(), Some(395), "{error}");
    // Either is allowed by the server's documentation; the syncer asks the table and never assumes.
    let rows = engine.count("t").await;
    assert!(rows == 0 || rows == 100, "{rows}");
    assert_eq!(engine.count("v").await, 0);
}
