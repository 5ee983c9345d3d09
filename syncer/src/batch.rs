//! Batches: what one commit to ClickHouse consists of, and how it is named.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use spillway_model::name::ProjectId;
use spillway_model::time::{Day, UnixMs};

/// Where the immutable control objects of batches lie, relative to the bucket's prefix.
pub const BATCHES_DIR: &str = "_spillway/batches/";

/// Version of the encoder that turns staged rows into insert bodies. A token must never be used for
/// other bytes than it was first used for, so any change of the encoder's output raises this number.
pub const ENCODER_VERSION: u16 = 1;

/// A random name given to the pipeline when its manifest is first written. It makes batch ids, and with
/// them deduplication tokens, unique even after a manifest was lost and made anew.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PipelineUid(pub String);

/// `<epoch>-<number>`: unique within a pipeline, because only one writer ever owns an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId {
    /// Epoch of the writer that planned the batch.
    pub epoch: u64,
    /// Consecutive number over all epochs.
    pub number: u64,
}

impl BatchId {
    /// The value of the `batch_id` column.
    #[must_use]
    pub fn in_table(self, pipeline: &PipelineUid) -> String {
        format!("{}-{self}", pipeline.0)
    }

    /// The `insert_deduplication_token` (and `query_id`) of one piece of one attempt.
    #[must_use]
    pub fn token(self, pipeline: &PipelineUid, attempt: u64, piece: usize) -> String {
        format!("{}-{self}-{attempt}.{piece}", pipeline.0)
    }

    /// Key of the batch's list object.
    #[must_use]
    pub fn list_key(self) -> String {
        format!("{BATCHES_DIR}{self}.json")
    }

    /// Key of the object that says what attempt number `attempt` (1 and up) inserts.
    #[must_use]
    pub fn attempt_key(self, attempt: u64) -> String {
        format!("{BATCHES_DIR}{self}-a{attempt}.json")
    }
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:08}", self.epoch, self.number)
    }
}

/// A text that is no batch id.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a batch id: expected <epoch>-<number>")]
pub struct BatchIdError(String);

impl FromStr for BatchId {
    type Err = BatchIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text.split_once('-').and_then(|(epoch, number)| {
            Some(Self { epoch: epoch.parse().ok()?, number: number.parse().ok()? })
        });
        parsed.ok_or_else(|| BatchIdError(text.to_owned()))
    }
}

impl Serialize for BatchId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BatchId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A staged object and the number of rows (lines) in it, as its key says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Key relative to the bucket's prefix.
    pub key: String,
    /// Lines in the object, good or bad.
    pub rows: u64,
}

/// A partition of the table: rows of one day that are kept equally long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Partition {
    /// Day of the rows' timestamps, UTC.
    pub day: Day,
    /// Retention in days.
    pub retention_days: u16,
}

impl Partition {
    /// Whether a server whose day it is drops its rows.
    #[must_use]
    pub fn is_expired(self, today: Day) -> bool {
        self.day.0 + i32::from(self.retention_days) <= today.0
    }
}

/// Rows of a batch by number: sorted, disjoint, half-open ranges. A row's number is its line's place in
/// the batch's objects, counted over all of them in the list's order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RowSet(Vec<(u32, u32)>);

impl RowSet {
    /// The rows `0..n`.
    #[must_use]
    pub fn all(n: u32) -> Self {
        Self(if n == 0 { Vec::new() } else { vec![(0, n)] })
    }

    /// From row numbers in ascending order.
    #[must_use]
    pub fn from_sorted(rows: impl IntoIterator<Item = u32>) -> Self {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for row in rows {
            match ranges.last_mut() {
                Some((_, end)) if *end == row => *end += 1,
                _ => ranges.push((row, row + 1)),
            }
        }
        Self(ranges)
    }

    /// The rows in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().flat_map(|&(from, to)| from..to)
    }

    /// How many rows the set holds.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.iter().map(|&(from, to)| u64::from(to - from)).sum()
    }

    /// Whether the set holds no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `row` is in the set.
    #[must_use]
    pub fn contains(&self, row: u32) -> bool {
        let after = self.0.partition_point(|&(from, _)| from <= row);
        after > 0 && row < self.0[after - 1].1
    }
}

/// One insert of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// The rows it inserts.
    pub rows: RowSet,
    /// SHA-256 of the insert's body, hex: what a replay under the same token must reproduce.
    pub digest: String,
    /// Partitions its rows fall into: so many entries of the deduplication window it uses.
    pub partitions: u32,
}

/// A row that is not inserted, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadRow {
    /// Its number in the batch.
    pub row: u32,
    /// How many rows it stands for: 1, or all rows of an object that can't be decoded.
    pub rows: u64,
    /// The attempt that put it aside: its dead-letter object says so too.
    pub attempt: u64,
    /// Project it belongs to, as far as that can be told.
    pub project: Option<ProjectId>,
    /// Short label: `unparsable`, `refused`, ...
    pub reason: String,
    /// What was wrong, for people.
    pub detail: String,
}

/// What an attempt puts into the table, and what the batch as a whole amounts to once it has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// The inserts of this attempt.
    pub pieces: Vec<Piece>,
    /// All rows of the batch that are dead letters as of this attempt.
    pub dead: Vec<DeadRow>,
    /// Rows that the table holds per partition once the attempt is done.
    pub partitions: Vec<(Partition, u64)>,
    /// Rows that the table holds per project once the attempt is done.
    pub projects: BTreeMap<ProjectId, u64>,
}

impl Attempt {
    /// Rows in the table once the attempt is done.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.partitions.iter().map(|(_, rows)| rows).sum()
    }

    /// Entries of the deduplication window that its inserts use.
    #[must_use]
    pub fn window(&self) -> u64 {
        self.pieces.iter().map(|piece| u64::from(piece.partitions)).sum()
    }
}

/// The immutable object `_spillway/batches/<id>.json`: written before the manifest names the batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchList {
    /// The batch.
    pub id: BatchId,
    /// The pipeline, so that a lost manifest can be made anew under its name.
    #[serde(default)]
    pub pipeline: Option<PipelineUid>,
    /// Version of the encoder that made the digests.
    pub encoder: u16,
    /// When it was planned.
    pub created: UnixMs,
    /// Shard that all its inserts go to, from 1: a replay elsewhere would not be recognised.
    pub shard: u32,
    /// Its objects, in the order in which their lines are numbered.
    pub objects: Vec<Member>,
    /// Attempt 0.
    pub first: Attempt,
}

/// The immutable object `_spillway/batches/<id>-a<n>.json`: written before the manifest names the attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttemptList {
    /// The batch.
    pub id: BatchId,
    /// Number of the attempt, 1 and up.
    pub number: u64,
    /// Version of the encoder that made the digests.
    pub encoder: u16,
    /// What it inserts.
    pub attempt: Attempt,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_id_survives_its_text() {
        let id = BatchId { epoch: 12, number: 345 };
        assert_eq!(id.to_string().parse::<BatchId>().unwrap(), id);
        assert!("12".parse::<BatchId>().is_err());
        assert!("12-x".parse::<BatchId>().is_err());
    }

    #[test]
    fn a_row_set_keeps_exactly_its_rows() {
        let rows = [0, 1, 2, 7, 9, 10];
        let set = RowSet::from_sorted(rows);
        assert_eq!(set.iter().collect::<Vec<_>>(), rows);
        assert_eq!(set.len(), 6);
        for row in 0..12 {
            assert_eq!(set.contains(row), rows.contains(&row), "{row}");
        }
        assert!(RowSet::all(0).is_empty());
    }
}
