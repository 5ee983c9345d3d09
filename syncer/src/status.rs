//! What the syncer says of itself in `_spillway/status.json`, for people and for the operator.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use spillway_model::time::UnixMs;

use crate::batch::BatchId;
use crate::manifest::Totals;

/// Key of the status, relative to the bucket's prefix.
pub const STATUS_KEY: &str = "_spillway/status.json";

/// See the module's text. Times are the writer's clock, in UTC milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// Format, 1.
    pub version: u32,
    /// When it was written.
    pub at: i64,
    /// Who wrote it: the pod's name, or the machine's.
    pub holder: String,
    /// The manifest's epoch and seq.
    pub epoch: u64,
    /// See `epoch`.
    pub seq: u64,
    /// Staged objects waiting to be planned, as far as the last listing saw.
    pub backlog_objects: u64,
    /// Records in them, as far as they are remembered.
    pub backlog_records: u64,
    /// Raw bytes in them, as far as they are remembered.
    pub backlog_bytes: u64,
    /// Records planned and not yet confirmed in the table.
    pub in_flight_records: u64,
    /// Batches planned and not yet confirmed.
    pub open_batches: u64,
    /// Age in seconds of the oldest record that is not yet confirmed in the table; 0: none waits.
    pub lag_seconds: f64,
    /// Records confirmed per second since the last status.
    pub loaded_per_second: f64,
    /// Batches that can't go on by themselves, and why.
    pub stuck: BTreeMap<BatchId, String>,
    /// Many batches are refused, none accepted: rows are held back instead of being put aside.
    pub server_at_fault: bool,
    /// The manifest is gone, and the syncer waits for it to be restored or made anew.
    pub manifest_lost: bool,
    /// Keys in the bucket that are no staged object's of this version; at most ten.
    pub foreign: Vec<String>,
    /// The newest failure, while anything fails.
    pub last_error: Option<LastError>,
    /// Totals per project since the pipeline began.
    pub totals: BTreeMap<String, Totals>,
}

/// A failure, tried again since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastError {
    /// When.
    pub at: UnixMs,
    /// What was tried.
    pub step: String,
    /// Short label.
    pub reason: String,
    /// What went wrong and what to do.
    pub message: String,
}
