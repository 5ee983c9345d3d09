//! How often the table is asked before there is a verdict. Pure: times are since the last acknowledgement.

use std::time::Duration;

/// Between two looks at the table.
const PAUSE: Duration = Duration::from_millis(250);

/// What to do after a look at the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    LookAgainIn(Duration),
    /// The last look counts. So many acknowledged records came in after the time that was allowed.
    Enough {
        late: u64,
    },
}

/// Looks so far.
#[derive(Clone, Debug)]
pub struct Patience {
    late: Duration,
    patience: Duration,
    settle: Duration,
    /// What was missing at the last look that began within `late`, or else at the first one.
    missing_in_time: Option<u64>,
    /// Since when nothing is missing.
    complete: Option<Duration>,
}

impl Patience {
    /// What is missing after `late` is late, after `patience` missing. Once nothing is missing, a second copy has
    /// `settle` to show up.
    pub fn new(late: Duration, patience: Duration, settle: Duration) -> Self {
        Self { late, patience, settle, missing_in_time: None, complete: None }
    }

    /// After a look. `missing` is `None` when ClickHouse could not be asked.
    pub fn after(&mut self, began: Duration, ended: Duration, missing: Option<u64>) -> Next {
        if missing.is_some() && (began <= self.late || self.missing_in_time.is_none()) {
            self.missing_in_time = missing;
        }
        self.complete = match missing {
            Some(0) => self.complete.or(Some(ended)),
            Some(_) => None,
            None => self.complete,
        };
        let enough = match (missing, self.complete) {
            (Some(0), Some(since)) => began >= since + self.settle,
            // A look that failed says nothing new: the settling may end a little later than the patience.
            (None, Some(since)) => began >= since.max(self.patience) + self.settle,
            _ => began >= self.patience,
        };
        if enough {
            let late = self.missing_in_time.unwrap_or(0).saturating_sub(missing.unwrap_or(0));
            return Next::Enough { late };
        }
        // One look begins just when the rest is late.
        let to_late = self.late.checked_sub(ended).filter(|left| !left.is_zero());
        Next::LookAgainIn(to_late.map_or(PAUSE, |left| left.min(PAUSE)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Runs looks of no length until it is enough; `missing` says what each sees.
    fn run(missing: impl Fn(Duration) -> Option<u64>) -> (Duration, u64) {
        let mut patience = Patience::new(10 * SECOND, 60 * SECOND, 2 * SECOND);
        let mut now = Duration::ZERO;
        loop {
            match patience.after(now, now, missing(now)) {
                Next::Enough { late } => return (now, late),
                Next::LookAgainIn(pause) => now += pause,
            }
        }
    }

    #[test]
    fn what_is_complete_at_once_is_looked_at_again_after_the_settling() {
        assert_eq!(run(|_| Some(0)), (2 * SECOND, 0));
    }

    #[test]
    fn late_is_what_the_look_at_that_time_did_not_find_and_a_later_one_did() {
        let in_time = 10 * SECOND;
        for (comes, late) in [(in_time - SECOND / 8, 0), (in_time, 0), (in_time + SECOND / 8, 5)] {
            assert_eq!(run(|now| Some(if now < comes { 5 } else { 0 })).1, late, "{comes:?}");
        }
        // Three of them never come.
        assert_eq!(run(|now| Some(if now < 20 * SECOND { 5 } else { 3 })), (60 * SECOND, 2));
    }

    #[test]
    fn a_clickhouse_that_is_away_when_time_is_up_makes_nothing_come_in_time() {
        let away = 9 * SECOND..30 * SECOND;
        let seen = |now: Duration| (!away.contains(&now)).then_some(if now < away.end { 7 } else { 0 });
        assert_eq!(run(seen), (32 * SECOND, 7));
    }

    #[test]
    fn nothing_is_waited_for_without_end() {
        assert_eq!(run(|_| None), (60 * SECOND, 0));
        assert_eq!(run(|_| Some(1)), (60 * SECOND, 0));
        // Away just while it settles.
        assert_eq!(run(|now| (now < SECOND).then_some(0)).0, 62 * SECOND);
    }

    #[test]
    fn rows_that_go_again_are_missing() {
        assert_eq!(run(|now| Some(u64::from(now >= SECOND))), (60 * SECOND, 0));
    }
}
