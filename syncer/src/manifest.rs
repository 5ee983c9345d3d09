//! The manifest: the one small object that says which batches are under way. It is changed only by
//! compare-and-swap, so whoever holds its newest version is the writer and everybody else has stopped.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use spillway_model::time::UnixMs;

use crate::batch::{BatchId, PipelineUid};

/// Key of the manifest, relative to the bucket's prefix.
pub const MANIFEST_KEY: &str = "_spillway/manifest.json";

/// Format of the manifest that this version writes, and the newest that it reads.
pub const MANIFEST_VERSION: u32 = 1;

/// State of a batch that the manifest names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "is")]
pub enum State {
    /// Planned; some of its rows may be in the table, and an insert may be under way.
    Open,
    /// All its rows are in the table and counted in the views. Its objects are deleted after a grace.
    Inserted {
        /// When that was confirmed, by the writer's clock.
        at: UnixMs,
    },
    /// Its rows can't be brought into the table, or into a view, without somebody's help.
    Stuck {
        /// Short label of the cause.
        reason: String,
    },
}

/// A batch that the manifest names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Where it stands.
    pub state: State,
    /// The attempt whose inserts may be under way. Attempt 0 stands in the list object.
    pub attempt: u64,
    /// Rows in the table once the attempt is done.
    pub rows: u64,
    /// The manifest's `window` when the attempt entered: how far the deduplication window moved since.
    pub mark: u64,
    /// When it was planned, by the writer's clock.
    pub created: UnixMs,
}

/// A batch whose objects are gone. It is remembered for a while, because a stalled PUT of one of its
/// objects may still land, and that object must not be loaded again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// The batch.
    pub id: BatchId,
    /// Its last attempt, so that its control objects can be found and deleted.
    pub attempt: u64,
    /// When it was swapped out.
    pub at: UnixMs,
}

/// Records of a project since the pipeline began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    /// In the table, confirmed by reading back.
    pub loaded: u64,
    /// Put aside as dead letters.
    pub dead_lettered: u64,
}

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Format.
    pub version: u32,
    /// The pipeline's own name.
    pub pipeline: PipelineUid,
    /// Raised by one at each take-over.
    pub epoch: u64,
    /// Raised by one at each swap: a manifest whose `seq` stands still has no living writer.
    pub seq: u64,
    /// Chosen at random at each take-over: tells whose swap it was when the answer got lost.
    pub nonce: String,
    /// Who wrote it: lets a writer on the same machine see that its predecessor is dead.
    pub holder: String,
    /// The writer has stopped in good order; anybody may take over at once.
    pub released: bool,
    /// Number of the next batch.
    pub next_batch: u64,
    /// Entries of the deduplication window that all attempts so far may have used.
    pub window: u64,
    /// When it was written, by the writer's clock.
    pub written: UnixMs,
    /// Batches under way, oldest first.
    pub batches: BTreeMap<BatchId, Entry>,
    /// Batches done with, not yet forgotten.
    pub removed: Vec<Removed>,
    /// Totals per project. `None` of a batch's rows count before the batch is `Inserted`.
    pub totals: BTreeMap<String, Totals>,
}

/// The manifest can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It isn't JSON of the manifest's shape.
    #[error(
        "{MANIFEST_KEY} is damaged ({0}); restore an earlier version of the object, or follow the recovery steps in docs/recovery.md"
    )]
    Damaged(#[from] serde_json::Error),
    /// A newer Spillway wrote it.
    #[error(
        "{MANIFEST_KEY} has format {0}, this syncer reads up to {MANIFEST_VERSION}; run a syncer of the version that wrote it, or newer"
    )]
    TooNew(u32),
}

impl Manifest {
    /// The first manifest of a pipeline.
    #[must_use]
    pub fn first(pipeline: PipelineUid, now: UnixMs) -> Self {
        Self {
            version: MANIFEST_VERSION,
            pipeline,
            epoch: 0,
            seq: 0,
            nonce: String::new(),
            holder: String::new(),
            released: true,
            next_batch: 1,
            window: 0,
            written: now,
            batches: BTreeMap::new(),
            removed: Vec::new(),
            totals: BTreeMap::new(),
        }
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// When it is damaged or of a newer format.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let Version { version } = serde_json::from_slice(bytes)?;
        if version > MANIFEST_VERSION {
            return Err(ManifestError::TooNew(version));
        }
        Ok(serde_json::from_slice(bytes)?)
    }

    /// The manifest as it is stored.
    ///
    /// # Errors
    /// None in practice: every field has a JSON form.
    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// Batches that are neither done nor stuck.
    #[must_use]
    pub fn open(&self) -> usize {
        self.batches.values().filter(|entry| entry.state == State::Open).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_survives_its_bytes() {
        let mut manifest = Manifest::first(PipelineUid("abc".into()), UnixMs(5));
        let id = BatchId { epoch: 1, number: 2 };
        let entry = Entry {
            state: State::Inserted { at: UnixMs(9) },
            attempt: 3,
            rows: 4,
            mark: 5,
            created: UnixMs(6),
        };
        manifest.batches.insert(id, entry);
        manifest.removed.push(Removed { id, attempt: 0, at: UnixMs(1) });
        assert_eq!(Manifest::parse(&manifest.to_bytes().unwrap()).unwrap(), manifest);
    }

    #[test]
    fn a_manifest_of_a_newer_format_is_refused_by_name() {
        let error = Manifest::parse(br#"{"version":2}"#).unwrap_err();
        assert!(matches!(error, ManifestError::TooNew(2)), "{error}");
    }
}
