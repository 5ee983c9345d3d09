//! A lost manifest, made anew from what is left: the batches' control objects, the staged objects and the table.
//!
//! Here it is decided what becomes of each batch; [`survey`] looks and [`act`] writes. The new manifest names what may
//! have been under way, and the protocol does the rest: it counts the table and settles each batch as after any
//! take-over. Why each decision is safe stands in docs/commit-protocol.md.

mod act;
mod survey;
mod unlisted;

use std::collections::{BTreeMap, BTreeSet};

use spillway_model::time::{Day, UnixMs};

pub use act::{RebuildError, Rebuilt, rebuild};

use crate::batch::{BatchId, Partition, PipelineUid};
use crate::manifest::{Entry, Manifest, Removed, State};

/// Epochs are never used twice, and some may have left no trace: of writers that planned nothing, and of an earlier
/// rebuild. So this many are left out at least, and at random up to a million more.
const UNSEEN_EPOCHS: u64 = 1_000;

/// What is left of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Remains {
    /// When it was planned.
    pub(crate) created: UnixMs,
    /// Its last attempt, see [`last_attempt`].
    pub(crate) attempt: u64,
    /// Rows in the table once that is done.
    pub(crate) expected: u64,
    /// Rows in the table.
    pub(crate) rows: u64,
    /// All are there, or their retention is over.
    pub(crate) complete: bool,
    /// Its objects.
    pub(crate) objects: u64,
    /// Those of them that are still staged.
    pub(crate) left: u64,
    /// Other batches that list one of its objects, and which.
    pub(crate) shares: BTreeMap<BatchId, String>,
}

/// What becomes of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It may have been under way. Nothing of it is tried again under an old token: what is missing becomes the next
    /// attempt once nothing of it can be alive.
    Open,
    /// Its objects are being deleted, so its rows were confirmed and its views made right.
    Inserted,
    /// All its objects are deleted. It is remembered, because a stalled PUT may bring one back.
    Removed,
    /// It never was under way, or nothing of it is left.
    Dropped(Why),
}

/// Why a batch is not named any more. What is staged of it is planned anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Why {
    /// It has no rows, and this one has some of its objects.
    ObjectsIn(BatchId),
    /// It has no rows, and objects are gone, which are deleted only once their rows are in the table.
    ObjectsGone,
}

/// Nothing can be decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Undecided {
    /// Batches without rows would be dropped. They must be seen to have none once nothing can be alive.
    Wait,
    /// An object is in two batches that both have rows.
    LoadedTwice { batches: [BatchId; 2], key: String },
}

/// What becomes of each batch. `settled`: the table was asked after everything that was under way has ended.
pub(crate) fn decide(
    batches: &BTreeMap<BatchId, Remains>,
    settled: bool,
) -> Result<BTreeMap<BatchId, Fate>, Undecided> {
    let mut fates = BTreeMap::new();
    for (id, batch) in batches {
        let fate = fate(*id, batch, batches)?;
        if matches!(fate, Fate::Dropped(_)) && !settled {
            return Err(Undecided::Wait);
        }
        fates.insert(*id, fate);
    }
    Ok(fates)
}

fn fate(id: BatchId, batch: &Remains, all: &BTreeMap<BatchId, Remains>) -> Result<Fate, Undecided> {
    for (other, key) in &batch.shares {
        let has_rows = all.get(other).is_some_and(|other| other.rows > 0);
        if batch.rows == 0 && (has_rows || *other > id) {
            return Ok(Fate::Dropped(Why::ObjectsIn(*other)));
        }
        if batch.rows > 0 && has_rows {
            return Err(Undecided::LoadedTwice { batches: [id, *other], key: key.clone() });
        }
    }
    Ok(match batch.left {
        0 if batch.complete => Fate::Removed,
        left if left < batch.objects && batch.complete => Fate::Inserted,
        left if left < batch.objects && batch.rows == 0 => Fate::Dropped(Why::ObjectsGone),
        // Incomplete and objects gone: the protocol finds it stuck, and somebody has to look.
        _ => Fate::Open,
    })
}

/// An attempt whose object was written; whether the manifest ever named it has to be told from elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) number: u64,
    /// It puts rows aside.
    pub(crate) buries: bool,
    /// Its dead letters are there, which are written once the manifest names it, and before its inserts.
    pub(crate) buried: bool,
}

/// The attempt with which a batch goes on, of those above 0. One that puts rows aside counts only with its dead
/// letters: without them nothing of it was inserted, and the rows that it gives up may be in the table through the
/// attempt before it. Once objects are deleted the last one is as good as any: nothing will be inserted.
pub(crate) fn last_attempt(attempts: &[Written], objects_gone: bool) -> u64 {
    let counts = |attempt: &&Written| objects_gone || !attempt.buries || attempt.buried;
    attempts.iter().filter(counts).map(|attempt| attempt.number).max().unwrap_or(0)
}

/// Whether the table holds every row that it should, expired ones left out.
pub(crate) fn is_complete(
    expected: &[(Partition, u64)],
    found: &BTreeMap<Partition, u64>,
    today: i32,
) -> bool {
    expected.iter().all(|(partition, rows)| {
        partition.is_expired(Day(today)) || found.get(partition).copied().unwrap_or(0) >= *rows
    })
}

/// The highest epochs and numbers of which anything is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Highest {
    pub(crate) epoch: u64,
    pub(crate) number: u64,
}

impl Highest {
    pub(crate) fn take(&mut self, epoch: u64, number: u64) {
        self.epoch = self.epoch.max(epoch);
        self.number = self.number.max(number);
    }

    /// An attempt's number has the epoch of its writer in the upper bits.
    pub(crate) fn take_attempt(&mut self, number: u64) {
        self.take(number >> 16, 0);
    }
}

/// What a new manifest is made of.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    pub(crate) pipeline: PipelineUid,
    pub(crate) highest: Highest,
    pub(crate) batches: &'a BTreeMap<BatchId, Remains>,
    pub(crate) fates: &'a BTreeMap<BatchId, Fate>,
    /// Epochs that are left out, see [`UNSEEN_EPOCHS`].
    pub(crate) unseen: u64,
    /// Makes its bytes differ from those of any other manifest, so that no old writer's swap fits.
    pub(crate) nonce: String,
    /// Size of the server's deduplication window.
    pub(crate) window: u64,
    pub(crate) now: UnixMs,
}

/// The new manifest.
pub(crate) fn manifest(parts: Parts<'_>) -> Manifest {
    let Parts { pipeline, highest, batches, fates, unseen, nonce, window, now } = parts;
    let mut manifest = Manifest::first(pipeline, now);
    // Also where nothing is known of any: a writer that has just begun may not have noticed yet.
    manifest.epoch = highest.epoch + unseen;
    manifest.next_batch = highest.number + 1;
    manifest.nonce = nonce;
    // With marks of 0 the window has passed for all that is named here.
    manifest.window = window;
    for (id, batch) in batches {
        let state = match fates.get(id) {
            Some(Fate::Open) => State::Open,
            Some(Fate::Inserted) => State::Inserted { at: now },
            Some(Fate::Removed) => {
                manifest.removed.push(Removed { id: *id, attempt: batch.attempt, at: now });
                continue;
            }
            Some(Fate::Dropped(_)) | None => continue,
        };
        let Remains { attempt, expected, created, .. } = *batch;
        manifest.batches.insert(*id, Entry { state, attempt, rows: expected, mark: 0, created });
    }
    manifest
}

/// The one name under which the batches were loaded.
pub(crate) fn pipeline_of(
    lists: &BTreeSet<Option<PipelineUid>>,
    table: &BTreeMap<PipelineUid, Highest>,
    random: impl FnOnce() -> PipelineUid,
) -> Result<PipelineUid, Vec<String>> {
    let names = || {
        let of_lists =
            lists.iter().map(|name| name.as_ref().map_or_else(|| "none".to_owned(), |name| name.0.clone()));
        of_lists.chain(table.keys().map(|name| name.0.clone())).collect::<BTreeSet<_>>().into_iter().collect()
    };
    let mut of_lists = lists.iter();
    match (of_lists.next(), of_lists.next()) {
        (Some(Some(name)), None) => Ok(name.clone()),
        // Lists that name no pipeline: only one can be meant.
        (Some(None), None) if table.len() == 1 => Ok(table.keys().next().cloned().unwrap_or_else(random)),
        (Some(_), _) => Err(names()),
        // Any will do, since the epoch is new. The last one is the one that people know.
        (None, _) => {
            Ok(table.iter().max_by_key(|(_, last)| last.epoch).map_or_else(random, |(name, _)| name.clone()))
        }
    }
}

#[cfg(test)]
mod tests;
