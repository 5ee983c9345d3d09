//! Reads dead-letter objects, and knows where their replays are noted.

use std::path::PathBuf;

use spillway_bucket::{Bucket, BucketError};
use spillway_model::{CodecError, RowError, object::DEAD_LETTER_DIR};
use spillway_schema::ClickHouseError;
use spillway_syncer::dead::{self, DeadLetter};

use crate::exit::Exit;

/// Where replays are noted, relative to the bucket's prefix.
const REPLAYS_DIR: &str = "_spillway/replays/";
const PAGE: usize = 1000;

/// Why dead letters can't be read or replayed.
#[derive(Debug, thiserror::Error)]
pub enum DeadLetterError {
    #[error(transparent)]
    Bucket(#[from] BucketError),
    #[error("ClickHouse can't be asked whether an earlier replay got there: {0}; try again when it can")]
    ClickHouse(#[from] ClickHouseError),
    #[error("{key} is no key of dead letters; take one from `spillway dead-letters list`")]
    NotAKey { key: String },
    #[error("there is no {key}; it may have expired")]
    Gone { key: String },
    #[error("{key} can't be read: {message}")]
    Damaged { key: String, message: String },
    #[error("can't read {path}: {source}")]
    Rows { path: PathBuf, source: std::io::Error },
    #[error(
        "row {number} of {place} can't be loaded as it is ({source}); write the rows with `dead-letters show --raw`, repair them, and give them with --rows"
    )]
    Row { place: String, number: usize, source: RowError },
    #[error("row {number} of {place} names a project or service that can't be one: {message}")]
    Name { place: String, number: usize, message: String },
    #[error("{key} was replayed before with other rows; what is staged can't be taken back")]
    OtherRows { key: String },
    #[error("the rows can't be encoded: {0}")]
    Encode(#[from] CodecError),
    #[error("the note of the replay can't be read or written: {0}")]
    Note(#[from] serde_json::Error),
    #[error("{key} holds something else already; this is a defect, please report it")]
    Taken { key: String },
}

impl DeadLetterError {
    /// How a command ends with it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::NotAKey { .. } | Self::Rows { .. } => Exit::Usage,
            Self::Bucket(_) | Self::ClickHouse(_) => Exit::Start,
            Self::Gone { .. }
            | Self::Damaged { .. }
            | Self::Row { .. }
            | Self::Name { .. }
            | Self::OtherRows { .. }
            | Self::Encode(_)
            | Self::Note(_)
            | Self::Taken { .. } => Exit::CheckFailed,
        }
    }
}

/// Keys of dead letters, oldest first.
pub async fn keys(bucket: &Bucket, date: Option<&str>) -> Result<Vec<String>, DeadLetterError> {
    let prefix = format!("{DEAD_LETTER_DIR}{}", date.unwrap_or_default());
    let (mut keys, mut after) = (Vec::new(), None);
    loop {
        let page = bucket.list(&prefix, after.as_deref(), PAGE).await?;
        keys.extend(page.objects.into_iter().map(|object| object.key));
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(keys),
        }
    }
}

/// The letters of one object.
pub async fn read(bucket: &Bucket, key: &str) -> Result<Vec<DeadLetter>, DeadLetterError> {
    check_key(key)?;
    let (body, _) = bucket.get(key).await?.ok_or_else(|| DeadLetterError::Gone { key: key.to_owned() })?;
    dead::decode(&body).map_err(|message| DeadLetterError::Damaged { key: key.to_owned(), message })
}

fn check_key(key: &str) -> Result<(), DeadLetterError> {
    let good = key.starts_with(DEAD_LETTER_DIR) && key.ends_with(".json.gz");
    if good { Ok(()) } else { Err(DeadLetterError::NotAKey { key: key.to_owned() }) }
}

/// Where the plan of an object's replay is kept.
pub fn plan_key(key: &str) -> String {
    format!("{REPLAYS_DIR}{}.json", name(key))
}

/// Exists once all of a plan's objects are staged.
pub fn done_key(key: &str) -> String {
    format!("{REPLAYS_DIR}{}.done.json", name(key))
}

fn name(key: &str) -> &str {
    key.trim_start_matches(DEAD_LETTER_DIR).trim_end_matches(".json.gz")
}
