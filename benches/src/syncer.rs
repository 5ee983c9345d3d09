//! From staged objects to the indexed table, by the syncer and by ClickHouse itself.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::Deserialize;
use spillway_model::COLUMNS;
use spillway_model::settings::{BucketSettings, ClickHouseSettings};
use spillway_schema::{ClickHouse, SchemaSpec, View, apply};
use spillway_tests::front::Front;
use spillway_tests::wait::until;

use crate::report::Figure;
use crate::{cpu, setup};

/// What loading took.
struct Took {
    rows: u64,
    wall: Duration,
    clickhouse: Duration,
    syncer: Duration,
    merged: u64,
}

impl Took {
    fn rows_per_second(&self) -> f64 {
        self.rows as f64 / self.wall.as_secs_f64()
    }

    fn clickhouse_us_per_row(&self) -> f64 {
        self.clickhouse.as_secs_f64() * 1e6 / self.rows as f64
    }
}

#[derive(Deserialize)]
struct Count {
    n: u64,
}

/// Rows that background merges have written so far.
async fn merged(client: &ClickHouse) -> u64 {
    let sql = "SELECT value AS n FROM system.events WHERE event = 'MergedRows'";
    client.query_json::<Count>(sql, &[]).await.expect("ClickHouse tells").first().map_or(0, |row| row.n)
}

async fn count(client: &ClickHouse, spec: &SchemaSpec) -> u64 {
    let sql = format!("SELECT count() AS n FROM {}", spec.records());
    client.query_json::<Count>(&sql, &[]).await.expect("ClickHouse counts").first().map_or(0, |row| row.n)
}

/// Whether background merges run while rows are loaded. ClickHouse alone writes blocks of a million rows and
/// hardly merges within a benchmark, the syncer writes batches and is merged at once: with merges stopped the
/// loading itself is compared, with merges all that happens until the rows are there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Merges {
    Stopped,
    Running,
}

/// Loads the objects below `staged` by ClickHouse itself and by the syncer.
pub async fn measure(dir: &Path, staged: &Path) -> Vec<Figure> {
    let rows = staged_rows(staged);
    assert!(rows > 0, "ingest staged something");
    let mut figures = vec![Figure::new("rows to load", rows as f64, "rows")];
    for merges in [Merges::Running, Merges::Stopped] {
        let alone = by_clickhouse(staged, rows, merges).await;
        // The syncer deletes what it has loaded.
        let own = dir.join(if merges == Merges::Running { "staged-1" } else { "staged-2" });
        link_all(staged, &own);
        let syncer = by_syncer(dir, &own, rows, merges).await;
        let (cpu, cpu_alone) = (syncer.clickhouse_us_per_row(), alone.clickhouse_us_per_row());
        let own_cpu = syncer.syncer.as_secs_f64() * 1e6 / rows as f64;
        match merges {
            Merges::Running => figures.extend([
                Figure::new(
                    "syncer: staged objects to the indexed table and views",
                    syncer.rows_per_second(),
                    "rows/s",
                )
                .against(alone.rows_per_second(), "ClickHouse's own JSONEachRow, same objects")
                .goal("ratio > 1", syncer.rows_per_second() > alone.rows_per_second()),
                Figure::new("ClickHouse CPU per row, merges included", cpu, "us")
                    .against(cpu_alone, "ClickHouse's own JSONEachRow, same objects"),
                Figure::new(
                    "rows merged meanwhile, per row loaded",
                    syncer.merged as f64 / rows as f64,
                    "rows",
                )
                .against(alone.merged as f64 / rows as f64, "ClickHouse's own JSONEachRow"),
            ]),
            Merges::Stopped => figures.extend([
                Figure::new("ClickHouse CPU per row, merges stopped", cpu, "us")
                    .against(cpu_alone, "ClickHouse's own JSONEachRow, same objects")
                    .goal("ratio <= 0.6", cpu <= 0.6 * cpu_alone),
                Figure::new("syncer rows/s, merges stopped", syncer.rows_per_second(), "rows/s")
                    .against(alone.rows_per_second(), "ClickHouse's own JSONEachRow, same objects"),
                Figure::new("syncer's own CPU per row", own_cpu, "us"),
            ]),
        }
    }
    figures
}

/// `INSERT INTO table SELECT ... FROM file(..., JSONEachRow)` with the server's defaults, the better of two
/// degrees of parallelism. Same tables, indexes and views; no deduplication token, no fsync.
async fn by_clickhouse(staged: &Path, rows: u64, merges: Merges) -> Took {
    let mut best: Option<Took> = None;
    for threads in [1, 2] {
        let mut front = Front::start().await;
        let settings = front.settings("alone");
        let (client, spec) = with_schema(&settings, false).await;
        merges.set(&client).await;
        let pid = front.process().pid().expect("ClickHouse runs");
        let columns: Vec<&str> =
            COLUMNS.iter().filter(|column| column.staged).map(|column| column.name).collect();
        let structure: Vec<String> = COLUMNS
            .iter()
            .filter(|column| column.staged)
            .map(|column| format!("{} {}", column.name, column.kind.clickhouse_type()))
            .collect();
        let columns = columns.join(", ");
        let sql = format!(
            "INSERT INTO {} ({columns}, batch_id, batch_row) SELECT {columns}, 'alone', rowNumberInAllBlocks() \
             FROM file({}, JSONEachRow, {}, 'gzip') SETTINGS max_insert_threads = {threads}, async_insert = 0",
            spec.records(),
            spillway_schema::sql::literal(&format!("{}/**/*.json.gz", staged.display())),
            spillway_schema::sql::literal(&structure.join(", ")),
        );
        let (cpu_before, started) = (cpu::of_process(pid), Instant::now());
        client.execute(&sql, &[]).await.expect("ClickHouse loads the objects");
        let took = Took {
            rows,
            wall: started.elapsed(),
            clickhouse: cpu::of_process(pid) - cpu_before,
            syncer: Duration::ZERO,
            merged: merged(&client).await,
        };
        assert_eq!(count(&client, &spec).await, rows, "ClickHouse loaded every row");
        if best.as_ref().is_none_or(|best| took.wall < best.wall) {
            best = Some(took);
        }
    }
    best.expect("measured")
}

async fn by_syncer(dir: &Path, staged: &Path, rows: u64, merges: Merges) -> Took {
    let mut front = Front::start().await;
    let settings = front.settings("synced");
    let (client, spec) = with_schema(&settings, true).await;
    merges.set(&client).await;
    let pid = front.process().pid().expect("ClickHouse runs");
    let mut syncer = setup::syncer(dir, BucketSettings::directory(staged), settings).await;
    let (cpu_before, started) = (cpu::of_process(pid), Instant::now());
    let syncer_pid = syncer.pid().expect("the syncer runs");
    until("the syncer to load every row", Duration::from_secs(600), async || {
        assert!(syncer.is_running(), "the syncer ended:\n{}", syncer.log());
        tokio::time::sleep(Duration::from_millis(200)).await;
        (count(&client, &spec).await >= rows).then_some(())
    })
    .await;
    let took = Took {
        rows,
        wall: started.elapsed(),
        clickhouse: cpu::of_process(pid) - cpu_before,
        syncer: cpu::of_process(syncer_pid),
        merged: merged(&client).await,
    };
    assert_eq!(count(&client, &spec).await, rows, "no row is there twice");
    syncer.terminate();
    syncer.wait(Duration::from_secs(60)).await;
    took
}

impl Merges {
    async fn set(self, client: &ClickHouse) {
        if self == Self::Stopped {
            client.execute("SYSTEM STOP MERGES", &[]).await.expect("merges stop");
        }
    }
}

/// The same files below another folder.
fn link_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).into_iter().flatten().flatten() {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            link_all(&path, &target);
        } else {
            std::fs::hard_link(&path, &target).expect("a link");
        }
    }
}

/// The schema as a pipeline has it.
pub(crate) async fn with_schema(settings: &ClickHouseSettings, fsync: bool) -> (ClickHouse, SchemaSpec) {
    let client = ClickHouse::connect(settings).expect("the client is made");
    let spec = SchemaSpec { fsync, ..SchemaSpec::from_settings(settings) };
    apply(&client, &spec).await.expect("the schema is applied");
    assert_eq!(View::of(&spec).count(), View::ALL.len());
    (client, spec)
}

/// The number of rows that the keys of the objects name.
fn staged_rows(folder: &Path) -> u64 {
    let mut rows = 0;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if let Some(name) =
                path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".json.gz"))
            {
                // ...-v1-<rows>-<raw bytes>
                rows += name.rsplit('-').nth(1).and_then(|rows| rows.parse::<u64>().ok()).unwrap_or(0);
            }
        }
    }
    rows
}
