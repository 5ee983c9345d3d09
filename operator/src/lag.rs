//! What the syncer says of itself in `_spillway/status.json`, as the status of the pipeline shows it: rounded,
//! so that it changes seldom.

use std::time::Duration;

use spillway_crds::status::Backlog;
use spillway_model::time::UnixMs;
use spillway_syncer::{status::Status, work::WorkError};

/// The syncer writes every 10 s; after this long without one it is not at work.
pub(crate) const STALE: Duration = Duration::from_secs(120);

/// Seconds.
const LATE: f64 = 60.0;

/// What was read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Progress {
    pub(crate) backlog: Backlog,
    pub(crate) lag: String,
    /// Nothing is staged, planned or in flight.
    pub(crate) empty: bool,
    /// The file is older than [`STALE`].
    pub(crate) stale: bool,
    /// Records wait, and it may be for ClickHouse.
    pub(crate) held_up: bool,
    /// Why the syncer can't go on, in words for a person.
    pub(crate) trouble: Option<Trouble>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Trouble {
    pub(crate) fn is_lost_manifest(&self) -> bool {
        self.reason == MANIFEST_LOST
    }
}

const MANIFEST_LOST: &str = "ManifestLost";

/// Makes of the file what the status shows.
pub(crate) fn progress(status: &Status, now: UnixMs) -> Progress {
    let age = Duration::from_millis(u64::try_from(now.0.saturating_sub(status.at)).unwrap_or(0));
    let rows = status.backlog_records.saturating_add(status.in_flight_records);
    let empty = status.backlog_objects == 0 && status.in_flight_records == 0 && status.open_batches == 0;
    // A syncer that has stopped doesn't count its records' age on.
    let waited = if age > STALE && !empty { age.as_secs_f64() } else { 0.0 };
    let overdue = !empty && status.lag_seconds + waited >= LATE;
    Progress {
        backlog: Backlog {
            objects: rounded(status.backlog_objects),
            rows: rounded(rows),
            bytes: rounded(status.backlog_bytes),
        },
        lag: lag_text(if empty { 0.0 } else { status.lag_seconds + waited }),
        empty,
        stale: age > STALE,
        held_up: !empty && may_be_clickhouse(status, overdue, age > STALE),
        trouble: trouble(status, overdue),
    }
}

/// Whether ClickHouse may be why something waits. Only the newest failure is told, so a batch that stands still with it
/// counts as well, whatever that failure was.
fn may_be_clickhouse(status: &Status, overdue: bool, stale: bool) -> bool {
    if status.manifest_lost {
        return false;
    }
    let failed = status
        .last_error
        .as_ref()
        .is_some_and(|error| !WorkError::OF_OBJECTS.contains(&error.reason.as_str()));
    let stands = overdue && status.open_batches > 0 && status.loaded_per_second <= 0.0;
    stale || failed || stands
}

/// Whether what was read speaks of the syncer that is to run now. `idle_for`: how long ago none was to. An old file is one
/// from before until the new syncer has had the time to write: nobody has measured the lag meanwhile.
pub(crate) fn is_of_now(progress: &Progress, idle_for: Option<Duration>) -> bool {
    !progress.stale || idle_for.is_none_or(|ago| ago > STALE)
}

fn trouble(status: &Status, overdue: bool) -> Option<Trouble> {
    if status.manifest_lost {
        let message =
            "the syncer can't go on without its manifest; see BucketReady for what to do".to_owned();
        return Some(Trouble { reason: MANIFEST_LOST, message });
    }
    if status.server_at_fault {
        return Some(Trouble {
            reason: "ServerAtFault",
            message:
                "ClickHouse refuses every batch, so rows are held back; see its log and `spillway status`"
                    .to_owned(),
        });
    }
    let short = |text: &str| -> String { text.chars().take(300).collect() };
    if let Some((batch, why)) = status.stuck.iter().next() {
        let count = status.stuck.len();
        let message = format!("{count} batches can't go on by themselves, first {batch}: {}", short(why));
        return Some(Trouble { reason: "BatchStuck", message });
    }
    let error = status.last_error.as_ref().filter(|_| overdue && status.loaded_per_second <= 0.0)?;
    let message = format!("nothing is loaded at present, and it is tried again: {}", short(&error.message));
    Some(Trouble { reason: "NotLoading", message })
}

/// Two significant digits, rounded up so that something never looks like nothing.
pub(crate) fn rounded(number: u64) -> i64 {
    let mut unit = 1u64;
    while number / unit >= 100 {
        unit *= 10;
    }
    i64::try_from(number.div_ceil(unit).saturating_mul(unit)).unwrap_or(i64::MAX)
}

/// `<10s`, `45s`, `12m`, `3h`, `5d`: below ten seconds all is well, and the difference is not worth a write.
pub(crate) fn lag_text(seconds: f64) -> String {
    // Casts of floats saturate, NaN is 0.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let seconds = seconds.ceil() as u64;
    match seconds {
        0..10 => "<10s".to_owned(),
        10..100 => format!("{seconds}s"),
        100..6_000 => format!("{}m", seconds / 60),
        6_000..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", rounded(seconds / 86_400)),
    }
}

#[cfg(test)]
mod tests {
    use spillway_syncer::status::LastError;

    use super::*;

    #[test]
    fn numbers_keep_two_digits_and_something_is_never_nothing() {
        for (number, shown) in
            [(0, 0), (1, 1), (99, 99), (100, 100), (101, 110), (1_234, 1_300), (999_999, 1_000_000)]
        {
            assert_eq!(rounded(number), shown, "{number}");
        }
        assert!(rounded(u64::MAX) > 0);
    }

    #[test]
    fn a_lag_is_said_in_its_own_unit() {
        for (seconds, text) in [
            (0.0, "<10s"),
            (9.0, "<10s"),
            (9.5, "10s"),
            (99.0, "99s"),
            (150.0, "2m"),
            (7_200.0, "2h"),
            (400_000.0, "4d"),
            (f64::NAN, "<10s"),
        ] {
            assert_eq!(lag_text(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn a_syncer_that_stopped_with_a_backlog_falls_behind_by_the_clock() {
        let status = Status { at: 0, backlog_objects: 3, lag_seconds: 60.0, ..Status::default() };
        assert_eq!(progress(&status, UnixMs(5_000)).lag, "60s");
        let later = progress(&status, UnixMs(600_000));
        assert_eq!((later.lag.as_str(), later.stale, later.empty), ("11m", true, false));
    }

    #[test]
    fn an_old_file_speaks_of_a_new_syncer_only_when_that_had_time_to_write() {
        let (old, fresh) = (UnixMs(9_000_000), UnixMs(9_000));
        let status = Status { at: 0, backlog_objects: 3, lag_seconds: 60.0, ..Status::default() };
        for (now, idle_for, told) in [
            (old, None, true),
            (old, Some(0), false),
            (old, Some(120), false),
            (old, Some(121), true),
            (fresh, None, true),
            (fresh, Some(0), true),
        ] {
            let idle_for = idle_for.map(Duration::from_secs);
            assert_eq!(is_of_now(&progress(&status, now), idle_for), told, "{now:?} {idle_for:?}");
        }
    }

    #[test]
    fn an_idle_pipeline_has_no_lag_however_old_its_file() {
        let idle = progress(&Status { at: 0, lag_seconds: 3.0, ..Status::default() }, UnixMs(9_000_000));
        assert_eq!((idle.lag.as_str(), idle.empty), ("<10s", true));
        assert_eq!(idle.backlog, Backlog::default());
    }

    fn failure(reason: &str) -> LastError {
        LastError {
            at: UnixMs(0),
            step: "insert".to_owned(),
            reason: reason.to_owned(),
            message: "no route".to_owned(),
        }
    }

    #[test]
    fn clickhouse_is_suspected_of_what_it_may_have_held_up_and_of_nothing_else() {
        let (away, object) = (Some("Unreachable"), Some("ObjectUnreadable"));
        for (what, backlog_objects, open_batches, lag_seconds, failed, loaded_per_second, suspected) in [
            ("nothing waits", 0, 0, 90.0, away, 0.0, false),
            ("staged a moment ago", 1, 1, 2.0, None, 0.0, false),
            ("a failure", 1, 1, 2.0, away, 0.0, true),
            ("a failure before anything was planned", 1, 0, 2.0, away, 0.0, true),
            ("a failure amid a backlog that is worked off", 1, 1, 60.0, away, 5.0, true),
            ("a batch that stands", 0, 1, 60.0, None, 0.0, true),
            ("a batch that stood for less", 0, 1, 59.0, None, 0.0, false),
            ("an object that can't be read", 1, 0, 9_000.0, object, 0.0, false),
            ("such an object, and its last failure is long ago", 1, 0, 9_000.0, None, 0.0, false),
            ("such an object, while others are loaded", 1, 2, 9_000.0, object, 5.0, false),
            ("such an object, and others stand still", 1, 2, 9_000.0, object, 0.0, true),
        ] {
            let status = Status {
                backlog_objects,
                open_batches,
                lag_seconds,
                loaded_per_second,
                last_error: failed.map(failure),
                ..Status::default()
            };
            assert_eq!(progress(&status, UnixMs(0)).held_up, suspected, "{what}");
            // A syncer that waits for ClickHouse at its start writes nothing.
            let stale = progress(&status, UnixMs(200_000));
            assert_eq!(stale.held_up, !stale.empty, "{what}, stale");
            // It waits for its manifest.
            let lost = Status { manifest_lost: true, ..status };
            assert!(!progress(&lost, UnixMs(200_000)).held_up, "{what}, without a manifest");
        }
    }

    #[test]
    fn what_lies_with_an_object_is_known_by_the_syncers_names_for_it() {
        use spillway_syncer::batch::BatchId;
        let (batch, key, message) = (BatchId { epoch: 1, number: 1 }, String::new, String::new);
        let all = [
            WorkError::Unreadable { keys: Vec::new(), error: message() },
            WorkError::Vanished { key: key(), batch },
            WorkError::PartlyLoaded { keys: Vec::new() },
            WorkError::AllReturned(1),
            WorkError::Encode { batch, message: message() },
            WorkError::Control { key: key(), message: message() },
        ];
        for error in all {
            assert!(WorkError::OF_OBJECTS.contains(&error.reason()), "{error}");
        }
    }

    #[test]
    fn a_failure_is_trouble_when_nothing_is_loaded_for_a_minute() {
        for (objects, lag_seconds, failed, loaded_per_second, in_trouble) in [
            (0, 0.0, true, 0.0, false),
            (1, 2.0, true, 0.0, false),
            (1, 60.0, false, 0.0, false),
            (1, 60.0, true, 0.0, true),
            // A backlog that is being worked off.
            (1, 60.0, true, 5.0, false),
        ] {
            let status = Status {
                backlog_objects: objects,
                lag_seconds,
                loaded_per_second,
                last_error: failed.then(|| failure("Unreachable")),
                ..Status::default()
            };
            let said = progress(&status, UnixMs(0)).trouble.is_some_and(|trouble| {
                trouble.reason == "NotLoading" && trouble.message.contains("no route")
            });
            assert_eq!(said, in_trouble, "{status:?}");
        }
    }

    #[test]
    fn a_server_that_refuses_everything_is_trouble() {
        let status = Status { server_at_fault: true, ..Status::default() };
        assert_eq!(progress(&status, UnixMs(0)).trouble.map(|trouble| trouble.reason), Some("ServerAtFault"));
    }

    #[test]
    fn a_lost_manifest_is_the_first_thing_to_say() {
        let status = Status { manifest_lost: true, server_at_fault: true, ..Status::default() };
        assert!(progress(&status, UnixMs(0)).trouble.is_some_and(|trouble| trouble.is_lost_manifest()));
    }
}
