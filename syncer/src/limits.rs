//! The times and counts by which the protocol runs. All are settable; the defaults stand in the settings.

use crate::flight::Millis;

/// See the module's text. Times in milliseconds.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Batches prepared and inserted at once.
    pub concurrency: usize,
    /// Batches that the manifest may name at once: keeps it small. More backlog stays unplanned.
    pub max_batches: usize,
    /// From "all rows confirmed" to the deletion of the objects.
    pub delete_grace: Millis,
    /// How long a removed batch's keys are remembered.
    pub tombstones: Millis,
    /// Longest time from sending an insert to its end at the server (client and server limits added up).
    pub insert_deadline: Millis,
    /// A writer with nothing to say still swaps the manifest this often.
    pub heartbeat: Millis,
    /// A manifest that stood still for so long has no writer.
    pub take_over_after: Millis,
    /// Size of the server's deduplication window, in parts.
    pub window: u64,
    /// First and longest pause before a failed step is tried again.
    pub retry_first: Millis,
    /// See `retry_first`.
    pub retry_most: Millis,
    /// Failed view repairs after which a batch is called stuck.
    pub stuck_after: u32,
    /// Pause between tries while a batch is stuck.
    pub stuck_retry: Millis,
    /// Refusals in a row, for no fault of the data, after which a batch is called stuck while others go on.
    pub refused_most: u32,
    /// Pieces of a batch that are cut before whole pieces are put aside: one bad row costs about 18, so
    /// dozens of them are found one by one.
    pub split_budget: u32,
    /// Batches refused one after the other, none accepted, that make it the server's fault.
    pub breaker: usize,
    /// Pause between listings while there is work, and the longest while there is none.
    pub list_busy: Millis,
    /// See `list_busy`.
    pub list_idle: Millis,
    /// Rows, raw bytes and objects of one batch, at most.
    pub batch_rows: u64,
    /// See `batch_rows`.
    pub batch_bytes: u64,
    /// See `batch_rows`.
    pub batch_objects: usize,
    /// A batch smaller than that is held back until its oldest object is so old.
    pub batch_age: Millis,
    /// Staged objects that are remembered between a listing and their planning, at most.
    pub queue: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            concurrency: 4,
            max_batches: 512,
            delete_grace: 30_000,
            tombstones: 20 * 60_000,
            insert_deadline: 90_000,
            heartbeat: 5_000,
            take_over_after: 20_000,
            window: 30_000,
            retry_first: 100,
            retry_most: 10_000,
            stuck_after: 5,
            stuck_retry: 30_000,
            refused_most: 10,
            split_budget: 1_000,
            breaker: 3,
            list_busy: 500,
            list_idle: 2_000,
            batch_rows: 200_000,
            batch_bytes: 128 << 20,
            batch_objects: 5_000,
            batch_age: 0,
            queue: 50_000,
        }
    }
}
