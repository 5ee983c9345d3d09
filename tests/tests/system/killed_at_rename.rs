//! What a server that is killed in the middle of an insert leaves behind: the reason why a replay counts
//! rows again, and why views are repaired.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use spillway_schema::{ClickHouse, ClickHouseError};
use spillway_tests::front::Front;
use spillway_tests::strace::KillAtRename;

const ROWS: u64 = 1000;

async fn insert(client: &ClickHouse) -> Result<(), ClickHouseError> {
    let rows: String = (0..ROWS).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    let settings = [
        ("insert_deduplication_token", "the batch".to_owned()),
        ("deduplicate_blocks_in_dependent_materialized_views", "1".to_owned()),
    ];
    let query = format!("insert-{:016x}", rand::random::<u64>());
    client
        .insert(
            "INSERT INTO t FORMAT JSONEachRow",
            &query,
            &settings,
            Bytes::from(rows),
            Duration::from_secs(20),
        )
        .await
}

/// Rows of the table, and the sum that the view has of them.
async fn rows(client: &ClickHouse) -> (u64, u64) {
    #[derive(Deserialize)]
    struct Rows {
        table_rows: u64,
        view_rows: u64,
    }
    let sql = "SELECT (SELECT count() FROM t) AS table_rows, (SELECT sum(rows) FROM v) AS view_rows";
    let rows = client.query_json::<Rows>(sql, &[]).await.unwrap();
    (rows[0].table_rows, rows[0].view_rows)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_before_it_names_a_part_has_used_the_token_all_the_same() {
    for (rename, killed, replayed) in [(1, (0, 0), (0, ROWS)), (2, (ROWS, 0), (ROWS, 0))] {
        let mut front = Front::start().await;
        let client = ClickHouse::connect(&front.settings("default")).unwrap();
        for sql in [
            "CREATE TABLE t (n UInt32) ENGINE = MergeTree ORDER BY n SETTINGS non_replicated_deduplication_window = 100",
            "CREATE TABLE v (rows UInt64) ENGINE = MergeTree ORDER BY rows SETTINGS non_replicated_deduplication_window = 100",
            "CREATE MATERIALIZED VIEW feed TO v AS SELECT count() AS rows FROM t",
            "SYSTEM STOP MERGES",
        ] {
            client.execute(sql, &[]).await.unwrap();
        }
        let pid = front.process().pid().unwrap();
        let strace = KillAtRename::attach(pid, rename).await;
        let error = insert(&client).await.unwrap_err();
        assert!(error.may_have_happened(), "rename {rename}: {error}");
        front.process().wait(Duration::from_secs(10)).await;
        drop(strace);
        front.start_again().await;
        assert_eq!(rows(&client).await, killed, "rename {rename}, after the kill");
        insert(&client).await.unwrap();
        assert_eq!(
            rows(&client).await,
            replayed,
            "rename {rename}, after a replay that was reported as a success"
        );
    }
}
