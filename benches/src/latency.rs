//! From receipt to queryable at a steady rate.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Deserialize;
use spillway_model::UnixMs;
use spillway_model::settings::BucketSettings;
use spillway_tests::front::Front;
use spillway_tests::wait::until;

use crate::generator::USUAL;
use crate::load::{Pace, send};
use crate::report::Figure;
use crate::setup::{Ingest, bodies};
use crate::{setup, syncer};

const RATE: u64 = 10_000;
/// Between looks at the table: what the figures may be too high by.
const LOOK: Duration = Duration::from_millis(25);
const WARM_UP: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
struct Batch {
    batch_id: String,
}

#[derive(Deserialize)]
struct Received {
    batch_id: String,
    received_ms: i64,
    rows: u64,
}

/// Sends at the rate, notes when each batch is first seen in the table, and compares that with `received_at`
/// of each of its rows.
pub async fn measure(dir: &Path, bucket: BucketSettings, place: &str, duration: Duration) -> Vec<Figure> {
    let front = Front::start().await;
    let settings = front.settings("latency");
    let (client, spec) = syncer::with_schema(&settings, true).await;
    let ingest = Ingest::start(dir, bucket.clone(), USUAL).await;
    let mut loader = setup::syncer(dir, bucket, settings).await;
    let bodies = Arc::new(bodies(USUAL, 64, 100));
    let pace = Pace { connections: 64, rate: Some(RATE), duration: WARM_UP };
    send(&ingest.url, Arc::clone(&bodies), pace).await;
    let begun = UnixMs::now();

    let done = Arc::new(AtomicBool::new(false));
    let looker = {
        let (client, spec, done) = (client.clone(), spec.clone(), Arc::clone(&done));
        tokio::spawn(async move {
            let mut seen: HashMap<String, i64> = HashMap::new();
            while !done.load(Ordering::Relaxed) {
                let sql = format!("SELECT DISTINCT batch_id FROM {}", spec.records());
                let batches: Vec<Batch> = client.query_json(&sql, &[]).await.expect("ClickHouse answers");
                let now = UnixMs::now().0;
                for batch in batches {
                    seen.entry(batch.batch_id).or_insert(now);
                }
                tokio::time::sleep(LOOK).await;
            }
            seen
        })
    };
    let answers = send(&ingest.url, bodies, Pace { duration, ..pace }).await;
    let sent = answers.accepted.load(Ordering::Relaxed);
    let received = |rows: &[Received]| rows.iter().map(|row| row.rows).sum::<u64>();
    let sql = format!(
        "SELECT batch_id, toUnixTimestamp64Milli(received_at) AS received_ms, count() AS rows FROM {} \
         WHERE received_at >= fromUnixTimestamp64Milli({}) GROUP BY batch_id, received_ms",
        spec.records(),
        begun.0
    );
    let rows = until("every row to be in the table", Duration::from_secs(120), async || {
        assert!(loader.is_running(), "the syncer ended:\n{}", loader.log());
        tokio::time::sleep(Duration::from_millis(500)).await;
        let rows: Vec<Received> = client.query_json(&sql, &[]).await.expect("ClickHouse answers");
        (received(&rows) >= sent).then_some(rows)
    })
    .await;
    done.store(true, Ordering::Relaxed);
    let seen = looker.await.expect("the looker does not fail");

    let mut latencies: Vec<(i64, u64)> = rows
        .iter()
        .filter_map(|row| seen.get(&row.batch_id).map(|at| (at - row.received_ms, row.rows)))
        .collect();
    latencies.sort_unstable();
    let (p50, p99) = (quantile(&latencies, 0.5), quantile(&latencies, 0.99));
    let unloaded = sent as f64 / duration.as_secs_f64();
    vec![
        Figure::new(format!("receipt to queryable at 10,000 records/s, {place}, p50"), p50, "s")
            .against(1.0, "the goal")
            .goal("< 1 s", p50 < 1.0),
        Figure::new(format!("receipt to queryable at 10,000 records/s, {place}, p99"), p99, "s")
            .against(2.0, "the goal")
            .goal("< 2 s", p99 < 2.0),
        Figure::new("rate while measuring", unloaded, "records/s"),
    ]
}

/// Seconds below which this share of the rows lies.
fn quantile(sorted: &[(i64, u64)], share: f64) -> f64 {
    let all: u64 = sorted.iter().map(|(_, rows)| rows).sum();
    let mut below = 0;
    for (latency, rows) in sorted {
        below += rows;
        if below as f64 >= all as f64 * share {
            return *latency as f64 / 1000.0;
        }
    }
    0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_count_rows_and_not_groups() {
        let groups = [(100, 98), (1_000, 1), (5_000, 1)];
        assert!((quantile(&groups, 0.5) - 0.1).abs() < 1e-9);
        assert!((quantile(&groups, 0.99) - 1.0).abs() < 1e-9);
    }
}
