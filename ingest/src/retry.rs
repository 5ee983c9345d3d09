//! When a failed PUT is tried again. Pure; it is tried for ever.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);
/// The least pause after "slow down": S3 scales in seconds, not in milliseconds.
const SLOW_DOWN: Duration = Duration::from_secs(1);

/// What kind of failure it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// May be gone by itself the next moment.
    Transient,
    /// The store asks for fewer requests, perhaps saying for how long.
    SlowDown(Option<Duration>),
    /// Somebody has to do something: credentials, bucket, settings.
    NeedsHelp,
}

/// The pause before attempt number `attempt` (from 1) is repeated. `jitter` is 0 to 1: pods that failed
/// together must not come back together.
#[must_use]
pub fn pause(attempt: u32, failure: Failure, jitter: f64) -> Duration {
    let doubled = FIRST.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(LONGEST);
    let spread = doubled.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0));
    match failure {
        Failure::Transient => spread,
        Failure::SlowDown(asked) => spread.max(SLOW_DOWN).max(asked.unwrap_or_default().min(6 * LONGEST)),
        Failure::NeedsHelp => spread.max(SLOW_DOWN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_ten_seconds_and_spread() {
        let ms = |attempt, jitter| pause(attempt, Failure::Transient, jitter).as_millis();
        assert_eq!([ms(1, 1.0), ms(2, 1.0), ms(3, 1.0)], [100, 200, 400]);
        assert_eq!([ms(1, 0.0), ms(20, 0.0), ms(u32::MAX, 1.0)], [50, 5_000, 10_000]);
    }

    #[test]
    fn a_store_that_asks_for_time_gets_it() {
        let asked = Failure::SlowDown(Some(Duration::from_secs(7)));
        assert_eq!(pause(1, asked, 0.5), Duration::from_secs(7));
        assert_eq!(pause(1, Failure::SlowDown(None), 0.5), Duration::from_secs(1));
        let absurd = Failure::SlowDown(Some(Duration::from_secs(86_400)));
        assert_eq!(pause(1, absurd, 0.5), Duration::from_secs(60));
    }
}
