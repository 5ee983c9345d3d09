//! The judge itself: faults made on purpose in a real table are found.

use spillway_model::settings::ClickHouseSettings;
use spillway_schema::{ClickHouse, SchemaSpec};
use spillway_tests::front::Front;
use spillway_tests::traffic::identity;
use spillway_tests::verdict::{Sent, Verdict, compare};

struct Judge {
    front: Front,
    settings: ClickHouseSettings,
    sent: Sent,
}

impl Judge {
    /// A table with 100 rows of one batch, all of them acknowledged.
    async fn new() -> Self {
        let front = Front::start().await;
        let settings = front.settings("judged");
        let judge = Self { front, settings, sent: Sent::default() };
        spillway_schema::apply(&judge.clickhouse(), &judge.schema()).await.unwrap();
        judge.insert("b1", 0, 100).await;
        judge.sent.acknowledged((0..100).map(|number| identity("shop", "api", 1, number)));
        judge
    }

    fn clickhouse(&self) -> ClickHouse {
        ClickHouse::connect(&self.settings).unwrap()
    }

    fn schema(&self) -> SchemaSpec {
        SchemaSpec::from_settings(&self.settings)
    }

    async fn insert(&self, batch: &str, from: u64, count: u64) {
        let sql = format!(
            "INSERT INTO judged.logs (project_id, service, timestamp, severity, message, http_duration_ms, \
             retention_days, batch_id, batch_row) \
             SELECT 'shop', 'api', toDateTime64(now(), 9, 'UTC') - number, if(number % 3 = 0, 'error', 'info'), \
             concat('shop/api/1/', toString(number)), number, 30, '{batch}', number FROM numbers({from}, {count})"
        );
        self.execute(&sql).await;
    }

    async fn execute(&self, sql: &str) {
        self.clickhouse().execute(sql, &[]).await.unwrap();
    }

    async fn verdict(&self) -> Verdict {
        compare(&self.clickhouse(), &self.schema(), &self.sent).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_in_the_table_and_in_the_views_are_found() {
    let mut judge = Judge::new().await;
    judge.verdict().await.assert_exact("all is well");

    // A killed server comes back with the same.
    judge.front.kill();
    judge.front.start_again().await;
    judge.verdict().await.assert_exact("after a kill");

    // A view that was not fed.
    judge.execute("TRUNCATE TABLE judged.logs_error_rate_batches").await;
    let verdict = judge.verdict().await;
    assert_eq!(verdict.views.len(), 1, "{verdict}");
    assert!(verdict.views[0].contains("only in table"), "{verdict}");
    assert!(verdict.missing.is_empty() && verdict.duplicated.is_empty());

    // Rows twice, in another batch.
    judge.insert("b2", 98, 2).await;
    let verdict = judge.verdict().await;
    assert_eq!(verdict.duplicated.len(), 2, "{verdict}");
    assert_eq!(verdict.rows, 102);

    // A row that nobody sent, and one that is gone.
    judge.insert("b3", 100, 1).await;
    judge
        .execute("ALTER TABLE judged.logs DELETE WHERE message = 'shop/api/1/7' SETTINGS mutations_sync = 1")
        .await;
    let verdict = judge.verdict().await;
    assert_eq!(verdict.foreign, ["shop/api/1/100"]);
    assert_eq!(verdict.missing, ["shop/api/1/7"]);
    assert_eq!(verdict.views.len(), 3, "{verdict}");
}
