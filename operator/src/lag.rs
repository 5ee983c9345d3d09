//! What the syncer says of itself in `_spillway/status.json`, as the status of the pipeline shows it: rounded,
//! so that it changes seldom.

use std::time::Duration;

use spillway_crds::status::Backlog;
use spillway_model::time::UnixMs;
use spillway_syncer::status::Status;

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
    /// Records wait after a failure, or for longer than loading ever takes them while all is well.
    pub(crate) late: bool,
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
        late: overdue || (!empty && status.last_error.is_some()),
        trouble: trouble(status, overdue),
    }
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
    fn an_idle_pipeline_has_no_lag_however_old_its_file() {
        let idle = progress(&Status { at: 0, lag_seconds: 3.0, ..Status::default() }, UnixMs(9_000_000));
        assert_eq!((idle.lag.as_str(), idle.empty), ("<10s", true));
        assert_eq!(idle.backlog, Backlog::default());
    }

    #[test]
    fn records_that_wait_for_a_minute_are_late() {
        let waiting = |lag_seconds| Status { backlog_objects: 1, lag_seconds, ..Status::default() };
        assert!(!progress(&waiting(59.0), UnixMs(0)).late);
        assert!(progress(&waiting(60.0), UnixMs(0)).late);
        assert!(!progress(&Status { lag_seconds: 90.0, ..Status::default() }, UnixMs(0)).late);
    }

    #[test]
    fn a_failure_makes_what_waits_late_at_once_and_is_trouble_when_nothing_is_loaded_for_a_minute() {
        let error = LastError {
            at: UnixMs(0),
            step: "insert".to_owned(),
            reason: "Unreachable".to_owned(),
            message: "no route".to_owned(),
        };
        for (objects, lag_seconds, failed, loaded_per_second, late, in_trouble) in [
            (0, 0.0, true, 0.0, false, false),
            (1, 2.0, false, 0.0, false, false),
            (1, 2.0, true, 0.0, true, false),
            (1, 60.0, false, 0.0, true, false),
            (1, 60.0, true, 0.0, true, true),
            // A backlog that is being worked off.
            (1, 60.0, true, 5.0, true, false),
        ] {
            let status = Status {
                backlog_objects: objects,
                lag_seconds,
                loaded_per_second,
                last_error: failed.then(|| error.clone()),
                ..Status::default()
            };
            let progress = progress(&status, UnixMs(0));
            let said = progress.trouble.is_some_and(|trouble| {
                trouble.reason == "NotLoading" && trouble.message.contains("no route")
            });
            assert_eq!((progress.late, said), (late, in_trouble), "{status:?}");
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
