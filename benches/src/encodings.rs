//! What one insert of the same rows costs the server in each format: why the syncer sends what it sends.

use std::time::{Duration, Instant};

use bytes::Bytes;
use spillway_schema::ledger::{self, Attempt};
use spillway_schema::preflight::check_server;
use spillway_tests::front::Front;

use crate::report::Figure;
use crate::{cpu, syncer};

const FORMATS: [&str; 4] = ["ArrowStream", "Native", "RowBinary", "JSONEachRow"];
/// Rows of one insert, the default of a batch.
const ROWS: u64 = 200_000;
const INSERTS: u32 = 3;

/// Columns that the generator's records fill: the syncer names only columns that some row of a batch gives.
const COLUMNS: [&str; 17] = [
    "id",
    "project_id",
    "service",
    "timestamp",
    "received_at",
    "severity",
    "severity_text",
    "message",
    "trace_id",
    "span_id",
    "user_id",
    "attributes",
    "retention_days",
    "request_id",
    "batch_id",
    "batch_row",
    "session_id",
];

/// Inserts the same rows in every format, with the syncer's settings, fsync and views, and compares the
/// server's CPU time per row with that of JSONEachRow (uncompressed).
///
/// The rows come from `file(staged)`; the server itself encodes the bodies, so that none is favoured.
pub async fn measure(staged: &std::path::Path) -> Vec<Figure> {
    let mut front = Front::start().await;
    let settings = front.settings("encodings");
    let (client, spec) = syncer::with_schema(&settings, true).await;
    let server = check_server(&client).await.expect("the server is checked");
    let pid = front.process().pid().expect("ClickHouse runs");
    let columns = COLUMNS.join(", ");
    let http = spillway_tests::http::client();
    let mut costs = Vec::new();
    for format in FORMATS {
        let select = format!(
            "SELECT {} FROM file({}, JSONEachRow, {}, 'gzip') LIMIT {ROWS} \
             FORMAT {format} SETTINGS output_format_arrow_string_as_string = 1, max_block_size = {ROWS}, max_threads = 1, \
             output_format_arrow_low_cardinality_as_dictionary = 0, output_format_arrow_compression_method = 'none'",
            columns.replace(
                "batch_id, batch_row",
                "'b' AS batch_id, toUInt32(rowNumberInAllBlocks()) AS batch_row"
            ),
            spillway_schema::sql::literal(&format!("{}/**/*.json.gz", staged.display())),
            spillway_schema::sql::literal(&structure()),
        );
        let answer = http.post(front.url()).body(select).send().await.expect("ClickHouse encodes");
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap_or_default());
        let body: Bytes = answer.bytes().await.expect("a body");
        let sql = ledger::insert_statement(&spec, COLUMNS, format);
        let mut best = Duration::MAX;
        let started = Instant::now();
        for attempt in 0..INSERTS {
            let token = format!("{format}-{attempt}");
            let attempt = Attempt {
                token: &token,
                query_id: &token,
                max_execution_time: 300,
                rows: ROWS,
                shard: 1,
                past_views: false,
            };
            let before = cpu::of_process(pid);
            client
                .insert(
                    &sql,
                    &token,
                    &ledger::insert_settings(&spec, &server, attempt),
                    body.clone(),
                    Duration::from_secs(300),
                )
                .await
                .expect("the insert succeeds");
            best = best.min(cpu::of_process(pid) - before);
        }
        costs.push((format, best.as_secs_f64() * 1e6 / ROWS as f64, body.len(), started.elapsed() / INSERTS));
    }
    let json = costs.last().map_or(1.0, |(_, cost, ..)| *cost);
    costs
        .into_iter()
        .map(|(format, cost, bytes, wall)| {
            Figure::new(
                format!(
                    "insert as {format}: server CPU per row ({} B/row, {} ms)",
                    bytes as u64 / ROWS,
                    wall.as_millis()
                ),
                cost,
                "us",
            )
            .against(json, "JSONEachRow")
        })
        .collect()
}

fn structure() -> String {
    spillway_model::COLUMNS
        .iter()
        .filter(|column| column.staged)
        .map(|column| format!("{} {}", column.name, column.kind.clickhouse_type()))
        .collect::<Vec<_>>()
        .join(", ")
}
