//! The only thing that a rebuild changes: the new manifest is written, if none is there. Whatever was dropped is swept
//! by the take-over that follows.

use std::fmt;
use std::time::Duration;

use spillway_bucket::{Bucket, BucketError, Swap};
use spillway_model::time::UnixMs;
use spillway_schema::spec::DEDUPLICATION_WINDOW;
use spillway_schema::{ClickHouse, ClickHouseError, SchemaSpec};

use super::survey::{self, Survey, is_running, survey};
use super::unlisted::look_up;
use super::{Fate, Parts, UNSEEN_EPOCHS, Undecided, Why, decide, manifest};
use crate::batch::{BatchId, PipelineUid};
use crate::core::key_hash;
use crate::failpoint::failpoint;
use crate::manifest::MANIFEST_KEY;

/// Looks until nothing changes while one looks.
const TRIES: usize = 5;

/// No manifest was made. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// See the text.
    #[error(
        "{MANIFEST_KEY} is there; only a missing one is made anew. If it can't be used, move it away first"
    )]
    Present,
    /// See the text.
    #[error("{key} can't be used: {message}; restore an earlier version of it, or follow docs/recovery.md")]
    Damaged {
        /// The control object.
        key: String,
        /// What is wrong with it.
        message: String,
    },
    /// See the text.
    #[error(
        "batches {} and {} both have rows in the table and both list {key}, so its records may be in the table twice; compare their rows as in docs/recovery.md and delete the list object of the one that is to go", .batches[0], .batches[1]
    )]
    LoadedTwice {
        /// The batches.
        batches: [BatchId; 2],
        /// An object of both.
        key: String,
    },
    /// See the text.
    #[error(
        "{key} is in the table already, in part at least, and no object in _spillway/batches/ lists it ({objects} such objects so far), so list objects are lost, too; restore them, or follow docs/recovery.md"
    )]
    Unlisted {
        /// The first one found.
        key: String,
        /// How many were found before the look-up was ended.
        objects: usize,
    },
    /// See the text.
    #[error(
        "it can't be told under which name the batches were loaded ({}); follow docs/recovery.md", .names.join(", ")
    )]
    Pipelines {
        /// The names found.
        names: Vec<String>,
    },
    /// See the text.
    #[error("inserts of the pipeline are still running at ClickHouse; stop the syncer and try again")]
    Running,
    /// See the text.
    #[error("control objects change while they are read; stop the syncer and try again")]
    Changing,
    /// The bucket.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// The server.
    #[error(transparent)]
    ClickHouse(#[from] ClickHouseError),
}

impl RebuildError {
    /// A short label for conditions.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Bucket(error) => error.reason(),
            Self::ClickHouse(error) => error.reason(),
            _ => "ManifestLost",
        }
    }
}

/// What was found and made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuilt {
    /// The pipeline's own name.
    pub pipeline: String,
    /// Epoch of the new manifest; the next syncer's is one higher.
    pub epoch: u64,
    /// Batches that may have been under way.
    pub open: usize,
    /// Batches whose objects were being deleted.
    pub inserted: usize,
    /// Batches that were done with.
    pub removed: usize,
    /// Batches that are not named any more, and why.
    pub dropped: Vec<(BatchId, String)>,
    /// Rows that the table holds of all these batches.
    pub rows: u64,
}

impl Rebuilt {
    /// Batches of which control objects were found.
    #[must_use]
    pub fn batches(&self) -> usize {
        self.open + self.inserted + self.removed + self.dropped.len()
    }
}

impl fmt::Display for Rebuilt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pipeline, epoch, open, inserted, removed, dropped, rows } = self;
        write!(
            f,
            "made a new manifest of pipeline {pipeline} from {} batches with {rows} rows in the table: {open} to be \
             settled, {inserted} being deleted, {removed} done with, {} dropped; epoch {epoch}",
            self.batches(),
            dropped.len()
        )?;
        dropped.iter().take(10).try_for_each(|(id, why)| write!(f, "; {id}: {why}"))
    }
}

fn why(why: &Why) -> String {
    match why {
        Why::ObjectsIn(other) => format!("it has no rows, and batch {other} has its objects"),
        Why::ObjectsGone => "it has no rows, and its objects are gone".to_owned(),
    }
}

/// Makes a lost manifest anew. `quiet_after`: how long an insert that was sent may yet take. That is waited for only
/// when batches are to be dropped.
///
/// # Errors
/// When a manifest is there, when something can't be decided safely, or bucket or server can't be asked: then nothing
/// was changed.
pub async fn rebuild(
    bucket: &Bucket,
    clickhouse: &ClickHouse,
    spec: &SchemaSpec,
    quiet_after: Duration,
) -> Result<Rebuilt, RebuildError> {
    let mut settled = false;
    for _ in 0..TRIES {
        if bucket.head(MANIFEST_KEY).await?.is_some() {
            return Err(RebuildError::Present);
        }
        let seen = match survey(bucket, clickhouse, spec, || PipelineUid(random())).await {
            // A syncer that is about to stop deletes what it has done with.
            Err(RebuildError::Changing) => continue,
            seen => seen?,
        };
        match decide(&seen.batches, settled) {
            Ok(fates) => {
                look_up(bucket, clickhouse, spec, |key| seen.listed.contains(&key_hash(key))).await?;
                failpoint("rebuilding");
                if survey::controls(bucket).await? == seen.controls {
                    return write(bucket, &seen, &fates).await;
                }
            }
            Err(Undecided::Wait) => {
                let seconds = quiet_after.as_secs();
                tracing::info!(seconds, "waiting until nothing that was under way can still arrive");
                tokio::time::sleep(quiet_after).await;
                if is_running(clickhouse, spec, &seen.pipeline).await? {
                    return Err(RebuildError::Running);
                }
                settled = true;
            }
            Err(Undecided::LoadedTwice { batches, key }) => {
                return Err(RebuildError::LoadedTwice { batches, key });
            }
        }
    }
    Err(RebuildError::Changing)
}

async fn write(
    bucket: &Bucket,
    seen: &Survey,
    fates: &std::collections::BTreeMap<BatchId, Fate>,
) -> Result<Rebuilt, RebuildError> {
    let Survey { pipeline, highest, batches, .. } = seen;
    let made = manifest(Parts {
        pipeline: pipeline.clone(),
        highest: *highest,
        batches,
        fates,
        unseen: UNSEEN_EPOCHS + rand::random_range(0..1_000_000),
        nonce: random(),
        window: DEDUPLICATION_WINDOW,
        now: UnixMs::now(),
    });
    let number = |wanted: &Fate| fates.values().filter(|fate| *fate == wanted).count();
    let dropped = fates.iter().filter_map(|(id, fate)| match fate {
        Fate::Dropped(reason) => Some((*id, why(reason))),
        _ => None,
    });
    let rebuilt = Rebuilt {
        pipeline: pipeline.0.clone(),
        epoch: made.epoch,
        open: number(&Fate::Open),
        inserted: number(&Fate::Inserted),
        removed: number(&Fate::Removed),
        dropped: dropped.collect(),
        rows: batches.values().map(|batch| batch.rows).sum(),
    };
    let body = made.to_bytes().map_err(|error| RebuildError::Damaged {
        key: MANIFEST_KEY.to_owned(),
        message: error.to_string(),
    })?;
    match bucket.swap(MANIFEST_KEY, None, body.into()).await? {
        Swap::Swapped(_) => Ok(rebuilt),
        Swap::Lost => Err(RebuildError::Present),
    }
}

fn random() -> String {
    format!("{:016x}", rand::random::<u64>())
}
