//! Staged objects that no list names, looked up in the table: if anything of one is there, lists are lost as well.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt, TryStreamExt};
use spillway_bucket::Bucket;
use spillway_model::ObjectKey;
use spillway_model::object::{DEAD_LETTER_DIR, SPILLWAY_DIR};
use spillway_model::time::UnixMs;
use spillway_schema::ledger::{self, NewestRow, Witness};
use spillway_schema::{ClickHouse, SchemaSpec};

use super::RebuildError;
use super::survey::{PAGE, repeated};
use crate::encode::Source;
use crate::loaded::{self, ASKED};

/// Objects read at once. One may expand to some MiB.
const READS: usize = 8;
/// How long rows may have waited in ingest's memory before they were staged, as while the bucket was away. Both times are
/// of one clock.
const HELD: i64 = 60 * 60 * 1_000;
/// Rows of replayed dead letters keep the time at which they were received, so their objects are always looked up.
const REPLAY: &str = "replay-";
const TELL: Duration = Duration::from_secs(30);

/// Whether rows of an object may be in a table of which the newest row was received at `newest`.
fn may_be_loaded(parts: &ObjectKey, newest: UnixMs) -> bool {
    parts.time.0 <= newest.0.saturating_add(HELD) || parts.incarnation.as_str().starts_with(REPLAY)
}

/// Refuses when the table has rows of an object that is not listed: beginning without its list would load them twice.
/// All of them are looked at, since of a batch that was half inserted only the last object may have rows there.
pub(super) async fn look_up(
    bucket: &Bucket,
    clickhouse: &ClickHouse,
    spec: &SchemaSpec,
    is_listed: impl Fn(&str) -> bool,
) -> Result<(), RebuildError> {
    let rows: Vec<NewestRow> =
        clickhouse.query_json(&ledger::newest_row(spec), &ledger::read_settings(spec)).await?;
    let newest = UnixMs(rows.first().map_or(0, |row| row.received_ms));
    let mut progress = Progress::new();
    let mut after: Option<String> = None;
    loop {
        let page = repeated(|| bucket.list("", after.as_deref(), PAGE)).await?;
        let wanted = page.objects.into_iter().filter_map(|object| {
            let key = object.key;
            if key.starts_with(SPILLWAY_DIR) || key.starts_with(DEAD_LETTER_DIR) || is_listed(&key) {
                return None;
            }
            let parts = ObjectKey::parse(&key).ok()?;
            may_be_loaded(&parts, newest).then_some((key, parts))
        });
        let mut reads =
            stream::iter(wanted).map(|(key, parts)| witnesses(bucket, key, parts)).buffered(READS);
        let mut asked: Vec<(String, Witness)> = Vec::new();
        while let Some((key, rows)) = reads.try_next().await? {
            progress.looked_at(&key);
            asked.extend(rows.into_iter().map(|row| (key.clone(), row)));
            if asked.len() >= ASKED {
                none_is_loaded(clickhouse, spec, std::mem::take(&mut asked)).await?;
            }
        }
        none_is_loaded(clickhouse, spec, asked).await?;
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(()),
        }
    }
}

async fn none_is_loaded(
    clickhouse: &ClickHouse,
    spec: &SchemaSpec,
    asked: Vec<(String, Witness)>,
) -> Result<(), RebuildError> {
    let rows: Vec<&Witness> = asked.iter().map(|(_, row)| row).collect();
    let found = loaded::find(clickhouse, spec, &rows).await?;
    let loaded = asked.iter().filter(|(_, row)| found.contains(row)).map(|(key, _)| key);
    let loaded: BTreeSet<&String> = loaded.collect();
    match loaded.first() {
        Some(key) => Err(RebuildError::Unlisted { key: (*key).clone(), objects: loaded.len() }),
        None => Ok(()),
    }
}

/// The key, and the rows that stand for the object.
async fn witnesses(
    bucket: &Bucket,
    key: String,
    parts: ObjectKey,
) -> Result<(String, Vec<Witness>), RebuildError> {
    let bytes = match repeated(|| bucket.get(&key)).await {
        Ok(Some((bytes, _))) => bytes,
        // It was loaded meanwhile, by a batch that is listed.
        Ok(None) => return Ok((key, Vec::new())),
        Err(error) if error.is_transient() => return Err(error.into()),
        // One that can't be read holds up no rebuild: the syncer looks it up again before it loads it.
        Err(error) => {
            tracing::warn!(key, "the object can't be looked up in the table: {error}");
            return Ok((key, Vec::new()));
        }
    };
    let source = Source { key: key.clone(), parts, bytes, damaged: None, suspect: true };
    let rows = tokio::task::spawn_blocking(move || loaded::witnesses(&source).into_values().collect());
    Ok((key, rows.await.unwrap_or_default()))
}

/// It may take as long as loading these objects would.
struct Progress {
    objects: u64,
    told: Instant,
}

impl Progress {
    fn new() -> Self {
        Self { objects: 0, told: Instant::now() }
    }

    fn looked_at(&mut self, key: &str) {
        self.objects += 1;
        if self.told.elapsed() >= TELL {
            self.told = Instant::now();
            tracing::info!(objects = self.objects, last = key, "looking staged objects up in the table");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_staged_long_after_the_newest_row_was_received_is_not_looked_up() {
        let newest = UnixMs::parse_compact("20261122T120000000Z").unwrap();
        for (what, file, looked_up) in [
            ("older", "20261120T120000000Z-pod-1", true),
            ("from when the table went away", "20261122T120000000Z-pod-1", true),
            ("held back by ingest for a while", "20261122T125959000Z-pod-1", true),
            ("behind an outage", "20261122T130001000Z-pod-1", false),
            ("replayed, with rows received long before", "20261122T130001000Z-replay-1", true),
        ] {
            let parts = ObjectKey::parse(&format!("a/s/{file}-0000000001-v1-1-9.json.gz")).unwrap();
            assert_eq!(may_be_loaded(&parts, newest), looked_up, "{what}");
        }
    }

    #[test]
    fn of_an_empty_table_nothing_is_looked_up() {
        let parts = ObjectKey::parse("a/s/20261122T120000000Z-pod-0000000001-v1-1-9.json.gz").unwrap();
        assert!(!may_be_loaded(&parts, UnixMs(0)));
    }
}
