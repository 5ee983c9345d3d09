//! What is left, looked at: nothing is changed here.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};
use serde::de::DeserializeOwned;
use spillway_bucket::{Bucket, BucketError};
use spillway_model::time::{Day, UnixMs};
use spillway_schema::ledger::{self, BatchPartitionRows, DayRange, LastBatch, Running, Today};
use spillway_schema::{ClickHouse, ClickHouseError, SchemaSpec};

use super::{Highest, RebuildError, Remains, Written, is_complete, last_attempt, pipeline_of};
use crate::batch::{Attempt, AttemptList, BATCHES_DIR, BatchId, BatchList, Partition, PipelineUid};
use crate::core::key_hash;
use crate::dead;
use crate::status::{STATUS_KEY, Status};

pub(super) const PAGE: usize = 10_000;
/// Objects read at once.
const READS: usize = 16;
/// Batches counted with one question.
const COUNTED: usize = 200;

/// All that is known.
#[derive(Debug)]
pub(super) struct Survey {
    /// Keys of the control objects that were there.
    pub(super) controls: BTreeSet<String>,
    pub(super) pipeline: PipelineUid,
    pub(super) highest: Highest,
    pub(super) batches: BTreeMap<BatchId, Remains>,
    /// Hashes of the keys that lists name.
    pub(super) listed: HashSet<[u8; 16]>,
}

/// A list object, without what isn't needed.
struct Listed {
    id: BatchId,
    pipeline: Option<PipelineUid>,
    created: UnixMs,
    first: Attempt,
    keys: Vec<[u8; 16]>,
}

/// The batch and the attempt that a control object is of.
fn named(key: &str) -> Option<(BatchId, u64)> {
    let name = key.strip_prefix(BATCHES_DIR)?.strip_suffix(".json")?;
    let (id, attempt): (BatchId, u64) = match name.split_once("-a") {
        Some((id, attempt)) => (id.parse().ok()?, attempt.parse().ok()?),
        None => (name.parse().ok()?, 0),
    };
    // A number can be written in several ways, and is looked for under one of them.
    let key_of_it = if attempt == 0 { id.list_key() } else { id.attempt_key(attempt) };
    (key == key_of_it).then_some((id, attempt))
}

/// One lost answer among thousands must not end it all.
pub(super) async fn repeated<T, F>(mut ask: impl FnMut() -> F) -> Result<T, BucketError>
where
    F: Future<Output = Result<T, BucketError>>,
{
    let mut pause = Duration::from_millis(200);
    loop {
        match ask().await {
            Err(error) if error.is_transient() && pause < Duration::from_secs(10) => {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            answer => return answer,
        }
    }
}

async fn keys(bucket: &Bucket, prefix: &str, mut with: impl FnMut(String)) -> Result<(), RebuildError> {
    let mut after: Option<String> = None;
    loop {
        let page = repeated(|| bucket.list(prefix, after.as_deref(), PAGE)).await?;
        page.objects.into_iter().for_each(|object| with(object.key));
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(()),
        }
    }
}

/// Keys of all control objects of batches.
pub(super) async fn controls(bucket: &Bucket) -> Result<BTreeSet<String>, RebuildError> {
    let mut found = BTreeSet::new();
    keys(bucket, BATCHES_DIR, |key| {
        found.insert(key);
    })
    .await?;
    Ok(found)
}

async fn read<T: DeserializeOwned>(bucket: &Bucket, key: &str) -> Result<T, RebuildError> {
    let Some((bytes, _)) = repeated(|| bucket.get(key)).await? else { return Err(RebuildError::Changing) };
    serde_json::from_slice(&bytes)
        .map_err(|error| RebuildError::Damaged { key: key.to_owned(), message: error.to_string() })
}

async fn read_list(bucket: &Bucket, id: BatchId) -> Result<(Listed, Vec<String>), RebuildError> {
    let key = id.list_key();
    let list: BatchList = read(bucket, &key).await?;
    if list.id != id {
        return Err(RebuildError::Damaged { key, message: format!("it is of batch {}", list.id) });
    }
    let keys: Vec<String> = list.objects.into_iter().map(|member| member.key).collect();
    let BatchList { id, pipeline, created, first, .. } = list;
    Ok((Listed { id, pipeline, created, first, keys: keys.iter().map(|key| key_hash(key)).collect() }, keys))
}

/// The lists, and for each the others that have one of its objects.
#[derive(Default)]
struct Lists {
    all: Vec<Listed>,
    shares: BTreeMap<BatchId, BTreeMap<BatchId, String>>,
    owners: HashMap<[u8; 16], Vec<BatchId>>,
}

impl Lists {
    fn take(&mut self, list: Listed, keys: &[String]) {
        for (hash, key) in list.keys.iter().zip(keys) {
            let owners = self.owners.entry(*hash).or_default();
            for other in owners.iter().filter(|other| **other != list.id) {
                self.shares.entry(list.id).or_default().insert(*other, key.clone());
                self.shares.entry(*other).or_default().insert(list.id, key.clone());
            }
            owners.push(list.id);
        }
        self.all.push(list);
    }
}

/// How many objects of each list are still staged.
async fn staged(bucket: &Bucket, lists: &Lists) -> Result<BTreeMap<BatchId, u64>, RebuildError> {
    let mut left: BTreeMap<BatchId, u64> = BTreeMap::new();
    keys(bucket, "", |key| {
        for owner in lists.owners.get(&key_hash(&key)).into_iter().flatten() {
            *left.entry(*owner).or_default() += 1;
        }
    })
    .await?;
    Ok(left)
}

/// A batch's attempt, as far as it matters here.
struct Chosen {
    number: u64,
    partitions: Vec<(Partition, u64)>,
}

async fn choose(
    bucket: &Bucket,
    list: &Listed,
    numbers: &[u64],
    objects_gone: bool,
) -> Result<Chosen, RebuildError> {
    let mut read_ones = BTreeMap::new();
    let mut written = Vec::new();
    for number in numbers.iter().rev() {
        let key = list.id.attempt_key(*number);
        let attempt: AttemptList = read(bucket, &key).await?;
        if attempt.id != list.id || attempt.number != *number {
            let message = format!("it is attempt {} of batch {}", attempt.number, attempt.id);
            return Err(RebuildError::Damaged { key, message });
        }
        let buries = attempt.attempt.dead.iter().any(|dead| dead.attempt == *number);
        let dead = dead::key(list.id, *number, list.created);
        let buried = buries && repeated(|| bucket.head(&dead)).await?.is_some();
        let one = Written { number: *number, buries, buried };
        written.push(one);
        read_ones.insert(*number, attempt.attempt.partitions);
        if last_attempt(&[one], objects_gone) > 0 {
            break;
        }
    }
    let number = last_attempt(&written, objects_gone);
    let partitions = read_ones.remove(&number).unwrap_or_else(|| list.first.partitions.clone());
    Ok(Chosen { number, partitions })
}

async fn count(
    clickhouse: &ClickHouse,
    spec: &SchemaSpec,
    pipeline: &PipelineUid,
    chosen: &[(BatchId, Chosen)],
) -> Result<HashMap<String, BTreeMap<Partition, u64>>, RebuildError> {
    if let Some(sql) = ledger::sync_statement(spec) {
        clickhouse.execute(&sql, &[]).await?;
    }
    let mut counts: HashMap<String, BTreeMap<Partition, u64>> = HashMap::new();
    for some in chosen.chunks(COUNTED) {
        let days = || some.iter().flat_map(|(_, chosen)| chosen.partitions.iter().map(|(at, _)| at.day));
        let (Some(first), Some(last)) = (days().min(), days().max()) else { continue };
        let ids: Vec<String> = some.iter().map(|(id, _)| id.in_table(pipeline)).collect();
        let ids = ids.iter().map(String::as_str);
        let sql = ledger::count_partitions_of(spec, ids, DayRange { first, last });
        let rows: Vec<BatchPartitionRows> = clickhouse.query_json(&sql, &ledger::read_settings(spec)).await?;
        for BatchPartitionRows { batch_id, day, retention_days, rows } in rows {
            counts.entry(batch_id).or_default().insert(Partition { day: Day(day), retention_days }, rows);
        }
    }
    Ok(counts)
}

/// Whether an insert or a repair of the pipeline runs at the server.
pub(super) async fn is_running(
    clickhouse: &ClickHouse,
    spec: &SchemaSpec,
    pipeline: &PipelineUid,
) -> Result<bool, RebuildError> {
    let running: Vec<Running> =
        clickhouse.query_json(&ledger::running(spec, &format!("{}-", pipeline.0)), &[]).await?;
    Ok(!running.is_empty())
}

/// Looks at everything: first the lists, then what is staged, then the table, so that what is loaded and deleted
/// meanwhile is seen as loaded.
pub(super) async fn survey(
    bucket: &Bucket,
    clickhouse: &ClickHouse,
    spec: &SchemaSpec,
    random: impl FnOnce() -> PipelineUid,
) -> Result<Survey, RebuildError> {
    let controls = controls(bucket).await?;
    let mut highest = Highest::default();
    let mut attempts: BTreeMap<BatchId, Vec<u64>> = BTreeMap::new();
    let mut ids = Vec::new();
    for key in &controls {
        let Some((id, attempt)) = named(key) else {
            let message = "its name is no batch's".to_owned();
            return Err(RebuildError::Damaged { key: key.clone(), message });
        };
        highest.take(id.epoch, id.number);
        highest.take_attempt(attempt);
        match attempt {
            0 => ids.push(id),
            // Of batches whose list is gone there may be some left: they are done with.
            attempt => attempts.entry(id).or_default().push(attempt),
        }
    }
    let mut lists = Lists::default();
    let mut reads = stream::iter(ids).map(|id| read_list(bucket, id)).buffered(READS);
    while let Some((list, keys)) = reads.try_next().await? {
        lists.take(list, &keys);
    }
    drop(reads);
    if let Some((bytes, _)) = repeated(|| bucket.get(STATUS_KEY)).await?
        && let Ok(status) = serde_json::from_slice::<Status>(&bytes)
    {
        highest.take(status.epoch, 0);
    }
    let staged = staged(bucket, &lists).await?;
    let last: Vec<LastBatch> =
        clickhouse.query_json(&ledger::last_batches(spec), &ledger::read_settings(spec)).await?;
    let mut table = BTreeMap::new();
    for LastBatch { pipeline, epoch, number } in last {
        highest.take(epoch, number);
        table.insert(PipelineUid(pipeline), Highest { epoch, number });
    }
    let names = lists.all.iter().map(|list| list.pipeline.clone()).collect();
    let pipeline = pipeline_of(&names, &table, random).map_err(|names| RebuildError::Pipelines { names })?;
    let mut chosen = Vec::new();
    for list in &lists.all {
        let mut numbers = attempts.remove(&list.id).unwrap_or_default();
        numbers.sort_unstable();
        let left = staged.get(&list.id).copied().unwrap_or(0);
        let gone = left < list.keys.len() as u64;
        chosen.push((list.id, choose(bucket, list, &numbers, gone).await?));
    }
    let counts = count(clickhouse, spec, &pipeline, &chosen).await?;
    let today: Vec<Today> = clickhouse.query_json(ledger::today(), &[]).await?;
    let silent = || ClickHouseError::Invalid("ClickHouse answered nothing when asked for its day".to_owned());
    let today = today.first().ok_or_else(silent)?.today;
    let none = BTreeMap::new();
    let batches = lists.all.iter().zip(&chosen).map(|(list, (id, chosen))| {
        let found = counts.get(&id.in_table(&pipeline)).unwrap_or(&none);
        let remains = Remains {
            created: list.created,
            attempt: chosen.number,
            expected: chosen.partitions.iter().map(|(_, rows)| rows).sum(),
            rows: found.values().sum(),
            complete: is_complete(&chosen.partitions, found, today),
            objects: list.keys.len() as u64,
            left: staged.get(id).copied().unwrap_or(0),
            shares: lists.shares.get(id).cloned().unwrap_or_default(),
        };
        (*id, remains)
    });
    let batches = batches.collect();
    let listed = lists.owners.into_keys().collect();
    Ok(Survey { controls, batches, pipeline, highest, listed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_object_has_the_one_name_under_which_it_is_looked_for() {
        let id = BatchId { epoch: 3, number: 17 };
        assert_eq!(named(&id.list_key()), Some((id, 0)));
        assert_eq!(named(&id.attempt_key(2)), Some((id, 2)));
        for name in ["3-017", "+3-17", "3-17-a0", "3-17-a02", "3-17-a", "3-17 (1)", "notes"] {
            assert_eq!(named(&format!("{BATCHES_DIR}{name}.json")), None, "{name}");
        }
        assert_eq!(named(&format!("{BATCHES_DIR}3-17.json.bak")), None);
    }
}
